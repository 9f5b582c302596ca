"""The simulated station behind the environment protocol: the trainer and the evaluators cannot tell it from the rest.

It moves the arm exactly as the arm node does: Bridge actions through `BridgeController` to joint goals with the same
motion profile, the gripper through `GripperDrive`, one control period after another, only without ROS and the clock.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gymnast_core.config import StationConfig
from gymnast_core.data.frames import resize_frame
from gymnast_core.errors import StationError
from gymnast_core.protocols import Start, StepResult
from gymnast_core.robot.bridge import bridge_pose_from_matrix
from gymnast_core.robot.controller import BridgeController
from gymnast_core.robot.gripper import GripperDrive, opening_from_finger
from gymnast_core.robot.kinematics import forward_kinematics
from gymnast_core.station.simulator import Renderer, SimulatedStation, Snapshot

DRIVE_PERIOD_S = 0.02


class _Rollout:
    """One station with its controller."""

    def __init__(self, config: StationConfig) -> None:
        self.config = config
        self.station = SimulatedStation(config)
        self.controller = BridgeController(config.arm, config.safety)
        self.drive = GripperDrive()
        self.snapshots: list[Snapshot] = []
        self.frames: dict[int, np.ndarray] = {}
        self.task = ""

    def reset(self, start: Start) -> None:
        self.task = start.task
        self.station.reset(start.task, start.seed)
        position = np.array(self.config.arm.start_position) + self.station.arm_start_offset(start.seed)
        joints = self.controller.move_to(position)
        self.station.place_arm(joints)
        self.drive = GripperDrive()
        self.drive.set_target(1.0)
        self._settle(0.3)
        self.controller.reset_target(self.joints)
        self.snapshots = [self.station.snapshot()]
        self.frames = {}

    @property
    def joints(self) -> np.ndarray:
        return self.station.joint_state()[0][:6]

    def step(self, action: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
        """One control period; returns the executed action (7,) and the safety envelope's events."""
        arm = self.config.arm
        command = self.controller.step(action, self.joints)
        if command.accepted:
            self.station.command_joints(
                command.joint_target, arm.profile_velocity_ms / 1000.0, arm.profile_acceleration_ms / 1000.0
            )
            self.drive.set_target(command.gripper)
        self._settle(1.0 / arm.control_hz)
        self.snapshots.append(self.station.snapshot())
        return command.executed_action, command.events

    def state(self) -> np.ndarray:
        """Measured (7,): position (m), Bridge roll, pitch, yaw (rad), gripper opening."""
        positions = self.station.joint_state()[0]
        pose = bridge_pose_from_matrix(forward_kinematics(positions[:6]))
        return np.append(pose, opening_from_finger(float(positions[7]))).astype(np.float32)

    def _settle(self, seconds: float) -> None:
        for _ in range(round(seconds / DRIVE_PERIOD_S)):
            finger = float(self.station.joint_state()[0][7])
            self.station.command_gripper_pwm(self.drive.pwm(finger, self.station.time))
            self.station.advance(DRIVE_PERIOD_S)


class StationEnvironment:
    """One to `max_rollouts` simulated stations, stepped one after another.

    Frames are rendered at the camera's resolution and squashed to the observation size, as the nodes do; only frames
    that somebody asks for are rendered, once.

    Raises: ConfigError for an unknown scene or task; StationError when stepped before a reset or rendering fails.
    """

    def __init__(self, config: StationConfig, max_rollouts: int = 1) -> None:
        self.config = config
        self._stations: list[_Rollout] = []
        self._max_rollouts = max_rollouts
        self._active: list[_Rollout] = []
        self._renderer: Renderer | None = None

    @property
    def max_rollouts(self) -> int:
        return self._max_rollouts

    def reset(self, starts: Sequence[Start]) -> np.ndarray:
        """Start `len(starts)` rollouts; returns first frames (N, S, S, 3) uint8, S the observation size."""
        if not 1 <= len(starts) <= self._max_rollouts:
            raise StationError(f"found {len(starts)} starts; this environment holds 1 to {self._max_rollouts} rollouts")
        while len(self._stations) < len(starts):
            self._stations.append(_Rollout(self.config))
        self._active = self._stations[: len(starts)]
        for rollout, start in zip(self._active, starts):
            rollout.reset(start)
        return self._render(-1)

    def step(self, actions: np.ndarray) -> StepResult:
        """Execute (N, K, 7) Bridge actions at the control rate."""
        if actions.ndim != 3 or actions.shape[2] != 7:
            raise StationError(f"found actions of shape {actions.shape}, needed (rollouts, steps, 7)")
        if len(actions) != len(self._active):
            raise StationError(f"found actions for {len(actions)} rollouts, {len(self._active)} are under way")
        executed = np.zeros_like(actions, dtype=np.float32)
        changed = np.zeros(actions.shape[:2], dtype=bool)
        events: list[tuple[str, ...]] = []
        for row, rollout in enumerate(self._active):
            happened: list[str] = []
            for step in range(actions.shape[1]):
                executed[row, step], names = rollout.step(actions[row, step])
                changed[row, step] = bool(names)
                happened.extend(names)
            events.append(tuple(happened))
        success = np.array([r.station.success(r.task) for r in self._active], dtype=np.float32)
        credit = np.array([r.station.credit(r.task) for r in self._active], dtype=np.float32)
        return StepResult(self._render(-1), executed, success, tuple(events), changed, credit)

    def video(self, indices: Sequence[int] | None = None) -> np.ndarray:
        """Frames since the reset (N, n, S, S, 3) uint8."""
        count = len(self._active[0].snapshots) if self._active else 0
        wanted = range(count) if indices is None else indices
        outside = [index for index in wanted if not -count <= index < count]
        if outside:
            raise StationError(f"frame {outside[0]} was asked for; there are {count} since the reset")
        return np.stack([self._render(index) for index in wanted], axis=1)

    def states(self) -> np.ndarray:
        """Measured states now (N, 7), see `Episode.states`."""
        return np.stack([rollout.state() for rollout in self._active])

    def station(self, row: int = 0) -> SimulatedStation:
        """The simulated station of one rollout, for the scripted expert."""
        return self._active[row].station

    def drawer_openings(self) -> np.ndarray:
        """(N,) metres."""
        return np.array([rollout.station.drawer_opening for rollout in self._active])

    def close(self) -> None:
        """Give the renderer back."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def _render(self, index: int) -> np.ndarray:
        if not self._active:
            raise StationError("the station was not reset yet")
        camera = self.config.camera
        if self._renderer is None:
            self._renderer = self._active[0].station.renderer(camera.width, camera.height)
        for rollout in self._active:
            which = index % len(rollout.snapshots)
            if which not in rollout.frames:
                frame = self._renderer.render(rollout.snapshots[which])
                rollout.frames[which] = resize_frame(frame, camera.observation_size)
        return np.stack([rollout.frames[index % len(rollout.snapshots)] for rollout in self._active])
