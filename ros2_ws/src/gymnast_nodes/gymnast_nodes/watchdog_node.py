"""The watchdog: a small process of its own that holds the arm when the nodes above it stop.

It speaks to the driver directly, so it works with the arm node dead, hung or cut off. Three things make it act:
the arm node's state stops coming while it was commanding the arm; the arm goes on moving although commands stopped;
joint states stop coming while the arm is commanded. It then sends the measured joints as the target (where they are
known, from one source: otherwise the arm comes to rest at its last target by itself), says so on watchdog/fault, in its
log and on /diagnostics, and after repeated faults latches the emergency stop.

It serves arm/emergency_stop beside the arm node, latched on the disk: it works with the arm node dead, and outlives it.
"""

from __future__ import annotations

import sys
import time

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from gymnast_msgs.msg import ArmState, ExecutedAction
from gymnast_msgs.srv import EmergencyStop
from interbotix_xs_msgs.msg import JointGroupCommand
from std_msgs.msg import String
from std_srvs.srv import Trigger

from gymnast_core.robot.arm_model import arm_model
from gymnast_core.robot.stop_latch import StopLatch, stop_file
from gymnast_nodes.clocks import WALL, SteadyNode
from gymnast_nodes.driver_link import joint_state_reader
from gymnast_nodes.lifecycle import DiagnosticReport, Diagnostics
from gymnast_nodes.measurements import Measurements
from gymnast_nodes.parameters import fault_window, parameter, station_parameter
from gymnast_nodes.qos import COMMAND_QOS, DRIVER_QOS, LATCHED_QOS
from gymnast_nodes.reading import LatestReader
from gymnast_nodes.running import run_node
from gymnast_nodes.speakers import Speakers, StationSeats
from gymnast_nodes.stop_service import StopService

MOVING_SPEED = 0.05
"""Radians a second of the fastest joint above which the arm moves."""
HOLD_REPEATS = 3
"""The hold is sent this often, a period apart: one lost command must not matter."""
RECENT_S = 1.0
"""A command this recent means that somebody is driving the arm."""
RESTING = (ArmState.MODE_UNCONFIGURED, ArmState.MODE_STOPPED)
"""Modes in which nobody commands the arm."""
ASK_AGAIN_S = 0.5
"""The emergency stop is asked for this often until the arm says that it is stopped: one request may get lost."""


class WatchdogNode(SteadyNode):
    """Holds the arm, independently of every other node."""

    def __init__(self) -> None:
        super().__init__("watchdog")
        _, station = station_parameter(self)
        rate = parameter(self, "rate_hz", 60.0, "checks a second", 50.0, 200.0)
        self._heartbeat_timeout = parameter(
            self, "heartbeat_timeout_s", 0.2, "silence of arm/state after which the arm is held, seconds", 0.05, 0.5
        )
        self._joint_timeout = parameter(
            self, "joint_state_timeout_s", 0.75, "silence of the driver's joint states counted as a fault", 0.05, 5.0
        )
        self._faults = fault_window(self, "the emergency stop")
        self._command_timeout = station.safety.command_timeout_s
        driver = station.arm.driver_name

        self._speakers = Speakers(self, [StationSeats(self, station).joint_states])
        self._measured = Measurements(
            joint_state_reader(self, driver), self._speakers.look, arm_model(station.arm.model)
        )
        self._away = 0.0
        """Seconds of the last joint state's age in which this process did not look."""
        self._mode = ArmState.MODE_UNCONFIGURED
        self._state_at = 0.0
        self._commanded_at = 0.0
        self._holding: np.ndarray | None = None
        self._held_at = 0.0
        self._hold_left = 0
        self._active_faults: set[str] = set()
        self._last_fault = ""
        self._stopped_for = ""
        self._stop_wanted = ""
        self._asked_at = 0.0

        self._command = self.create_publisher(JointGroupCommand, f"{driver}/commands/joint_group", DRIVER_QOS)
        self._fault = self.create_publisher(String, "watchdog/fault", LATCHED_QOS)
        self._states = LatestReader(self, ArmState, "arm/state", COMMAND_QOS)
        self._executed = LatestReader(self, ExecutedAction, "arm/executed", COMMAND_QOS)
        self.create_service(Trigger, "watchdog/hold", self._on_hold)
        self._stop = StopService(self, StopLatch(stop_file(station)), self._hold_anew, lambda _: None)
        self._stop_client = self.create_client(EmergencyStop, "arm/emergency_stop")
        self._diagnostics = Diagnostics(self, "wx250s")
        self._diagnostics.add("watchdog", self._report)
        self.create_timer(1.0 / rate, self._check)
        self.get_logger().info(f"watching {driver} {rate:g} times a second")

    def _listen(self) -> None:
        """Take what came since the last check."""
        news, away = self._measured.listen()
        now = time.monotonic()
        if away:
            self._wake(away)
        if news:
            self._away = 0.0
        state, _ = self._states.take()
        if state is not None:
            if self._mode in RESTING and state.mode not in RESTING:
                self._measured.forget()  # armed anew: the arm node, or a person, looked at the arm
                self._away = max(self._away, self._measured.age)
            self._mode = state.mode
            self._state_at = now
            self._take_stop(state)
            if state.mode == ArmState.MODE_MOVING:
                self._commanded_at = now
        executed, _ = self._executed.take()
        if executed is not None and executed.accepted:
            self._commanded_at = now

    def _take_stop(self, state: ArmState) -> None:
        """Remember why the arm is stopped; want it stopped again when a new arm node has begun from nothing."""
        if state.mode == ArmState.MODE_STOPPED:
            self._stopped_for, self._stop_wanted = state.detail, ""
        elif self._stopped_for and not self._stop_wanted:
            if state.mode == ArmState.MODE_UNCONFIGURED:  # a stopped arm node says so whatever its lifecycle state
                self._stop_wanted = self._stopped_for
                self.get_logger().error(f"the arm node was started anew while the arm was stopped: {self._stop_wanted}")
            else:  # re-armed: a person has looked, and the arm node counts from nothing, too
                self._faults.clear()
            self._stopped_for = ""

    def _wake(self, away: float) -> None:
        """This process did not run for `away` seconds. What it was about to send is of before, and what it did not hear
        meanwhile was no silence: it looks first, and acts on what it sees then."""
        self.get_logger().warning(f"the watchdog was away for {away:.1f} s; it looks before it acts")
        self._hold_left = 0
        now = time.monotonic()  # a machine that slept is away longer than this clock counts
        self._away = min(self._away + away, self._measured.age)
        if self._state_at:
            self._state_at = min(now, self._state_at + away)
        if self._commanded_at:
            self._commanded_at = min(now, self._commanded_at + away)

    def _on_hold(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """watchdog/hold: hold the arm now (the supervisor calls it when the executor or the arm node goes down)."""
        response.success = self._hold_anew()
        response.message = "held" if response.success else "no fresh joint states; nothing to hold at"
        return response

    def _hold_anew(self) -> bool:
        """Hold where it is now, unless it is held already: again would follow gravity's droop."""
        self._listen()
        held = self._holding is not None and self._held_at > self._commanded_at
        return (held and self._measured.speed < MOVING_SPEED) or self._hold()

    def _check(self) -> None:
        WALL.look()
        self._listen()
        self._stop.look()
        if self._hold_left > 0:
            self._send_hold()
        now = time.monotonic()
        if self._stop.reason and not self._stop.problem:
            self._stop_wanted = ""  # on the disk, where the arm node finds it
        if self._stop_wanted and now - self._asked_at > ASK_AGAIN_S and self._stop_client.service_is_ready():
            self._asked_at = now
            self._stop_client.call_async(EmergencyStop.Request(reason=self._stop_wanted))
        if self._measured.joints is None or self._state_at == 0.0:
            return  # nothing has moved yet
        state_age = now - self._state_at
        command_age = now - self._commanded_at
        joint_age = self._measured.age - self._away
        speed = self._measured.speed
        driven = self._state_at - self._commanded_at < RECENT_S  # when the arm node last spoke
        # An arm node that says it is not active leaves the arm to others (it says so when it ends, too).
        in_charge = self._mode in (ArmState.MODE_READY, ArmState.MODE_MOVING, ArmState.MODE_HOLDING)
        commanded = command_age < RECENT_S + self._command_timeout
        self._set_fault(
            "arm node silent",
            in_charge and state_age > self._heartbeat_timeout and (driven or speed > MOVING_SPEED),
            state_age < self._heartbeat_timeout,
        )
        self._set_fault(
            "commands stopped, arm moves",
            self._mode == ArmState.MODE_READY
            and commanded
            and command_age > self._command_timeout + 0.1
            and speed > 4 * MOVING_SPEED,
            speed < MOVING_SPEED,
        )
        self._set_fault(
            "joint states stopped", joint_age > self._joint_timeout and commanded, joint_age < self._joint_timeout
        )

    def _set_fault(self, name: str, raised: bool, cleared: bool) -> None:
        """Act once when a fault comes up; it may come again only after it cleared."""
        if raised and name not in self._active_faults:
            self._active_faults.add(name)
            self._last_fault = name
            held = self._hold()
            unknown = f"no joint states to hold at, nothing is sent; {self._measured.failed}".rstrip("; ")
            text = f"{name}: {'held the arm at its measured joints' if held else unknown}"
            self.get_logger().error(text)
            self._fault.publish(String(data=text))
            now = time.monotonic()
            if self._faults.add(now):
                self._stop_wanted = f"watchdog: {name}, {self._faults.count(now)} faults"
                self.get_logger().error(f"stopping the arm: {self._stop_wanted} within {self._faults.window_s:g} s")
        elif cleared and name in self._active_faults:
            self._active_faults.discard(name)
            self.get_logger().info(f"cleared: {name}")

    def _hold(self) -> bool:
        """Command the joints last believed, a few times over; False when they are not known."""
        joints = self._measured.hold()
        if joints is None:
            return False
        self._holding = joints
        self._held_at = time.monotonic()
        self._hold_left = HOLD_REPEATS
        self._send_hold()
        return True

    def _send_hold(self) -> None:
        assert self._holding is not None
        self._command.publish(JointGroupCommand(name="arm", cmd=[float(q) for q in self._holding]))
        self._hold_left -= 1

    def _report(self) -> DiagnosticReport:
        wrong = [*sorted(self._active_faults), *self._speakers.problems.values()]
        return (
            DiagnosticStatus.ERROR if wrong else DiagnosticStatus.OK,
            "; ".join(wrong) or "watching",
            {
                **self._measured.report(),
                "fastest_joint_rad_s": self._measured.speed,
                "emergency_stop": self._stop.reason or "none",
                "faults_in_window": self._faults.count(time.monotonic()),
                "last_fault": self._last_fault or "none",
            },
        )

    def stop(self) -> None:
        """Leaving while the arm moves would leave it unwatched: hold first."""
        self._listen()
        if self._measured.speed > MOVING_SPEED:
            self._hold()


def main() -> None:
    sys.exit(run_node(WatchdogNode, urgent=True))
