"""A driver in Python: what gymnast's driver node (`gymnast_nodes.driver_node`) asks of an arm that it drives itself.

Whoever brings an arm writes one class of these methods; `gymnast_nodes.trossen_driver` is one. The node around it
speaks to the rest of the graph as the vendor's driver of an X-Series arm does, so that arm node, watchdog, recorder and
`gymnast arm check` are the same for every arm (docs/how-to/another_arm.md).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from gymnast_core.config import ArmConfig
from gymnast_core.errors import ConfigError, StationError
from gymnast_core.robot.identity import ArmLimits

TROSSEN = "gymnast_nodes.trossen_driver:TrossenDriver"


class DriverFault(StationError):
    """The arm's controller does not answer, or reports an error; one line that says which."""


@dataclass(frozen=True)
class ArmReading:
    """One measurement: six joints in the order of the arm's description, then the finger.

    positions: (7,) radians, and metres. velocities: (7,) radians, and metres, a second. efforts: (7,) in the unit that
    the description names.
    """

    positions: Sequence[float]
    velocities: Sequence[float]
    efforts: Sequence[float]


class DirectDriver(Protocol):
    """One arm. Every method may raise DriverFault; the node then closes it, and opens it again a moment later.

    One call at a time; none but `open` and `recover` takes longer than a few milliseconds.
    """

    def open(self) -> None:
        """Connect, and learn the limits. Joints that hold go on holding, those without torque stay so."""
        ...

    def close(self) -> None:
        """Let go of the connection; never raises."""
        ...

    def limits(self) -> ArmLimits:
        """As the arm itself tells them: by these another arm is recognised."""
        ...

    def origins(self) -> list[Sequence[float]]:
        """(6, 3) metres: each joint's place in the frame of the one before, as the arm itself tells; empty where it
        does not."""
        ...

    def read(self) -> ArmReading | None:
        """The newest measurement; None where there is none since the last call."""
        ...

    def move(self, joints: Sequence[float], seconds: float) -> None:
        """Go to six joints, radians, within `seconds`, from wherever the arm is now; a new goal replaces the last."""
        ...

    def move_finger(self, finger: float, seconds: float) -> None:
        """Go to a finger's position, metres."""
        ...

    def set_torque(self, enabled: bool) -> None:
        """With torque the arm holds where it is; without, it is braked or falls, as the arm is built."""
        ...

    def has_torque(self) -> bool: ...

    def temperatures(self) -> Sequence[float]:
        """(7,) degrees Celsius; empty where it does not tell."""
        ...

    def recover(self) -> None:
        """Clear an error, as a reboot of the motors does. The arm is then without torque."""
        ...


DriverClass = Callable[[ArmConfig, Callable[[str], None]], DirectDriver]


def driver_class(name: str) -> DriverClass:
    """The class of `arm.driver`: "trossen", or one's own as module:class. It is given the station's `arm` section, and
    a function for lines of the log.

    Raises: ConfigError where it cannot be imported.
    """
    module, _, attribute = (TROSSEN if name == "trossen" else name).partition(":")
    try:
        found: Any = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"arm.driver: found '{name}', which cannot be imported ({error})") from error
    return found
