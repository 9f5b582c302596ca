"""The meters of hallucination, read off replays of logged actions."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch

from gymnast_core.protocols import Start
from gymnast_core.rollout.replay import padded
from gymnast_core.seeds import derive_seed
from gymnast_core.world_model.environment import WorldModelEnvironment
from gymnast_core.world_model.meters import NOISE, of_rollout, read_meters, spread


class Metering:
    """Reads the meters of what was just replayed in `environment`, and replays it once more with other noise."""

    def __init__(self, environment: WorldModelEnvironment) -> None:
        self._environment = environment

    def __call__(self, starts: Sequence[Start], actions: Sequence[np.ndarray]) -> list[dict[str, float]]:
        """For each rollout its readings by meter, over its own steps; actions[i]: (T_i, 7)."""
        imagination = self._environment.imagination
        readings = read_meters(imagination)
        first = torch.stack(imagination.latents, dim=1)
        again = [dataclasses.replace(start, seed=derive_seed(start.seed, "meter")) for start in starts]
        self._environment.reset(again)
        self._environment.step(padded(actions))
        readings[NOISE] = spread((first, torch.stack(imagination.latents, dim=1)))
        return [
            {name: of_rollout(values[row], len(one)) for name, values in readings.items()}
            for row, one in enumerate(actions)
        ]
