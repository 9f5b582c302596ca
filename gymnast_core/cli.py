"""The `gymnast` command: `gymnast VERB [--from FILE.yaml] [options]`.

A verb reads its options from `--from` (a recipe, or the config.yaml of an earlier run) and from the command line,
which overrides the file. `gymnast_core/verbs.py` lists the verbs.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import gc
import importlib
import io
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from gymnast_core.commands import take_next
from gymnast_core.errors import ConfigError, GymnastError
from gymnast_core.redaction import redact
from gymnast_core.verbs import GROUPS, OLD_NAMES, VERBS, Verb, explain_unknown, find_verb, verbs_of

MINI_DOMAIN = (
    "The shipped mini models know only pictures of the simulated drawer: photographs and other episodes are out of "
    "their domain."
)
HELP = ("-h", "--help", "help")
OPTION_DEPTH = 6
"""Columns before an option in tyro's complaint; what is farther to the right is its help text."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code: 0 done, 1 done but negative, 2 bad input, 130 interrupted."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in HELP:
        _print_help()
        return 0
    if words[0] == "--version":
        from gymnast_core.version import describe_version

        print(f"gymnast {describe_version()}")
        return 0
    name = find_verb(words)
    if not name:
        if len(words) > 1 and words[1] in HELP and (own := verbs_of(words[0])):
            _print_verbs(own)
            return 0
        print(f"error: {explain_unknown(words)}", file=sys.stderr)
        return 2
    rest = words[len(name.split()) :]
    if name in OLD_NAMES:
        print(f"note: `gymnast {name}` is called `gymnast {OLD_NAMES[name]}` now", file=sys.stderr)
        name = OLD_NAMES[name]
    try:
        return _run(name, VERBS[name], rest)
    except (GymnastError, OSError, MemoryError, RuntimeError, KeyboardInterrupt) as error:
        return _explain(name, error)
    except ModuleNotFoundError as error:  # of what is imported when it is needed
        return _explain(name, _missing(name, error))


def _run(name: str, verb: Verb, words: list[str]) -> int:
    """Read the options, do the work, write its page; returns the exit code."""
    config, as_json = _read_options(name, verb, words)
    if config is None:
        _print_example(name, verb)
        return 0
    take_next()  # of a verb that this process ran before
    first = os.environ.get("RANK", "0") == "0"  # under torchrun the first process alone
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        code = int(_load_work(name, verb)(config) or 0)
        if verb.page and first:
            _report(name, config)
    command = take_next()
    if command and first and code in (0, 1):
        print(f"next: {command}", file=sys.stderr)
    if as_json and first:
        _print_result(name)
    return code


def _load(name: str, target: str) -> Any:
    """The class or function that "module:attribute" names. Raises: ConfigError naming a package that is missing."""
    module, _, attribute = target.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        raise _missing(name, error) from error


def _load_work(name: str, verb: Verb) -> Any:
    """The function that does the verb's work. Where it is long work, its imports may take some seconds: they are told.

    Raises: ConfigError naming a package that is missing.
    """
    if not verb.result:  # an emergency stop loses no time
        return _load(name, verb.run)
    from gymnast_core.progress import busy

    with busy(f"starting {name}"):
        return _load(name, verb.run)


def _missing(name: str, error: ModuleNotFoundError) -> ConfigError:
    """What to tell of a package that is not installed. Raises: `error` where a module of gymnast is not there."""
    if (error.name or "").startswith(("gymnast_core", "gymnast_nodes")):
        raise error
    return ConfigError(f"`gymnast {name}` needs the Python package '{error.name}'; `gymnast doctor` says how to get it")


def _read_options(name: str, verb: Verb, words: list[str]) -> tuple[Any, bool]:
    """The verb's config from its recipe and the command line, None after `--help`; and whether its result is wanted as
    JSON. Raises: ConfigError."""
    import tyro

    from gymnast_core.config import load_config, parse_config

    config_class = _load(name, verb.options)
    _refuse_twice(name, words)
    recipe, words = _take_recipe(words)
    as_json, words = _take_json(name, verb, config_class, words)
    if recipe is None and verb.recipe:
        recipe = str(Path(__file__).resolve().parent / verb.recipe)
    default = load_config(config_class, recipe) if recipe else tyro.MISSING_NONPROP
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            config = tyro.cli(
                config_class, prog=f"gymnast {name}", description=verb.summary, args=words, default=default
            )
    except SystemExit as end:
        if not end.code:  # --help
            return None, False
        raise ConfigError(f"gymnast {name}: {_one_line(complaint.getvalue(), name)}") from None
    return parse_config(config_class, dataclasses.asdict(config), "command line"), as_json


def _refuse_twice(name: str, words: Sequence[str]) -> None:
    """Raises: ConfigError for an option that stands twice: the last one alone would count, in silence."""
    named: dict[str, str] = {}
    for word in words:
        if re.match(r"--\w", word):
            plain = word.partition("=")[0].replace("_", "-")
            option = re.sub(r"^--no-", "--", plain)
            if option in named:
                both = plain if named[option] == plain else f"{named[option]} and {plain}"
                raise ConfigError(
                    f"gymnast {name}: {both} stands there twice; write it once, several values of one option behind it"
                )
            named[option] = plain


def _take_json(name: str, verb: Verb, config_class: type[Any], words: list[str]) -> tuple[bool, list[str]]:
    """Take `--json` off the words, unless it is an option of the verb's own. Raises: ConfigError where it says nothing
    that JSON could hold."""
    if "--json" not in words or any(field.name == "json" for field in dataclasses.fields(config_class)):
        return False, words
    if not verb.result:
        raise ConfigError(f"gymnast {name}: it has no result that --json could print; leave it out")
    return True, [word for word in words if word != "--json"]


def _print_result(name: str) -> None:
    """result.json as this process wrote it last. Raises: ConfigError where it wrote none."""
    from gymnast_core.results import last_written

    path = last_written()
    if path is None:
        raise ConfigError(f"gymnast {name}: it ended before it wrote a result.json")
    print(path.read_text(encoding="utf-8").strip())


def _explain(name: str, error: BaseException) -> int:
    """Say in one line what ended a verb; returns the exit code. An error that is no one's input is raised again."""
    if isinstance(error, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
        return 130
    if isinstance(error, BrokenPipeError):  # whoever read our output has left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    if isinstance(error, GymnastError):
        if run_folder := sys.modules.get("gymnast_core.run_folder"):  # it imports torch
            run_folder.take_back()
        told = redact(" ".join(str(error).split()))
    elif isinstance(error, OSError):  # a full or read-only disk, wherever a library met it
        told = f"{error.filename or name}: {error.strerror or error}; free disk space or choose another folder"
    elif isinstance(error, MemoryError) or "memory" in str(error):  # torch says it by a RuntimeError
        shown = " ".join(str(error).split())[:160]
        told = f"gymnast {name}: not enough memory ({shown}); choose a smaller batch, model or picture"
    else:
        raise error
    print(f"error: {told}", file=sys.stderr)
    return 2


def _one_line(box: str, name: str) -> str:
    """tyro's framed complaint as one line: what is wrong and the nearest options, without the options' help texts."""
    lines: list[str] = []
    named = ""
    for line in box.splitlines()[1:]:
        inside = line.strip("╭╮╰╯│+| \t")  # of the frame, in Unicode or, where that cannot be shown, in ASCII
        inside = "" if set(inside) <= set("─-") else inside
        depth = len(line) - len(line.lstrip("│| "))
        if depth <= OPTION_DEPTH:
            named = inside
        if depth <= OPTION_DEPTH or not named.startswith("-"):  # an argument without a name has its help text instead
            lines.append(inside)
    told = [" ".join(section.split()) for section in "\n".join(lines).split("\n\n")]
    kept = [
        text for text in told if text and not text.startswith(("For full helptext", "Argument helptext", "Got errors"))
    ]
    words = "; ".join(kept)[:400].replace(f"Missing from gymnast {name}:", "needed:")
    return f"{words or 'the options are wrong'}; --help lists the options"


def _report(name: str, config: Any) -> None:
    """report.html of a run that logged something."""
    from gymnast_core.reporting.report import report_run

    run = Path(config.run)
    if (run / "metrics.jsonl").exists() or (run / "result.json").exists():
        mini = any(
            "mini" in str(getattr(config, field, "")) for field in ("autoencoder", "init", "base", "model", "policy")
        )
        print(f"report: {report_run(run, f'gymnast {name}', MINI_DOMAIN if mini else '')}", file=sys.stderr)


def _take_recipe(words: list[str]) -> tuple[str | None, list[str]]:
    """Split `--from FILE` off the words."""
    for index, word in enumerate(words):
        if word == "--from":
            if index + 1 >= len(words):
                raise ConfigError("--from: found nothing, needed the path of a YAML file")
            return words[index + 1], words[:index] + words[index + 2 :]
        if word.startswith("--from="):
            return word.removeprefix("--from="), words[:index] + words[index + 1 :]
    return None, words


def _print_help() -> None:
    print("gymnast: a robot practises in imagination before it moves\n")
    print("usage: gymnast VERB [--from FILE.yaml] [options]")
    print("       gymnast VERB --help      what a verb does, and its options")
    print("       gymnast --version        the version and, in a checkout, the commit")
    for title, group in GROUPS.items():
        print(f"\n{title}")
        _print_verbs(group)


def _print_example(name: str, verb: Verb) -> None:
    """What follows the options in a verb's help."""
    from gymnast_core.verb_examples import EXAMPLES

    print(f"\nexample:\n  {EXAMPLES[name]}\n")
    print("--from FILE.yaml reads options from a file; an option of the command line overrides it.")
    if verb.result:
        print("--json prints the result as JSON to the standard output, and everything else to the standard error.")


def _print_verbs(verbs: dict[str, Verb]) -> None:
    width = max(map(len, VERBS)) + 2
    for name, verb in verbs.items():
        print(f"  {name:<{width}}{verb.summary}")


def run() -> NoReturn:
    """`main` as a process of its own."""
    leave(main())


def leave(code: int) -> NoReturn:
    """End this process. What is still in memory is left to the system, not collected, which would take a second where
    torch is loaded. One of several processes ends without taking torch down: a thread of its communication that is
    still there would abort it."""
    gc.freeze()
    if os.environ.get("WORLD_SIZE", "1") == "1":
        sys.exit(code)
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    run()
