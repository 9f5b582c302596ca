"""Options of confirmed success."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field

Metres = Annotated[float, Field(ge=-0.05, le=0.05, allow_inf_nan=False)]


@dataclass(frozen=True)
class ConfirmationConfig:
    """What a success in imagination must survive to count; what does not survive is neither success nor failure."""

    noises: Annotated[int, Field(ge=0, le=8)] = 0
    """Replays of the same actions in the same world model, each with other noise."""
    second: bool = False
    """A replay in the station's second world model (`models.second_world_model`)."""
    retreat: Annotated[int, Field(ge=0, le=20)] = 0
    """Steps in which the arm clears the view at the end of each replay; the judge then sees only these frames. They
    count as imagined steps: the world model must be good for that many steps more."""
    retreat_step: tuple[Metres, Metres, Metres] = (0.0, 0.0, 0.02)
    """One step of that retreat: x y z, metres along the base axes, with an open gripper."""
    meters: bool = False
    """Rollouts whose meters of hallucination exceed their calibrated limits count as nothing, success or failure
    (`gymnast world-model evaluate` calibrates them)."""

    @property
    def replays(self) -> bool:
        """Whether successes are played again at all."""
        return self.noises > 0 or self.second

    def retreat_actions(self) -> np.ndarray | None:
        """(R, 7) float32 actions, Bridge convention; None without a retreat."""
        if not self.retreat:
            return None
        return np.tile(np.array([*self.retreat_step, 0.0, 0.0, 0.0, 1.0], np.float32), (self.retreat, 1))

    def describe(self) -> str:
        """In words, as figures are labelled with; empty where a success counts as it is."""
        parts = [f"{self.noises} other noise" if self.noises else "", "second world model" if self.second else ""]
        if self.replays and self.retreat:
            x, y, z = self.retreat_step
            parts.append(f"after a retreat of {self.retreat} steps by {x:g} {y:g} {z:g} m")
        parts.append("meters" if self.meters else "")
        return ", ".join(part for part in parts if part)
