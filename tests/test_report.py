"""Statistics, pictures and the page of a run."""

from __future__ import annotations

import itertools
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gymnast_core import __version__
from gymnast_core.cli import main
from gymnast_core.errors import DataError
from gymnast_core.estimates import paired_difference, success_rate
from gymnast_core.reporting.drawings import bars_svg, curve_svg
from gymnast_core.reporting.media import film_strip, sheet, write_picture, write_video
from gymnast_core.reporting.report import Bar, Curve, Figure, Section, Series, write_report


def test_a_success_rate_is_never_certain() -> None:
    for outcomes in ([0.0] * 10, [1.0] * 10):
        assert success_rate(outcomes).standard_error > 0.05
    half = success_rate([0.0, 1.0] * 50)
    assert half.mean == 0.5 and half.standard_error == pytest.approx(0.05, abs=0.001) and half.n == 100
    assert success_rate([math.nan, 1.0, 0.0]).n == 2 and math.isnan(success_rate([]).mean)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=60))
def test_paired_differences_know_more_than_separate_rates(pairs: list[tuple[bool, bool]]) -> None:
    before, after = np.array(pairs, dtype=float).T
    change = paired_difference(before, after)
    assert change.mean == pytest.approx(after.mean() - before.mean())
    assert paired_difference(before, before).standard_error == 0
    with pytest.raises(ValueError, match="pairs"):
        paired_difference(before, after[:-1])


def frames(n: int = 12) -> np.ndarray:
    return np.stack([np.full((40, 40, 3), 20 * i % 255, dtype=np.uint8) for i in range(n)])


def test_a_strip_shows_first_and_last_frame_and_the_outcome() -> None:
    strip = film_strip(frames(), 4, 32, 1.0)
    assert strip.shape == (37, 4 * 32 + 3 * 3, 3)
    assert strip[10, 5, 0] == 0 and strip[10, -5, 0] == 220
    assert strip[-1, 0].tolist() != film_strip(frames(), 4, 32, 0.0)[-1, 0].tolist()
    assert film_strip(frames(1), 4, 32).shape == (37, 32, 3)
    assert sheet([("one", strip), ("two", strip[:, :50])]).shape[1] >= strip.shape[1]
    with pytest.raises(DataError, match="film strip"):
        film_strip(np.empty((0, 4, 4, 3), np.uint8))


def test_videos_hold_every_frame(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", np.repeat(frames(7), 2, axis=1)[:, :41], 5)
    with av.open(str(path)) as container:
        shown = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(shown) == 7 and shown[0].shape == (40, 40, 3)
    assert list(tmp_path.iterdir()) == [path]


class Page(HTMLParser):
    """Collects tags and checks that they are closed."""

    def __init__(self) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.sources += [value or "" for name, value in attributes if name in ("src", "href")]
        if tag not in ("meta", "img", "link", "br", "line", "rect", "circle", "path"):
            self.stack.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in ("line", "rect", "circle", "path"):
            return
        assert self.stack.pop() == tag


def test_the_page_is_one_file_with_all_its_pictures_and_escapes_what_it_shows(tmp_path: Path) -> None:
    write_picture(tmp_path / "media" / "strip.png", film_strip(frames()))
    write_video(tmp_path / "media" / "film.mp4", frames())
    (tmp_path / "config.yaml").write_text("instruction: <b>open</b>\n")
    sections = [
        Section("Result & <more>", "It <script>alert(1)</script> worked.", "good", facts=(("a", "<i>b</i>"),)),
        Section("Bars", bars=(Bar("base", 0.3, 0.05, 100, "muted"), Bar("adapted", 0.7, 0.04, 100), Bar("none", None))),
        Section("Curve", curves=(Curve("r", "update", (Series("a", (1.0, 2.0, 3.0), (0.1, None, 0.4)),)),)),
        Section("Pictures", figures=(Figure("media/strip.png", "strip"), Figure("media/film.mp4"))),
        Section("Table", rows=(("x", "y"), ("1", "2")), code="gymnast adapt <frame>"),
    ]
    path = write_report(tmp_path, "A <title>", sections, "today")
    text = path.read_text()
    page = Page()
    page.feed(text)
    assert not page.stack
    assert "<script" not in text and "<b>open</b>" not in text and "&lt;b&gt;open" in text
    assert len(page.sources) == 2 and all(source.startswith("data:") for source in page.sources)
    assert not re.search(r"https?://", text), "nothing is loaded from elsewhere"
    for words in ("30 ± 5 %", "not measured", "prefers-color-scheme: dark", str(tmp_path)):
        assert words in text
    first = re.sub(r"written .* by", "", text)
    assert main(["report", "--run", str(tmp_path)]) == 0
    assert re.sub(r"written .* by", "", path.read_text()) == first, "rendered again from report.json, the same"
    assert main(["report", "--run", str(tmp_path / "nowhere")]) == 2


def test_long_labels_are_whole_and_legends_do_not_lie_over_each_other(tmp_path: Path) -> None:
    label = "look-ahead-16:lab_open_drawer_20261122_051500_123456, close_drawer"
    svg = bars_svg([Bar(label, 0.5, 0.1, 10)])
    shown = re.findall(r"<text class=\"label\".*?</title>(.*?)</text>", svg)
    assert " ".join(shown) == label and len(shown) == 2
    names = [
        "success",
        "actions the envelope changed",
        "fall of other tasks",
        "a fourth line with a long name",
        "fifth",
    ]
    svg = curve_svg(Curve("c", "x", tuple(Series(name, (0.0, 1.0), (0.0, 1.0)) for name in names)))
    places = [
        (float(x), float(y), name)
        for x, y, name in re.findall(r'<text class="tick" x="([\d.-]+)" y="([\d.-]+)">([^<]+)</text>', svg)
    ]
    assert [name for _, _, name in places] == names
    for (x, y, name), (other_x, other_y, _) in itertools.pairwise(places):
        assert other_y > y or other_x > x + 6 * len(name), f"{name} reaches into the next label"
    assert all(x + 6 * len(name) < 640 for x, _, name in places)


def test_a_page_says_which_gymnast_wrote_it_and_what_its_errors_mean(tmp_path: Path) -> None:
    without = write_report(tmp_path / "a", "A", [Section("Text", "no figures")]).read_text()
    measured = write_report(tmp_path / "b", "B", [Section("Bars", bars=(Bar("base", 0.3, 0.05, 100),))]).read_text()
    assert f"by gymnast {__version__}" in without and "one standard error" not in without
    assert "one standard error" in measured


@given(st.lists(st.tuples(st.floats(-1e6, 1e6), st.one_of(st.none(), st.floats(-1e6, 1e6))), max_size=20))
def test_any_curve_can_be_drawn(points: list[tuple[float, float | None]]) -> None:
    svg = curve_svg(Curve("c", "x", (Series("s", tuple(x for x, _ in points), tuple(y for _, y in points)),)))
    assert "nan" not in svg and "inf" not in svg
