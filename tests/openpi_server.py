"""A policy server written from openpi's description, without our code; it misbehaves as the prompt of a request asks.

`python -m tests.openpi_server [PORT]` prints its port. The metadata's `connections` counts the connections so far.
"""

from __future__ import annotations

import sys
import time
import traceback
from typing import Any

import msgpack
import numpy as np
from websockets.sync.server import ServerConnection, serve

opened = 0


def pack(content: Any) -> bytes:
    def array(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return {b"__ndarray__": True, b"data": value.tobytes(), b"dtype": value.dtype.str, b"shape": value.shape}
        return value

    packed: bytes = msgpack.packb(content, default=array)
    return packed


def unpack(message: bytes) -> Any:
    def array(value: Any) -> Any:
        if b"__ndarray__" in value:
            return np.ndarray(buffer=value[b"data"], dtype=np.dtype(value[b"dtype"]), shape=value[b"shape"])
        return value

    return msgpack.unpackb(message, object_hook=array)


def infer(observation: dict[str, Any]) -> dict[str, Any]:
    """A chunk (4, 7) float64 that repeats the picture's mean, as π0 would answer one."""
    mean = observation["observation/image"].astype(np.float64).mean() / 255.0
    return {"actions": np.tile(np.array([mean, 0, 0, 0, 0, 0, 1.0]), (4, 1)), "state": np.zeros(8)}


def misbehave(link: ServerConnection, prompt: str, answer: dict[str, Any]) -> None:
    """Answer as the prompt says."""
    actions = answer["actions"]
    wrong: dict[str, Any] = {
        "six": {"actions": actions[:, :6]},
        "eight": {"actions": np.zeros((4, 8))},
        "nan": {"actions": actions * np.nan},
        "five": {"actions": np.zeros((5, 7))},
        "none": {"state": np.zeros(8)},
        "words": {"error": "out of memory"},
        "objects": {"actions": {b"__ndarray__": True, b"data": b"", b"dtype": "|O", b"shape": [4, 7]}},
        "texts": {"actions": [["a"] * 7] * 4},
        "ragged": {"actions": [[0.0] * 7, [0.0] * 6]},
        "list": [1, 2, 3],
    }
    if prompt == "hang":
        time.sleep(3.0)
    elif prompt == "drip":
        link.socket.sendall(b"\x82\x7e\x40\x00")  # the head of a frame of 16,384 bytes
        for _ in range(60):
            link.socket.sendall(b"\0")
            time.sleep(0.05)
    elif prompt == "close":
        link.close(1011, "no GPU left")
    elif prompt == "page":
        link.send(b"<!DOCTYPE html><html><title>Sign in</title></html>")
    elif prompt == "half":
        link.send(pack(answer)[:-20])
    elif prompt == "lists":
        link.send(pack({"actions": actions.tolist()}))
    else:
        link.send(pack(wrong.get(prompt, answer)))


def handle(link: ServerConnection) -> None:
    """One connection, as openpi's server handles it."""
    global opened
    opened += 1
    link.send(pack({"connections": opened}))
    for message in link:
        try:
            observation = unpack(message)
            if observation["prompt"] == "state":
                observation["observation/state"]
            misbehave(link, observation["prompt"], infer(observation))
        except KeyError:
            link.send(traceback.format_exc())
            link.close(1011, "Internal server error. Traceback included in previous frame.")


if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 0
    with serve(handle, "127.0.0.1", port, compression=None, max_size=None, ping_interval=None) as server:
        print(f"serving on http://127.0.0.1:{server.socket.getsockname()[1]}", flush=True)
        server.serve_forever()
