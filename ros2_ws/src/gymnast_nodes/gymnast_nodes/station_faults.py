"""The faults of the simulated station's node: what its messages, its services and its process do while they last."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from interbotix_xs_msgs.msg import JointGroupCommand
from rcl_interfaces.msg import ParameterDescriptor, SetParametersResult
from rclpy.duration import Duration
from rclpy.parameter import Parameter
from rclpy.task import Future
from rclpy.time import Time
from sensor_msgs.msg import JointState

from gymnast_core.clocks import since_boot
from gymnast_core.config import SimulationConfig
from gymnast_core.simulation.faults import KINDS, LATE_S, OLD_S, FaultSchedule, parse_faults
from gymnast_core.simulation.motors import GROUPS
from gymnast_core.simulation.xs_driver import SimulatedDriver
from gymnast_nodes.clocks import SteadyNode
from gymnast_nodes.qos import DRIVER_QOS

LOOK_S = 0.1
DEATH_S = 0.1
"""Whoever asked for it gets an answer first."""
DYING_S = 1.0
"""A scheduled death lasts no longer: the process that is started again lives."""


class StationFaults:
    """Injected by the parameter `faults`, at any time, and by the schedule of the station file.

    driver: of the simulated arm. Everything but `delayed` and `frame` is for the node's executor.
    """

    def __init__(self, node: SteadyNode, config: SimulationConfig, driver: SimulatedDriver) -> None:
        """Raises: ConfigError for a schedule of unknown faults."""
        self._node = node
        self._driver = driver
        self._asked: dict[str, str] = {}
        self._told: dict[str, str] = {}
        self._schedule = FaultSchedule(config.faults)
        self._stranger: SteadyNode | None = None
        self._unanswered: list[Future] = []
        self._late: list[JointState] = []
        self._late_since = 0.0
        self._shown: np.ndarray | None = None
        known = ", ".join(f"{kind.name}:<{kind.of}>" if kind.of else kind.name for kind in KINDS.values())
        description = f"injected faults: {known}"
        node.declare_parameter("faults", [""], ParameterDescriptor(description=description))
        node.add_on_set_parameters_callback(self._on_parameters)
        node.create_timer(LOOK_S, self._look)

    @property
    def active(self) -> dict[str, str]:
        """Kind to motor's name, or empty."""
        return self._driver.faults

    def _on_parameters(self, parameters: list[Parameter]) -> SetParametersResult:
        for parameter in parameters:
            if parameter.name == "faults":
                try:
                    self._asked = parse_faults(str(text) for text in parameter.value or [])
                except ValueError as error:
                    return SetParametersResult(successful=False, reason=str(error))
                self._apply(anew=True)
        return SetParametersResult(successful=True)

    def _look(self) -> None:
        self._apply()
        if self._stranger is not None:
            self._commands.publish(self._foreign)

    def _apply(self, anew: bool = False) -> None:
        """anew: somebody asked: a fault that a reboot has mended comes again."""
        scheduled = self._schedule.at(graph_age())
        if "process_death" in scheduled and "process_death" not in self._schedule.at(graph_age() - DYING_S):
            self._die()
        scheduled.pop("process_death", None)
        wanted = {**scheduled, **self._asked}
        if wanted == self._told and not anew:
            return
        self._told = wanted
        self._driver.set_faults(wanted)
        if "process_death" in wanted:
            self._die()
        if "foreign_commander" in wanted and self._stranger is None:
            self._stranger = SteadyNode(
                "stranger", context=self._node.context, use_global_arguments=False, start_parameter_services=False
            )
            joints = self._driver.joint_state()[0][: len(GROUPS["arm"])]
            self._foreign = JointGroupCommand(name="arm", cmd=[float(q) for q in joints])
            topic = self._node.resolve_topic_name("commands/joint_group")
            self._commands = self._stranger.create_publisher(JointGroupCommand, topic, DRIVER_QOS)
        elif "foreign_commander" not in wanted and self._stranger is not None:
            self._stranger.destroy_node()
            self._stranger = None
        if "service_silent" not in wanted:
            for future in self._unanswered:
                future.set_result(None)
            self._unanswered.clear()

    def _die(self) -> None:
        self._node.create_timer(DEATH_S, lambda: os.kill(os.getpid(), signal.SIGKILL))

    async def answer(self) -> None:
        """Awaited by a service before it answers: for ever, while its fault lasts."""
        if "service_silent" in self.active:
            future = Future()
            self._unanswered.append(future)
            await future

    def delayed(self, message: JointState, publish: Callable[[JointState], None]) -> None:
        """Publish a joint state as the faults have it."""
        if "stale_stamps" in self.active:
            stamp = Time.from_msg(message.header.stamp) - Duration(nanoseconds=int(OLD_S * 1e9))
            message.header.stamp = stamp.to_msg()
        if "reordered_joints" in self.active:
            message = JointState(
                header=message.header,
                name=["a_joint_more", *reversed(message.name)],
                position=[0.5, *reversed(message.position)],
                velocity=[0.0, *reversed(message.velocity)],
                effort=[0.0, *reversed(message.effort)],
            )
        if "latency" not in self.active and not self._late:
            publish(message)
            return
        now = time.monotonic()
        if not self._late:
            self._late_since = now
        self._late.append(JointState(header=message.header, name=message.name, position=list(message.position)))
        self._late[-1].velocity, self._late[-1].effort = list(message.velocity), list(message.effort)
        if now - self._late_since > LATE_S or "latency" not in self.active:
            for each in self._late:
                publish(each)
            self._late.clear()

    def frame(self, frame: np.ndarray) -> np.ndarray:
        """The camera's frame (H, W, 3) as the faults have it."""
        if "latency" in self.active:
            time.sleep(LATE_S)
        if "black_frames" in self.active:
            return np.zeros_like(frame)
        if "camera_frozen" not in self.active or self._shown is None:
            self._shown = frame
        return self._shown


def graph_age() -> float:
    """Seconds since whoever started this process was started: a schedule goes on where a killed process left it."""
    try:
        words = Path(f"/proc/{os.getppid()}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return since_boot() - int(words[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return time.process_time()
