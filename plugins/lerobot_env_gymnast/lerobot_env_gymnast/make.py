"""LeRobot's own entry for environments that come with a function: one set of vector environments for each task."""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium

from gymnast_core.station_file import open_station
from lerobot_env_gymnast.config import GymnastEnv


def make_env(
    n_envs: int = 1, use_async_envs: bool = False, cfg: GymnastEnv | None = None
) -> dict[str, dict[int, gymnasium.vector.VectorEnv[Any, Any, Any]]]:
    """{"gymnast": {number of the task, by name: `n_envs` environments side by side}}.

    cfg: None: every task of the simulated drawer. use_async_envs: each environment in a process of its own.

    Raises: ValueError for fewer than one environment.
    """
    if n_envs < 1:
        raise ValueError(f"n_envs: found {n_envs}, needed at least 1")
    configs = [cfg] if cfg else [GymnastEnv(task=task) for task in sorted(open_station(GymnastEnv.config).config.tasks)]
    vector = gymnasium.vector.AsyncVectorEnv if use_async_envs else gymnasium.vector.SyncVectorEnv
    made = [[partial(gymnasium.make, one.gym_id, **one.gym_kwargs)] * n_envs for one in configs]
    return {"gymnast": {number: vector(makers) for number, makers in enumerate(made)}}
