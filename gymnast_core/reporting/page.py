"""What a page says: sections of text, facts, bars, curves, pictures and tables. `report.py` writes it as HTML."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field

from gymnast_core.contents import one_line
from gymnast_core.errors import ConfigError


@dataclass(frozen=True)
class Figure:
    """A picture or video. path: relative to the run folder, in which it lies; `write_report` copies those that lie
    elsewhere. small: not wider than 340 pixels."""

    path: str
    caption: str = ""
    small: bool = False


BarTone = Literal["plain", "good", "muted"]


@dataclass(frozen=True)
class Bar:
    """One bar of a comparison: a success rate in [0, 1] with its standard error over n trials."""

    label: str
    value: float | None
    standard_error: float | None = None
    n: int = 0
    tone: BarTone = "plain"


@dataclass(frozen=True)
class Series:
    """One line of a curve; None leaves a gap. Raises: ConfigError when x and y are not of one length."""

    label: str
    x: tuple[float, ...]
    y: tuple[float | None, ...]

    def __post_init__(self) -> None:
        if len(self.x) != len(self.y):
            raise ConfigError(f"series {one_line(self.label, 40)!r}: found {len(self.x)} x and {len(self.y)} y")


@dataclass(frozen=True)
class Curve:
    """Lines over a common axis. y_range: lower and upper end; None, and one that is no range, fit the data."""

    title: str
    x_label: str
    series: tuple[Series, ...]
    y_range: tuple[float, float] | None = None


@dataclass(frozen=True)
class Points:
    """Points of one kind in a scatter. mark: how they are drawn. colour: a number; points of one number look alike.
    x_error, y_error: standard errors, drawn as lines either way; empty: none.

    Raises: ConfigError when x and y are not of one length.
    """

    label: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    mark: Literal["dot", "ring", "cross"] = "dot"
    colour: Annotated[int, Field(ge=0)] = 0
    x_error: tuple[float, ...] = ()
    y_error: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        name, n = one_line(self.label, 40), len(self.x)
        if n != len(self.y):
            raise ConfigError(f"points {name!r}: found {n} x and {len(self.y)} y")
        for errors in (self.x_error, self.y_error):
            if len(errors) not in (0, n):
                raise ConfigError(f"points {name!r}: found {n} x and {len(errors)} errors")


@dataclass(frozen=True)
class Scatter:
    """Shares against shares, 0 to 1 on either axis. levels: label and height of dashed lines."""

    title: str
    x_label: str
    y_label: str
    points: tuple[Points, ...]
    levels: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Section:
    """A part of the page. Every kind of content is optional; they appear in the order of these fields.

    status: colours the heading's mark. facts: label and value. rows: a table, the first row its head.
    """

    title: str
    text: str = ""
    status: Literal["", "good", "bad", "warning"] = ""
    facts: tuple[tuple[str, str], ...] = ()
    bars: tuple[Bar, ...] = ()
    curves: tuple[Curve, ...] = ()
    scatters: tuple[Scatter, ...] = ()
    figures: tuple[Figure, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    code: str = ""


@dataclass(frozen=True)
class Page:
    """A whole report. version: of the gymnast that wrote it, with the commit of a checkout."""

    title: str
    subtitle: str = ""
    sections: tuple[Section, ...] = field(default_factory=tuple)
    version: str = ""
