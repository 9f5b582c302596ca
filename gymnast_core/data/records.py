"""TFRecord files without TensorFlow: records one behind the other, each with checksums of its length and of itself.

    uint64 length, uint32 masked CRC-32C of the length, the record, uint32 masked CRC-32C of the record; little endian

Nothing in a file says where a record begins but the records before it. A damaged length therefore hides what follows,
and a damaged record hides itself alone.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from gymnast_core.contents import found_instead
from gymnast_core.errors import ConfigError, DataError

HEAD, TAIL = 12, 4
"""Bytes before a record, and behind it."""
MASK = 0xA282EAD8


@dataclass(frozen=True)
class Records:
    """Where the records of a file lie.

    places: (offset, length) of each whole record, in bytes. damage: what is wrong behind them; "" at a clean end.
    """

    places: tuple[tuple[int, int], ...]
    damage: str = ""

    @property
    def count(self) -> int:
        """Records, with one for a damaged end: whoever reads that one is told what is wrong."""
        return len(self.places) + bool(self.damage)


def masked_checksum(content: bytes) -> int:
    """CRC-32C as TFRecord keeps it. Raises: ConfigError where the package for it is missing."""
    try:
        import google_crc32c
    except ImportError as error:
        raise ConfigError("RLDS needs the package google-crc32c; pip install 'gymnast[rlds]'") from error
    checksum = google_crc32c.value(content)
    return ((checksum >> 15 | checksum << 17) + MASK) & 0xFFFFFFFF


def write_record(stream: BinaryIO, content: bytes) -> int:
    """Append one record; returns the bytes written. Raises: OSError."""
    length = struct.pack("<Q", len(content))
    head = length + struct.pack("<I", masked_checksum(length))
    stream.write(head + content + struct.pack("<I", masked_checksum(content)))
    return HEAD + len(content) + TAIL


def find_records(path: Path) -> Records:
    """Where the records of a file lie; the records themselves are not read. Raises: DataError where it has no file."""
    try:
        status = path.stat()
        return _find_records(path, status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise DataError(f"{path}: cannot read: {error.strerror or error}") from error


@lru_cache(maxsize=1024)
def _find_records(path: Path, size: int, _changed: int) -> Records:
    places: list[tuple[int, int]] = []
    at = 0
    with open(path, "rb") as stream:
        while at < size:
            stream.seek(at)
            head = stream.read(HEAD)
            if len(head) < HEAD:
                return Records(tuple(places), f"cut off: found {len(head)} bytes at byte {at}, needed {HEAD}")
            length, checksum = struct.unpack("<QI", head)
            if checksum != masked_checksum(head[:8]):
                told = "" if places else found_instead(path, "TFRecord")
                broken = f"damaged: the checksum of its length at byte {at} is wrong; what follows cannot be found"
                return Records(tuple(places), told or broken)
            if at + HEAD + length + TAIL > size:
                there = max(0, size - at - HEAD)
                return Records(tuple(places), f"cut off: found {there} bytes of it, needed {length + TAIL}")
            places.append((at + HEAD, length))
            at += HEAD + length + TAIL
    return Records(tuple(places))


def read_record(path: Path, number: int) -> bytes:
    """Record `number` of a file, counted from 0. Raises: DataError naming file, record and what is wrong with it."""
    found = find_records(path)
    if number >= len(found.places):
        wrong = found.damage or f"there is no such record; the file has {len(found.places)}"
        raise DataError(f"{path}: record {number}: {wrong}")
    offset, length = found.places[number]
    try:
        with open(path, "rb") as stream:
            stream.seek(offset)
            content = stream.read(length + TAIL)
    except (OSError, MemoryError) as error:
        raise DataError(f"{path}: cannot read: {getattr(error, 'strerror', None) or error}") from error
    record = content[:length]
    if len(content) < length + TAIL or struct.unpack("<I", content[length:])[0] != masked_checksum(record):
        raise DataError(
            f"{path}: record {number}: damaged: its checksum is wrong (bytes {offset} to {offset + length - 1})"
        )
    return record


def read_records(path: Path) -> Iterator[bytes]:
    """Every record in order. Raises: DataError at the first that is damaged, after those before it."""
    return (read_record(path, number) for number in range(find_records(path).count))
