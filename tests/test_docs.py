"""The documents name what there is: their links lead somewhere, their verbs exist, the index lists every page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gymnast_core.config import JudgeConfig, parse_config
from gymnast_core.plain_yaml import parse_yaml
from gymnast_core.verbs import VERBS, find_verb
from tools.write_reference import FOLDER
from tools.write_reference import PAGES as MADE

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
TWICE_READ = re.compile(
    r"\bso many\b(?! (that|of))|\bof none of\b|\bat most so\b|\bone an? (chunk|step|row|trial|rollout)\b", re.IGNORECASE
)
"""Turns of phrase that a reader has to read twice."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere_and_verbs_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), f"{page}: link to {target}"
    for words in re.findall(r"(?:^|`|\s)gymnast\s([a-z-]+)(?:\s([a-z-]+))?(?=$|[`\s])", text, re.M):
        if words[0] in {name.split()[0] for name in VERBS}:
            assert find_verb(list(words)) in VERBS, f"{page}: `gymnast {' '.join(words)}`"


def test_the_index_lists_every_page_and_the_readme_fits_two_screens() -> None:
    index = ROOT / "docs" / "README.md"
    listed = {(index.parent / target).resolve() for target in re.findall(r"\]\(([^)#]+)\)", index.read_text())}
    assert set(PAGES[2:]) - {index} <= listed
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 100


@pytest.mark.parametrize("name", MADE)
def test_a_page_made_from_the_code_says_what_the_code_says(name: str) -> None:
    assert (FOLDER / name).read_text(encoding="utf-8") == MADE[name](), "run `python -m tools.write_reference`"


def test_no_phrase_that_is_read_twice() -> None:
    folders = ("gymnast_core", "ros2_ws/src", "docs", "robot_configs", "examples")
    files = [path for name in folders for path in (ROOT / name).rglob("*") if path.suffix in (".py", ".md", ".yaml")]
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in [*files, ROOT / "README.md"]
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if TWICE_READ.search(line)
    ]
    assert not found, "\n".join(found)


def test_the_judges_of_the_how_to_are_sections_that_a_station_file_takes() -> None:
    page = (ROOT / "docs" / "how-to" / "judges.md").read_text(encoding="utf-8")
    sections = [parse_yaml(block) for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)]
    assert {section["kind"] for section in sections} == {"vlm", "transformers", "robometer"}
    for section in sections:
        parse_config(JudgeConfig, section, str(section))
