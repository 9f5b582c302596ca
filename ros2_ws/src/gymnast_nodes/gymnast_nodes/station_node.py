"""The simulated station behind the vendor's interface: node xs_sdk, its topics and services, and a camera's images.

Only configs with a `simulation` section start it. Physics runs in real time in one thread, rendering in another on a
copy of the state, the ROS side in the executor: 100 Hz of joint states go on while a frame is rendered or a service
sleeps on the simulated bus (then they stall, as the real driver's do).
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from gymnast_msgs.srv import ResetScene, SceneState
from interbotix_xs_msgs.msg import JointGroupCommand, JointSingleCommand, JointTrajectoryCommand
from interbotix_xs_msgs.srv import MotorGains, OperatingModes, Reboot, RegisterValues, RobotInfo, TorqueEnable
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.duration import Duration
from sensor_msgs.msg import JointState

from gymnast_core.errors import ConfigError, GymnastError
from gymnast_core.simulation.simulator import SimulatedStation
from gymnast_core.simulation.xs_driver import SimulatedDriver
from gymnast_nodes.clocks import STEADY, SteadyNode
from gymnast_nodes.messages import frame_to_compressed, frame_to_image, picture_type
from gymnast_nodes.parameters import station_parameter
from gymnast_nodes.qos import DRIVER_QOS
from gymnast_nodes.reading import RateMeter
from gymnast_nodes.running import run_node
from gymnast_nodes.station_faults import StationFaults
from gymnast_nodes.truth import TRUTH_TOPIC, truth_message

PHYSICS_PERIOD_S = 0.01
MAX_LAG_S = 0.15
"""Physics this far behind the clock gives up catching up: a slow machine gets slow motion, not a burst."""


class StationNode(SteadyNode):
    """The vendor's driver and a camera, over MuJoCo."""

    def __init__(self) -> None:
        super().__init__("xs_sdk")
        _, self._config = station_parameter(self)
        if self._config.simulation is None:
            raise ConfigError(f"station '{self._config.name}' has no simulation section: its driver is the vendor's")
        self._station = SimulatedStation(self._config)
        self._lock = threading.Lock()  # the station's state
        self._driver = SimulatedDriver(_Locked(self._station, self._lock), self.get_logger().warning, self._station.arm)
        self._ending = threading.Event()
        self.exit_code: int | None = None
        self._trajectory: threading.Thread | None = None
        self._joint_rate, self._frame_rate = RateMeter(), RateMeter()
        self._faults = StationFaults(self, self._config.simulation, self._driver)
        self._offer()
        self._threads = [
            threading.Thread(target=self._guarded, args=(loop,), name=name, daemon=True)
            for name, loop in (("physics", self._run_physics), ("camera", self._run_camera))
        ]
        for thread in self._threads:
            thread.start()
        self.get_logger().info(
            f"simulated station '{self._config.simulation.scene}': {self._config.arm.driver_name}, "
            f"images on {self._config.camera.topic} at {self._config.camera.rate_hz:g} Hz"
        )

    # What it offers.

    def _offer(self) -> None:
        self._joint_states = self.create_publisher(JointState, "joint_states", DRIVER_QOS)
        self._images = self.create_publisher(picture_type(self._config.camera), self._config.camera.topic, DRIVER_QOS)
        self._truth = self.create_publisher(DiagnosticArray, TRUTH_TOPIC, DRIVER_QOS)
        self.create_subscription(JointGroupCommand, "commands/joint_group", self._on_group, DRIVER_QOS)
        self.create_subscription(JointSingleCommand, "commands/joint_single", self._on_single, DRIVER_QOS)
        self.create_subscription(JointTrajectoryCommand, "commands/joint_trajectory", self._on_trajectory, DRIVER_QOS)
        self.create_service(RobotInfo, "get_robot_info", self._on_info)
        self.create_service(OperatingModes, "set_operating_modes", self._on_modes)
        self.create_service(TorqueEnable, "torque_enable", self._on_torque)
        self.create_service(Reboot, "reboot_motors", self._on_reboot)
        self.create_service(MotorGains, "set_motor_pid_gains", self._on_gains)
        self.create_service(RegisterValues, "set_motor_registers", self._on_set_registers)
        alone = ReentrantCallbackGroup()  # the rest goes on while an answer waits
        self.create_service(RegisterValues, "get_motor_registers", self._on_get_registers, callback_group=alone)
        self.create_service(ResetScene, "station/reset_scene", self._on_reset)
        self.create_service(SceneState, "station/scene_state", self._on_scene)

    # Commands and services of the vendor's driver; as there, they do not report success.

    def _on_group(self, message: JointGroupCommand) -> None:
        self._driver.command_group(message.name, message.cmd)

    def _on_single(self, message: JointSingleCommand) -> None:
        self._driver.command_single(message.name, message.cmd)

    def _on_trajectory(self, message: JointTrajectoryCommand) -> None:
        if self._trajectory is not None and self._trajectory.is_alive():
            self.get_logger().warning("trajectory rejected since joints are still moving")
        elif len(message.traj.points) < 2:
            self.get_logger().warning("trajectory has fewer than 2 points")
        else:
            self._trajectory = threading.Thread(target=self._play, args=(message,), name="trajectory", daemon=True)
            self._trajectory.start()

    def _play(self, message: JointTrajectoryCommand) -> None:
        """Send each point at its time from the start."""
        started = time.monotonic()
        previous = 0.0
        for point in message.traj.points:
            due = started + previous
            previous = point.time_from_start.sec + point.time_from_start.nanosec * 1e-9
            if self._ending.wait(max(0.0, due - time.monotonic())):
                return
            if message.cmd_type == "group":
                self._driver.command_group(message.name, point.positions)
            elif len(point.positions) == 1:
                self._driver.command_single(message.name, point.positions[0])

    def _on_info(self, request: RobotInfo.Request, response: RobotInfo.Response) -> RobotInfo.Response:
        info = self._driver.robot_info(request.cmd_type, request.name)
        if info is not None:
            for field, value in vars(info).items():
                setattr(response, field, value)
            response.num_joints = len(info.joint_names)
        return response

    def _on_modes(self, request: OperatingModes.Request, response: OperatingModes.Response) -> OperatingModes.Response:
        self._driver.set_operating_modes(
            request.cmd_type,
            request.name,
            request.mode,
            request.profile_type,
            request.profile_velocity,
            request.profile_acceleration,
        )
        return response

    def _on_torque(self, request: TorqueEnable.Request, response: TorqueEnable.Response) -> TorqueEnable.Response:
        self._driver.torque_enable(request.cmd_type, request.name, request.enable)
        return response

    def _on_reboot(self, request: Reboot.Request, response: Reboot.Response) -> Reboot.Response:
        self._driver.reboot_motors(request.cmd_type, request.name, request.enable, request.smart_reboot)
        return response

    def _on_gains(self, request: MotorGains.Request, response: MotorGains.Response) -> MotorGains.Response:
        gains = (request.kp_pos, request.ki_pos, request.kd_pos, request.k1, request.k2, request.kp_vel, request.ki_vel)
        self._driver.set_gains(request.cmd_type, request.name, gains)
        return response

    def _on_set_registers(
        self, request: RegisterValues.Request, response: RegisterValues.Response
    ) -> RegisterValues.Response:
        self._driver.set_registers(request.cmd_type, request.name, request.reg, request.value)
        return response

    async def _on_get_registers(
        self, request: RegisterValues.Request, response: RegisterValues.Response
    ) -> RegisterValues.Response:
        await self._faults.answer()
        response.values = self._driver.get_registers(request.cmd_type, request.name, request.reg)
        return response

    # The scene, for resets and scoring.

    def _on_reset(self, request: ResetScene.Request, response: ResetScene.Response) -> ResetScene.Response:
        try:
            with self._lock:
                self._station.reset(request.task, int(request.seed))
            self._driver.forget_goal()
            response.success, response.message = True, f"{request.task}, seed {request.seed}"
        except GymnastError as error:
            response.message = str(error)
        return response

    def _on_scene(self, request: SceneState.Request, response: SceneState.Response) -> SceneState.Response:
        with self._lock:
            response.drawer_opening = float(self._station.drawer_opening)
            try:
                response.success = bool(self._station.success(request.task))
                response.known = True
            except GymnastError:
                response.known = False
        return response

    # The two loops.

    def _guarded(self, loop: Callable[[], None]) -> None:
        """A loop that cannot go on ends the whole node: half a station is worse than none."""
        try:
            loop()
        except GymnastError as error:
            self.get_logger().error(str(error))
            self.exit_code = 1

    def _run_physics(self) -> None:
        message = JointState(name=list(self._driver.names))
        due = time.monotonic()
        while not self._ending.is_set():
            with self._lock:
                self._station.advance(PHYSICS_PERIOD_S)
            self._publish_joints(message, max(0.0, time.monotonic() - due))
            due += PHYSICS_PERIOD_S
            wait = due - time.monotonic()
            if wait > 0:
                time.sleep(wait)
            elif wait < -MAX_LAG_S:
                self.get_logger().warning(
                    "physics is slower than real time", throttle_duration_sec=10.0, throttle_time_source_type=STEADY
                )
                due = time.monotonic()

    def _publish_joints(self, message: JointState, lag_s: float) -> None:
        """Publish unless the bus is busy with a service or the fault says so. Stamps are of the moment that physics has
        reached: while it catches up, joints that move as they may would otherwise seem to jump."""
        if "joint_states_stopped" in self._faults.active or not self._driver.bus.acquire(blocking=False):
            return
        try:
            position, velocity, effort = self._driver.joint_state()
        finally:
            self._driver.bus.release()
        message.header.stamp = (self.get_clock().now() - Duration(nanoseconds=int(lag_s * 1e9))).to_msg()
        message.position = position.tolist()
        message.velocity = velocity.tolist()
        message.effort = effort.tolist()
        if self.context.ok():
            self._faults.delayed(message, self._joint_states.publish)

    def _run_camera(self) -> None:
        camera = self._config.camera
        renderer = self._station.renderer(camera.width, camera.height)  # its context belongs to this thread
        packed = frame_to_compressed if camera.message == "CompressedImage" else frame_to_image
        due = time.monotonic()
        while not self._ending.is_set():
            if "camera_stopped" not in self._faults.active:
                with self._lock:
                    stamp = self.get_clock().now().to_msg()
                    snapshot = self._station.snapshot()
                    done = {task: bool(self._station.success(task)) for task in self._station.scene.tasks}
                frame = self._faults.frame(renderer.render(snapshot))
                if self.context.ok() and not self._ending.is_set():
                    self._truth.publish(truth_message(stamp, done))
                    self._images.publish(packed(frame, stamp, "camera"))
            due = max(due + 1.0 / camera.rate_hz, time.monotonic())
            self._ending.wait(due - time.monotonic())

    def stop(self) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join(timeout=2.0)


class _Locked:
    """The station's arm behind the station's lock, as the simulated driver needs it."""

    def __init__(self, station: SimulatedStation, lock: threading.Lock) -> None:
        self._station = station
        self._lock = lock

    def joint_state(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        with self._lock:
            return self._station.joint_state()

    def command_joints(self, joints: np.ndarray, duration_s: float, ramp_s: float) -> None:
        with self._lock:
            self._station.command_joints(joints, duration_s, ramp_s)

    def command_gripper_pwm(self, pwm: float) -> None:
        with self._lock:
            self._station.command_gripper_pwm(pwm)

    def command_gripper_position(self, distance: float) -> None:
        with self._lock:
            self._station.command_gripper_position(distance)

    def set_torque(self, enabled: bool) -> None:
        with self._lock:
            self._station.set_torque(enabled)


def main() -> None:
    sys.exit(run_node(StationNode, urgent=True))
