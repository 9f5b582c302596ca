"""The documents name what there is: links lead somewhere, commands are understood, the index and the site list every
page."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gymnast_core.cli import _read_options
from gymnast_core.config import JudgeConfig, parse_config
from gymnast_core.plain_yaml import parse_yaml
from gymnast_core.verbs import VERBS, find_verb
from tests.machine import HANG_S
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


def code_of(text: str) -> Iterator[str]:
    """The blocks of code of a page: fenced, or indented by four spaces after an empty line."""
    yield from re.findall(r"^```[a-z]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    for block in re.findall(r"(?:^|\n\n)((?: {4}.*\n?|\n(?= {4}))+)", text):
        yield re.sub(r"^ {4}", "", block, flags=re.MULTILINE)


def commands_of(page: Path) -> Iterator[tuple[str, list[str]]]:
    """Each `gymnast VERB` in a page's code, with its options. "..." stands for those of the verb's line before it."""
    for block in code_of(page.read_text(encoding="utf-8")):
        before: dict[str, list[str]] = {}
        for line in block.replace("\\\n", " ").splitlines():
            if not re.match(r"(\w+=\S+ )*gymnast (?!--)", line):
                continue
            words = shlex.split(line, comments=True)
            words = words[words.index("gymnast") + 1 :]
            end = next((place for place, word in enumerate(words) if word in (">", "|", "&&", "&")), len(words))
            name = find_verb(words)
            assert name in VERBS, f"{page}: {line}"
            options = words[len(name.split()) : end]
            if "..." in options:
                options = [*before[name], *(word for word in options if word != "...")]
            before[name] = options
            yield name, options


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_of_a_page_is_one_that_the_command_line_understands(page: Path) -> None:
    for name, options in commands_of(page):
        config, _ = _read_options(name, VERBS[name], options)
        assert config is not None, f"{page}: gymnast {name} {' '.join(options)}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_code_that_a_page_names_is_there(page: Path) -> None:
    folders = "gymnast_core|ros2_ws|launch|robot_configs|tests|tools|benchmarks|examples"
    for path, name in re.findall(rf"`((?:{folders})/[\w./-]*\w)(?::(\w+))?`", page.read_text(encoding="utf-8")):
        assert "NAME" in path or (ROOT / path).exists(), f"{page}: {path}"
        assert not name or re.search(rf"^(?:def|class) {name}\b", (ROOT / path).read_text(), re.M), f"{page}: {name}"


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


def build_site(root: Path, site: Path) -> subprocess.CompletedProcess[str]:
    """`make docs`, of the pages below `root`, into `site`."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=HANG_S, check=False)


def test_the_site_holds_every_page_and_loads_nothing_from_the_internet(tmp_path: Path) -> None:
    built = build_site(ROOT, tmp_path)
    assert built.returncode == 0, built.stderr
    pages = {path.relative_to(tmp_path).with_suffix(".md") for path in tmp_path.rglob("*.html")}
    written = {path.relative_to(ROOT / "docs") for path in PAGES[2:]} - {Path("README.md")}
    assert written <= pages and Path("index.md") in pages
    foreign = re.compile(r"""<(?:script|img|iframe|link)\b[^>]*\b(?:src|href)=["']?(?:https?:)?//[^"'> ]+""")
    for path in tmp_path.rglob("*.html"):
        assert not foreign.findall(path.read_text(encoding="utf-8")), path


@pytest.mark.parametrize("link", ["no_such_page.md", "tutorial.md#no-such-section"])
def test_a_link_that_leads_nowhere_stops_the_site(tmp_path: Path, link: str) -> None:
    for name in ("mkdocs.yml", "tools/docs_site.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    with (tmp_path / "docs" / "faq.md").open("a", encoding="utf-8") as page:
        page.write(f"\n[nowhere]({link})\n")
    built = build_site(tmp_path, tmp_path / "site")
    assert built.returncode != 0 and link.partition("#")[0] in built.stderr
