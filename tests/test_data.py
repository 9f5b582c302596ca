"""Episodes and configs: nothing that was logged is lost, nothing from outside enters unchecked."""

from __future__ import annotations

import contextlib
import json
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gymnast_core.config import StationConfig, dump_config, load_config, parse_config
from gymnast_core.data.episode import EpisodeWriter, find_episodes, read_episode, write_episode
from gymnast_core.data.formats import find_all, open_episode
from gymnast_core.data.frames import read_image
from gymnast_core.data.recover import recover_episode
from gymnast_core.data.worldgym import (
    read_actions,
    scale_actions,
    unscale_actions,
)
from gymnast_core.errors import ConfigError, DataError
from gymnast_core.run_folder import RunFolder

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"


def write_steps(folder: Path, n_steps: int, finish: bool) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(n_steps)
    frames = random.integers(0, 255, (n_steps + 1, 24, 32, 3), dtype=np.uint8)
    actions = random.uniform(-0.05, 0.05, (n_steps, 7)).astype(np.float32)
    writer = EpisodeWriter(folder, "open the drawer", {"task": "open_drawer"})
    writer.add_observation(frames[0], np.arange(7), 10)
    for step in range(n_steps):
        writer.add_step(actions[step], actions[step] / 2, ["workspace"])
        writer.add_observation(frames[step + 1], None, 20 + step)
    if finish:
        writer.finish(success=True, judge="classifier")
    else:
        writer._steps.close()  # what the end of the process does
    return frames, actions


def test_an_episode_reads_back_as_it_was_written(tmp_path: Path) -> None:
    frames, actions = write_steps(tmp_path / "a", 4, finish=True)
    episode = read_episode(tmp_path / "a")
    np.testing.assert_array_equal(episode.frames, frames)
    np.testing.assert_array_equal(episode.actions, actions)
    np.testing.assert_allclose(episode.executed, actions / 2)
    assert episode.states[0].tolist() == list(range(7)) and np.isnan(episode.states[1:]).all()
    assert episode.success is True and episode.complete and episode.metadata["judge"] == "classifier"
    write_episode(tmp_path / "b", episode)
    copy = read_episode(tmp_path / "b")
    np.testing.assert_array_equal(copy.frames, frames)
    assert find_episodes(tmp_path) == [tmp_path / "a", tmp_path / "b"]
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "again").symlink_to(tmp_path)  # a circle
    (tmp_path / "elsewhere" / "linked").symlink_to(tmp_path / "a")
    assert [path.name for path in find_episodes(tmp_path / "elsewhere")] == ["b", "linked"]


@settings(max_examples=30, deadline=None)
@given(cut=st.integers(0, 2000))
def test_a_recording_cut_at_any_byte_keeps_its_whole_steps(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    folder = tmp_path_factory.mktemp("cut") / "episode"
    frames, actions = write_steps(folder, 3, finish=False)
    steps = folder / "steps.jsonl"
    content = steps.read_bytes()[: max(cut, len(steps.read_bytes().splitlines()[0]) + 1)]
    steps.write_bytes(content)
    episode = read_episode(folder)
    whole_frames = sum(
        1 for line in content.decode().splitlines(keepends=True) if '"frame"' in line and line[-2] == "}"
    )
    assert not episode.complete
    assert episode.length >= whole_frames - 1
    np.testing.assert_array_equal(episode.actions, actions[: episode.length])
    np.testing.assert_array_equal(episode.frames, frames[: episode.length + 1])


@settings(max_examples=40, deadline=None)
@example([0, 1, 2, 4, 5, 6])  # a step's line is lost
@example([0, 1, 3, 4, 5, 6])  # a picture's
@example([1, 2, 3, 4, 5, 6])
@example([0, 0, 1, 1, 2, 2])  # two recordings in one file
@example([0, 1, 4, 3, 2, 5, 6])
@given(st.lists(st.integers(0, 6), min_size=1, max_size=9))
def test_no_action_stands_beside_a_picture_of_another_step(
    tmp_path_factory: pytest.TempPathFactory, order: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("mixed") / "episode"
    frames, actions = write_steps(folder, 3, finish=True)
    steps = folder / "steps.jsonl"
    lines = steps.read_bytes().splitlines(keepends=True)
    steps.write_bytes(b"".join(lines[number] for number in order))
    for repair in (False, True):
        if repair:
            with contextlib.suppress(DataError):
                recover_episode(folder)
        with contextlib.suppress(DataError):
            episode = read_episode(folder)
            np.testing.assert_array_equal(episode.actions, actions[: episode.length])
            np.testing.assert_array_equal(episode.frames, frames[: episode.length + 1])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ((b'"frame": 1', b'"frame": true'), "frame: found True"),
        ((b'"frame": 1', b'"frame": -1'), "frame: found -1, needed 1"),
        ((b'"action": [', b'"action": ["0.1", '), "found '0.1', needed a number"),
        ((b'"action": [', b'"action": [true, '), "found True, needed a number"),
    ],
    ids=str,
)
def test_text_and_truth_are_no_numbers_of_a_step(tmp_path: Path, change: tuple[bytes, bytes], told: str) -> None:
    write_steps(tmp_path / "a", 2, finish=True)
    steps = tmp_path / "a" / "steps.jsonl"
    steps.write_bytes(steps.read_bytes().replace(*change, 1))
    with pytest.raises(DataError, match=told):
        read_episode(tmp_path / "a")


@pytest.mark.parametrize(
    "change",
    [
        lambda text: b"\xef\xbb\xbf" + text,
        lambda text: text.replace(b"\n", b"\r\n"),
        lambda text: text.replace(b"\n", b"\n\n", 2),
        lambda text: text.replace(b'"safety_events"', '"note": "a\u2028b\x85", "safety_events"'.encode()),
    ],
    ids=["mark", "crlf", "blank", "separators"],
)
def test_what_editors_add_changes_no_episode(tmp_path: Path, change: Callable[[bytes], bytes]) -> None:
    _, actions = write_steps(tmp_path / "a", 3, finish=True)
    for name in ("steps.jsonl", "episode.json"):
        path = tmp_path / "a" / name
        path.write_bytes(change(path.read_bytes()))
    np.testing.assert_array_equal(read_episode(tmp_path / "a").actions, actions)
    assert "3 steps, complete" in recover_episode(tmp_path / "a")


@pytest.mark.parametrize("name", ["episode.json", "steps.jsonl", "frames/000001.png"])
def test_a_pipe_or_a_device_in_place_of_a_file_is_refused_at_once(tmp_path: Path, name: str) -> None:
    write_steps(tmp_path / "a", 2, finish=True)
    for kind in ("pipe", "device"):
        path = tmp_path / "a" / name
        path.unlink()
        os.mkfifo(path) if kind == "pipe" else path.symlink_to("/dev/zero")
        with pytest.raises(DataError, match=name):
            read_episode(tmp_path / "a")
    with contextlib.suppress(DataError):  # a header is written anew
        recover_episode(tmp_path / "a")


def test_the_text_behind_a_link_is_not_shown(tmp_path: Path) -> None:
    write_steps(tmp_path / "a", 2, finish=True)
    (tmp_path / "private.txt").write_text("my diary")
    for name in ("frames/000001.png", "episode.json"):
        path = tmp_path / "a" / name
        path.unlink()
        path.symlink_to(tmp_path / "private.txt")
        with pytest.raises(DataError, match=name) as told:
            read_episode(tmp_path / "a")
        assert "diary" not in str(told.value)


@pytest.mark.parametrize(
    "line",
    [
        b"[1, 2]\n",
        b'{"frame": "x", "stamp_ns": 0, "state": []}\n',
        b'{"frame": 0, "stamp_ns": 1%b, "state": [0,0,0,0,0,0,0]}\n' % (b"0" * 30),
        b"\xff\xfe\n",
        b'{"step": 0, "action": %b, "executed": %b}\n' % ((b"[0,0,0,0,0,0,0,0,0,0,0,0,0,0]",) * 2),  # two steps' worth
    ],
)
def test_a_broken_line_is_named_and_nothing_else_escapes(tmp_path: Path, line: bytes) -> None:
    write_steps(tmp_path / "a", 2, finish=True)
    steps = tmp_path / "a" / "steps.jsonl"
    steps.write_bytes(line + steps.read_bytes())
    with pytest.raises(DataError, match=r"steps\.jsonl"):
        read_episode(tmp_path / "a")
    with pytest.raises(DataError, match="not an episode folder"):
        read_episode(tmp_path)


@pytest.mark.parametrize("field", [{"success": "yes"}, {"metadata": [1]}, {"instruction": 5}, {"version": 99}])
def test_a_field_of_the_wrong_type_in_episode_json_is_named(tmp_path: Path, field: dict) -> None:
    write_steps(tmp_path / "a", 2, finish=True)
    header = tmp_path / "a" / "episode.json"
    header.write_text(json.dumps({**json.loads(header.read_text()), **field}))
    with pytest.raises(DataError, match=rf"episode\.json: .*{next(iter(field))}"):
        read_episode(tmp_path / "a")


def test_frames_of_two_sizes_are_refused_by_name(tmp_path: Path) -> None:
    write_steps(tmp_path / "a", 2, finish=True)
    cv2.imwrite(str(tmp_path / "a/frames/000001.png"), np.zeros((20, 20, 3), np.uint8))
    with pytest.raises(DataError, match=r"a/frames: found sizes \[\(20, 20\), \(24, 32\)\]"):
        read_episode(tmp_path / "a")


def test_writing_into_an_existing_episode_is_refused(tmp_path: Path) -> None:
    write_steps(tmp_path / "a", 1, finish=True)
    with pytest.raises(DataError, match="holds an episode already"):
        EpisodeWriter(tmp_path / "a", "x", {})


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.zeros((1, 1, 3), np.uint8), "1x1 pixels"),
        (np.zeros((64, 64, 4), np.uint8), r"4 channel\(s\)"),
        (np.zeros((64, 64), np.uint8), r"1 channel\(s\)"),
        (np.zeros((64, 64, 3), np.uint16), "uint16"),
    ],
)
def test_images_that_are_not_8_bit_rgb_are_refused_by_name(tmp_path: Path, pixels: np.ndarray, message: str) -> None:
    path = tmp_path / "image.png"
    cv2.imwrite(str(path), pixels)
    with pytest.raises(DataError, match=message) as caught:
        read_image(path)
    assert str(path) in str(caught.value)


def test_a_file_that_is_no_image_is_refused(tmp_path: Path) -> None:
    (tmp_path / "image.png").write_bytes(b"\x89PNG\r\n\x1a\n half an image")
    with pytest.raises(DataError, match="not a readable image"):
        read_image(tmp_path / "image.png")
    with pytest.raises(DataError, match="no such image"):
        read_image(tmp_path / "nowhere.png")
    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", len(header)) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    (tmp_path / "image.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk)  # claims 3.6 gigapixels
    with pytest.raises(DataError, match="not a readable image"):
        read_image(tmp_path / "image.png")


@given(st.lists(st.floats(-0.049, 0.049), min_size=3, max_size=3), st.booleans())
def test_worldgym_scaling_has_an_inverse_inside_its_range(translation: list[float], gripper_open: bool) -> None:
    action = np.array([[*translation, 0.1, -0.2, 0.0, float(gripper_open)]], dtype=np.float32)
    np.testing.assert_allclose(unscale_actions(scale_actions(action)), action, atol=1e-6)


@pytest.mark.skipif(not (SHARED / "data/bridge_episodes").is_dir(), reason="no ../shared/data/bridge_episodes here")
def test_real_bridge_episodes_are_read() -> None:
    videos = find_all(SHARED / "data/bridge_episodes")
    assert len(videos) == 8
    episode = videos[0].read(64)
    assert episode.frames.shape == (episode.length + 1, 64, 64, 3)
    assert np.abs(episode.actions[:, :3]).max() <= 0.05 + 1e-6 and set(np.unique(episode.actions[:, 6])) <= {0.0, 1.0}


def test_a_worldgym_episode_of_the_wrong_length_is_refused(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "0.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=5)
        stream.width = stream.height = 64
        for _ in range(5):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode())
    np.savez(tmp_path / "0.npz", arr_0=np.zeros((4, 10), np.float32))
    with pytest.raises(DataError, match=r"4 actions for the 5 frames"):
        open_episode(tmp_path / "0.mp4").read()
    np.savez(tmp_path / "0.npz", arr_0=np.full((5, 10), np.nan, np.float32))
    with pytest.raises(DataError, match="needed finite"):
        open_episode(tmp_path / "0.mp4").read()


@pytest.mark.parametrize("path", sorted((ROOT / "robot_configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_station_file_is_valid_and_round_trips(path: Path, tmp_path: Path) -> None:
    config = load_config(StationConfig, path)
    (tmp_path / "copy.yaml").write_text(dump_config(config))
    assert load_config(StationConfig, tmp_path / "copy.yaml") == config


@pytest.mark.parametrize(
    ("content", "field"),
    [
        ({}, "name: found nothing"),
        ({"name": "x", "arm": {"control_hzz": 5}}, "unknown field 'arm.control_hzz'"),
        ({"name": "x", "tasks": {"a": {"instruction": "b", "reset_task": "c"}}}, "tasks.a.reset_task: found 'c'"),
        ({"name": "x", "tasks": {"a": {"instruction": "b"}}, "evaluation": {"reset": "task"}}, "reset_task: found ''"),
        ({"name": "x", "arm": {"control_hz": "fast"}}, "arm.control_hz: found 'fast'"),
        ({"name": "x", "safety": {"max_rotation": float("nan")}}, "safety.max_rotation: found nan"),
        ({"name": "x", "safety": {"workspace_min": [0, 0]}}, "safety.workspace_min"),
        ({"name": "x", "tasks": {"open": {"max_steps": 3}}}, "tasks.open.instruction: found nothing"),
        ({"name": "x", "judge": {"kind": "oracle"}}, "judge.kind: found 'oracle'"),
        ({"name": "x", "tasks": {}}, "tasks: found {}"),
        ({"name": "x", "adaptation": {"gate_judge": {"kind": "vlm", "votes": 0}}}, "gate_judge.votes: found 0; Input"),
        ({"name": "x", "adaptation": {"gate_judge": {"votse": 3}}}, "unknown field 'adaptation.gate_judge.votse'"),
        ({"name": "x", "adaptation": {"gate_judge": ["a"]}}, "adaptation.gate_judge: found ['a']; Input should be a "),
        ({"name": "x", "arm": {"control_hz": 2}}, "safety.command_timeout_s is 0.4, must be over"),
    ],
)
def test_a_wrong_station_file_is_refused_naming_file_and_field(tmp_path: Path, content: dict, field: str) -> None:
    path = tmp_path / "station.yaml"
    path.write_text(yaml.safe_dump({"tasks": {"open": {"instruction": "open it"}}, **content}))
    with pytest.raises(ConfigError) as caught:
        load_config(StationConfig, path)
    assert field in str(caught.value) and str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_an_unknown_task_lists_those_there_are() -> None:
    config = parse_config(StationConfig, {"name": "x", "tasks": {"open": {"instruction": "open it"}}}, "test")
    with pytest.raises(ConfigError, match="has: open"):
        config.task("close")


def test_a_run_resumes_from_its_newest_readable_checkpoint(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run", tensorboard=False)
    for step in (1, 2, 3):
        run.log(step, {"loss": 1.0 / step})
        if step < 3:
            run.save_checkpoint(step, {"weights": {"a": np.float64(step).item()}})
    damaged = tmp_path / "run/checkpoints/step_00000002/state.pt"
    damaged.write_bytes(damaged.read_bytes()[:100])
    state = RunFolder(tmp_path / "run", tensorboard=False).load_checkpoint()
    assert state is not None and state["step"] == 1 and state["weights"]["a"] == 1.0
    assert [json.loads(line)["step"] for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()] == [1]


def test_a_file_of_actions_is_numbers_of_the_right_shape_or_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    good = np.full((3, 7), 0.01, np.float32)
    for content in ({"actions": good}, {"arr_0": good}, {"other": good * 2, "actions": good.astype(np.float64)}):
        np.savez(path, **content)
        np.testing.assert_allclose(read_actions(path), good)
    np.savez_compressed(path, arr_0=scale_actions(np.concatenate((good[:1] * 0, good))))
    np.testing.assert_allclose(read_actions(path)[:, :6], good[:, :6], atol=1e-6)  # its first row leads to no frame

    whole = path.read_bytes()
    objects = np.array([[{"rm": 1}] * 7], dtype=object)
    for name, save, told in (
        ("foreign", lambda p: np.savez(p, motion=good, extra=good), "holds motion, extra; needed an array 'actions'"),
        ("empty", lambda p: np.savez(p), "holds nothing"),
        ("shape", lambda p: np.savez(p, actions=good[:, :6]), r"shape \(3, 6\); needed \(T, 7\)"),
        ("flat", lambda p: np.savez(p, actions=good[0]), r"shape \(7,\)"),
        ("none", lambda p: np.savez(p, actions=good[:0]), "no actions, needed at least one"),
        ("nan", lambda p: np.savez(p, actions=np.where(np.eye(3, 7) > 0, np.nan, good)), r"found nan at \[0, 0\]"),
        ("huge", lambda p: np.savez(p, actions=good.astype(np.float64) * 1e300), "needed finite numbers"),
        ("text", lambda p: np.savez(p, actions=np.full((3, 7), "1")), "needed real numbers"),
        ("complex", lambda p: np.savez(p, actions=good * 1j), "complex64; needed real numbers"),
        ("objects", lambda p: np.savez(p, actions=objects), "Python objects"),
        ("pickle", lambda p: p.write_bytes(b"\x80\x04]."), "found a Python pickle, which is not read"),
        ("cut", lambda p: p.write_bytes(whole[:-40]), "cannot read an array"),
        ("damaged", lambda p: p.write_bytes(whole[:60] + b"????" + whole[64:]), "cannot read an array"),
        ("folder", lambda p: p.mkdir(), "directory"),
        ("absent", lambda p: None, "no such file"),
    ):
        wrong = tmp_path / f"{name}.npz"
        save(wrong)
        with pytest.raises(DataError, match=told) as caught:
            read_actions(wrong)
        assert str(wrong) in str(caught.value) and "\n" not in str(caught.value), name
