"""The console's page in headless Chromium: quick, by keyboard, on a phone, light and dark, and safe from its data."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from gymnast_core.data.frames import write_image
from gymnast_core.run_folder import RunFolder
from tests.browser import DESK, PHONE, browser, keep, opened
from tests.console_station import QUESTION, VARIABLE
from tests.machine import allowed, overdue
from tests.serving import serving

TOKEN = "token-of-the-console"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser() as found:
        yield found


@pytest.fixture(scope="module")
def served(chromium: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Address of a console, and what its buttons asked for."""
    folder = tmp_path_factory.mktemp("console")
    station: dict[str, Any] = {"name": "bench", "tasks": {"open": {"instruction": "open the drawer"}}}
    station["recorder"] = {"folder": str(folder / "runs" / "episodes")}
    station["evaluation"] = {"reference_view": "reference.png"}
    station["models"] = {"policy": str(folder / "policy")}
    write_image(folder / "reference.png", np.full((48, 64, 3), 200, np.uint8))
    (folder / "policy").mkdir()
    (folder / "policy" / "config.json").write_text('{"image_variant": "center_crop"}')
    for number in (1, 2):
        run = RunFolder(folder / "runs" / "adapt" / f"practice_{number}", tensorboard=False)
        run.log(1, {"mean_reward": 0.3 * number})
        run.write_result(
            {"accepted": number == 2, "adapter_id": "it", "success_before": 0.1, "success_after": 0.4 * number}
        )
    (folder / "station.yaml").write_text(yaml.safe_dump(station))
    words = (str(folder / "station.yaml"), str(folder / "log"))
    with serving(*words, module=("-m", "tests.console_station"), **{VARIABLE: TOKEN}) as server:
        yield f"{server.http}/", folder / "log"


def wait_for(condition: Callable[[], Any], page: Any, what: str) -> None:
    """The page goes on meanwhile."""
    began = time.monotonic()
    while not condition():
        assert not overdue(10.0, began), what
        page.wait_for_timeout(50)


def asked(log: Path) -> list[str]:
    """Names of the deeds asked for, since the last look."""
    found = [json.loads(text)[0] for text in log.read_text().splitlines()] if log.exists() else []
    log.unlink(missing_ok=True)
    return found


def test_the_page_is_there_within_a_second_and_shows_what_is(chromium: Any, served: tuple[str, Path]) -> None:
    address, _ = served
    with opened(chromium, address) as warm:  # the first page of a browser pays for the browser
        warm.wait_for_selector("#nodelist table")
    began = time.monotonic()
    with opened(chromium, address) as page:
        page.wait_for_selector("#nodelist table")
        took = time.monotonic() - began
        assert took <= allowed(1.0, began), f"{took:.2f} s until the nodes are shown"
        assert page.title() == "bench: gymnast console" and page.inner_text("#mode") == "ready"
        assert page.inner_text("#asked") == QUESTION, "its marks are text, not markup"
        assert "<script>alert(1)</script>" in page.inner_text("#nodelist")
        page.wait_for_selector("#loads .bar")
        assert page.locator("#loads .bar").count() == 6 and "31 °C" in page.inner_text("#loads")
        assert "train" in page.inner_text("#doing") and "3 of 20" in page.inner_text("#doing")
        assert page.is_disabled("#practise") and page.is_enabled("#stop")


def test_by_keyboard_the_stop_is_pressed_without_a_token_and_re_arming_asks_twice(
    chromium: Any, served: tuple[str, Path]
) -> None:
    address, log = served
    asked(log)
    with opened(chromium, address) as page:
        page.wait_for_selector("#nodelist table")
        page.keyboard.press("p")
        page.keyboard.press("s")
        wait_for(log.exists, page, "a stop")
        assert asked(log) == ["stop"]
    with opened(chromium, f"{address}#token={TOKEN}") as page:
        page.wait_for_selector("#practise:enabled")
        assert "token" not in page.url, "the address no longer shows it"
        page.focus("#seed")
        page.keyboard.press("s")  # text is written here
        page.focus("#practise")
        page.keyboard.press("Enter")
        wait_for(lambda: page.inner_text("#told") == "practise: practise done", page, "an answer")
        assert asked(log) == ["practise"]
        page.evaluate("void rearm()")
        page.wait_for_selector("#ask[open]")
        page.keyboard.press("Enter")  # No has the focus
        wait_for(lambda: page.inner_text("#told") == "not re-armed", page, "no re-arming")
        page.evaluate("void rearm()")
        page.wait_for_selector("#ask[open]")
        assert "look at the arm" in page.inner_text("#asktext")
        page.click("#yes")
        wait_for(log.exists, page, "re-arming")
        assert asked(log) == ["rearm"]
        page.click("#answer")
        wait_for(log.exists, page, "an answer to the question")
        assert asked(log) == ["answer"]
        page.click("#run")
        wait_for(lambda: "refused the goal" in page.inner_text("#told"), page, "what the station refuses")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_on_every_screen_the_stop_is_in_sight_and_nothing_is_cut_off(
    chromium: Any, served: tuple[str, Path], tmp_path: Path, size: dict[str, int], scheme: str
) -> None:
    with opened(chromium, served[0], viewport=size, color_scheme=scheme) as page:
        page.wait_for_selector("#nodelist table")
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"], "nothing to scroll sideways"
        for place in (0, 400, 10_000):
            page.evaluate(f"window.scrollTo(0, {place})")
            box = page.locator("#stop").bounding_box()
            assert box["y"] >= 0 and box["y"] + box["height"] <= size["height"] and box["height"] >= 36
        red, green, blue = page.evaluate(
            "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).map(Number)"
        )
        assert (red + green + blue < 150) == (scheme == "dark")
        assert keep(page, f"console_{scheme}_{size['width']}", tmp_path).stat().st_size > 10_000


def test_the_reference_photograph_and_the_policys_crop_lie_over_the_picture(
    chromium: Any, served: tuple[str, Path]
) -> None:
    with opened(chromium, served[0]) as page:
        page.wait_for_selector("#crop:visible")
        view, crop = page.locator("#view").bounding_box(), page.locator("#crop").bounding_box()
        share = crop["width"] * crop["height"] / (view["width"] * view["height"])
        assert abs(share - 0.9) < 0.02, "a centre crop keeps 0.9 of the area"
        page.uncheck("#showcrop")
        assert page.is_hidden("#crop") and page.is_hidden("#overlay")
        page.fill("#refmix", "40")
        page.wait_for_selector("#overlay:visible")
        assert page.evaluate("$('overlay').style.opacity") == "0.4"
        wait_for(lambda: page.evaluate("$('overlay').naturalWidth") == 64, page, "the photograph")


def test_past_runs_are_sorted_opened_and_compared(chromium: Any, served: tuple[str, Path]) -> None:
    with opened(chromium, f"{served[0]}runs") as page:
        page.wait_for_selector("#list tbody tr")

        def paths() -> list[str]:
            return page.locator("#list tbody tr td:last-child").all_inner_texts()

        page.click('[data-sort="success"]')
        assert paths() == ["adapt/practice_2", "adapt/practice_1"]
        page.click('[data-sort="success"]')
        assert paths() == ["adapt/practice_1", "adapt/practice_2"]
        page.select_option("#outcome", "accepted")
        assert paths() == ["adapt/practice_2"]
        page.click("text=adapt/practice_2")
        assert "success after" in page.inner_text("#facts") and "0.800" in page.inner_text("#facts")
        page.select_option("#outcome", "")
        for box in page.locator("#list tbody input").all():
            box.check()
        page.click("#compare")
        frame = page.frame_locator("#page")
        frame.locator("text=mean_reward").first.wait_for()
        assert frame.locator("svg.chart").count() >= 1 and "practice_1" in frame.locator("body").inner_text()
