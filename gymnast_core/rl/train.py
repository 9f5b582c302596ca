"""`gymnast train`: GRPO over many starts: frames in imagination, or, as labelled upper bound, on the simulated station.

With torchrun every process rolls out its share of the groups, and one reduced update follows.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from gymnast_core.errors import ConfigError
from gymnast_core.policy import adapters
from gymnast_core.policy.checkpoint import check_target
from gymnast_core.policy.sharding import shard
from gymnast_core.progress import busy, say
from gymnast_core.protocols import Environment, Judge, Start
from gymnast_core.ranks import Ranks
from gymnast_core.reward.factory import load_judge
from gymnast_core.reward.spending import spent_by
from gymnast_core.reward.truth import TruthJudge
from gymnast_core.rl.practice import OUT_OF_TIME, check_progress, models_of, run_practice, train_within
from gymnast_core.rl.train_config import TrainConfig
from gymnast_core.rl.train_page import write_train_page
from gymnast_core.rl.train_result import TrainResult
from gymnast_core.rl.trainable import ADAPTER, in_one_piece, open_recipe, open_trainable_policy, prepare_training
from gymnast_core.rl.trainer import GRPOTrainer
from gymnast_core.rl.trust import world_model_gate_line
from gymnast_core.rollout.confirmation import Confirms
from gymnast_core.rollout.mixture import Part, describe_parts, load_mixture, read_mixture
from gymnast_core.rollout.open import on_this_rank, open_confirmation, open_imagination
from gymnast_core.rollout.starts import read_starts, station_starts
from gymnast_core.run_folder import RunFolder
from gymnast_core.seeds import derive_seed
from gymnast_core.station_file import open_station

STATIONS = 32
"""Simulated stations side by side: more of them make the policy's batches larger, and need memory."""


def train(config: TrainConfig) -> int:
    """Train and save; 0 when done, 1 when nothing was learned, 130 when interrupted."""
    if config.environment == "imagination" and not config.starts:
        raise ConfigError("starts: found nothing, needed a folder of start frames (or --environment station)")
    if config.environment == "station" and config.mixture:
        raise ConfigError(
            f"mixture: found '{config.mixture}' with --environment station, which has resets and no folders"
        )
    return run_practice("train", config, lambda run, ranks: Training(config, run, ranks)())


class Training:
    """One training over many starts; its methods are the steps, in the order in which they are called."""

    def __init__(self, config: TrainConfig, run: RunFolder, ranks: Ranks) -> None:
        self.config, self.run, self.ranks = config, run, ranks
        opened = open_station(config.config, config.policy, config.world_model, config.judge, config.device)
        self.opened = on_this_rank(opened, ranks)
        self.station = self.opened.config
        horizon = config.horizon
        if horizon is None and config.environment == "imagination" and not config.recipe:
            horizon = self.station.adaptation.horizon
        length = {} if horizon is None else {"horizon": horizon}
        credit = {"progress_credit": 1.0} if config.partial_credit else {}
        recipe = config.recipe or self.station.adaptation.recipe
        self.recipe = open_recipe(recipe, ranks, seed=config.seed, **length, **credit)
        if config.out:  # seen now, not when the training is over
            if self.recipe.trainable == "lora":
                adapters.check_name(config.out)
            else:
                check_target(config.out)

    def __call__(self) -> int:
        """All steps; 0 when something was learned, 1 when nothing was."""
        self.load()
        trainer = self.prepare()
        stopped_by = train_within(trainer, self.config.updates, self.config.seconds, self.run)
        if trainer.update:
            trainer.save()
        chosen = (trainer.restore_best() if self.config.keep == "best" else None) or trainer.update
        weights = trainer.weights() if trainer.trained.sharded else {}
        if not self.ranks.first:
            return 0
        saved = self.save(chosen, weights) if trainer.update else ""
        hindrance = trainer.source.hindrance or f"allow more than {self.config.seconds:.0f} s"
        return self.record(
            TrainResult(
                environment=self.config.environment,
                updates=trainer.update,
                chosen_update=chosen,
                stopped_by=stopped_by,
                saved=saved,
                hindrance="" if saved else f"no update was made: {hindrance}",
                starts=len(self.starts),
                trust=self.trust,
                run_folder=str(self.run.path),
                judge_spent=spent_by(self.judge),
            )
        )

    def load(self) -> None:
        """Where to practise, from which starts, and who judges."""
        config, station, ranks = self.config, self.station, self.ranks
        self.trust = ""
        self.confirm: Confirms | None = None
        self.parts: list[Part] = []
        self.environment: Environment
        self.judge: Judge
        if config.environment == "station":
            from gymnast_core.simulation.environment import StationEnvironment  # a simulator is no need of imagination

            self.starts = station_starts(station, config.tasks, config.resets, derive_seed(config.seed, "resets"))
            self.environment = StationEnvironment(station, STATIONS)
            self.judge = TruthJudge()
            return
        self.starts, self.parts = self.read_starts()
        if ranks.first and self.parts:
            say(f"mixture {config.mixture}: {describe_parts(self.parts)}")
        if ranks.first:
            self.trust = world_model_gate_line(self.opened, self.recipe.horizon)
            say(self.trust)
        with busy("loading world model and judge"):
            self.environment = open_imagination(self.opened, self.recipe.confirm)
            self.judge = load_judge(station, self.opened.path, self.run.path, ranks.rank, ranks.size)
        check_progress(self.recipe, self.judge)
        self.confirm = open_confirmation(self.recipe.confirm, self.opened, self.environment, self.judge)

    def read_starts(self) -> tuple[list[Start], list[Part]]:
        """The starts to imagine from, with the parts of a mixture. Raises: ConfigError, DataError."""
        config, size = self.config, self.station.camera.observation_size
        if config.mixture:
            return read_mixture(load_mixture(config.mixture), config.starts, size)
        return read_starts(config.starts, size), []

    def prepare(self) -> GRPOTrainer:
        """The policy, with what is trained of it, and its trainer."""
        with busy("loading policy"):
            self.policy = open_trainable_policy(self.opened, self.recipe)
            prepare_training(self.policy, self.recipe)
        if self.recipe.shard:
            shard(self.ranks, self.policy.model)
        about = {**models_of(self.station), "environment": self.config.environment}
        return GRPOTrainer(
            self.policy,
            self.policy.model,
            self.environment,
            self.judge,
            self.starts,
            self.recipe,
            self.run,
            about=about,
            confirm=self.confirm,
            parts=self.parts,
        )

    def save(self, chosen: int, weights: Mapping[str, torch.Tensor]) -> str:
        """Write the adapter or the checkpoint; where it is, in words. Raises: CheckpointError."""
        config, station = self.config, self.station
        policy = in_one_piece(self.policy, self.opened, self.recipe, weights)
        if self.recipe.trainable == "lora":
            folder = config.adapters or station.models.adapters
            name = config.out or adapters.adapter_name(station.name, f"train_{config.environment}")
            adapters.AdapterStore(folder).save(policy, ADAPTER, name, station.name, config.environment)
            return f"adapter {name} in {folder}"
        made_by = {"made_by": "gymnast train", "environment": config.environment, "updates": chosen}
        return str(policy.save(config.out or self.run.path / "policy", made_by))

    def record(self, result: TrainResult) -> int:
        """Write result and page, and say both; 0 when something was saved, 1 when not."""
        self.run.write_result(result)
        write_train_page(self.run, result, self.config.updates)
        if result.stopped_by == "time":
            say(OUT_OF_TIME.format(updates=result.updates, wanted=self.config.updates), "bold yellow")
        if result.judge_spent:
            say(result.judge_spent)
        told = f"saved {result.saved}" if result.saved else f"nothing saved: {result.hindrance}"
        say(f"{told}; report: {self.run.path / 'report.html'}")
        return 0 if result.saved or self.ranks.size > 1 else 1
