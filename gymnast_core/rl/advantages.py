"""Group-relative advantages (World-Gymnast, arXiv 2602.02454, eq. 5) and which groups carry any signal."""

from __future__ import annotations

from typing import Literal

import numpy as np

EPSILON = 1e-6
Baseline = Literal["group", "alive"]


def group_advantages(rewards: np.ndarray, epsilon: float = EPSILON) -> np.ndarray:
    """A_i = (r_i - mean(r)) / (std(r) + epsilon) over one group, std unbiased; (G,) float32.

    A single rollout has nothing to be compared with: its advantage is 0.
    """
    rewards = np.asarray(rewards, dtype=np.float64)
    if len(rewards) < 2:
        return np.zeros(len(rewards), dtype=np.float32)
    return ((rewards - rewards.mean()) / (rewards.std(ddof=1) + epsilon)).astype(np.float32)


def chunk_advantages(
    rewards: np.ndarray, alive: np.ndarray, baseline: Baseline = "group", epsilon: float = EPSILON
) -> np.ndarray:
    """Advantages of every chunk of a group's rollouts, (G, C) float32, 0 where a rollout had ended.

    rewards: (G,), one per rollout.
    alive: (G, C) bool, False for chunks after the rollout ended (success on a station).
    baseline: "group" compares every chunk with the whole group (eq. 5). "alive" compares a chunk with the group
        members still acting at that chunk: when success ends a rollout, the late chunks belong to failures alone,
        and the whole group's mean would push down whatever they do.
    """
    alive = np.asarray(alive, dtype=bool)
    if baseline == "group":
        return group_advantages(rewards, epsilon)[:, None] * alive.astype(np.float32)
    rewards = np.asarray(rewards, dtype=np.float64)
    advantages = np.zeros(alive.shape, dtype=np.float32)
    if len(rewards) < 2:
        return advantages
    scale = rewards.std(ddof=1) + epsilon
    for chunk in range(alive.shape[1]):
        members = alive[:, chunk]
        if members.sum() >= 2:
            advantages[members, chunk] = (rewards[members] - rewards[members].mean()) / scale
    return advantages


def progress_advantages(
    rewards: np.ndarray, progress: np.ndarray, alive: np.ndarray, epsilon: float = EPSILON
) -> np.ndarray:
    """Advantages of every chunk by what was reached after it began, (G, C) float32, 0 where a rollout had ended.

    rewards: (G,), of the ends. progress: (G, C), on the same scale, when each chunk began. A chunk's return is the
    reward less the progress before it, which is the sum of what the chunks from it on have gained (potential-based
    shaping, Ng, Harada and Russell, ICML 1999), and is compared with those of the members still acting at that chunk.
    """
    rewards = np.asarray(rewards, dtype=np.float64)
    alive = np.asarray(alive, dtype=bool)
    advantages = np.zeros(alive.shape, dtype=np.float32)
    if len(rewards) < 2:
        return advantages
    returns = rewards[:, None] - np.asarray(progress, dtype=np.float64)
    scale = rewards.std(ddof=1) + epsilon
    for chunk in range(alive.shape[1]):
        members = alive[:, chunk]
        if members.sum() >= 2:
            advantages[members, chunk] = (returns[members, chunk] - returns[members, chunk].mean()) / scale
    return advantages


def group_is_usable(rewards: np.ndarray, low: float = 0.1, high: float = 0.9, min_std: float = EPSILON) -> bool:
    """Whether a group's rewards differ enough to learn from.

    Binary rewards: low <= mean <= high. Real-valued rewards (partial credit): unbiased std > min_std.
    """
    rewards = np.asarray(rewards, dtype=np.float64)
    if len(rewards) < 2 or not np.isfinite(rewards).all():
        return False
    if np.isin(rewards, (0.0, 1.0)).all():
        return bool(low <= rewards.mean() <= high and rewards.min() < rewards.max())
    return bool(rewards.std(ddof=1) > min_std)
