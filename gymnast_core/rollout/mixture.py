"""Mixtures of starts: which folders a training begins in, and which share of its groups each of them gets.

A mixture is a YAML file. Its folders lie below one root, in WorldGym's layout:

    parts:
      originals: {share: 9, starts: originals/train, held_out: originals/test}
      distractors: {share: 1, starts: distractors/train, held_out: distractors/test}

Shares count relative to each other. `gymnast train --mixture` practises by it; `gymnast augment tasks` makes the
folders of those parts that list their instructions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
from pydantic import Field

from gymnast_core.config import Fraction, PathText, Positive, load_config
from gymnast_core.errors import ConfigError, DataError
from gymnast_core.files import user_path
from gymnast_core.policy.prompt import normalise_instruction
from gymnast_core.progress import say
from gymnast_core.protocols import Start
from gymnast_core.rollout.starts import find_starts
from gymnast_core.seeds import derive_seed

SHIPPED = Path(__file__).resolve().parent / "mixtures"
Folder = Annotated[PathText, Field(min_length=1)]


@dataclass(frozen=True)
class MixturePart:
    """One part of a mixture."""

    share: Positive
    """Of the groups of each batch, relative to the other parts."""
    starts: Folder
    """Folder of starts to train from, below the root."""
    held_out: PathText = ""
    """Folder of starts that are kept out of training, below the root; empty: none are."""
    held_out_share: Fraction = 0.2
    """Of the frames of each instruction, for `gymnast augment tasks`; with `held_out` alone."""
    instructions: tuple[str, ...] = ()
    """Only starts of these instructions; none: all in the folder."""


@dataclass(frozen=True)
class Mixture:
    """A mixture file."""

    parts: Annotated[dict[str, MixturePart], Field(min_length=1)]
    """By name."""


class Part(NamedTuple):
    """A part as it is drawn from: its name, how many starts it has, and its share, 0 to 1."""

    name: str
    size: int
    share: float


def load_mixture(name: str) -> Mixture:
    """A shipped mixture by name ("distract", "language", "scaled"), or a YAML file by path.

    Raises: ConfigError where there is none, a field is wrong, or an instruction is no prompt.
    """
    path = user_path(name, "mixture")
    if not path.is_file() and (shipped := SHIPPED / f"{name}.yaml").is_file():
        path = shipped
    if not path.is_file():
        known = ", ".join(sorted(one.stem for one in SHIPPED.glob("*.yaml")))
        raise ConfigError(f"mixture: found '{name}', which is no file; needed a path or one of: {known}")
    mixture = load_config(Mixture, path)
    for title, part in mixture.parts.items():
        try:
            listed = [normalise_instruction(text) for text in part.instructions]
        except DataError as error:
            raise ConfigError(f"{path}: parts.{title}.instructions: {error}") from error
        if twice := {text for text in listed if listed.count(text) > 1}:
            raise ConfigError(f"{path}: parts.{title}.instructions: found {min(twice)!r} twice; needed it once")
    return mixture


def read_mixture(mixture: Mixture, root: str, size: int | None = None) -> tuple[list[Start], list[Part]]:
    """The starts of all parts, one part after another, and the parts. An instruction that is listed and has no start is
    told, and its part goes on without it.

    size: side that frames are squashed to. Raises: DataError where a folder is missing, or a part has no start.
    """
    starts: list[Start] = []
    parts: list[Part] = []
    whole = sum(part.share for part in mixture.parts.values())
    for name, part in mixture.parts.items():
        folder = user_path(root) / part.starts
        wanted = {normalise_instruction(text): text for text in part.instructions}
        found = [start for _, start in find_starts(folder, size)]
        if wanted:
            found = [start for start in found if normalise_instruction(start.instruction) in wanted]
            there = {normalise_instruction(start.instruction) for start in found}
            if missing := [text for text in wanted if text not in there]:
                say(f"warning: {folder}: no start of {len(missing)} instructions: {'; '.join(missing)}", "yellow")
        if not found:
            raise DataError(f"{folder}: no start frame for the mixture's part '{name}'; fill it, or take it out")
        starts += found
        parts.append(Part(name, len(found), part.share / whole))
    return starts, parts


def counts_of(parts: Sequence[Part], count: int, seed: int, batch: int) -> list[int]:
    """How many of a batch's `count` starts each part gets: share times count, rounded down or up by chance, so that the
    expectation is exactly the share, in every batch.

    One draw decides all parts (systematic sampling), and it depends on seed and batch alone.
    """
    offset = np.random.default_rng(derive_seed(seed, "parts", batch)).random()
    ends = np.cumsum([part.share for part in parts])
    ends[-1] = 1.0
    reached = np.ceil(ends * count - offset).astype(int)
    return np.diff(reached, prepend=0).tolist()


def describe_parts(parts: Sequence[Part]) -> str:
    """Shares and starts, in words."""
    return ", ".join(f"{part.name} {part.share:.1%} ({part.size} starts)" for part in parts)
