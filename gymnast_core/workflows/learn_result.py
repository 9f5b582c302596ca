"""What a station's models have learned from its own episodes, and what the gate says of them before and after."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gymnast_core.files import is_number
from gymnast_core.world_model.fidelity import Fidelity

ALL = "all"
"""The figures over all instructions."""
PSNR, SHUFFLE = "psnr_", "action_shuffle"


@dataclass(frozen=True)
class GateFigures:
    """A world model's figures over some episodes, see `world_model.fidelity`; None where nothing could be measured.

    episodes: that were replayed. loop_episodes: that the base policy played, of which the bias is.
    """

    agreement: float | None = None
    agreement_error: float | None = None
    episodes: int = 0
    bias: float | None = None
    bias_error: float | None = None
    loop_episodes: int = 0

    def __str__(self) -> str:
        agreement, bias = "agreement not measured", "bias not measured"
        if self.agreement is not None:
            agreement = f"agreement {self.agreement:.2f} ± {self.agreement_error or 0.0:.2f} ({self.episodes} episodes)"
        if self.bias is not None:
            bias = f"bias {self.bias:+.2f} ± {self.bias_error or 0.0:.2f} ({self.loop_episodes} episodes)"
        return f"{agreement}, {bias}"


def figures_of(fidelity: Fidelity) -> dict[str, GateFigures]:
    """By instruction, and "all": of confirmed successes where these were measured."""
    replays = fidelity.confirmed or fidelity.replay
    found = {}
    for name in sorted({*replays, *fidelity.closed_loop}):
        replay, loop = replays.get(name), fidelity.closed_loop.get(name)
        found[name] = GateFigures(
            agreement=replay.agreement if replay else None,
            agreement_error=replay.standard_error if replay else None,
            episodes=replay.episodes if replay else 0,
            bias=loop.bias if loop else None,
            bias_error=loop.standard_error if loop else None,
            loop_episodes=loop.episodes if loop else 0,
        )
    return found


@dataclass(frozen=True)
class Pictures:
    """What imagined pictures of held-out episodes are worth.

    psnr: dB, by horizon in steps. action_shuffle: error on other episodes' actions over the error on their own; 1:
    actions are ignored; None where fewer than two episodes measured it.
    """

    psnr: dict[str, float]
    action_shuffle: float | None = None

    @classmethod
    def of(cls, result: Mapping[str, Any]) -> Pictures:
        """Of what `gymnast world-model evaluate` writes to result.json."""
        found = {name.removeprefix(PSNR): value for name, value in result.items() if name.startswith(PSNR)}
        shuffle = result.get(SHUFFLE)
        return cls(
            {name: float(value) for name, value in found.items() if is_number(value) and math.isfinite(value)},
            float(shuffle) if shuffle is not None and is_number(shuffle) else None,
        )

    @property
    def mean(self) -> float:
        """Mean PSNR over horizons, dB; 0 where nothing was measured."""
        return float(np.mean(list(self.psnr.values()) or [0.0]))

    def __str__(self) -> str:
        parts = [f"frame {name} {value:.1f} dB" for name, value in self.psnr.items()]
        shuffle = "-" if self.action_shuffle is None else f"{self.action_shuffle:.2f}"
        return ", ".join([*parts, f"action-shuffle ratio {shuffle}"])


@dataclass(frozen=True)
class JudgeFigures:
    """A judge's agreement with known outcomes, 0 to 1, and over how many episodes; None where it gave no verdict."""

    agreement: float | None
    standard_error: float | None
    episodes: int

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> JudgeFigures:
        """Of what `gymnast judge evaluate` writes to result.json."""
        return cls(facts.get("agreement"), facts.get("standard_error"), int(facts.get("judged", 0)))

    def __str__(self) -> str:
        if self.agreement is None:
            return "no verdict"
        return f"agreement {self.agreement:.2f} ± {self.standard_error or 0.0:.2f} ({self.episodes} episodes)"


@dataclass(frozen=True)
class Learned:
    """What was learned, written to result.json.

    station: the file that names the new models. episodes, successes: that taught, and how many of them succeeded.
    held_out: that measured. models: what was trained further, by what it is in the station file. before, after: the
    world model's figures by instruction, and "all", on the same held-out episodes. judges_before, judges_after: each
    learned judge's, likewise. skipped: what did not learn, and why. seconds: by step. tried: figures of the new world
    model, also where it was not kept. pictures: "before" and "after", of the new one. refused: what learned and is not
    used, as it did not become better, and why.
    """

    station: str
    episodes: int
    successes: int
    held_out: int
    models: tuple[str, ...]
    before: dict[str, GateFigures]
    after: dict[str, GateFigures]
    judges_before: dict[str, JudgeFigures] = field(default_factory=dict)
    judges_after: dict[str, JudgeFigures] = field(default_factory=dict)
    skipped: tuple[str, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    tried: dict[str, GateFigures] = field(default_factory=dict)
    pictures: dict[str, Pictures] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        none = GateFigures()
        return (
            f"learned from {self.episodes} episodes ({self.successes} successes): "
            f"{self.before.get(ALL, none)} -> {self.after.get(ALL, none)}"
        )
