"""The arm: Bridge actions in, joint commands to the vendor's driver out, through the safety envelope.

The driver's time profile (250 ms a motion) is set once; everything, resets included, is streamed as joint group
commands, so whatever happens to this process the arm stops within one profile. An action is refused, and said to be
on arm/executed, when it is not finite, stale, out of order, or comes while the arm resets or is stopped.

A driver that was silent may have been restarted, or its motors rebooted: they then know no profile (0 is full speed)
and may have no torque. So its settings are checked and set anew before the arm moves again.
"""

from __future__ import annotations

import collections
import math
import sys
import threading
import time
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import Point, Pose, Quaternion
from gymnast_msgs.msg import ArmState, BridgeAction, ExecutedAction
from gymnast_msgs.srv import EmergencyStop, Rearm, ResetArm
from interbotix_xs_msgs.msg import JointGroupCommand, JointSingleCommand
from sensor_msgs.msg import JointState
from std_msgs.msg import String

from gymnast_core.errors import StationError
from gymnast_core.robot.controller import BridgeController
from gymnast_core.robot.gripper import GripperDrive, finger_from_opening, opening_from_finger
from gymnast_core.robot.guard import HOLD_FRESH_S, ArmGuard
from gymnast_nodes.common import (
    COMMAND_QOS,
    DRIVER_QOS,
    JOINT_NAMES,
    DiagnosticReport,
    Diagnostics,
    LatestReader,
    ManagedNode,
    RateMeter,
    fault_window,
    measured_effort,
    measured_joints,
    now_seconds,
    parameter,
    run_node,
    sleep,
    to_seconds,
)
from gymnast_nodes.driver import GROUP, Driver, DriverInfo

FIRST_JOINTS_S = 3.0
"""How long activation waits for a joint state that is no failed read."""
SETTLED = 0.05
"""Radians from the target within which a reset has arrived."""
DISPLACED = 0.15
"""Radians from its target beyond which an arm that was at rest has been pushed, dropped or moved by hand."""
FUTURE_TOLERANCE_S = 0.5
RESET_RATE_HZ = 25.0
WAY = 200
"""Actions whose place is remembered: 40 s at the usual rate."""
TAKEN_AWAY = 0.5
"""Radians from its place at the last action beyond which an arm cannot have come by that action."""
RELAX_S = 0.4
"""An arm held at its measured pose pushes no more after this."""


class ArmNode(ManagedNode):
    """Executes Bridge actions on the arm and guards it."""

    def __init__(self) -> None:
        super().__init__("arm")
        arm = self.station.arm
        rate = parameter(self, "state_rate_hz", 25.0, "publishing rate of arm/state, hertz", 20.0, 100.0)
        self._faults = fault_window(self, "the stop")
        self._check_motors = parameter(self, "check_motors", True, "read all motors' error registers on activation")
        self._driver = Driver(self, arm)
        self._info: DriverInfo | None = None
        self._controller: BridgeController | None = None
        self._gripper = GripperDrive()
        self._gripper_pwm = math.nan  # as a predecessor left it
        self._gripper_target: float | None = None

        self._mode = ArmState.MODE_UNCONFIGURED
        self._detail = "not configured"
        self._joints: np.ndarray | None = None
        self._joints_stamp: Any = None
        self._finger = math.nan
        self._joint_rate = RateMeter()
        self._failed_reads = 0
        self._joint_target: np.ndarray | None = None
        self._last_action_at = -math.inf
        self._last_step: tuple[str, int, float] | None = None
        self._way: collections.deque[np.ndarray] = collections.deque(maxlen=WAY)
        """Where the arm was at each action since the last reset: the way out where it got in."""
        self._fault_kind = ""
        self._guard = ArmGuard(arm.max_effort_ma)
        self._effort = np.zeros(6)
        self._lost_touch = False
        self._silent_at = -math.inf
        self._checking: threading.Thread | None = None
        self._check_began = -math.inf
        self._check_result = ""
        self._refused: collections.Counter[str] = collections.Counter()

        self._group = self.create_publisher(JointGroupCommand, self._driver.name("commands/joint_group"), DRIVER_QOS)
        self._single = self.create_publisher(JointSingleCommand, self._driver.name("commands/joint_single"), DRIVER_QOS)
        self._state = self.create_publisher(ArmState, "arm/state", COMMAND_QOS)
        self._executed = self.create_publisher(ExecutedAction, "arm/executed", COMMAND_QOS)
        self._joint_states = LatestReader(self, JointState, self._driver.name("joint_states"), DRIVER_QOS)
        self.create_subscription(BridgeAction, "arm/action", self._on_action, COMMAND_QOS)
        self.create_subscription(String, "watchdog/fault", self._on_watchdog, COMMAND_QOS)
        self.create_service(ResetArm, "arm/reset", self._on_reset)
        self.create_service(EmergencyStop, "arm/emergency_stop", self._on_stop)
        self.create_service(Rearm, "arm/rearm", self._on_rearm)
        self._diagnostics = Diagnostics(self, arm.driver)
        self._diagnostics.add("arm", self._report)
        self.create_timer(1.0 / rate, self._tick)

    # Transitions.

    def configure(self) -> None:
        """Raises: StationError when the driver is absent, drives another arm, or does not take our profile."""
        self._driver.wait()
        self._info = self._driver.check_arm()
        self._driver.apply_profile()
        self._controller = BridgeController(self.station, joint_limits=(self._info.lower, self._info.upper))
        self._gripper = GripperDrive(self._info.finger_closed, self._info.finger_open)
        if self._mode != ArmState.MODE_STOPPED:
            self._set_mode(ArmState.MODE_UNCONFIGURED, "not active")

    def activate(self) -> None:
        """Torque on with the measured pose as target. Raises: StationError when joint states or motors are not well."""
        if self._check_motors:
            self._driver.check_motors()
        first = self._driver.joint_state(FIRST_JOINTS_S)
        if first is None:
            raise StationError(
                f"no valid joint states on {self._driver.name('joint_states')} for {FIRST_JOINTS_S:g} s; "
                "check the driver, its USB cable and the motors' power"
            )
        self._take_joints(first)
        self._hold_measured()
        self._driver.torque_on()
        self._lost_touch, self._checking = False, None
        if self._mode != ArmState.MODE_STOPPED:
            self._set_mode(ArmState.MODE_READY, "")

    def deactivate(self) -> None:
        self._hold("deactivated", fault=False)
        self._rest_gripper()
        if self._mode != ArmState.MODE_STOPPED:
            self._set_mode(ArmState.MODE_UNCONFIGURED, "not active")

    def stop(self) -> None:
        """The process ends: leave the arm holding where it is, with the gripper's motor at rest or at its grasp."""
        if self._mode in (ArmState.MODE_READY, ArmState.MODE_MOVING):
            self._hold("the arm node ends", fault=False)
        if self.is_active:
            self._rest_gripper()
        if self._mode != ArmState.MODE_STOPPED:
            self._set_mode(ArmState.MODE_UNCONFIGURED, "the arm node ends")
        self._publish_state()  # the watchdog need not take the silence that follows for a fault
        self._driver.close()

    # What comes in.

    def _listen(self) -> None:
        """Take the driver's newest joint state: at every tick, and before anything is done on the strength of it."""
        message, count = self._joint_states.take()
        if message is not None:
            self._joint_rate.tick(count)
            self._take_joints(message)

    def _take_joints(self, message: JointState) -> None:
        joints = measured_joints(message)
        if joints is None:
            self._failed_reads += 1
            self._guard.read_failed()
            return
        self._joints = joints
        self._joints_stamp = message.header.stamp
        self._finger = dict(zip(message.name, message.position)).get("left_finger", math.nan)
        effort = measured_effort(message)
        if effort is not None:
            self._effort = effort
        self._guard.measured(joints, effort, time.monotonic())

    def _on_action(self, message: BridgeAction) -> None:
        self._listen()
        now = now_seconds(self)
        age = now - to_seconds(message.header.stamp)
        refusal = self._refusal(message, age)
        gripper = self._opening if self._gripper_target is None else self._gripper_target
        result = ExecutedAction(commanded=message, gripper=gripper)  # refused: no motion, and the gripper as it was
        if refusal:
            self._refused[refusal] += 1
            result.safety_events = [refusal]
            self.get_logger().warning(f"action refused: {refusal}", throttle_duration_sec=1.0)
        else:
            assert self._controller is not None and self._joints is not None
            if not self._streaming and self._distance > DISPLACED:
                self._controller.reset_target(self._joints)  # deltas count from where the arm is now
            action = np.array([*message.translation, *message.rotation, message.gripper], dtype=np.float32)
            command = self._controller.step(action, self._joints, age)
            result.safety_events = list(command.events)
            result.accepted = bool(command.accepted)
            if command.accepted:
                self._last_step = (message.episode_id, message.step, to_seconds(message.header.stamp))
                self._last_action_at = time.monotonic()
                self._way.append(self._joints)
                self._set_mode(ArmState.MODE_READY, "")
                self._send(command.joint_target)
                self._set_gripper(float(command.executed_action[6]))
                result.translation = command.executed_action[:3].astype(np.float32)
                result.rotation = command.executed_action[3:6].astype(np.float32)
                result.gripper = float(command.executed_action[6])
            else:
                for event in command.events:
                    self._refused[event] += 1
                self._hold("; ".join(command.events) or "action refused", fault=False)
        if self._joint_target is not None:
            result.joint_target = self._joint_target.astype(np.float32)
        result.header.stamp = self.get_clock().now().to_msg()
        result.header.frame_id = self._frame
        self._executed.publish(result)

    def _refusal(self, message: BridgeAction, age: float) -> str:
        """Why an action is not even handed to the controller; empty when it is."""
        if not self.is_active or self._controller is None:
            return "not_active"
        if self._mode == ArmState.MODE_STOPPED:
            return "emergency_stop"
        if self._mode == ArmState.MODE_MOVING:
            return "resetting"
        if self._joints is None or not self._guard.fresh(time.monotonic()):
            return "joint_states_stale"
        if self._lost_touch:
            return "driver_unchecked"
        if age > self.station.safety.command_timeout_s:
            return "stale"
        if age < -FUTURE_TOLERANCE_S:
            return "stamp_in_future"
        if self._last_step is not None:
            episode, step, stamp = self._last_step
            same = bool(message.episode_id) and message.episode_id == episode
            # Between streams the clock may have been set back; what is older than a stream's pause is stale anyway.
            late = self._streaming and to_seconds(message.header.stamp) <= stamp
            if (same and message.step <= step) or late:
                return "out_of_order"
        return ""

    def _on_watchdog(self, message: String) -> None:
        """The watchdog has commanded the measured pose behind our back: our target must not jump back later."""
        if not self.is_active:
            return
        if self._mode in (ArmState.MODE_READY, ArmState.MODE_MOVING):
            self._hold(f"watchdog: {message.data}", fault=False)
        self._hold_measured()

    async def _on_reset(self, request: ResetArm.Request, response: ResetArm.Response) -> ResetArm.Response:
        """arm/reset: open the gripper, lift, go to the start pose and settle there."""
        try:
            await self._reset(np.asarray(request.offset, dtype=np.float64))
            response.success, response.message = True, "at the start pose"
        except StationError as error:
            response.success, response.message = False, str(error)
            self.get_logger().error(f"reset: {error}")
        return response

    async def _reset(self, offset: np.ndarray) -> None:
        if not self.is_active or self._controller is None:
            raise StationError("the arm node is not active; activate it first (the supervisor does)")
        if self._mode == ArmState.MODE_STOPPED:
            raise StationError(f"the arm is stopped ({self._detail}); call arm/rearm first")
        if self._mode == ArmState.MODE_MOVING:
            raise StationError("the arm is resetting already")
        self._listen()
        if self._joints is None or not self._guard.fresh(time.monotonic()):
            raise StationError("no fresh joint states; check the driver")
        if self._lost_touch:
            raise StationError("the driver was silent and is being checked; try again in a moment")
        if not np.isfinite(offset).all():
            raise StationError("offset is not finite; give metres")
        if self._way and float(np.max(np.abs(self._way[-1] - self._joints))) > TAKEN_AWAY:
            self._way.clear()  # moved by hand since
        self._fault_kind = ""
        self._set_mode(ArmState.MODE_MOVING, "resetting")
        try:
            self._set_gripper(1.0)
            path = self._controller.reset_path(self._joints, offset, 1.0 / RESET_RATE_HZ)
            try:
                await self._follow(path)
            except StationError as error:
                if self._fault_kind != "overload" or not self._way:
                    raise
                await self._back_out(str(error))
                path = self._controller.reset_path(self._joints, offset, 1.0 / RESET_RATE_HZ)
                await self._follow(path)
            await self._settle(path[-1])
            self._controller.reset_target(path[-1])
            self._way.clear()
            self._last_step = None
            self._last_action_at = -math.inf
            self._set_mode(ArmState.MODE_READY, "")
        except StationError as error:
            if self._mode == ArmState.MODE_MOVING:
                self._hold(str(error), fault=False)
            raise

    async def _follow(self, path: np.ndarray) -> None:
        """Send joints (n, 6), RESET_RATE_HZ of them a second. Raises: StationError, see `_still_moving`."""
        started = time.monotonic()
        for index, joints in enumerate(path):
            self._still_moving()
            self._send(joints)
            await sleep(self, max(0.001, started + (index + 1) / RESET_RATE_HZ - time.monotonic()))

    async def _back_out(self, why: str) -> None:
        """Go back the way the arm came: a finger that went in sideways, behind a handle, cannot be lifted out.

        Raises: StationError when that is blocked, too, or somebody else took the arm meanwhile.
        """
        await sleep(self, RELAX_S)  # held at its measured pose: what pushed lets go
        if self._mode != ArmState.MODE_HOLDING or self._controller is None or self._joints is None:
            raise StationError(f"{why}; and then: {self._detail or 'something else moved the arm'}")
        self.get_logger().warning(f"{why}; backing out the way the arm came")
        self._set_mode(ArmState.MODE_MOVING, "backing out")
        await self._follow(self._controller.way_back(self._joints, list(self._way), 1.0 / RESET_RATE_HZ))
        await sleep(self, RELAX_S)
        self._still_moving()

    def _still_moving(self) -> None:
        """Raises: StationError when a fault or a stop ended the motion under way."""
        if self._mode != ArmState.MODE_MOVING:
            raise StationError(f"the reset was ended: {self._detail}")
        if not self.is_active:
            raise StationError("the arm node was deactivated")

    async def _settle(self, goal: np.ndarray) -> None:
        end = time.monotonic() + 3.0
        still_since = None
        previous = self._joints
        while time.monotonic() < end:
            await sleep(self, 0.05)
            self._still_moving()
            self._listen()
            assert self._joints is not None and previous is not None
            resting = float(np.max(np.abs(self._joints - previous))) < 0.002
            previous = self._joints
            if resting and float(np.max(np.abs(self._joints - goal))) < SETTLED:
                still_since = still_since or time.monotonic()
                if time.monotonic() - still_since > 0.1:
                    return
            else:
                still_since = None
        worst = int(np.argmax(np.abs(previous - goal))) if previous is not None else 0
        distance = float(abs(previous[worst] - goal[worst])) if previous is not None else math.nan
        raise StationError(f"the arm did not reach its start pose: {JOINT_NAMES[worst]} is {distance:.2f} rad away")

    def _on_stop(self, request: EmergencyStop.Request, response: EmergencyStop.Response) -> EmergencyStop.Response:
        """arm/emergency_stop: hold at the measured pose and refuse every action until arm/rearm."""
        held = self._hold_measured()
        if self.is_active:
            self._rest_gripper()
        self._set_mode(ArmState.MODE_STOPPED, request.reason or "emergency stop")
        response.success = held
        response.message = "held and latched" if held else "latched, but there are no fresh joint states to hold at"
        self.get_logger().error(f"emergency stop: {self._detail}")
        return response

    def _on_rearm(self, request: Rearm.Request, response: Rearm.Response) -> Rearm.Response:
        """arm/rearm: release a latched stop, with the measured pose as target."""
        self._listen()
        if not request.confirm:
            response.message = "confirm must be true: look at the arm first"
        elif self._mode != ArmState.MODE_STOPPED:
            response.success, response.message = True, "the arm is not stopped"
        elif not self.is_active:
            response.message = "the arm node is not active; activate it first (the supervisor does)"
        elif self._joints is None or not self._guard.fresh(time.monotonic()):
            response.message = "no fresh joint states; check the driver first"
        else:
            try:
                self._rearm()
                response.success, response.message = True, "armed"
            except StationError as error:
                response.message = str(error)
        return response

    def _rearm(self) -> None:
        """Motors may have been rebooted meanwhile, which forgets the profile: the next motion would be at full speed.

        Raises: StationError when a motor reports a fault or the profile cannot be set. This blocks for some tenths of
        a second, in which a stopped arm has nothing to do.
        """
        if self._check_motors:
            self._driver.check_motors()
        self._driver.apply_profile()
        if not self._hold_measured():
            raise StationError("no fresh joint states; check the driver first")
        self._driver.torque_on()
        self._faults.clear()
        self._lost_touch, self._checking = False, None
        self._last_action_at = -math.inf
        self._set_mode(ArmState.MODE_READY, "")
        self._resend_gripper()
        self.get_logger().info("re-armed")

    # The guard, and what goes out.

    def _tick(self) -> None:
        self._listen()
        if self.is_active:
            self._watch()
            if self._mode != ArmState.MODE_STOPPED:
                self._drive_gripper()
        self._publish_state()

    def _watch(self) -> None:
        """Hold when commands stop or a fault is seen."""
        now = time.monotonic()
        fault = self._guard.check(now)
        self._keep_touch(fault is not None and fault.kind == "silent", now)
        if self._mode not in (ArmState.MODE_READY, ArmState.MODE_MOVING, ArmState.MODE_HOLDING):
            return
        if fault is not None and fault.kind in ("jammed", "limp"):
            self._latch(fault.text)
        elif self._mode == ArmState.MODE_HOLDING:
            if fault is not None and fault.kind == "silent":
                self._detail = fault.text
        elif fault is not None:
            self._fault_kind = fault.kind
            self._hold(fault.text, fault=True)
            # Pushing too hard is what a policy does every day; the others mean that something is broken.
            if fault.kind != "overload":
                self._count_fault(fault.text)
        elif self._mode == ArmState.MODE_READY and self._last_action_at > -math.inf:
            timeout = self.station.safety.command_timeout_s
            if now - self._last_action_at > timeout:
                self._hold(f"no action for {timeout:g} s", fault=False)

    def _keep_touch(self, silent: bool, now: float) -> None:
        """Once a silent driver speaks again, check it beside the executor, which must go on watching; then go on."""
        if silent:
            self._lost_touch, self._silent_at = True, now
        elif self._mode == ArmState.MODE_STOPPED:
            return  # re-arming checks it all
        elif self._checking is not None and not self._checking.is_alive():
            self._checking = None
            if self._silent_at > self._check_began:
                return  # silent once more: once more, then
            if self._check_result:
                self._latch(f"the driver was silent: {self._check_result}")
            else:
                self._lost_touch = False
                self._resend_gripper()
                self._hold("the driver was silent; its settings were checked", fault=False)
        elif self._lost_touch and self._checking is None:
            self._hold_measured()
            self._check_began = now
            self._checking = threading.Thread(target=self._check_driver, name="driver check", daemon=True)
            self._checking.start()

    def _check_driver(self) -> None:
        try:
            if self._check_motors:
                self._driver.check_motors()
            self._driver.check_torque()
            self._driver.apply_profile()
            self._check_result = ""
        except StationError as error:
            self._check_result = str(error)
        except Exception as error:  # also where the node goes down under it
            self._check_result = f"unexpected {type(error).__name__}: {error}"

    def _count_fault(self, why: str) -> None:
        now = time.monotonic()
        if self._faults.add(now):
            self._latch(f"{self._faults.count(now)} faults within {self._faults.window_s:g} s, last: {why}")

    def _latch(self, why: str) -> None:
        self._hold_measured()
        self._rest_gripper()
        self._set_mode(ArmState.MODE_STOPPED, why)
        self.get_logger().error(f"stopped: {why}; call arm/rearm when it is mended")

    def _hold(self, why: str, fault: bool) -> None:
        """Stay here. Where the arm stands at its target already, the target is kept: re-targeting to the measured
        pose at every pause would let gravity's droop walk the arm down."""
        if self._distance >= SETTLED or fault:
            self._hold_measured()
        self._last_action_at = -math.inf
        if self._mode != ArmState.MODE_STOPPED:
            self._set_mode(ArmState.MODE_HOLDING, why)
        if fault:
            self.get_logger().error(f"holding: {why}")

    @property
    def _distance(self) -> float:
        """Radians from the measured arm to its target, of the joint that is farthest away; infinite without either."""
        if self._joints is None or self._joint_target is None:
            return math.inf
        return float(np.max(np.abs(self._joint_target - self._joints)))

    @property
    def _streaming(self) -> bool:
        """Whether the last action is so recent that the next one belongs to the same motion."""
        return time.monotonic() - self._last_action_at < self.station.safety.command_timeout_s

    def _hold_measured(self) -> bool:
        """Command the measured pose; False when it is not known. Then nothing is sent: an old pose would drive the arm
        back to where it was, while without any command it comes to rest at its last target within one profile."""
        self._listen()
        if self._joints is None or not self._guard.fresh(time.monotonic(), HOLD_FRESH_S):
            return False
        if self._controller is not None:
            self._controller.reset_target(self._joints)
        self._send(self._joints)
        self._guard.relaxed(time.monotonic())
        return True

    def _send(self, joints: np.ndarray) -> None:
        """The one place where arm joints are commanded."""
        self._joint_target = np.asarray(joints, dtype=np.float64).copy()
        self._guard.sent(self._joint_target, time.monotonic())
        self._group.publish(JointGroupCommand(name=GROUP, cmd=[float(q) for q in self._joint_target]))

    def _set_gripper(self, opening: float) -> None:
        self._gripper_target = min(1.0, max(0.0, opening))
        self._gripper.set_target(self._gripper_target)
        if self.station.arm.gripper == "linear_position" and self._info is not None:
            finger = finger_from_opening(self._gripper_target, self._info.finger_closed, self._info.finger_open)
            self._single.publish(JointSingleCommand(name="gripper", cmd=2.0 * finger))  # the distance between both
        else:
            self._drive_gripper()

    def _drive_gripper(self) -> None:
        """PWM is written when it changes, and zero is written once."""
        pwm = self._gripper.pwm(self._finger, time.monotonic())
        if self.station.arm.gripper == "pwm" and pwm != self._gripper_pwm:
            self._gripper_pwm = pwm
            self._single.publish(JointSingleCommand(name="gripper", cmd=pwm))

    def _rest_gripper(self) -> None:
        """Nobody will switch the motor off where the motion ends: a grasp stays, anything else stops here."""
        pwm = self._gripper.rest(self._finger, time.monotonic())
        if pwm == 0.0:
            self._gripper_target = None
        if self.station.arm.gripper == "pwm":
            self._gripper_pwm = pwm
            self._single.publish(JointSingleCommand(name="gripper", cmd=pwm))
        elif pwm == 0.0 and math.isfinite(self._finger):
            self._single.publish(JointSingleCommand(name="gripper", cmd=2.0 * self._finger))

    def _resend_gripper(self) -> None:
        """The motor may have been rebooted: what it was told last is forgotten."""
        self._gripper_pwm = math.nan
        if self._gripper_target is not None:
            self._set_gripper(self._gripper_target)

    def _set_mode(self, mode: int, detail: str) -> None:
        self._mode, self._detail = mode, detail

    @property
    def _frame(self) -> str:
        return f"{self.station.arm.driver[1:]}/base_link"

    @property
    def _opening(self) -> float:
        if self._info is None or not math.isfinite(self._finger):
            return 0.0
        return opening_from_finger(self._finger, self._info.finger_closed, self._info.finger_open)

    def _publish_state(self) -> None:
        message = ArmState(mode=self._mode, detail=self._detail, gripper=self._opening)
        message.header.frame_id = self._frame
        message.header.stamp = self._joints_stamp or self.get_clock().now().to_msg()
        if self._controller is not None and self._joints is not None:
            position, quaternion = self._controller.pose(self._joints)
            x, y, z, w = (float(v) for v in quaternion)
            px, py, pz = (float(v) for v in position)
            message.pose = Pose(position=Point(x=px, y=py, z=pz), orientation=Quaternion(x=x, y=y, z=z, w=w))
            message.bridge_pose = self._controller.bridge_pose(self._joints).astype(np.float32)
            message.target_bridge_pose = self._controller.target_bridge_pose.astype(np.float32)
        self._state.publish(message)

    def _report(self) -> DiagnosticReport:
        names = {
            ArmState.MODE_UNCONFIGURED: "not active",
            ArmState.MODE_READY: "ready",
            ArmState.MODE_MOVING: "resetting",
            ArmState.MODE_HOLDING: "holding",
            ArmState.MODE_STOPPED: "stopped",
        }
        level = DiagnosticStatus.OK
        if self._mode == ArmState.MODE_STOPPED or (self.is_active and not self._guard.fresh(time.monotonic())):
            level = DiagnosticStatus.ERROR
        elif self._faults.count(time.monotonic()):
            level = DiagnosticStatus.WARN
        text = names[self._mode] + (f": {self._detail}" if self._detail else "")
        values: dict[str, Any] = {
            "joint_state_rate_hz": self._joint_rate.rate,
            "joint_state_age_s": self._joint_rate.age,
            "failed_reads": self._failed_reads,
            "gripper_opening": self._opening,
            "gripper_pwm": self._gripper_pwm,
            "refused_actions": dict(self._refused) or "none",
        }
        values.update({f"effort_{name}_ma": float(value) for name, value in zip(JOINT_NAMES, self._effort)})
        return level, text, values


def main() -> None:
    sys.exit(run_node(ArmNode, urgent=True))
