"""The simulated station behind the environment protocol: the trainer and the evaluators cannot tell it from the rest.

It moves the arm exactly as the arm node does (`SteppedArm`), one control period after another, only without ROS and the
clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gymnast_core.config import StationConfig
from gymnast_core.data.frames import resize_frame
from gymnast_core.errors import StationError
from gymnast_core.protocols import Start, StepResult
from gymnast_core.simulation.simulator import Renderer, SimulatedStation, Snapshot
from gymnast_core.simulation.stepped_arm import Acted, SteppedArm


class _Rollout:
    """One station with its arm."""

    def __init__(self, config: StationConfig) -> None:
        self.station = SimulatedStation(config)
        self.arm = SteppedArm(config, self.station)
        self.snapshots: list[Snapshot] = []
        self.states: list[np.ndarray] = []
        self.openings: list[float] = []
        self.frames: dict[int, np.ndarray] = {}
        self.task = ""

    def reset(self, start: Start) -> None:
        self.task = start.task
        self.station.reset(start.task, start.seed)
        self.arm.begin(self.station.arm_start_offset(start.seed))
        self.snapshots, self.states, self.openings, self.frames = [], [], [], {}
        self._observe()

    def step(self, action: np.ndarray) -> Acted:
        """One control period."""
        acted = self.arm.act(action)
        self._observe()
        return acted

    def _observe(self) -> None:
        self.snapshots.append(self.station.snapshot())
        self.states.append(self.arm.state())
        self.openings.append(self.station.drawer_opening)


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
        success, credit, loads = np.zeros((3, *actions.shape[:2]), dtype=np.float32)
        events: list[list[tuple[str, ...]]] = []
        holds: list[list[tuple[str, ...]]] = []
        for row, rollout in enumerate(self._active):
            done = []
            for step in range(actions.shape[1]):
                done.append(rollout.step(actions[row, step]))
                success[row, step] = rollout.station.success(rollout.task)
                credit[row, step] = rollout.station.credit(rollout.task)
            executed[row] = [acted.executed for acted in done]
            changed[row] = [acted.changed for acted in done]
            loads[row] = [acted.strain.load for acted in done]
            events.append([acted.strain.events for acted in done])
            holds.append([acted.strain.holds for acted in done])
        return StepResult(self._render(-1), executed, success, events, changed, credit, holds, loads)

    def video(self, indices: Sequence[int] | None = None) -> np.ndarray:
        """Frames since the reset (N, n, S, S, 3) uint8."""
        count = len(self._active[0].snapshots) if self._active else 0
        wanted = range(count) if indices is None else indices
        outside = [index for index in wanted if not -count <= index < count]
        if outside:
            raise StationError(f"frame {outside[0]} was asked for; there are {count} since the reset")
        return np.stack([self._render(index) for index in wanted], axis=1)

    def states(self) -> np.ndarray:
        """Measured states since the reset (N, T + 1, 7), see `Episode.states`."""
        return np.stack([np.stack(rollout.states) for rollout in self._active])

    def facts(self) -> list[dict[str, Any]]:
        """How far the drawer was open at each frame, metres; nothing where the scene has none."""
        if self._active and not self._active[0].station.scene.drawer_joint:
            return [{} for _ in self._active]
        return [{"drawer_opening": [round(metres, 5) for metres in rollout.openings]} for rollout in self._active]

    def station(self, row: int = 0) -> SimulatedStation:
        """The simulated station of one rollout, for the scripted expert."""
        return self._active[row].station

    def task(self, row: int = 0) -> str:
        """The task of one rollout."""
        return self._active[row].task

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
