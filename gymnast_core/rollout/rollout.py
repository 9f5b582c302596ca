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
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch

from gymnast_core.errors import DataError
from gymnast_core.protocols import (
    DoubtingEnvironment,
    Environment,
    EpisodicPolicy,
    Judge,
    MeteredEnvironment,
    OutcomeJudge,
    Policy,
    PolicySample,
    SeededPolicy,
    Start,
    StepResult,
    TrainablePolicy,
    Verdict,
)
from gymnast_core.robot.strain import StepStrain
from gymnast_core.rollout.confirmation import Confirms
from gymnast_core.rollout.ending import SuccessWatch, Watched
from gymnast_core.rollout.replay import frames_at
from gymnast_core.seeds import derive_seed

ACTION_DIM = 7
MOST_CREDIT = 0.99
"""Of an unfinished rollout: only success is worth 1."""


@dataclass(frozen=True)
class Rollout:
    """One finished rollout of C chunks of K steps (fewer alive chunks where it ended early).

    start: where it began.
    frames: (C, H, W, 3) uint8, what the policy saw before each chunk.
    tokens: (C, K * 7) int16 bin indices, -1 where actions were greedy; log_probs: (C, K * 7) float32 at sampling.
    mask: (C, K * 7) bool, tokens that were acted on before the rollout ended.
    actions, executed: (T, 7) float32, commanded, and what the safety envelope made of it; T steps until the rollout's
        last chunk ended.
    steps: until the rollout ended by success (and `after_success`), or after all of them; at most T.
    truth: (T,) float32, the environment's own word on success after each action, NaN where it has none.
    success: the same at the end; credit: how far the task had come by then.
    step_events: for each action, the names of the safety envelope's interventions; changed: (T,) bool, the actions it
        did not let through as they were. step_holds: for each action, the kinds of the faults that held the arm after
        it; loads: (T,) float32, see `StepResult.loads`. Both are empty where there is no arm.
    verdict: the judge's, None before it has spoken.
    video: (n, H, W, 3) uint8, the frames the judge looked at; kept where asked for.
    progress: (C,) float32, how far the task had come when each chunk began, 0 to 1, by the judge; None where it does
        not tell, or where nobody asked for credit.
    meters: readings of its environment, by name (`MeteredEnvironment`), of a rollout that is filmed.
    """

    start: Start
    frames: np.ndarray
    tokens: np.ndarray
    log_probs: np.ndarray
    mask: np.ndarray
    actions: np.ndarray
    executed: np.ndarray
    steps: int
    truth: np.ndarray
    success: float
    step_events: tuple[tuple[str, ...], ...]
    changed: np.ndarray
    verdict: Verdict | None = None
    video: np.ndarray | None = None
    credit: float = math.nan
    progress: np.ndarray | None = None
    step_holds: tuple[tuple[str, ...], ...] = ()
    loads: np.ndarray = field(default_factory=lambda: np.empty(0, np.float32))
    meters: Mapping[str, float] = field(default_factory=dict)

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
    def strain(self) -> list[StepStrain]:
        """What each step until the end cost the arm."""
        holds = self.step_holds or ((),) * self.steps
        loads = self.loads if len(self.loads) else np.full(self.steps, np.nan)
        steps = zip(self.step_events[: self.steps], holds, loads.tolist())
        return [StepStrain(events, held, load) for events, held, load in steps]

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
    watch: given an instruction, who says in place of the truth, from the frames as they come, when a rollout ends.
    after_success: steps that a rollout goes on after its truth says success, for logs.
    keep_frames: keep what the policy saw (training needs it). keep_video: keep the frames the judge saw.
    progress_credit: an unfinished rollout's score is this times the judge's progress at its end, where the judge tells
        it; 0: as the judge says.
    act_on_start: the first chunk is drawn from the starts' own frames (of one size), not from the environment's picture
        of them, which in imagination is smaller.
    films: this many rollouts, evenly spread, keep the frames the judge saw, and what their environment's meters read.
    """

    horizon: int
    temperature: float | None = None
    stop_at_success: bool = True
    watch: Callable[[str], SuccessWatch] | None = None
    after_success: int = 0
    keep_frames: bool = True
    keep_video: bool = False
    act_on_start: bool = False
    progress_credit: float = 0.0
    films: int = 0


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
    confirm: Confirms | None = None,
) -> list[Rollout]:
    """Roll out every start and have the results judged; in the order of `starts`.

    policy_seeds: one per rollout; chunk c of rollout i is drawn with derive_seed(policy_seeds[i], c). None: that one
    acts greedily beside those that sample.
    tick: called after every chunk, for progress and for stopping (by raising).
    confirm: asked about the successes in the end; those that it does not confirm become abstentions.

    Raises: DataError when the policy gives an action or log-probability that is not finite; JudgeError from the judge.
    """
    size = max(1, environment.max_rollouts)
    judging: list[Future[list[Verdict]]] = []
    rollouts: list[Rollout] = []
    doubts: list[str] = []
    filmed = _spread(len(starts), options.films)
    with _JudgeThread() as thread:
        for begin in range(0, len(starts), size):
            batch = roll_out(
                policy, environment, starts[begin : begin + size], policy_seeds[begin : begin + size], options, tick
            )
            videos = _videos(environment, judge, batch, options)
            doubts += environment.doubts() if isinstance(environment, DoubtingEnvironment) else [""] * len(batch)
            judging.append(thread.submit(partial(_judge_batch, judge, batch, videos)))
            for future in judging:
                if future.done():
                    future.result()  # a judge that cannot go on ends this now, not after the last batch
            shown = [index for index in range(len(batch)) if begin + index in filmed]
            meters = environment.meters(shown) if shown and isinstance(environment, MeteredEnvironment) else ()
            readings = dict(zip(shown, meters))
            for index, rollout in enumerate(batch):
                kept = videos[index] if options.keep_video or begin + index in filmed else None
                rollouts.append(dataclasses.replace(rollout, video=kept, meters=readings.get(index, {})))
        verdicts = [verdict for future in judging for verdict in future.result()]
    verdicts = [
        Verdict(None, 0.0, doubt) if doubt else verdict for doubt, verdict in zip(doubts, verdicts, strict=True)
    ]
    if confirm is not None:
        verdicts = confirm(starts, [rollout.actions for rollout in rollouts], verdicts)
    judged = [dataclasses.replace(rollout, verdict=one) for rollout, one in zip(rollouts, verdicts, strict=True)]
    if options.progress_credit:
        judged = [_with_credit(rollout, judge, options.progress_credit) for rollout in judged]
    return [_end_at_completion(rollout, judge) for rollout in judged] if options.stop_at_success else judged


def _spread(count: int, chosen: int) -> frozenset[int]:
    """Numbers of `chosen` of `count` rollouts, evenly spread."""
    return frozenset(np.linspace(0, count - 1, min(chosen, count)).astype(int).tolist()) if count else frozenset()


def _with_credit(rollout: Rollout, judge: Judge, share: float) -> Rollout:
    """The rollout with partial credit for what its judge says of progress: never as much as success, never an
    abstention's."""
    verdict = rollout.verdict
    if verdict is None or verdict.completed is None or not verdict.progress:
        return rollout
    told = np.array(verdict.progress, dtype=np.float64)
    if not np.isfinite(told).all():
        return rollout
    told = told.clip(0.0, 1.0)
    shown = judge.frame_indices(_n_frames(rollout))
    progress = None
    if len(told) == len(shown):
        begins = np.arange(len(rollout.mask)) * (rollout.mask.shape[1] // ACTION_DIM)
        progress = np.interp(begins, shown, told).astype(np.float32)
    if not verdict.completed:
        credit = min(share * float(told[-1]), MOST_CREDIT)
        verdict = dataclasses.replace(verdict, score=max(float(verdict.score or 0.0), credit))
    return dataclasses.replace(rollout, verdict=verdict, progress=progress)


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
    kept = slice(chunks * length)
    return dataclasses.replace(
        rollout,
        mask=mask,
        actions=rollout.actions[kept],
        executed=rollout.executed[kept],
        truth=rollout.truth[kept],
        step_events=rollout.step_events[kept],
        step_holds=rollout.step_holds[kept],
        loads=rollout.loads[kept],
        changed=rollout.changed[kept],
        steps=min(rollout.steps, chunks * length),
    )


@torch.no_grad()
def roll_out(
    policy: Policy,
    environment: Environment,
    starts: Sequence[Start],
    policy_seeds: Sequence[int | None],
    options: RolloutOptions,
    tick: Callable[[], None] | None = None,
) -> list[Rollout]:
    """THE loop: one batch of rollouts, side by side, unjudged; arguments and errors as of `run_rollouts`.

    Success is looked at after every action. The environment still holds the batch's frames afterwards.
    """
    _begin(policy, starts)
    frames = environment.reset(starts)
    if options.act_on_start:
        frames = np.stack([start.frame for start in starts if start.frame is not None])
    batch = _Batch(starts, options)
    watched = Watched(environment, [options.watch(start.instruction) for start in starts]) if options.watch else None
    for chunk in range(math.ceil(options.horizon / policy.chunk_length)):
        steps = min(policy.chunk_length, options.horizon - chunk * policy.chunk_length)
        drawn = _draw(policy, frames, batch.instructions, options.temperature, policy_seeds, chunk)
        _check_finite(drawn.actions, drawn.log_probs, chunk)
        actions = drawn.actions[:, :steps]
        result = environment.step(actions)
        batch.add(frames, drawn, actions, result, result.success >= 1.0 if watched is None else watched.ends(steps))
        frames = result.frames
        if tick is not None:
            tick()
        if not batch.alive.any():
            break
    return batch.rollouts()


def _begin(policy: Policy, starts: Sequence[Start]) -> None:
    """Tell a policy with a memory that an episode begins. Raises: DataError where it would have to begin several."""
    if isinstance(policy, SeededPolicy):
        if len(starts) > 1:
            raise DataError(
                f"{type(policy).__name__} rolls out one episode at a time; found {len(starts)} side by side"
            )
        policy.begin(starts[0].seed)
    elif isinstance(policy, EpisodicPolicy):
        policy.restart()


class _Batch:
    """What rollouts side by side have gathered so far."""

    def __init__(self, starts: Sequence[Start], options: RolloutOptions) -> None:
        self._starts, self._options = starts, options
        self.instructions = [start.instruction for start in starts]
        n = len(starts)
        self.alive = np.ones(n, dtype=bool)
        self._success, self._credit = np.full((2, n), np.nan, dtype=np.float32)
        self._last = np.zeros(n, dtype=int)
        """Step at which each rollout ends, once that is known; 0 before."""
        self._done = 0
        self._events: list[list[tuple[str, ...]]] = [[] for _ in starts]
        self._holds: list[list[tuple[str, ...]]] = [[] for _ in starts]
        self._loads: list[np.ndarray] = []
        self._truth: list[np.ndarray] = []
        self._seen: list[np.ndarray] = []
        self._tokens: list[np.ndarray] = []
        self._log_probs: list[np.ndarray] = []
        self._masks: list[np.ndarray] = []
        self._actions: list[np.ndarray] = []
        self._executed: list[np.ndarray] = []
        self._changed: list[np.ndarray] = []

    def add(
        self, frames: np.ndarray, drawn: PolicySample, actions: np.ndarray, result: StepResult, ends: np.ndarray
    ) -> None:
        """One chunk: the frames (N, H, W, 3) it was drawn for, what was drawn, acted (N, K, 7), what came of it, and
        after which actions (N, K) bool a rollout that stops at success is to end."""
        steps = actions.shape[1]
        if self._options.keep_frames:
            self._seen.append(frames)
        self._tokens.append(drawn.tokens.astype(np.int16))
        self._log_probs.append(drawn.log_probs.astype(np.float32))
        step_mask = np.arange(drawn.tokens.shape[1]) < steps * ACTION_DIM
        self._masks.append(self.alive[:, None] & step_mask[None])
        self._actions.append(actions)
        self._executed.append(result.executed)
        self._changed.append(result.changed)
        self._truth.append(result.success)
        if result.loads is not None:
            self._loads.append(result.loads)
        for row in np.flatnonzero(self.alive).tolist():
            self._events[row].extend(result.safety_events[row])
            if result.holds:
                self._holds[row].extend(result.holds[row])
            self._look(row, result, steps, ends[row])
        self._done += steps

    def _look(self, row: int, result: StepResult, steps: int, ends: np.ndarray) -> None:
        """Take one rollout's outcome from its latest actions, up to the one that ends it."""
        options, last = self._options, int(self._last[row])
        if options.stop_at_success and not last:
            reached = np.flatnonzero(ends[:steps])
            if len(reached):
                self._last[row] = last = self._done + int(reached[0]) + 1 + options.after_success
        if last and last <= self._done + steps:
            self.alive[row] = False
            steps = last - self._done
        self._success[row] = result.success[row, steps - 1]
        if result.credit is not None:
            self._credit[row] = result.credit[row, steps - 1]

    def rollouts(self) -> list[Rollout]:
        """The rollouts as they are now."""
        n = len(self._starts)
        lengths = (np.stack(self._masks, axis=1).sum(axis=(1, 2)) // ACTION_DIM).astype(int)
        ended = np.where(self.alive, self._done, self._last)
        actions = np.concatenate(self._actions, axis=1).astype(np.float32)
        executed = np.concatenate(self._executed, axis=1).astype(np.float32)
        changed = np.concatenate(self._changed, axis=1)
        truth = np.concatenate(self._truth, axis=1).astype(np.float32)
        loads = np.concatenate(self._loads, axis=1).astype(np.float32) if self._loads else np.empty((n, 0), np.float32)
        nothing = np.empty((n, 0, 0, 0, 3), dtype=np.uint8)
        seen = np.stack(self._seen, axis=1) if self._options.keep_frames else nothing
        return [
            Rollout(
                start=self._starts[i],
                frames=seen[i],
                tokens=np.stack([tokens[i] for tokens in self._tokens]),
                log_probs=np.stack([log_probs[i] for log_probs in self._log_probs]),
                mask=np.stack([mask[i] for mask in self._masks]),
                actions=actions[i, : lengths[i]],
                executed=executed[i, : lengths[i]],
                steps=int(ended[i]),
                truth=truth[i, : lengths[i]],
                success=float(self._success[i]),
                step_events=tuple(self._events[i]),
                changed=changed[i, : lengths[i]],
                credit=float(self._credit[i]),
                step_holds=tuple(self._holds[i]),
                loads=loads[i, : lengths[i]],
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
    """One chunk per rollout: sampled where there is a temperature and a seed, greedy (tokens -1) elsewhere."""
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
    if isinstance(judge, OutcomeJudge) and not options.keep_video:
        return [np.empty((0, 0, 0, 3), dtype=np.uint8)] * len(batch)
    return frames_at(environment, [judge.frame_indices(_n_frames(rollout)) for rollout in batch])


def _judge_batch(judge: Judge, batch: Sequence[Rollout], videos: Sequence[np.ndarray]) -> list[Verdict]:
    if isinstance(judge, OutcomeJudge):
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


def measure(
    policy: Policy,
    environment: Environment,
    judge: Judge,
    starts: Sequence[Start],
    count: int,
    horizon: int,
    temperature: float | None,
    seed: int,
    tick: Callable[[], None] | None = None,
    video: bool = True,
    part: Sequence[int] | None = None,
    confirm: Confirms | None = None,
) -> list[Rollout]:
    """`count` judged rollouts from the starts in turn; rollout i depends on (seed, i) and the policy alone.

    part: only these of them. confirm: see `run_rollouts`.
    """
    chosen = range(count) if part is None else part
    begun = [dataclasses.replace(starts[i % len(starts)], seed=derive_seed(seed, "noise", i)) for i in chosen]
    seeds = [derive_seed(seed, "policy", i) for i in chosen]
    options = RolloutOptions(horizon, temperature, keep_frames=video, keep_video=video)
    return run_rollouts(policy, environment, judge, begun, seeds, options, tick, confirm)


def changed_share(rollouts: Sequence[Rollout]) -> float:
    """Mean share of their actions that the safety envelope changed, 0 to 1."""
    return float(np.mean([rollout.changed_share for rollout in rollouts])) if rollouts else 0.0


def mean_success(rollouts: Sequence[Rollout]) -> float:
    """Share of the judged rollouts that were completed, 0 to 1; NaN where none was judged."""
    judged = [rollout.completed for rollout in rollouts if math.isfinite(rollout.completed)]
    return float(np.mean(judged)) if judged else math.nan
