"""How the mini policy's success grows with the number of demonstrations: `python tools/success_by_demonstrations.py`.

Trains one policy for each count (the first ones of all demonstrations, for the same number of steps), tries each on the
simulated station, measures it on successes of other seeds, prints a table and draws
docs/pictures/success_by_demonstrations.png. Needs the data of `tools/train_mini_models.sh`; about 45 minutes of one
core. Started again it goes on where it stood.

Half the samples of the shipped policy in twice its steps: that is enough for its success.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

from gymnast_core.cli import main as gymnast
from gymnast_core.policy.sft import Trainer
from gymnast_core.policy.sft_config import SFTConfig

ROOT = Path(__file__).resolve().parent.parent
DEMONSTRATIONS = ROOT / "runs" / "data" / "demonstrations"
HELD_OUT = ROOT / "runs" / "data" / "heldout"
STEPS, BATCH_SIZE = 1500, 16
STUDY = ROOT / "runs" / "success_by_demonstrations" / f"{STEPS}x{BATCH_SIZE}"
PICTURE = ROOT / "docs" / "pictures" / "success_by_demonstrations.png"
RECIPE = ROOT / "gymnast_core" / "policy" / "recipes" / "mini.yaml"
COUNTS = (5, 10, 25, 50, 100, 203)
TRAINING = f"--steps {STEPS} --batch {BATCH_SIZE} --warmup 100 --holdout 0 --save-every 250 --threads 1"
TRIALS = "--trials 20 --workers 1"


def run(*words: str | Path) -> None:
    """One `gymnast` verb; leaves with its code where it fails."""
    if code := gymnast([str(word) for word in words]):
        raise SystemExit(code)


def measure(count: int) -> dict[str, dict[str, float]]:
    """Train on `count` demonstrations and try the policy: success by task."""
    data, policy, trials = (STUDY / f"{name}_{count}" for name in ("data", "policy", "trials"))
    for episode in sorted(DEMONSTRATIONS.glob("episode_*"))[:count]:
        if not (data / episode.name).exists():
            shutil.copytree(episode, data / episode.name, copy_function=os.link)
    if not policy.exists():
        run(
            "sft", "--from", RECIPE, "--data", data, "--out", policy, "--run", STUDY / f"sft_{count}", *TRAINING.split()
        )
    if not (trials / "result.json").exists():
        run("policy", "evaluate", "--policy", policy, "--run", trials, *TRIALS.split())
    result: dict[str, dict[str, float]] = json.loads((trials / "result.json").read_text(encoding="utf-8"))
    config = SFTConfig((str(HELD_OUT),), base=str(policy), lora_rank=0, holdout=0.99, threads=1, device="cpu")
    trainer = Trainer(replace(config, out=str(STUDY / "nothing"), run=str(STUDY / f"held_out_{count}")))
    return {**result, "held out": trainer.evaluate()}


def draw(results: dict[int, dict[str, dict[str, float]]]) -> None:
    """Success with standard errors, by task and over all, and held-out loss over the number of demonstrations."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (axes, losses) = pyplot.subplots(1, 2, figsize=(8.0, 3.2), dpi=110)
    shift = 1.0
    for task, colour in (("all", "black"), ("open_drawer", "tab:blue"), ("close_drawer", "tab:orange")):
        means = [result[task]["mean"] for result in results.values()]
        errors = [result[task]["standard_error"] for result in results.values()]
        places = [count * shift for count in results]  # beside each other, so that no bar hides another
        axes.errorbar(places, means, errors, marker="o", capsize=3, color=colour, label=task.replace("_", " "))
        shift *= 1.03
    axes.set_ylim(-0.02, 1.02)
    axes.set_ylabel("success on the station")
    axes.legend(frameon=False)
    loss = [result["held out"]["held_out_loss"] for result in results.values()]
    losses.plot(list(results), loss, marker="o", color="black")
    losses.set_ylabel("loss on held-out demonstrations")
    for panel in (axes, losses):
        panel.set_xscale("log")
        panel.set_xticks(list(results), [str(count) for count in results])
        panel.minorticks_off()
        panel.set_xlabel("demonstrations")
    figure.tight_layout()
    figure.savefig(PICTURE)


def main() -> None:
    """Measure, print, draw."""
    results = {count: measure(count) for count in COUNTS}
    names = ("held_out_loss", "held_out_token_accuracy", "held_out_translation_error_mm")
    print("| demonstrations | success | open the drawer | close the drawer | loss | token accuracy | error, mm |")
    print("|---|---|---|---|---|---|---|")
    for count, result in results.items():
        rates = (result[task] for task in ("all", "open_drawer", "close_drawer"))
        cells = [f"{rate['mean']:.2f} ± {rate['standard_error']:.2f}" for rate in rates]
        cells += [f"{result['held out'][name]:.3g}" for name in names]
        print(f"| {count} | {' | '.join(cells)} |")
    draw(results)


if __name__ == "__main__":
    main()
