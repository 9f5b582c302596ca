"""The wire between the arm node and the vendor's driver: what it must offer, and the vendor's topics and services.

A second wire goes through the vendor's Python API (`gymnast_nodes.modules_link`). What is asked over a wire, and what
the answers must be, is the same for both (`gymnast_nodes.driver`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from interbotix_xs_msgs.msg import JointGroupCommand, JointSingleCommand
from interbotix_xs_msgs.srv import OperatingModes, RegisterValues, RobotInfo, TorqueEnable
from rclpy.node import Node
from sensor_msgs.msg import JointState

from gymnast_core.config import ArmConfig
from gymnast_core.errors import StationError
from gymnast_nodes.calls import ServiceCaller
from gymnast_nodes.qos import DRIVER_QOS
from gymnast_nodes.reading import LatestReader

GROUP = "arm"
CALL_TIMEOUT_S = 5.0
READS = 3
"""How often a question that changes nothing is asked within that time."""


class PendingRead(Protocol):
    """A read of registers on its way."""

    def values(self) -> list[int] | None:
        """The answer; None while there is none, or where there will be none."""
        ...

    def give_up(self) -> None:
        """Nobody waits for the answer any more."""
        ...


class DriverLink(Protocol):
    """One driver's wire. Everything raises StationError where the driver does not answer; nothing waits without end.

    `command_arm`, `command_gripper`, `joint_states` and `start_read` neither block nor raise.
    """

    @property
    def names(self) -> tuple[str, ...]:
        """Full names of the nodes that publish commands for it, besides the arm node."""
        ...

    def wait(self, timeout_s: float) -> None:
        """Wait for the driver, at most `timeout_s`."""
        ...

    def info(self, kind: str, name: str) -> RobotInfo.Response: ...

    def read(self, kind: str, name: str, register: str) -> list[int]:
        """Register values in order, cut short at the first motor that does not answer."""
        ...

    def write(self, kind: str, name: str, register: str, value: int) -> None: ...

    def set_mode(self, kind: str, name: str, mode: str, profile: str, velocity: int, acceleration: int) -> None: ...

    def torque(self, kind: str, name: str, enable: bool) -> None: ...

    def start_read(self, kind: str, name: str, register: str) -> PendingRead | None:
        """Ask for registers without waiting; None where the driver cannot be asked now."""
        ...

    def command_arm(self, joints: Sequence[float]) -> None:
        """Six joints, radians."""
        ...

    def command_gripper(self, value: float) -> None:
        """PWM, or the distance between the fingers in metres, as the gripper's mode is."""
        ...

    def joint_states(self) -> list[JointState]:
        """What came since the last call, oldest first."""
        ...

    def close(self) -> None: ...


def absent_driver(arm: ArmConfig, service: str = "") -> str:
    """What to say, and do, where the driver does not offer `service` (its full name; the first it would offer)."""
    absent = f"arm driver not found: no service {service or f'{arm.driver_name}/get_robot_info'}"
    if arm.is_direct:
        return f"{absent}; its node {arm.driver_node} belongs to the graph: its own lines say why it is not there"
    return f"{absent}; start xs_sdk with robot_name {arm.driver_name[1:]}, or correct arm.namespace in the station file"


def joint_state_reader(node: Node, driver: str) -> Callable[[], list[JointState]]:
    """Fetches the driver's joint states when they are wanted. driver: its namespace, absolute."""
    return LatestReader(node, JointState, f"{driver}/joint_states", DRIVER_QOS).take_all


class TopicsLink:
    """The vendor's topics and services, spoken by the arm node itself.

    commands: whether it may command the arm; otherwise it asks only, and is no speaker on the arm's topics.
    """

    names: tuple[str, ...] = ()

    def __init__(self, node: Node, config: ArmConfig, commands: bool = True) -> None:
        self._config = config
        self._driver = config.driver_name
        self._calls = ServiceCaller(node)
        if not commands:
            return
        self._arm = node.create_publisher(JointGroupCommand, f"{self._driver}/commands/joint_group", DRIVER_QOS)
        self._gripper = node.create_publisher(JointSingleCommand, f"{self._driver}/commands/joint_single", DRIVER_QOS)
        self._reads = node.create_client(RegisterValues, f"{self._driver}/get_motor_registers")
        self.joint_states = joint_state_reader(node, self._driver)

    def wait(self, timeout_s: float) -> None:
        """Raises: StationError naming the driver, when it does not come within `timeout_s`."""
        needed = [
            (RobotInfo, "get_robot_info"),
            (OperatingModes, "set_operating_modes"),
            (TorqueEnable, "torque_enable"),
            (RegisterValues, "set_motor_registers"),
            (RegisterValues, "get_motor_registers"),
        ]
        missing = self._calls.wait_for([(kind, f"{self._driver}/{name}") for kind, name in needed], timeout_s)
        if missing:
            raise StationError(f"{absent_driver(self._config, missing[0])} (waited {timeout_s:g} s)")

    def info(self, kind: str, name: str) -> RobotInfo.Response:
        return self._call(RobotInfo, "get_robot_info", RobotInfo.Request(cmd_type=kind, name=name), READS)

    def read(self, kind: str, name: str, register: str) -> list[int]:
        request = RegisterValues.Request(cmd_type=kind, name=name, reg=register)
        return [int(value) for value in self._call(RegisterValues, "get_motor_registers", request, READS).values]

    def write(self, kind: str, name: str, register: str, value: int) -> None:
        request = RegisterValues.Request(cmd_type=kind, name=name, reg=register, value=value)
        self._call(RegisterValues, "set_motor_registers", request)

    def set_mode(self, kind: str, name: str, mode: str, profile: str, velocity: int, acceleration: int) -> None:
        request = OperatingModes.Request(
            cmd_type=kind,
            name=name,
            mode=mode,
            profile_type=profile,
            profile_velocity=velocity,
            profile_acceleration=acceleration,
        )
        self._call(OperatingModes, "set_operating_modes", request)

    def torque(self, kind: str, name: str, enable: bool) -> None:
        self._call(TorqueEnable, "torque_enable", TorqueEnable.Request(cmd_type=kind, name=name, enable=enable))

    def start_read(self, kind: str, name: str, register: str) -> PendingRead | None:
        if not self._reads.service_is_ready():
            return None
        return _PendingCall(self._reads, RegisterValues.Request(cmd_type=kind, name=name, reg=register))

    def command_arm(self, joints: Sequence[float]) -> None:
        self._arm.publish(JointGroupCommand(name=GROUP, cmd=[float(q) for q in joints]))

    def command_gripper(self, value: float) -> None:
        self._gripper.publish(JointSingleCommand(name="gripper", cmd=value))

    def close(self) -> None:
        self._calls.close()

    def _call(self, kind: Any, service: str, request: Any, sent: int = 1) -> Any:
        return self._calls.call(kind, f"{self._driver}/{service}", request, CALL_TIMEOUT_S, sent)


class _PendingCall:
    """A request of a service client that nobody waits for."""

    def __init__(self, client: Any, request: Any) -> None:
        self._client = client
        self._future = client.call_async(request)

    def values(self) -> list[int] | None:
        return [int(value) for value in self._future.result().values] if self._future.done() else None

    def give_up(self) -> None:
        self._client.remove_pending_request(self._future)


def open_link(node: Node, config: ArmConfig) -> DriverLink:
    """The wire that the station file names. Raises: StationError where the vendor's Python API is not installed."""
    if config.driver == "xs_modules":
        from gymnast_nodes.modules_link import ModulesLink  # it needs the vendor's package

        return ModulesLink(node, config)
    return TopicsLink(node, config)
