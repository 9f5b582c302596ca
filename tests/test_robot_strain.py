"""What a policy costs the arm: the same figures from the simulated station, from its log and from logs without them."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gymnast_core.config import ExecutorConfig, StationConfig, load_config
from gymnast_core.data.episode import EpisodeWriter, read_episode
from gymnast_core.errors import DataError
from gymnast_core.evaluation.session import PlannedTrial, TrialRecord
from gymnast_core.evaluation.simulated_bench import SimulatedBench
from gymnast_core.protocols import Start, Verdict
from gymnast_core.robot.strain import ArmStrain, StepStrain, count_events, hard_events, read_strain, total
from gymnast_core.rollout.ending import SuccessWatch
from gymnast_core.rollout.trials import run_trials
from gymnast_core.simulation.environment import StationEnvironment

STATION = load_config(StationConfig, Path(__file__).parents[1] / "robot_configs" / "simulated_drawer.yaml")
names = st.sampled_from(["translation_clipped", "drift_limited", "unreachable", "overload", "stale"])
steps = st.lists(
    st.builds(
        StepStrain,
        st.lists(names, max_size=3).map(tuple),
        st.lists(st.sampled_from(["overload", "silent"]), max_size=2).map(tuple),
        st.floats(0, 3) | st.just(math.nan),
    ),
    max_size=6,
)


class Pusher:
    """Goes down by two centimetres in every step: after a few steps it pushes against the table."""

    chunk_length = 3

    def act(self, frames: np.ndarray, instructions: Sequence[str]) -> np.ndarray:
        return np.tile(np.array([0, 0, -0.02, 0, 0, 0, 1], np.float32), (len(frames), 3, 1))


@given(steps, steps)
def test_the_sum_of_two_parts_is_the_whole(first: list[StepStrain], second: list[StepStrain]) -> None:
    assert ArmStrain.of(first) + ArmStrain.of(second) == ArmStrain.of([*first, *second])
    whole = ArmStrain.of([*first, *second])
    assert whole.refused + whole.clipped <= len(first) + len(second)
    assert hard_events(count_events(first)) <= sum(len(step.names) for step in first)
    assert total([]) == ArmStrain()


def test_what_each_name_means() -> None:
    smaller = StepStrain(("translation_clipped", "drift_limited"), (), 0.4)
    refused = StepStrain(("translation_clipped", "unreachable"), ("silent",))
    held = StepStrain((), ("overload",), 1.2)
    assert ArmStrain.of([smaller, refused, held]) == ArmStrain(2, 1, 1, 1.2)
    events = count_events([smaller, refused, held])
    assert events["holding:overload"] == 1 and hard_events(events) == 2, "silence is not the policy's doing"


@pytest.fixture(scope="module")
def pushed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An episode of pushing against the table with a low limit of effort, logged."""
    folder = tmp_path_factory.mktemp("pushed")
    low = dataclasses.replace(STATION.arm, max_effort_ma=1200.0)
    deep = dataclasses.replace(STATION.safety, workspace_min=(0.1, -0.2, -0.2))
    station = dataclasses.replace(STATION, arm=low, safety=deep)
    bench = SimulatedBench(station, lambda name: Pusher(), folder)
    bench.reset("open_drawer", 3)
    outcome = bench.run(PlannedTrial("open_drawer", 3), 30, lambda phase, nested: None)
    bench.close()
    assert outcome.steps == 30 and outcome.strain.holds >= 2 and (outcome.strain.peak_load or 0) > 1.0
    assert outcome.events["holding:overload"] == outcome.strain.holds
    return Path(outcome.episode_path)


def test_an_arm_that_pushes_is_held_and_every_record_says_so(pushed: Path) -> None:
    episode, cost = read_episode(pushed), read_strain(pushed)
    assert len(cost) == episode.length == 30 and all(math.isfinite(step.load) for step in cost)
    first = next(number for number, step in enumerate(cost) if step.holds)
    assert max(step.load for step in cost[: first + 1]) > 1.0 and cost[0].holds == ()
    after = episode.states[first + 1 : first + 3, 2]
    assert abs(after[1] - after[0]) < 0.02, "held where it was"


def test_free_motion_costs_nothing() -> None:
    environment = StationEnvironment(STATION)
    environment.reset([Start("x", task="open_drawer", seed=1)])
    result = environment.step(np.tile(np.array([0, 0.01, 0, 0, 0, 0, 1], np.float32), (1, 5, 1)))
    environment.close()
    assert result.loads is not None and 0 < result.loads.max() < 1
    assert ArmStrain.of([StepStrain(*pair) for pair in zip(result.safety_events[0], result.holds[0])]) == ArmStrain()


def test_episodes_and_trials_logged_without_it_still_load(tmp_path: Path) -> None:
    with EpisodeWriter(tmp_path / "old", "x", {}) as writer:
        for _ in range(2):
            writer.add_observation(np.zeros((16, 16, 3), np.uint8))
            writer.add_step(np.zeros(7), safety_events=["unreachable"])
        writer.add_observation(np.zeros((16, 16, 3), np.uint8))
        writer.finish()
    assert "holds" not in (tmp_path / "old" / "steps.jsonl").read_text()
    assert ArmStrain.of(read_strain(tmp_path / "old")) == ArmStrain(0, 2, 0, None)
    old = {"trial": 0, "seed": 1, "policy": "base", "outcome": 1, "truth": None, "judge_score": None, "steps": 3}
    old |= {"seconds": 1.0, "episode_path": "", "message": ""}
    assert TrialRecord(**old).strain == ArmStrain()  # type: ignore[arg-type]
    line = {"step": 0, "action": [0] * 7, "executed": [0] * 7, "safety_events": [], "holds": "overload", "load": 1}
    (tmp_path / "old" / "steps.jsonl").write_text(json.dumps(line))
    with pytest.raises(DataError, match=r"step 0: holds: found 'overload', needed a list of names"):
        read_strain(tmp_path / "old")
    (tmp_path / "old" / "steps.jsonl").write_text(json.dumps({**line, "holds": [], "load": -1}))
    with pytest.raises(DataError, match="step 0: load: found -1, needed a number from 0, or null"):
        read_strain(tmp_path / "old")


class AfterFrames:
    """Sees success from the given count of frames on, and whatever `script` says instead."""

    name = "after"

    def __init__(self, script: dict[int, float | None]) -> None:
        self.script, self.shown = script, 0

    def frame_indices(self, n_frames: int) -> list[int]:
        self.shown = n_frames
        return [n_frames - 1]

    def judge(self, videos: Sequence[np.ndarray], instructions: Sequence[str]) -> list[Verdict]:
        return [Verdict(self.script.get(self.shown, 0.0), 1.0, "as written")]


@pytest.mark.parametrize(
    ("script", "looks", "every", "steps"),
    [
        ({4: 1.0, 5: 1.0}, 2, 1, 4),
        ({4: 1.0, 5: None, 6: 1.0, 7: 1.0}, 2, 1, 6),
        ({4: 1.0, 5: 1.0, 7: 1.0}, 1, 3, 3),
        ({1: 1.0, 2: 0.5}, 1, 1, 9),
    ],
)
def test_a_trial_ends_after_enough_looks_in_a_row(
    script: dict[int, float | None], looks: int, every: int, steps: int
) -> None:
    """The frame before any action does not count, nor does half a point; an abstention begins the count anew."""
    config = ExecutorConfig(True, every, looks)
    environment = StationEnvironment(STATION)
    start = Start("x", task="open_drawer", seed=1)
    ending = lambda instruction: SuccessWatch(AfterFrames(script), instruction, config)  # noqa: E731
    (trial,) = run_trials(Pusher(), environment, [start], 9, ending=ending)
    environment.close()
    assert trial.steps == steps and len(trial.strain) == steps and not trial.success, "the truth has the last word"
