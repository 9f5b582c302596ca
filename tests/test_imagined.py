"""Trials in imagination count what a judge said, lose and repeat nothing, and are held against real episodes."""

from __future__ import annotations

import json
import math
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from benchmarks.openai_server import Server
from gymnast_core.cli import main
from gymnast_core.correlations import correlation, rank_violation
from gymnast_core.data.episode import EpisodeWriter
from gymnast_core.data.formats import episodes_below, find_all
from gymnast_core.data.frames import write_image
from gymnast_core.errors import DataError
from gymnast_core.estimates import clustered_rate, success_rate
from gymnast_core.evaluation.correlate_result import CorrelationResult
from gymnast_core.evaluation.imagined_result import ImaginedResult
from gymnast_core.evaluation.imagined_starts import gather
from gymnast_core.results import read_result
from gymnast_core.rollout.starts import read_starts
from tests.machine import HANG_S, overdue
from tests.tiny_station import INSTRUCTION, TASKS, build_tiny_station, picture

OTHER = str(TASKS["close_drawer"]["instruction"])
REPEATS, STARTS = 3, 4
Outcomes = list[list[float]]
outcomes = st.lists(st.lists(st.sampled_from((0.0, 1.0, math.nan)), min_size=1, max_size=5), min_size=1, max_size=12)


def flat(clusters: Outcomes) -> tuple[list[float], list[int]]:
    return [y for one in clusters for y in one], [k for k, one in enumerate(clusters) for _ in one]


@given(outcomes)
def test_repeats_of_one_start_are_no_independent_trials(clusters: Outcomes) -> None:
    values, groups = flat(clusters)
    rate = clustered_rate(values, groups)
    assert rate.n == sum(math.isfinite(one) for one in values)
    assume(rate.n)
    assert rate.mean == pytest.approx(np.nanmean(values)) and rate.standard_error > 0, "nothing is ever certain"
    assert clustered_rate(*flat([one + one for one in clusters])).standard_error == pytest.approx(rate.standard_error)
    alone, plain = clustered_rate(values, range(len(values))), success_rate(values)
    assert (alone.mean, alone.standard_error) == pytest.approx((plain.mean, plain.standard_error))
    same = [[one[0]] * 4 for one in clusters if math.isfinite(one[0])]
    assume(same)
    assert clustered_rate(*flat(same)).standard_error == pytest.approx(
        success_rate([one[0] for one in same]).standard_error
    )


shares = st.lists(st.tuples(*[st.integers(0, 8).map(lambda k: k / 8)] * 2), min_size=3, max_size=12)


@given(shares)
def test_correlations_are_scipys_and_their_intervals_are_in_order(points: list[tuple[float, float]]) -> None:
    x, y = np.array(points).T
    for kind, theirs in (("pearson", stats.pearsonr), ("spearman", stats.spearmanr)):
        ours = correlation(x, y, kind, resamples=200)  # type: ignore[arg-type]
        if np.ptp(x) == 0 or np.ptp(y) == 0:
            assert ours.value is None
            continue
        assert ours.value == pytest.approx(float(theirs(x, y)[0]), abs=1e-9)
        assert ours.low is not None and ours.high is not None and -1 <= ours.low <= ours.high <= 1
        assert correlation(x, y, kind, resamples=200) == ours, "the seed decides"  # type: ignore[arg-type]
    assert 0 <= rank_violation(x, y) <= np.ptp(x) and rank_violation(x, 2 * x + 1) == 0
    assert correlation(x[:2], y[:2]).value is None, "two points always lie on a line"


def write_trials(folder: Path, count: int = STARTS, **entries: object) -> Path:
    """WorldGym's layout, in folders below each other: two instructions in turn."""
    for number in range(count):
        place = folder / f"scene_{number % 2}" / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        write_image(place, picture(number))
        about = {"instruction": (INSTRUCTION, OTHER)[number % 2], **entries}
        place.with_suffix(".json").write_text(json.dumps(about))
    return folder


def write_real(folder: Path, numbers: range, success: Callable[[int], bool]) -> Path:
    """Real episodes of two steps from the same frames, with the station's word on success after each step."""
    for number in numbers:
        with EpisodeWriter(folder / f"e{number}", (INSTRUCTION, OTHER)[number % 2], {"policy": "x"}) as writer:
            writer.add_observation(picture(number))
            for step in range(2):
                writer.add_step(np.zeros(7), np.zeros(7), (), None, None, success=success(number) and step == 1)
                writer.add_observation(picture(number))
            writer.finish(success=success(number), outcome_by="station")
    return folder


@pytest.fixture(scope="module")
def station(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_station(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def trials(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_trials(tmp_path_factory.mktemp("trials"))


def words_of(station: Path, run: Path, *more: object, **options: object) -> list[str]:
    options = {"config": station, "run": run, "repeats": REPEATS, "batch": 2, "temperature": 1.0, **options}
    return [
        "policy",
        "imagine",
        *(str(w) for name, value in options.items() for w in (f"--{name}", value)),
        *map(str, more),
    ]


def test_worldgyms_trials_are_episodes_of_one_frame(trials: Path, tmp_path: Path) -> None:
    found = episodes_below(trials, starts=True)
    assert [one.name for one in found] == ["0", "2", "1", "3"] and {one.count() for one in found} == {1}
    for one in found:
        assert one.read().length == 0 and np.array_equal(one.frame(0), picture(int(one.name)))
    with pytest.raises(DataError, match="no episode below it"):
        find_all(trials)  # there is nothing to learn from
    write_real(tmp_path, range(2), bool)
    write_image(tmp_path / "film.png", picture(9))  # a thumbnail of WorldGym's episode film.mp4 is no trial
    for name in ("film.npz", "film.json"):
        (tmp_path / name).write_text("{}")
    assert len(read_starts(tmp_path)) == 2
    beginnings = gather(
        [str(trials), str(tmp_path)], [f"{tmp_path / 'e0'}:1", str(trials / "scene_0/0.png")], OTHER, 48
    )
    assert len(beginnings) == STARTS + 1, "equal frames with equal instructions count once"
    assert len(gather([str(trials)], [], "", 48, limit=1)) == 2, "one of each instruction"


def test_an_evaluation_cut_short_comes_to_the_same_and_repeats_nothing(
    station: Path, trials: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert main(words_of(station, whole, "--starts", trials)) == 0
    said = capsys.readouterr().err
    assert "success in imagination says little" in said and "next: gymnast policy correlate --imagined" in said
    result = read_result(ImaginedResult, whole)
    assert result.complete and (result.planned, len(result.starts)) == (REPEATS * STARTS, STARTS)
    assert set(result.tasks) == {INSTRUCTION, OTHER} and result.overall.rollouts == REPEATS * STARTS
    assert 0 < sum(one.successes for one in result.starts) < result.planned, "they end both ways"
    values = [float(k < one.successes) for one in result.starts for k in range(one.judged)]
    rate = clustered_rate(values, [k for k, one in enumerate(result.starts) for _ in range(one.judged)])
    assert (result.overall.success, result.overall.standard_error) == pytest.approx((rate.mean, rate.standard_error))
    films = {path.stem for path in (whole / "media").glob("*.png")}
    assert films and films == {path.stem for path in (whole / "media").glob("*.mp4")}
    assert "Films: open the drawer" in (whole / "report.html").read_text()

    assert main(words_of(station, cut, "--starts", trials, repeats=1)) == 0
    lines = (cut / "rollouts.jsonl").read_text().splitlines()
    (cut / "rollouts.jsonl").write_text("\n".join([*lines[:2], lines[2][:40]]))  # killed in the middle of a line
    assert main(["evaluate", "imagined", *words_of(station, cut, "--starts", trials, batch=5)[2:]]) == 0
    assert "is called `gymnast policy imagine` now" in (told := capsys.readouterr().err) and "2 of 12 rollouts" in told
    assert (cut / "rollouts.jsonl").read_text().splitlines()[:2] == lines[:2], "a finished rollout was repeated"
    again = read_result(ImaginedResult, cut)
    by_mark = {one.mark: one for one in result.starts}
    assert {one.mark: one for one in again.starts} == by_mark, "neither batches nor the cut change anything"
    assert again.tasks == result.tasks and again.made_with == result.made_with

    for option, value, expected in (
        ("horizon", 5, "holds a run with horizon 10, found 5"),
        ("temperature", 0, "holds a run with temperature 1.0, found 0.0"),
        ("policy", "random", "holds a run with policy weights"),
    ):
        assert main(words_of(station, cut, "--starts", trials, **{option: value})) == 2
        assert expected in capsys.readouterr().err.strip().splitlines()[-1]


def test_ctrl_c_keeps_what_is_done_and_says_how_to_go_on(
    station: Path, trials: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    record = run / "rollouts.jsonl"

    def stop() -> None:
        began = time.monotonic()
        while not (record.exists() and record.stat().st_size) and not overdue(HANG_S, began):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=stop)
    thread.start()
    assert main(words_of(station, run, "--starts", trials, repeats=500, batch=1)) == 130
    thread.join()
    result = read_result(ImaginedResult, run)
    assert 0 < result.done == len(record.read_text().splitlines()) < result.planned and not result.complete
    assert f"the same command goes on with --run {run}" in " ".join(capsys.readouterr().err.split())
    assert f"{result.done} of {result.planned} rollouts are done" in (run / "report.html").read_text()


def test_five_votes_a_majority_and_what_has_no_verdict_is_apart(
    station: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A judge that counts its votes: three of five for the one instruction, and nothing readable for the other."""
    monkeypatch.chdir(tmp_path)  # the cache of answers is there
    votes: dict[str, int] = {}

    def vote(n: int, request: dict[str, Any]) -> str:
        text, *pictures = request["messages"][0]["content"]
        if OTHER in text["text"]:
            return "I cannot tell."
        assert "0.5 = half open" in text["text"], "the trial's own criteria are asked"
        key = json.dumps(pictures)
        votes[key] = votes.get(key, 0) + 1
        return f"Final Score: {1 if votes[key] <= 3 else 0.5}"

    trials = write_trials(tmp_path / "trials", partial_credit_criteria="half open")
    server = Server(vote)
    content = yaml.safe_load(station.read_text())
    content["judge"] = {"kind": "vlm", "base_url": server.url, "votes": 1, "stride": 4, "concurrency": 1}
    asked = station.with_name("voting.yaml")
    asked.write_text(yaml.safe_dump(content))
    assert main(words_of(asked, tmp_path / "run", "--starts", trials, repeats=1)) == 0
    server.close()
    result = read_result(ImaginedResult, tmp_path / "run")
    assert (result.tasks[INSTRUCTION].success, result.tasks[OTHER].success) == (1.0, None)
    assert (result.tasks[OTHER].abstained, result.overall.abstained, result.overall.rollouts) == (2, 2, 2)
    assert len(server.requests) == 5 * STARTS and set(votes.values()) == {5}
    assert "3 x 1" in (tmp_path / "run" / "rollouts.jsonl").read_text()
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Why there was no verdict" in page and "5 votes" in result.made_with["judge"]


def test_imagined_and_real_success_are_compared_over_policies_and_starts(
    station: Path, trials: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs, real = [], []
    for number, policy in enumerate((str(station.parent / "policy"), str(station.parent / "policy"), "random")):
        runs.append(tmp_path / f"imagined_{number}")
        options = {"policy": policy, "temperature": float(number == 1), "repeats": 2}
        assert main(words_of(station, runs[-1], "--starts", trials, horizon=10, **options)) == 0
        real.append(write_real(tmp_path / f"real_{number}", range(number, 8), lambda k, n=number: k % 4 >= n))  # type: ignore[misc]
    words = ["policy", "correlate", "--imagined", *map(str, runs), "--real", *map(str, real), "--resamples", "500"]
    capsys.readouterr()
    assert main([*words, "--run", str(tmp_path / "out")]) == 0
    told = capsys.readouterr().err
    assert "real failures ended before 10 steps" in told, "two steps are not ten"
    found = read_result(CorrelationResult, tmp_path / "out")
    results = [read_result(ImaginedResult, run) for run in runs]
    for number, (point, result) in enumerate(zip(found.points, results)):
        assert point.imagined == pytest.approx(np.mean([task.success for task in result.tasks.values()]))
        assert (point.episodes, point.pairs) == (8 - number, STARTS - number), "starts that both share"
        truth = {one.mark: float(int(Path(one.source).stem) % 4 >= number) for one in result.starts}
        shared = [one for one in result.starts if int(Path(one.source).stem) >= number]
        assert point.difference == pytest.approx(np.mean([one.success - truth[one.mark] for one in shared]))
    x, y = [one.imagined for one in found.points], [one.real for one in found.points]
    assert found.overall.pearson == correlation(x, y, "pearson", 0, 500)
    assert found.overall.error == pytest.approx(np.mean(np.subtract(x, y)))
    assert (tmp_path / "out" / "media" / "imagined_against_real.svg").read_text().startswith("<svg xmlns")
    table = (tmp_path / "out" / "table.md").read_text()
    assert "| imagined_2 | " in table and table.count("\n| all |") == 1


def test_what_cannot_be_is_one_line(
    station: Path, trials: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    (tmp_path / "bad").mkdir()
    write_trials(tmp_path / "two", 1, partial_credit_criteria="half")
    write_image(tmp_path / "two" / "x.png", picture(7))
    (tmp_path / "two" / "x.json").write_text(
        json.dumps({"instruction": INSTRUCTION, "partial_credit_criteria": "quarter"})
    )
    some = ["--starts", trials]
    for more, expected in (
        ([], "starts: found none; needed a folder of trials or episodes"),
        (["--frame", trials / "scene_0" / "0.png"], "instruction: found none; needed one for --frame"),
        ([*some, "--instruction", "fly"], "frame: found none; needed one for --instruction"),
        (["--starts", tmp_path / "bad"], "no start frame; needed X.png with X.json, or episodes"),
        (["--starts", tmp_path / "nowhere"], "no such folder of start frames"),
        (["--starts", tmp_path / "two"], "needed the same for each instruction"),
        ([*some, "--policy", "expert"], "policy: found expert, which sees the simulator's state, not frames"),
        ([*some, "--policy", "nowhere"], "'nowhere' not found"),
        ([*some, "--adapter", "mine"], "mine"),
    ):
        assert main(words_of(station, run, *more)) == 2, more
        said = capsys.readouterr().err.strip().splitlines()
        assert expected in said[-1] and said[-1].startswith("error: "), said
        assert not run.exists(), more
    for imagined, real, expected in (
        ([run], [run, run], "real: found 2 folders for 1 imagined runs"),
        ([run], [trials], "no such file"),
    ):
        words = ["--imagined", *map(str, imagined), "--real", *map(str, real), "--run", str(tmp_path / "out")]
        assert main(["policy", "correlate", *words]) == 2
        assert expected in capsys.readouterr().err.strip().splitlines()[-1]
