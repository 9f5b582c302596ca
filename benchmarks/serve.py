"""What `gymnast serve` costs, beside servers of the plain libraries in the same run: `python -m benchmarks.serve`.

Loopback, each server in a process of its own. Prints Markdown tables:

* the time of one request from a client that keeps its connection, with a picture of 256x256x3 and a policy that answers
  at once: json_numpy over HTTP beside a plain FastAPI server as AutoEval's template writes it, and msgpack over
  WebSocket beside a plain `websockets` server as openpi writes it;
* the throughput of many clients against one: on the mini policy, and on a policy whose forward takes 20 ms whatever
  the number of rows, as on a GPU that is not full;
* the server's memory while it answers many requests (`--parts memory --requests 100000` takes minutes).
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro
from websockets.sync.client import connect

from benchmarks.measure import Report, hardware
from gymnast_core.policy.wire_arrays import decode_json_numpy, encode_array
from gymnast_core.policy.wire_msgpack import pack, unpack

ROOT = Path(__file__).resolve().parent.parent
SERVING = re.compile(r"serving on http://127\.0\.0\.1:(\d+)")
INSTRUCTION = "close the drawer"
FORWARD_S = 0.02
CHUNK = np.zeros((5, 7), np.float32)


@dataclass(frozen=True)
class BenchmarkConfig:
    """What to measure."""

    parts: tuple[Literal["latency", "throughput", "memory"], ...] = ("latency", "throughput", "memory")
    """Which tables."""
    repeats: int = 300
    """Timed requests of one client."""
    clients: int = 32
    """Clients at once."""
    seconds_each: float = 8.0
    """Time in which a throughput is counted."""
    requests: int = 5000
    """Requests of the memory's table, which looks at it ten times. 100000 take minutes."""
    out: str = ""
    """Folder for the tables, written as they are made."""
    child: str = ""
    """Used by the benchmark itself: which server to be."""


class FixedPolicy:
    """Answers zeros after the same time for any number of rows. chunk_length: 5."""

    chunk_length = len(CHUNK)

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def act(self, frames: np.ndarray, instructions: Sequence[str]) -> np.ndarray:
        """Chunks (N, 5, 7) float32."""
        if self._seconds:
            time.sleep(self._seconds)
        return np.repeat(CHUNK[None], len(frames), axis=0)


def be_server(kind: str) -> int:
    """Serve until killed."""
    if kind == "plain HTTP":
        _plain_http()
    elif kind == "plain WebSocket":
        _plain_websocket()
    else:
        from gymnast_core.serve.policy_server import PolicyServer
        from gymnast_core.serve.serve_config import ServeConfig

        seconds = {"instant": 0.0, "fixed": FORWARD_S}[kind]
        return PolicyServer(ServeConfig(port=0), lambda: FixedPolicy(seconds), {}).run()
    return 0


def _plain_http() -> None:
    """FastAPI and json_numpy's form, with a handler in FastAPI's threads, as AutoEval's template has it."""
    import uvicorn
    from fastapi import FastAPI
    from fastapi.responses import JSONResponse

    app, policy = FastAPI(), FixedPolicy(0.0)

    @app.post("/act")
    def act(payload: dict[str, Any]) -> JSONResponse:
        image = decode_json_numpy(payload["image"])
        return JSONResponse(encode_array(policy.act(image[None], [payload["instruction"]])[0, 0]))

    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.bind(("127.0.0.1", 0))
    bound.listen()
    print(f"serving on http://127.0.0.1:{bound.getsockname()[1]}", flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_keep_alive=120)).run(sockets=[bound])


def _plain_websocket() -> None:
    """websockets and msgpack, with the policy in the event loop, as openpi has it."""
    import asyncio

    from websockets.asyncio.server import ServerConnection, serve

    policy = FixedPolicy(0.0)

    async def handle(link: ServerConnection) -> None:
        await link.send(pack({}))
        async for message in link:
            asked = unpack(bytes(message), "message")  # type: ignore[arg-type]
            await link.send(pack({"actions": policy.act(asked["observation/image"][None], [asked["prompt"]])[0]}))

    async def run() -> None:
        async with serve(handle, "127.0.0.1", 0, compression=None, max_size=None) as server:
            print(f"serving on http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
            await server.serve_forever()

    asyncio.run(run())


@contextlib.contextmanager
def server(*words: str) -> Iterator[tuple[int, int]]:
    """A server process with these arguments of Python's; its port and process number."""
    process = subprocess.Popen(
        [sys.executable, *words],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if found := SERVING.search(line):
                yield int(found[1]), process.pid
                return
            print(line, end="", file=sys.stderr)
        raise RuntimeError(f"{' '.join(words)}: the server ended with {process.wait()}")
    finally:
        process.kill()
        process.wait()


def child(kind: str) -> tuple[str, ...]:
    """Python's arguments for one of our own servers."""
    return ("-m", "benchmarks.serve", "--child", kind)


def frame(side: int, seed: int = 0) -> np.ndarray:
    """A picture of noise."""
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


@contextlib.contextmanager
def http_client(port: int, side: int) -> Iterator[Callable[[], object]]:
    """One request with a picture made into JSON anew, over a kept connection."""
    link, picture = http.client.HTTPConnection("127.0.0.1", port, timeout=60), frame(side)

    def ask() -> np.ndarray:
        body = json.dumps({"image": encode_array(picture), "instruction": INSTRUCTION}).encode()
        link.request("POST", "/act", body, {"Content-Type": "application/json"})
        answer = json.loads(link.getresponse().read())
        return np.frombuffer(base64.b64decode(answer["__numpy__"]), answer["dtype"])

    yield ask
    link.close()


@contextlib.contextmanager
def websocket_client(port: int, side: int, seed: int = 0) -> Iterator[Callable[[], object]]:
    """One request with a picture made into msgpack anew, over one connection. No picture is another's: the policy
    computes equal ones once."""
    picture = frame(side, seed)
    with connect(f"ws://127.0.0.1:{port}", compression=None, max_size=None) as link:
        link.recv()

        def ask() -> object:
            picture[0] += 1
            link.send(pack({"observation/image": picture, "prompt": INSTRUCTION}))
            return unpack(bytes(link.recv()), "answer")["actions"]  # type: ignore[arg-type]

        yield ask


def milliseconds(ask: Callable[[], object], repeats: int) -> list[float]:
    """Of each request, after a tenth more that are not counted."""
    spent = []
    for _ in range(requests_of(repeats)):
        began = time.perf_counter()
        ask()
        spent.append((time.perf_counter() - began) * 1e3)
    return sorted(spent[repeats // 10 :])


def requests_of(repeats: int) -> int:
    """How many requests `milliseconds` makes."""
    return repeats + repeats // 10


def processor_ms(process: int) -> float:
    """What a process and its threads have computed so far: other than a request's time, it is the same on a busy
    machine."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * 1e3 / os.sysconf("SC_CLK_TCK")


def latency_table(options: BenchmarkConfig, report: Report) -> None:
    """One client, a policy that answers at once; servers take turns, so that all meet the same machine."""
    report.table("wire", "server", "p50 ms", "p90 ms", "p99 ms", "p50 against plain", "processor ms")
    for wire, client, plain in (
        ("HTTP, json_numpy", http_client, "plain HTTP"),
        ("WebSocket, msgpack", websocket_client, "plain WebSocket"),
    ):
        with report.attempt(wire), server(*child("instant")) as (ours, own), server(*child(plain)) as (other, others):
            spent: dict[str, list[float]] = {plain: [], "gymnast serve": []}
            busy = dict.fromkeys(spent, 0.0)
            with client(ours, 256) as ask, client(other, 256) as ask_other:
                for _ in range(5):
                    for name, one, process in ((plain, ask_other, others), ("gymnast serve", ask, own)):
                        before = processor_ms(process)
                        spent[name] += milliseconds(one, options.repeats // 5)
                        busy[name] += processor_ms(process) - before
            base, asked = statistics.median(spent[plain]), 5 * requests_of(options.repeats // 5)
            for name, times in spent.items():
                times.sort()
                shown = [times[int(share * (len(times) - 1))] for share in (0.5, 0.9, 0.99)]
                against = f"{statistics.median(times) / base:.2f}"
                report.row(wire, name, *(f"{one:.2f}" for one in shown), against, f"{busy[name] / asked:.2f}")


def throughput(port: int, clients: int, seconds: float) -> float:
    """Answers a second of this many clients, each of which asks again as soon as it has an answer."""
    counts, together, end = [0] * clients, threading.Barrier(clients), [0.0]

    def run(number: int) -> None:
        with websocket_client(port, 64, number) as ask:
            ask()
            if together.wait() == 0:
                end[0] = time.monotonic() + seconds
            together.wait()
            while time.monotonic() < end[0]:
                ask()
                counts[number] += 1

    threads = [threading.Thread(target=run, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / seconds


def throughput_table(options: BenchmarkConfig, report: Report) -> None:
    """Many clients against one, over WebSocket with pictures of 64x64."""
    many = options.clients
    report.table("policy", "1 client, answers/s", f"{many} clients, answers/s", "ratio")
    for name, words in (
        ("mini policy", ("-m", "gymnast_core.cli", "serve", "--port", "0")),
        (f"{FORWARD_S * 1e3:.0f} ms for any batch", child("fixed")),
        ("answers at once", child("instant")),
    ):
        with report.attempt(name), server(*words) as (port, _):
            one = throughput(port, 1, options.seconds_each)
            all_ = throughput(port, many, options.seconds_each)
            report.row(name, f"{one:.1f}", f"{all_:.1f}", f"{all_ / one:.1f}")


def memory_table(options: BenchmarkConfig, report: Report) -> None:
    """The server's resident memory after each tenth of the requests: it is flat where the later ones are alike."""
    report.table("requests", "MiB")
    with report.attempt("memory"), server(*child("instant")) as (port, process), websocket_client(port, 256) as ask:
        done = 0
        for tenth in range(1, 11):
            for _ in range(options.requests * tenth // 10 - done):
                ask()
            done = options.requests * tenth // 10
            status = Path(f"/proc/{process}/status").read_text()
            report.row(done, f"{int(status.partition('VmRSS:')[2].split()[0]) / 1024:.1f}")


def main(options: BenchmarkConfig) -> int:
    """Measure and print; 1 when nothing could be measured."""
    if options.child:
        return be_server(options.child)
    report = Report("serve", options.out)
    report.say(f"Policy server: {hardware('cpu')}, {os.cpu_count()} cores, Python {sys.version.split()[0]}")
    tables = {"latency": latency_table, "throughput": throughput_table, "memory": memory_table}
    for part in options.parts:
        report.say()
        tables[part](options, report)
    return report.exit_code()


if __name__ == "__main__":
    sys.exit(main(tyro.cli(BenchmarkConfig, description=__doc__)))
