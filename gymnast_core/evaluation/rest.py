"""Rests for a robot's motors: counted by the seconds of its episodes, so that what stands idle anyway needs none."""

from __future__ import annotations

from gymnast_core.config import RestConfig


class Rests:
    """When a station rests. config: see `evaluation.rest` of the station file."""

    def __init__(self, config: RestConfig) -> None:
        self._config = config
        self._worked_s = 0.0

    def work(self, seconds: float) -> None:
        """An episode took this many seconds."""
        self._worked_s += seconds

    @property
    def due(self) -> float:
        """Seconds to rest now; 0 while none are due."""
        config = self._config
        return config.seconds if config.every_s and self._worked_s >= config.every_s else 0.0

    def rested(self) -> None:
        """The rest is over; the next one is due after as much work again."""
        self._worked_s = 0.0
