"""The MCAP log opens in other people's readers, and a cut at any byte loses nothing that was flushed before it."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mcap.reader import make_reader
from mcap_ros2.decoder import DecoderFactory
from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_typestore

from gymnast_core.data.episode import EpisodeWriter, read_episode
from gymnast_core.data.mcap_log import McapLog, Topic, is_whole, read_messages, recover_bag
from gymnast_core.data.recover import LOG_FOLDER, RecoverConfig, recover
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
    write_log(tmp_path / "episode" / LOG_FOLDER, "none", 4).abandon()
    assert recover(RecoverConfig(tmp_path)) == 0
    assert "3 steps, was cut short, now incomplete, log of 5 messages re-indexed" in capsys.readouterr().out
    episode = read_episode(tmp_path / "episode")
    assert episode.length == 3 and not episode.complete
    assert is_whole(tmp_path / "episode" / LOG_FOLDER / "log_0.mcap")


def test_recover_names_a_complete_episode_that_lost_its_steps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with EpisodeWriter(tmp_path / "episode", "close the drawer", {}) as writer:
        writer.add_observation(np.full((32, 32, 3), 7, np.uint8))
        writer.finish(success=True)
    (tmp_path / "episode" / "steps.jsonl").unlink()
    assert recover(RecoverConfig(tmp_path)) == 2
    assert "steps.jsonl: cannot read" in capsys.readouterr().err
