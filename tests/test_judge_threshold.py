"""The threshold of a graded judge: chosen on labelled episodes, measured on others, written into the station file."""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import stamina
import yaml
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.openai_server import Answer, Server
from gymnast_core.cli import main
from gymnast_core.data.episode import EpisodeWriter
from gymnast_core.protocols import Verdict
from gymnast_core.reward.calibration import Criterion, calibrate, choose_threshold, measure_cut

LABELLED = st.lists(st.tuples(st.floats(-30, 30, width=16), st.booleans()), min_size=2, max_size=40).filter(
    lambda pairs: len({truth for _, truth in pairs}) == 2 and len({grade for grade, _ in pairs}) > 1
)


def quality(said: np.ndarray, truth: np.ndarray, criterion: str) -> float:
    recall, specificity = said[truth].mean(), (~said[~truth]).mean()
    hits = (said & truth).sum()
    return (recall + specificity) / 2 if criterion == "balanced_accuracy" else 2 * hits / (said.sum() + truth.sum())


@given(LABELLED, st.sampled_from(["balanced_accuracy", "f1"]))
def test_no_other_threshold_parts_the_episodes_better(pairs: list[tuple[float, bool]], criterion: Criterion) -> None:
    grades, truth = np.array([grade for grade, _ in pairs]), np.array([done for _, done in pairs])
    threshold = choose_threshold(grades, truth, criterion)
    assert threshold not in grades and grades.min() < threshold < grades.max()
    middles = [(low + high) / 2 for low, high in zip(np.unique(grades), np.unique(grades)[1:])]
    best = max(quality(grades >= middle, truth, criterion) for middle in middles)
    assert quality(grades >= threshold, truth, criterion) == pytest.approx(best)
    cut = measure_cut(grades >= threshold, truth)
    assert cut.balanced_accuracy == pytest.approx(quality(grades >= threshold, truth, "balanced_accuracy"))
    assert cut.f1 == pytest.approx(quality(grades >= threshold, truth, "f1"))
    assert cut.balanced_accuracy_interval[0] <= cut.balanced_accuracy <= cut.balanced_accuracy_interval[1]


def test_a_threshold_has_few_digits_and_lies_in_the_widest_gap() -> None:
    truth = np.array([False] * 3 + [True] * 3)
    assert choose_threshold(np.array([1.0, 2.0, 2.0, 4.0, 5.0, 5.0]), truth, "f1") == 3.0
    assert choose_threshold(np.array([-4.1, -3.7, -2.9, -0.4, -0.2, -0.1]), truth, "balanced_accuracy") == -2.0
    assert choose_threshold(np.array([0.1, 0.2, 0.30001, 0.30002, 0.6, 0.7]), truth, "f1") == 0.300015


def test_intervals_of_95_percent_hold_the_truth_that_often() -> None:
    generator = np.random.default_rng(0)
    truth = np.arange(60) < 24
    recall, specificity = 0.85, 0.7
    balanced, f1 = (recall + specificity) / 2, 2 * 24 * recall / (24 + 24 * recall + 36 * (1 - specificity))
    held = np.zeros(2)
    for _ in range(400):
        said = np.where(truth, generator.random(60) < recall, generator.random(60) > specificity)
        cut = measure_cut(said, truth)
        held += [
            cut.balanced_accuracy_interval[0] <= balanced <= cut.balanced_accuracy_interval[1],
            cut.f1_interval[0] <= f1 <= cut.f1_interval[1],
        ]
    assert (held / 400 > 0.92).all(), held / 400
    perfect = measure_cut(truth, truth)
    assert perfect.balanced_accuracy == perfect.f1 == 1.0 and perfect.balanced_accuracy_interval[0] < 0.97


def test_grades_that_mean_nothing_are_not_made_to_look_good() -> None:
    generator = np.random.default_rng(1)
    truth = generator.random(60) < 0.5
    found = calibrate([Verdict(float(g > 0.5), g, "", grade=g) for g in generator.random(60)], truth.tolist())
    assert found is not None and found.best is not None and found.best.balanced_accuracy > 0.55
    assert found.elsewhere[0] == pytest.approx(0.5, abs=0.08) and not found.helps


def test_abstentions_and_verdicts_without_a_grade_change_nothing() -> None:
    truth = [i % 2 == 0 for i in range(20)]
    graded = [Verdict(0.0, 0.9, "", grade=4.0 if done else 2.0) for done in truth]
    none = [Verdict(None, 0.0, ""), Verdict(1.0, 1.0, "")]
    found = calibrate([*graded, *none * 10], [*truth, *[True, False] * 10])
    assert found == calibrate(graded, truth) and found is not None
    assert found.threshold == 3.0 and found.helps and found.now.false_negatives == 10
    assert calibrate(none, [True, False]) is None
    few = calibrate(graded[:8], truth[:8])
    assert few is not None and few.threshold is None and few.best is None and math.isnan(few.elsewhere[0])
    alike = calibrate([Verdict(0.0, 1.0, "", grade=1.0)] * 20, truth)
    assert alike is not None and alike.threshold is None and alike.area == 0.5


# --- the verb -------------------------------------------------------------------------------------------------------


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server(grade_by_brightness)
    with stamina.set_testing(True, attempts=2, cap=True):
        yield server
    server.close()


def grade_by_brightness(n: int, request: dict[str, Any]) -> Answer:
    """4 for a bright last frame, 2 for a grey one; nothing to say of a dark one."""
    url = request["messages"][0]["content"][-2]["image_url"]["url"]
    image = cv2.imdecode(np.frombuffer(base64.b64decode(url.split(",")[1]), np.uint8), cv2.IMREAD_COLOR)
    level = image.mean() / 255
    return "I cannot see." if level < 0.2 else f"ANSWER: {4 if level > 0.6 else 2}"


def write_episodes(root: Path, levels: list[float]) -> None:
    """Episodes that end at these brightnesses; those beyond .6 are successes, and the dark ones too."""
    generator = np.random.default_rng(0)
    for number, level in enumerate(levels):
        with EpisodeWriter(root / f"{number:03d}", "light the lamp", {}) as writer:
            for shown in (0.4, 0.4, level):
                frame = np.clip(255 * (shown + generator.normal(0, 0.02, (32, 32, 3))), 0, 255)
                writer.add_observation(frame.astype(np.uint8))
                if shown != level:
                    writer.add_step([0.0] * 7)
            writer.finish(success=not 0.2 < level < 0.6)


def test_the_line_that_is_printed_makes_the_judge_agree(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_episodes(tmp_path / "data", [0.5, 0.8] * 8 + [0.1])
    asked = {"kind": "vlm", "base_url": server.url, "scale": "1-5", "votes": 1}
    station = {"name": "x", "tasks": {"t": {"instruction": "light the lamp"}}, "judge": asked}
    path = tmp_path / "station.yaml"

    def evaluate(name: str, *more: str) -> tuple[dict[str, Any], str]:
        path.write_text(yaml.safe_dump(station))
        words = ["--data", "data", "--config", str(path), "--run", name, *more]
        assert main(["judge", "evaluate", *words]) == 0
        return json.loads((tmp_path / name / "result.json").read_text()), capsys.readouterr().err

    found, told = evaluate("first")
    assert (found["episodes"], found["judged"], found["recall"]) == (17, 16, 0.0), "none reaches 4.5"
    calibration = found["calibration"]
    assert calibration["episodes"] == 16 and calibration["threshold"] == 3.0 and calibration["area"] == 1.0
    assert calibration["now"]["balanced_accuracy"] == 0.5 and calibration["best"]["balanced_accuracy"] == 1.0
    assert calibration["best"]["balanced_accuracy_interval"][0] < 1.0 and calibration["elsewhere"] == [1.0, 1.0]
    assert (
        "AUROC 1.000" in told
        and "abstained 1 times" in told
        and "Threshold" in (tmp_path / "first/report.html").read_text()
    )
    line = re.search(rf"to use it, write into {re.escape(str(path))}: (.*)", told)
    assert line is not None
    written = yaml.safe_load(line[1])
    assert written == {"judge": {"threshold": 3}}
    station["judge"] = {**asked, **written["judge"]}
    found, told = evaluate("second")
    assert "keep it" in told and "to use it" not in told
    assert (found["agreement"], found["judged"], found["false_negatives"]) == (1.0, 16, 0)

    station["adaptation"] = {"gate_judge": {**asked, "model": "another"}}
    found, told = evaluate("gate", "--gate", "--criterion", "f1")
    assert found["recall"] == 0.0 and "adaptation: {gate_judge: {threshold: 3}}" in told
    assert {request["model"] for request in server.requests} == {"gpt-4o", "another"}
