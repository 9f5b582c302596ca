"""Between Bridge actions (metres, radians, gripper 1 = open) and the vector that conditions WorldGym.

The world model's own scaling lives here and nowhere else. Bridge moves are multiplied so that they fill about -1 .. 1
(translation by 35, rotation by 5.6) and clipped; the gripper becomes -1 (open) or +1 (closed).
"""

from __future__ import annotations

import numpy as np
import torch

from gymnast_core.errors import DataError

ACTION_DIM = 10
TRANSLATION_SCALE, TRANSLATION_LIMIT = 35.0, 1.75
ROTATION_SCALE, ROTATION_LIMIT = 5.6, 1.4
OPEN_ABOVE = 0.8


def to_worldgym(actions: np.ndarray) -> np.ndarray:
    """Bridge actions (..., 7) -> WorldGym vectors (..., 10) float32. Raises DataError on a wrong shape or non-finite."""
    actions = np.asarray(actions, dtype=np.float32)
    if actions.ndim < 1 or actions.shape[-1] != 7:
        raise DataError(f"actions: shape {actions.shape}, must be (..., 7): metres, radians, gripper 1 = open")
    if not np.isfinite(actions).all():
        raise DataError("actions: NaN or infinity found, every number must be finite")
    out = np.zeros((*actions.shape[:-1], ACTION_DIM), np.float32)
    out[..., :3] = np.clip(actions[..., :3] * TRANSLATION_SCALE, -TRANSLATION_LIMIT, TRANSLATION_LIMIT)
    out[..., 3:6] = np.clip(actions[..., 3:6] * ROTATION_SCALE, -ROTATION_LIMIT, ROTATION_LIMIT)
    out[..., 6] = np.where(actions[..., 6] > OPEN_ABOVE, -1.0, 1.0)
    return out


def to_bridge(vectors: np.ndarray) -> np.ndarray:
    """WorldGym vectors (..., 10) -> Bridge actions (..., 7) float32; what clipping took away is lost."""
    vectors = np.asarray(vectors, dtype=np.float32)
    if vectors.ndim < 1 or vectors.shape[-1] != ACTION_DIM:
        raise DataError(f"WorldGym actions: shape {vectors.shape}, must be (..., {ACTION_DIM})")
    if not np.isfinite(vectors).all():
        raise DataError("WorldGym actions: NaN or infinity found, every number must be finite")
    out = np.empty((*vectors.shape[:-1], 7), np.float32)
    out[..., :3] = vectors[..., :3] / TRANSLATION_SCALE
    out[..., 3:6] = vectors[..., 3:6] / ROTATION_SCALE
    out[..., 6] = np.where(vectors[..., 6] < 0, 1.0, 0.0)
    return out


def null_action(action_dim: int = ACTION_DIM) -> torch.Tensor:
    """(action_dim,) "no action given" of guidance and action dropout; all zeros would mean "do not move"."""
    out = torch.zeros(action_dim)
    out[-1] = 1.0
    return out
