"""The trainer and the trials on the simulated station: the same code as in imagination, with the station's truth."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from point_world import INSTRUCTIONS, PointEnvironment, PointPolicy, locate
from tiny_station import build_tiny_station

from gymnast_core.cli import main
from gymnast_core.data.episode import find_episodes, read_episode
from gymnast_core.evaluation.compare import CompareConfig, compare_adapter, run_trials
from gymnast_core.policy import adapters
from gymnast_core.policy.openvla import load_policy
from gymnast_core.protocols import Start


@pytest.fixture(scope="module")
def station(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_station(tmp_path_factory.mktemp("tiny"), simulated=True)


def test_grpo_on_the_station_is_labelled_as_the_upper_bound(station: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = ["--environment", "station", "--config", station, "--run", run, "--seconds", 2, "--resets", 2]
    assert main(["train", *map(str, words), "--out", "bound", "--adapters", str(tmp_path)]) == 0
    result = json.loads((run / "result.json").read_text())
    assert result["environment"] == "station" and result["stopped_by"] in ("time", "iterations")
    assert "Upper bound" in (run / "report.html").read_text() and (tmp_path / "bound" / "adapter.json").exists()


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
