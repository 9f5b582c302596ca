"""The adapter: test-time training as the action adapter/adapt.

The trainer is a process of its own, at a lower priority than everything that moves the arm: what it needs is written
into a run folder (config and start frame), what it does is read from that folder (progress and result).
"""

from __future__ import annotations

import math
import re
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

from gymnast_core.config import REACH, dump_config
from gymnast_core.data.frames import write_image
from gymnast_core.errors import DataError, StationError
from gymnast_core.files import read_json_lines, user_path, writable_folder, write_bytes, write_json
from gymnast_core.policy.prompt import normalise_instruction
from gymnast_core.results import read_result
from gymnast_core.rl.adapt_config import AdaptConfig
from gymnast_core.rl.adapt_result import FRAME, AdaptResult
from gymnast_core.station_file import StationFile
from gymnast_core.verb_process import last_words
from gymnast_core.workflows.learned_station import open_round
from gymnast_nodes.arm_actions import measured_position
from gymnast_nodes.calls import call_service
from gymnast_nodes.lifecycle import Diagnostics, ManagedNode
from gymnast_nodes.long_action import Goal, LongAction
from gymnast_nodes.messages import image_to_frame
from gymnast_nodes.parameters import check_seconds
from gymnast_nodes.running import run_node
from gymnast_nodes.start_frames import write_starts
from gymnast_nodes.verb_process import VerbProcess

REPEAT_S = 2.0
"""Feedback is repeated this often between the trainer's own lines, with the time left counted down."""
MARGIN_S = 1200.0
"""Loading and the measurements before and after may take this long besides three times the training budget."""
LOG_NAME = "adapt.log"


class AdapterNode(ManagedNode):
    """See the module's text. Action adapter/adapt."""

    def __init__(self) -> None:
        super().__init__("adapter")
        self._root = user_path(self.station.recorder.folder, "recorder.folder").resolve().parent / "adapt"
        self._capture = self.create_client(CaptureFrame, "camera/capture_frame")
        self._trainer = VerbProcess("the trainer")
        self._phase = "idle"
        self._action = LongAction(self, Adapt, "adapter/adapt", self._work, self._refuse, _failed)
        self._diagnostics = Diagnostics(self, self.station.name)
        self._diagnostics.add("adaptation", self._report)

    def configure(self) -> None:
        writable_folder(self._root, "recorder.folder, beside which runs are kept")

    def activate(self) -> None:
        self._action.allow()

    def deactivate(self) -> None:
        self._action.interrupt()

    def stop(self) -> None:
        self._action.interrupt()
        self._trainer.kill()

    # The goal

    def _refuse(self, request: Adapt.Goal) -> str:
        return "" if self.is_active else "the adapter is not active"

    def _work(self, goal: Goal[Any]) -> tuple[str, Any]:
        request = goal.request
        instruction = request.instruction.strip()
        normalise_instruction(instruction)
        check_seconds("seconds", request.seconds)
        own = StationFile(self.config_path, self.station)
        station = open_round(own, request.station_file).path if request.station_file else own.path
        name = re.sub(r"[^a-z0-9]+", "_", instruction.lower()).strip("_")[:40]
        run = self._root / f"{datetime.now():%Y%m%d_%H%M%S_%f}_{name}"
        try:
            run.mkdir(parents=True)
        except OSError as error:
            raise DataError(f"{run}: cannot be created: {error.strerror or error}; free disk space") from error
        position = self._start_frame(goal, run)
        written = write_starts(run, request)
        if len(written.frames) > 1 and position is not None:  # each frame says where the arm was in it
            write_json((run / FRAME).with_suffix(".json"), {"position": list(position)})
            position = None
        config = AdaptConfig(
            frame=written.frames,
            instruction=instruction,
            position=position,
            rehearsal=written.rehearsal,
            config=str(station),
            run=str(run),
            iterations=int(request.iterations) or None,
            seconds=float(request.seconds) or None,
            seed=int(request.seed),
        )
        write_bytes(run / "request.yaml", dump_config(config).encode())
        try:
            self._train(goal, run, request.seconds or self.station.adaptation.seconds)
        finally:
            self._phase = "idle"
        result = _message_of(read_result(AdaptResult, run), run)
        self.get_logger().info(result.message)
        return "succeeded", result

    def _start_frame(self, goal: Goal[Any], run: Path) -> tuple[float, float, float] | None:
        """Write the goal's frame, or one captured now; where the arm was then (metres, base frame), if known.

        Raises: DataError, StationError, Cancelled.
        """
        path = run / FRAME
        image = goal.request.frame
        if image.width and image.height:
            write_image(path, image_to_frame(image, "frame of the goal"))
            return _position_of(goal.request)
        goal.publish_feedback(Adapt.Feedback(phase="capture"))
        answer = call_service(self._capture, CaptureFrame.Request(path=str(path)), 10.0, lambda: goal.cancelled)
        if not answer.success:
            raise StationError(answer.message)
        return measured_position(self)

    def _train(self, goal: Goal[Any], run: Path, budget_s: float) -> None:
        """Run the trainer to its end, relaying its progress. Raises: StationError when it dies; Cancelled."""
        relay = _Relay(goal, run)

        def step() -> None:
            relay.step()
            self._phase = relay.feedback.phase

        log = run / LOG_NAME
        self._trainer.run(goal, "adapt", run / "request.yaml", log, 3.0 * budget_s + MARGIN_S, step, ends=(0, 1))
        if not (run / "result.json").exists():
            raise StationError(f"the trainer ended without a result: {last_words(log)} (log: {log})")

    def _report(self) -> tuple[bytes, str, dict[str, Any]]:
        return DiagnosticStatus.OK, self._phase, {"trainer_pid": self._trainer.pid}


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


def _message_of(found: AdaptResult, run: Path) -> Adapt.Result:
    """A test-time training's result as the action's."""
    message = "; to go on: ".join((found.message, *found.go_on[:1]))
    result = Adapt.Result(success=True, run_folder=str(run), message=message, adapter_id=found.adapter_id)
    result.accepted = found.accepted
    result.success_before = _number(found.success_before)
    result.success_after = _number(found.success_after)
    result.standard_error = _number(found.standard_error)
    result.iterations = found.iterations
    result.failed_conditions = list(found.failed_conditions)
    return result


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


def main(args: Sequence[str] | None = None) -> int:
    """Entry point of the node `adapter`."""
    return run_node(AdapterNode, args)
