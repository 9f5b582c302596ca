"""Chromium without a window, driven by Playwright, for tests of pages; where either is absent they are skipped.

`pip install playwright` and Debian's `chromium` are enough. $GYMNAST_SCREENSHOTS names a folder that keeps pictures.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

CHROMIUM = next((path for name in ("chromium", "chromium-browser") if (path := shutil.which(name))), "")
PHONE = {"width": 390, "height": 844}
DESK = {"width": 1280, "height": 900}


@contextlib.contextmanager
def browser() -> Iterator[Any]:
    """A browser; skips the test where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    if not CHROMIUM:
        pytest.skip("Chromium is not installed")
    with playwright.sync_playwright() as running:
        found = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            yield found
        finally:
            found.close()


@contextlib.contextmanager
def opened(found: Any, address: str, **more: Any) -> Iterator[Any]:
    """A page at an address; afterwards it has said no error and asked no other place for anything."""
    context = found.new_context(**{"viewport": DESK, **more})
    page = context.new_page()
    told: list[str] = []
    asked: list[str] = []
    page.on("pageerror", lambda error: told.append(str(error)))
    page.on("console", lambda message: told.append(message.text) if message.type == "error" else None)
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    try:
        yield page
        own = "{0.scheme}://{0.netloc}/".format(urlsplit(address))
        # A browser logs every answer from 400 on; what the page makes of it is shown to people.
        assert [line for line in told if "the server responded with a status" not in line] == []
        assert [url for url in asked if not url.startswith((own, "data:", "blob:", "about:"))] == []
    finally:
        context.close()


def keep(page: Any, name: str, folder: Path) -> Path:
    """Keep a picture of a page."""
    place = Path(os.environ.get("GYMNAST_SCREENSHOTS") or folder) / f"{name}.png"
    place.parent.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=str(place), full_page=True)
    return place
