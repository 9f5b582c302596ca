"""The `gymnast` command: one verb a line, each a frozen dataclass of options and a function that takes it.

A verb reads its options from `--from FILE.yaml` (a recipe, or the config.yaml of an earlier run) and from the command
line, which overrides the file. Verbs are imported only when called, so that `gymnast --help` needs no torch.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gymnast_core.errors import ConfigError, GymnastError

# verb -> (module, config class, function, one line of help); several verbs of one family share their first word.
VERBS: dict[str, tuple[str, str, str, str]] = {
    "demo": (
        "gymnast_core.demo",
        "DemoConfig",
        "demo",
        "the whole job on the simulated station: practise, act, report",
    ),
    "up": (
        "gymnast_core.up",
        "UpConfig",
        "up",
        "start every node of a station (as `ros2 launch gymnast bridge.launch.py`)",
    ),
    "doctor": ("gymnast_core.doctor", "DoctorConfig", "doctor", "what is missing on this machine, and how to get it"),
    "adapt": ("gymnast_core.rl.adapt", "AdaptConfig", "adapt", "test-time training from one frame and an instruction"),
    "train": ("gymnast_core.rl.train", "TrainConfig", "train", "GRPO over many start frames, in imagination"),
    "sft": ("gymnast_core.policy.sft", "SFTConfig", "sft", "supervised fine-tuning of the policy on episodes"),
    "adapters list": ("gymnast_core.policy.manage", "ListAdaptersConfig", "list_adapters", "adapters there are"),
    "adapters remove": ("gymnast_core.policy.manage", "RemoveAdapterConfig", "remove_adapter", "remove an adapter"),
    "judge train": ("gymnast_core.reward.train", "JudgeTrainConfig", "train_judge", "train the learned judge"),
    "evaluate judge": (
        "gymnast_core.evaluation.judge",
        "EvaluateJudgeConfig",
        "evaluate_judge",
        "a judge's agreement, precision and recall on labelled episodes",
    ),
    "evaluate adapter": (
        "gymnast_core.evaluation.compare",
        "CompareConfig",
        "compare_adapter",
        "an adapted policy against its base on the same resets of the simulated station",
    ),
    "evaluate policy": (
        "gymnast_core.evaluation.trials",
        "EvaluatePolicyConfig",
        "evaluate_policy",
        "success of a policy on the simulated station, without ROS",
    ),
    "world-model train": (
        "gymnast_core.world_model.train",
        "TrainConfig",
        "train",
        "train the world model",
    ),
    "world-model finetune": (
        "gymnast_core.world_model.finetune",
        "FinetuneConfig",
        "finetune",
        "train a world model on with a station's own episodes",
    ),
    "world-model train-autoencoder": (
        "gymnast_core.world_model.train_autoencoder",
        "AutoencoderTrainConfig",
        "train_autoencoder",
        "train the small autoencoder",
    ),
    "world-model evaluate": (
        "gymnast_core.evaluation.world_model",
        "EvaluateConfig",
        "evaluate",
        "picture error by horizon, and how far imagined outcomes can be trusted",
    ),
    "world-model rollout": (
        "gymnast_core.world_model.rollout",
        "RolloutConfig",
        "rollout",
        "play actions from any frame into a video",
    ),
    "world-model reconstruct": (
        "gymnast_core.world_model.reconstruct",
        "ReconstructConfig",
        "reconstruct",
        "episodes as the autoencoder shows or the world model imagines them",
    ),
    "data collect": (
        "gymnast_core.evaluation.collect",
        "CollectConfig",
        "collect",
        "collect episodes from the simulated station",
    ),
    "data recover": ("gymnast_core.data.recover", "RecoverConfig", "recover", "re-index a recording cut short"),
    "report": ("gymnast_core.reporting.report", "ReportConfig", "report", "write report.html for a run folder again"),
}


# What a verb reads where no --from is given and the defaults of its options, a paper's, are not for a first try.
DEFAULT_RECIPES = {"world-model train": "world_model/recipes/mini.yaml"}
# Verbs of the lower levels, which know no reports: their run's page is written here.
REPORTED = (
    "sft",
    "judge train",
    "world-model train",
    "world-model finetune",
    "world-model train-autoencoder",
    "evaluate policy",
)
MINI_DOMAIN = (
    "The shipped mini models know only pictures of the simulated drawer: photographs and other episodes are out of "
    "their domain."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code: 0 done, 1 done but negative, 2 bad input, 130 interrupted."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    for length in (2, 1):
        verb = " ".join(words[:length])
        if verb in VERBS:
            return _run(verb, words[length:])
    _print_help()
    if words and words[0] not in ("-h", "--help", "help"):
        print(f"error: unknown verb '{' '.join(words[:2])}'; the verbs are listed above", file=sys.stderr)
        return 2
    return 0


def _run(verb: str, words: list[str]) -> int:
    import tyro

    from gymnast_core.config import load_config, parse_config

    module_name, class_name, function_name, summary = VERBS[verb]
    try:
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if (error.name or "").startswith(("gymnast_core", "gymnast_nodes")):
                raise
            raise ConfigError(
                f"`gymnast {verb}` needs the Python package '{error.name}'; `gymnast doctor` says how to get it"
            ) from error
        config_class = getattr(module, class_name)
        recipe, words = _take_recipe(words)
        if recipe is None and verb in DEFAULT_RECIPES:
            recipe = str(Path(__file__).resolve().parent / DEFAULT_RECIPES[verb])
        default = load_config(config_class, recipe) if recipe else tyro.MISSING_NONPROP
        complaint = io.StringIO()
        try:
            with contextlib.redirect_stderr(complaint):
                config = tyro.cli(
                    config_class, prog=f"gymnast {verb}", description=summary, args=words, default=default
                )
        except SystemExit as end:
            if not end.code:  # --help
                return 0
            raise ConfigError(f"gymnast {verb}: {_one_line(complaint.getvalue())}") from None
        config = parse_config(config_class, dataclasses.asdict(config), "command line")
        arguments = [config]
        if getattr(config, "look_ahead", 0):  # `rl` is a neighbour of `evaluation`: they do not import each other
            from gymnast_core.rl.look_ahead import open_look_ahead

            arguments.append(open_look_ahead)
        code = int(getattr(module, function_name)(*arguments) or 0)
        if verb in REPORTED and os.environ.get("RANK", "0") == "0":  # under torchrun the first process alone
            _report(verb, config)
        return code
    except GymnastError as error:
        if run_folder := sys.modules.get("gymnast_core.run_folder"):  # it imports torch
            run_folder.take_back()
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever read our output has left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:  # a full or read-only disk, wherever a library met it
        print(
            f"error: {error.filename or verb}: {error.strerror or error}; free disk space or choose another folder",
            file=sys.stderr,
        )
        return 2
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and "memory" not in str(error):  # torch says it by a RuntimeError
            raise
        told = " ".join(str(error).split())[:160]
        print(
            f"error: gymnast {verb}: not enough memory ({told}); choose a smaller batch, model or picture",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _one_line(box: str) -> str:
    """tyro's framed complaint as one line: what is wrong and the nearest options, without the options' help texts."""
    lines = [line.strip("╭╮╰╯│─ \t") for line in box.splitlines()[1:]]
    sections = "\n".join(lines).split("\n\n")
    told = [" ".join(section.split()) for section in sections]
    kept = [
        text for text in told if text and not text.startswith(("For full helptext", "Argument helptext", "Got errors"))
    ]
    return f"{'; '.join(kept)[:400] or 'the options are wrong'}; --help lists the options"


def _report(verb: str, config: Any) -> None:
    """report.html of a run that logged something."""
    from gymnast_core.reporting.report import report_run

    run = Path(config.run)
    if (run / "metrics.jsonl").exists() or (run / "result.json").exists():
        mini = any(
            "mini" in str(getattr(config, name, "")) for name in ("autoencoder", "init", "base", "model", "policy")
        )
        print(f"report: {report_run(run, f'gymnast {verb}', MINI_DOMAIN if mini else '')}", file=sys.stderr)


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
    print("usage: gymnast VERB [--from FILE.yaml] [options]      gymnast VERB --help\n")
    width = max(map(len, VERBS)) + 2
    for verb, (_, _, _, summary) in VERBS.items():
        print(f"  {verb:<{width}}{summary}")
    print()


if __name__ == "__main__":
    sys.exit(main())
