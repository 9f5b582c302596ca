"""The faults of the simulated station: one table, which the fault parameter, the schedule and `gymnast soak` read.

Each is what a user of the real arm has met. A fault is written "kind", or "kind:motor".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from gymnast_core.config import ScheduledFault
from gymnast_core.errors import ConfigError
from gymnast_core.simulation.motors import ARM_JOINTS, MOTOR_IDS

Answer = Literal["hold", "stop", "end", "go on"]
Where = Literal["joint states", "motors", "commands", "services", "camera", "process"]


@dataclass(frozen=True)
class FaultKind:
    """One kind of fault.

    answer: what the station does while it lasts: the arm is held; it is stopped until a person re-arms it; an episode
        under way ends; or nothing, since it does no harm.
    of: whose name it takes: "" for none, "motor" for any of nine, "arm motor" for those without the gripper, "joint"
        for one of six.
    """

    name: str
    where: Where
    answer: Answer
    meaning: str
    of: Literal["", "motor", "arm motor", "joint"] = ""


KINDS = {
    kind.name: kind
    for kind in (
        FaultKind("read_failure", "joint states", "hold", "a failed bus read: all joints at -pi, nothing else"),
        FaultKind("stale_stamps", "joint states", "hold", "joint states are a second old when they come"),
        FaultKind("joint_states_stopped", "joint states", "hold", "no joint states"),
        FaultKind("not_a_number", "joint states", "hold", "the elbow's position is not a number"),
        FaultKind("reordered_joints", "joint states", "go on", "another order, and a joint more"),
        FaultKind("latency", "joint states", "hold", "joint states and frames come 0.6 s late, in bursts"),
        FaultKind("stalled", "motors", "hold", "a joint pushes and does not move", "joint"),
        FaultKind("overload", "motors", "stop", "a joint reports 5000 mA", "arm motor"),
        FaultKind("motor_error", "motors", "stop", "a motor with an overload alert, which answers no reads", "motor"),
        FaultKind("rebooted", "motors", "stop", "a motor lost power for a moment: no torque, no profile", "motor"),
        FaultKind("profile_lost", "motors", "hold", "a joint forgot its profile: 0 ms is full speed", "joint"),
        FaultKind("hot", "motors", "go on", "a motor gets warmer by 2 degrees a second", "motor"),
        FaultKind("low_voltage", "motors", "go on", "the supply has 9.8 V"),
        FaultKind("short_registers", "motors", "go on", "reads of a group lack the last motor"),
        FaultKind("commands_dropped", "commands", "stop", "commands are dropped without a word"),
        FaultKind("foreign_commander", "commands", "hold", "another program commands the joints"),
        FaultKind("service_silent", "services", "stop", "reads of registers are never answered"),
        FaultKind("usb_unplugged", "process", "hold", "failed reads, no registers, no commands: the cable is out"),
        FaultKind("process_death", "process", "hold", "the driver's process is killed; it is started again"),
        FaultKind("camera_stopped", "camera", "end", "no frames"),
        FaultKind("camera_frozen", "camera", "end", "the same picture again and again, with new stamps"),
        FaultKind("black_frames", "camera", "end", "black pictures"),
    )
}
BUS = ("read_failure", "usb_unplugged")
"""Whose joint states are those of a failed read."""
LATE_S = 0.6
OLD_S = 1.0


def parse_faults(texts: Iterable[str]) -> dict[str, str]:
    """Kind to motor's name (empty where it takes none), of texts as "overload:elbow"; empty texts count for nothing.

    Raises: ValueError naming an unknown kind or motor.
    """
    found: dict[str, str] = {}
    for text in texts:
        if not text:
            continue
        name, _, motor = text.partition(":")
        kind = KINDS.get(name)
        if kind is None:
            raise ValueError(f"unknown fault '{name}'; known: {', '.join(KINDS)}")
        of_the_arm = tuple(name for name in MOTOR_IDS if name != "gripper")
        allowed = {"": ("",), "motor": tuple(MOTOR_IDS), "arm motor": of_the_arm, "joint": ARM_JOINTS}[kind.of]
        if motor not in allowed:
            needed = f"a {kind.of} (of {', '.join(allowed)})" if kind.of else "no motor"
            raise ValueError(f"fault {name} needs {needed}, found '{motor}'")
        found[name] = motor
    return found


class FaultSchedule:
    """Which faults of a station file are there at a time. Raises: ConfigError naming the entry that is none."""

    def __init__(self, faults: Sequence[ScheduledFault]) -> None:
        for number, fault in enumerate(faults):
            try:
                parse_faults([fault.kind])
            except ValueError as error:
                raise ConfigError(f"simulation.faults.{number}.kind: {error}") from error
        self._faults = tuple(faults)

    def at(self, seconds: float) -> dict[str, str]:
        """Faults `seconds` after the station has started."""
        active = [f for f in self._faults if f.at <= seconds and (not f.seconds or seconds < f.at + f.seconds)]
        return parse_faults(fault.kind for fault in active)


def fault_table() -> list[tuple[str, str, str, str]]:
    """Kind, where it is, what it means, and what the station does, for people."""
    answers = {
        "hold": "held until it is over",
        "stop": "stopped until a person re-arms",
        "end": "the episode ends, the arm holds",
        "go on": "goes on; a warning where a person should know",
    }
    rows: list[tuple[str, str, str, str]] = []
    for kind in KINDS.values():
        name = f"{kind.name}:{kind.of}" if kind.of else kind.name
        rows.append((name, kind.where, kind.meaning, answers[kind.answer]))
    return rows
