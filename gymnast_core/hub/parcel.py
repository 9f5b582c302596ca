"""What a push would send of a folder: by its kind, only what others need to use it, and nothing that would leak."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePath
from typing import Any, Literal

from gymnast_core.contents import name_folder, one_line
from gymnast_core.data.formats import find_all
from gymnast_core.data.lerobot_dataset import INFO_FILE, OWN
from gymnast_core.errors import CheckpointError, ConfigError, DataError
from gymnast_core.files import files_of_folders, read_json
from gymnast_core.hub.leaks import PATH, WHOLE_PATH, find_leaks
from gymnast_core.hub_files import PICKLES, WEIGHTS, is_taken
from gymnast_core.hub_session import Kind
from gymnast_core.plain_json import parse_json
from gymnast_core.policy.adapter_state import EVIDENCE
from gymnast_core.policy.adapters import RECORD, AdapterStore
from gymnast_core.policy.checkpoint import fingerprint
from gymnast_core.policy.lora_files import CONFIG, TENSORS, read_lora_config
from gymnast_core.world_model.fidelity import fingerprint as world_model_fingerprint

Thing = Literal["dataset", "policy", "world_model", "adapter"]
WORDS: dict[Thing, str] = {
    "dataset": "data set",
    "policy": "policy",
    "world_model": "world model",
    "adapter": "adapter",
}
VERSION = "v3.0"
"""Of LeRobot data sets that are sent; its tag tells LeRobot which commit to read."""
SENT: dict[Thing, tuple[str, ...]] = {
    "dataset": ("meta/*", "data/*", "videos/*"),
    "policy": ("*.safetensors", "*.json", "tokenizer.model", "*.txt", "*.jinja"),
    "world_model": (
        *("config.json", "weights.safetensors", "familiarity.safetensors", "gate.json"),
        *("autoencoder/config.json", "autoencoder/weights.safetensors"),
    ),
    "adapter": (CONFIG, TENSORS, RECORD, EVIDENCE),
}
"""Which files are sent; of others in the folder a push says that it leaves them out."""
MADE_BY: Mapping[str, tuple[str, ...]] = {
    CONFIG: ("base_model_name_or_path",),
    "config.json": ("made_by", "_name_or_path"),
    "gymnast.json": (),
    "gate.json": ("judge", "data", "policy"),
    EVIDENCE: ("reason", "trials"),
}
"""Fields (none: all) that say what made the weights, by the file's name. Their paths are sent without folders."""
EPISODES = "meta/episodes/*.parquet"
MOST_LEAKS = 5


@dataclass(frozen=True)
class Parcel:
    """files: what is sent, by its path in the repository: a file, or content that was changed. left_out: other files of
    the folder. changed: what is sent otherwise than it lies here, in words."""

    thing: Thing
    folder: Path
    files: Mapping[str, Path | bytes]
    left_out: tuple[str, ...]
    changed: tuple[str, ...]

    @property
    def kind(self) -> Kind:
        """Of the repository."""
        return "dataset" if self.thing == "dataset" else "model"

    def read(self, name: str) -> dict[str, Any]:
        """A JSON file as it is sent; empty where it is not. Raises: CheckpointError."""
        content = self.files.get(name, b"{}")
        return dict(json.loads(content)) if isinstance(content, bytes) else read_json(content)

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(len(one) if isinstance(one, bytes) else one.stat().st_size for one in self.files.values())


def kind_of(folder: Path) -> Thing:
    """What a folder holds. Raises: ConfigError naming what it is instead."""
    if not folder.is_dir():
        raise ConfigError(f"folder: {folder}: no such folder")
    if (folder / INFO_FILE).exists():
        return "dataset"
    if (folder / CONFIG).exists():
        return "adapter"
    content = read_json(folder / "config.json") if (folder / "config.json").exists() else {}
    if content.get("kind") == "world_model":
        return "world_model"
    if "model_type" in content:
        return "policy"
    found = name_folder(folder) or "none of these"
    raise ConfigError(
        f"folder: {folder}: found {found}; needed a policy, an adapter, a world model, or a LeRobot data set (other "
        "episodes become one with `gymnast data convert`)"
    )


def pack(folder: Path, base: str = "") -> Parcel:
    """What a push sends. base: name of the base of an adapter, for its config.

    Raises: ConfigError, CheckpointError or DataError where the folder is incomplete, or something in it would leak.
    """
    thing = kind_of(folder)
    CHECKS[thing](folder)
    names = [
        Path(os.path.relpath(Path(place) / name, folder)).as_posix()
        for place, found in files_of_folders(folder)
        for name in found
    ]
    sent = [name for name in names if was_sent(thing, name)]
    files: dict[str, Path | bytes] = {}
    changed: list[str] = []
    for name in sent:
        content, words = _prepared(folder / name, name, base if thing == "adapter" else "")
        files[name] = content
        changed += words
    leaks = list(dict.fromkeys(leak for name, content in files.items() for leak in find_leaks(name, content)))
    if leaks:
        more = f" (and {len(leaks) - 1} more: {'; '.join(leaks[1:MOST_LEAKS])})" if len(leaks) > 1 else ""
        raise DataError(f"{folder}: nothing was sent: {leaks[0]}{more}")
    left_out = tuple(name for name in names if name not in files and name != "README.md")
    return Parcel(thing, folder, files, left_out, tuple(changed))


def was_sent(thing: Thing, name: str) -> bool:
    """Whether a push of this kind sends a file of this name; so it is one that an earlier push sent."""
    if (thing == "policy" and "/" in name) or not is_taken(name, "dataset" if thing == "dataset" else "model"):
        return False
    return any(fnmatchcase(name, pattern) for pattern in SENT[thing])


def _prepared(path: Path, name: str, base: str) -> tuple[Path | bytes, list[str]]:
    """A file as it is sent, and what differs, in words."""
    if fnmatchcase(name, EPISODES):
        return _prepared_table(path, name)
    fields = MADE_BY.get(PurePath(name).name)
    if fields is None:
        return path, []
    content = read_json(path)
    words: list[str] = []
    if base and name == CONFIG and content.get(fields[0]) != base:
        content[fields[0]] = base
        words.append(f"{name}: {fields[0]} is sent as '{base}'")
    for key in fields or tuple(content):
        if key in content:
            content[key] = _without_folders(content[key], f"{name}: {key}", words)
    return (json.dumps(content, indent=1).encode(), words) if words else (path, [])


def _prepared_table(path: Path, name: str) -> tuple[Path | bytes, list[str]]:
    """A table of episodes, with the metadata of each as they are sent: they name the station file by its whole path."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table, column = pq.ParquetFile(path).read(), f"{OWN}metadata"
    if column not in table.column_names:
        return path, []
    words: list[str] = []
    texts = [
        text and json.dumps(_without_folders(parse_json(text), f"{name}: {column}", words))
        for text in table.column(column).to_pylist()
    ]
    place = table.column_names.index(column)
    changed = table.set_column(place, table.schema.field(column), pa.array(texts, table.schema.field(column).type))
    stream = io.BytesIO()
    pq.write_table(changed, stream, write_page_checksum=True)
    return (stream.getvalue(), list(dict.fromkeys(words))) if words else (path, [])


def _without_folders(value: Any, place: str, words: list[str]) -> Any:
    """The same, with each path of this machine cut to its last part."""
    if isinstance(value, dict):
        return {key: _without_folders(inner, f"{place}.{key}", words) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_folders(inner, f"{place}.{number}", words) for number, inner in enumerate(value)]
    if not isinstance(value, str):
        return value
    if WHOLE_PATH.fullmatch(value):
        short = PurePath(value).name
    else:
        short = PATH.sub(lambda found: found.group().replace("\\", "/").rstrip("/").rpartition("/")[2], value)
    if short != value:
        words.append(f"{place} is sent as '{one_line(short, 60)}'")
    return short


def _check_dataset(folder: Path) -> None:
    version = read_json(folder / INFO_FILE).get("codebase_version")
    if version != VERSION:
        raise DataError(
            f"{folder / INFO_FILE}: codebase_version: found '{one_line(str(version), 20)}', needed '{VERSION}'; "
            f"`gymnast data convert {folder} --to lerobot --out FOLDER` writes it anew"
        )
    find_all(folder)


def _check_policy(folder: Path) -> None:
    _check_weights(folder)
    fingerprint(folder)


def _check_world_model(folder: Path) -> None:
    world_model_fingerprint(folder)
    named = read_json(folder / "config.json").get("autoencoder")
    if not named and not (folder / "autoencoder" / "weights.safetensors").exists():
        raise CheckpointError(f"{folder}: autoencoder/weights.safetensors is missing")


def _check_adapter(folder: Path) -> None:
    read_lora_config(folder)
    AdapterStore(folder.parent).read(folder.name)
    if not (folder / TENSORS).exists():
        found = next((name for name in sorted(os.listdir(folder)) if name.endswith(PICKLES)), "no weights")
        raise CheckpointError(f"{folder}: found {found}, needed {TENSORS}")


def _check_weights(folder: Path) -> None:
    if not any(folder.glob(f"*{WEIGHTS}")):
        found = next((name for name in sorted(os.listdir(folder)) if name.endswith(PICKLES)), "no weights")
        raise CheckpointError(f"{folder}: found {found}, needed weights as {WEIGHTS}")


CHECKS: dict[Thing, Callable[[Path], None]] = {
    "dataset": _check_dataset,
    "policy": _check_policy,
    "world_model": _check_world_model,
    "adapter": _check_adapter,
}
