"""What must hold while an episode moves the arm: its camera, its arm, and nobody else on their topics.

Frames and arm states are looked at during an episode only.
"""

from __future__ import annotations

import time

import numpy as np
from gymnast_msgs.msg import ArmState, ExecutedAction

from gymnast_core.errors import StationError
from gymnast_nodes.arm_actions import STATION_REFUSALS
from gymnast_nodes.calls import in_executor
from gymnast_nodes.camera_topic import CameraSubscription
from gymnast_nodes.commander import Commander
from gymnast_nodes.frame_time import NewestFrame
from gymnast_nodes.lifecycle import StationNode
from gymnast_nodes.messages import picture_type
from gymnast_nodes.qos import COMMAND_QOS
from gymnast_nodes.reading import GatedGroup, take_waiting
from gymnast_nodes.speakers import Speakers, StationSeats

ARM_SILENT_S = 0.5
MAX_REFUSALS = 3
"""The episode is given up when the arm refuses this many actions in a row for a reason of its own."""


class StationWatch:
    """Watches for a node that commands the arm as `commander`. `begin` and `end` are for other threads than its own."""

    def __init__(self, node: StationNode, commander: Commander) -> None:
        self._node = node
        self._commander = commander
        self.camera = NewestFrame(node.station.camera)
        self._arm: tuple[ArmState, float] | None = None
        self._episode = ""
        self._refusals = 0
        self._refusal = ""
        seats = StationSeats(node, node.station)
        self._speakers = Speakers(node, [*seats.arm(), *seats.recorder()])
        self._watching = False
        gate = GatedGroup(lambda: self._watching)
        camera = node.station.camera
        self._frames = CameraSubscription(node, camera.topic, lambda m: self.camera.take(m), gate, picture_type(camera))
        self._arm_states = node.create_subscription(
            ArmState, "arm/state", self._on_arm, COMMAND_QOS, callback_group=gate
        )
        node.create_subscription(ExecutedAction, "arm/executed", self._on_executed, COMMAND_QOS)

    def begin(self) -> None:
        """Watch from now on; what waited until now says nothing of now."""
        in_executor(self._node, self._frames.match)
        for subscription in (self._frames.subscription, self._arm_states):
            take_waiting(subscription)
        self.camera, self._arm = NewestFrame(self._node.station.camera), None
        self._watching = True

    def end(self) -> None:
        """Watch no more."""
        self._watching, self._episode = False, ""

    def follow(self, episode_id: str) -> None:
        """Count from now on what the arm refuses of this episode."""
        self._refusals, self._refusal = 0, ""
        self._episode = episode_id

    @property
    def problem(self) -> str:
        """What keeps the arm from being moved; empty when nothing does."""
        return self._speakers.look() or self.camera.problem or self._arm_problem()

    @property
    def overdue(self) -> str:
        """What of camera and arm has not come for too long, and may come yet; empty when nothing is."""
        return self.camera.overdue or self._arm_overdue()

    @property
    def commanded(self) -> bool:
        """Whether the arm says that this node commands it."""
        return self._arm is not None and self._arm[0].commander == self._commander.name

    @property
    def state(self) -> np.ndarray:
        """(7,) float32, measured last: see `Episode.states`. Raises: StationError before the first arm/state."""
        if self._arm is None:
            raise StationError("arm: no arm/state; is the arm node active?")
        return np.array([*self._arm[0].bridge_pose, self._arm[0].gripper], np.float32)

    @property
    def position(self) -> tuple[float, float, float] | None:
        """Where the end effector was last, metres in the arm's base frame."""
        if self._arm is None:
            return None
        place = self._arm[0].pose.position
        return place.x, place.y, place.z

    def check(self) -> None:
        """Raises: StationError when something keeps the arm from being moved, or it refuses every action."""
        problem = self.problem
        if not problem and self._refusals >= MAX_REFUSALS:
            problem = f"the arm refused {self._refusals} actions in a row ({self._refusal})"
        if problem:
            raise StationError(problem)

    def check_last(self) -> None:
        """Raises: StationError when the last action was refused."""
        if self._refusals:
            raise StationError(f"the arm refused the last action ({self._refusal})")

    def _arm_overdue(self) -> str:
        if self._arm is None:
            return "arm: no arm/state; is the arm node active?"
        age = time.monotonic() - self._arm[1]
        return f"arm: no arm/state for {age:.1f} s; is the arm node down?" if age > ARM_SILENT_S else ""

    def _arm_problem(self) -> str:
        overdue = self._arm_overdue()
        if overdue or self._arm is None:
            return overdue
        state, _ = self._arm
        if state.mode in (ArmState.MODE_READY, ArmState.MODE_HOLDING):
            other = state.commander not in ("", self._commander.name)
            return f"arm: {state.commander} commands it" if other else ""
        names = {ArmState.MODE_UNCONFIGURED: "not configured", ArmState.MODE_MOVING: "moving"}
        return f"arm: {names.get(state.mode, 'stopped')}{': ' + state.detail if state.detail else ''}"

    def _on_arm(self, message: ArmState) -> None:
        self._arm = (message, time.monotonic())
        self.camera.arm([*message.bridge_pose, message.gripper])

    def _on_executed(self, message: ExecutedAction) -> None:
        mine = message.commanded.commander == self._commander.name
        if not self._episode or not mine or message.commanded.episode_id != self._episode:
            return
        refused = not message.accepted and bool(STATION_REFUSALS & set(message.safety_events))
        self._refusals = self._refusals + 1 if refused else 0
        self._refusal = ", ".join(message.safety_events)
