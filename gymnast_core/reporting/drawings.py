"""Bars and curves as SVG. Every number can be drawn: what is no number, or beyond LARGEST, leaves a gap."""

from __future__ import annotations

import html
import math
import textwrap
from collections.abc import Sequence

from gymnast_core.reporting.page import Bar, Curve

COLOURS = ("#2f81f7", "#d29922", "#3fb950", "#bc8cff", "#f85149")
LARGEST = 1e100
"""No figure of a run is beyond it; differences of larger ones overflow."""


def bars_svg(bars: Sequence[Bar]) -> str:
    """Horizontal bars with standard errors on a scale from 0 to 1."""
    longest = max((len(line) for bar in bars for line in _lines(bar.label)), default=0)
    label_width, plot, row = max(210, round(LETTER * longest) + 16), 400, 34
    height = row * len(bars) + 26
    parts = [f'<svg class="chart" fill="currentColor" viewBox="0 0 {label_width + plot + 130} {height}" role="img">']
    for tick in range(0, 11, 2):
        x = label_width + plot * tick / 10
        parts.append(f'<line class="grid" stroke="#8888" x1="{x}" x2="{x}" y1="0" y2="{row * len(bars)}"/>')
        parts.append(f'<text class="tick" x="{x}" y="{row * len(bars) + 16}" text-anchor="middle">{tick * 10} %</text>')
    for number, bar in enumerate(bars):
        top = number * row + 6
        middle = top + 11
        parts += _label(bar.label, label_width - 10, middle + 4)
        if bar.value is None or not math.isfinite(bar.value):
            parts.append(f'<text class="value" x="{label_width + 6}" y="{middle + 4}">not measured</text>')
            continue
        value = min(1.0, max(0.0, bar.value))
        length = f"{max(1.5, plot * value):.1f}"
        tone = {"plain": COLOURS[0], "good": COLOURS[2], "muted": "#9da5ae"}[bar.tone]
        size = f'width="{length}" height="22" rx="3"'
        parts.append(f'<rect class="bar {bar.tone}" fill="{tone}" x="{label_width}" y="{top}" {size}/>')
        error = bar.standard_error if bar.standard_error is not None and math.isfinite(bar.standard_error) else None
        end = value
        if error is not None:
            low, high = max(0.0, value - error), min(1.0, value + error)
            end = high
            x1, x2 = label_width + plot * low, label_width + plot * high
            ends = f"M{x1:.1f} {middle - 5}v10M{x2:.1f} {middle - 5}v10"
            parts.append(f'<path class="whisker" fill="none" stroke="#888" d="M{x1:.1f} {middle}H{x2:.1f}{ends}"/>')
        shown = f"{bar.value * 100:.0f}" + (f" ± {error * 100:.0f}" if error is not None else "") + " %"
        count = f" n = {bar.n}" if bar.n else ""
        parts.append(
            f'<text class="value" x="{label_width + plot * end + 10:.1f}" y="{middle + 4}">{shown}'
            f'<tspan class="tick">{count}</tspan></text>'
        )
    return "".join(parts) + "</svg>"


def _label(text: str, x: int, y: int) -> list[str]:
    """A bar's label, on two lines where it is long; the whole of it appears under the pointer."""
    whole = f"<title>{html.escape(text)}</title>"
    lines = _lines(text)
    first = y - 7 * (len(lines) - 1)
    return [
        f'<text class="label" x="{x}" y="{first + 14 * number}" text-anchor="end">{whole}{html.escape(line)}</text>'
        for number, line in enumerate(lines)
    ]


def _lines(label: str) -> list[str]:
    return textwrap.wrap(label, LABEL_LETTERS, max_lines=2, placeholder=" …", break_on_hyphens=False) or [""]


LABEL_LETTERS = 54
"""Of one line of a bar's label."""
LETTER = 6.5
"""Width of a letter of a label, about."""
WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 640, 270, 52, 38, 32, 16
"""Of a curve: its size and margins."""
Axis = tuple[float, float]


def curve_svg(curve: Curve) -> str:
    """Lines with axes, a legend, and a dot where a line has a single point."""
    points = [(x, y) for series in curve.series for x, y in zip(series.x, series.y) if _drawn(x) and _drawn(y)]
    if not points:
        return '<p class="none">nothing was logged</p>'
    across = _axis([x for x, _ in points], 1.0)
    if curve.y_range is not None and _drawn(curve.y_range[0]) and _is_axis(*curve.y_range):
        up = curve.y_range
    else:
        low, high = _axis([y for _, y in points if y is not None], 1e-6)
        up = (low - (high - low) * 0.06, high + (high - low) * 0.06)
    legend, above = _legend(curve)
    box = f"0 {-above} {WIDTH} {HEIGHT + above}"
    parts = [f'<svg class="chart" fill="currentColor" viewBox="{box}" role="img">', *legend]
    parts += _axes(curve.x_label, across, up, all(float(x).is_integer() for x, _ in points))
    for number, series in enumerate(curve.series):
        colour = COLOURS[number % len(COLOURS)]
        line = [_place(x, y, across, up) if _drawn(x) and _drawn(y) else None for x, y in zip(series.x, series.y)]
        parts += _line(line, colour)
    return "".join(parts) + "</svg>"


def _legend(curve: Curve) -> tuple[list[str], int]:
    """A mark and a label for each line, side by side, in further rows where they are many; and the room that these rows
    take above the plot."""
    rows: list[list[tuple[float, int]]] = [[]]
    x = float(LEFT + 8)
    for number, series in enumerate(curve.series):
        width = 30 + LETTER * len(series.label)
        if rows[-1] and x + width > WIDTH - RIGHT:
            rows.append([])
            x = float(LEFT + 8)
        rows[-1].append((x, number))
        x += width
    parts = []
    for line, row in enumerate(rows):
        y = TOP - 26 - 18 * (len(rows) - 1 - line)
        for x, number in row:
            colour = COLOURS[number % len(COLOURS)]
            label = html.escape(curve.series[number].label)
            parts.append(f'<rect x="{x:.0f}" y="{y}" width="10" height="10" rx="2" fill="{colour}"/>')
            parts.append(f'<text class="tick" x="{x + 15:.0f}" y="{y + 9}">{label}</text>')
    return parts, 18 * (len(rows) - 1)


def _drawn(value: float | None) -> bool:
    return value is not None and -LARGEST <= value <= LARGEST  # false for NaN too


def _is_axis(low: float, high: float) -> bool:
    """Whether there is room between the ends: ticks of a narrower axis are all the same number."""
    return _drawn(high) and high - low > 1e-9 * max(abs(low), abs(high), 1e-90)


def _axis(values: Sequence[float], room: float) -> Axis:
    """The ends of an axis for these values, at least `room` or a tenth of the value to either side of a single one."""
    low, high = float(min(values)), float(max(values))
    if _is_axis(low, high):
        return low, high
    return low - max(abs(low) * 0.1, room), high + max(abs(high) * 0.1, room)


def _place(x: float, y: float | None, across: Axis, up: Axis) -> tuple[float, float]:
    assert y is not None
    share = (min(max(y, up[0]), up[1]) - up[0]) / (up[1] - up[0])
    return (
        LEFT + (x - across[0]) / (across[1] - across[0]) * (WIDTH - LEFT - RIGHT),
        HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM),
    )


def _axes(x_label: str, across: Axis, up: Axis, whole: bool) -> list[str]:
    """Grid lines and labels. whole: only whole numbers below."""
    parts = []
    for tick in _ticks(*up):
        y = _place(across[0], tick, across, up)[1]
        parts.append(f'<line class="grid" stroke="#8888" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{tick:.4g}</text>')
    for tick in _ticks(*across):
        if whole and not tick.is_integer():
            continue
        x = _place(tick, up[0], across, up)[0]
        place = f'x="{x:.1f}" y="{HEIGHT - BOTTOM + 18}"'
        parts.append(f'<text class="tick" {place} text-anchor="middle">{tick:.4g}</text>')
    place = f'x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 4}"'
    parts.append(f'<text class="tick" {place} text-anchor="middle">{html.escape(x_label)}</text>')
    return parts


def _line(points: Sequence[tuple[float, float] | None], colour: str) -> list[str]:
    """A line with a dot for each point where these are few; None leaves a gap."""
    path, pen_down, dots = [], False, []
    few = len(points) <= 60
    for point in points:
        if point is not None:
            path.append(f"{'L' if pen_down else 'M'}{point[0]:.1f} {point[1]:.1f}")
            if few:
                dots.append(f'<circle cx="{point[0]:.1f}" cy="{point[1]:.1f}" r="2.4" fill="{colour}"/>')
        pen_down = point is not None
    line = f'<path class="line" fill="none" stroke="{colour}" d="{"".join(path)}"/>'
    return [line, *dots]


def _ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers between low and high."""
    span = (high - low) / wanted
    step = 10.0 ** math.floor(math.log10(span))
    step *= next((factor for factor in (1, 2, 5) if factor * step >= span), 10)
    first = math.ceil(low / step - 1e-9)
    numbers = range(first, math.floor(high / step + 1e-9) + 1)
    return [float(f"{number * step:.12g}") for number in numbers]
