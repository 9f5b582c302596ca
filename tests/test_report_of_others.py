"""A run folder of somebody else: its page shows what lies in it and nothing else, and bad content is one line."""

from __future__ import annotations

import json
import math
import os
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gymnast_core.cli import main
from gymnast_core.errors import ConfigError, DataError, GymnastError
from gymnast_core.files import write_bytes
from gymnast_core.reporting import inside
from gymnast_core.reporting.drawings import curve_svg
from gymnast_core.reporting.media import film_strip, write_picture, write_video
from gymnast_core.reporting.report import Curve, Figure, ReportConfig, Section, Series, report, write_report
from gymnast_core.run_folder import RunFolder

SECRET = "TOP-SECRET-WORDS"
FRAMES = np.stack([np.full((40, 40, 3), 20 * i, dtype=np.uint8) for i in range(8)])


class Attributes(HTMLParser):
    """Every attribute of every tag, and the words between them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, str, str]] = []
        self.words = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.words += data

    @property
    def sources(self) -> list[str]:
        return [value for _, name, value in self.found if name in ("src", "href", "action", "srcset", "data")]


def page_of(run: Path, **content: Any) -> Attributes:
    """The page that `gymnast report` makes of a report.json."""
    run.mkdir(exist_ok=True)
    (run / "report.json").write_text(json.dumps({"title": "theirs", **content}))
    assert report(ReportConfig(str(run))) == 0
    return Attributes((run / "report.html").read_text())


def test_nothing_outside_of_the_folder_reaches_the_page(tmp_path: Path) -> None:
    outside = tmp_path / "home"
    outside.mkdir()
    picture = write_picture(outside / "private.png", film_strip(FRAMES))
    (outside / "key.png").write_text(SECRET)
    run = tmp_path / "run"
    (run / "media").mkdir(parents=True)
    (run / "media" / "link.png").symlink_to(picture)
    (run / "folder").symlink_to(outside)
    (run / "loop.png").symlink_to("loop.png")
    os.mkfifo(run / "pipe.png")
    (run / "notes.png").write_text(SECRET)
    (run / "notes.txt").write_text(SECRET)
    write_picture(run / "media" / "own.png", film_strip(FRAMES))
    names = [
        str(picture),
        "../home/private.png",
        "media/../../home/private.png",
        "media/link.png",
        "folder/private.png",
        "loop.png",
        "pipe.png",
        "media",
        "notes.png",
        "notes.txt",
        "/etc/passwd",
        "",
        "nul\0.png",
        "half\ud800.png",
        "x" * 5000 + ".png",
        "javascript:alert(1)",
        "http://example.com/track.png",
        "data:text/html,<script>alert(1)</script>",
        'x" onerror="alert(1)',
    ]
    figures = [{"path": name, "caption": 'c" onerror="alert(1)'} for name in [*names, "media/own.png"]]
    page = page_of(run, sections=[{"title": '"><script>alert(1)</script>', "figures": figures}])
    assert len(page.sources) == 1 and page.sources[0].startswith("data:image/png;base64,"), "its own picture alone"
    assert page.words.count(" is not shown: ") == len(names)
    assert not [one for one in page.found if one[0] == "script" or one[1].startswith("on")]
    assert SECRET not in (run / "report.html").read_text()
    assert ("meta", "content") in {(tag, name) for tag, name, value in page.found if "default-src 'none'" in value}


@pytest.mark.parametrize("name", ["config.yaml", "report.json", "metrics.jsonl", "result.json"])
def test_links_out_of_the_folder_are_not_read(name: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "report.json").write_text(json.dumps({"title": "theirs"}))
    if name in ("metrics.jsonl", "result.json"):
        (run / "report.json").unlink()
        (run / "result.json").write_text("{}")
    (tmp_path / "secret").write_text(json.dumps({"step": 1, "title": SECRET, SECRET: 1}) + "\n")
    (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(tmp_path / "secret")
    with pytest.raises(DataError, match=f"{name}: cannot read: it lies outside of the run folder"):
        report(ReportConfig(str(run)))
    (run / name).unlink()
    os.mkfifo(run / name)
    with pytest.raises(DataError, match=f"{name}: cannot read: it is no ordinary file"):
        report(ReportConfig(str(run)))


def test_large_pictures_are_linked_and_many_are_embedded_only_so_far(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    write_picture(run / "media" / "a b#c.png", film_strip(FRAMES))
    write_video(run / "film.mp4", FRAMES)
    figures = [{"path": "media/a b#c.png"}, {"path": "film.mp4"}] * 3
    size = (run / "media" / "a b#c.png").stat().st_size + (run / "film.mp4").stat().st_size
    monkeypatch.setattr(inside, "EMBED_ALL", size)
    page = page_of(run, sections=[{"title": "many", "figures": figures}])
    assert [source[:10] for source in page.sources] == ["data:image", "data:video", *["./media/a%", "./film.mp4"] * 2]
    assert page.sources[2] == "./media/a%20b%23c.png"


def test_pictures_from_elsewhere_are_brought_along(tmp_path: Path) -> None:
    """A page that this process makes may show pictures of other runs: it holds them, wherever it is rendered again."""
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for number, folder in enumerate(("one", "two")):
        write_picture(theirs / folder / "strip.png", film_strip(FRAMES[number : number + 4]))
    paths = [str(theirs / "one" / "strip.png"), str(theirs / "two" / "strip.png"), str(theirs / "one" / "strip.png")]
    sections = [Section("Pictures", figures=tuple(Figure(path) for path in paths))]
    for _ in range(2):
        first = write_report(ours, "t", sections).read_text()
    assert sorted(path.name for path in (ours / "media").iterdir()) == ["strip.png", "strip_2.png"]
    moved = ours.rename(tmp_path / "moved")
    for folder in ("one", "two"):
        (theirs / folder / "strip.png").unlink()
    assert report(ReportConfig(str(moved))) == 0
    assert Attributes((moved / "report.html").read_text()).sources == Attributes(first).sources
    assert len(Attributes(first).sources) == 3


BAD: tuple[tuple[str, str], ...] = (
    ('{"title": "t", "sections": [{"title": "s", "curves": [{"title": "c", "x_label": "x", "series": [%s]}]}]}', ""),
    ('{"title": "t", "sections": [{"title": "s", "figures": [{"path": 3}]}]}', "figures.0.path"),
    ('{"title": "t", "sections": [{"title": "s", "status": "\\" onload=x"}]}', "status"),
    ('{"title": "t", "sections": [{"title": "s", "bars": [{"label": "b", "value": 1, "tone": "x"}]}]}', "tone"),
    ('{"title": "t", "sections": [{"title": "s", "bars": [{"label": "b", "value": 1, "n": "<b>"}]}]}', "n"),
    ("[]", ""),
    ("null", ""),
    ('"page"', ""),
    ("{}", "title"),
    ("{", "not JSON"),
    ("[" * 100_000, "not JSON"),
    ("1" * 10_000, "not JSON"),
)
SERIES = (
    '{"label": "l", "x": [1, 2], "y": [1]}',
    '{"label": "l", "x": 5, "y": 5}',
    '{"label": "l", "x": ["a"], "y": [1]}',
    '{"label": "l", "x": [1], "y": [[1]]}',
    '{"label": 3, "x": [1], "y": [1]}',
    "7",
)


@pytest.mark.parametrize(
    ("text", "message"),
    [*BAD[1:], *((BAD[0][0] % series, "series") for series in SERIES)],
    ids=range(len(BAD) - 1 + len(SERIES)),
)
def test_a_bad_page_is_refused_in_one_line(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "report.json").write_text(text)
    assert main(["report", "--run", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert "report.json" in told and message in told and "Traceback" not in told


ODD = ["NaN", "Infinity", "-Infinity", "1e308", "-1e308", "5e-324", "0", "1e400", "1" + "0" * 400, "null", "3"]


def test_numbers_that_no_picture_can_hold_leave_gaps(tmp_path: Path) -> None:
    numbers = ", ".join(number for number in ODD if number != "null" and len(number) < 100)
    series = f'{{"label": "l", "x": [{numbers}], "y": [{numbers}]}}'
    curves = ", ".join(
        f'{{"title": "c", "x_label": "x", "y_range": {ends}, "series": [{series}]}}'
        for ends in ("null", "[1, 1]", "[2, 1]", "[NaN, 1]", "[0, Infinity]", "[-1e308, 1e308]", "[0, 5e-324]")
    )
    bars = ", ".join(f'{{"label": "b", "value": {one}, "standard_error": {one}}}' for one in ODD if len(one) < 100)
    text = f'{{"title": "half \\ud800", "sections": [{{"title": "s", "curves": [{curves}], "bars": [{bars}]}}]}}'
    (tmp_path / "report.json").write_text(text)
    assert report(ReportConfig(str(tmp_path))) == 0
    assert (tmp_path / "report.html").read_text().count("<path class=") >= 7


numbers = st.floats() | st.sampled_from([0.0, 5e-324, 1e-300, 1e100, -1e100, 1e16, 1e16 + 2, 1.0, 1.0 + 1e-15])


@settings(max_examples=300)
@given(
    st.lists(st.tuples(numbers, st.none() | numbers), max_size=12),
    st.none() | st.tuples(numbers, numbers),
)
def test_any_numbers_can_be_drawn(points: list[tuple[float, float | None]], ends: tuple[float, float] | None) -> None:
    x, y = tuple(x for x, _ in points), tuple(y for _, y in points)
    svg = curve_svg(Curve("c", "x", (Series("s", x, y),), ends))
    assert "nan" not in svg and "inf" not in svg and len(svg) < 20_000


def test_bad_logs_and_results_are_drawn_or_told(tmp_path: Path) -> None:
    lines = [
        '{"step": 1, "a": 0.5, "b": "text", "c": [1]}',
        '{"step": 2, "a": 1' + "0" * 400 + ', "b": true}',
        '{"step": ' + "1" * 5000 + "}",
        '{"step": 1' + "0" * 400 + ', "a": 1}',
        '{"step": null, "a": 1}',
        "[1]",
        '{"step": 3, "a": NaN}',
        "[" * 100_000,
    ]
    (tmp_path / "metrics.jsonl").write_bytes("\n".join(lines).encode() + b'\n{"step": 4, "\xff": 1}\n')
    odd = {"mean": "x", "standard_error": None, "n": "<b>"}
    (tmp_path / "result.json").write_text(json.dumps({"estimate": odd, "words": "<script>", "big": 10**400}))
    assert report(ReportConfig(str(tmp_path))) == 0
    page = Attributes((tmp_path / "report.html").read_text())
    assert not [one for one in page.found if one[0] in ("script", "b")] and "circle" in {one[0] for one in page.found}
    (tmp_path / "report.json").unlink()
    for content in (
        "[]",
        '{"curves": []}',
        '{"curves": {"c": 1}}',
        '{"curves": {"c": {"x": [1], "x_label": "x", "lines": {"l": ["a"]}}}}',
        '{"curves": {"c": {"x": [1], "x_label": "x", "lines": {"l": [1, 2]}}}}',
        '{"curves": {"c": {"x": 1, "lines": {"l": 1}}}}',
        '{"curves": {"c": {"x": [1' + "0" * 400 + '], "x_label": "x", "lines": {"l": [1]}}}}',
        "\ufffe",
        "[" * 100_000,
    ):
        (tmp_path / "result.json").write_text(content)
        with pytest.raises(GymnastError, match=r"result\.json") as caught:
            report(ReportConfig(str(tmp_path)))
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_a_log_of_thousands_of_metrics_costs_one_reading(tmp_path: Path) -> None:
    line = {"step": 1, **{f"m{number}": 1.0 for number in range(20_000)}}
    (tmp_path / "metrics.jsonl").write_text((json.dumps(line) + "\n") * 20)
    assert report(ReportConfig(str(tmp_path))) == 0
    assert len(json.loads((tmp_path / "report.json").read_text())["sections"][0]["curves"]) == 300


def test_nothing_is_written_through_a_link_of_a_run_folder(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.write_text("precious")
    run = tmp_path / "run"
    run.mkdir()
    for name in (".lock", "metrics.jsonl", "progress.jsonl", f".report.html.{os.getpid()}.tmp"):
        (run / name).symlink_to(mine)
    with pytest.raises(DataError, match="cannot create the run folder"):
        RunFolder(run, ReportConfig("x"))
    (run / ".lock").unlink()
    folder = RunFolder(run, ReportConfig("x"), tensorboard=False)
    with pytest.raises(DataError, match=r"metrics\.jsonl: cannot write"):
        folder.log(1, {"a": 1.0})
    with pytest.raises(DataError, match=r"progress\.jsonl: cannot write"):
        folder.report_progress("x")
    write_bytes(run / "report.html", b"page")
    assert mine.read_text() == "precious" and (run / "report.html").read_bytes() == b"page"


@pytest.mark.parametrize("best", ["first", [1], ["a", "b"], {"step": 1}, 3])
def test_a_checkpoint_with_a_bad_record_is_one_line(best: Any, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints" / "step_00000001"
    folder.mkdir(parents=True)
    torch.save({"step": 1, "best": best}, folder / "state.pt")
    with pytest.raises(GymnastError, match=r"state\.pt: unreadable"):
        RunFolder(tmp_path).load_checkpoint()


def test_a_series_has_as_many_x_as_y() -> None:
    with pytest.raises(ConfigError, match="found 2 x and 1 y"):
        Series("s", (1.0, 2.0), (math.nan,))


def test_a_page_of_hundreds_of_thousands_of_parts_is_refused_before_it_costs_anything(tmp_path: Path) -> None:
    series = '{{"label": "l", "x": [{}], "y": []}}'.format(", ".join(["1"] * 1_200_000))
    for content in (
        '{{"title": "t", "sections": [{}]}}'.format(", ".join(['{"title": ""}'] * 30_000)),
        f'{{"title": "t", "sections": [{{"title": "s", "curves": [{{"series": [{series}]}}]}}]}}',
    ):
        (tmp_path / "report.json").write_text(content)
        with pytest.raises(DataError, match=r"report\.json: holds .* allowed are 20000 and 1000000"):
            report(ReportConfig(str(tmp_path)))
    (tmp_path / "report.json").write_text(" " * (inside.TEXT_BYTES + 1))
    with pytest.raises(DataError, match="more than 12 MB"):
        report(ReportConfig(str(tmp_path)))


def test_a_long_log_is_drawn_with_its_peaks(tmp_path: Path) -> None:
    lines = [json.dumps({"step": step, "loss": 9.0 if step == 7777 else 1.0}) for step in range(20_000)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    assert report(ReportConfig(str(tmp_path))) == 0
    (series,) = json.loads((tmp_path / "report.json").read_text())["sections"][0]["curves"][0]["series"]
    assert len(series["x"]) <= 1000 and 9.0 in series["y"] and series["x"] == sorted(series["x"])
