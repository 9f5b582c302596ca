"""Whether a fault was noticed, and the arm held for it: what `gymnast soak` hears of the station."""

from __future__ import annotations

import math
import time

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from gymnast_msgs.msg import ArmState
from interbotix_xs_msgs.msg import JointGroupCommand
from std_msgs.msg import String

from gymnast_core.simulation.faults import FaultKind
from gymnast_nodes.arm_check_bench import ArmBench
from gymnast_nodes.qos import COMMAND_QOS, DRIVER_QOS, LATCHED_QOS
from gymnast_nodes.soak_work import Work

AT_WORK = 3
"""Accepted actions that show that the station works."""
NOTICED_S = 12.0
NOTICED_WARM_S = 40.0
"""A warning of temperature or voltage comes with their next reading."""
HELD_AFTER_S = 0.6
HELD_RAD = 0.05
"""A hold may send the measured joints once more."""
SHORT, LONG = 1.5, 4.0
"""A fault lasts between these, seconds, or until it was noticed."""
POLL_S = 0.02
NO_ACTION, PUSHED = "no action for", "effort of"
EFFORT = ("overload", "stalled")
"""Faults that an effort tells; for others it is the policy that pushes, as it does every day."""
NEEDS_MOTION = ("stalled", "commands_dropped", "camera_frozen", "black_frames", "camera_stopped")
"""Faults that show while the arm is asked to move."""
ASKED_M = 0.04
"""Metres that were asked of the arm below which such a fault does not show."""
WARNED = ("hot", "low_voltage")
"""Faults that stop nothing, and that a person should know of."""
KEPT = 200
"""Messages of each topic."""


class SoakWatch:
    """Listens from its making on; to be made in the executor of the bench's node. Times are of the steady clock."""

    def __init__(self, bench: ArmBench, work: Work) -> None:
        self._bench = bench
        self._work = work
        self._commands: list[tuple[float, JointGroupCommand]] = []
        self._watchdog: list[tuple[float, String]] = []
        self._diagnostics: list[tuple[float, DiagnosticArray]] = []
        driver = bench.station.arm.driver_name
        bench.hear(JointGroupCommand, f"{driver}/commands/joint_group", self._commands, DRIVER_QOS)
        bench.hear(String, "watchdog/fault", self._watchdog, LATCHED_QOS)
        bench.hear(DiagnosticArray, "/diagnostics", self._diagnostics, COMMAND_QOS)

    def wait_noticed(self, kind: FaultKind, since: float) -> tuple[bool, str]:
        """Whether the fault was noticed in time, and by what."""
        warned = kind.name in WARNED
        limit = NOTICED_WARM_S if warned else LONG if kind.answer == "go on" else NOTICED_S
        while time.monotonic() - since < limit:
            if how := self._noticed(kind, since, warned):
                harmless = kind.answer == "go on" and not warned
                return not harmless, how
            time.sleep(POLL_S)
        if kind.answer == "go on" and not warned:
            return True, "nothing stopped"
        return False, f"mode {self._bench.states[-1][1].mode}: {self._bench.states[-1][1].detail}"

    def _noticed(self, kind: FaultKind, since: float, warned: bool) -> str:
        """By what it was noticed, for people; empty: not yet."""
        if warned:
            for at, message in self._diagnostics[-20:]:
                for status in message.status:
                    values = {pair.key: pair.value for pair in status.values}
                    told = str(values.get("motor_warnings", "none"))
                    if at > since and told != "none":
                        return told
            return ""
        if kind.answer == "end" and self._work.over:
            return "the episode ended"
        for at, state in self._bench.states[-50:]:
            idle = state.detail.startswith(NO_ACTION)  # the work paused, which a busy machine makes it do
            idle |= state.detail.startswith(PUSHED) and kind.name not in EFFORT
            stands = state.mode in (ArmState.MODE_HOLDING, ArmState.MODE_STOPPED) and not idle
            if at > since and stands and kind.answer != "end":
                return state.detail or "held"
        recent = [text for at, text in self._watchdog if at > since]
        return f"watchdog: {recent[-1].data}" if recent and kind.answer != "end" else ""

    def idle(self, kind: FaultKind, since: float) -> bool:
        """Whether the arm was asked for so little that this fault could not show."""
        moved = [m.translation for at, m in self._bench.executed if at > since and m.accepted]
        asked = sum(float(np.linalg.norm(translation)) for translation in moved)
        return kind.name in NEEDS_MOTION and asked < ASKED_M

    def held(self, kind: FaultKind, since: float) -> bool:
        """Whether no target moved from a moment after `since` on, until the arm was ready again by itself.

        A harmless fault is held where work went on.
        """
        if kind.answer == "go on":
            return sum(at > since - SHORT and m.accepted for at, m in self._bench.executed) >= AT_WORK
        ready = (at for at, state in self._bench.states if at > since and state.mode == ArmState.MODE_READY)
        start, end = since + HELD_AFTER_S, next(ready, math.inf)
        targets = [list(m.cmd) for at, m in self._commands if start < at < end and len(m.cmd) == 6]
        return len(targets) < 2 or float(np.ptp(np.array(targets), axis=0).max()) < HELD_RAD

    def forget(self) -> int:
        """Nothing grows for hours. Returns how many of the actions that are forgotten were accepted."""
        bench = self._bench
        accepted = sum(message.accepted for _, message in bench.executed[:-KEPT])
        for heard in (bench.executed, bench.states, bench.joints, self._commands, self._diagnostics, self._watchdog):
            del heard[:-KEPT]
        return accepted
