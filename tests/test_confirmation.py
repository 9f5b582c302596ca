"""A success in imagination counts where other noise, and a second world model, end in it as well."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from gymnast_core.errors import ConfigError
from gymnast_core.protocols import Start, Verdict
from gymnast_core.rl.config import GRPOConfig
from gymnast_core.rl.groups import NothingToLearn
from gymnast_core.rl.trainer import GRPOTrainer
from gymnast_core.rollout.confirmation import OTHER_NOISE, SECOND_MODEL, Confirmation
from gymnast_core.rollout.confirmation_config import ConfirmationConfig
from gymnast_core.rollout.open import open_second_imagination
from gymnast_core.rollout.replay import replay_actions
from gymnast_core.rollout.rollout import RolloutOptions, run_rollouts
from gymnast_core.run_folder import RunFolder
from gymnast_core.seeds import derive_seed
from gymnast_core.station_file import open_station
from tests.point_world import INSTRUCTIONS, PointEnvironment, PointJudge, PointPolicy, point_starts, render

RIGHT = INSTRUCTIONS[0]


class Walled(PointEnvironment):
    """A world in which nothing gets past the middle: what the other one takes for success is none."""

    def step(self, actions: np.ndarray):  # type: ignore[no-untyped-def]
        held = actions.copy()
        held[..., :2] = 0.0
        return super().step(held)


class Hiding(PointEnvironment):
    """An arm that stands before the dot and looks like it, on the right, until it is lifted (dz > 0)."""

    def reset(self, starts: Sequence[Start]) -> np.ndarray:
        self._lifted = np.zeros(len(starts), bool)
        return super().reset(starts)

    def step(self, actions: np.ndarray):  # type: ignore[no-untyped-def]
        result = super().step(actions)
        for step in range(actions.shape[1]):
            self._lifted |= actions[:, step, 2] > 0
            number = len(self._frames) - actions.shape[1] + step
            hidden = render(np.tile([0.9, 0.5], (len(actions), 1)))
            self._frames[number] = np.where(self._lifted[:, None, None, None], self._frames[number], hidden)
        return dataclasses.replace(result, frames=self._frames[-1])


def moving(dx: float, steps: int = 6) -> np.ndarray:
    actions = np.zeros((steps, 7), np.float32)
    actions[:, 0] = dx
    return actions


def starts_at(x: float, count: int) -> list[Start]:
    frame = render(np.array([[x, 0.5]]))[0]
    return [Start(RIGHT, frame, seed=derive_seed("start", number)) for number in range(count)]


def test_what_only_lucky_noise_reaches_is_neither_success_nor_failure() -> None:
    environment, judge = PointEnvironment(noise=0.03), PointJudge()
    starts = starts_at(0.5, 60)
    actions = [moving(dx) for dx in np.linspace(0.0, 0.09, 60)]  # from hopeless over borderline to certain
    verdicts = [one.verdict for one in replay_actions(environment, judge, starts, actions)]
    confirm = Confirmation(environment, judge, noises=2)
    confirmed = confirm(starts, actions, verdicts)
    successes = [row for row, verdict in enumerate(verdicts) if verdict.completed]
    refused = [row for row in successes if confirmed[row].score is None]
    assert confirm.successes == len(successes) and confirm.refused == {OTHER_NOISE: len(refused)}
    assert 0 < len(refused) < len(successes)
    assert all(confirmed[row].reason == OTHER_NOISE for row in refused)
    untouched = [row for row in range(60) if row not in refused]
    assert all(confirmed[row] == verdicts[row] for row in untouched), "failures and robust successes stay as they are"
    # Of what is confirmed, more succeeds a further time than of what was believed.
    again = [dataclasses.replace(start, seed=derive_seed(start.seed, "a third time")) for start in starts]
    later = np.array([bool(one.verdict.completed) for one in replay_actions(environment, judge, again, actions)])
    kept = [row for row in successes if row not in refused]
    assert later[kept].mean() > later[successes].mean() > later[refused].mean()
    # How rollouts are batched changes nothing.
    small = Confirmation(PointEnvironment(max_rollouts=7, noise=0.03), judge, noises=2)
    assert small(starts, actions, verdicts) == confirmed


def test_what_only_one_world_model_rewards_is_not_confirmed_and_failures_cost_nothing() -> None:
    judge, second = PointJudge(), Walled(noise=0.0)
    resets: list[int] = []
    whole = second.reset
    second.reset = lambda starts: resets.append(len(starts)) or whole(starts)  # type: ignore[method-assign]
    starts, actions = starts_at(0.5, 4), [moving(0.08), moving(0.0), moving(0.08), moving(0.0)]
    verdicts = [Verdict(1.0, 1.0, ""), Verdict(0.0, 1.0, ""), Verdict(None, 0.0, "unclear"), Verdict(0.5, 1.0, "half")]
    confirm = Confirmation(PointEnvironment(noise=0.0), judge, noises=0, second=second)
    confirmed = confirm(starts, actions, verdicts)
    assert confirmed == [Verdict(None, 0.0, SECOND_MODEL), *verdicts[1:]] and resets == [1]
    agreeing = Confirmation(PointEnvironment(noise=0.0), judge, noises=1, second=PointEnvironment(noise=0.0))
    assert agreeing(starts, actions, verdicts) == verdicts and not agreeing.refused


def test_an_arm_that_hides_the_object_is_found_out_by_its_retreat() -> None:
    environment, judge = Hiding(noise=0.0), PointJudge()
    starts, actions = starts_at(0.5, 2), [moving(0.0), moving(0.06)]
    verdicts = [one.verdict for one in replay_actions(environment, judge, starts, actions)]
    assert [verdict.completed for verdict in verdicts] == [True, True], "both look like success"
    again = Confirmation(environment, judge, noises=1)
    assert again(starts, actions, verdicts) == verdicts, "other noise does not show it"
    retreat = ConfirmationConfig(noises=1, retreat=3).retreat_actions()
    assert retreat is not None and retreat.shape == (3, 7) and (retreat[:, 6] == 1.0).all()
    cleared = Confirmation(environment, judge, noises=1, retreat=retreat)
    assert [verdict.completed for verdict in cleared(starts, actions, verdicts)] == [None, True]


def test_practice_learns_from_confirmed_successes_alone(tmp_path: Path) -> None:
    config = GRPOConfig(groups=4, min_groups=1, group_size=8, horizon=9, temperature=1.0, give_up_after=3, seed=3)

    def build(name: str) -> GRPOTrainer:
        policy, environment = PointPolicy(), PointEnvironment(noise=0.05)
        confirm = Confirmation(environment, PointJudge(), noises=1, second=Walled(noise=0.0))
        run = RunFolder(tmp_path / name)
        return GRPOTrainer(
            policy, policy, environment, PointJudge(), point_starts(4), config, run, confirm=confirm, about={}
        )

    trainer = build("one")
    with pytest.raises(NothingToLearn):  # nothing is confirmed, so nothing is learned from
        for _ in range(config.give_up_after + 1):
            trainer.source.generate(0, 0)
    rollouts = run_rollouts(
        trainer.policy, trainer.environment, PointJudge(), point_starts(40), range(40), RolloutOptions(9, 1.0), None,
        Confirmation(trainer.environment, PointJudge(), noises=0, second=Walled(noise=0.0)),
    )  # fmt: skip
    assert not any(rollout.completed == 1.0 for rollout in rollouts)
    assert any(rollout.verdict is not None and rollout.verdict.reason == SECOND_MODEL for rollout in rollouts)


def test_a_second_model_of_the_same_weights_is_refused() -> None:
    station = open_station("simulated_drawer")
    assert open_second_imagination(station).image_size == 64, "the shipped one"
    models = dataclasses.replace(station.config.models, second_world_model="")
    none = dataclasses.replace(station, config=dataclasses.replace(station.config, models=models))
    with pytest.raises(ConfigError, match=r"models\.second_world_model: found none"):
        open_second_imagination(none)
    models = dataclasses.replace(station.config.models, second_world_model=station.config.models.world_model)
    same = dataclasses.replace(station, config=dataclasses.replace(station.config, models=models))
    with pytest.raises(ConfigError, match="trained apart"):
        open_second_imagination(same)


def test_a_retreat_is_described_with_its_figures() -> None:
    config = ConfirmationConfig(noises=2, second=True, retreat=4, meters=True)
    words = config.describe()
    assert words == "2 other noise, second world model, after a retreat of 4 steps by 0 0 0.02 m, meters"
    assert ConfirmationConfig().describe() == "" and not ConfirmationConfig(meters=True).replays
