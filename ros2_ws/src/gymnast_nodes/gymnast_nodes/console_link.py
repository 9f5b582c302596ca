"""What the console hears of a running graph: one snapshot, renewed five times a second while somebody looks.

Fast topics wake nobody (`reading.LatestReader`), and pictures are subscribed to only while a page asks for them, so
that a console which nobody looks at costs next to nothing.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from action_msgs.msg import GoalStatus, GoalStatusArray
from gymnast_msgs.action import Adapt, Practise, RunEpisode, RunTrials
from gymnast_msgs.msg import ArmState
from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image

from gymnast_core.data.frames import encode_image
from gymnast_core.errors import DataError
from gymnast_core.files import finite_or_none
from gymnast_core.robot.arm_model import arm_model
from gymnast_core.serve.console.snapshot import ArmDetail, CameraNow, Said, Snapshot, View, WorkNow
from gymnast_core.station_file import StationFile
from gymnast_nodes.camera_topic import camera_qos
from gymnast_nodes.messages import image_to_frame, picture_type
from gymnast_nodes.qos import COMMAND_QOS, LATCHED_QOS
from gymnast_nodes.reading import LatestReader
from gymnast_nodes.status_client import SILENT_S, Look, arm_now

PERIOD_S = 0.2
IDLE_S = 1.0
"""The period while nobody looks."""
LOOKED_S = 5.0
"""A page that asked for something within this time is open."""
RENEW_S = 2.0
"""How often the offer of a picture's publisher is looked at."""
FEEDBACK_QOS = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=5, reliability=ReliabilityPolicy.RELIABLE)
ACTIVE = (GoalStatus.STATUS_ACCEPTED, GoalStatus.STATUS_EXECUTING, GoalStatus.STATUS_CANCELING)
ACTIONS: dict[str, tuple[Any, str]] = {
    "practise": (Practise, "evaluator/practise"),
    "trials": (RunTrials, "evaluator/run_trials"),
    "adapt": (Adapt, "adapter/adapt"),
    "run": (RunEpisode, "executor/run_episode"),
}
"""Kind of work -> action, and its name. The first two run the others as parts of theirs."""
WHOLE = ("practise", "trials")
COUNTS = ("iteration", "iterations", "trial", "trials", "successes", "step")
SHARES = ("mean_reward", "usable_groups", "seconds_left")
TEMPERATURE, DEGREES = "temperature_", "_c"
"""Before and after a motor's name in the arm's report."""
MOST_SAID = 60


@dataclass
class _Action:
    """What was heard of one action."""

    active: bool = False
    feedback: Any = None
    heard_at: float = field(default_factory=time.monotonic)


@dataclass
class _Picture:
    """The newest picture of one view. encoded: number and JPEG of the last one that was asked for."""

    asked_at: float = -math.inf
    renewed_at: float = -math.inf
    reader: LatestReader | None = None
    number: int = 0
    message: Any = None
    arrived_at: float = 0.0
    encoded: tuple[int, bytes] | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)


class ConsoleLink:
    """Subscriptions of a node that another thread spins. `snapshot` and `picture` are for any thread."""

    def __init__(self, node: Node, opened: StationFile) -> None:
        self._node, self._opened = node, opened
        self._joints = tuple(arm_model(opened.config.arm.model).names)
        self._look = Look(node, arm=False)
        self._arm_reader = LatestReader(node, ArmState, "arm/state", COMMAND_QOS)
        self._arm: ArmState | None = None
        self._arm_at = -math.inf
        self._actions = {kind: _Action() for kind in ACTIONS}
        for kind, (action, name) in ACTIONS.items():
            node.create_subscription(GoalStatusArray, f"{name}/_action/status", self._status_of(kind), LATCHED_QOS)
            node.create_subscription(
                action.Impl.FeedbackMessage, f"{name}/_action/feedback", self._feedback_of(kind), FEEDBACK_QOS
            )
        self._pictures: dict[View, _Picture] = {"camera": _Picture(), "policy": _Picture()}
        self._said: collections.deque[Said] = collections.deque(maxlen=MOST_SAID)
        self._asked_at = self._ticked_at = -math.inf
        self._heard_at: float | None = None
        self._timer = node.create_timer(PERIOD_S, self._tick)

    def say(self, text: str, tone: Any = "plain") -> None:
        """Add a line for people."""
        self._said.append(Said(time.time(), text, tone))

    @property
    def active(self) -> list[str]:
        """Kinds of work under way that are not a part of another one, as far as their nodes live."""
        states = {node.name: node.state for node in self._look.status().nodes}
        kinds = [
            kind
            for kind, (_, name) in ACTIONS.items()
            if self._actions[kind].active and states.get(name.partition("/")[0], "active") == "active"
        ]
        return [kind for kind in kinds if kind in WHOLE] or kinds

    @property
    def question(self) -> str:
        """What a person is asked to do."""
        return self._look.problem("evaluator: evaluation")

    def snapshot(self) -> Snapshot:
        """See `Robot.snapshot`."""
        now = time.monotonic()
        self._asked_at = now
        arm = self._arm if now - self._arm_at < SILENT_S else None
        status = self._look.status()
        camera = self._pictures["camera"]
        rate = self._look.values.get("camera: camera", {}).get("rate_hz", "")
        return Snapshot(
            status=dataclasses.replace(status, arm=arm_now(arm) if arm is not None else None),
            arm=_detail(arm, self._joints),
            camera=CameraNow(camera.number, now - camera.arrived_at if camera.number else None, _number(rate)),
            work=tuple(self._work(kind, now) for kind in self.active),
            question=self.question,
            temperatures=self._temperatures(),
            said=tuple(self._said),
            heard_s=now - self._heard_at if self._heard_at is not None else None,
        )

    def picture(self, view: View) -> tuple[int, bytes] | None:
        """See `Robot.picture`. A picture is encoded once, when it is asked for."""
        self._asked_at = time.monotonic()
        wanted = self._pictures[view]
        wanted.asked_at = self._asked_at
        with wanted.lock:
            number, message = wanted.number, wanted.message
            if message is None:
                return None
            if wanted.encoded is None or wanted.encoded[0] != number:
                try:
                    wanted.encoded = number, encode_image(image_to_frame(message, view), ".jpg")
                except DataError:
                    return None  # the camera node says what is wrong with it
            return wanted.encoded

    # In the node's executor

    def _tick(self) -> None:
        now = time.monotonic()
        looked_at = now - self._asked_at < LOOKED_S
        if not looked_at and now - self._ticked_at < IDLE_S:
            return
        self._ticked_at = now
        message, _ = self._arm_reader.take()
        if message is not None:
            self._arm, self._arm_at = message, now
            self._heard_at = now
        for view, picture in self._pictures.items():
            self._take_picture(view, picture, now)

    def _take_picture(self, view: View, picture: _Picture, now: float) -> None:
        if now - picture.asked_at > LOOKED_S:
            if picture.reader is not None:
                picture.reader.end()
                picture.reader = None
            return
        if picture.reader is None or (not picture.number and now - picture.renewed_at > RENEW_S):
            if picture.reader is not None:  # a publisher that came later may offer something else
                picture.reader.end()
            picture.reader, picture.renewed_at = self._reader(view), now
        message, count = picture.reader.take()
        if message is not None:
            with picture.lock:
                picture.message, picture.number, picture.arrived_at = message, picture.number + count, now

    def _reader(self, view: View) -> LatestReader:
        """One message deep: older pictures are of no use."""
        if view == "policy":
            return LatestReader(self._node, Image, "executor/policy_view", _newest(ReliabilityPolicy.RELIABLE))
        camera = self._opened.config.camera
        reliability = camera_qos(self._node, camera.topic).reliability
        return LatestReader(self._node, picture_type(camera), camera.topic, _newest(reliability))

    def _status_of(self, kind: str) -> Callable[[Any], None]:
        def take(message: GoalStatusArray) -> None:
            heard = self._actions[kind]
            was = heard.active
            heard.active = any(status.status in ACTIVE for status in message.status_list)
            heard.heard_at = time.monotonic()
            if heard.active and not was:
                heard.feedback = None

        return take

    def _feedback_of(self, kind: str) -> Callable[[Any], None]:
        def take(message: Any) -> None:
            heard = self._actions[kind]
            heard.feedback, heard.heard_at = message.feedback, time.monotonic()

        return take

    def _work(self, kind: str, now: float) -> WorkNow:
        heard = self._actions[kind]
        found: dict[str, Any] = {name: int(getattr(heard.feedback, name, 0)) for name in COUNTS}
        found |= {name: _finite(getattr(heard.feedback, name, None)) for name in SHARES}
        if not found["iteration"]:  # of no update yet
            found["mean_reward"] = found["usable_groups"] = None
        return WorkNow(kind, str(getattr(heard.feedback, "phase", "")), age_s=now - heard.heard_at, **found)

    def _temperatures(self) -> dict[str, float]:
        values = self._look.values.get("arm: arm", {})
        warm = {name: text for name, text in values.items() if name.startswith(TEMPERATURE) and name.endswith(DEGREES)}
        found = {name: _number(text) for name, text in warm.items()}
        return {
            name.removeprefix(TEMPERATURE).removesuffix(DEGREES): value
            for name, value in found.items()
            if value is not None
        }


def _newest(reliability: ReliabilityPolicy) -> QoSProfile:
    return QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=1, reliability=reliability)


def _detail(message: ArmState | None, joints: tuple[str, ...]) -> ArmDetail:
    if message is None:
        return ArmDetail(joints=joints)
    return ArmDetail(
        tuple(float(value) for value in message.target_bridge_pose[:3]),
        tuple(_finite(value) for value in message.load),
        joints,
    )


def _finite(value: Any) -> float | None:
    return None if value is None else finite_or_none(float(value))


def _number(text: str) -> float | None:
    try:
        return finite_or_none(float(text))
    except ValueError:
        return None
