"""The MCAP log opens in other people's readers, and a cut at any byte loses nothing that was flushed before it."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mcap.reader import make_reader
from mcap_ros2.decoder import DecoderFactory
from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_typestore

from gymnast_core.data.arrays import read_array
from gymnast_core.data.episode import EpisodeWriter, find_episodes, read_episode
from gymnast_core.data.films import read_video
from gymnast_core.data.mcap_log import McapLog, Topic
from gymnast_core.data.mcap_read import is_whole, read_messages, scan_log
from gymnast_core.data.recover import LOG_FOLDER, RecoverConfig, recover, recover_episode
from gymnast_core.data.recover_log import recover_bag
from gymnast_core.errors import DataError

STRING = Topic("/station/text", "std_msgs/msg/String", "string data")
BIG = Topic("/station/big", "std_msgs/msg/String", "string data", reliability="best_effort")


def cdr_string(text: str) -> bytes:
    data = text.encode() + b"\0"
    return b"\x00\x01\x00\x00" + struct.pack("<I", len(data)) + data


def write_log(folder: Path, compression: str, n: int) -> McapLog:
    """n small messages, a big one (more than one chunk) after every fifth; flushed at each."""
    log = McapLog(folder, compression)  # type: ignore[arg-type]
    log.add_topic(STRING)
    log.add_topic(BIG)
    for index in range(n):
        log.write(STRING.name, cdr_string(f"message {index}"), 1000 + index * 10, 999 + index * 10)
        if index % 5 == 0:
            log.write(BIG.name, cdr_string("x" * 300_000), 1005 + index * 10)
        log.flush()
    return log


@pytest.mark.parametrize("compression", ["none", "lz4", "zstd"])
def test_log_opens_in_rosbags_and_in_mcap_with_every_message(tmp_path: Path, compression: str) -> None:
    write_log(tmp_path / "log", compression, 20).close()
    with AnyReader([tmp_path / "log"], default_typestore=get_typestore(Stores.ROS2_JAZZY)) as reader:
        assert reader.message_count == 24
        texts = [reader.deserialize(raw, c.msgtype).data for c, _, raw in reader.messages() if c.topic == STRING.name]
    assert texts == [f"message {index}" for index in range(20)]
    with open(tmp_path / "log" / "log_0.mcap", "rb") as file:
        mcap = make_reader(file, decoder_factories=[DecoderFactory()])
        summary = mcap.get_summary()
        assert summary is not None and summary.statistics is not None
        assert summary.statistics.message_count == 24
        assert (summary.statistics.message_start_time, summary.statistics.message_end_time) == (1000, 1190)
        decoded = [message.decoded_message.data for message in mcap.iter_decoded_messages(topics=[STRING.name])]
    assert decoded == texts


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(keep=st.floats(0.001, 1.0))
def test_cut_anywhere_recovers_every_whole_chunk(tmp_path_factory: pytest.TempPathFactory, keep: float) -> None:
    folder = tmp_path_factory.mktemp("cut") / "log"
    log = write_log(folder, "lz4", 12)
    ends = [index.offset + index.length for index in log._indexes]
    log.close()
    whole = log.path.read_bytes()
    size = max(50, int(keep * len(whole)))
    log.path.write_bytes(whole[:size])
    (folder / "metadata.yaml").unlink()
    flushed = sum(1 for end in ends if end <= size)
    recovery = recover_bag(folder)
    assert recovery.counts.get(STRING.name, 0) == flushed
    assert is_whole(log.path)
    with AnyReader([folder], default_typestore=get_typestore(Stores.ROS2_JAZZY)) as reader:
        assert reader.message_count == sum(recovery.counts.values())
    assert sorted(path.name for path in folder.iterdir()) == ["log_0.mcap", "metadata.yaml"]


def write_numbered(folder: Path, compression: str, chunks: int = 9, per_chunk: int = 4) -> list[tuple[int, int]]:
    """A log of numbered messages; returns where each chunk lies. Chunk 0 holds the topics only."""
    log = McapLog(folder, compression)  # type: ignore[arg-type]
    log.add_topic(STRING)
    log.flush()
    for chunk in range(chunks):
        for index in range(per_chunk):
            number = chunk * per_chunk + index
            log.write(STRING.name, cdr_string(f"message {number} {'x' * 40}"), 10**18 + number)
        log.flush()
    places = [(index.offset, index.offset + index.length) for index in log._indexes]
    log.close()
    return places


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    compression=st.sampled_from(["none", "lz4", "zstd"]),
    kind=st.sampled_from(["flip", "zeros", "noise", "insert", "remove", "length"]),
    place=st.floats(0.0, 1.0),
    size=st.integers(1, 700),
    end=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_every_chunk_that_the_damage_does_not_touch_is_given_back(
    tmp_path_factory: pytest.TempPathFactory,
    compression: str,
    kind: str,
    place: float,
    size: int,
    end: bool,
    seed: int,
) -> None:
    folder = tmp_path_factory.mktemp("damage") / "log"
    places = write_numbered(folder, compression)
    path = folder / "log_0.mcap"
    whole = path.read_bytes()
    if not end:  # as a killed recorder leaves it
        whole = whole[: places[-1][1]]
        (folder / "metadata.yaml").unlink()
    start = int(place * (len(whole) - 1))
    if kind == "length":  # the length of a chunk claims to be anything
        start, size = places[seed % len(places)][0] + 1, 8
    stop = min(len(whole), start + (1 if kind == "flip" else size))
    noise = np.random.default_rng(seed).bytes(stop - start)
    new = {
        "flip": bytes([whole[start] ^ (1 + seed % 255)]),
        "zeros": bytes(stop - start),
        "noise": noise,
        "length": noise,
        "insert": noise + whole[start:stop],
        "remove": b"",
    }[kind]
    path.write_bytes(whole[:start] + new + whole[stop:])
    edge = stop if kind not in ("insert",) else start + 1
    untouched = [k for k, (begin, finish) in enumerate(places) if finish <= start or begin >= edge]
    wanted = [f"message {4 * (k - 1) + i} {'x' * 40}" for k in untouched if k > 0 for i in range(4)]
    recovery = recover_bag(folder)
    assert is_whole(path) and recover_bag(folder).whole
    with AnyReader([folder], default_typestore=get_typestore(Stores.ROS2_JAZZY)) as reader:
        texts = [reader.deserialize(raw, connection.msgtype).data for connection, _, raw in reader.messages()]
    missing = set(wanted) - set(texts)
    assert not missing, f"{kind} at {start}..{stop} of {len(whole)}, chunks {places}"
    assert set(texts) <= {f"message {k} {'x' * 40}" for k in range(36)}
    assert not (recovery.whole and len(texts) < 36)


def test_a_renamed_log_is_found_and_two_logs_are_refused(tmp_path: Path) -> None:
    write_numbered(tmp_path / "log", "none")
    (tmp_path / "log" / "log_0.mcap").rename(tmp_path / "log" / "take 2.mcap")
    assert sum(recover_bag(tmp_path / "log").counts.values()) == 36
    with AnyReader([tmp_path / "log"], default_typestore=get_typestore(Stores.ROS2_JAZZY)) as reader:
        assert reader.message_count == 36
    (tmp_path / "log" / "metadata.yaml").unlink()
    (tmp_path / "log" / "another.mcap").write_bytes(b"")
    with pytest.raises(DataError, match="found 2"):
        recover_bag(tmp_path / "log")


def test_flushed_messages_are_on_disk_before_close_and_foreign_files_are_refused(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log", "none", 3)
    assert [data for topic, data, _, _ in read_messages(log.path) if topic.name == STRING.name] == [
        cdr_string(f"message {index}") for index in range(3)
    ]
    log.abandon()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.mcap").write_bytes(b"not an mcap file")
    with pytest.raises(DataError, match="not an MCAP file"):
        recover_bag(tmp_path / "other")


def test_recover_finishes_an_episode_that_was_cut(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    writer = EpisodeWriter(tmp_path / "episode", "close the drawer", {"task": "close"})
    frame = np.full((32, 32, 3), 7, np.uint8)
    writer.add_observation(frame, stamp_ns=1)
    for step in range(3):
        writer.add_step([0.01, 0, 0, 0, 0, 0, 1])
        writer.add_observation(frame, stamp_ns=step + 2)
    end_process(writer)
    write_log(tmp_path / "episode" / LOG_FOLDER, "none", 4).abandon()
    assert recover(RecoverConfig(tmp_path)) == 0
    assert "3 steps, was cut short, now incomplete, log of 5 messages re-indexed" in capsys.readouterr().out
    episode = read_episode(tmp_path / "episode")
    assert episode.length == 3 and not episode.complete
    assert is_whole(tmp_path / "episode" / LOG_FOLDER / "log_0.mcap")


def cut_episode(folder: Path, steps: int = 6) -> EpisodeWriter:
    """An episode whose process ended in the middle of it."""
    writer = EpisodeWriter(folder, "close the drawer", {"task": "close"})
    rng = np.random.default_rng(3)
    writer.add_observation(rng.integers(0, 255, (32, 48, 3), np.uint8), stamp_ns=1)
    for step in range(steps):
        writer.add_step([0.01, 0, 0, 0, 0, 0, 1])
        writer.add_observation(rng.integers(0, 255, (32, 48, 3), np.uint8), stamp_ns=step + 2)
    return writer


def end_process(writer: EpisodeWriter) -> Path:
    writer._steps.close()
    return writer.folder


def damage_middle(path: Path, new: bytes) -> None:
    content = path.read_bytes()
    middle = len(content) // 2
    path.write_bytes(content[:middle] + new + content[middle + len(new) :])


@pytest.mark.parametrize(
    ("damage", "steps", "status"),
    [
        (lambda f: (f / "frames" / "000006.png").write_bytes(b""), 5, "incomplete"),
        (lambda f: (f / "frames" / "000006.png").unlink(), 5, "incomplete"),
        (lambda f: damage_middle(f / "frames" / "000003.png", bytes(400)), 2, "incomplete"),
        (lambda f: damage_middle(f / "steps.jsonl", bytes(300)), None, "incomplete"),
        (lambda f: damage_middle(f / "steps.jsonl", b"\xff\xfe"), None, "incomplete"),
        (lambda f: (f / "episode.json").write_bytes(b""), 6, "incomplete"),
        (lambda f: (f / "episode.json").write_bytes(bytes(300)), 6, "incomplete"),
        (lambda f: (f / "episode.json").unlink(), 6, "incomplete"),
        (lambda f: (f / "log" / "log_0.mcap").write_bytes(bytes(5000)), 6, "incomplete"),
        (lambda f: (f / "frames" / "000000.png").write_bytes(b""), 0, ""),
    ],
    ids=["empty", "lost", "frame", "steps", "steps_bytes", "header_empty", "header_nul", "header_lost", "log", "first"],
)
@pytest.mark.parametrize("finished", [False, True])
def test_what_recover_calls_readable_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Any, steps: int | None, status: str, finished: bool
) -> None:
    """Whatever a power cut or a bad block did to one episode, its whole steps and every other episode are there."""
    for name in ("a", "c"):
        cut_episode(tmp_path / name).finish(success=True)
    writer = cut_episode(tmp_path / "b")
    write_log(tmp_path / "b" / LOG_FOLDER, "none", 4).abandon()
    folder = writer.finish(success=True) if finished else end_process(writer)
    damage(folder)
    code = recover(RecoverConfig(tmp_path))
    out, err = capsys.readouterr()
    assert "Traceback" not in err and "unexpected" not in err
    for name in ("a", "c"):
        assert read_episode(tmp_path / name).length == 6
    if code == 0:  # then every folder is read, and nobody finds one that is not
        for found in find_episodes(tmp_path):
            read_episode(found)
    else:
        assert f"{folder}" in err
    if status:
        episode = read_episode(folder)
        assert episode.instruction == "close the drawer"
        assert 0 < episode.length < 6 if steps is None else episode.length == steps
        assert len(episode.frames) == episode.length + 1
        assert episode.complete == (finished and steps == 6 and "header" not in out and "start.json" not in out)
    assert (code == 0) == (not ("log_0.mcap" in err or (finished and not status)))
    again = recover(RecoverConfig(tmp_path))
    assert again == code


def test_an_episode_being_written_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with cut_episode(tmp_path / "episode") as writer:
        assert recover(RecoverConfig(tmp_path)) == 2
        assert "is being written" in capsys.readouterr().err
        writer.add_step([0.01, 0, 0, 0, 0, 0, 1])
        writer.add_observation(np.zeros((32, 48, 3), np.uint8))
        writer.finish(success=True)
    assert read_episode(tmp_path / "episode").length == 7


def test_a_finished_episode_is_on_the_disk_before_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything a finished episode consists of was synced, files before the names that point to them."""
    synced: list[str] = []
    sync = os.fsync

    def watch(number: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{number}"))
        sync(number)

    monkeypatch.setattr(os, "fsync", watch)
    writer = cut_episode(tmp_path / "episode", steps=2)
    synced.clear()
    writer.finish(success=True)
    folder = tmp_path / "episode"
    names = [Path(path).name.split(".json.")[0] for path in synced]
    assert names[0] == "steps.jsonl"
    header = next(index for index, name in enumerate(names) if name.startswith(".episode"))
    assert set(names[:header]) >= {"000000.png", "000001.png", "000002.png", "frames", "episode", tmp_path.name}
    assert synced[header + 1 :] == [str(folder)]


@pytest.mark.parametrize("finished", [True, False])
def test_what_is_whole_elsewhere_is_named_and_nothing_is_cut_for_it(tmp_path: Path, finished: bool) -> None:
    """A clone without Git LFS has every file, under its name."""
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00ff\nsize 5866408\n"
    writer = EpisodeWriter(tmp_path / "episode", "close the drawer", {})
    for step in range(3):
        writer.add_observation(np.full((24, 32, 3), step, np.uint8), stamp_ns=step)
        writer.add_step([0.01] * 6 + [1.0])
    writer.add_observation(np.full((24, 32, 3), 3, np.uint8), stamp_ns=3)
    if finished:
        writer.finish(True)
    else:
        writer._steps.close()
    (tmp_path / "episode" / "frames" / "000002.png").write_bytes(pointer)
    before = {p: p.read_bytes() for p in (tmp_path / "episode").rglob("*") if p.is_file()}
    with pytest.raises(DataError, match=r"000002.png: found a pointer of Git LFS.*left as it is"):
        recover_episode(tmp_path / "episode")
    assert {p: p.read_bytes() for p in (tmp_path / "episode").rglob("*") if p.is_file()} == before
    for name, read in (("a.npz", lambda p: read_array(p, ["x"])), ("a.mp4", read_video), ("a.mcap", scan_log)):
        (tmp_path / name).write_bytes(pointer)
        with pytest.raises(DataError, match="found a pointer of Git LFS"):
            read(tmp_path / name)


def test_recover_names_a_complete_episode_that_lost_its_steps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with EpisodeWriter(tmp_path / "episode", "close the drawer", {}) as writer:
        writer.add_observation(np.full((32, 32, 3), 7, np.uint8))
        writer.finish(success=True)
    (tmp_path / "episode" / "steps.jsonl").unlink()
    assert recover(RecoverConfig(tmp_path)) == 2
    assert "steps.jsonl: cannot read" in capsys.readouterr().err
