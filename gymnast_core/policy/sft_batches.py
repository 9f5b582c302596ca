"""Episodes of a supervised fine-tuning, their order, and augmented batches of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gymnast_core.errors import DataError
from gymnast_core.policy.dataset import KEPT_SIDE, Kept, Order, Samples, TrainingEpisode, find_entries, split_entries
from gymnast_core.policy.images import Augmentation, augment
from gymnast_core.policy.openvla import OpenVLAPolicy
from gymnast_core.policy.sft_config import SFTConfig
from gymnast_core.progress import check_stop
from gymnast_core.seeds import derive_seed

Batch = tuple[np.ndarray, list[str], np.ndarray]
"""Prepared frames (B, S, S, 3) uint8, B instructions and bins (B, K * 7) int64."""


@dataclass(frozen=True)
class SFTEpisodes:
    """Demonstrations to train and to measure on, episodes mixed in, and each instruction with an episode of it."""

    train: list[TrainingEpisode]
    held: list[TrainingEpisode]
    mixed: list[TrainingEpisode]
    instructions: dict[str, Path]

    @classmethod
    def find(cls, config: SFTConfig) -> SFTEpisodes:
        """Those of the config's folders. Raises: DataError where there are none, or one is broken."""
        keep: Kept = "not failures" if config.successes_only else "all"
        demonstrations = find_entries(config.data, config.instruction, config.labels, keep)
        mixed = find_entries(config.mix, config.instruction, config.labels, "successes") if config.mix else []
        train, held = split_entries(demonstrations, config.holdout, config.seed)
        return cls(train, held, mixed, {entry.instruction: entry.path for entry in (*mixed, *demonstrations)})


class Batches:
    """Samples in the order of training, as the policy takes them.

    Raises: DataError naming the episode whose instruction the policy's vocabulary cannot spell.
    """

    def __init__(self, config: SFTConfig, episodes: SFTEpisodes, policy: OpenVLAPolicy) -> None:
        self.config = config
        self.policy = policy
        for instruction, path in episodes.instructions.items():
            try:
                policy.prompts(instruction)
            except DataError as error:
                raise DataError(f"{path}: {error}") from error
        length, side = policy.chunk_length, max(KEPT_SIDE, policy.images.size)
        self.sources = (Samples(episodes.train, length, side=side), Samples(episodes.mixed, length, side=side))
        self.held = Samples(episodes.held, length, side=side)
        share = config.mix_ratio / (1.0 + config.mix_ratio)
        self.order = Order(len(self.sources[0]), len(self.sources[1]), share, config.seed)
        jitter = (config.brightness, config.contrast, config.saturation, config.hue)
        self.augmentation = Augmentation(config.crop_area, *jitter)

    def __call__(self, first: int) -> Batch:
        """Samples first .. first + batch - 1. Raises: DataError when one cannot be read any more; Stopped."""
        frames, instructions, actions = [], [], []
        images = self.policy.images
        for k in range(first, first + self.config.batch):
            check_stop()
            source, index = self.order(k)
            samples = self.sources[source]
            generator = np.random.default_rng(derive_seed(self.config.seed, "augment", k))
            frames.append(augment(samples.frame(index), images.variant, images.size, self.augmentation, generator))
            instruction, chunk = samples.label(index)
            instructions.append(instruction)
            actions.append(chunk)
        return np.stack(frames), instructions, self.policy.encode_actions(np.stack(actions))
