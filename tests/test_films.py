"""A film costs memory for the frames in use at the size in use, is decoded once, stops when told to, and is believed
only where it is whole; actions beside it mean what their format says."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
import warnings
import zipfile
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from gymnast_core.data import films
from gymnast_core.data.films import film_frame, film_frames, film_index, read_video
from gymnast_core.data.formats import find_all, open_episode
from gymnast_core.data.worldgym import read_actions, unscale_actions
from gymnast_core.errors import DataError
from gymnast_core.policy.dataset import Samples, find_entries
from gymnast_core.progress import Stopped, readers
from gymnast_core.rollout.starts import read_frame
from gymnast_core.world_model.dataset import read_clip
from tests.machine import HANG_S, in_time

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "bridge_episodes"
MATRICES = {"BT.601": 5, "BT.709": 1, "SMPTE 240M": 7, "none named": None}


def write_film(
    path: Path,
    frames: np.ndarray,
    codec: str = "libx264",
    pixels: str = "yuv444p",
    matrix: int | None = None,
    full: bool = False,
    **options: str,
) -> Path:
    """Frames (T, H, W, 3) as a film, with its index before its pictures."""
    mp4 = path.suffix in (".mp4", ".mov")
    with av.open(str(path), "w", options={"movflags": "faststart"} if mp4 else {}) as container:
        stream = container.add_stream(codec, rate=5)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], pixels
        stream.options = {**({"crf": "8"} if codec == "libx264" else {}), **options}
        if matrix:
            stream.codec_context.colorspace = matrix
        stream.codec_context.color_range = 2 if full else 1
        for picture in frames:
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            if "yuv" in pixels:
                frame = frame.reformat(format=pixels, dst_colorspace=matrix or 5, dst_color_range=2 if full else 1)
                frame.colorspace, frame.color_range = matrix or 2, 2 if full else 1
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def numbered(count: int, height: int = 64, width: int = 96) -> np.ndarray:
    """Frames whose first rows say which they are, in ten bits of 8x8 pixels; below, a pattern that moves."""
    frames = np.full((count, height, width, 3), 90, np.uint8)
    pattern = np.random.default_rng(0).integers(0, 255, (height - 8, width, 3), np.uint8)
    for k in range(count):
        frames[k, 8:] = np.roll(pattern, k, axis=1)
        for bit in range(10):
            frames[k, :8, 8 * bit : 8 * bit + 8] = 220 if k >> bit & 1 else 30
    return frames


def number(frame: np.ndarray) -> int:
    """Which of the numbered frames this is."""
    return sum(1 << bit for bit in range(10) if frame[4, 8 * bit + 4, 0] > 128)


def write_demonstration(folder: Path, frames: np.ndarray, actions: np.ndarray | None = None, name: str = "0") -> Path:
    """An episode in WorldGym's layout."""
    folder.mkdir(exist_ok=True)
    rows = np.tile(np.array([0.3, 0, 0, 0, 0, 0, -1, 0, 0, 0], np.float32), (len(frames), 1))
    np.savez(folder / f"{name}.npz", arr_0=rows if actions is None else actions)
    return write_film(folder / f"{name}.mp4", frames, pixels="yuv420p", preset="ultrafast")


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", MATRICES.values(), ids=MATRICES)
def test_colours_are_converted_as_the_film_says(tmp_path: Path, matrix: int | None, full: bool) -> None:
    picture = np.zeros((64, 96, 3), np.uint8)
    patches = ((200, 30, 30), (30, 180, 180), (20, 200, 40), (230, 230, 220))
    for i, patch in enumerate(patches):
        picture[:, 24 * i : 24 * i + 24] = patch
    path = write_film(tmp_path / "a.mp4", np.stack([picture] * 3), matrix=matrix, full=full)
    found = read_video(path)[1, 32, 12::24].astype(int)
    assert np.abs(found - patches).max() <= 3


def set_matrix(source: Path, target: Path, a: float, b: float, c: float, d: float) -> None:
    """Copy an MP4 with this display matrix in its track header (ISO/IEC 14496-12, 8.3.2)."""
    raw = bytearray(source.read_bytes())
    at = raw.index(b"tkhd") + 4 + 4 + 20 + 16
    struct.pack_into(
        ">9i", raw, at, *(int(v * 65536) for v in (a, b)), 0, *(int(v * 65536) for v in (c, d)), *[0] * 3, 1 << 30
    )
    target.write_bytes(raw)


def test_a_film_is_upright(tmp_path: Path) -> None:
    scene = np.zeros((64, 96, 3), np.uint8)
    scene[:32, :48], scene[:32, 48:], scene[32:, :48] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    write_film(tmp_path / "plain.mp4", np.stack([scene] * 6))
    shown = {
        (1, 0, 0, 1): scene,
        (0, 1, -1, 0): np.rot90(scene, -1),
        (-1, 0, 0, -1): scene[::-1, ::-1],
        (0, -1, 1, 0): np.rot90(scene),
        (-1, 0, 0, 1): scene[:, ::-1],
        (1, 0, 0, -1): scene[::-1],
        (0, 1, 1, 0): scene.transpose(1, 0, 2),
        (0, -1, -1, 0): scene[::-1, ::-1].transpose(1, 0, 2),
    }
    path = tmp_path / "turned.mp4"
    for matrix, wanted in shown.items():
        set_matrix(tmp_path / "plain.mp4", path, *matrix)
        for frame in (read_video(path)[2], film_frame(path, -1), read_frame(str(path), 3).frame):
            assert frame.shape == wanted.shape and np.abs(frame.astype(int) - wanted).max() < 20, matrix
        assert read_video(path, 32).shape == (6, 32, 32, 3)
    set_matrix(tmp_path / "plain.mp4", path, 0.7, 0.7, -0.7, 0.7)
    with pytest.raises(DataError, match="rotation by 45 degrees, needed quarter turns"):
        read_video(path)


@pytest.mark.parametrize(
    ("suffix", "codec", "pixels"),
    [(".mp4", "libx264", "yuv420p"), (".mkv", "libx264", "yuv420p"), (".avi", "mpeg4", "yuv420p")],
)
def test_any_frame_is_found_and_damage_is_an_error(tmp_path: Path, suffix: str, codec: str, pixels: str) -> None:
    path = write_film(tmp_path / f"a{suffix}", numbered(60), codec, pixels, g="12")
    assert film_index(path).count == 60
    assert [number(frame) for frame in film_frames(path)] == list(range(60))
    chosen = (0, 1, 11, 12, 13, 37, 59, -1, -60)
    assert [number(film_frame(path, k)) for k in chosen] == [k % 60 for k in chosen]
    for k in (60, -61):
        with pytest.raises(DataError, match=f"found 60 frames, there is no index {k}; allowed are 0 to 59"):
            film_frame(path, k)
    whole = path.read_bytes()
    n = len(whole)
    for damaged in (
        whole[: n // 2],
        whole[: n * 9 // 10],
        whole[: n // 2]
        + bytes(n // 10)
        + whole[n // 2 + n // 10 :],  # less may stay within a frame, which no film can tell
        whole[: n // 2] + bytes(byte ^ 0x55 for byte in whole[n // 2 : n // 2 + n // 10]) + whole[n // 2 + n // 10 :],
        whole[: n // 2] + whole[n // 2 + 300 :],
        b"",
        b"version https://git-lfs.github.com/spec/v1\n",
    ):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=f"{path}: (damaged|cut off|cannot read)"):
            read_video(path)


def test_films_that_eight_bits_of_colour_cannot_show_are_refused(tmp_path: Path) -> None:
    frames = numbered(3)
    for name, codec, pixels, message in (
        ("a.mov", "png", "rgba", "grey or transparent"),
        ("b.mkv", "ffv1", "gray", "grey or transparent"),
    ):
        with pytest.raises(DataError, match=message):
            read_video(write_film(tmp_path / name, frames, codec, pixels))
    for name, curve, primaries, message in (("c.mp4", 18, 9, "HLG"), ("d.mp4", 16, 9, "PQ"), ("e.mp4", 1, 12, "P3")):
        colours = f"colorprim={ {9: 'bt2020', 12: 'smpte432'}[primaries] }:transfer="
        transfer = {18: "arib-std-b67", 16: "smpte2084", 1: "bt709"}[curve]
        path = write_film(tmp_path / name, frames, **{"x264-params": colours + transfer})
        with pytest.raises(DataError, match=message):
            read_video(path)


def test_a_film_that_declares_a_billion_pixels_costs_nothing(tmp_path: Path) -> None:
    path = write_film(tmp_path / "a.avi", numbered(3), "mjpeg", "yuvj420p")
    raw = bytearray(path.read_bytes())
    at = raw.find(b"\xff\xc0")
    while at >= 0:
        raw[at + 5 : at + 9] = struct.pack(">HH", 32000, 32000)
        at = raw.find(b"\xff\xc0", at + 4)
    path.write_bytes(raw)
    wide = write_film(tmp_path / "wide.mp4", np.zeros((2, 64, 8208, 3), np.uint8))
    header = write_film(tmp_path / "b.avi", numbered(3), "rawvideo", "yuv420p")
    raw = bytearray(header.read_bytes())
    at = raw.index(b"strf") + 8 + 4
    raw[at : at + 8] = struct.pack("<ii", 32000, 32000)
    header.write_bytes(raw)
    program = """
import resource, sys
import av
from gymnast_core.data.films import film_frame, read_video
from gymnast_core.errors import DataError
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sys.argv[1:]:
    for read in (read_video, lambda path: film_frame(path, 0)):
        try:
            read(path)
        except DataError as error:
            print(error)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    found = subprocess.run(
        [sys.executable, "-c", program, str(path), str(wide), str(header)],
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=True,
    )
    *lines, used = found.stdout.splitlines()
    assert len(lines) == 6, found.stdout
    assert "8208x64 pixels" in lines[2]
    assert int(used) < 100_000, found.stdout


def test_a_long_film_costs_the_frames_in_use_at_their_size(tmp_path: Path) -> None:
    """10 s of 1280x720: 830 MB in all, 59 MB at 256x256."""
    frames = np.broadcast_to(numbered(1, 720, 1280), (300, 720, 1280, 3))
    write_demonstration(tmp_path / "data", frames)
    program = """
import resource, sys
import torch, av
from gymnast_core.policy.dataset import Samples, find_entries
from gymnast_core.data.formats import find_all
from gymnast_core.world_model.dataset import read_clip
def used():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
entries = find_entries(sys.argv[1:2], "open")
print(used())
samples = Samples(entries, 1, cache_bytes=0)
samples.frame(3), samples.frame(290)
print(used())
samples = Samples(entries, 1)
assert samples.frame(3).shape == (256, 256, 3)
print(used())
frames, _ = read_clip(find_all(sys.argv[1])[0], 64)
print(used())
"""
    found = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "data")],
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=True,
    )
    listing, single, together, imagined = (int(line) / 1000 for line in found.stdout.split())
    assert listing < 60 and single < 150, "MB, nothing but a frame and ffmpeg's own"
    assert together < 150 + 2 * 59 and imagined < 150 + 2 * 59 + 10


def test_a_film_is_decoded_once_however_many_ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_demonstration(tmp_path / "data", numbered(40, 64, 96))
    decoded: list[int] = []
    plain = films._Viewer.pixels

    def counted(viewer: Any, frame: av.VideoFrame, k: int) -> np.ndarray:
        decoded.append(k)
        return plain(viewer, frame, k)

    monkeypatch.setattr(films._Viewer, "pixels", counted)
    (entry,) = find_entries([str(tmp_path / "data")], "open")
    assert not decoded, "counted, not decoded"
    samples = Samples([entry], 1)
    order = np.random.default_rng(0).permutation(len(samples)).tolist() * 3
    with readers(8) as pool:
        found = list(pool.map(samples.frame, order))
    assert [number(frame) for frame in found] == order
    assert sorted(decoded) == list(range(40))
    decoded.clear()
    poor = Samples([entry], 1, cache_bytes=1000)
    assert [number(poor.frame(k)) for k in (30, 2, 38)] == [30, 2, 38] and decoded == [30, 2, 38]


def test_reading_stops_within_a_second(tmp_path: Path) -> None:
    """Threads in the middle of a film give up at its next frame once their owner leaves."""
    path = write_demonstration(tmp_path / "data", numbered(1, 720, 1280).repeat(150, 0))
    begun = threading.Event()

    def decode() -> None:
        while True:
            for _ in film_frames(path):
                begun.set()

    with pytest.raises(RuntimeError, match="leave"), readers(2) as pool:
        running = [pool.submit(decode) for _ in range(2)]
        assert begun.wait(HANG_S)
        left = time.monotonic()
        raise RuntimeError("leave")
    took = time.monotonic() - left
    assert all(isinstance(future.exception(), Stopped) for future in running)
    frame = _seconds(lambda: next(iter(film_frames(path))))
    assert in_time(1.0 + 10 * frame, left, left + took), "a frame each on a slow machine"


def _seconds(work: object) -> float:
    began = time.monotonic()
    work()  # type: ignore[operator]
    return time.monotonic() - began


def test_sft_on_a_long_film_saves_and_leaves_when_told_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked to stop while its threads decode the first films, it writes a checkpoint and gives up the rest of them."""
    from tests.test_policy_sft import config, sft

    for name in "01":
        write_demonstration(tmp_path / "data", numbered(1, 720, 1280).repeat(400, 0), name=name)
    told: list[float] = []
    decoded: list[int] = []
    plain = films._Viewer.pixels

    def counted(viewer: Any, frame: av.VideoFrame, k: int) -> np.ndarray:
        decoded.append(k)
        if len(decoded) == 20:
            told.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(viewer, frame, k)

    monkeypatch.setattr(films._Viewer, "pixels", counted)
    settings = config(tmp_path / "data", tmp_path, "film", instruction="open it", steps=10_000, holdout=0.0)
    assert sft(settings) == 130
    assert in_time(5.0, told[0]), "within a second, on an idle machine"
    assert len(decoded) < 60, "of 800 frames"
    assert list((Path(settings.run) / "checkpoints").iterdir())


# --- what actions mean ------------------------------------------------------------------------------------------


def rows(count: int = 20, **columns: object) -> np.ndarray:
    """A Bridge arm's rows, some columns replaced."""
    generator = np.random.default_rng(0)
    out = np.zeros((count, 10), np.float32)
    out[:, :3], out[:, 3:6] = generator.uniform(-1.7, 1.7, (count, 3)), generator.uniform(-1.3, 1.3, (count, 3))
    out[:, 6] = np.where(np.arange(count) < count // 2, -1, 1)
    for name, value in columns.items():
        out[:, int(name[1:])] = value
    return out


def test_a_world_model_learns_from_the_rows_as_they_are(tmp_path: Path) -> None:
    """Of a Bridge arm, and of a robot with a relative gripper, wide rotations and a base that moves."""
    other = rows(c0=np.linspace(-2, 2, 20), c3=np.linspace(-np.pi / 2, np.pi / 2, 20), c8=0.4)
    other[:, 6] = 0
    other[5, 6], other[15, 6] = 1, -1
    for name, actions in (("bridge", rows()), ("other", other)):
        write_demonstration(tmp_path / name, numbered(20), actions)
        (file,) = find_all(tmp_path / name)
        frames, given = read_clip(file, 32)
        assert frames.shape == (20, 32, 32, 3) and np.array_equal(given[1:], actions[1:]) and not given[0].any()
    assert len(open_episode(tmp_path / "bridge/0.mp4").read().actions) == 19
    for read in (lambda path: open_episode(path).read(), lambda path: find_entries([str(path.parent)], "open")):
        with pytest.raises(DataError, match=r"other/0\.npz: column 0 \(x\): found -1.789 at row 0; as a Bridge action"):
            read(tmp_path / "other/0.mp4")


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        (rows(c1=1.9), r"column 1 \(y\): found 1.9 at row 0; as a Bridge action allowed are -1.75 to 1.75"),
        (rows(c5=-1.5), r"column 5 \(yaw\): found -1.5 at row 0; .* -1.4 to 1.4"),
        (rows(c6=np.linspace(-1, 1, 20)), r"column 6 \(gripper\): found -0.8947 at row 0; .* -1 \(open\) and 1"),
        (rows(c9=0.2), r"column 9 \(base 3\): found 0.2 at row 0; .* no base that moves"),
    ],
)
def test_what_is_no_bridge_action_is_refused_by_column_and_value(
    tmp_path: Path, actions: np.ndarray, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        unscale_actions(actions[1:], "a")
    np.savez(tmp_path / "a.npz", arr_0=actions)
    with pytest.raises(DataError, match=message):
        read_actions(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("column", "value", "unit"),
    [(0, 12.0, "metres"), (4, 5.0, "radians"), (6, -1.0, "1 = open"), (6, 255.0, "1 = open")],
)
def test_seven_columns_in_other_units_are_refused(tmp_path: Path, column: int, value: float, unit: str) -> None:
    actions = np.full((4, 7), 0.01, np.float32)
    actions[2, column] = value
    np.savez(tmp_path / "a.npz", actions=actions)
    with pytest.raises(DataError, match=rf"column {column} \(.*\): found {value:g} at row 2; allowed .*\({unit}\)"):
        read_actions(tmp_path / "a.npz")


@pytest.mark.parametrize(("column", "place"), [(0, 0.31), (2, -0.2), (4, 1.5)])
def test_places_instead_of_steps_are_refused(tmp_path: Path, column: int, place: float) -> None:
    actions = np.full((8, 7), 0.01, np.float32)
    actions[:, column] += place
    np.savez(tmp_path / "a.npz", actions=actions)
    with pytest.raises(DataError, match=rf"column {column} \(.*\): half of its steps are .*places instead of steps"):
        read_actions(tmp_path / "a.npz")
    actions[3:, column] = 0.01  # single long steps are none
    np.savez(tmp_path / "a.npz", actions=actions)
    assert len(read_actions(tmp_path / "a.npz")) == 8


@pytest.mark.parametrize("last", [True, False], ids=["x y z w", "w x y z"])
def test_quaternions_are_not_taken_for_angles_and_a_gripper(tmp_path: Path, last: bool) -> None:
    actions = np.full((20, 7), 0.01, np.float32)
    turns = np.random.default_rng(0).normal(0, 0.1, (20, 3))
    scalar = np.sqrt(1 - (turns**2).sum(axis=1, keepdims=True))
    actions[:, 3:] = np.concatenate([turns, scalar] if last else [scalar, turns], axis=1)
    np.savez(tmp_path / "a.npz", actions=actions)
    with pytest.raises(DataError, match="as quaternions are" if last else r"as quaternions are|column 3 \(roll\)"):
        read_actions(tmp_path / "a.npz")
    actions[:, 6] = np.arange(20) % 2
    actions[:, 3:6] = turns
    np.savez(tmp_path / "a.npz", actions=actions)
    assert len(read_actions(tmp_path / "a.npz")) == 20


def test_a_file_that_is_no_array_is_one_line_and_no_wait(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for value in (0.0, 0.01):
            content = io.BytesIO()
            np.save(content, np.full((4, 7), value, np.float32))
            archive.writestr("actions.npy", content.getvalue())
    with pytest.raises(DataError, match="holds the array 'actions' twice"):
        read_actions(path)
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': " + b"(" * 40 + b"1" + b")" * 39
    for content in (header.ljust(118), b"{'descr': '\xff".ljust(118), b"[" * 118):
        (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\1\0v\0" + content)
        with pytest.raises(DataError, match=r"a\.npy: cannot read an array"):
            read_actions(tmp_path / "a.npy")
    path.unlink()
    os.mkfifo(path)
    for read in (read_actions, read_video, film_index):
        with pytest.raises(DataError, match="not an ordinary file"):
            read(path)


def test_a_gripper_from_0_to_1_is_not_taken_for_worldgyms(tmp_path: Path) -> None:
    unit = rows()
    unit[:, 6] = (unit[:, 6] + 1) / 2
    write_demonstration(tmp_path / "data", numbered(20), unit)
    file = open_episode(tmp_path / "data/0.mp4")
    with pytest.raises(DataError, match=r"0\.npz: column 6 \(gripper\): found 0 at row 0; and nowhere -1"):
        read_clip(file, 32)
    (tmp_path / "data/dataset.json").write_text('{"gripper": "relative"}')
    assert np.array_equal(read_clip(file, 32)[1][1:], unit[1:])
    (tmp_path / "data/0.json").write_text(json.dumps({"instruction": "open", "gripper": "absolute"}))
    with pytest.raises(DataError, match="column 6"):
        read_clip(file, 32)
    (tmp_path / "data/0.json").write_text('{"gripper": "fast"}')
    with pytest.raises(DataError, match=r"0\.json: gripper: found 'fast', allowed are 'relative' and 'absolute'"):
        read_clip(file, 32)


def test_an_array_that_unpacks_without_end_is_refused(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", arr_0=np.zeros((8_000_000, 10), np.float32))
    assert (tmp_path / "a.npz").stat().st_size < 1_000_000
    with pytest.raises(DataError, match="found an array of 320 MB, allowed are 256 MB"):
        read_actions(tmp_path / "a.npz")


@pytest.mark.skipif(not SHARED.is_dir(), reason="no ../shared/data/bridge_episodes here")
def test_what_a_file_manager_leaves_beside_real_episodes_is_no_episode(tmp_path: Path) -> None:
    for path in SHARED.glob("00000000[0-3].*"):
        shutil.copy(path, tmp_path)
        (tmp_path / f"._{path.name}").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X        ")
    (tmp_path / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    (tmp_path / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
    videos = len(list(SHARED.glob("00000000[0-3].mp4")))
    assert videos and len(find_entries([str(tmp_path)], "open")) == len(find_all(tmp_path)) == videos
