"""Does success in imagination say which policy is better? `python tools/imagined_against_real.py`.

Makes policies of different quality: the shipped one at several temperatures and with disturbed weights, policies that
are trained on few demonstrations, random motion. Tries each on the simulated station, lets each act in imagination from
the first frames of those trials, and compares both by `gymnast policy correlate`: over the steps that practice
imagines, and over a whole trial. Prints the tables and copies the scatters to docs/pictures (`--pictures`). Needs
nothing but the shipped models. Started again it goes on where it stood, and with more trials or repeats it adds them.
"""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from gymnast_core.cli import main as gymnast
from gymnast_core.config import find_model
from gymnast_core.policy.openvla import load_policy

ROOT = Path(__file__).resolve().parent.parent
PICTURES = ROOT / "docs" / "pictures"
RECIPE = ROOT / "gymnast_core" / "policy" / "recipes" / "mini.yaml"
SHIPPED = "mini/policy"
TASKS = 2
"""Of the simulated station."""
STEPS = 300
TRAINING = f"--steps {STEPS} --batch 16 --warmup 50 --holdout 0 --save-every 100 --threads 1"


@dataclass(frozen=True)
class Study:
    """Sizes of the study. `trials` and `repeats` may grow from one start to the next."""

    trials: int = 80
    """Trials of each policy on the simulated station, the tasks in turn; the same resets for all."""
    repeats: int = 2
    """Imagined rollouts from each of their first frames."""
    horizons: tuple[int, ...] = (15, 30)
    """Imagined steps: a window of the miniature's world model, and a whole trial."""
    run: Path = ROOT / "runs" / "imagined_against_real"
    pictures: bool = False
    """Copy the scatters to docs/pictures."""


@dataclass(frozen=True)
class Actor:
    """A policy as it acts. weights: share of their standard deviation by which its weights are disturbed.
    demonstrations: how many it is trained on; 0: it is the shipped one."""

    name: str
    temperature: float = 0.0
    weights: float = 0.0
    demonstrations: int = 0
    policy: str = SHIPPED

    @property
    def folder(self) -> str:
        """Of its runs."""
        return self.name.replace(" ", "_")

    @property
    def label(self) -> str:
        """For tables."""
        return f"{self.name}, {STEPS} steps" if self.demonstrations else self.name


ACTORS = (
    Actor("greedy"),
    *(Actor(f"temperature {value:g}", value) for value in (0.5, 1.0, 1.6, 2.5)),
    *(Actor(f"weights disturbed by {value:g}", weights=value) for value in (0.1, 0.2, 0.4)),
    *(Actor(f"{count} demonstrations", demonstrations=count) for count in (10, 40)),
    Actor("random motion", policy="random"),
)


def run(*words: str | Path | float) -> None:
    """One `gymnast` verb; leaves with its code where it fails."""
    if code := gymnast([str(word) for word in words]):
        raise SystemExit(code)


def weaken(share: float, out: Path) -> None:
    """The shipped policy with noise on its matrices."""
    policy = load_policy(find_model(SHIPPED), "station", "cpu")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            if parameter.ndim > 1:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(share * parameter.std() * noise.to(parameter.dtype))
    policy.save(out)


def train(count: int, out: Path, study: Study) -> None:
    """A policy from `count` demonstrations of the scripted expert."""
    data = study.run / f"demonstrations_{count}"
    collect = "--policy expert --keep successes --after-success 3 --noise 0.004 --slip 0.02 --workers 1"
    run("data", "collect", "--out", data, "--episodes", count, *collect.split())
    sft = study.run / f"sft_{count}"
    run("sft", "--from", RECIPE, "--data", data, "--out", out, "--run", sft, *TRAINING.split())


def find_policy(actor: Actor, study: Study) -> str:
    """Its checkpoint, made where it is missing."""
    out = study.run / "policies" / actor.folder
    if actor.weights and not out.exists():
        weaken(actor.weights, out)
    if actor.demonstrations and not out.exists():
        train(actor.demonstrations, out, study)
    return str(out) if out.exists() else actor.policy


def measured(result: Path) -> int:
    """Trials that a run of `gymnast policy evaluate` has counted."""
    return int(json.loads(result.read_text(encoding="utf-8"))["all"]["n"]) if result.exists() else 0


def measure(actor: Actor, horizon: int, study: Study) -> None:
    """Try the policy on the station, then in imagination from the same starts."""
    policy, name = find_policy(actor, study), actor.folder
    how = ("--policy", policy, "--temperature", actor.temperature)
    real = study.run / "real" / name
    if measured(real / "result.json") < study.trials:
        run("policy", "evaluate", *how, "--run", real, "--trials", -(-study.trials // TASKS), "--workers", 1)
    imagined = study.run / f"imagined_{horizon}" / name
    sizes = ("--horizon", horizon, "--repeats", study.repeats)
    run("policy", "imagine", *how, "--starts", real / "episodes", "--run", imagined, *sizes)


def compare(horizon: int, study: Study) -> None:
    """Tables and scatter over all policies."""
    names = [actor.folder for actor in ACTORS]
    out = study.run / f"correlation_{horizon}"
    imagined = [study.run / f"imagined_{horizon}" / name for name in names]
    real = [study.run / "real" / name for name in names]
    labels = [actor.label for actor in ACTORS]
    run("policy", "correlate", "--imagined", *imagined, "--real", *real, "--names", *labels, "--run", out)
    print((out / "table.md").read_text(encoding="utf-8"))
    if study.pictures:
        shutil.copyfile(out / "media" / "imagined_against_real.svg", PICTURES / f"imagined_against_real_{horizon}.svg")


def main() -> None:
    """Measure each policy, then compare, for one horizon after the other."""
    study = tyro.cli(Study, description=__doc__.splitlines()[0] if __doc__ else "")
    torch.set_num_threads(1)
    for horizon in study.horizons:
        for number, actor in enumerate(ACTORS, start=1):
            print(f"{horizon} steps, policy {number} of {len(ACTORS)}: {actor.name}", file=sys.stderr, flush=True)
            measure(actor, horizon, study)
        compare(horizon, study)


if __name__ == "__main__":
    main()
