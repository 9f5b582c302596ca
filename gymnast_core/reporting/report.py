"""One HTML page a run: what was done, how it went, and where everything lies.

A page is a list of sections; pictures are embedded, so that the page can be sent around as one file. `write_report`
keeps the sections in report.json beside it, from which `gymnast report` renders the page again.
"""

from __future__ import annotations

import base64
import html
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from gymnast_core.config import parse_config
from gymnast_core.data.frames import write_bytes
from gymnast_core.errors import DataError
from gymnast_core.run_folder import is_number, read_json_lines

TEMPLATE = Path(__file__).resolve().parent / "report.html.j2"
MIME = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".svg": "image/svg+xml", ".mp4": "video/mp4"}
EMBED_BYTES = 8_000_000
COLOURS = ("#2f81f7", "#d29922", "#3fb950", "#bc8cff", "#f85149")


@dataclass(frozen=True)
class Figure:
    """A picture or video of the run. path: absolute or relative to the run folder. small: not wider than 340 pixels."""

    path: str
    caption: str = ""
    small: bool = False


@dataclass(frozen=True)
class Bar:
    """One bar of a comparison: a success rate in [0, 1] with its standard error over n trials."""

    label: str
    value: float | None
    standard_error: float | None = None
    n: int = 0
    tone: Literal["plain", "good", "muted"] = "plain"


@dataclass(frozen=True)
class Series:
    """One line of a curve; None leaves a gap."""

    label: str
    x: tuple[float, ...]
    y: tuple[float | None, ...]


@dataclass(frozen=True)
class Curve:
    """Lines over a common axis. y_range: None fits the data."""

    title: str
    x_label: str
    series: tuple[Series, ...]
    y_range: tuple[float, float] | None = None


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
    figures: tuple[Figure, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    code: str = ""


@dataclass(frozen=True)
class Page:
    """A whole report."""

    title: str
    subtitle: str = ""
    sections: tuple[Section, ...] = field(default_factory=tuple)


@dataclass(frozen=True)
class ReportConfig:
    """Write report.html of a run folder again."""

    run: str
    """Run folder that holds a report.json, or the metrics or result of a training or an evaluation."""


def report(config: ReportConfig) -> int:
    """Render the page of a run folder from its report.json, or from what it logged where it has none."""
    path = Path(config.run) / "report.json"
    if not path.exists() and any((path.parent / name).exists() for name in ("metrics.jsonl", "result.json")):
        print(report_run(config.run, path.parent.resolve().name))
        return 0
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot read: {error.strerror or error}; name a run folder with a report") from error
    except ValueError as error:
        raise DataError(f"{path}: not JSON ({error})") from error
    page = parse_config(Page, content, str(path))
    print(_render(Path(config.run), page))
    return 0


def write_report(
    run_folder: str | os.PathLike[str],
    title: str,
    sections: Sequence[Section],
    subtitle: str = "",
) -> Path:
    """Write report.html (and report.json) into a run folder and return the page's path.

    The config (config.yaml) and where everything lies are added as last sections.

    Raises: DataError when a file cannot be written.
    """
    run = Path(run_folder).resolve()
    page = Page(title, subtitle, tuple(sections))
    write_bytes(run / "report.json", json.dumps(asdict(page), indent=1, default=str).encode())
    return _render(run, page)


def report_run(run_folder: str | os.PathLike[str], title: str, text: str = "", first: Sequence[Section] = ()) -> Path:
    """A page of what a run logged: a curve for each metric, the figures of result.json, its latest pictures.

    first: sections of its own that the page begins with.

    result.json may hold curves of its own, "curves": {title: {"x": [...], "x_label": "...", "lines": {label: [...]}}}.

    Raises: DataError when a file cannot be read or written.
    """
    run = Path(run_folder).resolve()
    lines = read_json_lines(run / "metrics.jsonl")
    names = sorted({name for line in lines for name in line} - {"step", "time"})
    curves = tuple(metric_curve(run, {name: name}, name, "step") for name in names)
    rows: tuple[tuple[str, ...], ...] = ()
    drawn: tuple[Curve, ...] = ()
    if (run / "result.json").exists():
        try:
            result = dict(json.loads((run / "result.json").read_text(encoding="utf-8")))
            drawn = tuple(_result_curve(title, content) for title, content in result.pop("curves", {}).items())
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise DataError(f"{run / 'result.json'}: cannot read ({error})") from error
        rows = (("figure", "value"), *((name, _text(value)) for name, value in sorted(result.items())))
    pictures = sorted((run / "media").glob("*.png"))[-4:] + sorted((run / "media").glob("*.mp4"))[-2:]
    figures = tuple(Figure(str(path.relative_to(run)), path.name) for path in pictures)
    sections = [Section("Result", text=text, curves=drawn, rows=rows)] if rows or text else []
    if figures:
        sections.append(Section("Pictures", figures=figures))
    if curves:
        sections.append(Section("Curves", curves=curves))
    return write_report(run, title, [*first, *sections])


def _result_curve(title: str, content: Mapping[str, Any]) -> Curve:
    x = tuple(float(value) for value in content["x"])
    lines = {label: tuple(y) for label, y in content["lines"].items()}
    return Curve(title, str(content["x_label"]), tuple(Series(label, x, y) for label, y in lines.items()))


def _text(value: object) -> str:
    """A figure as people read it."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict) and value.keys() == {"mean", "standard_error", "n"}:
        return f"{value['mean']:.2f} ± {value['standard_error']:.2f} (n = {value['n']})"
    return json.dumps(value) if isinstance(value, (dict, list)) else str(value)


def metric_curve(
    run_folder: str | os.PathLike[str],
    names: Mapping[str, str],
    title: str,
    x_label: str = "update",
    y_range: tuple[float, float] | None = None,
) -> Curve:
    """A curve of logged metrics. names: metric -> label."""
    lines = read_json_lines(Path(run_folder) / "metrics.jsonl")
    series = []
    for name, label in names.items():
        points = [
            (float(line["step"]), line[name] if is_number(line[name]) else None)
            for line in lines
            if name in line and is_number(line.get("step"))
        ]
        if points:
            series.append(Series(label, tuple(x for x, _ in points), tuple(y for _, y in points)))
    return Curve(title, x_label, tuple(series), y_range)


def _render(run: Path, page: Page) -> Path:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    from markupsafe import Markup

    environment.globals.update(
        curve=lambda curve: Markup(curve_svg(curve)),
        bars=lambda bars: Markup(bars_svg(bars)),
        source=lambda figure: _source(run, figure.path),
        is_video=lambda figure: figure.path.endswith(".mp4"),
    )
    config = run / "config.yaml"
    text = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        page=page,
        config=config.read_text(encoding="utf-8") if config.exists() else "",
        files=_files(run),
        folder=str(run),
        written=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
    )
    write_bytes(run / "report.html", text.encode())
    return run / "report.html"


def _source(run: Path, name: str) -> str:
    """A picture as data URL; large ones and missing ones as a link."""
    path = Path(name) if Path(name).is_absolute() else run / name
    if not path.is_file() or path.stat().st_size > EMBED_BYTES:
        return os.path.relpath(path, run)
    mime = MIME.get(path.suffix.lower(), "application/octet-stream")
    return f"data:{mime};base64,{base64.b64encode(path.read_bytes()).decode()}"


def _files(run: Path) -> list[tuple[str, str]]:
    """What a run folder holds, in words."""
    known = (
        ("config.yaml", "the config the run really used"),
        ("metrics.jsonl", "all logged numbers"),
        ("tensorboard", "the same for TensorBoard"),
        ("result.json", "the outcome"),
        ("checkpoints", "to resume from"),
        ("adapter", "the adapted policy"),
        ("episodes", "episodes, one folder each"),
        ("media", "pictures and videos"),
        ("judge_answers.jsonl", "every raw answer of the judge"),
        ("progress.jsonl", "progress, line by line"),
    )
    return [(name, words) for name, words in known if (run / name).exists()]


# --- drawings -------------------------------------------------------------------------------------------------------


def bars_svg(bars: Sequence[Bar]) -> str:
    """Horizontal bars with standard errors on a scale from 0 to 1."""
    label_width, plot, row = 210, 400, 34
    height = row * len(bars) + 26
    parts = [f'<svg class="chart" fill="currentColor" viewBox="0 0 {label_width + plot + 130} {height}" role="img">']
    for tick in range(0, 11, 2):
        x = label_width + plot * tick / 10
        parts.append(f'<line class="grid" stroke="#8888" x1="{x}" x2="{x}" y1="0" y2="{row * len(bars)}"/>')
        parts.append(f'<text class="tick" x="{x}" y="{row * len(bars) + 16}" text-anchor="middle">{tick * 10} %</text>')
    for number, bar in enumerate(bars):
        top = number * row + 6
        middle = top + 11
        label = html.escape(bar.label)
        parts.append(f'<text class="label" x="{label_width - 10}" y="{middle + 4}" text-anchor="end">{label}</text>')
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


def curve_svg(curve: Curve) -> str:
    """Lines with axes, a legend, and a dot where a line has a single point."""
    width, height, left, bottom, top, right = 640, 270, 52, 38, 32, 16
    points = [
        (x, y)
        for series in curve.series
        for x, y in zip(series.x, series.y)
        if y is not None and math.isfinite(y) and math.isfinite(x)
    ]
    if not points:
        return '<p class="none">nothing logged yet</p>'
    x_low, x_high = min(x for x, _ in points), max(x for x, _ in points)
    y_low, y_high = curve.y_range or (min(y for _, y in points), max(y for _, y in points))
    if x_high == x_low:
        x_low, x_high = x_low - 1, x_high + 1
    if y_high == y_low:
        y_low, y_high = y_low - abs(y_low) * 0.1 - 1e-6, y_high + abs(y_high) * 0.1 + 1e-6
    if curve.y_range is None:
        margin = (y_high - y_low) * 0.06
        y_low, y_high = y_low - margin, y_high + margin

    def place(x: float, y: float) -> tuple[float, float]:
        share = (min(max(y, y_low), y_high) - y_low) / (y_high - y_low)
        return (
            left + (x - x_low) / (x_high - x_low) * (width - left - right),
            height - bottom - share * (height - top - bottom),
        )

    parts = [f'<svg class="chart" fill="currentColor" viewBox="0 0 {width} {height}" role="img">']
    for tick in _ticks(y_low, y_high):
        _, y = place(x_low, tick)
        parts.append(f'<line class="grid" stroke="#8888" x1="{left}" x2="{width - right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{tick:.4g}</text>')
    whole = all(float(x).is_integer() for x, _ in points)
    for tick in _ticks(x_low, x_high):
        if whole and not tick.is_integer():
            continue
        x, _ = place(tick, y_low)
        parts.append(
            f'<text class="tick" x="{x:.1f}" y="{height - bottom + 18}" text-anchor="middle">{tick:.4g}</text>'
        )
    parts.append(
        f'<text class="tick" x="{(left + width - right) / 2}" y="{height - 4}" text-anchor="middle">'
        f"{html.escape(curve.x_label)}</text>"
    )
    for number, series in enumerate(curve.series):
        colour = COLOURS[number % len(COLOURS)]
        path, pen_down = "", False
        dots = []
        for x_value, y_value in zip(series.x, series.y):
            if y_value is None or not math.isfinite(y_value):
                pen_down = False
                continue
            x, y = place(x_value, y_value)
            path += f"{'L' if pen_down else 'M'}{x:.1f} {y:.1f}"
            pen_down = True
            dots.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.4" fill="{colour}"/>')
        parts.append(f'<path class="line" fill="none" stroke="{colour}" d="{path}"/>')
        parts.extend(dots if len(dots) <= 60 else [])
        parts.append(
            f'<rect x="{left + 8 + 150 * number}" y="{top - 26}" width="10" height="10" rx="2" fill="{colour}"/>'
        )
        parts.append(
            f'<text class="tick" x="{left + 23 + 150 * number}" y="{top - 17}">{html.escape(series.label)}</text>'
        )
    return "".join(parts) + "</svg>"


def _ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers between low and high."""
    span = (high - low) / wanted
    step = 10.0 ** math.floor(math.log10(span))
    step *= next(factor for factor in (1, 2, 5, 10) if factor * step >= span)
    first = math.ceil(low / step - 1e-9)
    return [round(number * step, 12) for number in range(first, math.floor(high / step + 1e-9) + 1)]
