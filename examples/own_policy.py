"""A policy of your own: what it must have, and how to measure it on the simulated station.

    python examples/own_policy.py            # 10 trials of "close the drawer"

`models.policy` of a station file takes a checkpoint folder, a file of actions or the address of a policy server. To let
a policy like this one drive the arm, put it behind a server: docs/how-to/policy.md, "Other policies".
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np

from gymnast_core.estimates import success_rate
from gymnast_core.rollout.starts import station_starts
from gymnast_core.rollout.trials import run_trials
from gymnast_core.simulation.environment import StationEnvironment
from gymnast_core.station_file import open_station

LOWER, PUSH = [0, -0.035, -0.04, 0, 0, 0, 1], [0, 0.04, 0, 0, 0, 0, 1]
"""Each is one step: dx, dy, dz in metres, three turns in radians, and the gripper (1 = open)."""


class PushForward:
    """Lowers the hand in front of the drawer, then pushes, whatever the camera shows."""

    chunk_length = 3
    """Number of actions in one answer."""

    def restart(self) -> None:
        """A new episode begins. Only a policy with a memory needs this method."""
        self.answers = 0

    def act(self, frames: np.ndarray, instructions: Sequence[str]) -> np.ndarray:
        """Actions (N, 3, 7) for frames (N, H, W, 3) uint8 RGB of N rollouts, each with its instruction."""
        self.answers += 1
        action = LOWER if self.answers == 1 else PUSH
        return np.tile(np.array(action, np.float32), (len(frames), self.chunk_length, 1))


def main(trials: int = 10) -> None:
    station = open_station("simulated_drawer").config
    starts = station_starts(station, ["close_drawer"], trials, seed=0)
    done = run_trials(PushForward(), StationEnvironment(station, max_rollouts=1), starts, max_steps=30)
    print(f"close the drawer: success {success_rate([trial.success for trial in done])}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
