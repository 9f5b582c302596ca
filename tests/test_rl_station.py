"""The trainer and the trials on the simulated station: the same code as in imagination, with the station's truth."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gymnast_core.cli import main
from gymnast_core.config import StationConfig, load_config
from gymnast_core.data.episode import find_episodes, read_episode
from gymnast_core.evaluation.adapter import compare_adapter
from gymnast_core.evaluation.adapter_config import CompareConfig
from gymnast_core.policy import adapters
from gymnast_core.policy.openvla import load_policy
from gymnast_core.protocols import Start, StepResult
from gymnast_core.results import read_result
from gymnast_core.reward.truth import TruthJudge
from gymnast_core.rl.config import GRPOConfig
from gymnast_core.rl.groups import BudgetSpent
from gymnast_core.rl.train_result import TrainResult
from gymnast_core.rl.trainer import GRPOTrainer
from gymnast_core.rollout.trials import run_trials
from gymnast_core.run_folder import RunFolder
from gymnast_core.simulation.environment import StationEnvironment
from gymnast_core.simulation.expert import ExpertPolicy
from gymnast_core.simulation.success import JointSuccess, credit
from tests.point_world import INSTRUCTIONS, PointEnvironment, PointPolicy, locate
from tests.tiny_station import build_tiny_station


@pytest.fixture(scope="module")
def station(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_station(tmp_path_factory.mktemp("tiny"), simulated=True)


def test_grpo_on_the_station_is_labelled_as_the_upper_bound(station: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = ["--environment", "station", "--config", station, "--run", run, "--updates", 1, "--resets", 2]
    words += ["--partial-credit"]
    assert main(["train", *map(str, words), "--out", "a/b"]) == 2 and not run.exists(), "seen before any training"
    assert main(["train", *map(str, words), "--out", "bound", "--adapters", str(tmp_path)]) == 0
    result = json.loads((run / "result.json").read_text())
    assert result["environment"] == "station" and result["stopped_by"] == "iterations" and result["updates"] == 1
    page = (run / "report.html").read_text()
    assert "Upper bound" in page and "no update was made" not in page
    assert (tmp_path / "bound" / "adapter.json").exists()
    assert read_result(TrainResult, run).chosen_update == 1


def test_a_training_that_time_ended_says_so_loudly(
    station: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--environment", "station", "--config", station, "--run", tmp_path / "run", "--updates", 1000]
    words += ["--partial-credit", "--resets", 2, "--seconds", 0.5, "--out", "bound", "--adapters", tmp_path]
    assert main(["train", *map(str, words)]) in (0, 1)
    result = read_result(TrainResult, tmp_path / "run")
    assert result.stopped_by == "time" and result.updates < 1000
    words = f"time ended this practice after {result.updates} updates, not its number of updates (1000)"
    assert (
        words in " ".join(capsys.readouterr().err.split()) and words in (tmp_path / "run" / "report.html").read_text()
    )


def test_a_training_without_any_update_has_its_page_and_saves_nothing(station: Path, tmp_path: Path) -> None:
    words = ["--environment", "station", "--config", station, "--run", tmp_path / "run"]
    words += ["--seconds", 0.01, "--resets", 2]  # over after one batch, in which an untrained policy always fails
    assert main(["train", *map(str, words), "--out", "bound", "--adapters", str(tmp_path)]) == 1
    assert "no update was made" in (tmp_path / "run" / "report.html").read_text()
    assert not (tmp_path / "bound").exists()


def test_an_adapter_is_compared_with_its_base_on_the_same_resets(station: Path, tmp_path: Path) -> None:
    policy = load_policy(station.parent / "policy")
    adapters.attach(policy, "x", rank=2)
    adapters.AdapterStore(tmp_path).save(policy, "x", "fresh")
    config = CompareConfig(
        "fresh", str(station), ("open_drawer",), 2, adapters=str(tmp_path), run=str(tmp_path / "run"), log=True
    )
    assert compare_adapter(config) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    base, adapted = result["open_drawer/base"], result["open_drawer/fresh"]
    assert base == adapted and len(base["outcomes"]) == 2, "a fresh adapter changes nothing, and resets are the same"
    assert result["open_drawer/difference"] == {"mean": 0.0, "standard_error": 0.0}
    episodes = [read_episode(folder) for folder in find_episodes(tmp_path / "run" / "episodes" / "base")]
    assert [episode.success for episode in episodes] == base["outcomes"]
    assert all(len(episode.frames) == episode.length + 1 and episode.complete for episode in episodes)
    assert "open_drawer" in (tmp_path / "run" / "report.html").read_text()

    words = ["adapter", "evaluate", "--adapter", "fresh", "--config", station, "--tasks", "open_drawer", "--trials", 2]
    words += ["--adapters", tmp_path, "--look-ahead", 2, "--run", tmp_path / "thinking", "--log"]
    assert main([str(word) for word in words]) == 0
    thinking = json.loads((tmp_path / "thinking" / "result.json").read_text())
    assert thinking["look_ahead"] == 2 and thinking["open_drawer/base"] == thinking["open_drawer/fresh"]
    assert "2 candidates imagined before each chunk" in (tmp_path / "thinking" / "report.html").read_text()
    folders = list(find_episodes(tmp_path / "thinking" / "episodes" / "fresh"))
    assert [read_episode(folder).metadata["look_ahead"] for folder in folders] == [2, 2]
    done = [[read_episode(folder).actions for folder in find_episodes(tmp_path / name)] for name in ("run", "thinking")]
    assert any(not np.array_equal(*pair) for pair in zip(*done)), "thinking changes what is done"


class At:
    """A scene whose drawer is open so far, metres."""

    def __init__(self, position: float) -> None:
        self.position = position

    def joint_position(self, name: str) -> float:
        return self.position

    def inside(self, body: str, site: str) -> np.ndarray:
        raise AssertionError("a drawer lies in no place")

    def is_held(self, body: str) -> bool:
        raise AssertionError("a drawer is not carried")


@settings(deadline=None)
@given(st.floats(-0.02, 0.14), st.floats(-0.02, 0.14), st.sampled_from([(0.06, 1e9), (-1e9, 0.015), (0.05, 0.08)]))
def test_credit_is_one_at_success_only_and_grows_on_the_way(
    position: float, start: float, limits: tuple[float, float]
) -> None:
    success, whole = JointSuccess("drawer", *limits), JointSuccess("drawer", *limits).distance(At(start))
    found = credit(success, At(position), whole)
    assert (found == 1.0) == success.holds(At(position)) and 0 <= found <= 1
    closer = position + np.sign(np.clip(position, *limits) - position) * 0.004
    assert credit(success, At(float(closer)), whole) >= found
    if not success.holds(At(start)):
        assert credit(success, At(start), whole) == 0


@pytest.mark.parametrize("task", ["open_drawer", "close_drawer"])
def test_the_drawer_s_travel_is_credit_until_it_is_success(station: Path, task: str) -> None:
    environment = StationEnvironment(load_config(StationConfig, station))
    expert = ExpertPolicy(environment)
    frames = environment.reset([Start(task.replace("_", " the "), None, task, 3)])
    credits, successes = [], []
    for _ in range(25):
        result = environment.step(expert.act(frames, [task.replace("_", " the ")]))
        assert result.credit is not None
        credits.append(float(result.credit[0, -1]))
        successes.append(bool(result.success[0, -1]))
        if successes[-1]:
            break
    assert successes[-1] and credits[-1] == 1.0 and max(credits[:-1]) < 1.0 and credits[0] == 0.0
    assert len([c for c in credits if 0.05 < c < 0.99]) >= 2, "some steps lie on the way"


class ShyEnvironment(PointEnvironment):
    """No dot ever arrives; the credit says how far to the right it has come."""

    def step(self, actions: np.ndarray) -> StepResult:
        result = super().step(actions)
        credit = np.floor(np.clip((self._position[:, 0] - 0.3) / 2, 0, 0.99) * 100) / 100
        spread = np.repeat(credit[:, None], actions.shape[1], axis=1)
        return replace(result, success=np.zeros_like(result.success), credit=spread)


def test_partial_credit_teaches_where_every_rollout_fails(tmp_path: Path) -> None:
    starts = [Start(INSTRUCTIONS[0], None, "right", seed) for seed in range(8)]

    def build(credit: float) -> GRPOTrainer:
        config = GRPOConfig(groups=4, min_groups=1, horizon=9, temperature=1.0, learning_rate=5e-3, warn_after=1)
        config = replace(config, progress_credit=credit)
        policy, run = PointPolicy(), RunFolder(tmp_path, None, False)
        return GRPOTrainer(policy, policy, ShyEnvironment(), TruthJudge(), starts, config, run)

    with pytest.raises(BudgetSpent):
        build(0.0).source.generate(0, 0, late=lambda: True)
    trainer = build(1.0)
    metrics = [trainer.step() for _ in range(12)]
    assert all(m["success/move_the_dot_right"] == 0 for m in metrics), "credit is no success"
    assert metrics[0]["usable_groups"] == 1.0 and 0 < metrics[0]["mean_reward"] < 1
    assert metrics[-1]["mean_reward"] > metrics[0]["mean_reward"] + 0.05


def test_a_trial_ends_at_success_and_depends_on_its_seed_alone() -> None:
    starts = [Start(INSTRUCTIONS[0], None, "right", seed) for seed in range(30)]
    policy = PointPolicy(seed=4)
    together = run_trials(policy, PointEnvironment(noise=0.05), starts, 30, temperature=1.0)
    alone = run_trials(policy, PointEnvironment(1, noise=0.05), starts[:8], 30, temperature=1.0)
    assert {trial.success for trial in together} == {True, False}
    for trial in together:
        assert (trial.steps < 30) == trial.success or trial.steps == 30
        seen = float(locate(trial.frames[-1])[0])  # to half a pixel of 32
        assert seen > 0.70 if trial.success else seen < 0.74
    for one, other in zip(together, alone):
        assert (one.success, one.steps) == (other.success, other.steps)
        assert np.array_equal(one.frames[-1], other.frames[-1])
