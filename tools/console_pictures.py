"""Pictures of a running console for the documentation: `python -m tools.console_pictures --address ADDRESS`.

ADDRESS is the one with the token that the console printed. Needs Playwright (`pip install playwright`) and Chromium.
The pictures are WebP: a page without photographs stays small.
"""

from __future__ import annotations

import argparse
import io
import shutil
from pathlib import Path
from typing import Any

from PIL import Image

OUT = Path(__file__).resolve().parent.parent / "docs" / "pictures"
DESK, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
SHOTS: tuple[tuple[str, str, Any, Any, bool], ...] = (
    ("console_light", "", "light", DESK, True),
    ("console_dark", "", "dark", DESK, False),
    ("console_phone", "", "dark", PHONE, False),
    ("console_runs", "runs", "light", DESK, False),
)
"""Name, path, scheme, size, and whether all of the page is taken."""
SETTLE_MS = 4000


def shoot(address: str, name: str, out: Path) -> None:
    """Take the pictures whose name begins so."""
    from playwright.sync_api import sync_playwright

    base, _, token = address.partition("#")
    with sync_playwright() as running:
        browser = running.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for shot, path, scheme, size, whole in SHOTS:
            if not shot.startswith(name):
                continue
            context = browser.new_context(viewport=size, color_scheme=scheme)
            page: Any = context.new_page()
            page.goto(f"{base.rstrip('/')}/{path}#{token}")
            page.wait_for_timeout(SETTLE_MS)
            picture = Image.open(io.BytesIO(page.screenshot(full_page=whole)))
            picture.convert("RGB").save(out / f"{shot}.webp", quality=82)
            print(out / f"{shot}.webp")
            context.close()
        browser.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--address", required=True)
    parser.add_argument("--name", default="console", help="only the pictures whose name begins so")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    shoot(options.address, options.name, options.out)


if __name__ == "__main__":
    main()
