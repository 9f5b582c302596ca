"""An arm on the bench of `gymnast arm check`: what the checks send, and what they hear of it.

Everything goes through the station's own topics and services, so that any driver behind the arm node can be checked.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gymnast_msgs.msg import ArmState, BridgeAction, ExecutedAction
from gymnast_msgs.srv import EmergencyStop, Rearm, ResetArm
from interbotix_xs_msgs.srv import Reboot, RegisterValues
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from sensor_msgs.msg import JointState
from std_srvs.srv import Trigger

from gymnast_core.config import StationConfig
from gymnast_core.errors import StationError
from gymnast_nodes.calls import call_service, in_executor
from gymnast_nodes.client import Station
from gymnast_nodes.qos import COMMAND_QOS, DRIVER_QOS, LOGGED_QOS

POLL_S = 0.005
ANSWER_S = 2.0
PASSING = ("is being checked", "silent", "no joint states", "no fresh joint states")
"""Words of a refused reset that a busy machine causes, and that pass."""
RESET_S = 20.0
AT_WORK = (ArmState.MODE_READY, ArmState.MODE_HOLDING)


MOST = 5.0
"""A limit grows to at most this many times itself on a machine whose processes wait for a core."""
TRANSIENT = frozenset({"stale", "driver_unchecked", "joint_states_stale"})
"""What an action is refused for where a busy machine kept a node away for a moment; it passes."""
PASSES_S = 3.0
PRESSURE = Path("/proc/pressure/cpu")


class Broken(StationError):
    """The contract is not kept; the message says what was found and what is needed."""


class Skipped(StationError):
    """This arm cannot be checked so; the message says why."""


class Stopwatch:
    """Seconds since it was made, without those in which processes of this machine waited for a core."""

    def __init__(self) -> None:
        self._began, self._waited = time.monotonic(), _waited_s()

    def seconds(self) -> float:
        passed = time.monotonic() - self._began
        return max(passed / MOST, passed - (_waited_s() - self._waited))


def _waited_s() -> float:
    """Seconds that something waited for a core since the machine started; 0 where the kernel does not say."""
    try:
        return int(PRESSURE.read_text(encoding="ascii").partition("total=")[2].split()[0]) / 1e6
    except (OSError, ValueError, IndexError):
        return 0.0


class ArmBench:
    """One arm, commanded by a client's node. Times are of the steady clock, seconds.

    commands: whether this process sends actions; it then publishes arm/action, which is for one alone.
    """

    def __init__(self, client: Station, station: StationConfig, commands: bool = True) -> None:
        self._client = client
        self._node = client.node
        self.station = station
        self.period = 1.0 / station.arm.control_hz
        self.states: list[tuple[float, ArmState]] = []
        self.executed: list[tuple[float, ExecutedAction]] = []
        self.joints: list[tuple[float, JointState]] = []
        self._services: dict[str, Any] = {}
        self._episode = f"arm-check-{time.time_ns()}"
        self._step = 0
        driver = station.arm.driver_name
        self._actions: Any = None

        def listen() -> None:
            self.hear(ArmState, "arm/state", self.states, COMMAND_QOS)
            self.hear(ExecutedAction, "arm/executed", self.executed, LOGGED_QOS)
            self.hear(JointState, f"{driver}/joint_states", self.joints, DRIVER_QOS)
            if commands:
                self._actions = self._node.create_publisher(BridgeAction, "arm/action", COMMAND_QOS)

        in_executor(self._node, listen)

    def hear(self, kind: Any, topic: str, into: list[tuple[float, Any]], qos: Any) -> None:
        """Collect a topic's messages with the times of their arrival; to be called in the node's executor."""
        self._node.create_subscription(kind, topic, lambda message: into.append((time.monotonic(), message)), qos)

    @property
    def state(self) -> ArmState:
        """The newest arm/state. Raises: Broken where none comes."""
        self.wait(lambda: self.states, ANSWER_S, "arm/state")
        return self.states[-1][1]

    @property
    def pose(self) -> np.ndarray:
        """Measured Bridge pose (6,)."""
        return np.array(self.state.bridge_pose, dtype=np.float64)

    def measured(self) -> np.ndarray:
        """The driver's joint positions, as it publishes them."""
        self.wait(lambda: self.joints, ANSWER_S, "the driver's joint states")
        return np.array(self.joints[-1][1].position, dtype=np.float64)

    def wait(self, condition: Callable[[], Any], seconds: float, what: str) -> Any:
        """What `condition` returns once it is true. Raises: Broken naming `what` after `seconds`."""
        watch = Stopwatch()
        while not (value := condition()):
            if watch.seconds() > seconds:
                raise Broken(f"{what}: not within {seconds:g} s")
            time.sleep(POLL_S)
        return value

    def send(self, values: Sequence[float], age_s: float = 0.0, step: int | None = None) -> ExecutedAction:
        """One action (7,), and what became of it. age_s: of its stamp. step: within this bench's episode; None: next.

        Raises: Broken where the arm node does not say.
        """
        if step is None:
            step = self._step = self._step + 1
        message = BridgeAction(episode_id=self._episode, step=step, commander=self._client.commander)
        message.translation = [float(v) for v in values[:3]]
        message.rotation = [float(v) for v in values[3:6]]
        message.gripper = float(values[6])
        stamp = time.time() - age_s
        message.header.stamp.sec, message.header.stamp.nanosec = int(stamp), int(stamp % 1 * 1e9)
        before = len(self.executed)
        self._actions.publish(message)
        self.wait(lambda: len(self.executed) > before, ANSWER_S, "arm/executed")
        return self.executed[-1][1]

    def run(self, values: Sequence[float], steps: int, until: str = "") -> list[ExecutedAction]:
        """The same action again and again, at the station's rate. until: an event that ends it sooner.

        Raises: Broken where one is refused.
        """
        results: list[ExecutedAction] = []
        while len(results) < steps and not (results and until in results[-1].safety_events):
            due = time.monotonic() + self.period
            results.append(self._send_accepted(values))
            time.sleep(max(0.0, due - time.monotonic()))
        return results

    def _send_accepted(self, values: Sequence[float]) -> ExecutedAction:
        """Again where the machine kept a node away for a moment. Raises: Broken where it is refused."""
        watch = Stopwatch()
        while not (result := self.send(values)).accepted:
            if not TRANSIENT & set(result.safety_events) or watch.seconds() > PASSES_S:
                raise Broken(f"an action was refused: {', '.join(result.safety_events)} ({self.state.detail})")
            time.sleep(self.period)
        return result

    def settle(self) -> None:
        """Stand still under command for three periods: the profile of the last motion ends."""
        self.run([0, 0, 0, 0, 0, 0, self.state.gripper > 0.5], 3)

    def reset(self) -> None:
        """Armed, at its start, open. Raises: Broken where the arm does not get there."""
        if self.state.mode == ArmState.MODE_STOPPED:
            self.rearm()
        end = time.monotonic() + RESET_S
        while True:
            answer = self.call(ResetArm, "arm/reset", ResetArm.Request(commander=self._client.commander), RESET_S)
            if answer.success:
                self._episode = f"arm-check-{time.time_ns()}"
                return
            if time.monotonic() > end or not any(words in answer.message for words in PASSING):
                raise Broken(f"arm/reset: {answer.message}")
            time.sleep(0.2)

    def stop(self) -> float:
        """arm/emergency_stop; the seconds until its answer. Raises: Broken where it is not latched."""
        watch = Stopwatch()
        answer = self.call(EmergencyStop, "arm/emergency_stop", EmergencyStop.Request(reason="gymnast arm check"))
        took = watch.seconds()
        if not answer.latched:
            raise Broken(f"arm/emergency_stop is not latched: {answer.message}")
        self.wait(lambda: self.state.mode == ArmState.MODE_STOPPED, ANSWER_S, "a stopped arm")
        return took

    def rearm(self) -> None:
        """Raises: Broken with the arm node's reason."""
        answer = self.call(Rearm, "arm/rearm", Rearm.Request(confirm=True), RESET_S)
        if not answer.success:
            raise Broken(f"arm/rearm: {answer.message}")
        self.wait(lambda: self.state.mode in AT_WORK, ANSWER_S, "an armed arm")

    def hold(self) -> None:
        """watchdog/hold."""
        answer = self.call(Trigger, "watchdog/hold", Trigger.Request())
        if not answer.success:
            raise Broken(f"watchdog/hold: {answer.message}")

    def registers(self, kind: str, name: str, register: str) -> list[int]:
        """As the vendor's driver tells them. Raises: Skipped for a driver without registers."""
        request = RegisterValues.Request(cmd_type=kind, name=name, reg=register)
        return list(self.driver_call(RegisterValues, "get_motor_registers", request).values)

    def reboot(self, motor: str) -> None:
        """Raises: Skipped for a driver that cannot."""
        request = Reboot.Request(cmd_type="single", name=motor, enable=True)
        self.driver_call(Reboot, "reboot_motors", request, 10.0)

    @contextlib.contextmanager
    def fault(self, name: str) -> Iterator[None]:
        """A simulated driver has this fault meanwhile. Raises: Skipped for a driver whose faults are not simulated."""
        if self.station.simulation is None:
            raise Skipped("only a simulated driver can be made to fail")
        self.set_faults([name])
        try:
            yield
        finally:
            self.set_faults([""])

    def set_faults(self, faults: list[str]) -> None:
        """Of a simulated driver, in the place of those that it has. Raises: Broken where it does not take them."""
        value = ParameterValue(type=ParameterType.PARAMETER_STRING_ARRAY, string_array_value=faults)
        request = SetParameters.Request(parameters=[Parameter(name="faults", value=value)])
        result = self.driver_call(SetParameters, "xs_sdk/set_parameters", request).results[0]
        if not result.successful:
            raise Broken(f"the simulated driver does not fail: {result.reason}")

    def driver_call(self, kind: Any, name: str, request: Any, seconds: float = ANSWER_S) -> Any:
        """A service of the driver. Raises: Skipped where it has none of this name."""
        full = f"{self.station.arm.driver_name}/{name}"
        try:
            return self.call(kind, full, request, seconds)
        except _Absent as error:
            raise Skipped(f"the driver offers no service {full}") from error

    def call(self, kind: Any, name: str, request: Any, seconds: float = 5.0) -> Any:
        """The answer of a service. Raises: Broken where there is none."""
        if name not in self._services:
            self._services[name] = in_executor(self._node, lambda: self._node.create_client(kind, name))
            self._services[name].wait_for_service(ANSWER_S)
        if not self._services[name].service_is_ready():
            raise _Absent(f"service {name} is not there")
        try:
            return call_service(self._services[name], request, seconds)
        except StationError as error:
            raise Broken(str(error)) from error

    def leave(self) -> None:
        """Command the arm no more."""
        if self._actions is not None:
            in_executor(self._node, lambda: self._node.destroy_publisher(self._actions))
            self._actions = None


class _Absent(Broken):
    """A service that nobody offers."""
