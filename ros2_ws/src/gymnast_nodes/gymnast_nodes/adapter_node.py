"""The adapter: test-time training as the action adapter/adapt.

The trainer is a process of its own, at a lower priority than everything that moves the arm: what it needs is written
into a run folder (config and start frame), what it does is read from that folder (progress and result).
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import cv2
from diagnostic_msgs.msg import DiagnosticStatus
from gymnast_msgs.action import Adapt
from gymnast_msgs.srv import CaptureFrame
from sensor_msgs.msg import CompressedImage

from gymnast_core.config import dump_config
from gymnast_core.data.frames import write_bytes, write_image
from gymnast_core.errors import ConfigError, DataError, StationError
from gymnast_core.policy.prompt import normalise_instruction
from gymnast_core.rl.adapt import REACH, AdaptConfig
from gymnast_core.run_folder import read_json_lines
from gymnast_nodes.common import Diagnostics, ManagedNode, check_seconds, image_to_frame, run_node
from gymnast_nodes.long_action import Cancelled, Goal, LongAction, call_service, measured_position

POLL_S = 0.1
REPEAT_S = 2.0
"""Feedback is repeated this often between the trainer's own lines, with the time left counted down."""
CANCEL_GRACE_S = 0.5
"""Between SIGINT and SIGKILL: a cancel is answered within a second."""
NICENESS = 10
MARGIN_S = 1200.0
"""Loading and the measurements before and after may take this long besides three times the training budget."""
LOG_NAME = "adapt.log"
_LIBC = ctypes.CDLL(None)  # looked up here: little is allowed between fork and exec


class AdapterNode(ManagedNode):
    """See the module's text. Action adapter/adapt."""

    def __init__(self) -> None:
        super().__init__("adapter")
        self._root = Path(self.station.recorder.folder).expanduser().resolve().parent / "adapt"
        self._capture = self.create_client(CaptureFrame, "camera/capture_frame")
        self._process: subprocess.Popen[bytes] | None = None
        self._phase = "idle"
        self._action = LongAction(self, Adapt, "adapter/adapt", self._work, self._refuse, _failed)
        self._diagnostics = Diagnostics(self, self.station.name)
        self._diagnostics.add("adaptation", self._report)

    def configure(self) -> None:
        try:
            self._root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"run folder {self._root}: cannot be created: {error.strerror or error}") from error

    def activate(self) -> None:
        self._action.allow()

    def deactivate(self) -> None:
        self._action.interrupt()

    def stop(self) -> None:
        self._action.interrupt()
        self._kill()

    # The goal

    def _refuse(self, request: Adapt.Goal) -> str:
        return "" if self.is_active else "the adapter is not active"

    def _work(self, goal: Goal[Any]) -> tuple[str, Any]:
        request = goal.request
        instruction = request.instruction.strip()
        normalise_instruction(instruction)
        check_seconds("seconds", request.seconds)
        name = re.sub(r"[^a-z0-9]+", "_", instruction.lower()).strip("_")[:40]
        run = self._root / f"{datetime.now():%Y%m%d_%H%M%S_%f}_{name}"
        try:
            run.mkdir(parents=True)
        except OSError as error:
            raise DataError(f"{run}: cannot be created: {error.strerror or error}; free disk space") from error
        frame, position = self._start_frame(goal, run)
        config = AdaptConfig(
            frame=(str(frame),),
            instruction=instruction,
            position=position,
            config=str(self.config_path),
            run=str(run),
            iterations=int(request.iterations) or None,
            seconds=float(request.seconds) or None,
            seed=int(request.seed),
        )
        write_bytes(run / "request.yaml", dump_config(config).encode())
        try:
            self._train(goal, run, request.seconds or self.station.adaptation.seconds)
        finally:
            self._kill()
            self._phase = "idle"
        result = _read_result(run)
        self.get_logger().info(result.message)
        return "succeeded", result

    def _start_frame(self, goal: Goal[Any], run: Path) -> tuple[Path, tuple[float, float, float] | None]:
        """The goal's frame, or one captured now, as a PNG, and where the arm was then (metres, base frame), if known.

        Raises: DataError, StationError, Cancelled.
        """
        path = run / "frame.png"
        image = goal.request.frame
        if image.width and image.height:
            write_image(path, image_to_frame(image, "frame of the goal"))
            return path, _position_of(goal.request)
        goal.publish_feedback(Adapt.Feedback(phase="capture"))
        answer = call_service(self._capture, CaptureFrame.Request(path=str(path)), 10.0, lambda: goal.cancelled)
        if not answer.success:
            raise StationError(answer.message)
        return path, measured_position(self)

    def _train(self, goal: Goal[Any], run: Path, budget_s: float) -> None:
        """Run the trainer to its end, relaying its progress. Raises: StationError when it dies; Cancelled."""
        line = [sys.executable, "-m", "gymnast_core.cli", "adapt", "--from", str(run / "request.yaml")]
        deadline = time.monotonic() + 3.0 * budget_s + MARGIN_S
        with open(run / LOG_NAME, "wb") as log:
            self._process = subprocess.Popen(
                line,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # One core is left to the graph: more compute threads than free cores make all of them wait.
                env={"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 2) - 1)), **os.environ, "COLUMNS": "160"},
                start_new_session=True,
                preexec_fn=_become_trainer,
            )
        relay = _Relay(goal, run)
        try:
            while self._process.poll() is None:
                goal.sleep_until(time.monotonic() + POLL_S)
                relay.step()
                self._phase = relay.feedback.phase
                if time.monotonic() > deadline:
                    raise StationError(
                        f"the trainer did not end within {3.0 * budget_s + MARGIN_S:.0f} s; it was stopped"
                    )
        except (Cancelled, StationError):
            self._interrupt_process()
            raise
        relay.step()
        code = self._process.returncode
        if code not in (0, 1) or not (run / "result.json").exists():
            raise StationError(f"the trainer ended {_how(code)}: {_last_line(run)} (log: {run / LOG_NAME})")

    def _interrupt_process(self) -> None:
        process = self._process
        if process is None or process.poll() is not None:
            return
        _signal_group(process, signal.SIGINT)
        try:
            process.wait(CANCEL_GRACE_S)
        except subprocess.TimeoutExpired:
            self._kill()

    def _kill(self) -> None:
        process = self._process
        if process is not None and process.poll() is None:
            _signal_group(process, signal.SIGKILL)
            process.wait(2.0)
        self._process = None

    def _report(self) -> tuple[bytes, str, dict[str, Any]]:
        process = self._process
        return DiagnosticStatus.OK, self._phase, {"trainer_pid": process.pid if process else 0}


class _Relay:
    """Turns the trainer's progress lines into feedback."""

    def __init__(self, goal: Goal[Any], run: Path) -> None:
        self._goal = goal
        self._run = run
        self._lines = 0
        self._sent = -math.inf
        self._left_at = time.monotonic()
        self.feedback = Adapt.Feedback(phase="load")

    def step(self) -> None:
        lines = read_json_lines(self._run / "progress.jsonl")
        now = time.monotonic()
        if len(lines) > self._lines:
            self._lines = len(lines)
            self._take(lines[-1])
            self._left_at = now
        elif now - self._sent < REPEAT_S:
            return
        else:
            self.feedback.preview = CompressedImage()  # a picture is sent once
            self.feedback.seconds_left = float(max(0.0, self.feedback.seconds_left - (now - self._left_at)))
            self._left_at = now
        self._sent = now
        self._goal.publish_feedback(self.feedback)

    def _take(self, line: dict[str, Any]) -> None:
        self.feedback = Adapt.Feedback(phase=str(line.get("phase", "")))
        self.feedback.iteration = int(line.get("iteration") or 0)
        self.feedback.iterations = int(line.get("iterations") or 0)
        self.feedback.mean_reward = _number(line.get("mean_reward"))
        self.feedback.usable_groups = _number(line.get("usable_groups"))
        self.feedback.seconds_left = max(0.0, _number(line.get("seconds_left"), 0.0))
        self.feedback.preview = _preview(self._run, str(line.get("preview") or ""))


def _preview(run: Path, name: str) -> CompressedImage:
    """The film strip a progress line names, as JPEG; empty when it is not there."""
    message = CompressedImage()
    picture = cv2.imread(str(run / name)) if name else None
    if picture is not None:
        encoded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 85])[1]
        message.format = "jpeg"
        message.data = encoded.tobytes()
    return message


def _read_result(run: Path) -> Any:
    """The trainer's result.json as the action's result. Raises: DataError when it is not readable."""
    try:
        content = json.loads((run / "result.json").read_text(encoding="utf-8"))
        result = Adapt.Result(success=True, run_folder=str(run))
        result.message = str(content["message"])
        result.adapter_id = str(content["adapter_id"] or "")
        result.accepted = bool(content["accepted"])
        result.success_before = _number(content["success_before"])
        result.success_after = _number(content["success_after"])
        result.standard_error = _number(content["standard_error"])
        result.iterations = int(content["iterations"])
        result.failed_conditions = [str(condition) for condition in content["failed_conditions"]]
        return result
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{run / 'result.json'}: not a readable result ({error})") from error


def _number(value: Any, missing: float = math.nan) -> float:
    return float(value) if isinstance(value, (int, float)) else missing


def _position_of(request: Adapt.Goal) -> tuple[float, float, float] | None:
    """The position a goal names. Raises: DataError where it is not three metres that an arm may reach."""
    if not len(request.position):
        return None
    if len(request.position) != 3 or not all(abs(metres) <= REACH for metres in request.position):
        raise DataError(
            f"position: found {list(request.position)}, needed x, y, z in metres, {-REACH:g} to {REACH:g}, or nothing"
        )
    x, y, z = map(float, request.position)
    return x, y, z


def _failed(message: str, cancelled: bool, request: Adapt.Goal) -> Any:
    nothing = math.nan
    return Adapt.Result(message=message, success_before=nothing, success_after=nothing, standard_error=nothing)


def _how(code: int) -> str:
    return f"by signal {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"


def _last_line(run: Path) -> str:
    """What the trainer said last: its error, as a rule."""
    try:
        lines = [line for line in (run / LOG_NAME).read_text(errors="replace").splitlines() if line.strip()]
    except OSError:
        lines = []
    errors = [line for line in lines if line.startswith("error:")]
    return (errors or lines or ["it said nothing"])[-1].removeprefix("error: ").strip()[:300]


def _become_trainer() -> None:
    """In the child, before the trainer starts: yield to the arm's processes, and die with the adapter node."""
    os.nice(NICENESS)
    if sys.platform == "linux":
        _LIBC.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _signal_group(process: subprocess.Popen[bytes], number: int) -> None:
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return


def main(args: Sequence[str] | None = None) -> int:
    """Entry point of the node `adapter`."""
    return run_node(AdapterNode, args)
