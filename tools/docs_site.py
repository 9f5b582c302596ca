"""What the documentation's site needs beside the pages (mkdocs calls it: `hooks` in mkdocs.yml)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

SHIM = re.compile(r"""<script[^>]*\bsrc=["']?https://[^>]*></script>""")
"""A foreign script that the theme adds, so that pages opened from disk can be searched."""
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)#\s]+)(#[^)\s]*)?\)")


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Any) -> str:
    """The page with links to files beside `docs/` as plain text: the site holds the documentation alone."""
    del files
    docs = Path(config["docs_dir"]).resolve()
    folder = Path(page.file.abs_src_path).parent

    def without_outside(link: re.Match[str]) -> str:
        text, target = link.group(1), link.group(2)
        if target.startswith(("http://", "https://")) or (folder / target).resolve().is_relative_to(docs):
            return link.group()
        return text

    return LINK.sub(without_outside, markdown)


def on_post_page(output: str, *, page: Any, config: Any) -> str:
    """The page without foreign scripts: nothing is loaded from the internet. `mkdocs serve` searches without them."""
    del page, config
    return SHIM.sub("", output)


def on_post_template(output_content: str, *, template_name: str, config: Any) -> str:
    """Likewise of what the theme makes without a page of ours (404.html)."""
    del template_name, config
    return SHIM.sub("", output_content)
