"""`OpenVLAPolicy`: a checkpoint that acts, samples and gives log-probabilities (protocol `TrainablePolicy`)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from numbers import Real
from operator import index
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
import torch

from gymnast_core.device import choose_device, inference_dtype
from gymnast_core.errors import CheckpointError, DataError
from gymnast_core.policy.checkpoint import Checkpoint, base_state, read_checkpoint, write_checkpoint
from gymnast_core.policy.config import ImageVariant
from gymnast_core.policy.images import check_batch
from gymnast_core.policy.model import PromptBatch
from gymnast_core.policy.statistics import read_statistics
from gymnast_core.policy.tokens import ActionTokens
from gymnast_core.protocols import PolicySample

# Beyond these a distribution is a single token or uniform in float32.
MIN_TEMPERATURE, MAX_TEMPERATURE = 1e-3, 1e3


class OpenVLAPolicy:
    """Acts on frames (N, H, W, 3) uint8 RGB and N instructions, which may differ within a batch.

    The distribution over one action token is the softmax over the action columns of the logits, divided by the
    temperature in sampling, log-probabilities and entropies alike (World-Gymnast uses 1.6).

    unnorm_key: which of the checkpoint's statistics un-normalise actions; None takes the only one.
    max_batch: rows of one forward where nothing is differentiated; larger batches are cut.

    Raises: CheckpointError (statistics, vocabulary).
    """

    def __init__(self, checkpoint: Checkpoint, unnorm_key: str | None = None, max_batch: int = 64) -> None:
        self.checkpoint = checkpoint
        self.config = checkpoint.config
        self.model = checkpoint.model
        self.images = checkpoint.images
        self.statistics = read_statistics(checkpoint.norm_stats, unnorm_key, str(checkpoint.folder))
        self.unnorm_key = unnorm_key or next(iter(checkpoint.norm_stats))
        self.tokens = ActionTokens(self.config.n_bins)
        self.prompts = checkpoint.prompts()
        self.max_batch = max_batch

    @property
    def chunk_length(self) -> int:
        """Actions K of one chunk."""
        return self.config.chunk_length

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.projector.fc1.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return self.model.projector.fc1.weight.dtype

    def act(self, frames: np.ndarray, instructions: Sequence[str]) -> np.ndarray:
        """Greedy actions (N, K, 7) float32, Bridge convention.

        Raises: DataError for a bad frame or instruction, CheckpointError when the network gives no finite logits.
        """
        logits = self._logits_without_gradient(*check_batch(frames, instructions))
        return self.actions(logits.argmax(-1).cpu().numpy())

    def sample(
        self, frames: np.ndarray, instructions: Sequence[str], temperature: float, seeds: Sequence[int]
    ) -> PolicySample:
        """Draw one chunk per row by inverting the cumulative distribution at uniform numbers from `seeds[i]` alone.

        Raises: DataError for a bad frame, instruction or temperature, or when seeds do not fit; CheckpointError when
            the network gives no finite logits.
        """
        temperature = check_temperature(temperature)
        frames, instructions = check_batch(frames, instructions)
        numbers = _check_seeds(seeds, len(frames))
        logits = self._logits_without_gradient(frames, instructions)
        log_p = torch.log_softmax(logits / temperature, dim=-1).cpu().numpy()
        cumulative = np.cumsum(np.exp(log_p.astype(np.float64)), axis=-1)
        uniform = np.stack([np.random.default_rng(seed).random(log_p.shape[1]) for seed in numbers])
        below = cumulative < (uniform * cumulative[..., -1])[..., None]
        drawn = np.minimum(below.sum(-1), self.config.n_bins - 1)
        chosen = np.take_along_axis(log_p, drawn[..., None], axis=-1)[..., 0]
        return PolicySample(drawn.astype(np.int64), chosen.astype(np.float32), self.actions(drawn))

    def log_probs(
        self, frames: np.ndarray, instructions: Sequence[str], tokens: np.ndarray, temperature: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(log-probabilities, entropies) in nats, each (N, K * 7) float32, of bin indices (N, K * 7); differentiable.

        Raises: DataError when tokens are no bin indices of that shape, or frames, instructions or temperature are bad.
        """
        temperature = check_temperature(temperature)
        frames, instructions = check_batch(frames, instructions)
        wanted = (len(frames), self.config.n_action_tokens)
        try:
            tokens = np.asarray(tokens)
        except (ValueError, TypeError, RuntimeError) as error:  # rows of different lengths, or a tensor on a GPU
            raise DataError(f"tokens: no array ({error}), needed integers of shape {wanted}") from error
        if tokens.shape != wanted or tokens.dtype.kind not in "iu":
            raise DataError(f"tokens: found {tokens.dtype} of shape {tokens.shape}, needed integers of shape {wanted}")
        if tokens.size and not (tokens.min() >= 0 and tokens.max() < self.config.n_bins):
            raise DataError(
                f"tokens: found {tokens.min()} .. {tokens.max()}, allowed are 0 .. {self.config.n_bins - 1}"
            )
        logits = self.model(*self.inputs(self.images.prepare(frames), instructions))
        chosen = torch.as_tensor(tokens.astype(np.int64)).to(logits.device)
        return token_log_probs(logits, chosen, temperature)

    def actions(self, tokens: np.ndarray) -> np.ndarray:
        """Bin indices (N, K * 7) to un-normalised actions (N, K, 7) float32."""
        values = self.tokens.decode(tokens).reshape(len(tokens), self.config.chunk_length, self.config.action_dim)
        return self.statistics.unnormalise(values).astype(np.float32)

    def encode_actions(self, actions: np.ndarray) -> np.ndarray:
        """Actions (..., K, 7) to bin indices (..., K * 7) int64. Raises: DataError for another shape or a NaN."""
        wanted = (self.config.chunk_length, self.config.action_dim)
        if not isinstance(actions, np.ndarray) or actions.dtype.kind not in "fiu" or actions.shape[-2:] != wanted:
            found = getattr(actions, "shape", type(actions).__name__)
            raise DataError(f"actions: found {found}, needed numbers of shape (..., {wanted[0]}, {wanted[1]})")
        if not np.isfinite(actions).all():
            raise DataError("actions: found a value that is not finite")
        tokens = self.tokens.encode(self.statistics.normalise(actions))
        return tokens.reshape(*actions.shape[:-2], self.config.n_action_tokens)

    def inputs(self, prepared: np.ndarray, instructions: Sequence[str]) -> tuple[torch.Tensor, PromptBatch]:
        """Network inputs for prepared frames (N, S, S, 3) uint8."""
        if len(prepared) != len(instructions):
            raise DataError(f"instructions: found {len(instructions)}, needed one for each of {len(prepared)} frames")
        pixels = self.images.normalise(prepared, self.device).to(self.dtype)
        prompts = [self.prompts(instruction) for instruction in instructions]
        return pixels, PromptBatch.of(prompts, self.config.pad_token_id, self.device)

    def parameters(self) -> Iterator[torch.nn.Parameter]:
        """Parameters that training changes: those that require a gradient."""
        return (parameter for parameter in self.model.parameters() if parameter.requires_grad)

    def save(self, folder: str | os.PathLike[str], made_by: dict[str, Any] | None = None) -> Path:
        """Write the base weights (without adapters) as a self-contained checkpoint folder.

        made_by: facts for its gymnast.json. Raises: CheckpointError when it cannot be written (`write_checkpoint`).
        """
        checkpoint = self.checkpoint
        state = base_state(self.model)
        name = str(self.dtype).removeprefix("torch.")
        text = {**checkpoint.content["text_config"], "torch_dtype": name}
        content = {
            **checkpoint.content,
            "num_actions_chunk": self.config.chunk_length,
            "image_variant": self.config.image_variant,
            "torch_dtype": name,
            "text_config": text,
        }
        return write_checkpoint(folder, content, state, self.images, checkpoint.companions, made_by)

    def _logits_without_gradient(self, frames: np.ndarray, instructions: Sequence[str]) -> torch.Tensor:
        """Action logits; rows that are the same frame and instruction (a group's first call) are computed once."""
        first: dict[tuple[bytes, str], int] = {}
        rows = [
            first.setdefault((np.ascontiguousarray(f).tobytes(), i), len(first)) for f, i in zip(frames, instructions)
        ]
        distinct = np.unique(rows, return_index=True)[1]
        parts = []
        with torch.no_grad():
            for begin in range(0, len(distinct), self.max_batch):
                chosen = distinct[begin : begin + self.max_batch]
                prepared = self.images.prepare(frames[chosen])
                parts.append(self.model(*self.inputs(prepared, [instructions[i] for i in chosen])))
        logits = torch.cat(parts)
        if not bool(torch.isfinite(logits).all()):  # their arg max would be an action like any other
            raise CheckpointError(
                f"{self.checkpoint.folder}: the network's output is not finite: its weights, or those of an active "
                "adapter, are damaged or too large"
            )
        return logits if len(distinct) == len(frames) else logits[torch.as_tensor(rows, device=logits.device)]


def token_log_probs(
    logits: torch.Tensor, tokens: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities of `tokens` (N, L) and entropies (N, L) of the tempered softmax of logits (N, L, bins)."""
    log_p = torch.log_softmax(logits.float() / temperature, dim=-1)
    chosen = log_p.gather(-1, tokens[..., None])[..., 0]
    return chosen, -(log_p.exp() * log_p).sum(-1)


def load_policy(
    folder: str | os.PathLike[str],
    unnorm_key: str | None = None,
    device: str = "auto",
    dtype: torch.dtype | None = None,
    chunk_length: int | None = None,
    image_variant: ImageVariant | None = None,
) -> OpenVLAPolicy:
    """Load a checkpoint folder as a policy.

    device: "cpu", "cuda", "cuda:1", or "auto": a GPU where there is one. dtype: default float32 on a CPU and bfloat16
    on a GPU. The rest as in `read_checkpoint` and `OpenVLAPolicy`.

    Raises: CheckpointError; ConfigError when there is no such device.
    """
    device = choose_device(device)
    checkpoint = read_checkpoint(folder, device, dtype or inference_dtype(device), chunk_length, image_variant)
    return OpenVLAPolicy(checkpoint, unnorm_key)


def check_temperature(temperature: float) -> float:
    """As a number of Python's. Raises: DataError when it is none, or not from 0.001 to 1000."""
    number = isinstance(temperature, Real) and not isinstance(temperature, bool)
    if not number or not MIN_TEMPERATURE <= temperature <= MAX_TEMPERATURE:
        raise DataError(
            f"temperature: found {shorten(repr(temperature), 60)}, needed a number from {MIN_TEMPERATURE:g} to "
            f"{MAX_TEMPERATURE:g} (act is greedy)"
        )
    return float(temperature)


def _check_seeds(seeds: Sequence[int], n: int) -> list[int]:
    try:
        found = [index(seed) for seed in seeds]
    except (TypeError, ValueError):
        found = []
    if len(found) != n or min(found) < 0:
        raise DataError(f"seeds: found {shorten(repr(seeds), 60)}, needed a whole number from 0 for each of {n} frames")
    return found
