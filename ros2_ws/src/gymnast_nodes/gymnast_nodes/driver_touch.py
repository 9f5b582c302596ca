"""Whether the driver is known to be as we set it.

One that was silent may have been restarted, or its motors rebooted: they then know no profile (0 is full speed) and
may have no torque. So its settings are checked and set anew before the arm moves again, beside the node's executor,
which must go on watching.
"""

from __future__ import annotations

import math
import threading

from gymnast_core.errors import StationError
from gymnast_core.robot.identity import ArmLimits
from gymnast_nodes.driver import Driver


class DriverTouch:
    """driver: the arm's. check_motors: whether its error registers are read."""

    def __init__(self, driver: Driver, check_motors: bool) -> None:
        self._driver = driver
        self._check_motors = check_motors
        self.limits: ArmLimits | None = None
        """As the driver told when it was configured."""
        self.lost = False
        """Whether it was silent, and is not checked yet."""
        self._silent_at = -math.inf
        self._checking: threading.Thread | None = None
        self._began = -math.inf
        self._problem = ""
        self._reboot = ""

    def reboot(self, motor: str) -> None:
        """The next check reboots this motor first."""
        self._reboot, self.lost = motor, True

    def renew(self) -> None:
        """It was checked otherwise."""
        self.lost, self._checking = False, None

    def silent(self, now: float) -> None:
        """Nothing is heard of it."""
        self.lost, self._silent_at = True, now

    @property
    def unchecked(self) -> bool:
        """Whether it was silent, and nobody checks it yet."""
        return self.lost and self._checking is None

    def begin_check(self, now: float) -> None:
        """Check it in a thread."""
        self._began = now
        self._checking = threading.Thread(target=self._run, name="driver check", daemon=True)
        self._checking.start()

    def checked(self) -> str | None:
        """What the check found, once, when it has ended: empty when all is well; None while there is nothing to say."""
        if self._checking is None or self._checking.is_alive():
            return None
        self._checking = None
        if self._silent_at > self._began:
            return None  # silent once more: once more, then
        self.lost = bool(self._problem)
        return self._problem

    def check_same_arm(self) -> None:
        """Raises: StationError when the driver was started anew with another arm's limits."""
        found = self._driver.check_arm()
        if found != self.limits:
            raise StationError(f"the driver reports {found}, and {self.limits} before; restart the graph")

    def check(self) -> None:
        """The arm is the same, its motors are well, and know our profile. Raises: StationError. Blocks."""
        self.check_same_arm()
        if self._check_motors:
            self._driver.check_motors()
        self._driver.check_torque()
        self._driver.apply_profile()

    def _run(self) -> None:
        motor, self._reboot = self._reboot, ""
        try:
            if motor:
                self._driver.reboot(motor)
            self.check()
            self._problem = ""
        except StationError as error:
            self._problem = str(error)
        except Exception as error:  # also where the node goes down under it
            self._problem = f"unexpected {type(error).__name__}: {error}"
