"""`gymnast camera check` without ROS: a device against the station's photograph: measures, a picture, an exit code."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from gymnast_core.cli import main
from gymnast_core.config import StationConfig, load_config
from gymnast_core.data.frames import write_image
from gymnast_core.data.pictures import read_image
from gymnast_core.doctor import check_camera

WIDTH, HEIGHT = 192, 144


def scene() -> np.ndarray:
    cells = np.random.default_rng(3).integers(30, 220, (12, 16, 3)).astype(np.uint8)
    return cv2.resize(cells, (WIDTH, HEIGHT), interpolation=cv2.INTER_NEAREST)


def lay(folder: Path, seen: np.ndarray, **evaluation: object) -> str:
    """A station whose camera shows one picture for ever; returns its file."""
    writer = cv2.VideoWriter(str(folder / "live.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10.0, (WIDTH, HEIGHT))
    for _ in range(3):
        writer.write(seen[:, :, ::-1])
    writer.release()
    camera = {"source": "device", "device": "live.avi", "width": WIDTH, "height": HEIGHT}
    content = {"name": "bench", "tasks": {"open": {"instruction": "open"}}, "camera": camera, "evaluation": evaluation}
    (folder / "station.yaml").write_text(yaml.safe_dump(content))
    return str(folder / "station.yaml")


@pytest.fixture(autouse=True)
def without_ros(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("gymnast_core.evaluation.camera_check.has_ros", lambda: False)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    "seen, limits, problems",
    [
        (scene(), {}, []),
        (np.roll(scene(), (3, 5), (0, 1)), {}, ["shifted by 3.0% of its width, allowed is 1.0%"]),
        (np.roll(scene(), (3, 5), (0, 1)), {"max_view_shift": 0.05}, []),
        ((scene() * 0.5).astype(np.uint8), {}, ["darker by "]),
        ((scene() * 0.5).astype(np.uint8), {"max_view_brightness": 100.0}, []),
    ],
    ids=["same", "shifted", "shifted, allowed", "darker", "darker, allowed"],
)
def test_each_measure_has_its_limit_and_the_exit_code_says_whether_it_holds(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    seen: np.ndarray,
    limits: dict[str, float],
    problems: list[str],
) -> None:
    write_image(tmp_path / "reference.png", scene())
    config = lay(tmp_path, seen, reference_view="reference.png", **limits)
    code = main(["camera", "check", config, "--json"])
    found = json.loads(capsys.readouterr().out)
    assert code == (1 if problems else 0) and found["same"] == (not problems)
    assert len(found["problems"]) == len(problems)
    assert all(one.startswith(told) for one, told in zip(found["problems"], problems)), found
    assert any("a film" in note for note in found["notes"])
    moved = np.array(seen[3:, 5:] == scene()[:-3, :-5]).all()
    assert (found["across"], found["down"]) == pytest.approx((5, 3) if moved else (0, 0), abs=0.3)
    assert found["brightness"] == pytest.approx(float(seen.mean() - scene().mean()), abs=3.0)
    picture = read_image(tmp_path / found["picture"])
    assert picture.shape == (HEIGHT, 3 * WIDTH, 3)
    np.testing.assert_array_equal(picture[:, :WIDTH], scene())
    assert np.abs(picture[:, WIDTH : 2 * WIDTH].astype(int) - seen).mean() < 20  # the film is JPEG


def test_a_reference_is_taken_and_then_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = lay(tmp_path, scene())
    assert main(["camera", "check", config]) == 2
    told = capsys.readouterr().err
    assert "evaluation.reference_view: found none" in told and "--take reference.png" in told
    assert main(["camera", "check", config, "--take", "kept/reference.png"]) == 0
    assert "evaluation.reference_view" in capsys.readouterr().out
    assert main(["camera", "check", config, "--reference", "kept/reference.png"]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = ["camera", "shift", "turn", "parts", "brightness", "difference", "note", "picture"]
    assert [line.split()[0] for line in lines] == names


def test_what_cannot_be_compared_is_one_line_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image(tmp_path / "reference.png", scene())
    config = lay(tmp_path, scene(), reference_view="reference.png")
    station = yaml.safe_load(Path(config).read_text())
    for camera, words, told in (
        ({"device": "none.avi"}, [], "none.avi does not exist"),
        ({"width": 640, "height": 480}, [], "gives 192x144 pixels, the station file says 640x480"),
        ({"source": "topic"}, [], "camera.topic /camera/image_raw is a ROS topic, and there is no ROS 2 in this shell"),
        ({}, ["--out", "a.jpg"], "--out: found 'a.jpg', needed the name of a .png file"),
        ({}, ["--reference", "none.png"], "none.png: no such image file"),
    ):
        changed = {**station, "camera": {**station["camera"], **camera}}
        Path(config).write_text(yaml.safe_dump(changed))
        assert main(["camera", "check", config, *words]) == 2
        said = capsys.readouterr().err
        assert told in said and said.count("\n") == 1, said


def test_the_doctor_tries_the_camera_that_a_station_opens_itself(tmp_path: Path) -> None:
    station = load_config(StationConfig, lay(tmp_path, scene()))
    found = check_camera(station, tmp_path / "station.yaml")
    assert found.status == "ok" and "192x144 pixels; a film" in found.detail
    (tmp_path / "live.avi").unlink()
    found = check_camera(station, tmp_path / "station.yaml")
    assert (found.status, found.remedy) == ("missing", "correct camera.device") and "does not exist" in found.detail
