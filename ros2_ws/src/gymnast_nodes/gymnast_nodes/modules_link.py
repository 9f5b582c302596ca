"""The vendor's driver through the vendor's Python API (`interbotix_xs_modules`): arm.driver: xs_modules.

The API brings a node of its own, which it spins while it is built, and waits for services without end, in a rate that
wakes up twenty times a second and is never given back. So it gets a node here whose waiting has an end, it is built in
a thread, and one thread of ours spins it afterwards. Of the API, only what passes its arguments on is used:
`set_joint_positions` would refuse a hold that is far from its last command, and would believe its own cache of the
profile after a motor was rebooted.
"""

from __future__ import annotations

import collections
import contextlib
import threading
from collections.abc import Callable, Sequence
from typing import Any

from interbotix_xs_msgs.srv import MotorGains, OperatingModes, Reboot, RegisterValues, RobotInfo, TorqueEnable
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import JointState

from gymnast_core.config import ArmConfig
from gymnast_core.errors import StationError
from gymnast_nodes.calls import ServiceCaller
from gymnast_nodes.driver_link import CALL_TIMEOUT_S, GROUP, PendingRead, absent_driver
from gymnast_nodes.speakers import MODULES_SUFFIX

SPIN_S = 0.1
KEPT = 100
"""Joint states, a second of them."""


class ModulesLink:
    """See `DriverLink`. The API is built by `wait`, when the driver is there; before that nothing is sent."""

    def __init__(self, node: Node, config: ArmConfig) -> None:
        """Raises: StationError where the vendor's packages are not importable."""
        self._manipulator_class, robot_node_class = _vendor_classes()
        self._config = config
        self._calls = ServiceCaller(node)
        self._node = _patient_node(robot_node_class, node)
        self.names = (self._node.get_fully_qualified_name(),)
        self._core: Any = None
        self._building: threading.Thread | None = None
        self._spinning: threading.Thread | None = None
        self._problem = ""
        self._states: collections.deque[JointState] = collections.deque(maxlen=KEPT)
        self._ending = threading.Event()

    def wait(self, timeout_s: float) -> None:
        """Wait for the driver, and build the API on it. Raises: StationError when either does not come in time."""
        needed = [
            (RobotInfo, "get_robot_info"),
            (OperatingModes, "set_operating_modes"),
            (TorqueEnable, "torque_enable"),
            (RegisterValues, "set_motor_registers"),
            (RegisterValues, "get_motor_registers"),
            (MotorGains, "set_motor_pid_gains"),
            (Reboot, "reboot_motors"),
        ]
        driver = self._config.driver_name
        missing = self._calls.wait_for([(kind, f"{driver}/{name}") for kind, name in needed], timeout_s)
        if missing:
            raise StationError(f"{absent_driver(self._config, missing[0])} (waited {timeout_s:g} s)")
        if self._core is not None:
            return
        if self._building is None or not self._building.is_alive():
            self._problem = ""
            self._building = threading.Thread(target=self._build, name="interbotix_xs_modules", daemon=True)
            self._building.start()
        self._building.join(max(timeout_s, CALL_TIMEOUT_S))
        if self._core is None:
            raise StationError(
                self._problem
                or f"interbotix_xs_modules was not built within {max(timeout_s, CALL_TIMEOUT_S):g} s; are there joint "
                f"states on {driver}/joint_states?"
            )

    def _build(self) -> None:
        """The API spins its node itself meanwhile."""
        try:
            manipulator = self._manipulator_class(
                robot_model=self._config.model,
                robot_name=self._config.driver_name[1:],
                group_name=GROUP,
                gripper_name=None,  # its timer, and its half second of sleep, are for a gripper that it drives
                moving_time=self._config.profile_velocity_ms / 1000.0,
                accel_time=self._config.profile_acceleration_ms / 1000.0,
                node=self._node,
                iterative_update_fk=False,
            )
        except SystemExit:
            self._problem = f"interbotix_xs_modules refused the arm: its group '{GROUP}' is no {self._config.model}'s"
        except Exception as error:  # whatever the API raises: it is told, and tried again
            self._problem = f"interbotix_xs_modules could not be built: {type(error).__name__}: {error}"
        else:
            self._core = manipulator.core
            self._spinning = threading.Thread(target=self._spin, name="interbotix_xs_modules node", daemon=True)
            self._spinning.start()

    def _spin(self) -> None:
        """Spin the API's node, and keep each joint state that it takes: the API itself keeps the last alone."""
        executor = SingleThreadedExecutor(context=self._node.context)
        executor.add_node(self._node)
        last = None
        while not self._ending.is_set() and self._node.context.ok():
            with contextlib.suppress(Exception):  # the context goes down under it at the end
                executor.spin_once(timeout_sec=SPIN_S)
            if self._core.joint_states is not last:
                last = self._core.joint_states
                self._states.append(last)
        executor.shutdown(timeout_sec=SPIN_S)

    def info(self, kind: str, name: str) -> RobotInfo.Response:
        return self._ask(lambda core: core.robot_get_robot_info(kind, name))

    def read(self, kind: str, name: str, register: str) -> list[int]:
        return [int(value) for value in self._ask(lambda core: core.robot_get_motor_registers(kind, name, register))]

    def write(self, kind: str, name: str, register: str, value: int) -> None:
        self._ask(lambda core: core.robot_set_motor_registers(kind, name, register, value))

    def set_mode(self, kind: str, name: str, mode: str, profile: str, velocity: int, acceleration: int) -> None:
        # Without a profile the API would set 0, which is full speed.
        self._ask(lambda core: core.robot_set_operating_modes(kind, name, mode, profile, velocity, acceleration))

    def torque(self, kind: str, name: str, enable: bool) -> None:
        self._ask(lambda core: core.robot_torque_enable(kind, name, enable))

    def start_read(self, kind: str, name: str, register: str) -> PendingRead | None:
        if self._core is None:
            return None
        return _ReadThread(lambda: self.read(kind, name, register))

    def command_arm(self, joints: Sequence[float]) -> None:
        if self._core is not None:
            self._core.robot_write_commands(GROUP, [float(q) for q in joints])

    def command_gripper(self, value: float) -> None:
        if self._core is not None:
            self._core.robot_write_joint_command("gripper", value)

    def joint_states(self) -> list[JointState]:
        taken = []
        while self._states:
            taken.append(self._states.popleft())
        return taken

    def close(self) -> None:
        """The node's publishers stay until the process ends: what was sent last must leave it."""
        self._ending.set()
        if self._spinning is not None:
            self._spinning.join(10 * SPIN_S)  # a thread inside the middleware would take the process's end down
        self._calls.close()

    def _ask(self, question: Callable[[Any], Any]) -> Any:
        """Raises: StationError where the API is not built, or the driver does not answer."""
        if self._core is None:
            raise StationError("interbotix_xs_modules is not built yet: the driver was not found")
        try:
            return question(self._core)
        except AttributeError as error:  # `.values` of an answer that did not come
            raise StationError(f"interbotix_xs_modules: no answer of the driver ({error})") from error


class _ReadThread:
    """One read in a thread of its own."""

    def __init__(self, read: Callable[[], list[int]]) -> None:
        self._read = read
        self._answer: list[int] | None = None
        threading.Thread(target=self._run, name="register read", daemon=True).start()

    def _run(self) -> None:
        with contextlib.suppress(StationError):  # no answer: whoever waits gives up by himself
            self._answer = self._read()

    def values(self) -> list[int] | None:
        return self._answer

    def give_up(self) -> None:
        return


def _vendor_classes() -> tuple[Any, Any]:
    """InterbotixManipulatorXS and InterbotixRobotNode. Raises: StationError naming what is missing."""
    try:
        from interbotix_common_modules.common_robot.robot import InterbotixRobotNode
        from interbotix_xs_modules.xs_robot.arm import InterbotixManipulatorXS
    except ImportError as error:
        raise StationError(
            f"arm.driver is xs_modules, and the vendor's Python API cannot be imported ({error}); source the vendor's "
            "workspace, or set arm.driver: xs_sdk (docs/how-to/vendor_stack.md)"
        ) from error
    return InterbotixManipulatorXS, InterbotixRobotNode


def _patient_node(robot_node_class: Any, node: Node) -> Any:
    """A node for the API, beside `node`, which waits for each answer until CALL_TIMEOUT_S, and says so."""

    class ModulesNode(robot_node_class):
        """The vendor's node; its own wait makes a timer each time, and never ends where an answer is lost."""

        def wait_until_future_complete(self, future: Any, timeout_sec: float | None = None) -> None:
            done = threading.Event()
            future.add_done_callback(lambda _: done.set())
            limit = CALL_TIMEOUT_S if timeout_sec is None or timeout_sec < 0 else timeout_sec
            if not done.wait(limit):
                raise StationError(f"the driver did not answer interbotix_xs_modules within {limit:g} s")

    return ModulesNode(
        node_name=f"{node.get_name()}{MODULES_SUFFIX}",
        namespace=node.get_namespace(),
        context=node.context,
        use_global_arguments=False,
        enable_rosout=False,
    )
