"""`gymnast runs`: every run and episode of a folder, whatever came to it, and several of them side by side."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gymnast_core.cli import main
from gymnast_core.data.episode import EpisodeWriter
from gymnast_core.data.films import read_video
from gymnast_core.evaluation.session import TRIALS_LOG
from gymnast_core.files import append_line
from gymnast_core.rl.adapt_config import AdaptConfig
from gymnast_core.rl.films import ImaginedFilms
from gymnast_core.run_folder import RunFolder
from tests.test_console import imagined


def episode(folder: Path, success: bool, level: int, steps: int) -> None:
    facts = {"task": "open_drawer", "policy": "base", "started_ns": 10**18 + level}
    with EpisodeWriter(folder, "open the drawer", facts) as writer:
        for step in range(steps):
            writer.add_observation(np.full((32, 32, 3), level + step, np.uint8))
            writer.add_step([0.0] * 7)
        writer.add_observation(np.full((32, 32, 3), level + steps, np.uint8))
        writer.finish(success=success, outcome="success" if success else "failure")


def practice(folder: Path, rewards: list[float], iterations: int, accepted: bool | None) -> None:
    config = AdaptConfig(frame=("a.png",), instruction="open the drawer", iterations=iterations, policy="mini/policy")
    run = RunFolder(folder, config, tensorboard=False)
    for number, reward in enumerate(rewards, start=1):
        run.log(number, {"mean_reward": reward, "usable_groups": 0.5})
    ImaginedFilms(run).keep("train", 1, [imagined(1.0, 100)])
    if accepted is not None:
        run.write_result({"accepted": accepted, "adapter_id": "it" if accepted else "", "success_before": 0.2,
                          "success_after": 0.7, "instruction": "open the drawer"})  # fmt: skip
        (folder / "report.html").write_text("<script>steal()</script><h1>a report</h1>")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("lab") / "runs"
    practice(root / "adapt" / "first", [0.1, 0.4, 0.6], 3, True)
    practice(root / "adapt" / "second", [0.1, 0.2], 2, False)
    practice(root / "adapt" / "third", [0.3], 2, None)
    for number, outcome in enumerate((1, 0, 1, 1)):
        line = {"trial": number, "seed": number, "policy": "base", "outcome": outcome, "truth": None, "message": ""}
        line |= {"judge_score": None, "steps": 3, "seconds": 1.0, "episode_path": "", "task": "open_drawer"}
        (root / "trials" / "monday").mkdir(parents=True, exist_ok=True)
        append_line(root / "trials" / "monday" / TRIALS_LOG, json.dumps(line))
    episode(root / "episodes" / "good", True, 20, 9)
    episode(root / "episodes" / "bad", False, 120, 4)
    broken = root / "episodes" / "broken"
    broken.mkdir()
    (broken / "episode.json").write_text("{")
    os.symlink(root.parent, root / "round")  # a folder that contains itself
    return root


def listed(capsys: pytest.CaptureFixture[str], root: Path, *words: str) -> list[dict[str, Any]]:
    assert main(["runs", str(root), "--json", *words]) == 0
    return json.loads(capsys.readouterr().out)["runs"]


def test_every_run_and_episode_is_listed_once_with_what_came_of_it(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {entry["path"]: entry for entry in listed(capsys, runs)}
    assert {path: (entry["kind"], entry["outcome"], entry["success"]) for path, entry in found.items()} == {
        "adapt/first": ("adapt", "accepted", 0.7),
        "adapt/second": ("adapt", "base kept", 0.7),
        "adapt/third": ("adapt", "unfinished", None),
        "trials/monday": ("trials", "3 of 4", 0.75),
        "episodes/good": ("episode", "success", 1.0),
        "episodes/bad": ("episode", "failure", 0.0),
        "episodes/broken": ("episode", "", None),
    }
    first = found["adapt/first"]
    assert first["made"] == "it" and first["lineage"]["policy"] == "mini/policy" and first["report"] == "report.html"
    assert first["figures"]["success_before"] == 0.2 and first["picture"].startswith("media/imagined/film_")
    assert found["episodes/broken"]["problem"] and found["episodes/good"]["picture"] == "frames/000009.png"


@pytest.mark.parametrize(
    "words, paths",
    [
        (("--kind", "adapt", "--sort", "success", "--outcome", "*e*"), {"adapt/first", "adapt/second", "adapt/third"}),
        (("--task", "*drawer", "--kind", "episode"), {"episodes/good", "episodes/bad"}),
        (("--outcome", "failure"), {"episodes/bad"}),
        (("--day", "1999"), set()),
        (("--policy", "base"), {"episodes/good", "episodes/bad", "trials/monday"}),
    ],
)
def test_filters_keep_what_passes_all_of_them(
    runs: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], paths: set[str]
) -> None:
    assert {entry["path"] for entry in listed(capsys, runs, *words)} == paths


def test_the_list_is_sorted_as_asked_with_failures_first(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = listed(capsys, runs, "--sort", "success", "--failures")
    bad = [entry["path"] for entry in found[:3]]
    assert set(bad) == {"episodes/bad", "episodes/broken", "adapt/third"}
    rest = [entry["success"] for entry in found[3:]]
    assert rest == sorted(rest, reverse=True)
    assert main(["runs", str(runs)]) == 0 and "adapt/first" in capsys.readouterr().out
    assert main(["runs", str(runs / "nowhere")]) == 2 and "no such folder" in capsys.readouterr().err


def test_two_practices_and_an_episode_are_shown_side_by_side_on_one_page(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = [str(runs / name) for name in ("adapt/first", "adapt/second", "episodes/bad")]
    assert main(["runs", "compare", *chosen, "--out", str(tmp_path / "page")]) == 0
    page = (tmp_path / "page" / "report.html").read_text()
    content = json.loads((tmp_path / "page" / "report.json").read_text())
    sections = {section["title"]: section for section in content["sections"]}
    assert sections["Figures"]["rows"][0] == ["", "bad", "first", "second"], "failures come first"
    curves = {curve["title"]: curve["series"] for curve in sections["Curves"]["curves"]}
    assert [line["label"] for line in curves["mean_reward"]] == ["first", "second"]
    assert curves["mean_reward"][0]["y"] == [0.1, 0.4, 0.6]
    differing = {row[0]: row[1:] for row in sections["What their configs differ in"]["rows"]}
    assert differing["iterations"] == ["", "3", "2"]
    frames = read_video(tmp_path / "page" / "media" / "in_step.mp4")
    assert len(frames) == 5 and frames[0].shape[1] > 3 * 190, "five frames of an episode and of each film"
    assert "data:video/mp4;base64," in page and "http" not in page.replace("http-equiv", "").replace(
        "http://www.w3", ""
    )
    assert main(["runs", "compare", chosen[0], chosen[0]]) == 2 and "twice" in capsys.readouterr().err
    assert main(["runs", "compare", chosen[0], str(tmp_path)]) == 2
    assert "neither a run nor an episode" in capsys.readouterr().err
