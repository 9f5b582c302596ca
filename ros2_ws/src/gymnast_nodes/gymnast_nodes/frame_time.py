"""When a picture was taken, and whether a camera still shows what is there.

A camera's stamp is believed when it lies between `camera.max_age_s` ago and now. Otherwise (zero, ahead of the clock)
the picture's arrival stands for it, which is never earlier than the truth, and a warning says so. All times here are
the steady clock's, in seconds.
"""

from __future__ import annotations

import collections
import math
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from gymnast_core.config import CameraConfig
from gymnast_nodes.clocks import WALL
from gymnast_nodes.messages import Picture, frame_problem, to_seconds
from gymnast_nodes.reading import RateMeter

AHEAD_S = 0.02
"""A stamp may be ahead of the clock by this much: two synchronised machines."""
DEAD_AFTER_S = 1.0
"""The arm moves for this long and the picture stays the same: the camera is dead."""
REMEMBERED_PICTURES = 8
"""A dead driver may hand out the buffers of its ring in turn."""
MOVED_M, MOVED_RAD, MOVED_GRIPPER = 0.01, 0.05, 0.2
"""An arm that went farther than this changes the picture."""


@dataclass(frozen=True)
class Moment:
    """When something was taken.

    taken, arrived: seconds of the steady clock; taken is never later than arrived.
    late: seconds between them by the stamp, also where the stamp was not believed.
    believed: whether the stamp was.
    in_order: False for one older than a believed one that came before it.
    """

    taken: float
    arrived: float
    late: float
    believed: bool
    in_order: bool = True


class StampClock:
    """Places the stamps of one publisher on the steady clock.

    max_age_s: older stamps are not believed. age: seconds since a stamp (seconds since the epoch).
    """

    def __init__(self, max_age_s: float, age: Callable[[float], float] = WALL.age) -> None:
        self._max_age = max_age_s
        self._age = age
        self._newest = -math.inf
        self.out_of_order = 0
        self.complaint = ""
        """What is wrong with the stamps, empty when they are believed."""

    def place(self, stamp: float, arrived: float | None = None) -> Moment:
        """stamp: seconds since the epoch, 0 for none. arrived: now, unless it waited somewhere."""
        now = time.monotonic()
        arrived = now if arrived is None else min(arrived, now)
        if stamp <= 0:
            self.complaint = "stamps are zero; the time of arrival is used"
            return Moment(arrived, arrived, 0.0, False)
        late = self._age(stamp) - (now - arrived)
        if late < -AHEAD_S:
            self.complaint = f"stamps are {-late:.2f} s ahead of the clock; the time of arrival is used"
            return Moment(arrived, arrived, late, False)
        if late > self._max_age:
            self.complaint = f"stamps are {late:.1f} s old when they come"
            return Moment(arrived, arrived, late, False)
        taken = arrived - max(0.0, late)
        in_order = taken >= self._newest - AHEAD_S / 2
        if not in_order:
            self.out_of_order += 1
            self.complaint = f"{self.out_of_order} came out of order by their stamps"
        elif not self.out_of_order:
            self.complaint = ""
        self._newest = max(self._newest, taken)
        return Moment(taken, arrived, late, True, in_order)


class SamePicture:
    """Notices a camera that hands out the same bytes while the arm moves."""

    def __init__(self) -> None:
        self._known: collections.deque[int] = collections.deque(maxlen=REMEMBERED_PICTURES)
        self._since = 0.0
        self._place: np.ndarray | None = None
        self._moving_since = math.inf

    def picture(self, data: bytes | memoryview) -> None:
        """A picture came."""
        mark = zlib.crc32(data)
        if mark in self._known:
            return
        self._known.append(mark)
        self._since, self._place, self._moving_since = time.monotonic(), None, math.inf

    def arm(self, pose: Sequence[float]) -> None:
        """The arm was measured at x, y, z (metres), roll, pitch, yaw (radians), opening 0 to 1."""
        place = np.asarray(pose, dtype=np.float64)
        if not np.isfinite(place).all():
            return
        if self._place is None:
            self._place = place
        gone = np.abs(place - self._place)
        if gone[:3].max() > MOVED_M or gone[3:6].max() > MOVED_RAD or gone[6] > MOVED_GRIPPER:
            self._moving_since = min(self._moving_since, time.monotonic())

    @property
    def dead_for(self) -> float:
        """Seconds for which the picture stayed the same, 0 unless the arm has moved for most of them."""
        now = time.monotonic()
        return now - self._since if now - self._moving_since > DEAD_AFTER_S else 0.0


class NewestFrame:
    """The newest camera frame, and what keeps it from being acted on. `age`: seconds since a stamp, in seconds."""

    def __init__(self, camera: CameraConfig, age: Callable[[float], float] = WALL.age) -> None:
        self._camera = camera
        self._clock = StampClock(camera.max_age_s, age)
        self._same = SamePicture()
        self._moment = Moment(-math.inf, -math.inf, 0.0, False)
        self._stamp_ns = 0
        self.image: Picture | None = None
        self.rate = RateMeter()

    def take(self, message: Picture) -> None:
        """A frame came. The same one again, or an older one, is none: a camera that hangs must not look alive."""
        stamp = message.header.stamp
        if self.image is not None and to_seconds(stamp) > 0 and stamp == self.image.header.stamp:
            return
        moment = self._clock.place(to_seconds(stamp))
        if not moment.in_order:
            return
        self._moment = moment
        self._stamp_ns = stamp.sec * 10**9 + stamp.nanosec if moment.believed else time.time_ns()
        self.image = message
        self._same.picture(memoryview(message.data))
        self.rate.tick()

    def arm(self, pose: Sequence[float]) -> None:
        """Where the arm was measured (see `SamePicture.arm`); without it a picture that stays the same is no fault."""
        self._same.arm(pose)

    @property
    def stamp_ns(self) -> int:
        """When the newest frame was taken, as far as is known: nanoseconds since the epoch."""
        return self._stamp_ns

    @property
    def complaint(self) -> str:
        """What is wrong with the stamps and keeps nobody from acting; empty when nothing is."""
        return f"camera: {self._camera.topic}: {self._clock.complaint}" if self._clock.complaint else ""

    @property
    def overdue(self) -> str:
        """Why the newest frame is too old, in one line: what the next frame may mend. Empty when it is not."""
        topic, age = self._camera.topic, time.monotonic() - self._moment.arrived
        if self.image is None:
            return f"camera: no frame on {topic}; is the camera running?"
        if age > self._camera.max_age_s:
            return f"camera: no new frame on {topic} for {age:.1f} s; is the camera running?"
        if self._moment.late > self._camera.max_age_s:
            return (
                f"camera: frames on {topic} are {self._moment.late:.1f} s old when they come, allowed are "
                f"{self._camera.max_age_s:g} s; check the driver's clock and load"
            )
        return ""

    @property
    def problem(self) -> str:
        """One line, empty when the newest frame shows what is there now."""
        topic, overdue = self._camera.topic, self.overdue
        if self.image is None or overdue:
            return overdue
        if self._same.dead_for:
            return (
                f"camera: {topic} has shown the same picture for {self._same.dead_for:.1f} s while the arm moves; "
                "restart the camera"
            )
        problem = frame_problem(self.image, self._camera)
        return f"camera: {problem}" if problem else ""
