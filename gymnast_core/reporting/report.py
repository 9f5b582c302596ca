"""One HTML page a run: what was done, how it went, and where everything lies.

A page is a list of sections; pictures are embedded, so that the page can be sent around as one file. `write_report`
keeps the sections in report.json beside it, from which `gymnast report` renders the page again.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from gymnast_core.config import parse_config
from gymnast_core.errors import DataError, DocumentError
from gymnast_core.files import is_number, write_bytes
from gymnast_core.plain_json import parse_json
from gymnast_core.redaction import redact_all
from gymnast_core.reporting.drawings import LARGEST, bars_svg, curve_svg
from gymnast_core.reporting.inside import RunFiles
from gymnast_core.reporting.page import Bar, BarTone, Curve, Figure, Page, Points, Scatter, Section, Series
from gymnast_core.reporting.scatter import scatter_svg
from gymnast_core.version import describe_version

__all__ = ["Bar", "BarTone", "Curve", "Figure", "Page", "Points", "ReportConfig", "Scatter", "Section", "Series"]
__all__ += ["metric_curve", "report", "report_run", "write_report"]

TEMPLATE = Path(__file__).resolve().parent / "report.html.j2"
MAX_MAPPINGS, MAX_VALUES = 20_000, 1_000_000
"""Of a file that a page is made of: more nobody looks at, and those of somebody else must cost little."""
MAX_CURVES, MAX_POINTS = 300, 1000
"""Metrics that get a curve of their own, and points of a logged line that are drawn; metrics.jsonl keeps all."""


@dataclass(frozen=True)
class ReportConfig:
    """Write report.html of a run folder again."""

    run: str
    """Run folder that holds a report.json, or the metrics or result of a training or an evaluation."""


def report(config: ReportConfig) -> int:
    """Render the page of a run folder from its report.json, or from what it logged where it has none."""
    files = RunFiles(config.run)
    if not files.has("report.json") and any(files.has(name) for name in ("metrics.jsonl", "result.json")):
        print(report_run(config.run, files.run.name))
        return 0
    page = parse_config(Page, _read_json(files, "report.json"), str(files.run / "report.json"))
    print(_render(files, page))
    return 0


def _read_json(files: RunFiles, name: str) -> Any:
    """Raises: DataError."""
    text = files.read(name)
    try:
        content = parse_json(text)
    except DocumentError as error:
        raise DataError(f"{files.run / name}: not JSON ({error})") from error
    mappings, values, waiting = 0, 0, [content]
    while waiting:
        one = waiting.pop()
        values += 1
        if isinstance(one, dict):
            mappings += 1
            waiting.extend(one.values())
        elif isinstance(one, list):
            waiting.extend(one)
    if mappings > MAX_MAPPINGS or values > MAX_VALUES:
        raise DataError(
            f"{files.run / name}: holds {mappings} mappings and {values} values, allowed are {MAX_MAPPINGS} and "
            f"{MAX_VALUES}"
        )
    return content


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
    files = RunFiles(run_folder)
    shown = tuple(_with_figures(section, files) for section in sections)
    page = redact_all(Page(title, subtitle, shown, describe_version()))
    write_bytes(files.run / "report.json", json.dumps(asdict(page), indent=1, default=str).encode())
    return _render(files, page)


def _with_figures(section: Section, files: RunFiles) -> Section:
    try:
        figures = tuple(replace(figure, path=files.bring(figure.path)) for figure in section.figures)
    except OSError as error:
        raise DataError(f"{files.run}: cannot copy a picture: {error.strerror or error}; free disk space") from error
    return replace(section, figures=figures)


def report_run(run_folder: str | os.PathLike[str], title: str, text: str = "", first: Sequence[Section] = ()) -> Path:
    """A page of what a run logged: a curve for each metric, the figures of result.json, its latest pictures.

    first: sections of its own that the page begins with.

    result.json may hold curves of its own, "curves": {title: {"x": [...], "x_label": "...", "lines": {label: [...]}}}.

    Raises: DataError when a file cannot be read or written.
    """
    files = RunFiles(run_folder)
    lines = files.lines("metrics.jsonl")
    names = sorted({name for line in lines for name in line} - {"step", "time"})[:MAX_CURVES]
    curves = tuple(_metric_curve(lines, {name: name}, name, "step") for name in names)
    rows: tuple[tuple[str, ...], ...] = ()
    drawn: tuple[Curve, ...] = ()
    if files.has("result.json"):
        result = _read_json(files, "result.json")
        where = str(files.run / "result.json")
        if not isinstance(result, dict) or not isinstance(result.get("curves", {}), dict):
            raise DataError(f"{where}: found no mapping of figures, or of curves")
        drawn = tuple(_result_curve(title, one, where) for title, one in result.pop("curves", {}).items())
        rows = (("figure", "value"), *((name, _text(value)) for name, value in sorted(result.items())))
    media = files.run / "media"
    pictures = sorted(media.glob("*.png"))[-4:] + sorted(media.glob("*.mp4"))[-2:]
    figures = tuple(Figure(f"media/{path.name}", path.name) for path in pictures)
    sections = [Section("Result", text=text, curves=drawn, rows=rows)] if rows or text else []
    if figures:
        sections.append(Section("Pictures", figures=figures))
    if curves:
        sections.append(Section("Curves", curves=curves))
    return write_report(files.run, title, [*first, *sections])


def _result_curve(title: str, content: Any, source: str) -> Curve:
    """Raises: ConfigError naming the source and what is wrong."""
    if not isinstance(content, dict) or not isinstance(content.get("lines"), dict):
        raise DataError(f"{source}: curves: {title[:80]!r}: needed a mapping of x, x_label and lines")
    x = content.get("x")
    series = [{"label": label, "x": x, "y": y} for label, y in content["lines"].items()]
    curve = {"title": title, "x_label": content.get("x_label"), "series": series}
    return parse_config(Curve, curve, f"{source}: curve {title[:80]!r}")


def _text(value: object) -> str:
    """A figure as people read it."""
    if isinstance(value, float):
        return f"{value:.4g}"
    estimate = isinstance(value, dict) and value.keys() == {"mean", "standard_error", "n"}
    if isinstance(value, dict) and estimate and all(_is_figure(part) for part in value.values()):
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
    return _metric_curve(RunFiles(run_folder).lines("metrics.jsonl"), names, title, x_label, y_range)


def _metric_curve(
    lines: Sequence[Mapping[str, Any]],
    names: Mapping[str, str],
    title: str,
    x_label: str,
    y_range: tuple[float, float] | None = None,
) -> Curve:
    series = []
    for name, label in names.items():
        points = [
            (float(line["step"]), float(line[name]) if _is_figure(line[name]) else None)
            for line in lines
            if name in line and _is_figure(line.get("step"))
        ]
        if points:
            shown = _thin(points)
            series.append(Series(label, tuple(x for x, _ in shown), tuple(y for _, y in shown)))
    return Curve(title, x_label, tuple(series), y_range)


def _thin(points: Sequence[tuple[float, float | None]]) -> Sequence[tuple[float, float | None]]:
    """At most MAX_POINTS of a long line: the lowest and the highest of each piece, so that no peak is lost."""
    if len(points) <= MAX_POINTS:
        return points
    size = math.ceil(len(points) / (MAX_POINTS // 2))
    kept: list[tuple[float, float | None]] = []
    for begin in range(0, len(points), size):
        piece = range(begin, min(begin + size, len(points)))
        drawn = [(points[index][1], index) for index in piece if points[index][1] is not None] or [(None, begin)]
        kept += [points[index] for index in sorted({min(drawn)[1], max(drawn)[1]})]
    return kept


def _is_figure(value: Any) -> bool:
    """Whether a value is a number that can be drawn."""
    return is_number(value) and -LARGEST <= value <= LARGEST


def _render(files: RunFiles, page: Page) -> Path:
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.globals.update(
        curve=lambda curve: Markup(curve_svg(curve)),
        bars=lambda bars: Markup(bars_svg(bars)),
        scatter=lambda scatter: Markup(scatter_svg(scatter)),
        shown=lambda figure: files.show(figure.path),
    )
    text = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        page=page,
        config=files.read("config.yaml") if files.has("config.yaml") else "",
        files=_files(files.run),
        folder=str(files.run),
        errors="±" in json.dumps(asdict(page), ensure_ascii=False, default=str) or _has_errors(page),
        written=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
    )
    write_bytes(files.run / "report.html", text.encode(errors="replace"))  # JSON may hold half a character
    return files.run / "report.html"


def _has_errors(page: Page) -> bool:
    return any(bar.standard_error is not None for section in page.sections for bar in section.bars)


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
        ("imagined.jsonl", "what the judge said of the films in media/imagined"),
        ("practices", "one folder for each practice of a benchmark"),
        ("table.md", "the table, for a document"),
        ("judge_answers.jsonl", "every raw answer of the judge"),
        ("progress.jsonl", "progress, line by line"),
    )
    return [(name, words) for name, words in known if (run / name).exists()]
