"""Draws video latents one frame after another, with a key-value cache that lives across frames.

Named modes, from slow to fast. While the window has not slid they all compute the same thing.

- "no_cache": the whole window in every denoising pass; the reference to compare with.
- "frame_cache": the window once a frame, in the first denoising pass, then only the frame being drawn.
- "exact": keys and values stay from frame to frame. A finished frame enters once, beside the next frame's first
  denoising pass. When the window slides it is computed anew, so that nothing older than the window has any say;
  equals no_cache for ever.
- "streaming": as exact, but after the window has slid old keys and values are kept. Deeper layers then still carry what
  they took from frames that have left the window: more memory than the network was trained with, and no recomputation.

Rotary positions count from the rollout's first frame and never restart: attention depends only on differences between
positions, and those stay below max_frames because only the last max_frames frames are kept.
"""

from __future__ import annotations

from collections import deque
from typing import Literal

import torch
from torch import Tensor

from gymnast_core.errors import ConfigError
from gymnast_core.world_model.actions import null_action
from gymnast_core.world_model.diffusion import CONTEXT_LEVEL, Schedule
from gymnast_core.world_model.model import CacheStep, TemporalCache, WorldModel

CacheMode = Literal["no_cache", "frame_cache", "exact", "streaming"]
CACHE_MODES: tuple[CacheMode, ...] = ("no_cache", "frame_cache", "exact", "streaming")


class LatentRollout:
    """N rollouts side by side: `start` with first latents, then `extend` by one action and its noise at a time."""

    def __init__(
        self,
        model: WorldModel,
        schedule: Schedule,
        *,
        sampling_steps: int = 10,
        guidance: float = 1.0,
        mode: CacheMode = "exact",
    ) -> None:
        """guidance: v = (1 - guidance) v_null + guidance v_cond; 1.0 needs no second pass."""
        if mode not in CACHE_MODES:
            raise ConfigError(f"world model: cache mode is {mode!r}, must be one of {', '.join(CACHE_MODES)}")
        self.model = model
        self.schedule = schedule
        self.levels = schedule.sampling_levels(sampling_steps)
        self.guidance = guidance
        self.mode = mode
        self.window = model.config.max_frames
        self._latents: deque[Tensor] = deque(maxlen=self.window)
        self._actions: deque[Tensor] = deque(maxlen=self.window)
        self._frames = 0
        self._committed = 0
        self._cache: TemporalCache | None = None

    @property
    def frames(self) -> int:
        """Frames so far, the first one included."""
        return self._frames

    @property
    def branches(self) -> int:
        return 1 if self.guidance == 1.0 else 2

    def start(self, first: Tensor, rows: Tensor | None = None) -> None:
        """Begin from first latents (U, H, W, C); rollout i starts from first[rows[i]], rows (N,) int64, default all.

        A group that shares its first frame pays for it once: it goes through the network U times, not N times.
        """
        n, height, width, _ = first.shape
        tokens = self.model.tokens(height, width)
        config, dtype = self.model.config, self.model.x_proj.weight.dtype
        self._latents.clear()
        self._actions.clear()
        self._frames, self._committed, self._cache = 1, 0, None
        no_move = torch.zeros(n, config.action_dim, device=first.device)
        if self.mode in ("exact", "streaming"):
            self._cache = TemporalCache(config, n * self.branches, tokens, first.device, dtype)
            if rows is not None and len(rows) != n:
                self._commit_first(first, no_move)
        elif self.mode == "frame_cache":
            count = n if rows is None else len(rows)
            self._cache = TemporalCache(config, count * self.branches, tokens, first.device, dtype)
        if rows is not None:
            if self._committed and self._cache is not None:
                branch_rows = torch.cat([rows + n * branch for branch in range(self.branches)])
                self._cache.select(branch_rows)
            elif self._cache is not None and self._cache.batch != len(rows) * self.branches:
                self._cache = TemporalCache(config, len(rows) * self.branches, tokens, first.device, dtype)
            first, no_move = first[rows], no_move[rows]
        self._latents.append(first)
        self._actions.append(no_move)

    @torch.no_grad()
    def extend(self, action: Tensor, noise: Tensor) -> Tensor:
        """Draw the next frame: action (N, action_dim) that leads to it, noise (N, H, W, C) -> (N, H, W, C)."""
        if not self._latents:
            raise ConfigError("world model: extend before start")
        action, noise = action.to(self._latents[0].device), noise.to(self._latents[0].device)
        x = noise
        for i, (level, following) in enumerate(zip(self.levels[:-1], self.levels[1:], strict=True)):
            v = self._velocity(x, action, level, first_pass=i == 0)
            x = self.schedule.ddim_step(x, v, level, following)
        self._latents.append(x)
        self._actions.append(action)
        self._frames += 1
        return x

    # One network pass for the frame being drawn. Its index in the rollout is self._frames.

    def _velocity(self, x: Tensor, action: Tensor, level: int, first_pass: bool) -> Tensor:
        index, window = self._frames, self.window
        slid = index + 1 > window
        if self.mode == "no_cache":
            context = min(index, window - 1)
            return self._pass(x, action, level, context, slots=None, used=0)
        assert self._cache is not None
        if self.mode == "frame_cache" or (self.mode == "exact" and slid):
            context = min(index, window - 1)
            if first_pass:
                return self._pass(x, action, level, context, slots=tuple(range(context + 1)), used=context + 1)
            return self._pass(x, action, level, 0, slots=(context,), used=context + 1)
        # A ring: frame k lives in slot k mod window. The frame being drawn overwrites the one that has just left.
        used = min(index + 1, window)
        if first_pass and self._committed < index:
            slots = ((index - 1) % window, index % window)
            v = self._pass(x, action, level, 1, slots=slots, used=used)
            self._committed = index
            return v
        return self._pass(x, action, level, 0, slots=(index % window,), used=used)

    def _pass(
        self, x: Tensor, action: Tensor, level: int, context: int, *, slots: tuple[int, ...] | None, used: int
    ) -> Tensor:
        """Push `context` finished frames and the frame being drawn through the network; its velocity (N, H, W, C)."""
        n, device = x.shape[0], x.device
        latents, actions = x[:, None], action[:, None]
        t = torch.full((n, 1), level, device=device)
        if context:
            past = torch.stack([self._latents[len(self._latents) - context + k] for k in range(context)], dim=1)
            past_actions = torch.stack([self._actions[len(self._actions) - context + k] for k in range(context)], dim=1)
            latents = torch.cat((self.schedule.present_context(past), latents), dim=1)
            actions = torch.cat((past_actions, actions), dim=1)
            t = torch.cat((torch.full((n, context), CONTEXT_LEVEL, device=device), t), dim=1)
        frames = context + 1
        positions = torch.arange(self._frames - context, self._frames + 1, device=device)
        mask, step = None, None
        if slots is not None:
            assert self._cache is not None
            step = CacheStep(self._cache, slots, used)
            if frames > 1:
                mask = torch.ones(frames, used, dtype=torch.bool, device=device)
                for row in range(frames):
                    mask[row, list(slots[row + 1 :])] = False
        if self.branches == 2:
            null = null_action(actions.shape[-1]).to(actions).expand_as(actions)
            latents, t = torch.cat((latents, latents)), torch.cat((t, t))
            actions = torch.cat((actions, null))
        v = self.model(latents, t, actions, positions=positions, mask=mask, step=step)[:, -1].float()
        if self.branches == 2:
            conditional, unconditional = v.chunk(2)
            v = (1 - self.guidance) * unconditional + self.guidance * conditional
        return v

    @torch.no_grad()
    def _commit_first(self, first: Tensor, action: Tensor) -> None:
        """Store the first frame's keys and values before its rows are copied to the rollouts that share it."""
        assert self._cache is not None
        n = first.shape[0]
        t = torch.full((n, 1), CONTEXT_LEVEL, device=first.device)
        latents, actions = self.schedule.present_context(first)[:, None], action[:, None]
        if self.branches == 2:
            null = null_action(actions.shape[-1]).to(actions).expand_as(actions)
            latents, t, actions = torch.cat((latents, latents)), torch.cat((t, t)), torch.cat((actions, null))
        self.model(latents, t, actions, step=CacheStep(self._cache, (0,), 1))
        self._committed = 1
