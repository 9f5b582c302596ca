"""The motion of arm/reset: open the gripper, lift, go to the start pose and settle there.

Where an overload keeps the arm from being lifted (a finger behind a handle), it backs out the way it went in, and
tries once more.
"""

from __future__ import annotations

import collections
import math
import time

import numpy as np
from gymnast_msgs.msg import ArmState

from gymnast_core.clocks import since_boot
from gymnast_core.errors import StationError
from gymnast_core.robot.controller import BridgeController
from gymnast_nodes.action_check import ActionCheck
from gymnast_nodes.arm_gripper import Gripper
from gymnast_nodes.arm_mode import Mode
from gymnast_nodes.arm_watch import ArmWatch
from gymnast_nodes.calls import sleep
from gymnast_nodes.commanded_arm import SETTLED, CommandedArm
from gymnast_nodes.lifecycle import ManagedNode

LOOK_S = 0.16
"""How long a reset waits for joint states: a run takes no longer, and the watchdog hears of the node all the while."""
AWAY_S = 0.3
"""A motion that was not commanded on for this long is over."""
SETTLE_S = 3.0
RATE_HZ = 25.0
WAY = 200
"""Actions whose place is remembered: 40 s at the usual rate."""
TAKEN_AWAY = 0.5
"""Radians from its place at the last action beyond which an arm cannot have come by that action."""
RELAX_S = 0.4
"""An arm held at its measured pose pushes no more after this."""


class ResetMotion:
    """One at a time; `run` is awaited in the node's executor, which goes on watching meanwhile."""

    def __init__(
        self, node: ManagedNode, mode: Mode, arm: CommandedArm, gripper: Gripper, actions: ActionCheck, watch: ArmWatch
    ) -> None:
        self._node = node
        self._mode = mode
        self._arm = arm
        self._gripper = gripper
        self._actions = actions
        self._watch = watch
        self._way: collections.deque[np.ndarray] = collections.deque(maxlen=WAY)
        """Where the arm was at each action since the last reset: the way out where it got in."""

    def passed(self, joints: np.ndarray) -> None:
        """The arm was at `joints` (6,) when an action was executed."""
        self._way.append(joints)

    async def run(self, offset: np.ndarray, commander: str) -> None:
        """Go to the start pose, moved by `offset` (3,), metres. commander: who asks.

        Raises: StationError when the arm may not be moved, or did not arrive; it then holds.
        """
        controller = self._begin(offset, commander)
        try:
            self._gripper.go(1.0)
            goal = await self._lift_and_go(controller, offset)
            await self._settle(goal, "its start pose")
            controller.reset_target(goal)
            self._way.clear()
            self._actions.forget()
            self._mode.set(ArmState.MODE_READY, "")
        except StationError as error:
            if self._mode.moving:
                self._watch.hold(str(error), fault=False)
            raise

    async def go(self, path: np.ndarray, doing: str, where: str) -> None:
        """Follow joints (n, 6), RATE_HZ of them a second, and settle at their end; to be called when `run` has ended.

        doing, where: for people. Raises: StationError as `run`.
        """
        self._mode.set(ArmState.MODE_MOVING, doing)
        try:
            await self._follow(path)
            await self._settle(path[-1], where)
        except StationError as error:
            if self._mode.moving:
                self._watch.hold(str(error), fault=False)
            raise

    def _begin(self, offset: np.ndarray, commander: str) -> BridgeController:
        """Raises: StationError when the arm may not be moved."""
        controller = self._arm.controller
        if not self._node.is_active or controller is None:
            raise StationError("the arm node is not active; activate it first (the supervisor does)")
        if self._mode.stopped:
            raise StationError(f"the arm is stopped ({self._mode.detail}); call arm/rearm first")
        if self._mode.moving:
            raise StationError("the arm is resetting already")
        if other := self._actions.other(commander):
            raise StationError(f"{other} commands the arm; wait for its end or cancel it")
        self._arm.listen()
        if problem := self._watch.speakers.problem:
            raise StationError(problem)
        if not self._arm.measured.wait(LOOK_S) or self._arm.joints is None:
            raise StationError("no fresh joint states; check the driver")
        if self._watch.touch.lost:
            raise StationError("the driver was silent and is being checked; try again in a moment")
        if not np.isfinite(offset).all():
            raise StationError("offset is not finite; give metres")
        if self._way and float(np.max(np.abs(self._way[-1] - self._arm.joints))) > TAKEN_AWAY:
            self._way.clear()  # moved by hand since
        self._watch.fault_kind = ""
        self._arm.forget_droop()
        self._mode.set(ArmState.MODE_MOVING, "resetting")
        return controller

    async def _lift_and_go(self, controller: BridgeController, offset: np.ndarray) -> np.ndarray:
        """Follow the path to the start; returns its end, joints (6,)."""

        async def follow() -> np.ndarray:
            assert self._arm.joints is not None
            path = controller.reset_path(self._arm.joints, offset, 1.0 / RATE_HZ)
            await self._follow(path)
            return np.asarray(path[-1])

        try:
            return await follow()
        except StationError as error:
            if self._watch.fault_kind != "overload" or not self._way:
                raise
            await self._back_out(controller, str(error))
            return await follow()

    async def _follow(self, path: np.ndarray) -> None:
        """Send joints (n, 6), RATE_HZ of them a second; late ones are not made up for by a burst.

        Raises: StationError where this process was away in mid-motion, and see `_still_moving`.
        """
        due = since_boot()
        for joints in path:
            late = since_boot() - due
            if late > AWAY_S:
                raise StationError(f"the arm node was away for {late:.1f} s in mid-motion; reset again")
            self._still_moving()
            self._arm.send(joints)
            due = max(due, since_boot() - 0.5 / RATE_HZ) + 1.0 / RATE_HZ
            await sleep(self._node, max(0.001, due - since_boot()))

    async def _back_out(self, controller: BridgeController, why: str) -> None:
        """Go back the way the arm came: a finger that went in sideways, behind a handle, cannot be lifted out.

        Raises: StationError when that is blocked, too, or somebody else took the arm meanwhile.
        """
        await sleep(self._node, RELAX_S)  # held at its measured pose: what pushed lets go
        self._arm.listen()
        joints = self._arm.joints
        if self._mode.value != ArmState.MODE_HOLDING or not self._arm.measured.fresh or joints is None:
            raise StationError(f"{why}; and then: {self._mode.detail or 'something else moved the arm'}")
        self._node.get_logger().warning(f"{why}; backing out the way the arm came")
        self._mode.set(ArmState.MODE_MOVING, "backing out")
        await self._follow(controller.way_back(joints, list(self._way), 1.0 / RATE_HZ))
        await sleep(self._node, RELAX_S)
        self._still_moving()

    def _still_moving(self) -> None:
        """Raises: StationError when a fault or a stop ended the motion under way."""
        if not self._mode.moving:
            raise StationError(f"the reset was ended: {self._mode.detail}")
        if not self._node.is_active:
            raise StationError("the arm node was deactivated")

    async def _settle(self, goal: np.ndarray, where: str) -> None:
        """Wait until the arm rests at `goal` (6,). where: its name. Raises: StationError when it does not."""
        end = time.monotonic() + SETTLE_S
        still_since = None
        previous = self._arm.joints
        while time.monotonic() < end:
            await sleep(self._node, 0.05)
            self._still_moving()
            self._arm.listen()
            joints = self._arm.joints
            assert joints is not None and previous is not None
            resting = self._arm.measured.fresh and float(np.max(np.abs(joints - previous))) < 0.002
            previous = joints
            if resting and float(np.max(np.abs(joints - goal))) < SETTLED:
                still_since = still_since or time.monotonic()
                if time.monotonic() - still_since > 0.1:
                    return
            else:
                still_since = None
        worst = int(np.argmax(np.abs(previous - goal))) if previous is not None else 0
        distance = float(abs(previous[worst] - goal[worst])) if previous is not None else math.nan
        raise StationError(f"the arm did not reach {where}: {self._arm.model.names[worst]} is {distance:.2f} rad away")
