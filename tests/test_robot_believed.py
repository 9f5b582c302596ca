"""What the arm's joint states have to be before anything acts on them: whole, possible, of now, and where a joint can
have got to; and that no sequence of false ones makes a hold go where the arm cannot be."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gymnast_core.robot.believed import (
    CONTRADICTED_S,
    DIRECT_S,
    HANG_S,
    MAX_AGE_S,
    NOISE,
    REJOIN,
    RUN_S,
    RUN_SAMPLES,
    SILENT_S,
    BelievedArm,
    FailedRead,
    read_sample,
)
from gymnast_core.robot.guard import HOLD_FRESH_S
from gymnast_core.robot.kinematics import JOINT_LOWER, JOINT_NAMES, JOINT_SPEED, JOINT_UPPER

NAMES = [*JOINT_NAMES, "gripper", "left_finger", "right_finger"]
PERIOD = 0.01
PLACE = np.array([0.1, -0.2, 0.3, 0.0, 1.4, 0.1])
TICKS = -math.pi + np.arange(6) % 2 * 2 * math.pi / 4096
"""Raw 0 and raw 1: what a driver makes of a read that failed."""


class Feed:
    """Joint states at 100 Hz, stamped when they are measured unless said otherwise."""

    def __init__(self, place: np.ndarray | None = PLACE) -> None:
        self.arm = BelievedArm()
        self.now = 1000.0
        if place is not None:
            self.many(place, 20)

    def one(self, joints: np.ndarray, period: float = PERIOD, age: float = 0.0, stamp: int | None = None) -> bool:
        self.now += period
        self.arm.look(self.now)
        positions = [*(float(q) for q in joints), 1.0, 0.03, -0.03]
        stamp_ns = int((self.now - age) * 1e9) if stamp is None else stamp
        return self.arm.take(NAMES, positions, [0.0] * 9, [100.0] * 9, self.now, stamp_ns, age)

    def many(self, joints: np.ndarray, count: int, period: float = PERIOD) -> list[bool]:
        return [self.one(joints, period) for _ in range(count)]

    @property
    def hold(self) -> np.ndarray | None:
        return self.arm.hold(self.now, HOLD_FRESH_S)


def moved(joint: int, by: float) -> np.ndarray:
    joints = PLACE.copy()
    joints[joint] += by
    return joints


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s["names"].remove("elbow"), "9 positions for 8"),
        (lambda s: (s["names"].pop(2), s["positions"].pop(2), s["velocities"].pop(2), s["efforts"].pop(2)), "elbow"),
        (lambda s: s["positions"].__delitem__(slice(6, None)), "6 positions for 9"),
        (lambda s: s["efforts"].pop(), "8 efforts for 9"),
        (lambda s: s["names"].__setitem__(6, "waist"), "twice"),
        (lambda s: s["positions"].__setitem__(1, math.nan), "position of shoulder is not finite"),
        (lambda s: s["efforts"].__setitem__(2, math.inf), "effort of elbow"),
        (lambda s: s["velocities"].__setitem__(0, -math.inf), "velocity of waist"),
        (lambda s: s["positions"].__setitem__(1, 2.2), "shoulder at 2.2000 rad, its limits"),
        (lambda s: s["positions"].__setitem__(0, -math.pi), "waist"),
        (lambda s: s["positions"].__setitem__(slice(0, 6), list(TICKS)), "its limits"),
        (lambda s: s["positions"].__setitem__(slice(0, 6), [-math.pi] * 6), "its limits"),
        (lambda s: s["positions"].__setitem__(slice(0, 6), list(np.degrees(PLACE))), "its limits"),
    ],
)
def test_a_joint_state_that_is_none_is_named(change: Callable[[dict[str, list]], object], words: str) -> None:
    sample = {
        "names": list(NAMES),
        "positions": [*PLACE, 1, 0.03, -0.03],
        "velocities": [0.0] * 9,
        "efforts": [0.0] * 9,
    }
    read_sample(**sample)
    change(sample)
    with pytest.raises(FailedRead, match=words):
        read_sample(**sample)


def test_order_extra_joints_and_a_driver_without_effort_do_not_matter() -> None:
    values = dict(zip(NAMES, [*PLACE, 1.0, 0.03, -0.03])) | {"camera_pan": math.nan}
    names = sorted(values)
    sample = read_sample(names, [values[name] for name in names], [], [])
    assert np.array_equal(sample.joints, PLACE) and sample.effort is None and sample.finger == 0.03


def test_the_first_sample_is_not_believed_and_a_bad_first_one_costs_nothing() -> None:
    feed = Feed(None)
    assert not feed.one(moved(1, 0.8)) and feed.hold is None
    accepted = feed.many(PLACE, 8)
    assert accepted.index(True) == RUN_SAMPLES - 1, "believed as soon as a run agrees"
    assert np.array_equal(feed.hold, PLACE)


@pytest.mark.parametrize("bad", [moved(0, 0.5), moved(5, -0.1), TICKS, np.zeros(6), np.full(6, math.nan)])
def test_one_bad_sample_among_good_ones_delays_nothing_and_is_no_motion(bad: np.ndarray) -> None:
    feed = Feed()
    assert not feed.one(bad)
    assert np.array_equal(feed.hold, PLACE) and feed.arm.speed == 0.0
    assert feed.one(PLACE) and feed.arm.failed_since == 0 and feed.arm.speed == 0.0 and feed.arm.problem


def test_the_fastest_motion_of_a_real_arm_is_believed() -> None:
    feed = Feed()
    for step in range(1, 60):
        assert feed.one(moved(0, 0.99 * JOINT_SPEED * step * PERIOD))
    assert feed.arm.speed == pytest.approx(JOINT_SPEED, rel=0.05)
    for step in range(1, 60):  # 25 Hz, no stamps: as old as they are long on their way
        assert feed.one(moved(0, JOINT_SPEED * 0.59 - 0.99 * JOINT_SPEED * step * 0.02), 0.02, stamp=0)


def test_a_false_value_that_stays_is_never_believed_by_itself_and_a_person_may_end_that() -> None:
    feed = Feed()
    false = moved(2, 0.5)
    assert not any(feed.many(false, 90)) and feed.hold is None and not feed.arm.contradiction()
    assert not any(feed.many(false, 2000))
    assert "elbow reads 0.800 rad" in feed.arm.contradiction() and feed.hold is None
    assert feed.many(PLACE, RUN_SAMPLES)[-1], "the truth, once it is back, is"
    assert not feed.arm.contradiction()
    feed.many(false, 150)
    feed.arm.forget()
    assert feed.hold is None, "nothing is held at until it is seen anew"
    assert any(feed.many(false, RUN_SAMPLES + 1)) and np.array_equal(feed.hold, false)


def test_two_sources_in_turn_are_not_taken_for_one() -> None:
    feed = Feed(None)
    for _ in range(300):
        assert not feed.one(PLACE) and not feed.one(np.zeros(6))
    feed = Feed()
    for _ in range(300):
        assert feed.one(PLACE) and not feed.one(np.zeros(6)), "where one was believed before, it stays"


@pytest.mark.parametrize("noise", [True, False])
def test_an_arm_moved_while_the_driver_was_silent_is_found_again_but_not_at_once(noise: bool) -> None:
    feed = Feed()
    if noise:
        assert not any(feed.many(TICKS, 60)), "failed reads are silence"
    assert feed.hold is None or not noise
    near = moved(1, 0.4)
    assert not feed.one(near, SILENT_S + 0.1) and feed.hold is None
    assert feed.many(near, 6).index(True) == RUN_SAMPLES - 2
    assert np.array_equal(feed.hold, near)
    elsewhere = moved(1, 1.2)
    assert not feed.one(elsewhere, SILENT_S + 0.1) and not any(feed.many(elsewhere, 90)) and feed.hold is None
    assert any(feed.many(elsewhere, 20)) and np.array_equal(feed.hold, elsewhere)


def test_an_arm_under_command_that_left_its_target_unseen_needs_a_person() -> None:
    feed = Feed()
    feed.arm.expect(moved(1, 0.6))
    feed.one(moved(1, 0.6), 1.0)
    assert any(feed.many(moved(1, 0.6), 6)), "it went on to its target"
    feed = Feed()
    feed.arm.expect(PLACE)
    feed.one(moved(1, 0.9), 1.0)
    assert not any(feed.many(moved(1, 0.9), 120)) and "no torque" in feed.arm.contradiction()
    feed.arm.expect(None)


def test_stamps_tell_the_age_and_odd_stamps_refresh_nothing() -> None:
    feed = Feed()
    assert not feed.one(PLACE, age=MAX_AGE_S + 0.1) and "old by its stamp" in feed.arm.problem
    assert feed.one(PLACE, age=0.0)
    same = int(feed.now * 1e9)
    assert not any(feed.one(PLACE, stamp=same) for _ in range(50)), "a driver that repeats itself"
    assert feed.hold is None
    feed = Feed()
    assert feed.one(PLACE, 0.1, age=0.05)
    assert not feed.one(PLACE, age=0.1), "one that comes after a later one"
    feed = Feed()
    assert all(feed.one(PLACE, age=-3600.0) for _ in range(10)) and feed.arm.stamps_ahead_s == 3600.0
    feed = Feed()
    assert all(feed.one(PLACE, stamp=0) for _ in range(10)) and feed.hold is not None


@pytest.mark.parametrize("stamped", [True, False])
def test_a_process_that_was_away_believes_nothing_of_before(stamped: bool) -> None:
    feed = Feed()
    assert feed.arm.look(feed.now + HANG_S + 0.01) > HANG_S
    assert feed.hold is None and not feed.arm.fresh(feed.now, 10.0)
    feed = Feed()
    feed.now += 3.0
    assert feed.arm.look(feed.now) == pytest.approx(3.0)
    for late in range(10):  # what waited in the queue comes all at once, before what is measured now
        age = 2.9 - late * PERIOD
        assert not feed.one(PLACE, 0.0, age, None if stamped else 0)
    assert feed.hold is None
    there = moved(0, 0.4)
    accepted = [feed.one(there, PERIOD, 0.0, None if stamped else 0) for _ in range(30)]
    assert accepted.index(True) >= RUN_SAMPLES - 1 and np.array_equal(feed.hold, there)


def test_a_hold_is_within_the_limits_and_an_odd_finger_is_not_taken() -> None:
    low = np.array([*PLACE])
    low[1] = JOINT_LOWER[1] - 0.05
    feed = Feed(low)
    assert feed.hold is not None and feed.hold[1] == JOINT_LOWER[1]
    feed = Feed()
    for finger in (-0.5, math.nan, 0.016):  # out of its range, no number, a jump
        feed.now += PERIOD
        positions = [*PLACE, 1.0, finger, -finger]
        assert feed.arm.take(NAMES, positions, [], [], feed.now, int(feed.now * 1e9), 0.0)
        assert feed.arm.finger == 0.03
    feed.now += PERIOD
    feed.arm.take(NAMES, [*PLACE, 1.0, 0.016, -0.016], [], [], feed.now, int(feed.now * 1e9), 0.0)
    assert feed.arm.finger == 0.016


JOINTS = st.lists(st.floats(-4.0, 4.0) | st.just(math.nan), min_size=6, max_size=6).map(np.array)
POSSIBLE = st.tuples(*(st.floats(float(a), float(b)) for a, b in zip(JOINT_LOWER + 0.01, JOINT_UPPER))).map(np.array)
FALSE = st.one_of(JOINTS, POSSIBLE, st.just(TICKS), st.just(np.full(6, -math.pi)), st.just(np.zeros(6)))
EVENT = st.one_of(
    st.tuples(st.just("good"), st.integers(1, 12), st.floats(-1.0, 1.0)),
    st.tuples(st.just("false"), st.integers(1, 60), FALSE),
    st.tuples(st.just("noise"), st.integers(1, 40), st.lists(FALSE, min_size=1, max_size=4)),
    st.tuples(st.just("silent"), st.floats(0.0, SILENT_S * 0.9), st.none()),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(EVENT, max_size=15), st.integers(0, 5))
def test_no_sequence_of_false_samples_makes_a_hold_that_no_joint_gets_to(events: list, joint: int) -> None:
    """Every hold is where the fastest joint can be by then, from the last true sample; REJOIN's slack comes on top. (An
    arm that nobody commands, and that was not seen for 1.5 s, may be believed elsewhere.)"""
    feed = Feed()
    place, seen_at = PLACE.copy(), feed.now

    def check() -> None:
        hold = feed.hold
        if hold is not None and feed.now - seen_at < SILENT_S + CONTRADICTED_S:
            far = float(np.max(np.abs(hold - place)))
            assert far <= 1.1 * JOINT_SPEED * (feed.now - seen_at) + 2 * NOISE + REJOIN, (far, feed.now - seen_at)

    for kind, amount, what in events:
        if kind == "good":
            for _ in range(amount):
                place = place.copy()
                place[joint] = np.clip(
                    place[joint] + what * JOINT_SPEED * PERIOD, JOINT_LOWER[joint], JOINT_UPPER[joint]
                )
                if feed.one(place):
                    seen_at = feed.now
                check()
        elif kind == "silent":
            feed.now += amount
        else:
            for k in range(amount):
                feed.one(what if kind == "false" else what[k % len(what)])
                check()


@settings(max_examples=200, deadline=None)
@given(FALSE, st.integers(1, int(DIRECT_S / PERIOD) - 2), st.integers(2, 6), st.floats(-1.0, 1.0))
def test_bad_bursts_among_good_ones_are_passed_over(false: np.ndarray, burst: int, good: int, speed: float) -> None:
    """Whatever stands there for less than DIRECT_S: holds go to true places, and the next true sample is believed."""
    feed = Feed()
    place, far = PLACE.copy(), np.max(np.abs(np.nan_to_num(false, nan=9.0) - PLACE)) > 1.0
    for _ in range(6):
        for _ in range(burst):
            place = place + speed * np.array([PERIOD, 0, 0, 0, 0, 0])
            feed.one(false)
        for _ in range(good):
            place = place + speed * np.array([PERIOD, 0, 0, 0, 0, 0])
            assert feed.one(place) or not far
        if far:
            assert np.array_equal(feed.hold, place)
    assert RUN_S < DIRECT_S < HOLD_FRESH_S < SILENT_S < CONTRADICTED_S
