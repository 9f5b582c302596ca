"""Augmented starts: what is protected stays bit for bit, and the same seed gives the same files, interrupted or not."""

from __future__ import annotations

import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gymnast_core.cli import main
from gymnast_core.compositing.compose import Scene, compose
from gymnast_core.compositing.masks import grow, motion_mask, restore
from gymnast_core.compositing.objects import SOLIDS, Cut, cut_out
from gymnast_core.compositing.plane import TablePlane
from gymnast_core.data.frames import read_image, write_image
from gymnast_core.rollout.starts import read_starts

SIDE = 96


def picture(shade: int = 0) -> np.ndarray:
    """A brown table with a black arm and a pink box on it, and a grey wall behind."""
    frame = np.full((SIDE, SIDE, 3), (150, 105, 70), dtype=np.uint8)
    frame[::8] += np.uint8(4 + shade)
    frame[:20] = (170, 175, 180)
    frame[:50, 40:50] = 15
    frame[35:55, 10:30] = (210, 70, 100)
    return frame


def arm_and_box() -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    mask[:50, 40:50] = mask[35:55, 10:30] = True
    return mask


def write_starts(folder: Path, count: int, instruction: str = "lift the box") -> Path:
    for number in range(count):
        write_image(folder / f"start_{number}.png", picture(number))
        about = {"instruction": instruction, "position": [0.2, 0.0, 0.1], "partial_credit_criteria": "half way"}
        (folder / f"start_{number}.json").write_text(json.dumps(about))
    return folder


@pytest.fixture
def starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two frames, and mask.png beside their folder, where the tests work."""
    monkeypatch.chdir(tmp_path)
    cv2.imwrite(str(tmp_path / "mask.png"), arm_and_box().astype(np.uint8) * 255)
    return write_starts(tmp_path / "starts", 2)


def augment(thing: str, out: Path | str, *words: str) -> int:
    return main(["augment", thing, "--out", str(out), *words])


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.*")) if path.is_file()}


@given(st.integers(0, 2**32), st.floats(0.2, 1.5), st.floats(0.2, 1.3), st.integers(0, 6), st.floats(0.0, 0.6))
@settings(max_examples=40, deadline=None)
def test_whatever_is_composed_or_edited_protected_pixels_and_all_but_bare_table_stay_the_same(
    seed: int, height: float, pitch: float, clearance: int, share: float
) -> None:
    random = np.random.default_rng(seed)
    frame = random.integers(0, 256, (60, 80, 3), dtype=np.uint8)
    blobs = cv2.GaussianBlur(random.random((60, 80)), (0, 0), 6)
    protected = blobs < np.quantile(blobs, share)
    table = cv2.GaussianBlur(random.random((60, 80)), (0, 0), 8) > 0.49
    scene = Scene(frame, protected, table, TablePlane(height, pitch, 0.9, 60, 80, 4 / 3))
    cut = cut_out("cut", random.integers(0, 256, (20, 20, 3), dtype=np.uint8), random.random((20, 20)) < 0.6, 0.08)
    edited, placed = compose(scene, [*SOLIDS, cut], 3, clearance, random)
    free = table & ~grow(protected, clearance)
    assert (edited == frame)[protected].all() and (edited == frame)[~free].all()
    assert len({one.name for one in placed}) == len(placed) <= 3
    for one in placed:
        left, top, width, rows = one.box
        assert left >= 0 and top >= 0 and left + width <= 80 and top + rows <= 60
    stranger = random.integers(0, 256, frame.shape, dtype=np.uint8)
    assert (restore(frame, stranger, free).frame == np.where(free[..., None], stranger, frame)).all()


def test_a_solid_is_as_large_as_the_camera_would_see_it_and_lit_from_above() -> None:
    plane = TablePlane(0.4, math.radians(40), math.radians(50), 480, 640, 4 / 3)
    point = np.array([0.5, 0.0])  # metres ahead of the camera, on the table
    down = math.atan2(plane.height, point[0])
    row = 240 + plane.focal * math.tan(down - plane.pitch)
    depth = math.hypot(plane.height, point[0]) * math.cos(down - plane.pitch)
    assert plane.rows_per_metre(row) == pytest.approx(plane.focal / depth) and plane.squash == pytest.approx(1.0)
    assert plane.elevation(row) == pytest.approx(down)
    ball = next(one for one in SOLIDS if one.name == "plum").draw(plane.elevation(row), 0.0, 1000.0, 1.0)
    assert ball.alpha.shape[1] == pytest.approx(42, abs=1.5), "a millimetre a pixel"
    lower, upper = ball.colour[-8:-4].max(), ball.colour[4:8].max()
    assert upper > 1.2 * lower
    assert isinstance(cut := cut_out("a", picture(), arm_and_box()), Cut) and cut.pixels.shape == (55, 40, 4)


def test_what_moves_is_protected_wherever_it_was() -> None:
    frames = []
    for step in range(6):
        frames.append(picture())
        frames[-1][60:70, 10 * step + 20 : 10 * step + 30] = (20, 20, 200)
    mask = motion_mask(frames)
    assert mask[60:70, 20:80].all() and mask.mean() < 0.12


def test_distractors_are_starts_with_their_lineage_and_an_interrupted_folder_becomes_the_same(
    starts: Path, tmp_path: Path
) -> None:
    words = ("--starts", str(starts), "--mask", "mask.png", "--variants", "2")
    assert augment("distractors", "one", *words) == 0
    found = files(tmp_path / "one")
    assert len(read_starts(tmp_path / "one")) == 4 and "sheet.jpg" in found
    summary = json.loads(found["augmented.json"])
    assert summary["whole"] and len(summary["starts"]) == 4 and not summary["left_out"]
    for name, lineage in summary["starts"].items():
        source, made = read_image(lineage["source"]), read_image(tmp_path / "one" / name)
        changed = (source != made).any(axis=2)
        assert changed.any() and not changed[arm_and_box()].any() and not changed[:20].any(), "not arm, box or wall"
        assert lineage["placed"] and lineage["protected_by"] == "a mask file"
        about = json.loads((tmp_path / "one" / name).with_suffix(".json").read_text())
        assert about["instruction"] == "lift the box" and about["position"] == [0.2, 0.0, 0.1]
        assert about["partial_credit_criteria"] == "half way"
    broken = sorted((tmp_path / "one").glob("*/*.json"))[1]  # as a kill leaves it: a picture without description
    broken.unlink()
    assert augment("distractors", "one", *words) == 0
    assert augment("distractors", "two", *words) == 0
    assert files(tmp_path / "one") == found == files(tmp_path / "two")
    assert augment("distractors", "three", *words, "--seed", "1") == 0
    assert files(tmp_path / "three") != found


def test_objects_cut_out_of_other_pictures_are_placed_in_their_size_and_never_where_the_task_names_them(
    starts: Path, tmp_path: Path
) -> None:
    own = tmp_path / "objects"
    mug = np.zeros((40, 40, 4), dtype=np.uint8)
    mug[5:35, 10:30] = (0, 0, 255, 255)  # blue, green, red, alpha
    (own / "box").mkdir(parents=True)
    for name in ("mug", "wooden box"):
        cv2.imwrite(str(own / f"{name}.png"), mug)
    (own / "mug.json").write_text('{"height": 0.03}')
    write_image(own / "box" / "brush.png", picture())
    cv2.imwrite(str(own / "box" / "brush.mask.png"), arm_and_box().astype(np.uint8) * 255)
    (own / "box" / "brush.json").write_text('{"name": "scrubbing brush", "height": 0.04}')
    words = ("--starts", str(starts), "--mask", "mask.png", "--objects", str(own), "--fewest", "2", "--most", "3")
    assert augment("distractors", "out", *words) == 0
    for lineage in json.loads((tmp_path / "out" / "augmented.json").read_text())["starts"].values():
        placed = {one["name"]: one for one in lineage["placed"]}
        assert set(placed) == {"mug", "scrubbing brush"}, "the instruction names a box"
        assert placed["mug"]["height"] == 0.03 and placed["mug"]["box"][2] < placed["mug"]["box"][3]


def test_a_simulated_station_knows_what_its_pixels_show(tmp_path: Path) -> None:
    assert augment("distractors", tmp_path / "out", "--tasks", "open_drawer", "--resets", "1", "--most", "2") == 0
    (start,) = read_starts(tmp_path / "out")
    assert start.instruction == "open the drawer" and start.position is not None
    sheet = read_image(tmp_path / "out" / "sheet.jpg")[22:214]
    before, marked, after = (sheet[:, 192 * k : 192 * (k + 1)].astype(int) for k in range(3))
    pink = (before[..., 0] > 150) & (before[..., 1] < 90) & (before[..., 2] > 65)
    black = before.max(axis=2) < 30
    black[120:] = False
    assert pink.sum() > 200 and black.sum() > 200
    for shown in (pink, black):
        inner = cv2.erode(shown.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
        assert np.abs(before - after)[inner].mean() < 3 and (marked[inner] < 0.6 * before[inner] + 25).all()


def test_templates_give_frames_other_instructions_and_those_of_ones_own_do(starts: Path, tmp_path: Path) -> None:
    write_starts(tmp_path / "known", 3, "Open the drawer")
    words = ("--starts", str(starts), str(tmp_path / "known"))
    assert augment("instructions", "out", *words) == 1, "the templates do not know the box"
    made = read_starts(tmp_path / "out")
    assert len(made) == 6 and len({one.instruction for one in made}) > 2
    assert "open the drawer" not in {one.instruction.lower() for one in made}
    left = json.loads((tmp_path / "out" / "augmented.json").read_text())["left_out"]
    assert len(left) == 2 and "lift the box" in left[0]["why"]
    (tmp_path / "own.yaml").write_text("instructions:\n  lift the box: [push the box, turn the box round]\n")
    assert augment("instructions", "own", "--starts", str(starts), "--templates", "own.yaml") == 0
    assert {one.instruction for one in read_starts(tmp_path / "own")} == {"push the box", "turn the box round"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("distractors --starts starts --mask small.png", "small.png: found a mask of 48x48 pixels, needed 96x96"),
        ("distractors --starts starts --mask white.png", "white.png: found a mask that is white everywhere"),
        ("distractors --starts starts --mask starts", "of it is neither black nor white; needed a mask"),
        ("distractors --starts starts --mask masks", "mask: found no start_0.png in masks"),
        ("distractors --starts starts", "start_0.png: nothing tells the robot"),
        ("distractors --mask mask.png", "error: mask: found one without `starts`"),
        ("distractors --starts starts --tasks open_drawer", "error: tasks: found some with `starts`"),
        ("distractors --starts starts --fewest 3 --most 2", "fewest: found 3, allowed is at most `most`, 2"),
        ("distractors --starts starts --objects starts", "start_0.png: found RGB pixels without transparency"),
        ("distractors --starts none", "none: no such folder of start frames"),
        ("distractors --config bridge_widowx", "error: starts: found none; needed a folder, or a station with a simul"),
        (
            "instructions --starts starts --templates twice.yaml",
            "twice.yaml: instructions.lift it: found one that says",
        ),
        ("instructions --starts starts --candidates x", "candidates: found some with --by templates"),
        (
            "tasks --starts starts --mixture nothing",
            "mixture: found 'nothing', which is no file; needed a path or one of",
        ),
        ("tasks --starts starts --mixture bare.yaml", "none of whose parts lists instructions"),
        ("tasks --starts starts --mixture doubled.yaml", "parts.a.instructions: found 'lift it' twice"),
        ("tasks --starts starts --mixture zero.yaml", "zero.yaml: parts.a.share: found 0"),
    ],
)
def test_wrong_input_is_one_line_that_names_it(
    starts: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], words: str, said: str
) -> None:
    cv2.imwrite("small.png", np.zeros((48, 48), np.uint8))
    cv2.imwrite("white.png", np.full((SIDE, SIDE), 255, np.uint8))
    (tmp_path / "masks").mkdir()
    (tmp_path / "twice.yaml").write_text("instructions: {lift it: [take it, 'Take  it']}\n")
    (tmp_path / "bare.yaml").write_text("parts: {a: {share: 1, starts: a}}\n")
    (tmp_path / "doubled.yaml").write_text("parts: {a: {share: 1, starts: a, instructions: [lift it, LIFT it]}}\n")
    (tmp_path / "zero.yaml").write_text("parts: {a: {share: 0, starts: a}}\n")
    thing, *rest = words.split()
    code = augment(thing, tmp_path / "out", *rest)
    told = " ".join(capfd.readouterr().err.split())
    assert code in (1, 2) and said in told and "Traceback" not in told, told


def test_a_folder_goes_on_with_its_own_options_alone(starts: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = ("--starts", str(starts), "--mask", "mask.png")
    assert augment("distractors", "out", *words) == 0
    assert augment("distractors", "out", *words, "--most", "2") == 2
    assert "holds a run with most 3, found 2; give the same options, or choose another --out" in capfd.readouterr().err
    assert augment("instructions", "out", "--starts", str(starts)) == 2
    assert "not written by `gymnast augment instructions`" in capfd.readouterr().err
