"""`gymnast camera check`: does the camera see what it saw when the station's reference photograph was taken?"""

from __future__ import annotations

import dataclasses
import json
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from gymnast_core.config import CameraConfig, StationConfig, load_config
from gymnast_core.data.frames import write_image
from gymnast_core.data.pictures import read_image
from gymnast_core.errors import ConfigError, StationError
from gymnast_core.evaluation.camera_check_config import CameraCheckConfig
from gymnast_core.evaluation.camera_view import ViewChange, compare_views
from gymnast_core.files import user_path
from gymnast_core.robot.video import Video
from gymnast_core.ros_client import become_ros_client, has_ros
from gymnast_core.station_file import find_station_file

POLL_S = 0.05
SETTLE_S = 1.0
"""A video device's automatic exposure takes this long after it was opened."""
MOST_WIDTH = 960
"""Of each picture in the one that is written, pixels."""


@dataclass(frozen=True)
class LivePicture:
    """What the camera sees. frame: (H, W, 3) uint8 RGB. source: where it came from, in words. notes: what a person
    should know of it."""

    frame: np.ndarray
    source: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class CameraCheck:
    """What a check found. shift, across and down in pixels of the reference photograph, to the right and downwards;
    parts, recognised and textured as in `ViewChange`, parts in pixels; brightness: mean grey level of the live picture
    less the photograph's, -255 to 255; difference: mean difference of grey levels, 0 to 255. Limits are the station
    file's. problems: what is beyond them; empty: the view is as it was. picture: the file that shows both."""

    station: str
    source: str
    shift: float
    across: float
    down: float
    parts: float
    recognised: int
    textured: int
    max_shift: float
    brightness: float
    max_brightness: float
    difference: float
    problems: tuple[str, ...]
    notes: tuple[str, ...]
    picture: str

    def lines(self) -> list[str]:
        """For people: a line for each measure."""
        ways = (
            f"{abs(self.across):.1f} {'right' if self.across >= 0 else 'left'}, "
            f"{abs(self.down):.1f} {'down' if self.down >= 0 else 'up'}"
        )
        told = [
            f"camera      {self.source}",
            f"shift       {self.shift:.1f} pixels ({ways}), allowed {self.max_shift:.1f} (evaluation.max_view_shift)",
            f"turn        {self.parts:.1f} pixels (median of the picture's parts), allowed {self.max_shift:.1f}",
            f"parts       {self.recognised} of {self.textured} recognised, needed a third",
            f"brightness  {self.brightness:+.1f} of 255 grey levels, allowed {self.max_brightness:g} either way "
            "(evaluation.max_view_brightness)",
            f"difference  {self.difference:.1f} of 255 grey levels; things that moved count, and it has no limit",
        ]
        told += [f"note        {note}" for note in self.notes]
        told += [f"problem     {problem}" for problem in self.problems]
        return [*told, f"picture     {self.picture}: reference, live, both in one"]


def camera_check(config: CameraCheckConfig) -> int:
    """Take a picture, compare, print. Raises: ConfigError, DataError, StationError for nothing to compare."""
    path = find_station_file(config.config)
    station = load_config(StationConfig, path)
    check_options(config, station, path)
    if has_ros():
        become_ros_client("camera_check_client", dataclasses.asdict(config))
    if station.camera.source != "device":
        raise ConfigError(
            f"{path}: camera.topic {station.camera.topic} is a ROS topic, and there is no ROS 2 in this shell; run "
            "`make setup` and `source tools/env.sh` first"
        )
    return judge(config, station, path, device_picture(station.camera, path.parent, config.seconds))


def check_options(config: CameraCheckConfig, station: StationConfig, path: Path) -> None:
    """Find what is wrong before any camera is asked. Raises: ConfigError, DataError."""
    for name, given in (("take", config.take), ("out", config.out)):
        if given and user_path(given, f"--{name}").suffix.lower() != ".png":
            raise ConfigError(f"--{name}: found '{given}', needed the name of a .png file")
    if not config.take:
        read_image(_reference(config, station, path))


def device_picture(camera: CameraConfig, beside: Path, seconds: float) -> LivePicture:
    """A picture of the device that the station file names, once its automatics have settled.

    seconds: how long pictures are waited for. Raises: StationError where none comes, or one of another size.
    """
    video = Video(camera, beside)
    video.open()
    try:
        began, found = time.monotonic(), None
        while found is None or (video.live and time.monotonic() - began < SETTLE_S):
            shot = video.read()
            if shot is None and time.monotonic() - began > seconds:
                raise StationError(f"camera: {video.name} gives no picture within {seconds:g} s")
            if shot is None:
                time.sleep(POLL_S)
            found = shot or found
    finally:
        video.close()
    height, width = found.frame.shape[:2]
    if (width, height) != (camera.width, camera.height):
        raise StationError(
            f"camera: {video.name} gives {width}x{height} pixels, the station file says {camera.width}x{camera.height} "
            "(camera.width, camera.height)"
        )
    film = () if video.live else ("a film: it does not show what is there now",)
    return LivePicture(found.frame, f"{video.name}, opened here", (*film, *video.untaken))


def judge(config: CameraCheckConfig, station: StationConfig, path: Path, live: LivePicture) -> int:
    """Compare, or keep the picture as the new reference; print, and return the exit code. Raises: DataError."""
    if config.take:
        write_image(_made(config.take), live.frame)
        where = f"wrote {config.take}; name it in {path} as evaluation.reference_view"
        print(json.dumps({"reference": config.take}) if config.json else where, flush=True)
        return 0
    reference = read_image(_reference(config, station, path))
    change = compare_views(reference, live.frame)
    write_image(_made(config.out), side_by_side(reference, live.frame))
    found = _found(config, station, live, change, reference.shape[1])
    told = json.dumps({"same": not found.problems, **dataclasses.asdict(found)}, allow_nan=False)
    print(told if config.json else "\n".join(found.lines()), flush=True)
    return 1 if found.problems else 0


def side_by_side(reference: np.ndarray, live: np.ndarray) -> np.ndarray:
    """Three pictures in a row (H, 3 W, 3) uint8 RGB: the reference, the live one in its size, and both in one, in which
    a dark thing that is only in the reference is red, one that is only live cyan."""
    height, width = reference.shape[:2]
    live = cv2.resize(live, (width, height), interpolation=cv2.INTER_AREA)
    grey, live_grey = (cv2.cvtColor(one, cv2.COLOR_RGB2GRAY) for one in (reference, live))
    both = np.dstack((live_grey, grey, grey))
    row = np.concatenate((reference, live, both), axis=1)
    shrink = min(1.0, MOST_WIDTH / width)
    size = (round(row.shape[1] * shrink), round(height * shrink))
    return row if shrink == 1.0 else cv2.resize(row, size, interpolation=cv2.INTER_AREA)


def _found(
    config: CameraCheckConfig, station: StationConfig, live: LivePicture, change: ViewChange, width: int
) -> CameraCheck:
    limits = station.evaluation
    return CameraCheck(
        station=station.name,
        source=live.source,
        shift=change.shift * width,
        across=change.across,
        down=change.down,
        parts=change.parts * width,
        recognised=change.recognised,
        textured=change.textured,
        max_shift=limits.max_view_shift * width,
        brightness=change.brightness,
        max_brightness=limits.max_view_brightness,
        difference=change.difference,
        problems=change.problems(limits.max_view_shift, limits.max_view_brightness),
        notes=live.notes,
        picture=config.out,
    )


def _reference(config: CameraCheckConfig, station: StationConfig, path: Path) -> Path:
    """The photograph. Raises: ConfigError where none is named."""
    if config.reference:
        return user_path(config.reference, "--reference")
    name = station.evaluation.reference_view
    if not name:
        raise ConfigError(
            f"{path}: evaluation.reference_view: found none; bring the arm to its start, take one with `gymnast camera "
            f"check {config.config} --take reference.png`, and name it there"
        )
    return path.parent / user_path(name, "evaluation.reference_view")


def _made(name: str) -> Path:
    """The path, its folder made."""
    path = user_path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
