"""The page of a check: what was found, and a strip of the frames that show it, errors first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from gymnast_core.data.formats import StoredEpisode, episode_at
from gymnast_core.errors import DataError
from gymnast_core.evaluation.check_result import CheckResult
from gymnast_core.evaluation.episode_strip import chosen_frames, strip_of
from gymnast_core.evaluation.findings import RULES, Finding
from gymnast_core.reporting.media import write_picture
from gymnast_core.reporting.report import Figure, Section, write_report

SHOWN_EPISODES, SHOWN_STRIPS, PICTURES = 40, 4, 8
"""On a page: episodes with a section of their own, strips of each, frames of a strip. result.json names them all."""
SHOWN_ROWS = 2000


def write_check_page(run: Path, result: CheckResult) -> Path:
    """Write report.html into `run`. Raises: DataError when it cannot be written."""
    by_episode: dict[str, list[Finding]] = {}
    for finding in result.findings:
        by_episode.setdefault(finding.episode, []).append(finding)
    sections = [_summary(result)]
    for number, (path, found) in enumerate(list(by_episode.items())[:SHOWN_EPISODES]):
        sections.append(_episode(run, number, path, found))
    if result.findings:
        sections.append(_every_finding(result.findings))
    if result.mended:
        done = ((one.episode, ", ".join(one.codes), one.told) for one in result.mended)
        sections.append(Section("Mended", rows=(("episode", "found before", "what was done"), *done)))
    return write_report(run, "Check of episodes", sections, f"run {run.name}")


def _summary(result: CheckResult) -> Section:
    counts = Counter(finding.code for finding in result.findings)
    rows = tuple((code, str(count), RULES[code].severity, RULES[code].remedy) for code, count in counts.most_common())
    return Section(
        "What was found",
        result.words,
        "warning" if result.findings else "good",
        rows=(("finding", "times", "severity", "what to do"), *rows) if rows else (),
    )


def _episode(run: Path, number: int, path: str, found: Sequence[Finding]) -> Section:
    bad = any(finding.severity == "error" for finding in found)
    source = episode_at(path)
    figures = []
    for index, finding in enumerate(found[:SHOWN_STRIPS]):
        name = f"media/episode_{number:03d}_{index}.jpg"
        if source is not None and (figure := _figure(run / name, source, finding)):
            figures.append(Figure(name, figure))
    return Section(
        f"{Path(path).name}: {', '.join(dict.fromkeys(finding.code for finding in found))}",
        path,
        "bad" if bad else "warning",
        figures=tuple(figures),
        rows=(("finding", "where", "found", "needed", "what to do"), *map(_row, found)),
    )


def _figure(path: Path, source: StoredEpisode, finding: Finding) -> str:
    """Write the strip of a finding; its caption, empty where nothing can be shown."""
    try:
        count = source.count()
    except DataError:
        return ""
    if not count:
        return ""
    numbers = chosen_frames(count, PICTURES, finding.step, finding.last)
    strip = strip_of(source, numbers, 0.0 if finding.severity == "error" else None)
    if strip is None:
        return ""
    write_picture(path, strip)
    return f"{finding.code}: frames {', '.join(map(str, numbers))}; {finding.found}"


def _row(finding: Finding) -> tuple[str, ...]:
    return finding.code, finding.place or "all of it", finding.found, finding.allowed, finding.remedy


def _every_finding(findings: Sequence[Finding]) -> Section:
    rows = tuple(
        (finding.episode, finding.code, finding.severity, finding.place, finding.found)
        for finding in findings[:SHOWN_ROWS]
    )
    more = len(findings) - len(rows)
    text = f"{more} more stand in result.json." if more else ""
    return Section("Every finding", text, rows=(("episode", "finding", "severity", "where", "found"), *rows))
