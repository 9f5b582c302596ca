"""What a station's models have learned from its own episodes, and what the gate says of them before and after."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gymnast_core.world_model.fidelity import Fidelity


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
    learned judge's, likewise. skipped: what did not learn, and why. seconds: by step.
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

    def __str__(self) -> str:
        none = GateFigures()
        return (
            f"learned from {self.episodes} episodes ({self.successes} successes): "
            f"{self.before.get('all', none)} -> {self.after.get('all', none)}"
        )
