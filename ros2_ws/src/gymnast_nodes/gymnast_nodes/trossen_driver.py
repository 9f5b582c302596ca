"""The WidowX AI through its vendor's Python package (`trossen_arm`): arm.driver: trossen.

The package speaks to the arm's controller over Ethernet (`arm.address`) in a thread of its own, a thousand times a
second and more, and interpolates each motion there: quintically, to standstill, where it takes longer than 0.2 s. Idle
joints are braked, so an arm that is let go of stays where it is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from gymnast_core.config import ArmConfig
from gymnast_core.errors import ConfigError
from gymnast_core.robot.identity import ArmLimits
from gymnast_nodes.direct_driver import ArmReading, DriverFault

KINDS = {"wxai": ("wxai_v0", "wxai_v0_follower")}
"""The package's names of model and end effector, by `arm.model`."""
CONNECT_S = 5.0
JOINTS = 6


class TrossenDriver:
    """See `DirectDriver`."""

    def __init__(self, config: ArmConfig, log: Callable[[str], None]) -> None:
        """Raises: ConfigError for another arm, or where the package is not installed."""
        if config.model not in KINDS:
            raise ConfigError(f"arm.model: found '{config.model}', but driver trossen drives: {', '.join(KINDS)}")
        self._vendor = _vendor()
        self._kind = KINDS[config.model]
        self._address = config.address
        self._log = log
        self._driver: Any = None
        self._stamp: int | None = None

    def open(self) -> None:
        self._configure(clear_error=False)

    def _configure(self, clear_error: bool) -> None:
        model, tool = self._kind
        self.close()
        driver = self._vendor.TrossenArmDriver()
        with self._told("cannot be reached"):
            driver.configure(
                getattr(self._vendor.Model, model),
                getattr(self._vendor.StandardEndEffector, tool),
                self._address,
                clear_error,
                CONNECT_S,
            )
        self._driver, self._stamp = driver, None
        self._log(f"{model} at {self._address}, firmware {driver.get_controller_version()}")

    def close(self) -> None:
        driver, self._driver = self._driver, None
        if driver is not None:
            with contextlib.suppress(Exception):  # it makes the joints idle first, which fails where the arm is away
                driver.cleanup()

    def limits(self) -> ArmLimits:
        with self._told("does not tell its joint limits"):
            limits = self._open().get_joint_limits()
            lower, upper = [one.position_min for one in limits], [one.position_max for one in limits]
        return ArmLimits(tuple(lower[:JOINTS]), tuple(upper[:JOINTS]), float(lower[JOINTS]), float(upper[JOINTS]))

    def origins(self) -> list[Sequence[float]]:
        with self._told("does not tell its links"):
            return [tuple(joint.origin_xyz) for joint in self._open().get_joints()[:JOINTS]]

    def read(self) -> ArmReading | None:
        with self._told("does not answer"):
            output = self._open().get_robot_output()
        if output.header.timestamp == self._stamp:
            return None
        self._stamp = output.header.timestamp
        joints = output.joint.all
        return ArmReading(list(joints.positions), list(joints.velocities), list(joints.efforts))

    def move(self, joints: Sequence[float], seconds: float) -> None:
        with self._told("does not take a motion"):
            self._open().set_arm_positions(self._vendor.VectorDouble(list(joints)), seconds, False)

    def move_finger(self, finger: float, seconds: float) -> None:
        with self._told("does not take a motion of the gripper"):
            self._open().set_gripper_position(finger, seconds, False)

    def set_torque(self, enabled: bool) -> None:
        mode = self._vendor.Mode.position if enabled else self._vendor.Mode.idle
        with self._told("does not change its mode"):
            driver = self._open()
            driver.set_all_modes(mode)
            if enabled:
                driver.set_all_positions(driver.get_all_positions(), 0.0, False)

    def has_torque(self) -> bool:
        with self._told("does not tell its mode"):
            return all(mode == self._vendor.Mode.position for mode in self._open().get_modes())

    def temperatures(self) -> Sequence[float]:
        with self._told("does not tell its temperatures"):
            return list(self._open().get_all_rotor_temperatures())

    def recover(self) -> None:
        self._configure(clear_error=True)

    def _open(self) -> Any:
        if self._driver is None:
            raise DriverFault(f"the arm at {self._address} is not connected")
        return self._driver

    @contextlib.contextmanager
    def _told(self, what: str) -> Iterator[None]:
        """Raises: DriverFault for whatever the package raises, with the first line of its reason."""
        try:
            yield
        except DriverFault:
            raise
        except Exception as error:  # the package has three kinds of its own, and its binding others
            reason = next(iter(str(error).splitlines()), "") or type(error).__name__
            raise DriverFault(f"the arm at {self._address} {what}: {reason}") from error


def _vendor() -> Any:
    """The vendor's package. Raises: ConfigError with the remedy."""
    try:
        import trossen_arm
    except ImportError as error:
        raise ConfigError(
            f"arm.driver is trossen, and the vendor's package cannot be imported ({error}); pip install trossen-arm, "
            "of the version of the arm's firmware"
        ) from error
    return trossen_arm
