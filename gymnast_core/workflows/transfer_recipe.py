"""What the practices of a benchmark differ in: one language for all settings of a practice.

A recipe of the benchmark is a set of changes: to the station file, to the options of `gymnast adapt`, to the GRPO
recipe, and how many frames are captured before practice. A key says by itself which of them it belongs to.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from gymnast_core.config import StationConfig, dump_config, parse_config, read_mapping
from gymnast_core.errors import ConfigError, DocumentError
from gymnast_core.files import user_path, write_bytes
from gymnast_core.plain_yaml import parse_yaml
from gymnast_core.rl.adapt_config import AdaptConfig
from gymnast_core.rl.config import GRPOConfig, load_recipe
from gymnast_core.run_folder import refuse_other_options
from gymnast_core.station_file import StationFile, open_station

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,49}")
FILES = (".yaml", ".yml", ".json")
STATION, GRPO, OPTIONS = "station.yaml", "grpo.yaml", "recipe.yaml"
DECIDED = frozenset(
    ("frame", "index", "instruction", "position", "config", "run", "adapters", "keep_refused", "device", "seed", "name")
)
"""What the benchmark itself decides for every practice."""


@dataclass(frozen=True)
class Captures:
    """What is captured on the station before a practice."""

    frames: Annotated[int, Field(ge=1, le=1000)] = 1
    """Start frames of the task, each from a reset of its own."""
    rehearsal_frames: Annotated[int, Field(ge=0, le=1000)] = 0
    """Start frames of each other task, which practice mixes in (`gymnast adapt --rehearsal`)."""
    rehearsal_episodes: Annotated[int, Field(ge=0, le=1000)] = 0
    """Whole episodes of each other task, by the base on the station: their first frames are mixed in likewise, and the
    end of practice looks at all of their pictures (`consolidation_steps`)."""


@dataclass(frozen=True)
class TransferRecipe:
    """All settings of a practice. options: of `gymnast adapt`, those that are not left to the station file."""

    name: str
    captures: Captures
    station: StationConfig
    grpo: GRPOConfig
    options: Mapping[str, Any] = field(default_factory=dict)

    def store(self, folder: Path) -> StationFile:
        """Write what practices read into `folder`, and open it from there.

        Raises: ConfigError when the folder holds a recipe of this name with other settings.
        """
        parts = {
            STATION: self.station,
            GRPO: self.grpo,
            OPTIONS: Settings(**dataclasses.asdict(self.captures), adapt=dict(self.options)),
        }
        for name, part in parts.items():
            text = dump_config(part)
            if (folder / name).exists():
                then, now = _flat(read_mapping(folder / name)), _flat(parse_yaml(text))
                refuse_other_options(folder / name, then, {**dict.fromkeys(then), **now})
            write_bytes(folder / name, text.encode())
        return open_station(str(folder / STATION))


@dataclass(frozen=True)
class Settings:
    """What stands in a stored recipe beside the station file and the GRPO recipe."""

    frames: int
    rehearsal_frames: int
    rehearsal_episodes: int
    adapt: dict[str, Any]


def read_recipes(words: tuple[str, ...], station: StationFile) -> list[TransferRecipe]:
    """The recipes that words of the command line name, on top of a station file.

    Raises: ConfigError naming the recipe and the key, what was found and what is allowed.
    """
    recipes = [_read(word, station) for word in words]
    names = [recipe.name for recipe in recipes]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"recipes: found '{twice[0]}' twice; give each a name of its own (NAME:from=FILE)")
    return recipes


def _read(word: str, station: StationFile) -> TransferRecipe:
    name, changes = _changes(word)
    if not NAME.fullmatch(name):
        raise ConfigError(f"recipes: {name[:60]!r}: a name has letters, digits, '_', '.' and '-', 1 to 50 of them")
    source = f"recipe '{name}'"
    parts: dict[str, dict[str, Any]] = {"captures": {}, "station": {}, "options": {}, "grpo": {}}
    for key, value in changes.items():
        parts[_part_of(key, source)][key] = value
    captures = parse_config(Captures, parts["captures"], source)
    content = _merged(dataclasses.asdict(station.config), parts["station"])
    config = StationFile(station.path, parse_config(StationConfig, content, source)).portable()
    options = parts["options"]
    for key in ("rehearsal_frames", "rehearsal_episodes"):
        if getattr(captures, key) and options.get("rehearsal"):
            raise ConfigError(f"{source}: found rehearsal and {key}; needed one of them")
    checked = parse_config(AdaptConfig, {"frame": ("frame",), "instruction": "task", **options}, source)
    try:
        grpo = load_recipe(checked.recipe or config.adaptation.recipe, **parts["grpo"])
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from error
    plain = {key: value for key, value in options.items() if key != "recipe"}
    return TransferRecipe(name, captures, config, grpo, plain)


def _changes(word: str) -> tuple[str, dict[str, Any]]:
    """The name and the changes, in sections, of one word of the command line."""
    if word == "default":
        return word, {}
    name, colon, rest = word.partition(":")
    if not colon or user_path(word, "recipes").is_file():
        path = user_path(word, "recipes")
        if path.suffix not in FILES or not path.is_file():
            raise ConfigError(
                f"recipes: '{word}': no such file; needed default, a YAML file, or NAME:KEY=VALUE,KEY=VALUE"
            )
        return path.stem, read_mapping(path)
    changes: dict[str, Any] = {}
    for pair in re.split(r",(?![^\[]*\])", rest):  # a comma within a list parts no pairs
        key, equals, text = pair.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"recipe '{name}': found {pair!r}, needed KEY=VALUE")
        if key.strip() == "from":
            changes = _merged(read_mapping(user_path(text.strip(), "from")), changes)
            continue
        try:
            value = parse_yaml(text)
        except DocumentError as error:
            raise ConfigError(f"recipe '{name}': {key.strip()}: {error}") from error
        for part in reversed(key.strip().split(".")):
            value = {part: value}
        changes = _merged(changes, value)
    return name, changes


def _part_of(key: str, source: str) -> str:
    """What a key of the first level changes. Raises: ConfigError for one that nothing has."""
    known = {"captures": Captures, "station": StationConfig, "options": AdaptConfig, "grpo": GRPOConfig}
    if key in DECIDED:
        raise ConfigError(f"{source}: {key}: the benchmark decides it for every practice; leave it out")
    names = {part: [one.name for one in dataclasses.fields(cls)] for part, cls in known.items()}
    for part, own in names.items():
        if key in own:
            return part
    every = [name for own in names.values() for name in own if name not in DECIDED]
    near = difflib.get_close_matches(key, every, 3, 0.6)
    guess = f"; did you mean {' or '.join(near)}?" if near else ""
    raise ConfigError(
        f"{source}: unknown field '{key}'{guess}; allowed are {', '.join(names['captures'])}, the sections of a "
        "station file (adaptation.iterations), the options of `gymnast adapt` and the fields of a GRPO recipe"
    )


def _merged(content: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A mapping with the values of another one, section by section."""
    whole = dict(content)
    for key, value in changes.items():
        before = whole.get(key)
        both = isinstance(before, Mapping) and isinstance(value, Mapping)
        whole[key] = _merged(before, value) if both else value  # type: ignore[arg-type]
    return whole


def _flat(content: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """Values by dotted name."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        flat |= _flat(value, f"{where}{key}.") if isinstance(value, Mapping) else {f"{where}{key}": value}
    return flat
