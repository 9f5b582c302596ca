"""`gymnast adapt` and `gymnast train` from the command line, with tiny models of the real classes."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

from benchmarks.openai_server import Server
from gymnast_core.cli import main
from gymnast_core.config import JudgeConfig
from gymnast_core.data.episode import EpisodeWriter
from gymnast_core.data.frames import write_image
from gymnast_core.errors import ConfigError, DataError
from gymnast_core.protocols import Start, Verdict
from gymnast_core.reporting.imagined_films import read_films
from gymnast_core.reporting.media import write_video
from gymnast_core.rl.gate import judge_adapter, no_room_to_rise
from gymnast_core.rollout.open import find_gate_judge
from gymnast_core.rollout.rollout import Rollout
from gymnast_core.rollout.starts import read_frame, read_frames, read_starts
from gymnast_core.station_file import open_station
from tests.machine import HANG_S, in_time, overdue
from tests.tiny_station import INSTRUCTION, build_tiny_station, picture


@pytest.fixture(scope="module")
def station(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_station(tmp_path_factory.mktemp("tiny"))


def arguments(station: Path, run: Path, **fields: object) -> list[str]:
    values = {
        "frame": station.parent / "start.png",
        "instruction": INSTRUCTION,
        "config": station,
        "run": run,
        **fields,
    }
    words = []
    for name, value in values.items():
        words += [f"--{name.replace('_', '-')}", *map(str, value if isinstance(value, list) else [value])]
    return words


def test_adapt_reports_its_phases_result_and_page(station: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    code = main(["adapt", *arguments(station, run)])
    result = json.loads((run / "result.json").read_text())
    assert code == (0 if result["accepted"] else 1)
    assert result["iterations"] == 2 and result["pairs"] == 8 and result["run_folder"] == str(run)
    assert result["accepted"] == (not result["failed_conditions"]) == bool(result["adapter_id"])
    assert "never measured" in result["world_model"] and result["distrust"], "only a warning at this station"
    assert result["gate_judge_trained_the_adapter"] is True and "one judge only" in (run / "report.html").read_text()
    lines = [json.loads(line) for line in (run / "progress.jsonl").read_text().splitlines()]
    phases = [line["phase"] for line in lines]
    assert list(dict.fromkeys(phases)) == ["load", "before", "train", "after", "gate"]
    training = [line for line in lines if line["phase"] == "train"]
    assert [line["iteration"] for line in training] == [1, 2]
    for line in training:
        assert 0 <= line["mean_reward"] <= 1 and 0 <= line["usable_groups"] <= 1 and line["seconds_left"] >= 0
        assert (run / line["preview"]).stat().st_size > 500
    films = read_films(run)
    assert list(dict.fromkeys(film["phase"] for film in films)) == ["before", "train", "after"]
    assert {film["verdict"] for film in films} <= {"success", "failure", "abstained"}
    filmed = [film["meters"] for film in films if film["phase"] == "train"]
    assert filmed and all(set(read) == {"round trip", "instability"} for read in filmed)
    page = (run / "report.html").read_text()
    assert "data:image/png;base64," in page and INSTRUCTION in page and str(run) in page
    if result["accepted"]:
        assert (station.parent / "adapters" / result["adapter_id"] / "adapter_model.safetensors").exists()

    again = tmp_path / "again"
    main(["adapt", *arguments(station, again)])
    second = json.loads((again / "result.json").read_text())
    for name in ("success_before", "success_after", "standard_error", "accepted"):
        assert second[name] == result[name], "the same seed gives the same result"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"instruction": "  "}, "found an empty text"),
        ({"instruction": "x" * 10_000}, "found 10000 characters"),
        ({"frame": "nowhere.png"}, "no such image"),
        ({"frame": "{tmp}/one.png"}, "1x1"),
        ({"frame": "{tmp}/four.png"}, "4 channel"),
        ({"frame": "{tmp}/text.png"}, "not a readable image"),
        ({"config": "nowhere.yaml"}, "not found"),
        ({"recipe": "nowhere"}, "neither a file nor a shipped recipe"),
        ({"policy": "nowhere"}, "not found"),
        ({"frame": "{tmp}/film.mp4", "index": 9}, "allowed are 0 to 3"),
    ],
)
def test_bad_input_is_one_clear_line(
    station: Path, tmp_path: Path, fields: dict[str, str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cv2.imwrite(str(tmp_path / "one.png"), np.zeros((1, 1, 3), np.uint8))
    cv2.imwrite(str(tmp_path / "four.png"), np.zeros((32, 32, 4), np.uint8))
    (tmp_path / "text.png").write_text("not an image")
    write_video(tmp_path / "film.mp4", np.stack([picture(i) for i in range(4)]))
    filled = {name: str(value).format(tmp=tmp_path) for name, value in fields.items()}
    assert main(["adapt", *arguments(station, tmp_path / "run", **filled)]) == 2
    errors = capsys.readouterr().err.strip().splitlines()
    assert expected in errors[-1] and sum(line.startswith("error: ") for line in errors) == 1
    assert not any("Traceback" in line for line in errors)


def test_a_base_that_cannot_rise_is_kept_without_practice(station: Path, tmp_path: Path) -> None:
    shutil.copytree(yaml.safe_load(station.read_text())["judge"]["checkpoint"], tmp_path / "kind_judge")
    file = tmp_path / "kind_judge" / "judge.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "threshold": 0.0}))
    run = tmp_path / "run"
    assert main(["adapt", *arguments(station, run, judge=tmp_path / "kind_judge", seconds=9999)]) == 1
    result = json.loads((run / "result.json").read_text())
    assert result["iterations"] == 0 and result["stopped_by"] == "no room to rise"
    assert "8 of 8 imagined rollouts of the base succeed already" in result["message"]
    assert '"train"' not in (run / "progress.jsonl").read_text() and (run / "report.html").exists()


def test_a_run_is_resumed_for_its_own_instruction_frame_and_judge_only(
    station: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main(["adapt", *arguments(station, run, iterations=1)]) in (0, 1)
    write_image(tmp_path / "other.png", picture(9))
    judge = yaml.safe_load(station.read_text())["judge"]["checkpoint"]
    shutil.copytree(judge, tmp_path / "judge")
    others = {
        "instruction": "close the drawer",
        "frame": tmp_path / "other.png",
        "judge": tmp_path / "judge",
        "seed": 5,
    }
    for name, value in others.items():
        capsys.readouterr()
        assert main(["adapt", *arguments(station, run, **{name: value, "iterations": 2})]) == 2
        assert "another" in capsys.readouterr().err.strip().splitlines()[-1]


def test_a_model_behind_an_api_judges_a_practice_and_its_limit_holds_over_resumptions(
    station: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def look(n: int, request: dict[str, Any]) -> str:
        pictures = [part["image_url"]["url"] for part in request["messages"][0]["content"][1:]]
        return f"Final Score: {int(hashlib.sha256(pictures[-1].encode()).digest()[0] % 3 == 0)}"

    monkeypatch.chdir(tmp_path)  # the cache of answers is there
    server = Server(look)
    content = yaml.safe_load(station.read_text())
    judging = {"kind": "vlm", "base_url": server.url, "votes": 1, "max_total_tokens": 30 * 1100}
    content |= {"judge": judging}
    asked = station.with_name("asked.yaml")
    asked.write_text(yaml.safe_dump(content))
    run = tmp_path / "run"
    words = [w for w in arguments(station, run, config=asked, iterations=3) if w]
    assert main(["adapt", *words]) == 2
    assert "33000 tokens leaves no room" in capsys.readouterr().err.strip().splitlines()[-1]
    assert 20 < len(server.requests) <= 29 and not (run / "result.json").exists()
    assert main(["adapt", *words]) == 2 and len(server.requests) <= 30, "what was spent before counts"
    asked.write_text(yaml.safe_dump({**content, "judge": {**judging, "max_total_tokens": 0}}))
    assert main(["adapt", *words]) in (0, 1)
    server.close()
    result = json.loads((run / "result.json").read_text())
    total = 1100 * len(server.requests)
    assert f" {total} tokens; " in result["judge_spent"] and result["judge_spent"] in (run / "report.html").read_text()
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["judge_tokens"] for line in lines if "judge_tokens" in line][-1] <= total
    answers = [json.loads(line) for line in (run / "judge_answers.jsonl").read_text().splitlines()]
    assert sum(not line["cached"] and line["answer"] is not None for line in answers) == len(server.requests)
    assert any(line["cached"] for line in answers), "the measurement before is not paid for again"


def test_another_model_behind_an_api_measures_what_a_learned_judge_taught(
    station: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    server = Server(lambda n, request: "Final Score: 0")
    content = yaml.safe_load(station.read_text())
    other = {"kind": "vlm", "model": "another", "base_url": server.url, "votes": 1}
    content["adaptation"] = {**content["adaptation"], "iterations": 1, "gate_judge": other}
    asked = station.with_name("asked.yaml")
    asked.write_text(yaml.safe_dump(content))
    run = tmp_path / "run"
    assert main(["adapt", *arguments(station, run, config=asked)]) == 1
    server.close()
    result = json.loads((run / "result.json").read_text())
    assert result["iterations"] == 1 and result["success_before"] == result["success_after"] == 0.0
    assert result["gate_judge_trained_the_adapter"] is False and "vlm judge: " in result["judge_spent"]
    assert {request["model"] for request in server.requests} == {"another"} and len(server.requests) <= 16
    assert (run / "gate_judge_answers.jsonl").exists() and not (run / "judge_answers.jsonl").exists()

    def chosen(judge: dict[str, Any], gate: Any) -> JudgeConfig | None:
        asked.write_text(yaml.safe_dump({**content, "judge": judge, "adaptation": {"gate_judge": gate}}))
        return find_gate_judge(open_station(str(asked)))

    assert chosen(other, {**other, "votes": 5}) is None, "the same model with more votes is the same judge"
    assert chosen(other, {**other, "model": "third"}) is not None and chosen(other, "") is None
    learned = content["judge"]
    assert chosen(learned, learned["checkpoint"]) is None and chosen(other, learned["checkpoint"]) is not None
    with pytest.raises(ConfigError, match=r"gate_judge\.kind: found truth"):
        chosen(other, {"kind": "truth"})


def test_distrusted_imagination_keeps_the_base_and_says_why_before_anything_is_imagined(
    station: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = yaml.safe_load(station.read_text())
    content["adaptation"] = {**content["adaptation"], "iterations": 1, "world_model_gate": "require"}
    shutil.copytree(content["judge"]["checkpoint"], station.parent / "second_judge", dirs_exist_ok=True)
    content["adaptation"]["gate_judge"] = "second_judge"  # beside the station file
    strict = station.with_name("strict.yaml")
    strict.write_text(yaml.safe_dump(content))
    film = tmp_path / "film.mp4"
    write_video(film, np.stack([picture(i) for i in range(4)]))
    frames = [station.parent / "start.png", f"{film}:2", f"{film}:-1"]
    run = tmp_path / "run"
    assert main(["adapt", *arguments(strict, run, frame=frames)]) == 1
    result = json.loads((run / "result.json").read_text())
    assert not result["accepted"] and not result["adapter_id"] and "base policy kept" in result["message"]
    assert any("never measured" in words for words in result["failed_conditions"])
    phases = [json.loads(line)["phase"] for line in (run / "progress.jsonl").read_text().splitlines()]
    assert phases == ["load", "gate"] and not list((run / "media").glob("imagined*")) and result["pairs"] == 0
    assert result["success_before"] is None
    last = capsys.readouterr().err.splitlines()[-1]
    measure = ["next:", "gymnast", "world-model", "evaluate", "--config", strict.resolve(), "--model"]
    assert shlex.split(last)[:7] == [*map(str, measure)] and last.endswith("--horizon 10")
    assert last.removeprefix("next: ") in " ".join(result["go_on"]) and "world_model_gate: warn" in result["go_on"][-1]
    assert result["iterations"] == 0 and result["stopped_by"] == "distrust", "nothing is practised that cannot pass"
    assert result["distrust"] == result["failed_conditions"][-len(result["distrust"]) :]
    assert result["gate_judge_trained_the_adapter"] is False
    assert all((run / "media" / f"start_{number}.png").exists() for number in range(3))
    page = (run / "report.html").read_text()
    assert "the base policy is kept" in page and "never measured" in page and "film.mp4:2" in page


def test_frames_come_from_images_videos_and_episodes(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", picture(3))
    assert np.array_equal(read_frame(str(tmp_path / "a.png")).frame, picture(3))
    write_video(tmp_path / "film.mp4", np.stack([picture(i) for i in range(4)]))
    assert np.abs(read_frame(str(tmp_path / "film.mp4"), -1).frame.astype(int) - picture(3)).mean() < 12
    with EpisodeWriter(tmp_path / "episode", INSTRUCTION, {}) as writer:
        writer.add_observation(picture(0))
        writer.add_step([0.0] * 7)
        writer.add_observation(picture(1), [0.25, 0.0, 0.125, 0, 0, 0, 1])
        writer.finish(success=True)
    logged = read_frame(str(tmp_path / "episode"), 1)
    assert np.array_equal(logged.frame, picture(1)) and logged.position == [0.25, 0.0, 0.125]
    assert read_frame(str(tmp_path / "episode"), 0).position is None, "not measured"
    with pytest.raises(DataError, match="no index 2"):
        read_frame(str(tmp_path / "episode"), 2)
    several = read_frames([str(tmp_path / "a.png"), f"{tmp_path / 'episode'}:1", str(tmp_path / "episode")], 0)
    assert [np.array_equal(one.frame, picture(i)) for one, i in zip(several, (3, 1, 0))] == [True] * 3
    with pytest.raises(DataError, match="no index 7"):
        read_frames([f"{tmp_path / 'episode'}:7"])
    with pytest.raises(DataError, match="no such image"):
        read_frames(["nowhere.mp4:3"])


def test_a_broken_start_frame_is_left_out_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("good", "bad"):
        (tmp_path / f"{name}.json").write_text(json.dumps({"instruction": INSTRUCTION}))
    write_image(tmp_path / "good.png", picture())
    (tmp_path / "bad.png").write_bytes(b"\x89PNG broken")
    starts = read_starts(tmp_path)
    assert len(starts) == 1 and "bad.png" in "".join(capsys.readouterr().err.split())
    (tmp_path / "good.json").write_text('{"text": 1}')
    with pytest.raises(DataError, match="no start frame"):
        read_starts(tmp_path)


def rollouts(rewards: Sequence[float | None], changed: int = 0) -> list[Rollout]:
    """Rollouts of 10 actions, of which the safety envelope changed so many."""
    empty = np.empty((0, 0))
    return [
        Rollout(
            Start("x"),
            np.empty((0, 0, 0, 3), np.uint8),
            empty,
            empty,
            empty,
            np.zeros((10, 7), dtype=np.float32),
            np.zeros((10, 7), dtype=np.float32),
            10,
            np.full(10, np.nan, dtype=np.float32),
            float("nan"),
            ((),) * 10,
            np.arange(10) < changed,
            Verdict(r, 1, ""),
        )
        for r in rewards
    ]


def test_the_gate_lets_through_only_what_rose_and_stayed_safe() -> None:
    low, high = [1.0] * 4 + [0.0] * 12, [1.0] * 14 + [0.0] * 2
    better = judge_adapter(rollouts(low), rollouts(high))
    assert better.accepted and better.difference == pytest.approx(10 / 16)
    same = judge_adapter(rollouts(low), rollouts(low))
    assert not same.accepted and "two standard errors" in same.failed_conditions[0]
    noise = judge_adapter(rollouts(low), rollouts([*low[:4], 1.0, *low[5:]]))
    assert not noise.accepted, "one more success in sixteen is within the noise"
    wild = judge_adapter(rollouts(low, 1), rollouts(high, 3))
    assert not wild.accepted and "changed 30.0% of the adapted policy's actions" in wild.failed_conditions[0]
    assert judge_adapter(rollouts(low, 3), rollouts(high, 3)).accepted
    unjudged = judge_adapter(rollouts(low), rollouts([None] * 12 + [1.0] * 4))
    assert not unjudged.accepted and "could be judged" in unjudged.failed_conditions[0]
    assert no_room_to_rise(rollouts([1.0] * 61 + [0.0] * 3)).startswith("61 of 64 imagined rollouts")
    assert not no_room_to_rise(rollouts([1.0] * 60 + [0.0] * 4))
    assert judge_adapter(rollouts([1.0] * 60 + [0.0] * 4), rollouts([1.0] * 64)).accepted
    assert "only 7 of 20" in no_room_to_rise(rollouts([None] * 13 + [0.0] * 7))
    doubtful = judge_adapter(rollouts(low), rollouts(high), ("the world model is too eager",))
    assert not doubtful.accepted and doubtful.failed_conditions == ("the world model is too eager",)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_stops_within_a_second_and_can_be_resumed(station: Path, tmp_path: Path, number: int) -> None:
    run = tmp_path / "run"
    command = [
        sys.executable,
        "-m",
        "gymnast_core.cli",
        "adapt",
        *arguments(station, run, iterations=100000, seconds=9999),
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    started = time.monotonic()
    while not (run / "progress.jsonl").exists() or (run / "progress.jsonl").read_text().count('"train"') < 2:
        assert process.poll() is None and not overdue(150.0, started), process.stderr and process.stderr.read()
        time.sleep(0.05)
    process.send_signal(number)
    began = time.monotonic()
    _, errors = process.communicate(timeout=HANG_S)
    assert in_time(2.0, began), "the limit is 1 s on a machine of its own"
    assert process.returncode == 130 and "Traceback" not in errors and "resume with" in errors
    done = max(int(path.name[5:]) for path in (run / "checkpoints").glob("step_*"))
    assert main(["adapt", *arguments(station, run, iterations=done + 1)]) in (0, 1)
    assert json.loads((run / "result.json").read_text())["iterations"] == done + 1


def test_train_practises_many_frames_and_saves_an_adapter(station: Path, tmp_path: Path) -> None:
    starts = tmp_path / "starts"
    for number, instruction in enumerate((INSTRUCTION, "close the drawer", INSTRUCTION)):
        write_image(starts / f"{number}.png", picture(number))
        (starts / f"{number}.json").write_text(json.dumps({"instruction": instruction}))
    words = ["--starts", starts, "--config", station, "--run", tmp_path / "run", "--updates", 2, "--out", "mine"]
    assert main(["train", *map(str, words), "--adapters", str(tmp_path / "adapters")]) == 0
    assert (tmp_path / "adapters" / "mine" / "adapter_model.safetensors").exists()
    metrics = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in metrics] == [1, 2]
    assert "success/close_the_drawer" in {name for line in metrics for name in line}
    assert (tmp_path / "run" / "report.html").exists()
