"""Draws video latents one frame after another, with a key-value cache that lives across frames.

Named modes, from slow to fast. While the window has not slid they all compute the same thing.

- "no_cache": the whole window in every denoising pass; the reference to compare with.
- "frame_cache": the window once a frame, in the first denoising pass, then only the frame being drawn.
- "exact": keys and values stay from frame to frame. A finished frame enters once, beside the next frame's first
  denoising pass. When the window slides it is computed anew, so that nothing older than the window has any say;
  equals no_cache for ever.
- "streaming": as exact, but after the window has slid old keys and values are kept. Deeper layers then still carry what
  they took from frames that have left the window: more memory than the network was trained with, and no recomputation.
  The default: on a trained model the two are as good as each other (docs/explanation/world_model.md).

Rotary positions count from the rollout's first frame and never restart: attention depends only on differences between
positions, and those stay below max_frames because only the last max_frames frames are kept.

Every pass over the cache attends to the whole pre-allocated window through a mask, and says in a tensor where its
frames go, so that shapes never change from frame to frame: one for "finished frame and the one being drawn", one for
"the one being drawn", one for "the whole window". `compile` makes just these fast (`compiled.py`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gymnast_core.errors import ConfigError
from gymnast_core.world_model.actions import null_action
from gymnast_core.world_model.compiled import CompiledPasses
from gymnast_core.world_model.config import CACHE_MODES, CacheMode, SolverKind
from gymnast_core.world_model.diffusion import CONTEXT_LEVEL, Schedule, Solver
from gymnast_core.world_model.model import CacheStep, TemporalCache, WorldModel


class LatentRollout:
    """N rollouts side by side: `start` with first latents, then `extend` by one action and its noise at a time."""

    def __init__(
        self,
        model: WorldModel,
        schedule: Schedule,
        *,
        sampling_steps: int = 10,
        guidance: float = 1.0,
        mode: CacheMode = "streaming",
        solver: SolverKind = "ddim",
        compile: bool = False,
        backend: str | Callable[..., Any] | None = "inductor",
    ) -> None:
        """guidance: v = (1 - guidance) v_null + guidance v_cond; 1.0 needs no second pass.

        compile: passes of unchanging shape go through torch.compile with this backend (None: they do not), which takes
        a while at first and again for every other number of rollouts, and on a GPU are replayed as CUDA graphs.
        """
        if mode not in CACHE_MODES:
            raise ConfigError(f"world model: cache mode is {mode!r}, must be one of {', '.join(CACHE_MODES)}")
        self.model = model
        self.schedule = schedule
        self.solver = Solver(schedule, schedule.sampling_levels(sampling_steps), solver)
        self.guidance = guidance
        self.mode = mode
        self.window = model.config.max_frames
        self.frame_forwards = 0
        """Frames pushed through the network for each rollout so far: what a cache is there to save."""
        self.instability: Tensor = torch.empty(0)
        """(N,) root mean square by which the last frame differs from what its first denoising step foresaw."""
        self._compiled = CompiledPasses(model, backend) if compile else None
        self._latents: deque[Tensor] = deque(maxlen=self.window)
        self._actions: deque[Tensor] = deque(maxlen=self.window)
        self._frames = 0
        self._committed = 0
        self._cache: TemporalCache | None = None
        self._slots: Tensor = torch.empty(0)
        self._null: Tensor = torch.empty(0)

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
        count = n if rows is None else len(rows)
        no_move = torch.zeros(n, self.model.config.action_dim, device=first.device)
        self._null = null_action(self.model.config.action_dim).to(first.device)
        self._latents.clear()
        self._actions.clear()
        self._frames, self._committed = 1, 0
        if self.mode != "no_cache":
            self._slots = torch.arange(self.window, device=first.device)
            self._cache = self._empty_cache(count, height, width, first.device)
            if rows is not None and count != n and self.mode in ("exact", "streaming"):
                self._commit_first(first, no_move, rows)
        if rows is not None:
            first, no_move = first[rows], no_move[rows]
        self._latents.append(first)
        self._actions.append(no_move)

    def _empty_cache(self, count: int, height: int, width: int, device: torch.device) -> TemporalCache:
        """The last rollout's memory where its size fits, zeroed: recorded passes write to its very address."""
        batch, tokens = count * self.branches, self.model.tokens(height, width)
        cache = self._cache
        if cache is not None and (cache.batch, cache.tokens, cache.device) == (batch, tokens, device):
            cache.clear()
            return cache
        cache = self._cache = None  # it goes before its successor comes: at full size each is gigabytes
        if self._compiled is not None:
            self._compiled.forget()
        return TemporalCache(self.model.config, batch, tokens, device, self.model.x_proj.weight.dtype)

    @torch.no_grad()
    def extend(self, action: Tensor, noise: Tensor) -> Tensor:
        """Draw the next frame: action (N, action_dim) that leads to it, noise (N, H, W, C) -> (N, H, W, C)."""
        if not self._latents:
            raise ConfigError("world model: extend before start")
        action, noise = action.to(self._latents[0].device), noise.to(self._latents[0].device)
        x = noise
        self.solver.begin()
        foreseen = x
        for i in range(self.solver.steps):
            v = self._velocity(x, action, self.solver.levels[i], first_pass=i == 0)
            x = self.solver.step(x, v, i)
            foreseen = self.solver.foreseen if i == 0 else foreseen
        self.instability = (x - foreseen).square().mean(dim=(1, 2, 3)).sqrt()
        self._latents.append(x)
        self._actions.append(action)
        self._frames += 1
        return x

    # One network pass for the frame being drawn. Its index in the rollout is self._frames.

    def _velocity(self, x: Tensor, action: Tensor, level: int, first_pass: bool) -> Tensor:
        index, window = self._frames, self.window
        context = min(index, window - 1)
        if self.mode == "no_cache":
            return self._pass(x, action, level, context, compiled=context == window - 1)
        if self.mode == "frame_cache" or (self.mode == "exact" and index + 1 > window):
            # The window lies in slots 0 .. context, in order of time.
            if first_pass:
                slots = self._slots[: context + 1]
                step = self._cache_step(slots, self._slots <= slots[:, None])
                return self._pass(x, action, level, context, step, compiled=context == window - 1)
            slots = self._slots[context : context + 1]
            return self._pass(x, action, level, 0, self._cache_step(slots, self._slots[None] <= context))
        # A ring: frame k lives in slot k mod window. The frame being drawn overwrites the one that has just left.
        drawn = index % window
        slots, mask = self._slots[drawn : drawn + 1], self._slots[None] < index + 1
        if first_pass and self._committed < index:
            past = (index - 1) % window
            slots = torch.cat((self._slots[past : past + 1], slots))
            mask = torch.cat((mask & (self._slots[None] != drawn), mask))
            self._committed = index
            return self._pass(x, action, level, 1, self._cache_step(slots, mask))
        return self._pass(x, action, level, 0, self._cache_step(slots, mask))

    def _cache_step(self, slots: Tensor, mask: Tensor) -> CacheStep:
        assert self._cache is not None
        return CacheStep(self._cache, slots, mask)

    def _pass(
        self, x: Tensor, action: Tensor, level: int, context: int, step: CacheStep | None = None, compiled: bool = True
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
        positions = torch.arange(self._frames - context, self._frames + 1, device=device)
        v = self._network(latents, t, actions, positions, step, compiled)[:, -1].float()
        if self.branches == 2:
            conditional, unconditional = v.chunk(2)
            v = (1 - self.guidance) * unconditional + self.guidance * conditional
        return v

    def _network(
        self, latents: Tensor, t: Tensor, actions: Tensor, positions: Tensor, step: CacheStep | None, compiled: bool
    ) -> Tensor:
        """One pass over frames (N, T, ...), with guidance of both branches: (branches * N, T, H, W, C)."""
        if self.branches == 2:
            latents, t = torch.cat((latents, latents)), torch.cat((t, t))
            actions = torch.cat((actions, self._null.expand_as(actions)))
        self.frame_forwards += latents.shape[1]
        if compiled and self._compiled is not None:
            return self._compiled(latents, t, actions, positions, step)
        v: Tensor = self.model(latents, t, actions, positions=positions, step=step)
        return v

    @torch.no_grad()
    def _commit_first(self, first: Tensor, action: Tensor, rows: Tensor) -> None:
        """Compute each distinct first frame's keys and values once and copy them to the rollouts that share it."""
        assert self._cache is not None
        n, height, width, _ = first.shape
        distinct = TemporalCache(
            self.model.config, n * self.branches, self.model.tokens(height, width), first.device, self._cache.dtype
        )
        t = torch.full((n, 1), CONTEXT_LEVEL, device=first.device)
        slot = self._slots[:1]
        step = CacheStep(distinct, slot, self._slots[None] <= 0)
        self._network(self.schedule.present_context(first)[:, None], t, action[:, None], slot, step, compiled=False)
        self._cache.copy_rows(distinct, torch.cat([rows + n * branch for branch in range(self.branches)]))
        self._committed = 1
