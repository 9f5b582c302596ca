"""A small world for testing the trainer: a dot on a 32x32 picture, moved by the first two action dimensions.

The same protocols as the real parts: the policy is a categorical distribution over action bins given the picture and
the instruction, the environment starts from a frame (no truth, as in imagination) or from a task's reset (with truth,
as on a station), the judge looks at the last picture.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from gymnast_core.protocols import PolicySample, Start, StepResult, Verdict

SIDE = 32
INSTRUCTIONS = ("move the dot right", "move the dot left please")


def render(position: np.ndarray) -> np.ndarray:
    """Positions (N, 2) in [0, 1] to frames (N, 32, 32, 3)."""
    grid = (np.arange(SIDE) + 0.5) / SIDE
    dx = grid[None, None, :] - position[:, 0, None, None]
    dy = grid[None, :, None] - position[:, 1, None, None]
    picture = np.exp(-(dx**2 + dy**2) / 0.01)
    return np.repeat((picture * 255).astype(np.uint8)[..., None], 3, axis=3)


def locate(frames: np.ndarray) -> np.ndarray:
    """Frames (..., 32, 32, 3) to positions (..., 2)."""
    weight = frames[..., 0].astype(np.float64) + 1e-9
    grid = (np.arange(SIDE) + 0.5) / SIDE
    total = weight.sum(axis=(-2, -1))
    x = (weight.sum(axis=-2) * grid).sum(-1) / total
    y = (weight.sum(axis=-1) * grid).sum(-1) / total
    return np.stack([x, y], axis=-1)


def reached(position: np.ndarray, instruction: str) -> np.ndarray:
    return position[..., 0] > 0.75 if "right" in instruction else position[..., 0] < 0.25


class PointPolicy(nn.Module):
    """MLP from a coarse picture and the instruction to logits of `bins` per action dimension."""

    def __init__(self, seed: int = 0, bins: int = 8, chunk_length: int = 3) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.bins, self._chunk_length = bins, chunk_length
        self.hidden = nn.Linear(64 + 2, 48)
        self.head = nn.Linear(48, chunk_length * 7 * bins)
        nn.init.zeros_(self.head.bias)
        with torch.no_grad():
            self.head.weight.mul_(0.3)

    @property
    def chunk_length(self) -> int:
        return self._chunk_length

    def logits(self, frames: np.ndarray, instructions: Sequence[str]) -> torch.Tensor:
        pixels = torch.from_numpy(np.ascontiguousarray(frames[..., 0])).float() / 255
        coarse = nn.functional.avg_pool2d(pixels[:, None], 4).flatten(1)
        told = torch.tensor([[1.0, 0.0] if "right" in text else [0.0, 1.0] for text in instructions])
        hidden = torch.tanh(self.hidden(torch.cat([coarse * 4, told], dim=1)))
        return self.head(hidden).reshape(len(frames), self._chunk_length * 7, self.bins)

    def actions(self, tokens: np.ndarray) -> np.ndarray:
        values = (tokens.astype(np.float32) + 0.5) / self.bins * 2 - 1
        actions = values.reshape(len(tokens), self._chunk_length, 7) * 0.05
        actions[..., 6] = actions[..., 6] > 0
        return actions.astype(np.float32)

    def act(self, frames: np.ndarray, instructions: Sequence[str]) -> np.ndarray:
        with torch.no_grad():
            return self.actions(self.logits(frames, instructions).argmax(-1).numpy())

    def sample(
        self, frames: np.ndarray, instructions: Sequence[str], temperature: float, seeds: Sequence[int]
    ) -> PolicySample:
        with torch.no_grad():
            log_probs = torch.log_softmax(self.logits(frames, instructions) / temperature, -1)
        noise = np.stack([np.random.default_rng(seed).gumbel(size=log_probs.shape[1:]) for seed in seeds])
        tokens = (log_probs.double() + torch.from_numpy(noise)).argmax(-1)
        chosen = log_probs.gather(-1, tokens[..., None])[..., 0]
        return PolicySample(tokens.numpy(), chosen.numpy(), self.actions(tokens.numpy()))

    def log_probs(
        self, frames: np.ndarray, instructions: Sequence[str], tokens: np.ndarray, temperature: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        log_probs = torch.log_softmax(self.logits(frames, instructions) / temperature, -1)
        chosen = log_probs.gather(-1, torch.from_numpy(tokens)[..., None])[..., 0]
        return chosen, -(log_probs.exp() * log_probs).sum(-1)


class PointEnvironment:
    """Starts from a frame (imagination, no truth) or a task's reset (station, with truth)."""

    def __init__(self, max_rollouts: int = 64, noise: float = 0.01) -> None:
        self._max_rollouts, self._noise = max_rollouts, noise

    @property
    def max_rollouts(self) -> int:
        return self._max_rollouts

    def reset(self, starts: Sequence[Start]) -> np.ndarray:
        assert len(starts) <= self._max_rollouts
        self._starts = list(starts)
        self._generators = [np.random.default_rng(start.seed) for start in starts]
        self._position = np.stack(
            [
                locate(start.frame) if start.frame is not None else generator.uniform(0.3, 0.7, 2)
                for start, generator in zip(starts, self._generators)
            ]
        )
        self._frames = [render(self._position)]
        return self._frames[0]

    def step(self, actions: np.ndarray) -> StepResult:
        success = np.full(actions.shape[:2], np.nan, dtype=np.float32)
        for step in range(actions.shape[1]):
            noise = np.stack([g.normal(size=2) for g in self._generators]) * self._noise
            self._position = np.clip(self._position + actions[:, step, :2] + noise, 0.05, 0.95)
            self._frames.append(render(self._position))
            for row, (start, position) in enumerate(zip(self._starts, self._position)):
                if start.frame is None:
                    success[row, step] = reached(position, start.instruction)
        return StepResult(
            self._frames[-1],
            actions,
            success,
            [[()] * actions.shape[1] for _ in self._starts],
            np.zeros(actions.shape[:2], bool),
        )

    def video(self, indices: Sequence[int] | None = None) -> np.ndarray:
        chosen = range(len(self._frames)) if indices is None else indices
        return np.stack([self._frames[index] for index in chosen], axis=1)


class PointJudge:
    """1 where the dot reached its side in the last frame."""

    name = "point"

    def frame_indices(self, n_frames: int) -> list[int]:
        return [n_frames - 1]

    def judge(self, videos: Sequence[np.ndarray], instructions: Sequence[str]) -> list[Verdict]:
        return [
            Verdict(float(reached(locate(video[-1]), instruction)), 1.0, "position of the dot")
            for video, instruction in zip(videos, instructions)
        ]


def point_starts(n: int, seed: int = 0) -> list[Start]:
    """Frames with dots in the middle, instructions in turn."""
    generator = np.random.default_rng(seed)
    frames = render(generator.uniform(0.35, 0.65, (n, 2)))
    return [Start(INSTRUCTIONS[i % 2], frames[i], seed=i) for i in range(n)]
