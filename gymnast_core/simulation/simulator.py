"""The simulated station: an arm and a scene in MuJoCo, with the motors' motion profiles and a camera.

Units: metres, radians, seconds. It knows no ROS; `xs_driver.py` puts the vendor's driver over it, `environment.py` the
environment protocol.
"""

from __future__ import annotations

import os

os.environ.setdefault("MUJOCO_GL", "egl")  # headless; has to be said before mujoco is imported

from dataclasses import dataclass

import mujoco
import numpy as np

from gymnast_core.config import StationConfig
from gymnast_core.errors import StationError
from gymnast_core.robot.arm_model import arm_model
from gymnast_core.simulation.arm_body import arm_body
from gymnast_core.simulation.motors import ARM_JOINTS as ARM_JOINTS  # of the arm of Bridge data, for tests
from gymnast_core.simulation.scene import Placement, load_scene, mujoco_model
from gymnast_core.simulation.scene_view import SceneView
from gymnast_core.simulation.success import credit

MAX_JOINT_SPEED = np.pi
NEWTON_PER_PWM = 10.0 / 350.0
SAME_POSITION = 1e-5
"""Metres or radians; a hundredth of a pixel at the most."""
_ANGLES = np.linspace(-0.6, 1.5, 400)
"""Radians of the horn that moves an X-Series finger."""


def _fingers(radius: float, length: float) -> np.ndarray:
    """The finger's place, metres, at each of _ANGLES."""
    return radius * np.sin(_ANGLES) + np.sqrt(length**2 - (radius * np.cos(_ANGLES)) ** 2)


@dataclass(frozen=True)
class Snapshot:
    """What a renderer needs of the station at one moment; cheap to copy, so that rendering can go on elsewhere."""

    positions: np.ndarray
    body_positions: np.ndarray
    light_diffuse: np.ndarray

    def looks_like(self, other: Snapshot) -> bool:
        """Whether no camera could tell them apart: every joint is within `SAME_POSITION`, all else is equal."""
        return (
            bool(np.all(np.abs(self.positions - other.positions) < SAME_POSITION))
            and np.array_equal(self.body_positions, other.body_positions)
            and np.array_equal(self.light_diffuse, other.light_diffuse)
        )


class MotionProfile:
    """Dynamixel's time-based profile for the six joints: ramp up, cruise, ramp down, `duration` in all.

    A new goal starts from where the profile is now, with the speed it has now, as the motors do.
    """

    def __init__(self, positions: np.ndarray) -> None:
        self.hold(positions)

    def hold(self, positions: np.ndarray) -> None:
        """Stand at `positions` (6,), rad."""
        self._start = np.array(positions, dtype=np.float64)
        self._goal = self._start.copy()
        self._speed = np.zeros(6)
        self._cruise = np.zeros(6)
        self._duration, self._ramp, self._elapsed = 0.0, 0.0, 0.0

    def set_goal(self, goal: np.ndarray, duration: float, ramp: float) -> None:
        """Move to `goal` (6,) in `duration` s with ramps of `ramp` s; duration 0 is as fast as the motors turn."""
        position, speed = self.now()
        distance = goal - position
        ramp = float(np.clip(ramp, 0.0, duration / 2))
        ramp = ramp if ramp > 1e-4 else 0.0  # the registers count milliseconds
        # No joint cruises faster than its motor turns: where time is short, the motion takes longer.
        fastest = float(np.max(np.abs(distance - speed * ramp / 2))) / MAX_JOINT_SPEED + ramp
        duration = max(duration, fastest, 1e-3)
        self._start, self._goal, self._speed = position, np.array(goal, dtype=np.float64), speed
        self._duration, self._ramp, self._elapsed = duration, ramp, 0.0
        self._cruise = (distance - speed * ramp / 2) / max(duration - ramp, 1e-6)

    @property
    def resting(self) -> bool:
        """Whether the setpoints stay as they are."""
        return self._elapsed >= self._duration

    def advance(self, seconds: float) -> np.ndarray:
        """Setpoints (6,) after another `seconds`."""
        self._elapsed += seconds
        return self.now()[0]

    def now(self) -> tuple[np.ndarray, np.ndarray]:
        """Setpoints and their speeds, (6,) each."""
        t, ramp, duration = self._elapsed, self._ramp, self._duration
        if t >= duration:
            return self._goal.copy(), np.zeros(6)
        if t < ramp:
            slope = (self._cruise - self._speed) / ramp
            return self._start + self._speed * t + slope * t**2 / 2, self._speed + slope * t
        after_ramp = self._start + (self._speed + self._cruise) / 2 * ramp
        if t < duration - ramp:
            return after_ramp + self._cruise * (t - ramp), self._cruise.copy()
        left = duration - t
        rate = self._cruise / ramp if ramp > 0 else np.zeros(6)
        return self._goal - rate * left**2 / 2, rate * left


class Renderer:
    """Pictures of snapshots; belongs to the thread that made it."""

    def __init__(self, model: mujoco.MjModel, camera: str, width: int, height: int) -> None:
        self._model = model
        self._data = mujoco.MjData(model)
        self._camera = camera
        self._last: tuple[Snapshot, np.ndarray] | None = None
        try:
            self._renderer = mujoco.Renderer(model, height, width)
        except Exception as error:  # the GL library's own kinds of error
            backend = os.environ["MUJOCO_GL"]
            raise StationError(
                f"cannot render without a screen through {backend} ({error}); install libegl1 and libgl1-mesa-dri, "
                "or libosmesa6 and set MUJOCO_GL=osmesa"
            ) from error

    def render(self, snapshot: Snapshot) -> np.ndarray:
        """The camera's picture (height, width, 3) uint8 RGB, read-only; of a scene at rest it is drawn once."""
        if self._last is not None and snapshot.looks_like(self._last[0]):
            return self._last[1]
        self._pose(snapshot)
        picture = self._renderer.render().copy()
        picture.flags.writeable = False
        self._last = snapshot, picture
        return picture

    def geoms(self, snapshot: Snapshot) -> np.ndarray:
        """Which geom of the model each pixel shows, (height, width) int32; -1 for none."""
        self._renderer.enable_segmentation_rendering()
        try:
            self._pose(snapshot)
            ids, kinds = np.moveaxis(self._renderer.render(), 2, 0)
        finally:
            self._renderer.disable_segmentation_rendering()
        return np.where(kinds == mujoco.mjtObj.mjOBJ_GEOM, ids, -1).astype(np.int32)

    def _pose(self, snapshot: Snapshot) -> None:
        self._model.body_pos[:] = snapshot.body_positions
        self._model.light_diffuse[:] = snapshot.light_diffuse
        self._data.qpos[:] = snapshot.positions
        mujoco.mj_kinematics(self._model, self._data)
        mujoco.mj_comPos(self._model, self._data)
        mujoco.mj_camlight(self._model, self._data)
        self._renderer.update_scene(self._data, self._camera)

    def close(self) -> None:
        self._renderer.close()


class SimulatedStation:
    """Arm, scene and camera of one station file.

    Raises: ConfigError for an unknown scene or a task the scene lacks; StationError when rendering is not possible.
    """

    def __init__(self, config: StationConfig) -> None:
        if config.simulation is None:
            raise StationError(f"station '{config.name}' has no simulation section")
        self.config = config
        self.scene, self._model_path = load_scene(config.simulation.scene)
        self.arm = arm_model(config.arm.model)
        self._body = arm_body(self.arm)
        self._model = mujoco_model(self._model_path, self._body)
        self._data = mujoco.MjData(self._model)
        self.view = SceneView(self._model, self._data, self.scene, self._body.touching)
        """What the scene's state says: for scoring and for the scripted expert."""
        self._home_bodies = self._model.body_pos.copy()
        self._home_lights = self._model.light_diffuse.copy()
        for name in config.tasks:
            self.scene.task(name)
        self._qpos = np.array([self._model.joint(name).qposadr[0] for name in self.arm.names])
        self._dof = np.array([self._model.joint(name).dofadr[0] for name in self.arm.names])
        self._motors = np.array([self._model.actuator(name).id for name in self.arm.names])
        self._fingers = [self._model.joint(name).qposadr[0] for name in self._body.fingers]
        self._finger_dof = np.array([self._model.joint(name).dofadr[0] for name in self._body.fingers])
        self._horn = None if self._body.horn is None else _fingers(*self._body.horn)
        self._gripper_motor = self._model.actuator(self._body.gripper).id
        self._gains = self._model.actuator_gainprm.copy(), self._model.actuator_biasprm.copy()
        self._profile = MotionProfile(np.zeros(6))
        self._gripper_goal: float | None = None
        self._torque = True
        self.place_arm(np.array(self.arm.sleep_pose))
        self._began = self._distances()

    @property
    def _by_position(self) -> bool:
        return self._body.gripper_drive == "position"

    @property
    def time(self) -> float:
        """Simulated seconds since the station was built."""
        return float(self._data.time)

    def reset(self, task: str, seed: int) -> None:
        """Put the scene into the task's start state; the seed decides the randomised poses. The arm stays.

        Raises: ConfigError for a task the scene lacks.
        """
        scene_task = self.scene.task(task)
        random = np.random.default_rng(seed)
        self._model.body_pos[:] = self._home_bodies
        for body, offsets in sorted(self.scene.randomise.items()):
            self._model.body_pos[self._model.body(body).id] += offsets.draw(random)
        self._model.light_diffuse[:] = self._home_lights
        for light, factors in sorted(self.scene.light.items()):
            self._model.light_diffuse[self._model.light(light).id] *= random.uniform(*factors)
        for joint, limits in sorted(scene_task.joints.items()):
            self._data.qpos[self._model.joint(joint).qposadr[0]] = random.uniform(*limits)
            self._data.qvel[self._model.joint(joint).dofadr[0]] = 0.0
        if scene_task.bodies:
            mujoco.mj_kinematics(self._model, self._data)  # where the sites are now
        for body, placement in sorted(scene_task.bodies.items()):
            self._place(body, placement, random)
        self._forward()
        self._began = self._distances()

    def _place(self, name: str, placement: Placement, random: np.random.Generator) -> None:
        """Lay an object down where its placement says."""
        joint = self._model.joint(self._model.body(name).jntadr[0])
        offset = np.array([random.uniform(*placement.x), random.uniform(*placement.y), 0.0])
        half = random.uniform(*placement.yaw) / 2
        position = self._data.site(placement.at).xpos + offset
        first, speed = joint.qposadr[0], joint.dofadr[0]
        self._data.qpos[first : first + 7] = [*position, np.cos(half), 0.0, 0.0, np.sin(half)]
        self._data.qvel[speed : speed + 6] = 0.0

    def _distances(self) -> dict[str, float]:
        """What each task lacks to be done, metres or radians."""
        return {name: task.success.distance(self.view) for name, task in self.scene.tasks.items()}

    def arm_start_offset(self, seed: int) -> np.ndarray:
        """Offset (3,) metres of the arm's start position for this seed."""
        return self.scene.arm_start.draw(np.random.default_rng([seed, 1]))

    def place_arm(self, joints: np.ndarray, opening: float = 1.0) -> None:
        """Set the arm down at `joints` (6,) rad, at rest, with the gripper at `opening` (0 .. 1)."""
        self._data.qpos[self._qpos] = joints
        closed, stroke = self.arm.gripper.closed, round(self.arm.gripper.open - self.arm.gripper.closed, 9)
        self._data.qpos[self._fingers] = closed + stroke * opening
        self._data.qvel[self._dof] = 0.0
        self._data.qvel[self._finger_dof] = 0.0
        self._data.ctrl[self._gripper_motor] = closed + stroke * opening if self._by_position else 0.0
        self._gripper_goal = None
        self._profile.hold(joints)
        self._data.ctrl[self._motors] = joints
        self._forward()

    def _forward(self) -> None:
        """Derive everything from the state anew: what the solver remembers would make equal starts differ."""
        self._data.qacc_warmstart[:] = 0.0
        mujoco.mj_forward(self._model, self._data)

    def advance(self, seconds: float) -> None:
        """Simulate `seconds`."""
        step = self._model.opt.timestep
        steps = max(1, round(seconds / step))
        if self._profile.resting and self._gripper_goal is None:  # the motors' inputs stay: no need to come back here
            self._data.ctrl[self._motors] = self._profile.advance(steps * step)
            mujoco.mj_step(self._model, self._data, steps)
            steps = 0
        for _ in range(steps):
            self._data.ctrl[self._motors] = self._profile.advance(step)
            if self._gripper_goal is not None and self._by_position:
                self._data.ctrl[self._gripper_motor] = self._gripper_goal
            elif self._gripper_goal is not None:
                error = self._gripper_goal - self._data.qpos[self._fingers[0]]
                self._data.ctrl[self._gripper_motor] = float(np.clip(error * 2000.0, -10.0, 10.0))
            mujoco.mj_step(self._model, self._data)
        if not np.isfinite(self._data.qpos).all():
            raise StationError("the simulation diverged: a state is not finite; reset the scene")

    def joint_state(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Positions (rad, m), velocities and efforts (mA), each (9,): six joints, gripper, left and right finger."""
        arm = self._data.qpos[self._qpos]
        finger = float(self._data.qpos[self._fingers[0]])
        positions = np.concatenate([arm, [self._horn_angle(finger), finger, -finger]])
        velocities = np.zeros(9)
        velocities[:6] = self._data.qvel[self._dof]
        efforts = np.zeros(9)
        efforts[:6] = self._data.actuator_force[self._motors]
        if self._body.torque_constants is not None:
            efforts[:6] = efforts[:6] / self._body.torque_constants * 1000.0
        efforts[6] = self._data.actuator_force[self._gripper_motor] / NEWTON_PER_PWM
        return positions, velocities, efforts

    def _horn_angle(self, finger: float) -> float:
        """Radians of the gripper's motor; 0 where nothing turns."""
        return 0.0 if self._horn is None else float(np.interp(finger, self._horn, _ANGLES))

    def end_effector(self) -> np.ndarray:
        """Measured pose (4, 4) of the end effector in the base frame, metres."""
        site = self._data.site(self._body.end_effector)
        pose = np.eye(4)
        pose[:3, :3] = site.xmat.reshape(3, 3)
        pose[:3, 3] = site.xpos
        return pose

    def command_joints(self, joints: np.ndarray, duration_s: float, ramp_s: float) -> None:
        """New goal (6,) rad, reached in `duration_s` with `ramp_s` ramps; 0 is full speed. Ignored without torque."""
        if self._torque:
            self._profile.set_goal(np.asarray(joints, dtype=np.float64), duration_s, ramp_s)

    def command_gripper_pwm(self, pwm: float) -> None:
        """PWM in [-350, 350]; positive opens. A gripper that is driven by position takes none."""
        if self._by_position:
            return
        self._gripper_goal = None
        self._data.ctrl[self._gripper_motor] = float(np.clip(pwm, -350.0, 350.0)) * NEWTON_PER_PWM * self._torque

    def command_gripper_position(self, distance: float) -> None:
        """Distance between the fingers, metres (0.030 closed, 0.074 open, of a WidowX 250s)."""
        if self._torque:
            self._gripper_goal = float(np.clip(distance / 2.0, self.arm.gripper.closed, self.arm.gripper.open))

    def set_torque(self, enabled: bool) -> None:
        """Switch the motors; without torque the arm sinks, and with it again holds where it is."""
        if enabled == self._torque:
            return
        self._torque = enabled
        gain, bias = self._gains
        self._model.actuator_gainprm[self._motors] = gain[self._motors] if enabled else 0.0
        self._model.actuator_biasprm[self._motors] = bias[self._motors] if enabled else 0.0
        self._profile.hold(self._data.qpos[self._qpos])
        if not enabled:
            self._gripper_goal = None
            self._data.ctrl[self._gripper_motor] = 0.0

    def success(self, task: str) -> bool:
        """The task's success predicate on the state now, for scoring only. Raises: ConfigError for an unknown task."""
        return self.scene.task(task).success.holds(self.view)

    def credit(self, task: str) -> float:
        """How far the task has come since the reset, 0 to 1, and 1 only at success; for rewarding practice only.

        Raises: ConfigError for an unknown task.
        """
        return credit(self.scene.task(task).success, self.view, self._began[task])

    @property
    def drawer_opening(self) -> float:
        """Metres; NaN where the scene has no drawer."""
        return self.view.joint_position(self.scene.drawer_joint) if self.scene.drawer_joint else float("nan")

    def snapshot(self) -> Snapshot:
        """What the station looks like now."""
        return Snapshot(self._data.qpos.copy(), self._model.body_pos.copy(), self._model.light_diffuse.copy())

    @property
    def model(self) -> mujoco.MjModel:
        """The scene's model as the reset left it: to be read, not changed."""
        return self._model

    def renderer(self, width: int, height: int) -> Renderer:
        """A renderer of the scene's camera, to be used by the thread that asks for it."""
        model = mujoco_model(self._model_path, self._body)
        return Renderer(model, self.scene.camera, width, height)
