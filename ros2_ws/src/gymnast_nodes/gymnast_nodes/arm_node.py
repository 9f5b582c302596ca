"""The arm: Bridge actions in, joint commands to the vendor's driver out, through the safety envelope.

The driver's time profile (250 ms a motion) is set once; everything, resets included, is streamed as joint group
commands, so whatever happens to this process the arm stops within one profile. An action is refused, and said to be
on arm/executed, when it is not finite, stale, out of order, or comes while the arm resets or is stopped.

While somebody else speaks on its topics (see gymnast_nodes.speakers), the arm node sends nothing.

A driver that was silent may have been restarted, or its motors rebooted: they then know no profile (0 is full speed)
and may have no torque. So its settings are checked and set anew before the arm moves again.
"""

from __future__ import annotations

import sys
import time

import numpy as np
from gymnast_msgs.msg import ArmState, BridgeAction, ExecutedAction
from gymnast_msgs.srv import Rearm, ResetArm
from std_msgs.msg import String
from std_srvs.srv import Trigger

from gymnast_core.errors import DataError, StationError
from gymnast_core.robot.lease import UNNAMED
from gymnast_core.robot.stop_latch import StopLatch, stop_file
from gymnast_nodes.action_check import ActionCheck
from gymnast_nodes.arm_actions import OTHER_SPEAKERS
from gymnast_nodes.arm_gripper import Gripper
from gymnast_nodes.arm_mode import Mode
from gymnast_nodes.arm_reset import ResetMotion
from gymnast_nodes.arm_rest import RestMotion
from gymnast_nodes.arm_state import ArmStates
from gymnast_nodes.arm_watch import ArmWatch
from gymnast_nodes.clocks import STEADY, WALL
from gymnast_nodes.commanded_arm import CommandedArm
from gymnast_nodes.driver import Driver
from gymnast_nodes.driver_link import open_link
from gymnast_nodes.driver_touch import DriverTouch
from gymnast_nodes.lifecycle import ManagedNode
from gymnast_nodes.messages import to_seconds
from gymnast_nodes.parameters import parameter
from gymnast_nodes.qos import COMMAND_QOS, LOGGED_QOS
from gymnast_nodes.running import run_node
from gymnast_nodes.speakers import Speakers, StationSeats
from gymnast_nodes.stop_service import StopService

FIRST_JOINTS_S = 3.0
"""How long activation waits for joint states to be believed."""
FIND_S = 0.5
"""How long re-arming waits for them."""
DISPLACED = 0.15
"""Radians from its target beyond which an arm that was at rest has been pushed, dropped or moved by hand."""
NOT_THE_COMMANDER = "not_the_commander"


class ArmNode(ManagedNode):
    """Executes Bridge actions on the arm and guards it."""

    def __init__(self) -> None:
        super().__init__("arm")
        config = self.station.arm
        rate = parameter(self, "state_rate_hz", 25.0, "publishing rate of arm/state, hertz", 20.0, 100.0)
        self._check_motors = parameter(self, "check_motors", True, "read all motors' error registers on activation")
        link = open_link(self, config)
        self._driver = Driver(self, config, link)
        self._touch = DriverTouch(self._driver, self._check_motors)
        seats = StationSeats(self, self.station)
        self._speakers = Speakers(self, seats.arm())
        source = seats.joint_states.name
        self._mode = Mode()
        self._arm = CommandedArm(self, self._mode, link, lambda: self._speakers.look_at(source))
        self._gripper = Gripper(link, config, self._arm.measured)
        self._actions = ActionCheck(self, self.station.safety.command_timeout_s)
        self._executed = self.create_publisher(ExecutedAction, "arm/executed", LOGGED_QOS)
        self.create_subscription(BridgeAction, "arm/action", self._on_action, COMMAND_QOS)
        self.create_subscription(String, "watchdog/fault", self._on_watchdog, COMMAND_QOS)
        self._stop = StopService(self, StopLatch(stop_file(self.station)), self._arm.hold_measured, self._on_stop)
        if self._stop.reason:
            self._mode.set(ArmState.MODE_STOPPED, self._stop.reason)
        parts = (self, self._mode, self._arm, self._gripper, self._actions)
        self._watch = ArmWatch(*parts, self._stop, self._speakers, self._touch, link, self._check_motors)
        self._reset = ResetMotion(*parts, self._watch)
        self._states = ArmStates(*parts, self._watch)
        self._rest = RestMotion(self._mode, self._arm, self._gripper, self._driver, self._reset, self._states.publish)
        self.create_service(ResetArm, "arm/reset", self._on_reset)
        self.create_service(Trigger, "arm/rest", self._on_rest)
        self.create_service(Rearm, "arm/rearm", self._on_rearm)
        self.create_timer(1.0 / rate, self._tick)

    # Transitions.

    def configure(self) -> None:
        """Raises: StationError when the driver is absent, drives another arm, or does not take our profile."""
        self._driver.wait()
        self._speakers.wait_alone()
        limits = self._touch.limits = self._driver.check_arm()
        self._driver.check_links()
        self._driver.check_models()
        self._driver.apply_profile()
        self._arm.configure(limits)
        self._gripper.configure(limits)
        self._mode.set_unless_stopped(ArmState.MODE_UNCONFIGURED, "not active")

    def activate(self) -> None:
        """Torque on with the measured pose as target.

        Raises: StationError when joint states or motors are not well, or somebody else speaks on the arm's topics.
        """
        self._speakers.wait_alone()
        if self._check_motors:
            self._driver.check_motors()
        stopped = self._mode.stopped
        self._arm.find(FIRST_JOINTS_S, hold=not stopped)
        if not stopped:  # a stopped arm gets neither command nor torque before it is re-armed
            self._driver.torque_on()
        self._watch.renew()
        self._mode.set_unless_stopped(ArmState.MODE_READY, "")

    def deactivate(self) -> None:
        self._watch.hold("deactivated", fault=False)
        self._gripper.rest()
        self._mode.set_unless_stopped(ArmState.MODE_UNCONFIGURED, "not active")

    def stop(self) -> None:
        """The process ends: leave the arm holding where it is, with the gripper's motor at rest or at its grasp."""
        if self._mode.at_work:
            self._watch.hold("the arm node ends", fault=False)
        if self.is_active:
            self._gripper.rest()
        self._mode.set_unless_stopped(ArmState.MODE_UNCONFIGURED, "the arm node ends")
        self._states.publish()  # the watchdog need not take the silence that follows for a fault
        self._driver.close()

    def _tick(self) -> None:
        self._arm.listen()
        self._stop.look()
        if self.is_active:
            self._watch.look()
            if not self._mode.stopped and not self._mode.resting:
                self._gripper.drive()
        self._states.publish()

    # Actions.

    def _on_action(self, message: BridgeAction) -> None:
        self._arm.listen()
        age = WALL.age(to_seconds(message.header.stamp))
        refusal = self._refusal(message, age)
        result = ExecutedAction(commanded=message, gripper=self._gripper.target)  # refused: the gripper as it was
        if refusal:
            self._actions.refused[refusal] += 1
            result.safety_events = [refusal]
            whose = f" of {message.commander or UNNAMED}" if refusal == NOT_THE_COMMANDER else ""
            self.get_logger().warning(
                f"action{whose} refused: {refusal}", throttle_duration_sec=1.0, throttle_time_source_type=STEADY
            )
        else:
            self._execute(message, age, result)
        if self._arm.target is not None:
            result.joint_target = self._arm.target.astype(np.float32)
        result.header.stamp = self.get_clock().now().to_msg()
        result.header.frame_id = self._states.frame
        self._executed.publish(result)

    def _execute(self, message: BridgeAction, age: float, result: ExecutedAction) -> None:
        """Send what the safety envelope leaves of the action, or hold; `result` says which."""
        controller, joints = self._arm.controller, self._arm.joints
        assert controller is not None and joints is not None
        if not self._actions.streaming and self._arm.distance > DISPLACED:
            controller.reset_target(joints)  # deltas count from where the arm is now
        action = np.array([*message.translation, *message.rotation, message.gripper], dtype=np.float32)
        command = controller.step(action, joints, age, time.monotonic())
        result.safety_events = list(command.events)
        result.accepted = bool(command.accepted)
        if not command.accepted:
            self._actions.refused.update(command.events)
            self._watch.hold("; ".join(command.events) or "action refused", fault=False)
            return
        self._actions.accepted(message)
        self._reset.passed(joints)
        self._mode.set(ArmState.MODE_READY, "")
        self._arm.step(command.joint_target)
        self._gripper.go(float(command.executed_action[6]))
        result.translation = command.executed_action[:3].astype(np.float32)
        result.rotation = command.executed_action[3:6].astype(np.float32)
        result.gripper = float(command.executed_action[6])

    def _refusal(self, message: BridgeAction, age: float) -> str:
        """Why an action is not even handed to the controller; empty when it is."""
        if not self.is_active or self._arm.controller is None:
            return "not_active"
        if self._mode.stopped:
            return "emergency_stop"
        if self._mode.resting:
            return "resting"
        if self._actions.other(message.commander):
            return NOT_THE_COMMANDER
        if self._speakers.problem or self._watch.interrupted:
            return OTHER_SPEAKERS
        if self._mode.moving:
            return "resetting"
        if not self._arm.measured.fresh:
            return "joint_states_stale"
        if self._touch.lost:
            return "driver_unchecked"
        if self._arm.guard.letting_go:
            return "overload"
        return self._actions.refusal(message, age)

    def _on_watchdog(self, message: String) -> None:
        """The watchdog has commanded the measured pose behind our back: our target must not jump back later."""
        if not self.is_active or self._mode.resting:
            return
        if self._mode.at_work:
            self._watch.hold(f"watchdog: {message.data}", fault=False)
        self._arm.hold_measured()

    # Services.

    async def _on_reset(self, request: ResetArm.Request, response: ResetArm.Response) -> ResetArm.Response:
        """arm/reset: open the gripper, lift, go to the start pose and settle there; a resting arm is woken first."""
        try:
            if self._mode.resting:
                self._wake()
            await self._reset.run(np.asarray(request.offset, dtype=np.float64), request.commander)
            response.success, response.message = True, "at the start pose"
        except StationError as error:
            response.success, response.message = False, str(error)
            self.get_logger().error(f"reset: {error}")
        return response

    async def _on_rest(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """arm/rest: lie down in the sleep pose, then let go of the motors."""
        try:
            if not self._mode.resting:
                await self._rest.run()
            response.success, response.message = True, self._mode.detail
        except StationError as error:
            response.success, response.message = False, str(error)
            self.get_logger().error(f"rest: {error}")
        return response

    def _on_stop(self, reason: str) -> None:
        """arm/emergency_stop, after the arm was held: refuse every action until arm/rearm."""
        if self.is_active:
            self._gripper.rest()
        self._mode.set(ArmState.MODE_STOPPED, reason)

    def _on_rearm(self, request: Rearm.Request, response: Rearm.Response) -> Rearm.Response:
        """arm/rearm: release a latched stop, with the measured pose as target."""
        self._arm.listen()
        if not request.confirm:
            response.message = "confirm must be true: look at the arm first"
        elif not self._mode.stopped:
            response.success, response.message = True, "the arm is not stopped"
        elif not self.is_active:
            response.message = "the arm node is not active; activate it first (the supervisor does)"
        elif problem := self._speakers.problem:
            response.message = problem
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
        seen = self._stop.latch.mark()
        self._power_up()
        try:
            self._stop.release(seen)
        except DataError as error:
            raise StationError(str(error)) from error
        self._watch.rearmed()
        self._actions.pause()
        self._mode.set(ArmState.MODE_READY, "")
        self._gripper.resend()
        self.get_logger().info("re-armed")

    def _power_up(self) -> None:
        """Torque on, with the driver checked anew and the measured pose as target. Raises: StationError."""
        self._touch.check_same_arm()
        if self._check_motors:
            self._driver.check_motors()
        self._driver.apply_profile()
        self._arm.find(FIND_S)
        self._driver.torque_on()

    def _wake(self) -> None:
        """Nobody commanded the resting arm: where it lies now is believed before it moves.

        Raises: StationError; the arm rests on.
        """
        if problem := self._speakers.problem:
            raise StationError(problem)
        self._power_up()
        self._driver.check_torque()
        self._watch.renew()
        self._actions.pause()
        self._mode.set(ArmState.MODE_READY, "")
        self._gripper.resend()


def main() -> None:
    sys.exit(run_node(ArmNode, urgent=True))
