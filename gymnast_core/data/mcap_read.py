"""Reads an MCAP log through damage: what is whole before and after a bad place is found again.

A chunk is believed when its fields fit together and its checksum is right. Behind a place that is no record (a cut, a
flipped byte, zeros, somebody else's blocks) the file is searched for the next chunk that is. Topics are declared in
several chunks and in the index, so that losing the first chunk loses no other.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gymnast_core.contents import found_instead
from gymnast_core.data.mcap_format import (
    CHANNEL,
    CHUNK,
    DATA_END,
    FOOTER,
    MAGIC,
    MESSAGE,
    MESSAGE_INDEX,
    RECORD_HEAD,
    SCHEMA,
    Topic,
    unpack_chunk,
    unpack_string,
)
from gymnast_core.errors import DataError
from gymnast_core.locks import grows, try_lock

KNOWN_OPCODES = range(0x01, 0x10)
MAX_CHUNK_BYTES = 1 << 30
"""No writer makes larger chunks; a larger claim is damage."""
LONGEST_CHUNK_HEAD = 64
MAYBE_CHUNK = re.compile(rb"\x06(?=.{5}\x00{3})", re.DOTALL)
"""A chunk record shorter than 2^40 bytes begins like this."""

Records = list[tuple[int, bytes]]


def _no_mcap(path: str | os.PathLike[str]) -> str:
    """Why a file is no log: "found a pointer of Git LFS ..." where that is known."""
    return f"{path}: not an MCAP file" + (f" ({found})" if (found := found_instead(path, "MCAP")) else "")


@dataclass
class Scan:
    """What walking through a log found besides its messages.

    ended: the index at the end is there and its checksum is right.
    damaged: stretches in which something was written that cannot be read; a cut or zeroed end is none.
    lost_bytes: bytes of all stretches that cannot be read, the cut end included.
    nameless: messages whose topic is declared nowhere any more.
    """

    ended: bool = False
    damaged: int = 0
    lost_bytes: int = 0
    nameless: int = 0

    @property
    def whole(self) -> bool:
        """Whether everything written can be read, also by readers that need the index."""
        return self.ended and not (self.damaged or self.lost_bytes or self.nameless)


@dataclass
class _Walk:
    """One walk through the records of a file, chunks unpacked."""

    path: Path
    data: Any
    scan: Scan = field(default_factory=Scan)
    _indexed: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    """For each channel, times and offsets of the messages of the last chunk."""

    def records(self) -> Iterator[tuple[int, bytes]]:
        """Every whole record; those of a chunk in its place.

        Raises: DataError when the file neither begins like an MCAP file nor holds a whole chunk.
        """
        size, at, summary_at = len(self.data), len(MAGIC), 0
        if self.data[: len(MAGIC)] != MAGIC:
            found = self._next_chunk(0, size)
            if found is None:
                raise DataError(_no_mcap(self.path))
            self._lost(0, found)
            at = found
        while at < size:
            if self.scan.ended and self.data[at:] == MAGIC:
                return
            self.scan.ended = False
            end, records = self._record(at)
            if end == 0:
                found = self._next_chunk(at + 1, size)
                self._lost(at, size if found is None else found)
                at = size if found is None else found
                continue
            yield from records
            opcode = self.data[at]
            if opcode == DATA_END:
                summary_at = end
            elif opcode == FOOTER:
                self._check_footer(at, summary_at)
            at = end
        if self.scan.ended:  # the last bytes are missing
            self.scan.ended = False

    def _record(self, at: int) -> tuple[int, Records]:
        """Where the record at `at` ends, 0 when there is no whole one, and what it holds."""
        head = self.data[at : at + RECORD_HEAD]
        if len(head) < RECORD_HEAD:
            return 0, []
        opcode, length = struct.unpack("<BQ", head)
        end = at + RECORD_HEAD + length
        if opcode not in KNOWN_OPCODES or end > len(self.data):
            return 0, []
        if opcode == CHUNK:
            records = self._chunk(at + RECORD_HEAD, end)
            return (0, []) if records is None else (end, records)
        if self._next_chunk(at + 1, end) is not None:  # its length is wrong: a record that holds a chunk is none
            return 0, []
        body = self.data[at + RECORD_HEAD : end]
        if opcode == MESSAGE_INDEX and not self._fits_index(body):
            self.scan.damaged += 1
        return end, [(opcode, body)]

    def _chunk(self, at: int, end: int, checked: bool = False) -> Records | None:
        """The records of the chunk whose body lies there; None when it is damaged. checked: it needs a checksum."""
        try:
            head = self.data[at : min(end, at + LONGEST_CHUNK_HEAD)]
            _, _, size, crc = struct.unpack_from("<QQQI", head)
            compression, offset = unpack_string(head, 28)
            (packed,) = struct.unpack_from("<Q", head, offset)
            begin = at + offset + 8
            if begin + packed != end or size > MAX_CHUNK_BYTES or (checked and not crc):
                return None
            data = unpack_chunk(compression, self.data[begin:end], size)
        except (struct.error, ValueError, DataError):
            return None
        if len(data) != size or (crc and zlib.crc32(data) != crc):
            return None
        return self._split(data)

    def _split(self, data: bytes) -> Records | None:
        """The records of an unpacked chunk."""
        records: Records = []
        indexed: dict[int, list[tuple[int, int]]] = {}
        at = 0
        while at < len(data):
            if at + RECORD_HEAD > len(data):
                return None
            opcode, length = struct.unpack_from("<BQ", data, at)
            end = at + RECORD_HEAD + length
            if end > len(data) or (opcode == MESSAGE and length < 22):
                return None
            body = data[at + RECORD_HEAD : end]
            records.append((opcode, body))
            if opcode == MESSAGE:
                channel, _, log_time = struct.unpack_from("<HIQ", body)
                indexed.setdefault(channel, []).append((log_time, at))
            at = end
        self._indexed = indexed
        return records

    def _fits_index(self, body: bytes) -> bool:
        """Whether a message index says where the messages of the chunk before it lie."""
        if len(body) < 6:
            return False
        channel, length = struct.unpack_from("<HI", body)
        if length != len(body) - 6 or length % 16:
            return False
        entries = [struct.unpack_from("<QQ", body, 6 + 16 * index) for index in range(length // 16)]
        return sorted(entries) == sorted(self._indexed.get(channel, []))

    def _next_chunk(self, start: int, stop: int) -> int | None:
        """Where the next whole chunk with a checksum begins, from `start` to before `stop`."""
        for match in MAYBE_CHUNK.finditer(self.data, start, min(len(self.data), stop + RECORD_HEAD)):
            at = match.start()
            if at >= stop or at + RECORD_HEAD > len(self.data):
                return None
            (length,) = struct.unpack_from("<Q", self.data, at + 1)
            end = at + RECORD_HEAD + length
            if end <= len(self.data):
                before = self._indexed
                if self._chunk(at + RECORD_HEAD, end, checked=True) is not None:
                    return at
                self._indexed = before
        return None

    def _lost(self, start: int, end: int) -> None:
        """Note a stretch that cannot be read. The end of a log that was cut, or never written, is no damage."""
        self.scan.lost_bytes += end - start
        if end == len(self.data):
            head = self.data[start : start + RECORD_HEAD]
            if len(head) < RECORD_HEAD or not any(self.data[start:end]):
                return
            opcode, length = struct.unpack("<BQ", head)
            if opcode in KNOWN_OPCODES and start + RECORD_HEAD + length > end and length <= 2 * MAX_CHUNK_BYTES:
                return
        self.scan.damaged += 1

    def _check_footer(self, at: int, summary_at: int) -> None:
        body = self.data[at + RECORD_HEAD : at + RECORD_HEAD + 20]
        if len(body) < 20:
            return
        start, _, crc = struct.unpack("<QQI", body)
        if start and start != summary_at:
            return
        begin = summary_at if start else at
        right = not crc or zlib.crc32(self.data[begin : at + RECORD_HEAD + 16]) == crc
        self.scan.ended = right


def read_messages(path: str | os.PathLike[str], scan: Scan | None = None) -> Iterator[tuple[Topic, bytes, int, int]]:
    """(topic, serialised message, log time, publish time), in the order written, of every whole chunk of a log.

    scan: is filled in on the way with what could not be read.

    Raises: DataError when the file is missing or holds nothing of an MCAP file.
    """
    path = Path(path)
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(open(path, "rb"))
            size = os.fstat(file.fileno()).st_size
            if size < len(MAGIC):
                raise DataError(_no_mcap(path))
            data = stack.enter_context(mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ))
        except OSError as error:
            raise DataError(f"{path}: cannot read: {error.strerror or error}") from error
        topics = _Topics()
        searched = False
        scan = Scan() if scan is None else scan
        for opcode, body in _Walk(path, data, scan).records():
            topics.take(opcode, body)
            if opcode != MESSAGE or len(body) < 22:
                continue
            channel, _, log_time, publish_time = struct.unpack_from("<HIQQ", body)
            if channel not in topics.channels and not searched:
                searched = True  # the chunk that declared it is lost: it is declared again further on
                for other, declaration in _Walk(path, data).records():
                    topics.take(other, declaration)
            if channel in topics.channels:
                yield topics.channels[channel], body[22:], log_time, publish_time
            else:
                scan.nameless += 1


@dataclass
class _Topics:
    """Topics by channel, from the declarations met so far."""

    schemas: dict[int, tuple[str, str]] = field(default_factory=dict)
    channels: dict[int, Topic] = field(default_factory=dict)

    def take(self, opcode: int, record: bytes) -> None:
        with contextlib.suppress(struct.error, ValueError):  # a declaration that says nothing
            if opcode == SCHEMA:
                (schema_id,) = struct.unpack_from("<H", record)
                name, offset = unpack_string(record, 2)
                _, offset = unpack_string(record, offset)
                text, _ = unpack_string(record, offset)
                self.schemas[schema_id] = (name, text)
            elif opcode == CHANNEL:
                channel_id, schema_id = struct.unpack_from("<HH", record)
                name, offset = unpack_string(record, 4)
                _, offset = unpack_string(record, offset)
                qos = record[offset:].decode(errors="replace")
                self.channels[channel_id] = Topic(
                    name,
                    *self.schemas.get(schema_id, ("", "")),
                    reliability="best_effort" if "reliability: 2" in qos else "reliable",
                    durability="transient_local" if "durability: 1" in qos else "volatile",
                )


def scan_log(path: str | os.PathLike[str]) -> tuple[Scan, dict[str, int]]:
    """Read a log to its end: what is wrong with it, and the messages of each topic. Raises: DataError."""
    scan = Scan()
    counts: dict[str, int] = {}
    for topic, _, _, _ in read_messages(path, scan):
        counts[topic.name] = counts.get(topic.name, 0) + 1
    return scan, counts


def is_whole(path: str | os.PathLike[str]) -> bool:
    """Whether a log has its end and no damage, so that every reader opens it. Raises: DataError."""
    return scan_log(path)[0].whole


def is_being_written(path: str | os.PathLike[str]) -> bool:
    """Whether a living process still writes this file. Raises: DataError when it cannot be opened."""
    try:
        with open(path, "rb") as file:
            taken = try_lock(file.fileno(), shared=True)
            return taken is False or (taken is None and grows(path))
    except OSError as error:
        raise DataError(f"{path}: cannot read: {error.strerror or error}") from error
