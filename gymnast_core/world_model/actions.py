"""Between Bridge actions (metres, radians, gripper 1 = open) and the vectors that condition WorldGym's frames.

The scaling itself (translation x 35 clipped to 1.75, rotation x 5.6 clipped to 1.4, gripper -1 open and +1 closed) is
that of the dataset layout and lives in `gymnast_core.data.worldgym`; here is what the network adds to it.
"""

from __future__ import annotations

import numpy as np
import torch

from gymnast_core.data.worldgym import WORLDGYM_ACTION_DIM, scale_actions
from gymnast_core.errors import DataError

ACTION_DIM = WORLDGYM_ACTION_DIM


def to_worldgym(actions: np.ndarray) -> np.ndarray:
    """Bridge actions (..., 7) -> WorldGym vectors (..., 10) float32. Raises DataError on a bad shape or non-finite."""
    actions = np.asarray(actions, dtype=np.float32)
    if actions.ndim < 1 or actions.shape[-1] != 7:
        raise DataError(f"actions: shape {actions.shape}, must be (..., 7): metres, radians, gripper 1 = open")
    if not np.isfinite(actions).all():
        raise DataError("actions: NaN or infinity found, every number must be finite")
    return scale_actions(actions)


def frame_conditions(actions: np.ndarray) -> np.ndarray:
    """Bridge actions (T, 7) of an episode -> (T + 1, 10), the action that led to each frame, zeros first."""
    return np.concatenate((np.zeros((1, ACTION_DIM), np.float32), to_worldgym(actions)))


def null_action(action_dim: int = ACTION_DIM) -> torch.Tensor:
    """(action_dim,) "no action given" of guidance and action dropout; all zeros would mean "do not move"."""
    out = torch.zeros(action_dim)
    out[-1] = 1.0
    return out
