"""What `gymnast data check` can find in an episode: each kind with its limit and what to do about it.

The limits were set on what must not be found: eight Bridge episodes, photographs of two AutoEval stations and 190
episodes of the simulated station. docs/how-to/check_data.md gives the measured figures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

Severity = Literal["error", "warning"]
RECOVER = "`gymnast data check --mend` or `gymnast data recover` saves what is whole"
EXPORT = "export the episode again"
LEAVE_OUT = "leave the episode out, or record it again"

DARK, PLAIN = 16.0, 4.0
"""Mean and spread (standard deviation) of a frame, squashed to 64 pixels, of 255. Whole frames have at least 90 and
42."""
FROZEN_STEPS = 3
FILM_SAME = 12.0
"""Largest difference of two frames of a film, squashed to 64 pixels, of 255, that may be one picture; lossless pictures
must be equal. In Bridge films whose camera was frozen for eight frames it is at most 6, and at least 27 where the arm
was sent 0.03 m in three steps."""
FROZEN_STATE_M, FROZEN_COMMAND_M = 0.02, 0.03
"""The arm moved as far by its own measurement, or was sent as far where nothing was measured."""
JUMP_S, JUMP_TIMES = 2.0, 5.0
"""Seconds between frames, and how many times the usual: their ninth decile, which is the pause of a policy that thinks
before each chunk."""
STATE_JUMP_M = 0.2
"""In a step of at most a second. The simulated arm moves at most 0.078 m in a step of 0.2 s."""
GRIPPER_RANGE = (-0.2, 1.2)
STILL_STEPS, STILL_M, COMMANDED_M = 5, 0.001, 0.005
"""Steps that each command more than COMMANDED_M while the arm moves by less than STILL_M. An arm that pushes against a
drawer did so for at most two steps in a row."""
WINDOW = 3
"""Steps over which commands and motion are summed: an arm answers late."""
EXCITED_WINDOWS = 8
TURN_FITS, TURN_BETTER = 0.7, 0.4
"""Other axes explain the motion with such a correlation, and by so much better than the convention does."""
AXIS_AGAINST = -0.8
"""Agreement along one axis alone. Of all axes of 339 whole episodes the lowest is -0.62, of an arm that pushes."""
SLOPES = (0.2, 2.5)
"""Motion for each unit commanded, where the two agree; 0.42 to 0.98 in whole episodes."""
GRIPPER_AGAINST, GRIPPER_FOR = -0.5, 0.2
"""Correlation of the gripper's command with its opening over some lags: the lowest, and the highest. In whole episodes
the highest is at least 0.32."""


@dataclass(frozen=True)
class Rule:
    """A kind of finding. severity: "error" where a part cannot be read or believed, "warning" where a person should
    look. allowed: what a whole episode has. remedy: what to do. mendable: whether `data recover` can help."""

    severity: Severity
    allowed: str
    remedy: str
    mendable: bool = False


RULES: dict[str, Rule] = {
    "header_damaged": Rule("error", "a header that can be read", RECOVER, True),
    "recording_killed": Rule("error", "a recording that was finished", RECOVER, True),
    "steps_lost": Rule("error", "as many steps as the header says", RECOVER, True),
    "steps_unreadable": Rule("error", "steps that can be read", RECOVER, True),
    "lengths_differ": Rule("error", "one frame more than actions", f"{EXPORT}: its film or its actions were cut"),
    "frame_unreadable": Rule("error", "frames that can be read", RECOVER, True),
    "frame_size": Rule("error", "one size for all frames", LEAVE_OUT),
    "log_damaged": Rule("error", "a log with its index and no damage", RECOVER, True),
    "outcome_damaged": Rule("error", "an outcome that fits the episode", "label it anew: `gymnast data label --again`"),
    "frames_black": Rule("error", f"mean of at least {DARK:g} and spread of at least {PLAIN:g} of 255", LEAVE_OUT),
    "frames_frozen": Rule("error", f"at most {FROZEN_STEPS - 1} equal frames while the arm moves", LEAVE_OUT),
    "stamps_backwards": Rule("error", "times that rise from frame to frame", LEAVE_OUT),
    "stamps_jump": Rule(
        "warning", f"at most {JUMP_S:g} s and {JUMP_TIMES:g} times the usual", "see what the station waited for"
    ),
    "state_impossible": Rule("error", "metres within reach, gripper 0 to 1", "see where the state's units come from"),
    "state_jump": Rule("warning", f"at most {STATE_JUMP_M:g} m in a step", "look for a read of the joints that failed"),
    "actions_impossible": Rule("error", "Bridge actions", "convert the actions (docs/reference/formats.md)"),
    "arm_silent": Rule("warning", "an answer of the arm to each action", "training ends at that step"),
    "no_motion": Rule(
        "warning",
        f"motion within {STILL_STEPS} commands",
        "look for an arm that was held or switched off, or for stale joint states",
    ),
    "convention_axes": Rule("error", "motion along the axes of the base", "convert the actions to the base's axes"),
    "convention_turns": Rule(
        "error", "rotation about the axes of the base", "convert the actions; Euler angles that are added turn so"
    ),
    "convention_units": Rule(
        "error", f"{SLOPES[0]:g} to {SLOPES[1]:g} of motion for each unit commanded", "convert to metres a step"
    ),
    "convention_gripper": Rule("error", "a gripper that opens at 1", "turn the gripper's column around: 1 = open"),
    "unexpected": Rule("error", "an episode that can be checked", "please report it with the episode"),
}
"""By code."""


@dataclass(frozen=True)
class Finding:
    """Something wrong with an episode.

    code: a key of RULES. episode: its path. step, last: the first and the last step or frame that shows it, counted
    from 0; None where it is of the whole episode. found: in words, with units.
    """

    episode: str
    code: str
    found: str
    step: int | None = None
    last: int | None = None
    severity: Severity = "error"
    allowed: str = ""
    remedy: str = ""

    @property
    def mendable(self) -> bool:
        """Whether `data recover` can help, in an episode of the recorder's format."""
        return RULES[self.code].mendable

    @property
    def place(self) -> str:
        """For people: "steps 3 to 9"."""
        if self.step is None:
            return ""
        return f"step {self.step}" if self.last in (None, self.step) else f"steps {self.step} to {self.last}"

    def __str__(self) -> str:
        where = f" at {self.place}" if self.place else ""
        return (
            f"{self.episode}: {self.code} ({self.severity}){where}: {self.found}; needed {self.allowed}; {self.remedy}"
        )


@dataclass(frozen=True)
class Problem:
    """A finding whose episode is not named yet."""

    code: str
    found: str
    step: int | None = None
    last: int | None = None

    def of(self, episode: str, recording: bool) -> Finding:
        """The finding, with its rule written out. recording: the episode is of the recorder's format."""
        rule = RULES[self.code]
        remedy = rule.remedy if recording or not rule.mendable else EXPORT
        return Finding(episode, self.code, self.found, self.step, self.last, rule.severity, rule.allowed, remedy)


def spans(mask: np.ndarray) -> list[tuple[int, int]]:
    """First and last index of each stretch of True in a mask (n,)."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], np.asarray(mask, dtype=np.int8), [0]))))
    return [(int(begin), int(end) - 1) for begin, end in zip(edges[::2], edges[1::2])]
