"""Whether an episode's actions mean what the Bridge convention says, by the motion that was measured after them.

An arm answers late and pushes against things, so that what it was sent and what it did never agree exactly. A finding
needs another reading of the actions (axes exchanged or turned around, other units, the gripper's sense) that explains
the motion well where the convention does not.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise, permutations, product

import numpy as np

from gymnast_core.data.episode import Episode
from gymnast_core.evaluation.findings import (
    AXIS_AGAINST,
    COMMANDED_M,
    EXCITED_WINDOWS,
    GRIPPER_AGAINST,
    GRIPPER_FOR,
    SLOPES,
    TURN_BETTER,
    TURN_FITS,
    WINDOW,
    Problem,
)
from gymnast_core.robot.kinematics import rotation_from_euler, rotation_vector

COMMANDED_RAD = 0.02
GRIPPER_LAGS = 3
GRIPPER_MOVES = 0.3
"""Of its whole opening; less says nothing of its sense."""
TURNS = [
    np.eye(3)[list(order)] * np.array(signs)[:, None]
    for order in permutations(range(3))
    for signs in product((1.0, -1.0), repeat=3)
]
"""The 48 ways to exchange and turn around three axes; row k of each says what command k really moves."""


def check_convention(episode: Episode) -> Iterator[Problem]:
    """Needs measured states; without them nothing is found."""
    steps = episode.answered
    states = episode.states[: steps + 1].astype(np.float64)
    sent = episode.executed[:steps].astype(np.float64)
    if steps < WINDOW or not np.isfinite(states).all():
        return
    yield from _check_axes(sent[:, :3], np.diff(states[:, :3], axis=0), ("x", "y", "z"), COMMANDED_M, "convention_axes")
    rotations = [rotation_from_euler(*map(float, state[3:6])) for state in states]
    turned = np.array([rotation_vector(after @ before.T) for before, after in pairwise(rotations)])
    asked = np.array([rotation_vector(rotation_from_euler(*map(float, action[3:6]))) for action in sent])
    yield from _check_axes(asked, turned, ("roll", "pitch", "yaw"), COMMANDED_RAD, "convention_turns")
    yield from _check_gripper(sent[:, 6], states[1:, 6])


def _check_axes(
    sent: np.ndarray, made: np.ndarray, names: tuple[str, str, str], least: float, code: str
) -> Iterator[Problem]:
    """sent, made: (T, 3) of each step. least: what counts as a command."""
    asked, came = _windows(sent), _windows(made)
    if code == "convention_axes":
        yield from _check_units(asked, came)
    excited = np.linalg.norm(asked, axis=1) > least
    if excited.sum() < EXCITED_WINDOWS or float(np.abs(came).max()) < least:
        return
    asked, came = asked[excited], came[excited]
    plain = _agreement(asked, came)
    best = max(TURNS, key=lambda turn: _agreement(asked @ turn, came))
    fit = _agreement(asked @ best, came)
    if fit >= TURN_FITS and fit - plain >= TURN_BETTER:
        found = f"{_in_words(best, asked, names)}: agreement {fit:.2f}, as the convention says {plain:.2f}"
        yield Problem(code, found)
        return
    for axis, name in enumerate(names):
        strong = np.abs(asked[:, axis]) > least
        if strong.sum() >= EXCITED_WINDOWS:
            against = _agreement(asked[strong, axis], came[strong, axis])
            if against <= AXIS_AGAINST:
                yield Problem(code, f"{name} moves the other way: agreement {against:.2f}")
                return


def _check_units(asked: np.ndarray, came: np.ndarray) -> Iterator[Problem]:
    """Where the arm moved as it was told, but much more or much less far."""
    moved = np.linalg.norm(came, axis=1) > COMMANDED_M
    asked, came = asked[moved], came[moved]
    if len(asked) >= EXCITED_WINDOWS and _agreement(asked, came) >= TURN_FITS:
        slope = float((asked * came).sum() / (asked * asked).sum())
        if not SLOPES[0] <= slope <= SLOPES[1]:
            yield Problem("convention_units", f"{slope:.3g} m of motion for each unit commanded")


def _check_gripper(sent: np.ndarray, opening: np.ndarray) -> Iterator[Problem]:
    """A gripper that flickers answers late, against one command and with another: no lag may speak for it."""
    if len(sent) <= GRIPPER_LAGS + 2 or np.ptp(sent) < 0.5 or np.ptp(opening) < GRIPPER_MOVES:
        return
    lags = [_correlation(sent[: len(sent) - lag], opening[lag:]) for lag in range(GRIPPER_LAGS)]
    if min(lags) <= GRIPPER_AGAINST and max(lags) <= GRIPPER_FOR:
        yield Problem("convention_gripper", f"it closes when told to open: correlation {min(lags):.2f}")


def _windows(values: np.ndarray) -> np.ndarray:
    """(T - 2, 3): sums over WINDOW steps."""
    return np.asarray(np.lib.stride_tricks.sliding_window_view(values, WINDOW, axis=0).sum(axis=-1))


def _agreement(asked: np.ndarray, came: np.ndarray) -> float:
    """Cosine of what was asked and what came, over all windows: 1 where they agree but for one factor."""
    size = float(np.sqrt((asked * asked).sum() * (came * came).sum()))
    return float((asked * came).sum()) / size if size else 0.0


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a, b)[0, 1]) if np.ptp(a) and np.ptp(b) else 0.0


def _in_words(turn: np.ndarray, asked: np.ndarray, names: tuple[str, str, str]) -> str:
    """For people: "x moves -y, y moves x"; axes that were not commanded, or are as they should be, are left out."""
    told = []
    for axis, name in enumerate(names):
        to = int(np.abs(turn[axis]).argmax())
        sign = "-" if turn[axis, to] < 0 else ""
        if (to != axis or sign) and float(np.abs(asked[:, axis]).max()) > 0:
            told.append(f"{name} moves {sign}{names[to]}")
    return ", ".join(told)
