"""Write the pages of docs/reference that are made from the code: `python -m tools.write_reference`.

`tests/test_docs.py` fails where a page differs from what the code says.
"""

from __future__ import annotations

import dataclasses
import importlib
import types
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from gymnast_core.config import StationConfig
from gymnast_core.field_docs import field_docs
from gymnast_core.reporting.tables import markdown
from gymnast_core.simulation.faults import fault_table
from gymnast_core.verb_examples import EXAMPLES
from gymnast_core.verbs import GROUPS, Verb
from tools.field_table import default_of, field_table, what_it_takes
from tools.message_table import messages_page

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "reference"
STATION = """\
# Every field of a station file

A station file is YAML. It describes one station: arm, camera, tasks, safety envelope, models, adaptation budget. Only
`name` and `tasks` are required. `robot_configs/` holds files to start from. An unknown field, a wrong type and a value
out of range are refused in one line that names the file, the field and what is allowed. `gymnast doctor --config FILE`
also checks what a file names: models, arm, judge.

Lengths are metres, angles radians, times seconds, rates hertz, unless a field says otherwise. This page is made from
the code by `python -m tools.write_reference`.
"""
FAULTS = """\
# Faults of the simulated station

The simulated station breaks as real ones do. A fault is written `kind`, or `kind:motor`. Motors are `waist`,
`shoulder`, `shoulder_shadow`, `elbow`, `elbow_shadow`, `forearm_roll`, `wrist_angle`, `wrist_rotate` and `gripper`; a
joint is one of the six of the arm.

By a service, at any time, in the place of those that are there (an empty name mends all):

    ros2 param set /wx250s/xs_sdk faults "['overload:elbow']"
    ros2 param set /wx250s/xs_sdk faults "['']"

By a schedule, in the station file; times are seconds since the graph was started, and 0 seconds last for good:

    simulation:
      scene: drawer
      faults:
      - {kind: read_failure, at: 60, seconds: 2}
      - {kind: "motor_error:shoulder_shadow", at: 90, seconds: 5}

At random times, for hours, with a count of what became of each: `gymnast soak --hours 8`.

This page is made from the code (`gymnast_core/simulation/faults.py`) by `python -m tools.write_reference`.
"""
COMMANDS = """\
# Every command and option

`gymnast VERB --help` prints the same for one verb. Every verb takes `--from FILE.yaml`, a file with options by their
names with underscores; an option of the command line overrides it. The `config.yaml` of an earlier run is such a file.

The exit code is 0 when a verb did what was asked, 1 when it did it and the answer is negative (the base policy is kept,
something is missing), 2 when its input was wrong, and 130 when it was interrupted. An error is one line that begins
with `error:` and says what to do. With `--json` a verb prints one JSON document to the standard output. Progress, notes
and errors go to the standard error. Where that is no terminal, progress is a line every 15 seconds.

`gymnast completion bash`, `zsh` or `fish` prints a script that completes verbs and options with the Tab key:

    gymnast completion bash > ~/.local/share/bash-completion/completions/gymnast
    gymnast completion zsh > "${fpath[1]}/_gymnast"
    gymnast completion fish > ~/.config/fish/completions/gymnast.fish

This page is made from the code by `python -m tools.write_reference`.
"""


def station_page() -> str:
    """The page on the station file: one table for each section, named by where it first stands in the file."""
    titles: dict[type[Any], str] = {StationConfig: ""}
    waiting = [StationConfig]
    while waiting:
        config = waiting.pop(0)
        for name, hint in get_type_hints(config, include_extras=True).items():
            for inner in _sections(hint):
                if inner not in titles:
                    above = f"{titles[config]}." if titles[config] else ""
                    titles[inner] = f"{above}{name}" + (".NAME" if get_origin(_bare(hint)) is dict else "")
                    waiting.append(inner)
    lines = [STATION.rstrip()]
    for config, title in titles.items():
        said = " ".join((config.__doc__ or "").split())
        lines += ["", f"## {title or 'The file'}", "", said, "", *field_table(config, titles)]
    return "\n".join(lines) + "\n"


def faults_page() -> str:
    """The page on the faults of the simulated station."""
    rows = [("fault", "where", "what happens", "what the station does")]
    rows += [(f"`{name}`", where, meaning, answer) for name, where, meaning, answer in fault_table()]
    return f"{FAULTS}\n{markdown(rows)}"


def _bare(kind: Any) -> Any:
    """A type without what is annotated to it."""
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def _sections(kind: Any) -> list[type[Any]]:
    """The dataclasses within a type."""
    if dataclasses.is_dataclass(kind):
        return [kind]  # type: ignore[list-item]
    inner = get_args(kind)[:1] if get_origin(kind) is Annotated else get_args(kind)
    return [one for part in inner for one in _sections(part)]


def commands_page() -> str:
    """The page on the command line: each verb with an example and its options."""
    lines = [COMMANDS.rstrip()]
    for title, group in GROUPS.items():
        lines += ["", f"## {title}"]
        for name, verb in group.items():
            lines += ["", f"### gymnast {name}", "", f"{verb.summary[0].upper()}{verb.summary[1:]}."]
            lines += ["", f"    {EXAMPLES[name]}", ""]
            if verb.recipe:
                lines += [f"Without `--from`, the options are those of `gymnast_core/{verb.recipe}`.", ""]
            if verb.result:
                lines += ["`--json` prints the result as JSON.", ""]
            rows = _option_rows(_options_of(verb), "")
            table = [("option", "takes", "default", "meaning"), ("---",) * 4, *rows]
            lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in table]
    return "\n".join(lines) + "\n"


def _options_of(verb: Verb) -> type[Any]:
    module, _, name = verb.options.partition(":")
    return getattr(importlib.import_module(module), name)


def _option_rows(config: type[Any], prefix: str) -> list[tuple[str, ...]]:
    """A row for each option; sections become `--section.option`. Raises: ValueError where one has no docstring."""
    hints, docs = get_type_hints(config, include_extras=True), field_docs(config)
    rows: list[tuple[str, ...]] = []
    for field in dataclasses.fields(config):
        hint = hints[field.name]
        marks = [str(mark) for mark in get_args(hint)[1:]] if get_origin(hint) is Annotated else []
        if any("Suppress" in mark for mark in marks):
            continue
        sections = [one for one in _sections(hint) if get_origin(hint) not in (Union, types.UnionType)]
        if sections:
            rows += _option_rows(sections[0], f"{prefix}{field.name}.")
            continue
        option = f"--{prefix}{field.name}".replace("_", "-")
        positional = any("Positional" in mark for mark in marks)
        if not docs.get(field.name):
            raise ValueError(f"{config.__module__}.{config.__name__}: no docstring below {field.name}")
        shown, takes = f"`{field.name.upper() if positional else option}`", what_it_takes(hint)
        aliases = [alias for mark in get_args(hint)[1:] for alias in getattr(mark, "aliases", None) or ()]
        shown = ", ".join([shown, *(f"`{alias}`" for alias in aliases)])
        if hint is bool:
            shown, takes = f"{shown}, `--{prefix}no-{field.name}`".replace("_", "-"), "nothing"
        rows.append((shown, takes, default_of(field), docs[field.name]))
    return rows


PAGES = {
    "station_file.md": station_page,
    "commands.md": commands_page,
    "messages.md": messages_page,
    "faults.md": faults_page,
}
"""File name below docs/reference -> what makes its text."""


def main() -> None:
    """Write every page."""
    for name, page in PAGES.items():
        (FOLDER / name).write_text(page(), encoding="utf-8")
        print(FOLDER / name)


if __name__ == "__main__":
    main()
