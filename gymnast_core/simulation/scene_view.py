"""What a scene's state says: where joints and objects are, what lies inside what, what the gripper touches.

It is the simulator's privilege, for scoring and for the scripted expert; no policy sees it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import mujoco
import numpy as np

from gymnast_core.errors import ConfigError
from gymnast_core.simulation.scene import Scene
from gymnast_core.simulation.success import JointSuccess


class SceneView:
    """Reads one model and its data; implements `SceneState`. Metres and radians, base frame.

    gripper_bodies: those that touch for the gripper.

    Raises: ConfigError naming the field of the scene file that names nothing of the model.
    """

    def __init__(self, model: mujoco.MjModel, data: mujoco.MjData, scene: Scene, gripper_bodies: Sequence[str]) -> None:
        self._model, self._data = model, data
        self._gripper = np.array([model.body(name).id for name in gripper_bodies])
        for field, kind, name in _names(scene):
            try:
                getattr(model, kind)(name)
            except KeyError as error:
                raise ConfigError(f"scene: {field}: found '{name}', which is no {kind} of {scene.model}") from error
        for task, content in scene.tasks.items():
            success = content.success
            if not isinstance(success, JointSuccess) and model.site(success.site).type[0] != mujoco.mjtGeom.mjGEOM_BOX:
                raise ConfigError(f"scene: tasks.{task}.success.site: '{success.site}' is no box of {scene.model}")
            for body in content.bodies:
                if not _is_free(model, body):
                    raise ConfigError(f"scene: tasks.{task}.bodies.{body}: has no free joint, so it lies nowhere else")

    def joint_position(self, name: str) -> float:
        """Of a joint of the scene, metres or radians."""
        return float(self._data.joint(name).qpos[0])

    def site_position(self, name: str) -> np.ndarray:
        """Position (3,) of a site."""
        return self._data.site(name).xpos.copy()

    def body_pose(self, name: str) -> np.ndarray:
        """Pose (4, 4) of a body."""
        body, pose = self._data.body(name), np.eye(4)
        pose[:3, :3], pose[:3, 3] = body.xmat.reshape(3, 3), body.xpos
        return pose

    def place(self, name: str) -> tuple[np.ndarray, float]:
        """Centre (3,) of a place, which is an upright box, and the height of its floor."""
        centre = self.site_position(name)
        return centre, float(centre[2] - self._model.site(name).size[2])

    def inside(self, body: str, site: str) -> np.ndarray:
        """How far the body's centre lies outside the site's box along each of its axes, (3,) metres; 0: inside."""
        place = self._data.site(site)
        offset = place.xmat.reshape(3, 3).T @ (self._data.body(body).xpos - place.xpos)
        return np.maximum(np.abs(offset) - self._model.site(site).size, 0.0)

    def is_held(self, body: str) -> bool:
        """Whether the gripper touches the body."""
        owners = self._model.geom_bodyid[self._data.contact.geom]  # (contacts, 2)
        touching = owners[(owners == self._model.body(body).id).any(axis=1)]
        return bool(np.isin(touching, self._gripper).any())


def _names(scene: Scene) -> Iterable[tuple[str, str, str]]:
    """Everything of the model that the scene file names: field, kind, name."""
    yield "camera", "camera", scene.camera
    if scene.drawer_joint:
        yield "drawer_joint", "joint", scene.drawer_joint
    for body in scene.randomise:
        yield "randomise", "body", body
    for light in scene.light:
        yield "light", "light", light
    for task, content in scene.tasks.items():
        where, success = f"tasks.{task}", content.success
        if isinstance(success, JointSuccess):
            yield f"{where}.success.joint", "joint", success.joint
        else:
            yield f"{where}.success.body", "body", success.body
            yield f"{where}.success.site", "site", success.site
        for joint in content.joints:
            yield f"{where}.joints", "joint", joint
        for body, placement in content.bodies.items():
            yield f"{where}.bodies", "body", body
            yield f"{where}.bodies.{body}.at", "site", placement.at


def _is_free(model: mujoco.MjModel, body: str) -> bool:
    first = int(model.body(body).jntadr[0])
    return first >= 0 and model.jnt_type[first] == mujoco.mjtJoint.mjJNT_FREE
