"""`gymnast serve` in another process, and clients written from the descriptions of the two wires, without our code."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack
import numpy as np

from tests.machine import HANG_S, overdue
from tests.processes import ROOT

SERVING = re.compile(r"serving on (https?)://127\.0\.0\.1:(\d+)")
MODULE = ("-m", "gymnast_core.cli", "serve", "--port", "0")


@dataclass(frozen=True)
class Served:
    """A running server. output: what it has printed so far."""

    process: subprocess.Popen[bytes]
    port: int
    secure: bool
    output: Path

    @property
    def http(self) -> str:
        return f"http{'s' if self.secure else ''}://127.0.0.1:{self.port}"

    @property
    def ws(self) -> str:
        return f"ws{'s' if self.secure else ''}://127.0.0.1:{self.port}"

    def end(self, seconds: float) -> int:
        """Ask the server to end; its exit code. Fails when that takes longer than `seconds` (tests.machine)."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(HANG_S)
        assert not overdue(seconds, began), f"took {time.monotonic() - began:.1f} s to end"
        return code


@contextlib.contextmanager
def serving(*words: str, module: tuple[str, ...] = MODULE, **environment: str) -> Iterator[Served]:
    """A server with these options, from when it answers to the end of the block; it is killed if it still runs."""
    with tempfile.TemporaryDirectory(prefix="serving_") as folder:
        output = Path(folder) / "output"
        with open(output, "wb") as stream:
            process = subprocess.Popen(
                [sys.executable, *module, *words],
                cwd=ROOT,
                env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200", **environment},
                stdout=stream,
                stderr=stream,
            )
        try:
            began = time.monotonic()
            while not (found := SERVING.search(output.read_text())):
                assert process.poll() is None, output.read_text()
                assert not overdue(60.0, began), output.read_text()
                time.sleep(0.02)
            yield Served(process, int(found[2]), found[1] == "https", output)
        finally:
            process.kill()
            process.wait()


def json_numpy(array: np.ndarray) -> dict[str, Any]:
    """An array in JSON, from json_numpy's description."""
    return {"__numpy__": base64.b64encode(array.tobytes()).decode(), "dtype": array.dtype.str, "shape": array.shape}


def from_json_numpy(content: dict[str, Any]) -> np.ndarray:
    """The array again."""
    return np.frombuffer(base64.b64decode(content["__numpy__"]), content["dtype"]).reshape(content["shape"])


def body_of(frame: Any, instruction: Any = "close the drawer", **more: Any) -> bytes:
    """A request of AutoEval's client."""
    image = json_numpy(frame) if isinstance(frame, np.ndarray) else frame
    return json.dumps({"image": image, "instruction": instruction, **more}).encode()


def post(link: http.client.HTTPConnection, path: str, body: bytes, **headers: str) -> tuple[int, Any]:
    """Status and parsed JSON of an answer, over a connection that is kept."""
    link.request("POST", path, body, {"Content-Type": "application/json", **headers})
    answer = link.getresponse()
    return answer.status, json.loads(answer.read())


def msgpack_numpy(content: dict[str, Any]) -> bytes:
    """A message with arrays, from openpi's description."""

    def pack(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return {
                b"__ndarray__": True,
                b"data": value.tobytes(),
                b"dtype": value.dtype.str,
                b"shape": value.shape,
            }
        return value

    packed: bytes = msgpack.packb(content, default=pack)
    return packed


def from_msgpack_numpy(message: bytes) -> Any:
    """The message again."""

    def unpack(value: dict[Any, Any]) -> Any:
        if b"__ndarray__" in value:
            return np.frombuffer(value[b"data"], np.dtype(value[b"dtype"])).reshape(value[b"shape"])
        return value

    return msgpack.unpackb(message, object_hook=unpack)


def frames_of(count: int, seed: int = 0, size: int = 64) -> np.ndarray:
    """Pictures that all differ, (count, size, size, 3) uint8."""
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
    return coarse.repeat(size // 4, axis=1).repeat(size // 4, axis=2)
