"""Frames of a simulated station that are augmented. What is where in them is known from its model."""

from __future__ import annotations

from gymnast_core.compositing.compose import Scene
from gymnast_core.compositing.masks import shrink_mask
from gymnast_core.compositing.plane import TablePlane
from gymnast_core.config import StationConfig
from gymnast_core.evaluation.imagined_starts import mark_of
from gymnast_core.protocols import Start
from gymnast_core.rollout.starts import station_starts
from gymnast_core.seeds import derive_seed
from gymnast_core.simulation.environment import StationEnvironment
from gymnast_core.simulation.segmentation import Segmenter
from gymnast_core.workflows.augment_config import FramesConfig
from gymnast_core.workflows.augment_frames import Source


class SimulatedFrames:
    """First frames of a simulated station's resets; masks from its model."""

    protected_by = "the simulation"

    def __init__(self, config: FramesConfig, station: StationConfig) -> None:
        self._config, self._station = config, station
        self._environment = StationEnvironment(station)
        self._segmenter: Segmenter | None = None

    def sources(self) -> list[Source]:
        config = self._config
        seed = derive_seed(config.seed, "augment")
        found: dict[str, Source] = {}
        count = min(config.resets, config.limit) if config.limit else config.resets
        for start in station_starts(self._station, config.tasks, count, seed):
            frame = self._environment.reset([start])[0]
            place = tuple(float(one) for one in self._environment.states()[0, 0, :3])
            whole = Start(start.instruction, frame, start.task, start.seed, place)
            mark = mark_of(frame, start.instruction)
            criteria = self._station.task(start.task).partial_credit_criteria
            name = f"{self._station.name}: {start.task}, reset {start.seed}"
            found.setdefault(mark, Source(name, mark, whole, frame, criteria))
        return list(found.values())

    def scene(self, source: Source) -> Scene:
        camera, side = self._station.camera, self._station.camera.observation_size
        self._environment.reset([source.start])
        station = self._environment.station()
        if self._segmenter is None:
            self._segmenter = Segmenter(self._station, station)
        protected, table = self._segmenter.masks(station.snapshot())
        pose = self._segmenter.camera()
        plane = TablePlane(pose.height, pose.pitch, pose.fovy, side, side, camera.width / camera.height)
        return Scene(source.frame, shrink_mask(protected, side, side), ~shrink_mask(~table, side, side), plane)

    def close(self) -> None:
        self._environment.close()
        if self._segmenter is not None:
            self._segmenter.close()
