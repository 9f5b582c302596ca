"""`gymnast completion SHELL`: a script that lets a shell complete verbs and options with the Tab key.

tyro, which reads the options, writes the script; here the verbs are given to it as one tree of subcommands.
"""

from __future__ import annotations

import dataclasses
import importlib
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_type_hints

import tyro

from gymnast_core.field_docs import field_docs
from gymnast_core.verbs import VERBS, Verb

SHORT: Any = tyro.conf.OmitSubcommandPrefixes
"""A subcommand is called by its name alone."""


@dataclass(frozen=True)
class CompletionConfig:
    """Print a script that completes `gymnast` in a shell."""

    shell: tyro.conf.Positional[Literal["bash", "zsh", "fish"]]
    """The shell that you use."""


def completion(config: CompletionConfig) -> int:
    """Print the script; returns 0."""
    words = ["--tyro-write-completion", config.shell, "-"]
    try:
        tyro.cli(SHORT[_tree()], prog="gymnast", args=words)
    except SystemExit as end:  # tyro ends by it
        return int(end.code or 0)
    return 1


def _tree() -> Any:
    """A type whose subcommands are all verbs: `judge train` is a subcommand of `judge`."""
    things: dict[str, dict[str, Verb]] = {}
    for name, verb in VERBS.items():
        thing, _, rest = name.partition(" ")
        things.setdefault(thing, {})[rest] = verb
    branches = []
    for thing, own in things.items():
        alone = own.pop("", None)
        leaves = [_branch(name, _described(verb), verb.summary) for name, verb in own.items()]
        summary = alone.summary if alone else ", ".join(own)
        kind = _described(alone) if alone else object
        if leaves:
            nothing = [_branch("", None, "")] if alone else []
            follows = SHORT[_either([*leaves, *nothing])]
            default = [None] if alone else []
            kind = dataclasses.make_dataclass(
                thing, [("then", follows, *default)], bases=(kind,), kw_only=True, frozen=True
            )
        branches.append(_branch(thing, kind, summary))
    return _either(branches)


def _branch(name: str, kind: Any, summary: str) -> Any:
    return Annotated[kind, tyro.conf.subcommand(name, description=summary)]


def _either(kinds: list[Any]) -> Any:
    return Union[tuple(kinds)]  # noqa: UP007 - of a list


def _described(verb: Verb) -> Any:
    """The verb's options with the first line of what is said of each: a completion has one line."""
    module, _, name = verb.options.partition(":")
    config = getattr(importlib.import_module(module), name)
    hints, docs = get_type_hints(config, include_extras=True), field_docs(config)
    fields = []
    for one in dataclasses.fields(config):
        words = docs.get(one.name, "").split(". ")[0].removesuffix(".")
        default = dataclasses.field(default=one.default, default_factory=one.default_factory)  # type: ignore[call-overload]
        fields.append((one.name, Annotated[hints[one.name], tyro.conf.arg(help=words)], default))
    return dataclasses.make_dataclass(name, fields, frozen=True, kw_only=True)
