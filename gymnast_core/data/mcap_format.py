"""What the writer and the reader of an MCAP log share: opcodes, topics, strings and compression.

Record layout: the MCAP specification, version 0 (mcap.dev/spec).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from gymnast_core.errors import DataError

Compression = Literal["none", "lz4", "zstd"]

MAGIC = b"\x89MCAP0\r\n"
HEADER, FOOTER, SCHEMA, CHANNEL, MESSAGE, CHUNK, MESSAGE_INDEX, CHUNK_INDEX = range(0x01, 0x09)
STATISTICS, SUMMARY_OFFSET, DATA_END = 0x0B, 0x0E, 0x0F
RECORD_HEAD = 9
"""Bytes of a record's opcode and length."""
PIECE = 1 << 20
"""A chunk is unpacked in pieces of this many bytes, so that one that lies about its size costs no memory."""


@dataclass(frozen=True)
class Topic:
    """One recorded topic.

    name: absolute topic name.
    type: "package/msg/Name".
    definition: message definition text with its dependencies, as rosbag2 concatenates them ("ros2msg").
    reliability, durability: as the publisher offered them; rosbag2 replays with the same.
    """

    name: str
    type: str
    definition: str
    reliability: Literal["reliable", "best_effort"] = "reliable"
    durability: Literal["volatile", "transient_local"] = "volatile"


def pack_record(opcode: int, body: bytes) -> bytes:
    """A record: opcode, length, body."""
    return struct.pack("<BQ", opcode, len(body)) + body


def pack_bytes(data: bytes) -> bytes:
    """Bytes behind their length."""
    return struct.pack("<I", len(data)) + data


def pack_string(text: str) -> bytes:
    """Text behind its length."""
    return pack_bytes(text.encode())


def unpack_string(record: bytes, offset: int) -> tuple[str, int]:
    """The text at `offset` and the offset behind it. Raises: ValueError, struct.error when it does not fit."""
    (length,) = struct.unpack_from("<I", record, offset)
    end = offset + 4 + length
    if end > len(record):
        raise ValueError("a text that is longer than its record")
    return record[offset + 4 : end].decode(), end


def compressor(compression: Compression) -> Callable[[bytes], bytes]:
    """What packs the records of a chunk."""
    if compression == "lz4":
        import lz4.frame

        return lambda data: lz4.frame.compress(data, store_size=True)
    if compression == "zstd":
        import zstandard

        return lambda data: zstandard.ZstdCompressor(level=1).compress(data)
    return lambda data: data


def unpack_chunk(compression: str, packed: bytes, size: int) -> bytes:
    """The records of a chunk, at most `size` bytes and one more.

    Raises: DataError when the compression is unknown or the packed bytes are damaged.
    """
    if not compression:
        return packed
    if compression not in ("lz4", "zstd"):
        raise DataError(f"MCAP chunk compression '{compression[:20]}' is unknown; known are none, lz4, zstd")
    try:
        return _unpack_lz4(packed, size) if compression == "lz4" else _unpack_zstd(packed, size)
    except (RuntimeError, ValueError, EOFError, MemoryError) as error:
        raise DataError(f"a chunk packed by {compression} is damaged ({error})") from error


def _unpack_lz4(packed: bytes, size: int) -> bytes:
    import lz4.frame

    unpacking = lz4.frame.LZ4FrameDecompressor()
    found = unpacking.decompress(packed, max_length=PIECE)
    pieces = [found]
    total = len(found)
    while not unpacking.eof and not unpacking.needs_input and total <= size:
        found = unpacking.decompress(b"", max_length=PIECE)
        pieces.append(found)
        total += len(found)
    return b"".join(pieces)


def _unpack_zstd(packed: bytes, size: int) -> bytes:
    import zstandard

    pieces: list[bytes] = []
    total = 0
    try:
        with zstandard.ZstdDecompressor().stream_reader(packed) as stream:
            while total <= size and (piece := stream.read(PIECE)):
                pieces.append(piece)
                total += len(piece)
    except zstandard.ZstdError as error:
        raise ValueError(str(error)) from error
    return b"".join(pieces)
