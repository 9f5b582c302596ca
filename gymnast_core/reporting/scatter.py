"""A scatter of shares as SVG: on a page, or as a file of its own."""

from __future__ import annotations

import html
import math

from gymnast_core.reporting.drawings import COLOURS
from gymnast_core.reporting.page import Points, Scatter

SIDE, LEFT, TOP, BOTTOM, LEGEND = 380, 56, 14, 46, 300
MARGIN = 0.03
"""Beyond 0 and 1, so that marks at the ends are whole."""
MAX_POINTS = 10_000


def scatter_svg(scatter: Scatter, alone: bool = False) -> str:
    """Marks over axes from 0 to 1, with a legend; what is no share is left out. alone: as a file, on white."""
    height = max(TOP + SIDE + BOTTOM, TOP + 20 * (len(scatter.points) + len(scatter.levels)) + 10)
    box = f'viewBox="0 0 {LEFT + SIDE + LEGEND} {height}" role="img"'
    head = f'<svg class="chart" fill="currentColor" {box}>'
    if alone:
        head = f'<svg xmlns="http://www.w3.org/2000/svg" font-family="sans-serif" font-size="12" fill="#1f2328" {box}>'
        head += f'<rect width="100%" height="100%" fill="#fff"/><title>{html.escape(scatter.title)}</title>'
    parts = [head, *_axes(scatter)]
    for name, level in scatter.levels:
        if not _share(level):
            continue
        y = _up(level)
        parts.append(
            f'<line stroke="#888" stroke-dasharray="5 4" x1="{LEFT}" x2="{LEFT + SIDE}" y1="{y:.1f}" y2="{y:.1f}"/>'
        )
        parts.append(f'<text class="tick" x="{LEFT + 4}" y="{y - 4:.1f}">{html.escape(name)}</text>')
    left = MAX_POINTS
    for number, points in enumerate(scatter.points):
        colour = COLOURS[points.colour % len(COLOURS)]
        chosen = [k for k, (x, y) in enumerate(zip(points.x, points.y)) if _share(x) and _share(y)][:left]
        left -= len(chosen)
        parts += [line for k in chosen for line in _errors(points, k, colour)]
        parts += [_mark(points.mark, _across(points.x[k]), _up(points.y[k]), colour) for k in chosen]
        place, row = LEFT + SIDE + 22, TOP + 10 + 20 * number
        parts.append(_mark(points.mark, place, row, colour))
        parts.append(f'<text class="tick" x="{place + 12}" y="{row + 4}">{html.escape(points.label)}</text>')
    return "".join(parts) + "</svg>"


def _errors(points: Points, number: int, colour: str) -> list[str]:
    """A point's standard errors, as far as they lie within the axes."""
    x, y = points.x[number], points.y[number]
    dx, dy = (errors[number] if errors else 0.0 for errors in (points.x_error, points.y_error))
    lines = []
    if math.isfinite(dx) and dx > 0:
        low, high = _across(max(0.0, x - dx)), _across(min(1.0, x + dx))
        lines.append(f"M{low:.1f} {_up(y):.1f}H{high:.1f}")
    if math.isfinite(dy) and dy > 0:
        low, high = _up(max(0.0, y - dy)), _up(min(1.0, y + dy))
        lines.append(f"M{_across(x):.1f} {low:.1f}V{high:.1f}")
    return [f'<path fill="none" stroke="{colour}" stroke-opacity="0.6" d="{line}"/>' for line in lines]


def _share(value: float) -> bool:
    return math.isfinite(value) and 0.0 <= value <= 1.0


def _across(x: float) -> float:
    return LEFT + SIDE * (x + MARGIN) / (1 + 2 * MARGIN)


def _up(y: float) -> float:
    return TOP + SIDE * (1 + MARGIN - y) / (1 + 2 * MARGIN)


def _axes(scatter: Scatter) -> list[str]:
    """Grid lines, labels and the diagonal, on which both shares are the same."""
    parts = []
    for tick in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0):
        x, y = _across(tick), _up(tick)
        for ends in (
            f'x1="{LEFT}" x2="{LEFT + SIDE}" y1="{y:.1f}" y2="{y:.1f}"',
            f'x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{TOP + SIDE}"',
        ):
            parts.append(f'<line class="grid" stroke="#8884" {ends}/>')
        parts.append(f'<text class="tick" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{tick:.1f}</text>')
        parts.append(f'<text class="tick" x="{x:.1f}" y="{TOP + SIDE + 17}" text-anchor="middle">{tick:.1f}</text>')
    low, high = (f"{_across(end):.1f} {_up(end):.1f}" for end in (0.0, 1.0))
    parts.append(f'<path fill="none" stroke="#888" stroke-width="1" d="M{low}L{high}"/>')
    middle = LEFT + SIDE / 2
    parts.append(f'<text class="tick" x="{middle}" y="{TOP + SIDE + 36}" text-anchor="middle">')
    parts.append(f"{html.escape(scatter.x_label)}</text>")
    turned = f'transform="translate(14 {TOP + SIDE / 2}) rotate(-90)"'
    parts.append(f'<text class="tick" text-anchor="middle" {turned}>{html.escape(scatter.y_label)}</text>')
    return parts


def _mark(mark: str, x: float, y: float, colour: str) -> str:
    if mark == "cross":
        ends = f"M{x - 4:.1f} {y - 4:.1f}l8 8M{x + 4:.1f} {y - 4:.1f}l-8 8"
        return f'<path fill="none" stroke="{colour}" stroke-width="2" d="{ends}"/>'
    filled = f'fill="{colour}" fill-opacity="0.65"' if mark == "dot" else 'fill="none"'
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" stroke="{colour}" stroke-width="1.5" {filled}/>'
