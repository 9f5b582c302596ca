"""The frames that are augmented, and what is known of each: what is protected in it, and where its table is bare."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from gymnast_core.compositing.compose import Scene
from gymnast_core.compositing.masks import check_mask, motion_mask
from gymnast_core.compositing.plane import TablePlane
from gymnast_core.compositing.surface import bare_table
from gymnast_core.config import StationConfig
from gymnast_core.data.formats import StoredEpisode
from gymnast_core.data.pictures import read_mask
from gymnast_core.data.trial_pictures import CRITERIA
from gymnast_core.errors import ConfigError, DataError
from gymnast_core.evaluation.imagined_starts import mark_of
from gymnast_core.files import user_path
from gymnast_core.protocols import Start
from gymnast_core.rollout.starts import find_starts
from gymnast_core.station_file import open_station
from gymnast_core.workflows.augment_config import DistractorsConfig, FramesConfig


@dataclass(frozen=True)
class Source:
    """A start frame (H, W, 3) uint8 to be augmented. name: where it is from. mark: tells it from others, see `mark_of`.
    criteria: when half a point is given; empty: never."""

    name: str
    mark: str
    start: Start
    frame: np.ndarray
    criteria: str = ""
    stored: StoredEpisode | None = None


class Frames(Protocol):
    """Frames of one origin."""

    protected_by: str
    """How it is known what is protected, in words."""

    def sources(self) -> list[Source]:
        """All frames, equal ones once."""
        ...

    def scene(self, source: Source) -> Scene:
        """What is known of one of them. Raises: DataError."""
        ...

    def close(self) -> None:
        """Nothing more is asked."""
        ...


def open_frames(config: FramesConfig) -> Frames:
    """Raises: ConfigError where there is neither a folder nor a simulation, or options do not go together."""
    station = open_station(config.config).config
    if config.starts:
        if config.tasks:
            raise ConfigError("tasks: found some with `starts`; needed none, the frames have instructions of their own")
        return StoredFrames(config, station)
    for name in ("mask", "table"):
        if getattr(config, name, ""):
            raise ConfigError(f"{name}: found one without `starts`; leave it out: the simulation knows what is where")
    if station.simulation is None:
        raise ConfigError(f"starts: found none; needed a folder, or a station with a simulation, not '{station.name}'")
    from gymnast_core.workflows.augment_simulation import SimulatedFrames  # a simulator is no need of stored frames

    return SimulatedFrames(config, station)


def read_sources(folders: Sequence[str], limit: int) -> list[Source]:
    """The first frames below folders, in their own size, equal ones once; at most `limit` of each instruction, 0: all.

    Raises: DataError where a folder is missing, or nothing is usable.
    """
    found: dict[str, Source] = {}
    count: Counter[str] = Counter()
    for folder in folders:
        for stored, start in find_starts(folder):
            assert start.frame is not None
            mark = mark_of(start.frame, start.instruction)
            if mark in found or (limit and count[start.instruction] >= limit):
                continue
            count[start.instruction] += 1
            criteria = str(stored.describe().metadata.get(CRITERIA, ""))
            found[mark] = Source(str(stored.path), mark, start, start.frame, criteria, stored)
    if not found:
        raise DataError(f"{', '.join(folders)}: no start frame; needed X.png with X.json, or episodes")
    return list(found.values())


class StoredFrames:
    """Frames from folders; masks from files, or from what moves in a logged episode."""

    def __init__(self, config: FramesConfig, station: StationConfig) -> None:
        self._config = config
        self._aspect = station.camera.width / station.camera.height
        asked = config if isinstance(config, DistractorsConfig) else None
        self._mask, self._table = (asked.mask, asked.table) if asked else ("", "")
        self.protected_by = "a mask file" if self._mask else "motion in the episode"

    def sources(self) -> list[Source]:
        return read_sources(self._config.starts, self._config.limit)

    def scene(self, source: Source) -> Scene:
        config, frame = self._config, source.frame
        assert isinstance(config, DistractorsConfig)
        protected = self._protected(source)
        if self._table:
            path = _mask_file(self._table, source, "table")
            table = check_mask(read_mask(path), frame, str(path)) & ~protected
        else:
            table = bare_table(frame, protected, swept=not self._mask)
        plane = TablePlane(
            config.camera_height,
            math.radians(config.camera_pitch),
            math.radians(config.camera_fovy),
            frame.shape[0],
            frame.shape[1],
            self._aspect,
        )
        return Scene(frame, protected, table, plane)

    def close(self) -> None:
        return

    def _protected(self, source: Source) -> np.ndarray:
        if self._mask:
            path = _mask_file(self._mask, source, "mask")
            return check_mask(read_mask(path), source.frame, str(path))
        stored = source.stored
        if stored is None or stored.count() < 2:
            raise DataError(
                f"{source.name}: nothing tells the robot and the task's objects from the rest; give --mask with a PNG "
                "file (white: protected), or logged episodes, in which they move"
            )
        try:
            return motion_mask(stored.frames())
        except DataError as error:
            raise DataError(f"{source.name}: {error}; give --mask with a PNG file (white: protected)") from error


def _mask_file(given: str, source: Source, option: str) -> Path:
    """The mask of a frame: the one file, or that of the frame's name in a folder. Raises: DataError."""
    path = user_path(given, option)
    if not path.is_dir():
        return path
    stem = Path(source.name).stem
    file = path / f"{stem}.png"
    if not file.is_file():
        raise DataError(f"{option}: found no {stem}.png in {path}, needed one for {source.name}")
    return file
