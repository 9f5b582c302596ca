"""`gymnast train`: GRPO over many starts: frames in imagination, or, as labelled upper bound, on the simulated station.

With torchrun every process rolls out its share of the groups, and one reduced update follows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from gymnast_core.config import Positive, Seed
from gymnast_core.errors import ConfigError
from gymnast_core.policy.parallel import Ranks
from gymnast_core.progress import console
from gymnast_core.protocols import Environment, Judge
from gymnast_core.rl.adapt import models_of, train_within
from gymnast_core.rl.processes import run_practice
from gymnast_core.rl.starts import read_starts, station_starts
from gymnast_core.rl.trainer import GRPOTrainer
from gymnast_core.run_folder import RunFolder, derive_seed

STATIONS = 32
"""Simulated stations side by side: more of them make the policy's batches larger, and need memory."""


@dataclass(frozen=True)
class TrainConfig:
    """GRPO over many starts. Empty and unset fields are taken from the station file and the recipe."""

    starts: str = ""
    """Folder of start frames (X.png with X.json {"instruction": ...}) or of logged episodes; for imagination."""
    environment: Literal["imagination", "station"] = "imagination"
    """Practise in the world model, or on the simulated station itself, with its truth as reward: the upper bound."""
    tasks: tuple[str, ...] = ()
    """Tasks of the station to practise there; none: all."""
    resets: Annotated[int, Field(ge=1)] = 200
    """Different resets of each task on the station."""
    partial_credit: bool = False
    """On the station: reward how far a task has come (the drawer's travel over the goal's), not success alone. Success
    in the figures stays 0 or 1."""
    config: str = "simulated_drawer"
    """Station file: a path, or the name of a shipped one."""
    run: str = ""
    """Run folder; empty: a new one below runs/train. A run that was interrupted is resumed."""
    recipe: str = ""
    """GRPO recipe: "mini", "paper" or a YAML file; empty: the station file's."""
    horizon: Annotated[int, Field(ge=1, le=1000)] | None = None
    """Steps of a rollout. None: the recipe's; in imagination without `recipe` as many as the station file's."""
    updates: Annotated[int, Field(ge=1)] = 100
    """At most this many."""
    seconds: Positive = 1e9
    """At most this long, resumptions included."""
    policy: str = ""
    """Policy checkpoint instead of the station's."""
    world_model: str = ""
    """World-model folder instead of the station's."""
    judge: str = ""
    """Folder of a learned judge instead of the station's judge."""
    out: str = ""
    """Name of the adapter, or folder of the checkpoint when all weights are trained; empty: by station and time."""
    keep: Literal["last", "best"] = "last"
    """What is saved at the end: the weights after the last update, or those of the checkpoint with the best reward over
    some updates (the recipe's `best_over`)."""
    adapters: str = ""
    """Folder for adapters."""
    device: str = ""
    """"cpu", "cuda" or "auto"."""
    seed: Seed = 0
    """Decides starts, noise and whatever is sampled."""


def train(config: TrainConfig) -> int:
    """Train and save; 0 when done, 1 when nothing was learned, 130 when interrupted."""
    if config.environment == "imagination" and not config.starts:
        raise ConfigError("starts: found nothing, needed a folder of start frames (or --environment station)")
    if config.partial_credit and config.environment != "station":
        raise ConfigError("partial_credit: imagination has no truth of its own; needed --environment station")
    return run_practice("train", config, lambda run, ranks: _train(config, run, ranks))


def _train(config: TrainConfig, run: RunFolder, ranks: Ranks) -> int:
    from gymnast_core.policy import adapters
    from gymnast_core.policy.checkpoint import check_target
    from gymnast_core.reporting.report import Section, metric_curve, write_report
    from gymnast_core.reward import TruthJudge, load_judge
    from gymnast_core.reward.spending import spent_by
    from gymnast_core.rl import parts
    from gymnast_core.rl.gate import world_model_gate_line

    opened = parts.open_station(config.config, config.policy, config.world_model, config.judge, config.device)
    opened = parts.on_this_rank(opened, ranks)
    station = opened.config
    horizon = config.horizon
    if horizon is None and config.environment == "imagination" and not config.recipe:
        horizon = station.adaptation.horizon
    length = {} if horizon is None else {"horizon": horizon}
    recipe = parts.open_recipe(config.recipe or station.adaptation.recipe, ranks, seed=config.seed, **length)
    if config.out:  # seen now, not when the training is over
        if recipe.trainable == "lora":
            adapters.check_name(config.out)
        else:
            check_target(config.out)
    environment: Environment
    judge: Judge
    trust = ""
    if config.environment == "station":
        from gymnast_core.station.environment import StationEnvironment

        starts = station_starts(station, config.tasks, config.resets, derive_seed(config.seed, "resets"))
        environment = StationEnvironment(station, STATIONS)
        judge = TruthJudge(config.partial_credit)
    else:
        starts = read_starts(config.starts, station.camera.observation_size)
        if ranks.first:
            trust = world_model_gate_line(opened, recipe.horizon)
            console.print(trust, markup=False, highlight=False, soft_wrap=True)
        environment = parts.open_imagination(opened)
        judge = load_judge(station, opened.path, run.path, ranks.rank, ranks.size)
    policy = parts.open_policy(opened, recipe)
    parts.prepare_training(policy, recipe)
    if recipe.shard:
        ranks.shard(policy.model)
    about = {**models_of(station), "environment": config.environment}
    trainer = GRPOTrainer(policy, policy.model, environment, judge, starts, recipe, run, about=about)
    stopped_by = train_within(trainer, config.updates, config.seconds, run)
    if trainer.update:
        trainer.save()
    kept = (trainer.restore_best() if config.keep == "best" else None) or trainer.update
    weights = trainer.weights() if trainer.sharded else {}
    if not ranks.first:
        return 0
    policy = parts.in_one_piece(policy, opened, recipe, weights)
    nothing = f"no update was made: {trainer.hindrance or f'allow more than {config.seconds:.0f} s'}"
    made_by = {"made_by": "gymnast train", "environment": config.environment, "updates": kept}
    if trainer.update == 0:
        where = ""
    elif recipe.trainable == "lora":
        folder = config.adapters or station.models.adapters
        name = config.out or adapters.adapter_name(station.name, f"train_{config.environment}")
        adapters.AdapterStore(folder).save(policy, parts.ADAPTER, name, station.name, config.environment)
        where = f"adapter {name} in {folder}"
    else:
        where = str(policy.save(config.out or run.path / "policy", made_by))
    facts = {"stopped_by": stopped_by, "saved": where, "run_folder": str(run.path), "judge_spent": spent_by(judge)}
    run.write_result({**made_by, **facts})
    lines = run.read_metrics()
    tasks = sorted({name for line in lines for name in line if name.startswith("success/")})
    labels = {name: name.removeprefix("success/").replace("_", " ") for name in tasks}
    told = (
        "Upper bound: practised on the simulated station itself, with its truth as reward."
        if config.environment == "station"
        else f"Practised in imagination from {len(starts)} start frames."
    )
    write_report(
        run.path,
        "GRPO training",
        [
            Section(
                "What was done",
                told,
                facts=(
                    ("updates", f"{trainer.update}, ended by {stopped_by}"),
                    *((("trust in imagination", trust),) if trust else ()),
                    ("saved", f"{where}, as it was after update {kept}" if where else f"nothing: {nothing}"),
                    *((("spent", facts["judge_spent"]),) if facts["judge_spent"] else ()),
                ),
            ),
            Section(
                "Success while training (sampled, not greedy)",
                curves=(
                    metric_curve(
                        run.path,
                        {
                            "mean_reward": "mean reward",
                            "usable_groups": "usable groups",
                            "actions_changed": "actions the envelope changed",
                        },
                        "All",
                        y_range=(0, 1),
                    ),
                    metric_curve(run.path, labels, "By task", y_range=(0, 1)),
                ),
            ),
            Section(
                "Optimiser",
                curves=(
                    metric_curve(run.path, {"entropy": "entropy (nats)"}, "Entropy of an action token"),
                    metric_curve(run.path, {"grad_norm": "gradient norm"}, "Gradient norm before clipping"),
                    metric_curve(run.path, {"clip_fraction": "clipped"}, "Share of clipped tokens"),
                ),
            ),
        ],
    )
    if facts["judge_spent"]:
        console.print(facts["judge_spent"], markup=False, highlight=False, soft_wrap=True)
    told = f"saved {where}" if where else f"nothing saved: {nothing}"
    console.print(f"{told}; report: {run.path / 'report.html'}", markup=False, highlight=False, soft_wrap=True)
    return 0 if where or ranks.size > 1 else 1
