"""What ends a motion of the arm: silence, faults, motors, others on its topics; and how it ends: held, or stopped."""

from __future__ import annotations

import time

from gymnast_msgs.msg import ArmState

from gymnast_core.robot.guard import FRESH_S, Fault, FaultWindow
from gymnast_nodes.action_check import ActionCheck
from gymnast_nodes.arm_gripper import Gripper
from gymnast_nodes.arm_mode import Mode
from gymnast_nodes.commanded_arm import SETTLED, CommandedArm
from gymnast_nodes.driver_link import DriverLink
from gymnast_nodes.driver_touch import DriverTouch
from gymnast_nodes.lifecycle import ManagedNode
from gymnast_nodes.motor_watch import MotorWatch
from gymnast_nodes.parameters import fault_window
from gymnast_nodes.speakers import Speakers
from gymnast_nodes.stop_service import StopService

HOUR_S = 3600.0


class ArmWatch:
    """`look` is called at every tick of an active arm node.

    check_motors: whether the motors' error registers are read.
    """

    def __init__(
        self,
        node: ManagedNode,
        mode: Mode,
        arm: CommandedArm,
        gripper: Gripper,
        actions: ActionCheck,
        stop: StopService,
        speakers: Speakers,
        touch: DriverTouch,
        link: DriverLink,
        check_motors: bool,
    ) -> None:
        self._node = node
        self._mode = mode
        self._arm = arm
        self._gripper = gripper
        self._actions = actions
        self._stop = stop
        self._check_motors = check_motors
        self.speakers = speakers
        self.touch = touch
        self.faults = fault_window(node, "the stop")
        self.motors = MotorWatch(link, node.station.arm.profile_velocity_ms, arm.model)
        self._reboots = FaultWindow(node.station.arm.motor_reboots_per_hour, HOUR_S)
        self.fault_kind = ""
        """Of the last fault that the arm was held for."""
        self.holds, self.last_hold = 0, ""
        """Faults that held or stopped the arm, and the kind of the last of them."""
        self.interrupted = False
        """Whether others spoke on the arm's topics, and its target was not set anew since."""

    def renew(self) -> None:
        """The driver was checked, and the arm found, by an activation."""
        self.touch.renew()
        self.interrupted = False

    def rearmed(self) -> None:
        """The driver was checked, and the arm found, by a person; what failed before does not count."""
        self.touch.renew()
        self.faults.clear()
        self.motors.reset()

    def look(self) -> None:
        """Hold when commands stop or a fault is seen. A resting arm is let go: waking it checks everything."""
        if self._mode.resting:
            return
        now = time.monotonic()
        if not self._mode.stopped and self._arm.measured.contradiction:
            self.latch(f"{self._arm.measured.contradiction}; support the arm and look")
        fault = self._arm.guard.check(now)
        silent = fault is not None and fault.kind == "silent"
        slept = self._arm.measured.slept() > FRESH_S  # the arm may have been without power meanwhile
        rebooted = self._rebooted()
        self._keep_touch(bool(self._arm.measured.disputed) or silent or slept or rebooted, now)
        if self._give_way() or not self._mode.in_charge:
            return
        if failing := self._failing_motor(silent):
            self._note_hold("motor")
            self._answer_motor(failing, now)
        elif fault is not None:
            self._answer(fault)
        elif self._mode.value != ArmState.MODE_READY:
            return
        elif not self._actions.holder and self._arm.guard.overloaded().any():
            self._arm.hold_measured()  # its commander is done: nothing to push for, and no fault of anybody's
            self.hold("it pushed when its commander gave it back", fault=False)
        elif self._actions.ended:
            self.hold(f"no action for {self._node.station.safety.command_timeout_s:g} s", fault=False)

    def hold(self, why: str, fault: bool) -> None:
        """Stay here. Where the arm stands at its target already, the target is kept: re-targeting to the measured
        pose at every pause would let gravity's droop walk the arm down."""
        if self._arm.distance >= SETTLED or fault:
            self._arm.hold_measured()
        self._actions.pause()
        self._mode.set_unless_stopped(ArmState.MODE_HOLDING, why)
        if fault:
            self._node.get_logger().error(f"holding: {why}")

    def latch(self, why: str) -> None:
        """Stop, until a person re-arms."""
        self._arm.hold_measured()
        self._gripper.rest()
        self._mode.set(ArmState.MODE_STOPPED, why)
        self._node.get_logger().error(f"stopped: {why}; call arm/rearm when it is mended")
        self._stop.write(why)

    def _answer(self, fault: Fault) -> None:
        """Hold or stop."""
        if fault.kind in ("jammed", "limp", "deaf"):
            self._note_hold(fault.kind)
            self.latch(fault.text)
        elif self._mode.value == ArmState.MODE_HOLDING:
            if fault.kind == "silent":
                self._mode.detail = fault.text
        else:
            self.fault_kind = fault.kind
            self._note_hold(fault.kind)
            self.hold(fault.text, fault=True)
            # Pushing too hard is what a policy does every day; the others mean that something is broken.
            if fault.kind != "overload":
                self._count(fault.text)

    def _answer_motor(self, failing: str, now: float) -> None:
        """The ladder: hold, reboot the one motor, restore its profile, go on from where the arm is; or a person."""
        motor, allowed = self.motors.failing, self._reboots.limit
        if self.motors.alert and motor in self._arm.model.may_reboot and allowed and not self.touch.lost:
            if self._reboots.count(now) < allowed:
                self._reboots.add(now)
                told = f"motor fault: {failing}; it is rebooted ({self._reboots.count(now)} of {allowed} in an hour)"
                self.hold(told, fault=True)
                self._gripper.rest()
                self.touch.reboot(motor)
                return
            failing = f"{failing}, after {allowed} reboots within an hour"
        self.latch(f"motor fault: {failing}; support the arm, reboot the motor")

    def _note_hold(self, kind: str) -> None:
        self.holds, self.last_hold = self.holds + 1, kind

    def _count(self, why: str) -> None:
        now = time.monotonic()
        if self.faults.add(now):
            self.latch(f"{self.faults.count(now)} faults within {self.faults.window_s:g} s, last: {why}")

    def _failing_motor(self, silent: bool) -> str:
        """The motor whose error register says so; empty where there is none, or where the driver cannot be asked."""
        if not self._check_motors or self.touch.lost or silent:
            self.motors.reset()
            return ""
        return self.motors.look()

    def _rebooted(self) -> bool:
        """Whether joints lost their profile, or the driver says nothing of them: it is checked before they move."""
        why = self.motors.unanswered or (self.motors.forgot and f"{self.motors.forgot} lost the motion profile")
        if not why or not self._mode.in_charge:
            return False
        if not self.touch.lost:
            self._note_hold("motor")
            self.hold(why, fault=True)
        return True

    def _give_way(self) -> bool:
        """Whether somebody else speaks on the arm's topics, or did and our target is not set anew yet.

        The joints are sent nothing meanwhile, no hold either: the arm rests at its last target within one profile, and
        with two sources of joint states nobody knows where it is.
        """
        problem = self.speakers.problem
        if problem and not self.interrupted:
            self.interrupted = True
            self._gripper.rest()
            self._node.get_logger().error(f"the arm does not move while others speak: {problem}")
        if self.interrupted:
            self._actions.pause()
            if not problem and (self._mode.stopped or self._arm.hold_measured()):
                self.interrupted = False
                problem = "others spoke on the arm's topics, and stopped"
                self._node.get_logger().info(problem)
            self._mode.set_unless_stopped(ArmState.MODE_HOLDING, problem or "waiting for joint states")
        return self.interrupted

    def _keep_touch(self, silent: bool, now: float) -> None:
        """Once a silent driver speaks again, have it checked; then go on."""
        if silent:
            self.touch.silent(now)
            return
        if self._mode.stopped:
            return  # re-arming checks it all
        found = self.touch.checked()
        if found:
            self.latch(f"the driver was silent: {found}")
        elif found is not None:
            self._gripper.resend()
            self.hold("the driver was silent; its settings were checked", fault=False)
        elif self.touch.unchecked:
            self._arm.hold_measured()
            self.touch.begin_check(now)
