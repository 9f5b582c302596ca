"""The learned judge: learns from logged episodes, abstains on the unknown, comes back from disk the same."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from gymnast_core.cli import main
from gymnast_core.config import StationConfig, parse_config
from gymnast_core.data.episode import EpisodeWriter
from gymnast_core.data.formats import open_episode
from gymnast_core.errors import CheckpointError, ConfigError
from gymnast_core.protocols import Judge, Verdict
from gymnast_core.reward.agreement import measure_agreement
from gymnast_core.reward.classifier import load_classifier, taught_by
from gymnast_core.reward.factory import load_judge
from gymnast_core.reward.train import garble, label_frames
from gymnast_core.reward.truth import TruthJudge
from tests.options import in_place

OPEN, CLOSE = "open the box", "close the box"


def frame(opening: float, generator: np.random.Generator) -> np.ndarray:
    """A bar as long as the opening, on a noisy ground."""
    picture = generator.integers(90, 130, (32, 32, 3), dtype=np.uint8)
    picture[12:20, 4 : 4 + round(24 * opening)] = (210, 60, 40)
    return picture


def write_episodes(root: Path, count: int, seed: int, truth: bool = True) -> None:
    generator = np.random.default_rng(seed)
    for number in range(count):
        instruction, success = (OPEN, CLOSE)[number % 2], number % 4 < 2
        begin, end = (0.0, 1.0) if instruction == OPEN else (1.0, 0.0)
        if not success:
            end = begin + (end - begin) * 0.4
        openings = np.linspace(begin, end, 9)
        with EpisodeWriter(root / f"{number:03d}", instruction, {}) as writer:
            writer.add_observation(frame(openings[0], generator))
            for opening in openings[1:]:
                done = opening > 0.8 if instruction == OPEN else opening < 0.2
                writer.add_step([0.0] * 7, **({"success": bool(done)} if truth else {}))
                writer.add_observation(frame(opening, generator))
            writer.finish(success=success)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("judge")
    write_episodes(root / "data", 48, 0)
    write_episodes(root / "fresh", 24, 1)
    words = ["--data", root / "data", "--out", root / "judge", "--run", root / "run", "--steps", 150, "--size", 32]
    assert main(["judge", "train", *map(str, words), "--width", "8", "--learning-rate", "0.005", "--stride", "1"]) == 0
    (root / "station.yaml").write_text(
        f"name: x\ntasks: {{one: {{instruction: any}}}}\njudge: {{kind: classifier, checkpoint: {root}/judge}}\n"
        "models: {device: cpu}\n"
    )
    return root


def test_it_agrees_with_what_happened_on_fresh_episodes(trained: Path) -> None:
    words = ["--data", trained / "fresh", "--config", trained / "station.yaml", "--run", trained / "evaluation"]
    assert main(["judge", "evaluate", *map(str, words)]) == 0
    result = json.loads((trained / "evaluation" / "result.json").read_text())
    assert result["judged"] == result["episodes"] == 24 and result["agreement"] >= 0.9
    assert (trained / "evaluation" / "report.html").exists()


def test_what_is_undefined_is_null_and_why_a_judge_abstained_is_said(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_episodes(tmp_path / "data", 4, 3)
    for path in (tmp_path / "data").glob("*/episode.json"):
        path.write_text(path.read_text().replace(OPEN, "sing").replace(CLOSE, "sing"))
    words = ["--data", tmp_path / "data", "--config", trained / "station.yaml", "--run", tmp_path / "run"]
    assert main(["judge", "evaluate", *map(str, words), "--json"]) == 1, "nothing was measured"
    said = capsys.readouterr()
    assert json.loads(said.out)["judged"] == 0, "--json prints the result alone"
    told = " ".join(said.err.split())
    assert (
        " nan" not in told
        and "on 0 of 4 labelled episodes" in told
        and "abstained 4 times: this judge does not know 'sing'" in told
    )

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    written = (tmp_path / "run" / "result.json", trained / "judge" / "gymnast.json", trained / "run" / "result.json")
    results = [json.loads(path.read_text(), parse_constant=refuse) for path in written]
    assert results[0]["agreement"] is None and results[0]["judged"] == 0 and results[1]["agreement"] > 0.5


def test_a_judge_trained_further_keeps_what_it_knew_and_learns_another_instruction(
    trained: Path, tmp_path: Path
) -> None:
    write_episodes(tmp_path / "data", 24, 4)
    for path in (tmp_path / "data").glob("*/episode.json"):
        path.write_text(path.read_text().replace(OPEN, "sing"))
    words = ["--data", tmp_path / "data", "--init", trained / "judge", "--out", tmp_path / "judge", "--steps", 100]
    assert main(["judge", "train", *map(str, words), "--run", str(tmp_path / "run")]) == 0
    before, after = load_classifier(trained / "judge"), load_classifier(tmp_path / "judge")
    assert after.config == dataclasses.replace(before.config, instructions=(CLOSE, OPEN, "sing"))
    marks = taught_by(tmp_path / "judge")
    assert taught_by(trained / "judge") < marks and len(marks) > len(taught_by(trained / "judge")) + 15
    fresh = [open_episode(path) for path in sorted((trained / "fresh").iterdir())]
    videos = [episode.pick(after.frame_indices(episode.count())) for episode in fresh]
    truth = [bool(episode.outcome().success) for episode in fresh]
    for names in ({}, {OPEN: "sing"}):
        instructions = [names.get(episode.instruction(), episode.instruction()) for episode in fresh]
        assert measure_agreement(after.judge(videos, instructions), truth).agreement >= 0.85


def test_a_picture_that_fell_apart_is_no_success(trained: Path) -> None:
    generator = np.random.default_rng(7)
    done = torch.from_numpy(np.stack([frame(1.0, generator) for _ in range(40)])).permute(0, 3, 1, 2).float()
    broken = garble(done, torch.Generator().manual_seed(0))
    assert broken.shape == done.shape and torch.equal(broken.sort(0).values.sum(), done.sort(0).values.sum())
    judge = load_classifier(trained / "judge")
    videos = [pair.permute(0, 2, 3, 1).to(torch.uint8).numpy() for pair in broken.split(2)]
    scores = [verdict.score for verdict in judge.judge(videos, [OPEN] * len(videos))]
    whole = judge.judge([pair.permute(0, 2, 3, 1).to(torch.uint8).numpy() for pair in done.split(2)], [OPEN] * 20)
    assert np.mean(scores) < 0.3 and np.mean([verdict.score for verdict in whole]) > 0.9


def test_an_unknown_instruction_is_an_abstention_and_one_odd_frame_no_success(trained: Path) -> None:
    judge = load_classifier(trained / "judge")
    assert isinstance(judge, Judge) and judge.frame_indices(9)[-1] == 8
    generator = np.random.default_rng(5)
    video = np.stack([frame(0.0, generator)] * 8 + [frame(1.0, generator)])
    both, one, unknown = judge.judge(
        [np.concatenate([video, video[-1:]]), video, video], [f" {OPEN.upper()}. ", OPEN, "sing"]
    )
    assert both.score == 1.0 and both.completed_at == 9, "two frames in a row"
    assert one.score == 0.0, "a single frame over the threshold is not enough"
    assert unknown.score is None and "sing" in unknown.reason


def test_frame_labels_without_truth_leave_out_what_nobody_knows(tmp_path: Path) -> None:
    write_episodes(tmp_path, 4, 0, truth=False)
    good, bad = (label_frames(open_episode(tmp_path / name), 32) for name in ("000", "002"))
    assert good is not None and bad is not None
    assert good.labels[-2:].tolist() == [1, 1] and good.labels[0] == 0 and np.isnan(good.labels[4])
    assert (bad.labels == 0).all()


def test_a_damaged_judge_is_named(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        load_classifier(tmp_path)
    (tmp_path / "judge.json").write_text((trained / "judge" / "judge.json").read_text().replace('"size"', '"sise"'))
    (tmp_path / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(CheckpointError, match="sise"):
        load_classifier(tmp_path)
    (tmp_path / "judge.json").write_text((trained / "judge" / "judge.json").read_text())
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        load_classifier(tmp_path)


def test_broken_episodes_are_left_out_and_a_foreign_checkpoint_is_named(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_episodes(tmp_path / "data", 6, 2)
    (tmp_path / "data" / "001" / "frames" / "000003.png").write_bytes(b"no picture")
    steps = tmp_path / "data" / "002" / "steps.jsonl"
    steps.write_text(steps.read_text().replace('"success": false', '"success": 7'))
    words = ["--run", tmp_path / "run", "--out", tmp_path / "judge", "--data", tmp_path / "data", "--size", 32]
    words += ["--steps", 2, "--width", 8]
    assert main(["judge", "train", *map(str, words)]) == 0
    told = " ".join(capsys.readouterr().err.split())
    assert told.count("left out") == 2 and "000003.png" in told and "found 7" in told and "3 episodes to train" in told
    station = ["--config", str(trained / "station.yaml"), "--run", str(tmp_path / "evaluation")]
    assert main(["judge", "evaluate", "--data", str(tmp_path / "data"), *station]) == 0
    assert json.loads((tmp_path / "evaluation" / "result.json").read_text())["judged"] == 4
    path = tmp_path / "run" / "checkpoints" / "step_00000002" / "state.pt"
    state = torch.load(path, weights_only=True)
    for name, value in {"network": [], "optimizer": {}, "schedule": None}.items():
        torch.save({**state, name: value}, path)
        capsys.readouterr()
        assert main(["judge", "train", *map(str, words)]) == 2
        errors = capsys.readouterr().err.strip().splitlines()
        assert "of another training" in errors[-1] and errors[-1].startswith("error: ")
    torch.save(state, path)
    for words_of_now, expected in (
        (["--steps", 4], "holds a run with steps '2', found '4'"),
        (["--width", 6], "width: found 6; Input should be a multiple of 4"),
        (["--out", tmp_path / "data"], "data, which is not a judge's folder; choose another --out"),
    ):
        capsys.readouterr()
        assert main(["judge", "train", *in_place(words, words_of_now)]) == 2
        assert expected in capsys.readouterr().err


def test_the_station_file_chooses_the_judge() -> None:
    def station(**judge: object) -> StationConfig:
        return parse_config(
            StationConfig, {"name": "x", "tasks": {"t": {"instruction": "any"}}, "judge": judge}, "test"
        )

    truth = load_judge(station(kind="truth"))
    assert isinstance(truth, TruthJudge) and isinstance(truth, Judge)
    outcomes, credit = np.array([1.0, 0.0, 0.0, np.nan]), np.array([1.0, 0.4, np.nan, np.nan])
    assert [v.score for v in truth.judge_outcomes(outcomes, credit)] == [1.0, 0.0, 0.0, None]
    assert [v.progress for v in truth.judge_outcomes(outcomes, credit)] == [(1.0,), (0.4,), (), ()]
    assert load_judge(station(kind="vlm", base_url="http://127.0.0.1:1/v1")).frame_indices(5) == [0, 3, 4]
    with pytest.raises(ConfigError, match="not found"):
        load_judge(station(kind="classifier", checkpoint="nowhere"))


def test_agreement_counts_abstentions_apart() -> None:
    said = [Verdict(s, 0.9, "") for s in (1.0, 1.0, 0.0, 0.0, None)]
    found = measure_agreement(said, [True, False, False, True, True])
    assert (found.judged, found.episodes, found.false_positives, found.false_negatives) == (4, 5, 1, 1)
    assert found.agreement == found.precision == found.recall == 0.5
    assert found.calibration_error == pytest.approx(0.4)
