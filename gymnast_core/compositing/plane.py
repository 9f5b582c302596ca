"""The table as a camera without roll sees it: how large a metre is, and how steeply one looks down, in each row."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class TablePlane:
    """A pinhole camera above a level table, and the frame it made.

    height: of the camera above the table, metres. pitch: of its axis below the horizon, radians. fovy: its vertical
    field of view, radians. rows, columns: of the frame. aspect: width over height of the picture as the camera saw it,
    before the frame was squashed.
    """

    height: float
    pitch: float
    fovy: float
    rows: int
    columns: int
    aspect: float

    @property
    def focal(self) -> float:
        """Focal length, in rows."""
        return self.rows / 2 / math.tan(self.fovy / 2)

    @property
    def squash(self) -> float:
        """Columns for each row of a square thing that faces the camera."""
        return self.columns / (self.rows * self.aspect)

    def elevation(self, row: float) -> float:
        """Angle below the horizon, radians, at which the camera looks at a row."""
        return self.pitch + math.atan((row - self.rows / 2) / self.focal)

    def rows_per_metre(self, row: float) -> float:
        """Rows for each metre, across the line of sight, of what stands on the table in this row; 0 at the horizon."""
        below = row - self.rows / 2 + self.focal * math.tan(self.pitch)
        return max(0.0, below * math.cos(self.pitch) / self.height)
