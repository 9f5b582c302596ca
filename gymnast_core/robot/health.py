"""How the motors are: temperature and where it is going, supply voltage; what a person should know before a fault.

Nothing here stops the arm. A motor that is too hot, or has no supply, says so itself in its error register.
"""

from __future__ import annotations

import collections
import math

from gymnast_core.robot.arm_model import WX250S, ArmModel

MOTORS, SHADOWS, LIMIT_C = WX250S.motors, WX250S.shadows, WX250S.temperature_limits
"""Of the arm of Bridge data."""
NEAR_C = 8
"""Degrees below its limit from which a motor is hot."""
WINDOW_S = 600.0
"""A trend is that of the last ten minutes."""
TREND_S = 60.0
"""A trend needs readings over this long."""
SOON_S = 900.0
"""A limit that is reached within this time, if it goes on so, is told."""


class MotorHealth:
    """Fed with what was read; times are any one clock's seconds. Keeps no clock of its own."""

    def __init__(self, arm: ArmModel = WX250S) -> None:
        self._arm = arm
        self._temperatures: dict[str, collections.deque[tuple[float, float]]] = {}
        self._volts: dict[str, float] = {}

    def temperature(self, motor: str, celsius: float, now: float) -> None:
        """A reading."""
        readings = self._temperatures.setdefault(motor, collections.deque())
        readings.append((now, celsius))
        while readings[0][0] < now - WINDOW_S:
            readings.popleft()

    def voltage(self, motor: str, volts: float) -> None:
        """A reading."""
        self._volts[motor] = volts

    def trend(self, motor: str) -> float:
        """Degrees a minute over the last ten minutes, by least squares; NaN where there is too little to tell."""
        readings = self._temperatures.get(motor)
        if readings is None or len(readings) < 3 or readings[-1][0] - readings[0][0] < TREND_S:
            return math.nan
        middle = sum(at for at, _ in readings) / len(readings)
        mean = sum(value for _, value in readings) / len(readings)
        spread = sum((at - middle) ** 2 for at, _ in readings)
        return 60.0 * sum((at - middle) * (value - mean) for at, value in readings) / spread

    def warnings(self) -> list[str]:
        """What a person should look at, one line for each motor."""
        found = []
        for motor, readings in self._temperatures.items():
            celsius, limit = readings[-1][1], self._arm.temperature_limits.get(motor)
            if limit is None:
                continue
            rising = self.trend(motor)
            left = (limit - celsius) / rising * 60.0 if rising > 0 else math.inf
            if celsius >= limit - NEAR_C:
                found.append(f"{motor} is at {celsius:g} °C; it lets go at {limit:g} °C: let the arm rest")
            elif left < SOON_S:
                found.append(f"{motor} is at {celsius:g} °C and reaches {limit:g} °C in {left / 60:.0f} minutes")
        low, high = self._arm.supply_volts or (-math.inf, math.inf)
        weak = {motor: volts for motor, volts in self._volts.items() if not low <= volts <= high}
        if weak:
            worst = min(weak, key=weak.__getitem__)
            counted = f"{len(weak)} of {len(self._volts)} motors"
            found.append(
                f"{weak[worst]:.1f} V at {worst} ({counted}); needed {low:g} to {high:g} V: check supply and cables"
            )
        return found

    def report(self) -> dict[str, float]:
        """For /diagnostics: temperatures (°C), their trends (°C a minute) and voltages (V), by motor."""
        values: dict[str, float] = {}
        for motor, readings in self._temperatures.items():
            values[f"temperature_{motor}_c"] = readings[-1][1]
            if math.isfinite(trend := self.trend(motor)):
                values[f"temperature_trend_{motor}_c_per_min"] = trend
        values.update({f"voltage_{motor}_v": volts for motor, volts in self._volts.items()})
        return values
