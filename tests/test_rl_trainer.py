"""GRPO: its equations, its bookkeeping, and that it learns, measured on a small world with the real trainer."""

from __future__ import annotations

import dataclasses
import json
import resource
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from gymnast_core.errors import CheckpointError, ConfigError, DataError, JudgeError
from gymnast_core.protocols import Start, StepResult, Verdict
from gymnast_core.reward.truth import TruthJudge
from gymnast_core.rl.advantages import chunk_advantages, group_advantages, group_is_usable
from gymnast_core.rl.config import GRPOConfig, load_recipe
from gymnast_core.rl.groups import BudgetSpent, Generation, NothingToLearn, shaped_rewards
from gymnast_core.rl.loss import clipped_policy_loss, trajectory_weights
from gymnast_core.rl.practice import seconds_taken, train_within
from gymnast_core.rl.trainer import GRPOTrainer
from gymnast_core.rl.update import accumulate_gradients, trajectories_of
from gymnast_core.rollout.rollout import Group, Rollout, RolloutOptions, group_starts, run_rollouts
from gymnast_core.run_folder import RunFolder
from tests.golden_values import label, policy_goldens, whole
from tests.point_world import (
    INSTRUCTIONS,
    PointEnvironment,
    PointJudge,
    PointPolicy,
    locate,
    point_starts,
    reached,
    render,
)

CONFIG = GRPOConfig(
    groups=8,
    min_groups=2,
    group_size=8,
    horizon=9,
    temperature=1.0,
    learning_rate=5e-3,
    minibatch=16,
    checkpoint_every=1,
    seed=3,
)


@pytest.mark.parametrize("goldens", policy_goldens(), ids=label)
@pytest.mark.parametrize("case", ["clipped", "masked", "on_policy"])
def test_loss_matches_the_published_implementation(case: str, goldens: Path) -> None:
    golden = json.loads((goldens / "golden.json").read_text())["grpo"]
    with whole(goldens) as unpacked:
        tensors = load_file(unpacked / "golden.safetensors")
    expected = golden[case]
    old = tensors["grpo_logprobs" if case == "on_policy" else "grpo_old_logprobs"]
    mask = tensors[f"grpo_{case}_mask"]
    advantages = torch.zeros_like(old)
    for group in tensors["grpo_group_id"].unique():
        members = tensors["grpo_group_id"] == group
        values = group_advantages(5 * tensors["grpo_success"][members].numpy())
        advantages[members] = torch.from_numpy(values)[:, None] * mask[members]
    torch.testing.assert_close(advantages, tensors[f"grpo_{case}_advantages"], atol=1e-5, rtol=0)

    loss, statistics = clipped_policy_loss(
        tensors["grpo_logprobs"], old, advantages, mask, golden["clip_low"], golden["clip_high"]
    )
    assert float(loss) == pytest.approx(expected["loss"], abs=2e-5)
    assert float(statistics.clip_fraction) == pytest.approx(np.mean(expected["clip_fraction_per_trajectory"]), abs=1e-6)
    assert float(statistics.approx_kl) == pytest.approx(np.mean(expected["approx_kl_per_trajectory"]), abs=1e-5)
    for row, value in enumerate(expected["loss_per_trajectory"]):
        one, _ = clipped_policy_loss(
            tensors["grpo_logprobs"][[row]], old[[row]], advantages[[row]], mask[[row]], 0.2, 0.28
        )
        assert float(one) == pytest.approx(value, abs=2e-5)


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=2, max_size=12), st.floats(0.5, 20))
def test_advantages_are_centred_and_blind_to_the_scale_of_rewards(rewards: list[float], scale: float) -> None:
    values = np.array(rewards)
    advantages = group_advantages(values)
    assert abs(advantages.sum()) < 1e-3
    if values.std() > 1e-3:
        np.testing.assert_allclose(group_advantages(values * scale), advantages, rtol=5e-3, atol=5e-3)
        assert advantages.std(ddof=1) == pytest.approx(1.0, abs=5e-3)


def test_usable_groups() -> None:
    assert group_is_usable(np.array([1] + [0] * 7)) and group_is_usable(np.array([0] + [1] * 7))
    assert not group_is_usable(np.zeros(8)) and not group_is_usable(np.ones(8))
    assert not group_is_usable(np.array([1] + [0] * 15))  # 1/16 is below .1
    assert group_is_usable(np.array([0.01, 0.02, 0.01, 0.01])), "partial credit counts by its spread"
    assert not group_is_usable(np.full(4, 0.3)) and not group_is_usable(np.array([0.0, np.nan]))


def test_alive_baseline_compares_only_those_still_acting() -> None:
    alive = np.array([[1, 0], [1, 0], [1, 1], [1, 1]], dtype=bool)
    rewards = np.array([1.0, 1.0, 0.0, 0.0])
    whole = chunk_advantages(rewards, alive, "group")
    fair = chunk_advantages(rewards, alive, "alive")
    assert (whole[2:, 1] < -0.5).all(), "the late chunks of failures are pushed down by the whole group's mean"
    assert (fair[:, 1] == 0).all() and np.allclose(fair[:, 0], whole[:, 0])


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_loss_of_parts_adds_up_and_masked_tokens_do_nothing(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    log_probs = torch.randn(5, 12, generator=generator, requires_grad=True)
    old = log_probs.detach() + 0.4 * torch.randn(5, 12, generator=generator)
    advantages = torch.randn(5, 12, generator=generator)
    mask = torch.rand(5, 12, generator=generator) > 0.4
    loss, _ = clipped_policy_loss(log_probs, old, advantages, mask)
    (gradient,) = torch.autograd.grad(loss, log_probs)
    assert (gradient[~mask] == 0).all()
    means = [
        clipped_policy_loss(log_probs[[row]], old[[row]], advantages[[row]], mask[[row]])[0]
        for row in range(5)
        if mask[row].any()
    ]
    if means:
        torch.testing.assert_close(loss, torch.stack(means).mean())
        assert float(trajectory_weights(mask).sum()) == pytest.approx(1.0, abs=1e-5)


def roll(policy: PointPolicy, starts: Sequence[Start], max_rollouts: int = 64, seed: int = 0) -> list[Group]:
    groups = []
    for number, start in enumerate(starts):
        members = group_starts(start, 8, seed + number)
        rollouts = run_rollouts(
            policy,
            PointEnvironment(max_rollouts),
            PointJudge(),
            members,
            [100 * number + i for i in range(8)],
            RolloutOptions(9, 1.0),
        )
        groups.append(Group(tuple(rollouts)))
    return groups


def gradient_of(policy: PointPolicy) -> torch.Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in policy.parameters()])


def test_one_minibatch_has_ratio_one_and_the_gradient_of_reinforce() -> None:
    policy = PointPolicy()
    groups = roll(policy, point_starts(6))
    trajectories = trajectories_of(groups, CONFIG)
    sums = accumulate_gradients(policy, trajectories, len(trajectories), CONFIG)
    assert sums["clip_fraction"] == 0 and abs(sums["approx_kl"]) < 1e-6, "fresh groups: the ratio is 1"
    clipped = gradient_of(policy)

    policy.zero_grad()
    reinforce = torch.zeros(())
    for trajectory in trajectories:
        rollout = trajectory.rollout
        log_probs, _ = policy.log_probs(
            rollout.frames, [rollout.start.instruction] * 3, rollout.tokens.astype(np.int64), 1.0
        )
        mask = torch.from_numpy(rollout.mask)
        weighted = log_probs * torch.from_numpy(trajectory.advantages)[:, None]
        reinforce = reinforce - weighted[mask].mean() / len(trajectories)
    reinforce.backward()
    torch.testing.assert_close(clipped, gradient_of(policy), atol=1e-6, rtol=1e-4)

    policy.zero_grad()
    accumulate_gradients(policy, trajectories, len(trajectories), dataclasses.replace(CONFIG, micro_batch=7))
    torch.testing.assert_close(clipped, gradient_of(policy), atol=1e-6, rtol=1e-4)


def test_batch_make_up_changes_nothing() -> None:
    policy, starts = PointPolicy(), point_starts(3)
    for one, other in zip(roll(policy, starts, 64), roll(policy, starts, 3)):
        for a, b in zip(one.rollouts, other.rollouts):
            assert np.array_equal(a.tokens, b.tokens) and np.array_equal(a.frames, b.frames) and a.reward == b.reward


def test_training_learns_and_epochs_make_clipping_work(tmp_path: Path) -> None:
    policy = PointPolicy()
    config = dataclasses.replace(CONFIG, epochs=3)
    trainer = GRPOTrainer(
        policy, policy, PointEnvironment(), PointJudge(), point_starts(12), config, RunFolder(tmp_path, config, False)
    )
    metrics = [trainer.step() for _ in range(25)]
    first = np.mean([m["mean_reward"] for m in metrics[:3]])
    last = np.mean([m["mean_reward"] for m in metrics[-3:]])
    assert last > first + 0.3, f"success went from {first:.2f} to {last:.2f}"
    assert max(m["clip_fraction"] for m in metrics) > 0.01
    assert metrics[0]["grad_norm"] > 0 and metrics[0]["approx_kl"] != 0, "the first update is not a no-op"
    assert {f"success/{'_'.join(text.split())}" for text in INSTRUCTIONS} <= set(metrics[0])


def test_of_two_successes_the_one_within_the_envelope_is_the_better(tmp_path: Path) -> None:
    """The dot cannot move as fast as the policy can ask for: told so by a penalty, it learns to ask for no more."""

    class Limited(PointEnvironment):
        def step(self, actions: np.ndarray) -> StepResult:
            allowed = actions.copy()
            allowed[..., 0] = np.clip(actions[..., 0], -0.035, 0.035)  # all but the outermost bins pass
            return dataclasses.replace(super().step(allowed), changed=(allowed != actions).any(axis=2))

    def train(penalty: float) -> tuple[list[dict[str, float]], GRPOTrainer]:
        policy = PointPolicy()
        config = dataclasses.replace(CONFIG, safety_penalty=penalty)
        run = RunFolder(tmp_path / f"{penalty}", config, False)
        trainer = GRPOTrainer(policy, policy, Limited(), PointJudge(), point_starts(12), config, run)
        return [trainer.step() for _ in range(25)], trainer

    free, _ = train(0.0)
    held, trainer = train(2.0)
    before, without, within = (m["actions_changed"] for m in (free[0], free[-1], held[-1]))
    assert held[0]["actions_changed"] == before > 0.1 and without > before
    assert within < before < without - 0.1, (
        f"changed by the envelope: {before:.2f}, then {without:.2f}, {within:.2f} penalised"
    )
    assert np.mean([m["mean_reward"] for m in held[-3:]]) > np.mean([m["mean_reward"] for m in held[:3]]) + 0.2

    def group(scores: Sequence[float], shares: Sequence[float]) -> Group:
        one = trainer.source.generate(trainer.update, len(trainer.carried)).usable[0].rollouts[0]
        verdicts = [Verdict(score, 1.0, "") for score in scores]
        changed = [np.arange(20) < 20 * share for share in shares]
        return Group(tuple(dataclasses.replace(one, verdict=v, changed=c) for v, c in zip(verdicts, changed)))

    assert np.allclose(shaped_rewards(group([1, 0], [0.25, 0.5]), trainer.config), [0.5, -1.0])
    assert trainer.source.hindered(group([1] * 4, [0.0, 0.5, 0.0, 0.0])) is None, "how to succeed can still be learned"
    assert trainer.source.hindered(group([1] * 4, [0.5] * 4)) == "succeeding"
    assert trainer.source.hindered(group([0] * 4, [0.0, 0.5, 0.0, 0.0])) == "failing", (
        "no lesson where nothing succeeds"
    )


def test_a_resumed_run_is_the_run_that_never_stopped(tmp_path: Path) -> None:
    def trainer(folder: Path) -> GRPOTrainer:
        policy = PointPolicy()
        config = dataclasses.replace(CONFIG, groups=4, min_groups=4, curriculum="variance")
        run = RunFolder(folder, config, False)
        return GRPOTrainer(policy, policy, PointEnvironment(16), PointJudge(), point_starts(6), config, run)

    straight = trainer(tmp_path / "a")
    whole = [straight.step() for _ in range(6)]
    assert any(m["groups_carried"] for m in whole[:3]), "the test must cover carried groups"
    broken = [trainer(tmp_path / "b").step() for _ in range(1)]
    resumed_at_1 = trainer(tmp_path / "b")
    broken += [resumed_at_1.step() for _ in range(2)]
    (tmp_path / "b" / "checkpoints" / "step_00000003" / "state.pt").write_bytes(b"cut short")
    resumed_at_2 = trainer(tmp_path / "b")
    assert resumed_at_2.update == 2
    broken[2:] = [resumed_at_2.step() for _ in range(4)]
    timeless = [{k: v for k, v in m.items() if not k.startswith("seconds")} for m in broken]
    assert timeless == [{k: v for k, v in m.items() if not k.startswith("seconds")} for m in whole]
    for name, value in straight.weights().items():
        assert torch.equal(value, resumed_at_2.weights()[name])
    assert [line["step"] for line in RunFolder(tmp_path / "b", tensorboard=False).read_metrics()] == [1, 2, 3, 4, 5, 6]

    for _ in range(5):
        if straight.carried:
            break
        straight.step()
    assert straight.carried
    file = max((tmp_path / "a" / "checkpoints").glob("step_*")) / "state.pt"
    state = torch.load(file, weights_only=True)
    for rollout in [rollout for group in state["ranks"][0]["carried"] for rollout in group["rollouts"]]:
        del rollout["changed"]
    torch.save(state, file)
    older = trainer(tmp_path / "a")
    assert older.update == straight.update and not older.carried, "groups that an older version carried are left out"


def test_a_time_budget_counts_what_the_run_has_taken_before(tmp_path: Path) -> None:
    def trainer() -> GRPOTrainer:
        policy = PointPolicy()
        run = RunFolder(tmp_path, CONFIG, False)
        return GRPOTrainer(policy, policy, PointEnvironment(), PointJudge(), point_starts(12), CONFIG, run)

    first = trainer()
    assert train_within(first, 3, 1000.0, first.run) == "iterations" and first.update == 3
    taken = seconds_taken(first.run)
    assert 0 < taken < 1000
    again = trainer()
    assert train_within(again, 100, taken, again.run) == "time" and again.update == 3
    assert train_within(again, 4, taken + 1000.0, again.run) == "iterations" and again.update == 4


class LyingJudge(PointJudge):
    """Knows one direction only: whoever is to go left is praised for going right."""

    def judge(self, videos: Sequence[np.ndarray], instructions: Sequence[str]) -> list[Verdict]:
        return super().judge(videos, [INSTRUCTIONS[0]] * len(instructions))


def test_an_anchor_keeps_a_rehearsed_task_as_it_was_even_where_imagination_is_wrong_about_it(tmp_path: Path) -> None:
    right, left = (
        [dataclasses.replace(start, instruction=words) for start in point_starts(8)] for words in INSTRUCTIONS
    )
    held_out = [dataclasses.replace(start, instruction=INSTRUCTIONS[1]) for start in point_starts(4, seed=1)]
    tokens = np.random.default_rng(0).integers(0, 8, (4, 21))
    frames, told = np.stack([one.frame for one in held_out]), [one.instruction for one in held_out]

    def practise(anchor: float) -> tuple[float, float, list[float]]:
        """Success of the practised task, how far the other one's policy moved, and the divergences on the way."""
        policy = PointPolicy()
        before = policy.log_probs(frames, told, tokens, 1.0)[0].detach()
        config = dataclasses.replace(CONFIG, rehearsal_anchor=anchor, rehearsal_share=0.5)
        run = RunFolder(tmp_path / str(anchor), None, False)
        trainer = GRPOTrainer(policy, policy, PointEnvironment(), LyingJudge(), right, config, run, left)
        metrics = [trainer.step() for _ in range(25)]
        moved = (policy.log_probs(frames, told, tokens, 1.0)[0].detach() - before).abs().mean()
        success = float(np.mean([one["success/move_the_dot_right"] for one in metrics[-5:]]))
        return success, float(moved), [one["divergence"] for one in metrics]

    free, anchored = practise(0.0), practise(0.3)
    assert set(free[2]) == {0.0} and anchored[2][0] < 1e-3 < anchored[2][-1]
    assert anchored[1] < 0.5 * free[1], "the other task moved less than half as far"
    assert anchored[0] > 0.5, "the practised one was learned all the same, from less than .1"


def test_a_run_does_not_go_on_as_another_one(tmp_path: Path) -> None:
    def build(
        starts: Sequence[Start] = point_starts(4), judge: str = "a", rehearsal: Sequence[Start] = (), **options: Any
    ) -> GRPOTrainer:
        policy, environment, about = PointPolicy(), PointEnvironment(), {"judge": judge}
        config = dataclasses.replace(CONFIG, **{"groups": 4, "min_groups": 4, "learning_rate": 1e-9, **options})
        run = RunFolder(tmp_path, None, False)
        return GRPOTrainer(policy, policy, environment, PointJudge(), starts, config, run, rehearsal, about=about)

    first = build()
    while not first.carried:
        first.step()
    moved = [*point_starts(4)[:3], Start(INSTRUCTIONS[0], point_starts(4)[3].frame[::-1])]
    retold = [*point_starts(4)[:3], dataclasses.replace(point_starts(4)[3], instruction="something else")]
    for starts in (point_starts(5), moved, retold, point_starts(4)[:3]):
        with pytest.raises(DataError, match="use the same starts or another run folder"):
            build(starts)
    for options in ({"judge": "b"}, {"seed": 99}, {"lora_rank": 7}, {"rehearsal": point_starts(2)}):
        with pytest.raises(ConfigError, match=f"holds a run with {next(iter(options))} "):
            build(**options)
    assert build(learning_rate=1e-5).carried, "the learning rate may be lowered on the way"
    assert not build(temperature=2.0).carried, "log-probabilities of another temperature are not compared"


@pytest.mark.parametrize(("max_staleness", "used"), [(0, [2, 0, 0]), (1, [2, 2, 0]), (2, [2, 2, 1])])
def test_a_carried_group_waits_for_so_many_updates_and_no_longer(
    max_staleness: int, used: list[int], tmp_path: Path
) -> None:
    policy = PointPolicy()
    config = dataclasses.replace(CONFIG, groups=2, max_staleness=max_staleness)
    run = RunFolder(tmp_path, None, False)
    trainer = GRPOTrainer(policy, policy, PointEnvironment(), PointJudge(), point_starts(2), config, run)
    five = roll(policy, point_starts(5))
    taken, dropped = [], 0
    for usable in (five, [], []):
        groups, stale = trainer.take_groups(Generation(usable=usable))
        assert all(trainer.update - group.version <= max_staleness for group in groups)
        taken.append(len(groups))
        dropped += stale
        trainer.update += 1
    assert taken == used and dropped + sum(taken) == 5 and not trainer.carried


@pytest.mark.parametrize(
    "damage",
    [
        {"weights": None},
        {"weights": [1, 2]},
        {"optimizer": None},
        {"optimizer": {}},
        {"ranks": []},
        {"ranks": [{"carried": 3}]},
        {"update": "x"},
        {"batch": None},
    ],
    ids=str,
)
def test_a_checkpoint_of_something_else_is_one_line_and_the_one_before_can_be_taken(
    damage: dict[str, Any], tmp_path: Path
) -> None:
    def build() -> GRPOTrainer:
        policy = PointPolicy()
        config = dataclasses.replace(CONFIG, groups=2, min_groups=1, horizon=3)
        run = RunFolder(tmp_path, None, False)
        return GRPOTrainer(policy, policy, PointEnvironment(), PointJudge(), point_starts(2), config, run)

    trainer = build()
    for _ in range(2):
        trainer.step()
    newest = tmp_path / "checkpoints" / "step_00000002"
    state = {**torch.load(newest / "state.pt", weights_only=True), **damage}
    torch.save({key: value for key, value in state.items() if value is not None}, newest / "state.pt")
    with pytest.raises(CheckpointError, match=r"not a checkpoint of this training|of another kind") as error:
        build()
    assert "\n" not in str(error.value)
    shutil.rmtree(newest)
    assert build().update == 1


def test_a_full_disk_keeps_the_checkpoint_before_and_the_run_goes_on_from_it(tmp_path: Path) -> None:
    def build(name: str) -> GRPOTrainer:
        policy = PointPolicy()
        config = dataclasses.replace(CONFIG, groups=2, min_groups=1)
        run = RunFolder(tmp_path / name, None, False)
        return GRPOTrainer(policy, policy, PointEnvironment(), PointJudge(), point_starts(4), config, run)

    straight, full = build("straight"), build("full")
    for trainer in (straight, full):
        trainer.step()
    straight.step()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))  # a line of metrics fits, a checkpoint does not
        with pytest.raises(CheckpointError, match=r"step_00000002: cannot write .* the previous one is kept"):
            full.step()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    resumed = build("full")
    assert resumed.update == 1
    resumed.step()
    assert all(torch.equal(value, resumed.weights()[name]) for name, value in straight.weights().items())
    assert [line["step"] for line in resumed.run.read_metrics()] == [1, 2]


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    policy = PointPolicy()
    run = RunFolder(tmp_path, None, False)
    trainer = GRPOTrainer(policy, policy, PointEnvironment(), PointJudge(), point_starts(2), CONFIG, run)
    with pytest.raises(CheckpointError, match="not finite"):
        trainer.load_weights({name: value * float("nan") for name, value in trainer.weights().items()})


def test_advice_goes_by_the_groups_and_not_by_their_mean(tmp_path: Path) -> None:
    class Decided(PointJudge):
        """Finds success everywhere for one instruction and nowhere for the other; half a point for any third."""

        def judge(self, videos: Sequence[np.ndarray], instructions: Sequence[str]) -> list[Verdict]:
            scores = {INSTRUCTIONS[0]: 1.0, INSTRUCTIONS[1]: 0.0}
            return [Verdict(scores.get(text, 0.5), 1.0, "") for text in instructions]

    policy = PointPolicy()
    frame = point_starts(1)[0].frame
    starts = [Start(text, frame) for text in (*INSTRUCTIONS, "go up", INSTRUCTIONS[1])]
    config = dataclasses.replace(CONFIG, groups=4, horizon=3)
    run = RunFolder(tmp_path, None, False)
    trainer = GRPOTrainer(policy, policy, PointEnvironment(), Decided(), starts, config, run)
    with pytest.raises(BudgetSpent):
        trainer.source.generate(trainer.update, len(trainer.carried), late=lambda: True)
    most, *others = trainer.source.hindrance.split("; 1 groups otherwise: ")
    assert "nearly all rollouts fail" in most and len(others) == 2
    assert "succeed" in "".join(others) and "same partial credit" in "".join(others)


def test_a_judge_that_cannot_go_on_ends_the_rollouts_at_once() -> None:
    class Broke(PointJudge):
        def judge(self, videos: Sequence[np.ndarray], instructions: Sequence[str]) -> list[Verdict]:
            raise JudgeError("no money left")

    chunks: list[int] = []
    with pytest.raises(JudgeError, match="no money left"):
        run_rollouts(
            PointPolicy(),
            PointEnvironment(1),
            Broke(),
            point_starts(40),
            list(range(40)),
            RolloutOptions(3, 1.0),
            lambda: (chunks.append(1), time.sleep(0.02))[0],
        )
    assert len(chunks) < 10, "of 40 batches"


class MoodyJudge(PointJudge):
    """Abstains on some rollouts, or on all, and may give a score that is not a number."""

    def __init__(self, share: float) -> None:
        self._share, self._count = share, 0

    def judge(self, videos: Sequence[np.ndarray], instructions: Sequence[str]) -> list[Verdict]:
        verdicts = super().judge(videos, instructions)
        for index in range(len(verdicts)):
            self._count += 1
            if self._share >= 1 or self._count % round(1 / self._share) == 0:
                verdicts[index] = Verdict(float("nan") if self._count % 2 else None, 0.0, "no answer")
        return verdicts


def test_an_abstention_leaves_its_group_and_is_no_failure(tmp_path: Path) -> None:
    policy = PointPolicy()
    config = dataclasses.replace(CONFIG, learning_rate=1e-9)

    def train(judge: PointJudge, name: str) -> dict[str, float]:
        run = RunFolder(tmp_path / name, config, False)
        return GRPOTrainer(policy, policy, PointEnvironment(), judge, point_starts(8), config, run).step()

    clean, moody = train(PointJudge(), "clean"), train(MoodyJudge(0.3), "moody")
    assert moody["abstentions"] >= 15 and clean["abstentions"] == 0
    assert moody["mean_reward"] == pytest.approx(clean["mean_reward"], abs=0.12), (
        "abstentions do not drag the mean down"
    )
    few = dataclasses.replace(CONFIG, min_group_size=8)
    trainer = GRPOTrainer(
        policy,
        policy,
        PointEnvironment(),
        MoodyJudge(0.3),
        point_starts(8),
        few,
        RunFolder(tmp_path / "few", few, False),
    )
    with pytest.raises(StopIteration):
        trainer.source.generate(trainer.update, len(trainer.carried), stop_after(9))
    assert not trainer.carried, "groups left too small are not used"


def stop_after(ticks: int) -> Callable[[], None]:
    count = iter(range(ticks))

    def tick() -> None:
        next(count)

    return tick


@pytest.mark.parametrize(
    ("place", "judge", "advice"),
    [
        (0.1, PointJudge(), ("raise the temperature", "easier start frames", "partial credit")),
        (0.95, PointJudge(), ("take harder start frames, or stop here",)),
    ],
    ids=["hopeless", "solved"],
)
def test_batches_without_a_lesson_end_in_a_warning_that_says_what_to_change(
    place: float, judge: PointJudge, advice: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = PointPolicy()
    config = dataclasses.replace(CONFIG, horizon=3, warn_after=2, give_up_after=5)
    starts = [Start(INSTRUCTIONS[0], render(np.array([[place, 0.5]]))[0])]
    run = RunFolder(tmp_path, None, False)
    trainer = GRPOTrainer(policy, policy, PointEnvironment(), judge, starts, config, run)
    with pytest.raises(NothingToLearn):
        trainer.source.generate(trainer.update, len(trainer.carried))
    assert trainer.source.batch == 5 and not trainer.update
    told = " ".join(capsys.readouterr().err.split())
    assert told.count("warning: no usable group in the last") == 2, "after 2 batches and after 4"
    assert all(words in told for words in advice), told


def test_a_judge_that_never_gave_a_verdict_ends_practice_with_the_first_batch_and_in_its_own_words(
    tmp_path: Path,
) -> None:
    policy = PointPolicy()
    run = RunFolder(tmp_path, None, False)
    trainer = GRPOTrainer(policy, policy, PointEnvironment(), MoodyJudge(1.0), point_starts(8), CONFIG, run)
    with pytest.raises(NothingToLearn):
        trainer.step()
    assert trainer.source.batch == 1 and "the judge abstained too often" in trainer.source.hindrance
    assert any(why in trainer.source.hindrance for why in ("no answer", "is not a number")), "why it abstained"


def test_a_station_s_truth_ends_rollouts_and_masks_what_follows() -> None:
    policy = PointPolicy()
    starts = [Start(INSTRUCTIONS[0], None, "right", 5)] * 40
    rollouts = run_rollouts(
        policy, PointEnvironment(noise=0.05), TruthJudge(), starts, list(range(40)), RolloutOptions(30, 1.0)
    )
    assert all(np.array_equal(r.frames[0], rollouts[0].frames[0]) for r in rollouts), "one reset for the group"
    ended = [r for r in rollouts if r.reward == 1]
    assert ended and len(ended) < 40
    for rollout in ended:
        steps = len(rollout.actions)
        assert rollout.mask.sum() == steps * 7 and rollout.mask.reshape(-1)[: steps * 7].all()
    assert all(len(r.actions) == 30 for r in rollouts if r.reward == 0)


class WatchfulJudge(PointJudge):
    """Looks at every second frame and says where it saw the dot arrive."""

    def frame_indices(self, n_frames: int) -> list[int]:
        return list(range((n_frames - 1) % 2, n_frames, 2))

    def judge(self, videos: Sequence[np.ndarray], instructions: Sequence[str]) -> list[Verdict]:
        verdicts = []
        for video, instruction in zip(videos, instructions):
            there = reached(locate(video), instruction)
            verdicts.append(Verdict(float(there.any()), 1.0, "", int(np.argmax(there)) if there.any() else None))
        return verdicts


def test_what_follows_an_imagined_completion_is_not_learned_from() -> None:
    starts = group_starts(point_starts(1)[0], 40, 0)
    seeds = list(range(40))

    def run(stop: bool) -> list[Rollout]:
        options = RolloutOptions(24, 1.0, stop_at_success=stop, keep_video=True)
        return run_rollouts(PointPolicy(), PointEnvironment(noise=0.05), WatchfulJudge(), starts, seeds, options)

    whole, cut = run(False), run(True)
    assert 3 < sum(r.reward for r in cut) < 40 and all(len(r.actions) == 24 and r.mask.all() for r in whole)
    for long, short in zip(whole, cut):
        assert short.verdict == long.verdict and short.verdict is not None
        if short.reward == 1:
            assert short.verdict.completed_at is not None
            step = WatchfulJudge().frame_indices(25)[short.verdict.completed_at]
            chunks = -(-step // 3)
            assert len(short.actions) == 3 * chunks >= step > len(short.actions) - 3
            assert short.mask[:chunks].all() and not short.mask[chunks:].any()
        else:
            assert short.mask.all() and len(short.actions) == 24


def test_a_last_chunk_longer_than_the_horizon_is_cut() -> None:
    rollouts = run_rollouts(
        PointPolicy(), PointEnvironment(), PointJudge(), point_starts(2), [0, 1], RolloutOptions(7, 1.0)
    )
    assert all(len(r.actions) == 7 and r.mask.sum() == 49 and len(r.mask) == 3 for r in rollouts)


def test_a_policy_gone_mad_is_named() -> None:
    policy = PointPolicy()
    with torch.no_grad():
        policy.head.weight.fill_(float("nan"))
    with pytest.raises(DataError, match="not finite"):
        run_rollouts(policy, PointEnvironment(), PointJudge(), point_starts(1), [0], RolloutOptions(3, 1.0))


def test_a_log_probability_that_is_no_number_stops_the_update_and_changes_nothing(tmp_path: Path) -> None:
    policy = PointPolicy()
    groups = roll(policy, point_starts(4))
    groups[2].rollouts[1].log_probs[0, 0] = np.nan
    run = RunFolder(tmp_path, None, False)
    config = dataclasses.replace(CONFIG, minibatch=1000)
    trainer = GRPOTrainer(policy, policy, PointEnvironment(), PointJudge(), point_starts(2), config, run)
    before = trainer.weights()
    with pytest.raises(DataError, match="loss is not finite"):
        trainer.update_policy(groups, trainer.update)
    assert all(torch.equal(value, before[name]) for name, value in trainer.weights().items())


def test_shipped_recipes_differ_in_values_only_and_bad_ones_are_refused(tmp_path: Path) -> None:
    paper, mini = load_recipe("paper"), load_recipe("mini")
    assert (paper.groups, paper.group_size, paper.horizon, paper.temperature) == (20, 8, 40, 1.6)
    assert (paper.learning_rate, paper.clip_low, paper.clip_high, paper.trainable) == (5e-6, 0.2, 0.28, "full")
    assert mini.trainable == "lora"
    with pytest.raises(ConfigError, match="neither a file nor a shipped recipe"):
        load_recipe("papre")
    (tmp_path / "bad.yaml").write_text("group_size: 1\n")
    with pytest.raises(ConfigError, match="group_size"):
        load_recipe(str(tmp_path / "bad.yaml"))
