"""Rollouts: a policy acts in an environment from many starts side by side, and a judge scores what came of it.

Every rollout's randomness comes from its own seed, so that the make-up of a batch changes nothing. Scoring runs in a
thread of its own while the next batch is rolled out. A rollout the judge abstains on has no reward (NaN): it leaves its
group, it is never counted as a failure.
"""

from __future__ import annotations

import dataclasses
import math
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from gymnast_core.errors import DataError
from gymnast_core.protocols import Environment, Judge, Policy, PolicySample, Start, TrainablePolicy, Verdict
from gymnast_core.reward.truth import TruthJudge
from gymnast_core.run_folder import derive_seed

ACTION_DIM = 7


@dataclass(frozen=True)
class Rollout:
    """One finished rollout of C chunks of K steps (fewer alive chunks where it ended early).

    start: where it began.
    frames: (C, H, W, 3) uint8, what the policy saw before each chunk.
    tokens: (C, K * 7) int16 bin indices, -1 where actions were greedy; log_probs: (C, K * 7) float32 at sampling.
    mask: (C, K * 7) bool, tokens that were acted on before the rollout ended.
    actions: (T, 7) float32, commanded; T steps until the end of the rollout.
    success: the environment's own truth at the end, NaN where it has none; credit: how far the task had come by it.
    safety_events: names of the safety envelope's interventions; changed: (T,) bool, the actions it did not let through
        as they were.
    verdict: the judge's, None before it has spoken.
    video: (n, H, W, 3) uint8, the frames the judge looked at; kept where asked for.
    """

    start: Start
    frames: np.ndarray
    tokens: np.ndarray
    log_probs: np.ndarray
    mask: np.ndarray
    actions: np.ndarray
    success: float
    safety_events: tuple[str, ...]
    changed: np.ndarray
    verdict: Verdict | None = None
    video: np.ndarray | None = None
    credit: float = math.nan

    @property
    def reward(self) -> float:
        """The verdict's score, what is learned from; NaN for an abstention (or a score that is not a number)."""
        if self.verdict is None or self.verdict.score is None:
            return math.nan
        return float(self.verdict.score)

    @property
    def completed(self) -> float:
        """What success is counted by: 1 where the score is 1, 0 where it is less, NaN for an abstention."""
        if self.verdict is None or self.verdict.completed is None or not math.isfinite(self.reward):
            return math.nan
        return float(self.verdict.completed)

    @property
    def changed_share(self) -> float:
        """Share of the actions that the safety envelope changed, 0 to 1."""
        return float(self.changed.mean()) if len(self.changed) else 0.0


@dataclass(frozen=True)
class Group:
    """Rollouts of one start that are compared with each other; `version` counts the updates before they were drawn."""

    rollouts: tuple[Rollout, ...]
    version: int = 0

    @property
    def instruction(self) -> str:
        return self.rollouts[0].start.instruction

    @property
    def rewards(self) -> np.ndarray:
        """(G,) float64."""
        return np.array([rollout.reward for rollout in self.rollouts])

    def without_abstentions(self) -> Group:
        """The group without the rollouts that have no reward; may be empty."""
        return Group(tuple(r for r in self.rollouts if math.isfinite(r.reward)), self.version)


@dataclass(frozen=True)
class RolloutOptions:
    """How to roll out.

    horizon: environment steps (single actions) at most. temperature: of sampling; None acts greedily.
    stop_at_success: a rollout ends where the environment's own truth says so, or where the judge says that the task was
        completed: what the policy does afterwards is neither learned from nor counted.
    keep_frames: keep what the policy saw (training needs it). keep_video: keep the frames the judge saw.
    act_on_start: the first chunk is drawn from the starts' own frames (of one size), not from the environment's picture
        of them, which in imagination is smaller.
    """

    horizon: int
    temperature: float | None = None
    stop_at_success: bool = True
    keep_frames: bool = True
    keep_video: bool = False
    act_on_start: bool = False


def group_starts(start: Start, size: int, seed: int, common_noise: bool = False) -> list[Start]:
    """The starts of one group's `size` rollouts.

    A station's reset is decided by its seed, so the whole group shares it. In imagination the frame is the start and
    the seed only the world model's noise: one for each rollout, or the same for all with `common_noise`, which takes
    the noise out of the comparison (common random numbers).
    """
    shared = common_noise or start.frame is None
    return [
        dataclasses.replace(start, seed=derive_seed(seed, "noise", 0 if shared else member)) for member in range(size)
    ]


def run_rollouts(
    policy: Policy,
    environment: Environment,
    judge: Judge,
    starts: Sequence[Start],
    policy_seeds: Sequence[int | None],
    options: RolloutOptions,
    tick: Callable[[], None] | None = None,
) -> list[Rollout]:
    """Roll out every start and have the results judged; in the order of `starts`.

    policy_seeds: one a rollout; chunk c of rollout i is drawn with derive_seed(policy_seeds[i], c). None: this rollout
    acts greedily beside those that sample.
    tick: called after every chunk, for progress and for stopping (by raising).

    Raises: DataError when the policy gives an action or log-probability that is not finite; JudgeError from the judge.
    """
    size = max(1, environment.max_rollouts)
    judging: list[Future[list[Verdict]]] = []
    rollouts: list[Rollout] = []
    with _JudgeThread() as thread:
        for begin in range(0, len(starts), size):
            batch = _roll_batch(
                policy, environment, starts[begin : begin + size], policy_seeds[begin : begin + size], options, tick
            )
            videos = _videos(environment, judge, batch, options)
            judging.append(thread.submit(partial(_judge_batch, judge, batch, videos)))
            for future in judging:
                if future.done():
                    future.result()  # a judge that cannot go on ends this now, not after the last batch
            for index, rollout in enumerate(batch):
                kept = videos[index] if options.keep_video else None
                rollouts.append(dataclasses.replace(rollout, video=kept))
        verdicts = [verdict for future in judging for verdict in future.result()]
    judged = [dataclasses.replace(rollout, verdict=one) for rollout, one in zip(rollouts, verdicts, strict=True)]
    return [_end_at_completion(rollout, judge) for rollout in judged] if options.stop_at_success else judged


def _end_at_completion(rollout: Rollout, judge: Judge) -> Rollout:
    """Cut a rollout after the chunk in which the judge saw the task completed."""
    verdict = rollout.verdict
    if verdict is None or not verdict.score or verdict.completed_at is None:
        return rollout
    step = judge.frame_indices(_n_frames(rollout))[verdict.completed_at]
    length = rollout.mask.shape[1] // ACTION_DIM
    chunks = max(1, math.ceil(step / length))
    mask = rollout.mask.copy()
    mask[chunks:] = False
    steps = slice(chunks * length)
    return dataclasses.replace(rollout, mask=mask, actions=rollout.actions[steps], changed=rollout.changed[steps])


@torch.no_grad()
def _roll_batch(
    policy: Policy,
    environment: Environment,
    starts: Sequence[Start],
    policy_seeds: Sequence[int | None],
    options: RolloutOptions,
    tick: Callable[[], None] | None,
) -> list[Rollout]:
    n, length = len(starts), policy.chunk_length
    instructions = [start.instruction for start in starts]
    frames = environment.reset(starts)
    if options.act_on_start:
        frames = np.stack([start.frame for start in starts if start.frame is not None])
    alive = np.ones(n, dtype=bool)
    success, credit = np.full(n, np.nan, dtype=np.float32), np.full(n, np.nan, dtype=np.float32)
    events: list[list[str]] = [[] for _ in range(n)]
    seen, tokens, log_probs, masks, actions, changed = [], [], [], [], [], []
    for chunk in range(math.ceil(options.horizon / length)):
        steps = min(length, options.horizon - chunk * length)
        seen.append(frames)
        drawn = _draw(policy, frames, instructions, options.temperature, policy_seeds, chunk)
        tokens.append(drawn.tokens.astype(np.int16))
        log_probs.append(drawn.log_probs.astype(np.float32))
        _check_finite(drawn.actions, log_probs[-1], chunk)
        step_mask = np.arange(length * ACTION_DIM) < steps * ACTION_DIM
        masks.append(alive[:, None] & step_mask[None])
        actions.append(drawn.actions[:, :steps])
        result = environment.step(drawn.actions[:, :steps])
        frames = result.frames
        changed.append(result.changed)
        success[alive] = result.success[alive]
        if result.credit is not None:
            credit[alive] = result.credit[alive]
        for index in np.flatnonzero(alive):
            events[index].extend(result.safety_events[index])
        if options.stop_at_success:
            alive &= ~(success >= 1.0)
        if tick is not None:
            tick()
        if not alive.any():
            break
    lengths = (np.stack(masks, axis=1).sum(axis=(1, 2)) // ACTION_DIM).astype(int)
    all_actions = np.concatenate(actions, axis=1).astype(np.float32)
    all_changed = np.concatenate(changed, axis=1)
    seen_frames = np.stack(seen, axis=1) if options.keep_frames else np.empty((n, 0, 0, 0, 3), dtype=np.uint8)
    return [
        Rollout(
            start=starts[i],
            frames=seen_frames[i],
            tokens=np.stack([chunk_tokens[i] for chunk_tokens in tokens]),
            log_probs=np.stack([chunk_log_probs[i] for chunk_log_probs in log_probs]),
            mask=np.stack([mask[i] for mask in masks]),
            actions=all_actions[i, : lengths[i]],
            success=float(success[i]),
            safety_events=tuple(events[i]),
            changed=all_changed[i, : lengths[i]],
            credit=float(credit[i]),
        )
        for i in range(n)
    ]


def _draw(
    policy: Policy,
    frames: np.ndarray,
    instructions: Sequence[str],
    temperature: float | None,
    policy_seeds: Sequence[int | None],
    chunk: int,
) -> PolicySample:
    """One chunk a rollout: sampled where there is a temperature and a seed, greedy (tokens -1) elsewhere."""
    n, length = len(frames), policy.chunk_length
    sample = PolicySample(
        np.full((n, length * ACTION_DIM), -1, dtype=np.int64),
        np.zeros((n, length * ACTION_DIM), dtype=np.float32),
        np.zeros((n, length, ACTION_DIM), dtype=np.float32),
    )
    seeds = {row: seed for row, seed in enumerate(policy_seeds) if seed is not None and temperature is not None}
    greedy = [row for row in range(n) if row not in seeds]
    if greedy:
        sample.actions[greedy] = policy.act(frames[greedy], [instructions[row] for row in greedy])
    if seeds and temperature is not None:
        if not isinstance(policy, TrainablePolicy):
            raise DataError(f"{type(policy).__name__} cannot sample; use temperature 0 (greedy)")
        rows = list(seeds)
        own = policy.sample(
            frames[rows],
            [instructions[row] for row in rows],
            temperature,
            [derive_seed(seed, chunk) for seed in seeds.values()],
        )
        sample.tokens[rows], sample.log_probs[rows], sample.actions[rows] = own.tokens, own.log_probs, own.actions
    return sample


def _check_finite(actions: np.ndarray, log_probs: np.ndarray, chunk: int) -> None:
    bad = ~np.isfinite(actions).all(axis=(1, 2)) | ~np.isfinite(log_probs).all(axis=1)
    if bad.any():
        raise DataError(
            f"the policy gave an action or log-probability that is not finite (rollout {int(np.argmax(bad))}, "
            f"chunk {chunk}); lower the learning rate and resume from the last checkpoint"
        )


def _n_frames(rollout: Rollout) -> int:
    """Frames of a rollout: the first one and one after each step."""
    return len(rollout.actions) + 1


def _videos(
    environment: Environment, judge: Judge, batch: Sequence[Rollout], options: RolloutOptions
) -> list[np.ndarray]:
    """The frames the judge wants of every rollout; only these are decoded."""
    wanted = [judge.frame_indices(_n_frames(rollout)) for rollout in batch]
    union = sorted({index for indices in wanted for index in indices})
    if isinstance(judge, TruthJudge) and not options.keep_video:
        return [np.empty((0, 0, 0, 3), dtype=np.uint8)] * len(batch)
    decoded = environment.video(union)
    position = {index: place for place, index in enumerate(union)}
    return [decoded[row][[position[index] for index in indices]] for row, indices in enumerate(wanted)]


def _judge_batch(judge: Judge, batch: Sequence[Rollout], videos: Sequence[np.ndarray]) -> list[Verdict]:
    if isinstance(judge, TruthJudge):
        outcomes = np.array([(rollout.success, rollout.credit) for rollout in batch])
        return judge.judge_outcomes(outcomes[:, 0], outcomes[:, 1])
    verdicts = judge.judge(videos, [rollout.start.instruction for rollout in batch])
    return [
        verdict
        if verdict.score is None or math.isfinite(verdict.score)
        else Verdict(None, 0.0, f"score {verdict.score} is not a number: taken as an abstention")
        for verdict in verdicts
    ]


class _JudgeThread:
    """One daemon thread that works through judging jobs; daemon, so that a slow server never delays a stop."""

    def __init__(self) -> None:
        self._jobs: queue.Queue[tuple[Future[Any], Callable[[], Any]] | None] = queue.Queue()
        self._thread = threading.Thread(target=self._work, name="judge", daemon=True)

    def __enter__(self) -> _JudgeThread:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._jobs.put(None)

    def submit(self, job: Callable[[], Any]) -> Future[Any]:
        future: Future[Any] = Future()
        self._jobs.put((future, job))
        return future

    def _work(self) -> None:
        while (item := self._jobs.get()) is not None:
            future, job = item
            try:
                with torch.inference_mode():
                    future.set_result(job())
            except BaseException as error:  # handed to whoever waits for the result
                future.set_exception(error)
