"""A console without ROS, as a process: `python -m tests.console_station STATION LOG`.

What its buttons ask for is written to LOG, a line of JSON each. A run raises what a busy station raises. The emergency
stop answers while every other button waits for the file LOG.go.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from gymnast_core.data.frames import encode_image
from gymnast_core.errors import StationError
from gymnast_core.files import append_line
from gymnast_core.serve.console.server import listen_config, serve_console
from gymnast_core.serve.console.snapshot import ArmDetail, CameraNow, Said, Snapshot, WorkNow
from gymnast_core.serve.console.tokens import console_token, token_file
from gymnast_core.serve.listener import Listener
from gymnast_core.station_file import open_station
from gymnast_core.status import ArmNow, NodeNow, StationStatus

VARIABLE = "CONSOLE_TOKEN_OF_TESTS"
QUESTION = "bring the scene to its start <b>now</b>"


class Recorded:
    """Keeps what it is asked for."""

    def __init__(self, log: Path) -> None:
        self._log = log

    def snapshot(self) -> Snapshot:
        arm = ArmNow("ready", "", (0.25, 0.0, 0.19), 1.0, load=0.2)
        odd = NodeNow("arm", "inactive", "cannot activate: <script>alert(1)</script>", 2)
        status = StationStatus((NodeNow("camera", "active"), odd), arm, (), ("camera: 4.0 frames/s, wanted 10",))
        detail = ArmDetail((0.26, 0.0, 0.19), (0.2, float("nan"), 0.1, 0.1, 0.1, 0.1), tuple("abcdef"))
        work = (WorkNow("practise", "train", 3, 20, mean_reward=0.4, usable_groups=0.5, seconds_left=61.0),)
        said = (Said(time.time(), "something was done", "good"),)
        return Snapshot(status, detail, CameraNow(7, 0.1, 10.0), work, QUESTION, {"a": 31.0}, said, 0.1)

    def picture(self, view: str) -> tuple[int, bytes] | None:
        return (7, encode_image(np.full((48, 64, 3), 90, np.uint8), ".jpg")) if view == "camera" else None

    def stop(self, reason: str) -> str:
        return self._keep("stop", reason)

    def rearm(self) -> str:
        return self._keep("rearm")

    def capture(self) -> str:
        while not self._log.with_suffix(".go").exists():
            time.sleep(0.01)
        return self._keep("capture")

    def practise(self, order: Any) -> str:
        return self._keep("practise", **dataclasses.asdict(order))

    def run(self, order: Any) -> str:
        raise StationError("action executor/run_episode refused the goal: another one is under way")

    def reset(self, order: Any) -> str:
        return self._keep("reset", **dataclasses.asdict(order))

    def cancel(self) -> str:
        return self._keep("cancel")

    def answer(self, order: Any) -> str:
        return self._keep("answer", **dataclasses.asdict(order))

    def _keep(self, *what: str, **more: Any) -> str:
        append_line(self._log, json.dumps([*what, more]))
        return f"{what[0]} done"


def main() -> int:
    opened, log = open_station(sys.argv[1]), Path(sys.argv[2])
    host = sys.argv[3] if len(sys.argv) > 3 else "127.0.0.1"
    with Listener(listen_config(host, 0)) as listener:
        return serve_console(Recorded(log), opened, listener, console_token(VARIABLE), str(token_file()))


if __name__ == "__main__":
    sys.exit(main())
