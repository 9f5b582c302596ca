"""Looking before acting: better than acting at once where imagination is right, and the greedy policy otherwise."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.openai_server import Server
from gymnast_core.cli import main
from gymnast_core.config import ArmConfig, LookAheadConfig, SafetyConfig
from gymnast_core.data.episode import read_episode
from gymnast_core.errors import ConfigError
from gymnast_core.policy.load import open_policy
from gymnast_core.policy.names import read_name
from gymnast_core.policy.scripted import ScriptedPolicy
from gymnast_core.protocols import Start, Verdict
from gymnast_core.robot.safety import DeadReckoning
from gymnast_core.rollout.look_ahead import LookAheadPolicy, best, open_look_ahead
from gymnast_core.rollout.rollout import Rollout
from gymnast_core.rollout.trials import run_trials
from tests.point_world import INSTRUCTIONS, PointEnvironment, PointJudge, PointPolicy, locate, point_starts
from tests.tiny_station import build_tiny_station, picture

OPTIONS = LookAheadConfig(rollouts=12, horizon=9, temperature=1.0)


class Forbidden(PointEnvironment):
    """An imagination nobody may use."""

    def reset(self, starts: Sequence[Start]) -> np.ndarray:
        raise AssertionError("imagined although it is switched off")


class SilentJudge(PointJudge):
    def judge(self, videos: Sequence[np.ndarray], instructions: Sequence[str]) -> list[Verdict]:
        return [Verdict(None, 0.0, "no answer")] * len(videos)


class GradedJudge(PointJudge):
    """How far the dot has come, with partial credit."""

    def judge(self, videos: Sequence[np.ndarray], instructions: Sequence[str]) -> list[Verdict]:
        places = [float(locate(video[-1])[0]) for video in videos]
        return [Verdict(x if "right" in text else 1 - x, 1.0, "") for x, text in zip(places, instructions)]


def test_looking_ahead_beats_the_same_policy_acting_at_once() -> None:
    policy = PointPolicy(seed=4)
    starts = [Start(INSTRUCTIONS[i % 2], None, "side", i) for i in range(30)]

    def rate(rollouts: int) -> float:
        options = dataclasses.replace(OPTIONS, rollouts=rollouts, horizon=6)
        acting = LookAheadPolicy(policy, PointEnvironment(1000), GradedJudge(), options)
        return float(np.mean([trial.success for trial in run_trials(acting, PointEnvironment(1000), starts, 18)]))

    plain = np.mean([trial.success for trial in run_trials(policy, PointEnvironment(1000), starts, 18)])
    assert rate(0) == plain
    few, many = rate(2), rate(12)
    assert plain < few < many and many > plain + 0.4, f"acting at once {plain:.2f}, 2: {few:.2f}, 12: {many:.2f}"


def test_off_or_without_any_verdict_it_is_the_greedy_policy() -> None:
    policy = PointPolicy(seed=4)
    frames, told = np.stack([start.frame for start in point_starts(4)]), list(INSTRUCTIONS) * 2
    greedy = policy.act(frames, told)
    off = LookAheadPolicy(policy, Forbidden(), PointJudge(), dataclasses.replace(OPTIONS, rollouts=0))
    silent = LookAheadPolicy(policy, PointEnvironment(), SilentJudge(), OPTIONS)
    assert np.array_equal(off.act(frames, told), greedy) and np.array_equal(silent.act(frames, told), greedy)
    with pytest.raises(ConfigError, match=r"look_ahead.rollouts: found 12, but ScriptedPolicy cannot sample"):
        LookAheadPolicy(ScriptedPolicy(np.zeros((3, 7), np.float32)), Forbidden(), PointJudge(), OPTIONS)


def test_the_seed_decides_and_the_cutting_of_batches_does_not() -> None:
    frames, told = np.stack([start.frame for start in point_starts(4)]), list(INSTRUCTIONS) * 2

    def chunks(seed: int, max_rollouts: int) -> np.ndarray:
        policy = LookAheadPolicy(PointPolicy(seed=4), PointEnvironment(max_rollouts), PointJudge(), OPTIONS)
        policy.begin(seed)
        return np.stack([policy.act(frames, told), policy.act(frames, told)])

    first = chunks(1, 1000)
    assert np.array_equal(first, chunks(1, 7)) and not np.array_equal(first, chunks(2, 1000))
    assert not np.array_equal(first[0], first[1]), "a frame that comes again gets new candidates"


def test_imagination_begins_where_the_chunks_so_far_have_brought_the_arm() -> None:
    arm = DeadReckoning(ArmConfig(), SafetyConfig())
    seen: list[list[float] | None] = []

    class Watched(PointEnvironment):
        def reset(self, starts: Sequence[Start]) -> np.ndarray:
            assert len({str(start.position) for start in starts}) == 1, "one robot, one place"
            seen.append(None if starts[0].position is None else list(starts[0].position))
            return super().reset(starts)

    frames, told = np.stack([point_starts(1)[0].frame]), [INSTRUCTIONS[0]]
    acting = LookAheadPolicy(PointPolicy(seed=4), Watched(1000), PointJudge(), OPTIONS, arm=arm)
    chunks = [acting.act(frames, told)[0] for _ in range(2)]
    acting.begin(5)
    acting.act(frames, told)
    start = arm.begin()
    assert seen[0] == seen[2] == start.tolist()
    for action in chunks[0]:
        _, start, _ = arm.follow(start, action)
    assert seen[1] == start.tolist() != seen[0]
    acting.place(np.array([[0.3, 0.1, 0.05]]))
    acting.act(frames, told)
    assert seen[3] == [0.3, 0.1, 0.05], "what was measured counts"
    acting.act(np.repeat(frames, 2, axis=0), told * 2)
    assert seen[4] == arm.begin().tolist(), "of other robots nothing is known"


def rollout(
    score: float | None, confidence: float = 1.0, completed_at: int | None = None, progress: tuple[float, ...] = ()
) -> Rollout:
    nothing = np.zeros((1, 21))
    verdict = Verdict(score, confidence, "", completed_at, progress=progress)
    actions, changed, truth = np.zeros((9, 7)), np.zeros(9, bool), np.full(9, np.nan)
    events = ((),) * 9
    return Rollout(
        Start("x"), nothing, nothing, nothing, nothing, actions, actions, 9, truth, np.nan, events, changed, verdict
    )


@pytest.mark.parametrize(
    ("worse", "better"),
    [
        (rollout(0.5), rollout(1.0)),
        (rollout(None), rollout(0.0, 0.9)),
        (rollout(1.0, 0.6), rollout(1.0, 0.95)),
        (rollout(0.0, 0.95), rollout(0.0, 0.6)),
        (rollout(0.0, 0.6, progress=(0.9, 0.2)), rollout(0.0, 0.95, progress=(0.1, 0.7))),
        (rollout(0.0, progress=(0.99,)), rollout(1.0, 0.6, progress=(0.8,))),
        (rollout(0.0, progress=(float("nan"),)), rollout(0.0, progress=(0.4,))),
    ],
    ids=["score", "an abstention never wins", "surer success", "less sure failure", "farther", "done", "no number"],
)
def test_the_best_is_told_by_score_then_by_progress_then_by_certainty(worse: Rollout, better: Rollout) -> None:
    assert best([worse, better], PointJudge()) is better and best([better, worse], PointJudge()) is better
    assert best([worse, worse], PointJudge()) is worse


def test_the_earliest_completion_breaks_a_tie() -> None:
    class Every(PointJudge):
        def frame_indices(self, n_frames: int) -> list[int]:
            return list(range(n_frames))

    late, early = rollout(1.0, 0.9, 7), rollout(1.0, 0.9, 4)
    assert best([late, early], Every()) is early and best([early, late], Every()) is early


def test_trials_on_the_station_can_look_ahead(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    station = build_tiny_station(tmp_path / "station", simulated=True)
    words = ["--config", station, "--policy", tmp_path / "station" / "policy", "--trials", 1, "--horizon", 5]
    words += ["--run", tmp_path / "run", "--workers", 1, "--look-ahead", 3]
    assert main(["policy", "evaluate", *map(str, words)]) == 0
    assert json.loads((tmp_path / "run" / "result.json").read_text())["all"]["n"] == 2, "one trial of each task"
    page = (tmp_path / "run" / "report.html").read_text()
    assert f"Policy: {tmp_path / 'station' / 'policy'}" in page and "imagines 3 candidates before each chunk" in page
    assert page.count("data:image/jpeg") == 2 and page.count("<td>episode_") == 2, "a film and a row for each trial"
    assert main(["policy", "evaluate", "--policy", "expert", "--look-ahead", "3", "--run", str(tmp_path / "no")]) == 2
    assert "look_ahead: found 3 with policy expert" in capsys.readouterr().err


def test_a_look_ahead_in_a_name_acts_as_one_in_the_station_file(tmp_path: Path) -> None:
    station = build_tiny_station(tmp_path / "station", simulated=True)
    content = yaml.safe_load(station.read_text())
    content["look_ahead"] = {"rollouts": 2, "horizon": 5}
    always = tmp_path / "station" / "always.yaml"
    always.write_text(yaml.safe_dump(content))
    content["look_ahead"]["rollouts"] = 0
    station.write_text(yaml.safe_dump(content))
    names = ("base", "look-ahead-2:base", f"look-ahead-2:{tmp_path / 'station' / 'policy'}")
    for file, policies in ((station, names), (always, ("base", "look-ahead:base"))):
        words = ["trials", str(file), "--policies", *policies, "--task", "open_drawer", "--trials", "1"]
        assert main([*words, "--max-steps", "6", "--run", str(tmp_path / file.stem)]) == 0
    episodes = {
        (folder.parent.parent.name, episode.metadata["policy"]): episode
        for folder in tmp_path.glob("*/episodes/*")
        for episode in [read_episode(folder)]
    }
    looked = {key: episode.metadata["look_ahead"] for key, episode in episodes.items()}
    assert looked.pop(("station", "base")) == 0 and list(looked.values()) == [2] * 4, looked
    acted = [episodes[key].actions for key in looked]
    assert all(np.array_equal(acted[0], other) for other in acted)
    assert not np.array_equal(acted[0], episodes["station", "base"].actions)


@given(st.one_of(st.none(), st.integers(1, 1024)), st.sampled_from(["base", "lab_1", "./a/b", "/models/x"]))
def test_the_name_of_a_look_ahead_says_who_acts_and_how_many_candidates(count: int | None, acts: str) -> None:
    name = f"look-ahead{'' if count is None else f'-{count}'}:{acts}"
    assert read_name(name) == (True, acts, count or 0)
    assert read_name(acts) == (False, acts, 0)
    with pytest.raises(ConfigError, match=r"^policy: found"):
        read_name(f"look-ahead:{name}")


def test_a_model_behind_an_api_chooses_among_imagined_chunks_and_its_answers_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    server = Server(lambda n, request: f"Final Score: {int(n == 2)}")
    file = build_tiny_station(tmp_path / "station")
    content = yaml.safe_load(file.read_text())
    content["judge"] = {"kind": "vlm", "base_url": server.url, "votes": 1, "concurrency": 1}
    file.write_text(yaml.safe_dump(content))
    policy = open_policy(content["models"]["policy"])
    acting = open_look_ahead(policy, file, 3, run_folder=str(tmp_path / "run"))
    chunk = acting.act(picture()[None], ["open the drawer"])
    server.close()
    assert chunk.shape == (1, policy.chunk_length, 7) and len(server.requests) == 4
    answers = [json.loads(line) for line in (tmp_path / "run" / "judge_answers.jsonl").read_text().splitlines()]
    assert [line["answer"] for line in answers].count("Final Score: 1") == 1
