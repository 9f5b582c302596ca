"""A station file: found by path or name, read once, every path and device in it resolved once."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gymnast_core.config import PACKAGE_ROOT, JudgeConfig, StationConfig, find_model, load_config, parse_config
from gymnast_core.errors import ConfigError
from gymnast_core.files import user_path
from gymnast_core.hub_names import is_hub_name


def find_station_file(name: str | os.PathLike[str]) -> Path:
    """A station file: as given, or by name among the shipped ones ("simulated_drawer").

    Raises: ConfigError listing the shipped names.
    """
    given = user_path(name)
    if given.is_file():
        return given.resolve()
    folders = [PACKAGE_ROOT.parent / "robot_configs"]
    folders += [prefix / "share" / "gymnast" / "robot_configs" for prefix in ament_prefixes("gymnast")]
    known: list[str] = []
    for folder in folders:
        for candidate in (folder / given.name, folder / f"{given.name}.yaml"):
            if candidate.is_file() and given.parent in (Path("."), Path("robot_configs")):
                return candidate.resolve()
        known += [path.stem for path in sorted(folder.glob("*.yaml"))]
    raise ConfigError(f"station file '{name}' not found; give a path or one of: {', '.join(dict.fromkeys(known))}")


def ament_prefixes(package: str) -> list[Path]:
    """Install prefixes of a ROS package, from AMENT_PREFIX_PATH's resource index; empty when it is not installed."""
    prefixes = [Path(p) for p in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p]
    marker = Path("share", "ament_index", "resource_index", "packages", package)
    return [prefix for prefix in prefixes if (prefix / marker).is_file()]


NO_PATHS = frozenset(("device", "kind", "dtype", "scale", "frames_as", "base_url", "unnorm_key", "model", "reset"))
"""Fields of a station file whose text names no file, whatever lies in the working directory."""


@dataclass(frozen=True)
class StationFile:
    """A station's config with the file it came from: what it names is looked up beside it, here and nowhere else.

    Each property raises ConfigError where this machine lacks what the file names.
    """

    path: Path
    config: StationConfig

    @property
    def policy_folder(self) -> Path:
        """The policy's checkpoint."""
        return find_model(self.config.models.policy, self.path)

    @property
    def world_model_folder(self) -> Path:
        """The world model's checkpoint: a folder, or WorldGym's file."""
        return find_model(self.config.models.world_model, self.path)

    @property
    def second_world_model_folder(self) -> Path:
        """The checkpoint of the world model that confirms successes. Raises: ConfigError, also where none is named."""
        name = self.config.models.second_world_model
        if not name:
            raise ConfigError(
                f"{self.path}: models.second_world_model: found none; name a world model that was trained apart, or "
                "practise without it (recipe: `confirm.second: false`)"
            )
        return find_model(name, self.path)

    @property
    def device(self) -> str:
        """ "cpu" or "cuda...": "auto" takes a GPU where there is one."""
        from gymnast_core.device import choose_device  # torch is imported for it

        return choose_device(self.config.models.device)

    def on_device(self, device: str) -> StationFile:
        """The station with its models on another device."""
        models = dataclasses.replace(self.config.models, device=device)
        return dataclasses.replace(self, config=dataclasses.replace(self.config, models=models))

    def portable(self) -> StationConfig:
        """The config for a file that lies elsewhere: what is found beside this one is named by its whole path."""

        def whole(value: Any) -> Any:
            if isinstance(value, dict):
                return {key: inner if key in NO_PATHS else whole(inner) for key, inner in value.items()}
            if not isinstance(value, str) or not value or is_hub_name(value):
                return value
            places = (user_path(value), self.path.parent / value)
            return next((str(place.resolve()) for place in places if place.exists()), value)

        content = dataclasses.asdict(self.config)
        content |= {
            section: whole(content[section])
            for section in ("models", "judge", "adaptation", "evaluation", "simulation")
        }
        # Adapters are kept below the working directory, in a folder that may come to be later.
        content["models"]["adapters"] = str(user_path(self.config.models.adapters, "models.adapters").resolve())
        return parse_config(StationConfig, content, str(self.path))


def open_station(name: str, policy: str = "", world_model: str = "", judge: str = "", device: str = "") -> StationFile:
    """Read a station file; model folders that are given replace the file's. Raises: ConfigError."""
    path = find_station_file(name)
    station = load_config(StationConfig, path)
    models = station.models
    models = dataclasses.replace(
        models,
        policy=policy or models.policy,
        world_model=world_model or models.world_model,
        device=device or models.device,
    )
    judging = JudgeConfig(kind="classifier", checkpoint=judge) if judge else station.judge
    return StationFile(path, dataclasses.replace(station, models=models, judge=judging))
