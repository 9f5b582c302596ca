"""An MCAP log of serialised ROS 2 messages that survives a crash, laid out as a rosbag2 bag, without rosbag2.

A bag is a folder with `metadata.yaml` and one `.mcap` file (profile "ros2", messages "cdr", schemas "ros2msg"), so that
`ros2 bag`, Foxglove, rosbags and mcap-ros2-support open it. Messages are gathered in small chunks; `flush` closes the
chunk at hand and gives it to the operating system, so that a process killed after it loses nothing. Only the index at
the end is then missing, and `recover_bag` writes it anew. Topics are declared again in the first chunk, and in the
second, fourth, eighth and so on, so that a reader that meets a damaged chunk knows them from another one.

A log that was closed survives a power cut. Of a log being written it keeps what the system had given to the disk.
"""

from __future__ import annotations

import contextlib
import os
import struct
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import yaml

from gymnast_core.data.mcap_format import (
    CHANNEL,
    CHUNK,
    CHUNK_INDEX,
    DATA_END,
    FOOTER,
    HEADER,
    MAGIC,
    MESSAGE,
    MESSAGE_INDEX,
    SCHEMA,
    STATISTICS,
    SUMMARY_OFFSET,
    Compression,
    Topic,
    compressor,
    pack_bytes,
    pack_record,
    pack_string,
)
from gymnast_core.data.mcap_read import read_messages
from gymnast_core.errors import DataError
from gymnast_core.files import sync, sync_folder, write_bytes
from gymnast_core.locks import try_lock

__all__ = ["McapLog", "Topic", "read_messages"]

CHUNK_BYTES = 1 << 18
"""A chunk is closed when it grows beyond this: one camera frame, or some seconds of joint states."""


@dataclass
class _ChunkIndex:
    start_time: int
    end_time: int
    offset: int
    length: int
    message_index_offsets: dict[int, int]
    message_index_length: int
    compression: str
    compressed_size: int
    uncompressed_size: int


@dataclass
class _Chunk:
    """The chunk being filled."""

    parts: list[bytes] = field(default_factory=list)
    size: int = 0
    start_time: int = 0
    end_time: int = 0
    n_messages: int = 0
    offsets: dict[int, list[tuple[int, int]]] = field(default_factory=dict)

    def append(self, record: bytes) -> None:
        self.parts.append(record)
        self.size += len(record)


class McapLog:
    """Writes one bag folder. Not thread-safe: one thread writes.

    name: of the file in it; by default that of the folder with "_0.mcap".

    Every method that writes raises DataError when the disk is full; the file then ends after the last whole chunk and
    stays readable.
    """

    def __init__(
        self, folder: str | os.PathLike[str], compression: Compression = "none", name: str | None = None
    ) -> None:
        self.folder = Path(folder)
        self.path = self.folder / (name or f"{self.folder.name}_0.mcap")
        self.compression = "" if compression == "none" else compression
        self._compress = compressor(compression)
        self._topics: dict[str, tuple[int, Topic]] = {}
        self._schemas: dict[str, int] = {}
        self._counts: dict[int, int] = {}
        self._indexes: list[_ChunkIndex] = []
        self._chunk = _Chunk()
        self._head: list[bytes] = []
        self._start_time = 0
        self._end_time = 0
        self._offset = 0
        self._broken = False
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._file: BinaryIO = open(self.path, "xb", buffering=0)  # noqa: SIM115 - open for the whole episode
        except FileExistsError as error:
            raise DataError(f"{self.path}: exists already; choose another folder") from error
        except OSError as error:
            raise DataError(f"{self.path}: cannot write: {error.strerror or error}") from error
        try_lock(self._file.fileno())  # gone with this process, however it ends
        self._write(MAGIC + pack_record(HEADER, pack_string("ros2") + pack_string("gymnast")))

    def add_topic(self, topic: Topic) -> None:
        """Declare a topic before its first message; a second declaration of one name changes nothing."""
        if topic.name in self._topics:
            return
        if topic.type not in self._schemas:
            schema_id = len(self._schemas) + 1
            self._schemas[topic.type] = schema_id
            data = pack_string(topic.type) + pack_string("ros2msg") + pack_bytes(topic.definition.encode())
            self._declare(pack_record(SCHEMA, struct.pack("<H", schema_id) + data))
        channel_id = len(self._topics) + 1
        self._topics[topic.name] = (channel_id, topic)
        self._counts[channel_id] = 0
        metadata = pack_string("offered_qos_profiles") + pack_string(_qos_text(topic))
        body = struct.pack("<HH", channel_id, self._schemas[topic.type]) + pack_string(topic.name) + pack_string("cdr")
        self._declare(pack_record(CHANNEL, body + struct.pack("<I", len(metadata)) + metadata))

    def write(self, topic: str, data: bytes, log_time: int, publish_time: int = 0) -> None:
        """Add one serialised message; times are nanoseconds since the epoch, publish_time 0 means log_time."""
        channel_id, _ = self._topics[topic]
        chunk = self._chunk
        chunks = len(self._indexes)
        if chunk.size == 0 and chunks & (chunks - 1) == 0:
            chunk.append(b"".join(self._head))
        if chunk.n_messages == 0:
            chunk.start_time = chunk.end_time = log_time
        chunk.start_time, chunk.end_time = min(chunk.start_time, log_time), max(chunk.end_time, log_time)
        chunk.n_messages += 1
        chunk.offsets.setdefault(channel_id, []).append((log_time, chunk.size))
        sequence = self._counts[channel_id] & 0xFFFFFFFF
        head = struct.pack("<BQHIQQ", MESSAGE, 22 + len(data), channel_id, sequence, log_time, publish_time or log_time)
        chunk.append(head)
        chunk.append(data)
        self._counts[channel_id] += 1
        if chunk.size >= CHUNK_BYTES:
            self.flush()

    def count(self, topic: str) -> int:
        """Messages of a topic written so far."""
        return self._counts[self._topics[topic][0]] if topic in self._topics else 0

    @property
    def n_messages(self) -> int:
        """Messages written so far."""
        return sum(self._counts.values())

    def flush(self) -> None:
        """Close the chunk at hand: what was written so far survives the end of this process."""
        chunk = self._chunk
        if chunk.size == 0:
            return
        self._chunk = _Chunk()
        records = b"".join(chunk.parts)
        compressed = self._compress(records)
        head = struct.pack("<QQQI", chunk.start_time, chunk.end_time, len(records), zlib.crc32(records))
        body = head + pack_string(self.compression) + struct.pack("<Q", len(compressed))
        offset = self._offset
        chunk_head = struct.pack("<BQ", CHUNK, len(body) + len(compressed)) + body
        self._write(chunk_head + compressed)
        length = self._offset - offset
        index_offsets: dict[int, int] = {}
        index_start = self._offset
        index_records = b""
        for channel_id, entries in chunk.offsets.items():
            index_offsets[channel_id] = index_start + len(index_records)
            packed = b"".join(struct.pack("<QQ", *entry) for entry in entries)
            index_records += pack_record(MESSAGE_INDEX, struct.pack("<HI", channel_id, len(packed)) + packed)
        if index_records:
            self._write(index_records)
        if chunk.n_messages:
            if all(index.message_index_offsets == {} for index in self._indexes):
                self._start_time = chunk.start_time
            self._start_time = min(self._start_time, chunk.start_time)
            self._end_time = max(self._end_time, chunk.end_time)
        self._indexes.append(
            _ChunkIndex(
                chunk.start_time, chunk.end_time, offset, length, index_offsets, len(index_records),
                self.compression, len(compressed), len(records),
            )
        )  # fmt: skip

    def close(self) -> None:
        """Write the index and `metadata.yaml`. Closing twice changes nothing."""
        if self._file.closed:
            return
        try:
            self.flush()
            self._write(self._summary())
            sync(self._file.fileno())
            self._file.close()
            write_bytes(self.folder / "metadata.yaml", self._metadata().encode())
            sync_folder(self.folder.parent)
        except OSError as error:
            raise DataError(f"{self.path}: cannot write: {error.strerror or error}; free disk space") from error
        finally:
            self._file.close()

    def abandon(self) -> None:
        """Close the file without an index, after an error; `recover_bag` finishes it."""
        self._file.close()

    def _declare(self, record: bytes) -> None:
        """Schemas and channels stand in the chunk that first needs them, and again in the summary."""
        self._chunk.append(record)
        self._head.append(record)

    def _write(self, data: bytes) -> None:
        """Append, and after a failure cut the file back to the last whole record."""
        if self._broken:
            raise DataError(f"{self.path}: closed after an earlier write error")
        view = memoryview(data)
        try:
            while view:
                written = self._file.write(view) or 0
                view = view[written:]
        except OSError as error:
            self._broken = True
            with contextlib.suppress(OSError):
                os.ftruncate(self._file.fileno(), self._offset)
            raise DataError(f"{self.path}: cannot write: {error.strerror or error}; free disk space") from error
        self._offset += len(data)

    def _summary(self) -> bytes:
        data_end = pack_record(DATA_END, struct.pack("<I", 0))
        start = self._offset + len(data_end)
        n_messages = sum(self._counts.values())
        counts = b"".join(struct.pack("<HQ", *item) for item in self._counts.items())
        statistics = struct.pack(
            "<QHIIIIQQ", n_messages, len(self._schemas), len(self._topics), 0, 0, len(self._indexes),
            self._start_time, self._end_time,
        ) + struct.pack("<I", len(counts)) + counts  # fmt: skip
        groups = [
            (SCHEMA, b"".join(record for record in self._head if record[0] == SCHEMA)),
            (CHANNEL, b"".join(record for record in self._head if record[0] == CHANNEL)),
            (STATISTICS, pack_record(STATISTICS, statistics)),
            (CHUNK_INDEX, b"".join(_chunk_index(index) for index in self._indexes)),
        ]
        summary = b""
        offsets = b""
        for opcode, group in groups:
            if group:
                offsets += pack_record(SUMMARY_OFFSET, struct.pack("<BQQ", opcode, start + len(summary), len(group)))
                summary += group
        summary_offset_start = start + len(summary)
        summary += offsets
        footer = struct.pack("<BQQQ", FOOTER, 20, start, summary_offset_start)
        crc = zlib.crc32(footer, zlib.crc32(summary))
        return data_end + summary + footer + struct.pack("<I", crc) + MAGIC

    def _metadata(self) -> str:
        duration = self._end_time - self._start_time
        n_messages = sum(self._counts.values())
        topics = [
            {
                "topic_metadata": {
                    "name": topic.name,
                    "type": topic.type,
                    "serialization_format": "cdr",
                    "offered_qos_profiles": _qos_text(topic),
                },
                "message_count": self._counts[channel_id],
            }
            for channel_id, topic in self._topics.values()
        ]
        times = {
            "duration": {"nanoseconds": duration},
            "starting_time": {"nanoseconds_since_epoch": self._start_time},
            "message_count": n_messages,
        }
        information = {
            "version": 5,  # Humble's; newer rosbag2 reads it too
            "storage_identifier": "mcap",
            **times,
            "topics_with_message_count": topics,
            "compression_format": "",
            "compression_mode": "",
            "relative_file_paths": [self.path.name],
            "files": [{"path": self.path.name, **times}],
        }
        return yaml.dump({"rosbag2_bagfile_information": information}, Dumper=_NoAliases, sort_keys=False)


class _NoAliases(yaml.SafeDumper):
    def ignore_aliases(self, data: object) -> bool:
        return True


def _chunk_index(index: _ChunkIndex) -> bytes:
    offsets = b"".join(struct.pack("<HQ", *item) for item in index.message_index_offsets.items())
    return pack_record(
        CHUNK_INDEX,
        struct.pack("<QQQQI", index.start_time, index.end_time, index.offset, index.length, len(offsets))
        + offsets
        + struct.pack("<Q", index.message_index_length)
        + pack_string(index.compression)
        + struct.pack("<QQ", index.compressed_size, index.uncompressed_size),
    )


def _qos_text(topic: Topic) -> str:
    """rosbag2's YAML list of offered QoS profiles, in the integer form every version reads."""
    forever = "sec: 9223372036\n    nsec: 854775807"
    return (
        "- history: 1\n  depth: 10\n"
        f"  reliability: {1 if topic.reliability == 'reliable' else 2}\n"
        f"  durability: {1 if topic.durability == 'transient_local' else 2}\n"
        f"  deadline:\n    {forever}\n  lifespan:\n    {forever}\n  liveliness: 1\n"
        f"  liveliness_lease_duration:\n    {forever}\n  avoid_ros_namespace_conventions: false"
    )
