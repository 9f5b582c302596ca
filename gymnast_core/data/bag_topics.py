"""`gymnast data topics`: what others' bags hold, and which of their topics make an episode (`bags.yaml`)."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from gymnast_core.config import BagConfig, StationConfig, dump_config, load_config
from gymnast_core.data.bag_episodes import SETTINGS_FILE, bags_in, plan_of, settings_file
from gymnast_core.data.bag_reader import Bag
from gymnast_core.errors import ConfigError, DataError
from gymnast_core.files import files_of_folders, user_path, write_bytes
from gymnast_core.progress import say
from gymnast_core.station_file import find_station_file


@dataclass(frozen=True)
class TopicsConfig:
    """List the topics of bags, and write down which of them make an episode."""

    folder: Annotated[str, tyro.conf.Positional]
    """A bag, or a folder of bags. `bags.yaml` is written there; a single file has it beside it."""
    config: str = ""
    """Station file whose section `bags` names the topics; the options below take the place of what it says."""
    bags: BagConfig = field(default_factory=BagConfig)
    """Which topic holds what."""
    json: bool = False
    """Print the topics as one JSON object, and do nothing else."""


def topics(config: TopicsConfig) -> int:
    """Print a line for each topic. Where topics are named, read every bag by them and write `bags.yaml`."""
    root = user_path(config.folder)
    found = _bags(root)
    if config.json:
        print(json.dumps({"bags": [_described(path) for path in found]}))
        return 0
    for path in found:
        _list(path)
    folder = root if root.is_dir() else root.parent
    settings, known = _settings(config), settings_file(folder)
    if settings is None and known is None:
        say(f"name the topics to make episodes of them: gymnast data topics {config.folder} --bags.actions TOPIC ...")
        return 0
    settings = settings or load_config(BagConfig, known or "")
    if known is not None and load_config(BagConfig, known) != settings:
        raise ConfigError(f"{known}: holds other settings; change them there, or remove the file")
    _check(found, settings)
    if known is None:
        write_bytes(folder / SETTINGS_FILE, dump_config(settings).encode())
        say(f"wrote {folder / SETTINGS_FILE}")
    for path in found:
        if settings_file(path if path.is_dir() else path.parent) is None:
            say(f"warning: {path}: lies too deep below {folder}; name its topics nearer to it", "yellow")
    return 0


def _described(path: Path) -> dict[str, Any]:
    """A bag's topics with their types, messages and rates (Hz, null where unknown), or why it cannot be read."""
    try:
        with Bag(path) as bag:
            topics = [
                {"name": name, "type": kind, "messages": count, "hz": _rate(count, bag.seconds)}
                for name, (kind, count) in bag.topics.items()
            ]
    except DataError as error:
        return {"path": str(path), "topics": [], "error": str(error)}
    return {"path": str(path), "topics": topics, "error": ""}


def _list(path: Path) -> None:
    """A line for each topic of a bag."""
    say(f"{path}", "bold")
    found = _described(path)
    for one in found["topics"]:
        rate = f", about {one['hz']:.3g} Hz" if one["hz"] is not None else ""
        say(f"  {one['name']}  {one['type']}  {one['messages']} messages{rate}")
    if found["error"]:
        say(f"warning: {found['error']}", "yellow")


def _bags(root: Path) -> list[Path]:
    """Every bag at or below a path. Raises: DataError where there is none."""
    if root.is_file():
        return [root]
    found = [bag for folder, names in files_of_folders(root) for bag in bags_in(folder, names)]
    if not found:
        raise DataError(f"{root}: found no bag; needed a rosbag2 folder, X.mcap or X.db3")
    return found


def _settings(config: TopicsConfig) -> BagConfig | None:
    """What the options and the station file say; None where they say nothing."""
    plain = BagConfig()
    said = {
        part.name: value
        for part in dataclasses.fields(BagConfig)
        if (value := getattr(config.bags, part.name)) != getattr(plain, part.name)
    }
    station = load_config(StationConfig, find_station_file(config.config)).bags if config.config else plain
    settings = dataclasses.replace(station, **said)
    return None if settings == plain else settings


def _check(bags: list[Path], settings: BagConfig) -> None:
    """Read each bag by the settings and say what came of it. Raises: DataError where none can be read."""
    failed: DataError | None = None
    read = 0
    for path in bags:
        try:
            plan = plan_of(path, settings)
        except DataError as error:
            failed = failed or error
            say(f"warning: {error}", "yellow")
            continue
        read += 1
        left_out = f", {plan.left_out} actions at its ends left out" if plan.left_out else ""
        say(f"{path}: {len(plan.actions)} steps of {1 / settings.rate_hz:g} s, frames from {plan.camera}{left_out}")
    if failed is not None and not read:
        raise failed


def _rate(count: int, seconds: float) -> float | None:
    return (count - 1) / seconds if count > 1 and seconds > 0 else None
