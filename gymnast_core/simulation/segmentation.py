"""What each pixel of a simulated station shows: the arm, the task's objects, the bare table, and how it sees the table.

Things that augmentation must leave alone are known here exactly, from the model, instead of from a mask file.
"""

from __future__ import annotations

import dataclasses
import math

import mujoco
import numpy as np

from gymnast_core.config import StationConfig
from gymnast_core.errors import ConfigError
from gymnast_core.simulation.simulator import SimulatedStation, Snapshot
from gymnast_core.simulation.success import JointSuccess, PlaceSuccess

AHEAD = 6
"""Positions of a task's joint, over its whole range, in which its object is protected: it may move there."""


@dataclasses.dataclass(frozen=True)
class CameraPose:
    """height: of the camera above the table, metres. pitch: of its axis below the horizon, radians. fovy: radians."""

    height: float
    pitch: float
    fovy: float


class Segmenter:
    """Masks of a simulated station's frames, at its camera's resolution.

    Raises: ConfigError where the scene's `surface` is no geom of its model; StationError when rendering fails.
    """

    def __init__(self, config: StationConfig, station: SimulatedStation) -> None:
        self._station = station
        self._model = station.model
        successes = [task.success for task in station.scene.tasks.values()]
        self._joints = sorted({success.joint for success in successes if isinstance(success, JointSuccess)})
        roots = {self._root(name) for name in (*station.arm.names, *self._joints)}
        for success in successes:
            if isinstance(success, PlaceSuccess):
                place = self._model.site(success.site).bodyid[0]
                roots |= {int(self._model.body_rootid[self._model.body(success.body).id])}
                roots |= {int(self._model.body_rootid[place])}
        self._protected = np.flatnonzero(np.isin(self._model.body_rootid[self._model.geom_bodyid], list(roots)))
        try:
            self._table = int(self._model.geom(station.scene.surface).id)
        except KeyError as error:
            raise ConfigError(
                f"scene: surface: found '{station.scene.surface}', which is no geom of its model"
            ) from error
        self._renderer = station.renderer(config.camera.width, config.camera.height)

    def _root(self, joint: str) -> int:
        """The outermost body that a joint's body is part of: the arm's base, a cabinet."""
        return int(self._model.body_rootid[self._model.joint(joint).bodyid[0]])

    def masks(self, snapshot: Snapshot) -> tuple[np.ndarray, np.ndarray]:
        """Protected pixels, and those of the bare table, (height, width) bool each.

        Protected are the arm, every object of the scene's tasks, and wherever such an object moves along its joint.
        """
        seen = self._renderer.geoms(snapshot)
        protected = np.isin(seen, self._protected)
        for name in self._joints:
            joint = self._model.joint(name)
            for value in np.linspace(joint.range[0], joint.range[1], AHEAD):
                positions = snapshot.positions.copy()
                positions[joint.qposadr[0]] = value
                protected |= np.isin(
                    self._renderer.geoms(dataclasses.replace(snapshot, positions=positions)), self._protected
                )
        return protected, (seen == self._table) & ~protected

    def camera(self) -> CameraPose:
        """How the scene's camera looks at the table's top."""
        data = mujoco.MjData(self._model)
        mujoco.mj_forward(self._model, data)
        camera = self._model.camera(self._station.scene.camera).id
        top = float(data.geom_xpos[self._table][2] + self._model.geom_size[self._table][2])
        axis = -data.cam_xmat[camera].reshape(3, 3)[:, 2]
        pitch = math.asin(float(np.clip(-axis[2], -1.0, 1.0)))
        return CameraPose(
            float(data.cam_xpos[camera][2]) - top, pitch, math.radians(float(self._model.cam_fovy[camera]))
        )

    def close(self) -> None:
        """Give the renderer back."""
        self._renderer.close()
