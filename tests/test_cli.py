"""The command line: help at once, verbs found by their old names and near misses, the version with its commit."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from gymnast_core import __version__
from gymnast_core.cli import _read_options, main
from gymnast_core.verb_examples import EXAMPLES
from gymnast_core.verbs import OLD_NAMES, VERBS, explain_unknown
from gymnast_core.version import describe_version
from tests.machine import HANG_S, slower

ROOT = Path(__file__).resolve().parent.parent
ASK = """
import json, resource, sys
from gymnast_core.cli import _read_options, main

asked = json.loads(sys.argv[1])
codes = [main([*name.split(), "--help"]) for name in asked]
used = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps({"codes": codes, "torch": "torch" in sys.modules, "seconds": used.ru_utime + used.ru_stime}))
"""


def ask_for_help(*names: str) -> dict:
    """Answer `gymnast NAME --help` for each name in one new process; exit codes, whether torch came, processor time."""
    result = subprocess.run(
        [sys.executable, "-c", ASK, json.dumps(names)], capture_output=True, text=True, timeout=HANG_S, check=True
    )
    return json.loads(result.stdout.splitlines()[-1])


def test_help_imports_no_torch_and_takes_under_a_second_of_processor_time() -> None:
    answer = ask_for_help(*VERBS)
    assert answer["codes"] == [0] * len(VERBS) and not answer["torch"]
    for name in ("sft", "adapt", "adapter list", "data recover", "world-model finetune"):
        # A busy machine slows a processor too, and there are slower ones.
        best = min(ask_for_help(name)["seconds"] / slower() for _ in range(3))
        assert best < 1, f"gymnast {name} --help took {best:.2f} s of a usual core's time"


def test_the_help_of_every_verb_ends_with_an_example_that_is_understood(capsys: pytest.CaptureFixture[str]) -> None:
    assert set(EXAMPLES) == set(VERBS)
    for name, line in EXAMPLES.items():
        program, *words = shlex.split(line.partition(" > ")[0])
        assert [program, *words[: len(name.split())]] == ["gymnast", *name.split()], line
        config, _ = _read_options(name, VERBS[name], words[len(name.split()) :])
        assert config is not None, line
    assert main(["sft", "--help"]) == 0
    told = capsys.readouterr().out
    assert EXAMPLES["sft"] in told and "--json prints" in told and "model-recipe" not in told


COMPLETE = """
source {script}
COMP_WORDS=({words} "") COMP_CWORD={count}
_tyro_gymnast
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_completes_verbs_options_and_choices(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "bash"]) == 0
    script = tmp_path / "gymnast.bash"
    script.write_text(capsys.readouterr().out)

    def offered(words: str) -> set[str]:
        lines = COMPLETE.format(script=script, words=words, count=len(words.split()))
        result = subprocess.run(["bash", "-c", lines], capture_output=True, text=True, timeout=HANG_S, check=True)
        return set(result.stdout.splitlines())

    assert {name.split()[0] for name in VERBS} <= offered("gymnast")
    assert {"train", "evaluate"} <= offered("gymnast judge")
    assert {"compare", "--policies"} <= offered("gymnast trials")
    assert {"--data", "--criterion"} <= offered("gymnast judge evaluate")
    assert offered("gymnast judge evaluate --criterion") >= {"balanced_accuracy", "f1"}
    assert offered("gymnast trials compare") <= {"-h", "--help", "--out", ""}, "a help text among what is offered"


def test_old_names_do_the_same_and_say_the_new_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert set(OLD_NAMES.values()) <= set(VERBS) and not set(OLD_NAMES) & set(VERBS)
    options = ["--adapters", str(tmp_path / "none")]
    assert main(["adapter", "list", *options]) == 0
    new = capsys.readouterr()
    assert main(["adapter", "list", *options, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"adapters": [], "unreadable": {}}
    assert main(["data", "formats", "--json"]) == 0
    assert "lerobot" in {one["name"] for one in json.loads(capsys.readouterr().out)["formats"]}
    assert main(["data", "recover", str(tmp_path), "--json"]) == 2
    assert "it has no result that --json could print" in capsys.readouterr().err
    assert main(["adapters", "list", *options]) == 0
    old = capsys.readouterr()
    assert old.out == new.out and new.err == ""
    assert old.err == "note: `gymnast adapters list` is called `gymnast adapter list` now\n"


def test_an_unknown_verb_is_one_line_with_the_verb_that_was_meant(capsys: pytest.CaptureFixture[str]) -> None:
    for name in VERBS:
        for place in range(len(name)) if len(name) > 3 else ():  # every slip of leaving one letter out
            slip = (name[:place] + name[place + 1 :]).split()
            if " ".join(slip) not in VERBS:
                assert f"`gymnast {name}`" in explain_unknown(slip), slip
    assert main(["evaluate", "world-model"]) == 2
    told = capsys.readouterr()
    assert told.out == "" and told.err.count("\n") == 1 and "did you mean `gymnast world-model evaluate`?" in told.err
    assert main(["judge"]) == 2
    assert capsys.readouterr().err == "error: `gymnast judge` needs one more word: train, evaluate\n"
    assert main(["judge", "--help"]) == 0
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()] == ["train", "evaluate"]


def test_wrong_options_are_one_short_line_that_names_them(capsys: pytest.CaptureFixture[str]) -> None:
    for words, told in (
        (["adapt"], "gymnast adapt: needed: --frame [STR [STR ...]] --instruction STR; --help lists the options"),
        (["queue", "show"], "gymnast queue show: needed: INT Number of the job. (required); --help lists the options"),
        (
            ["policy", "evaluate", "--polcy", "x"],
            "gymnast policy evaluate: Unrecognized options: --polcy, x; Perhaps you meant: --policy STR; "
            "--help lists the options",
        ),
    ):
        assert main(words) == 2
        assert capsys.readouterr().err == f"error: {told}\n"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--data", "a", "--data", "b"], "--data stands there twice"),
        (["--data", "a", "--learning-rate", "1e-3", "--learning_rate=2e-3"], "--learning-rate stands there twice"),
        (["--data", "a", "--compile", "--no-compile"], "--compile and --no-compile stands there twice"),
        (["--from", "a.yaml", "--from=b.yaml", "--data", "a"], "--from stands there twice"),
    ],
    ids=str,
)
def test_an_option_that_stands_twice_is_refused_and_not_half_obeyed(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["world-model", "train", "--run", "r", *words]) == 2
    shown = capsys.readouterr().err
    assert told in shown and shown.count("\n") == 1


def test_the_version_is_everywhere_the_same_and_names_the_commit_of_a_checkout(tmp_path: Path) -> None:
    assert ElementTree.parse(ROOT / "package.xml").findtext("version") == __version__
    assert f'version="{__version__}"' in (ROOT / "setup.py").read_text(encoding="utf-8")
    assert f"version: {__version__}" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert describe_version(tmp_path) == __version__
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        return
    run = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    commit = subprocess.run(run, capture_output=True, text=True, check=True).stdout.strip()
    found = re.fullmatch(rf"{re.escape(__version__)} \(commit (\w{{12,}})(, changed since)?\)", describe_version())
    assert found and commit.startswith(found[1])
    result = subprocess.run(
        [sys.executable, "-m", "gymnast_core.cli", "--version"], capture_output=True, text=True, check=True
    )
    assert result.stdout == f"gymnast {describe_version()}\n"
