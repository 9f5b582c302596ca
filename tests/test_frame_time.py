"""A picture's time is believed where it can be, and a camera that shows the past while the arm moves is dead."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sensor_msgs.msg import Image

from gymnast_core.config import CameraConfig
from gymnast_nodes import frame_time
from gymnast_nodes.frame_time import NewestFrame, StampClock

REST = [0.25, 0.0, 0.2, 0.0, 0.0, 0.0, 1.0]
AWAY = [0.25, 0.05, 0.2, 0.0, 0.0, 0.0, 1.0]


@given(st.lists(st.floats(-10.0, 10.0), min_size=1, max_size=20))
def test_no_stamp_makes_a_picture_younger_than_its_arrival(ages: list[float]) -> None:
    clock = StampClock(1.0, lambda stamp: 1000.0 - stamp)
    for age in ages:
        now = time.monotonic()
        moment = clock.place(1000.0 - age, now)
        assert moment.taken <= moment.arrived
        assert now - 1.01 <= moment.taken
        assert moment.believed == (-frame_time.AHEAD_S <= moment.late <= 1.0)
        assert moment.believed or clock.complaint


def picture(newest: NewestFrame, value: int, stamp: float) -> None:
    message = Image(width=32, height=24, step=96, encoding="rgb8", data=bytes([value]) * (96 * 24))
    message.header.stamp.sec, message.header.stamp.nanosec = int(stamp), int(stamp % 1 * 1e9)
    newest.take(message)


@pytest.mark.parametrize("values", [[7], [7, 8, 9]], ids=["one buffer", "a ring of buffers"])
@pytest.mark.parametrize("moves", [True, False])
def test_the_same_pictures_while_the_arm_moves_are_a_dead_camera(values: list[int], moves: bool) -> None:
    newest = NewestFrame(CameraConfig(width=32, height=24, max_age_s=30.0))
    problems = []
    begun = time.monotonic()
    for tick in range(40):
        picture(newest, values[tick % len(values)], time.time())
        newest.arm(AWAY if moves and tick > 5 else REST)
        problems.append((time.monotonic() - begun, newest.problem))
        time.sleep(0.05)
    assert not problems[len(values)][1] and not any(text for at, text in problems if at < 1.0)
    assert ("same picture" in problems[-1][1]) == moves
    picture(newest, 100, time.time())
    assert not newest.problem


def test_an_older_picture_does_not_take_the_place_of_a_newer_one() -> None:
    newest = NewestFrame(CameraConfig(width=32, height=24))
    now = time.time()
    picture(newest, 1, now - 0.05)
    picture(newest, 2, now - 0.15)
    assert newest.image is not None and newest.image.data[0] == 1 and "out of order" in newest.complaint
    assert newest.stamp_ns == pytest.approx((now - 0.05) * 1e9, abs=1e3)
