"""What is believed of the arm's joint states: the one filter between the driver and everything that acts on them.

A driver publishes more than it measured: failed reads as positions, one joint's false value among true ones, old
samples after a hang, another program's zeros. A sample is believed when it is whole and finite, within the joints'
limits, no older than MAX_AGE_S, and no farther from the last believed one than the fastest joint gets in the time
between them.

After a pause, or after samples that contradict what was believed, nothing is believed until RUN_SAMPLES samples in a
row agree with each other. Where that run begins at a place to which no joint gets in the time, or where an arm under
command cannot have got to unseen, it is never believed by itself: somebody has to look, and calls `forget`. An arm that
nobody commands may be moved by hand meanwhile: elsewhere it is believed once the run has lasted CONTRADICTED_S.

What a filter cannot see: a joint that is read falsely and whose false value drifts slower than a joint moves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gymnast_core.errors import StationError
from gymnast_core.robot.arm_model import WX250S, ArmModel

LIMIT_SLACK = 0.1
"""Radians beyond a joint's limit that a real arm may stand: it rests on its mechanical stop, or was calibrated so."""
RAW_ZERO = 1e-3
"""Radians from -pi within which a position is raw 0, a read that failed; no joint's limits include -pi."""
PEAK = 1.1
"""No joint is faster than this many times its largest speed: a profile has a peak."""
NOISE = 0.02
"""Radians: 13 steps of the encoder, or 6 ms of a stamp's jitter at full speed."""
ARRIVAL_JITTER_S = 0.05
"""A sample without a stamp is as old as its way here was long: this much is granted."""
MAX_AGE_S = 0.2
"""By its stamp, when it comes. An older sample is another moment's."""
MAX_AHEAD_S = 0.1
"""A stamp farther ahead of this machine's clock tells nothing: the arrival counts."""
DIRECT_S = 0.1
"""One sample is enough where the last believed one is no older than this; otherwise a run is needed."""
SILENT_S = 0.5
"""After this long without a sample that could be true, the arm may be anywhere."""
HANG_S = 0.3
"""A process that did not look for this long has been away: what it believed is of before."""
RUN_SAMPLES = 5
RUN_S = 0.035
RUN_UNSTAMPED_S = 0.15
"""Samples that must agree, and the time from the first to the last; longer where only the arrival tells the time: what
waited in a queue arrives all at once."""
REJOIN = 0.1
"""Radians granted to a run beyond what the fastest joint gets: late stamps of a busy machine look like a jump."""
UNSEEN = 0.5
"""Radians: an arm not seen for a while stands within this of its last place and its target; farther is elsewhere."""
CONTRADICTED_S = 1.0
"""A run that contradicts what was believed for so long is no glitch."""
FINGER_SLACK = 0.01
"""Metres beyond the finger's limits that it may be read at."""


class FailedRead(StationError):
    """A joint state that is none; the message says what was found and what is allowed."""


@dataclass(frozen=True)
class JointSample:
    """One joint state, whole and finite, of an arm that could stand so.

    joints: (6,) radians, in the arm's order. effort: (6,) in the arm's unit, None where the driver reports none.
    finger: metres, the finger that the arm's description names; NaN where unknown.
    """

    joints: np.ndarray
    effort: np.ndarray | None
    finger: float


def read_sample(
    names: Sequence[str],
    positions: Sequence[float],
    velocities: Sequence[float],
    efforts: Sequence[float],
    arm: ArmModel = WX250S,
) -> JointSample:
    """The arm's part of a joint state, by name; other joints may stand anywhere among them.

    Velocities and efforts may be absent (empty), as a driver without them has it.

    Raises: FailedRead where joints are missing, lengths differ, a number is not finite, or a position is impossible.
    """
    count = len(names)
    for what, values in (("positions", positions), ("velocities", velocities), ("efforts", efforts)):
        if len(values) != count and (len(values) or what == "positions"):
            raise FailedRead(f"{len(values)} {what} for {count} joints")
    try:
        index = [names.index(name) for name in arm.names]
    except ValueError:
        missing = [name for name in arm.names if name not in names]
        raise FailedRead(f"without {', '.join(missing)}") from None
    for name in arm.names:
        if names.count(name) > 1:
            raise FailedRead(f"{name} stands there twice")
    joints = np.array([positions[i] for i in index], dtype=np.float64)
    effort = np.array([efforts[i] for i in index], dtype=np.float64) if len(efforts) else None
    speeds = [velocities[i] for i in index] if len(velocities) else []
    for what, numbers in (("position", joints), ("effort", effort), ("velocity", speeds)):
        if numbers is not None and not np.isfinite(numbers).all():
            joint = arm.names[int(np.argmin(np.isfinite(numbers)))]
            raise FailedRead(f"the {what} of {joint} is not finite")
    _check_limits(joints, arm)
    finger = math.nan
    gripper = arm.gripper
    if gripper.joint in names:
        finger = float(positions[names.index(gripper.joint)])
        if not gripper.closed - FINGER_SLACK <= finger <= gripper.open + FINGER_SLACK:
            finger = math.nan
    return JointSample(joints, effort, finger)


def _check_limits(joints: np.ndarray, arm: ArmModel) -> None:
    outside = (joints < arm.lower - LIMIT_SLACK) | (joints > arm.upper + LIMIT_SLACK)
    outside |= np.abs(joints + math.pi) < RAW_ZERO
    if outside.any():
        i = int(np.argmax(outside))
        raise FailedRead(
            f"{arm.names[i]} at {joints[i]:.4f} rad, its limits are {arm.lower[i]:.4f} to {arm.upper[i]:.4f}"
        )


def reach(elapsed_s: float, arm: ArmModel = WX250S) -> float:
    """Radians from one sample within which the next, `elapsed_s` later, can be true."""
    return PEAK * arm.joint_speed * max(0.0, elapsed_s) + NOISE


def _apart(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.max(np.abs(a - b)))


@dataclass
class _Run:
    """Samples in a row that agree with each other, and are not believed yet. Times: when measured, steady clock."""

    began: float
    unexplained: str
    """Why the arm cannot have got to where the run began; empty where it can."""
    last: np.ndarray
    at: float
    needed_s: float
    count: int = 1


class BelievedArm:
    """Fed with every joint state; `now` is always the steady clock, seconds. Keeps no clock of its own.

    joints: (6,) radians, last believed; None before the first. measured_at: when they were measured, steady clock.
    effort: (6,) in its unit, None where the driver reports none. finger: metres, NaN where unknown. speed: rad/s of the
    fastest joint, over about 30 ms. failed: samples not believed since the start; failed_since: since the last believed
    one. problem: why the last of them was not.
    """

    def __init__(self, arm: ArmModel = WX250S) -> None:
        self._arm = arm
        self.joints: np.ndarray | None = None
        self.measured_at = -math.inf
        self.effort: np.ndarray | None = None
        self.finger = math.nan
        self.speed = 0.0
        self.failed = 0
        self.failed_since = 0
        self.problem = ""
        self.stamps_ahead_s = 0.0
        """How far stamps are ahead of this machine's clock, where so far that the arrival counts instead."""
        self._target: np.ndarray | None = None
        self._run: _Run | None = None
        self._anew = self._forgotten = True
        self._looked_at = -math.inf
        self._possible_at = -math.inf
        self._last_stamp_ns = 0
        self._finger_wanted = math.nan

    def expect(self, target: np.ndarray | None) -> None:
        """The arm was commanded to (6,) radians; None: nobody commands it, it may be moved by hand."""
        self._target = None if target is None else np.array(target, dtype=np.float64)

    def forget(self) -> None:
        """Somebody looked at the arm: what it reads next, consistently, is where it is."""
        self._anew, self._forgotten, self._run, self._target = True, True, None, None

    def look(self, now: float) -> float:
        """To be called before samples are taken, here with `now` of a clock that counts a machine's sleep, too.

        Returns the seconds that this process was away; 0 when it was not.
        """
        gap, self._looked_at = now - self._looked_at, now
        if HANG_S < gap < math.inf:
            self._anew, self._run = True, None
            return gap
        return 0.0

    def fresh(self, now: float, within: float) -> bool:
        """Whether the believed joints were measured `within` seconds ago, and this process was not away since."""
        return self.joints is not None and not self._anew and now - self.measured_at <= within

    def hold(self, now: float, within: float) -> np.ndarray | None:
        """Joints (6,) to hold at, within the limits: the last believed ones; None where they are older than `within`:
        then nothing is to be sent, the motors hold by themselves."""
        if self.joints is None or not self.fresh(now, within):
            return None
        return np.clip(self.joints, self._arm.lower, self._arm.upper)

    def contradiction(self) -> str:
        """One line where joint states have, for CONTRADICTED_S, agreed on a place where the arm cannot be; or empty."""
        run = self._run
        if run is None or not run.unexplained or run.at - run.began < CONTRADICTED_S:
            return ""
        return run.unexplained

    def take(
        self,
        names: Sequence[str],
        positions: Sequence[float],
        velocities: Sequence[float],
        efforts: Sequence[float],
        now: float,
        stamp_ns: int = 0,
        age_s: float = 0.0,
    ) -> bool:
        """One joint state that came at `now`; whether it is believed.

        stamp_ns: its stamp, 0 for none; age_s: how old it was at `now` by that stamp, negative where it is ahead.
        """
        try:
            measured_at, stamped = self._time(now, stamp_ns, age_s)
            sample = read_sample(names, positions, velocities, efforts, self._arm)
            self._judge(sample.joints, measured_at, stamped)
        except FailedRead as error:
            self.failed += 1
            self.failed_since += 1
            self.problem = str(error)
            return False
        self._believe(sample, measured_at)
        return True

    def _time(self, now: float, stamp_ns: int, age: float) -> tuple[float, bool]:
        """When it was measured, on the steady clock, and whether its stamp tells. Raises: FailedRead."""
        if stamp_ns <= 0:
            return now, False
        if stamp_ns == self._last_stamp_ns:
            raise FailedRead("the same stamp again")
        self._last_stamp_ns = stamp_ns
        self.stamps_ahead_s = 0.0
        if age < -MAX_AHEAD_S:
            self.stamps_ahead_s = -age
            return now, False
        if age > MAX_AGE_S:
            raise FailedRead(
                f"{age:.2f} s old by its stamp, allowed are {MAX_AGE_S:g} s; do both machines' clocks agree?"
            )
        return now - max(0.0, age), True

    def _judge(self, joints: np.ndarray, at: float, stamped: bool) -> None:
        """Raises: FailedRead where joints (6,), measured `at`, are not to be believed, and why."""
        jitter = 0.0 if stamped else ARRIVAL_JITTER_S
        if at < (self._run.at if self._run else self.measured_at):
            raise FailedRead("measured earlier than the sample before it")
        if at - max(self.measured_at, self._possible_at) > SILENT_S:
            self._anew, self._run = True, None
        self._possible_at = at
        run = self._run
        follows = run is not None and _apart(joints, run.last) <= reach(at - run.at + jitter, self._arm)
        if self.joints is not None and not self._anew and at - self.measured_at <= DIRECT_S:
            jump = _apart(joints, self.joints)
            repeated = follows and run is not None and _apart(joints, run.last) < jump
            if jump <= reach(at - self.measured_at + jitter, self._arm) and not repeated:
                return
        if run is None or not follows:
            elsewhere = self._elsewhere(joints, at)
            needed_s = RUN_S if stamped else RUN_UNSTAMPED_S
            if elsewhere and self._anew and self._target is None:
                elsewhere, needed_s = "", CONTRADICTED_S
            run = self._run = _Run(at, elsewhere, joints, at, needed_s)
        else:
            run.last, run.at, run.count = joints, at, run.count + 1
        if run.unexplained:
            raise FailedRead(run.unexplained)
        if run.count < RUN_SAMPLES or run.at - run.began < run.needed_s:
            raise FailedRead(
                f"{run.count} samples agree for {run.at - run.began:.2f} s; after a pause or a contradiction "
                f"{RUN_SAMPLES} are needed, for {run.needed_s:g} s"
            )

    def _elsewhere(self, joints: np.ndarray, at: float) -> str:
        """Why an arm last believed at `self.joints` is not expected at `joints` now; empty where it is."""
        before = self.joints
        if before is None or self._forgotten:
            return ""
        elapsed = at - self.measured_at
        if self._anew:
            target = before if self._target is None else self._target
            low, high = np.minimum(before, target) - UNSEEN, np.maximum(before, target) + UNSEEN
            outside = np.maximum(low - joints, joints - high)
        else:
            outside = np.abs(joints - before) - (reach(min(elapsed, DIRECT_S), self._arm) + REJOIN)
        i = int(np.argmax(outside))
        if outside[i] <= 0.0:
            return ""
        return (
            f"{self._arm.names[i]} reads {joints[i]:.3f} rad, {elapsed:.2f} s after it was at {before[i]:.3f}: read "
            "falsely, or moved while nobody saw it (no torque?)"
        )

    def _believe(self, sample: JointSample, at: float) -> None:
        elapsed = at - self.measured_at
        if self.joints is None or self._anew:
            self.speed = 0.0
        elif elapsed > 1e-4:
            # Smoothed over about 30 ms: neighbouring stamps jitter.
            self.speed += (_apart(sample.joints, self.joints) / elapsed - self.speed) * min(1.0, elapsed / 0.03)
        self._take_finger(sample.finger, elapsed)
        self.joints, self.effort, self.measured_at = sample.joints, sample.effort, at
        self._anew, self._forgotten, self._run, self.failed_since = False, False, None, 0

    def _take_finger(self, finger: float, elapsed: float) -> None:
        """A finger out of its range is not taken, one that jumps only when the next sample agrees."""
        if not math.isfinite(finger):
            return
        near = self._arm.gripper.speed * elapsed + 0.002
        if math.isnan(self.finger) or min(abs(finger - self.finger), abs(finger - self._finger_wanted)) <= near:
            self.finger = finger
        self._finger_wanted = finger
