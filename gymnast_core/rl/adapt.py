"""`gymnast adapt`: test-time training. Frames and an instruction go in; an adapter that passed the gate comes out.

Phases, as in the progress lines: load, before (the base policy in imagination), train (GRPO on rollouts from the
frames), after (the same seeds again with the adapter), gate. The base weights are never changed. A world model or frame
that cannot pass the gate is refused before anything is imagined.
"""

from __future__ import annotations

import dataclasses
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from gymnast_core.commands import gymnast, name_next
from gymnast_core.config import JudgeConfig, StationConfig
from gymnast_core.data.frames import resize_frame, write_image
from gymnast_core.errors import DataError
from gymnast_core.files import finite_or_none
from gymnast_core.policy.adapter_state import Evidence, write_evidence
from gymnast_core.policy.adapters import AdapterStore, adapter_name
from gymnast_core.policy.sharding import shard
from gymnast_core.progress import busy, console, say
from gymnast_core.protocols import Judge, Start
from gymnast_core.ranks import Ranks
from gymnast_core.reward.factory import load_judge
from gymnast_core.reward.spending import spent_by
from gymnast_core.rl.adapt_config import AdaptConfig
from gymnast_core.rl.adapt_page import ONE_JUDGE, write_adapt_page
from gymnast_core.rl.adapt_result import REFUSED, AdaptResult
from gymnast_core.rl.best_adapter import BestAdapter, Validation
from gymnast_core.rl.consolidated import consolidated
from gymnast_core.rl.films import ImaginedFilms
from gymnast_core.rl.gate import GateResult, judge_adapter, no_room_to_rise, unmeasured
from gymnast_core.rl.measuring import Measuring, Scorer
from gymnast_core.rl.other_tasks import compare_others, find_other_starts, find_other_views
from gymnast_core.rl.practice import OUT_OF_TIME, check_progress, models_of, run_practice, train_within
from gymnast_core.rl.trainable import ADAPTER, in_one_piece, open_recipe, open_trainable_policy, prepare_training
from gymnast_core.rl.trainer import GRPOTrainer
from gymnast_core.rl.trust import judge_imagination
from gymnast_core.rollout.confirmation import Confirmation
from gymnast_core.rollout.open import find_gate_judge, on_this_rank, open_confirmation, open_imagination
from gymnast_core.rollout.rollout import Rollout
from gymnast_core.rollout.starts import StartFrame, check_instruction, logged_frames, read_frames
from gymnast_core.run_folder import RunFolder
from gymnast_core.station_file import StationFile, open_station


def adapt(config: AdaptConfig) -> int:
    """Run test-time training; 0 when an adapter was accepted, 1 when the base was kept, 130 when interrupted.

    Under torchrun, which takes any other code for a crash, 0 in both of the first cases.
    """
    instruction = check_instruction(config.instruction)
    frames = read_frames(config.frame, config.index)

    def body(run: RunFolder, ranks: Ranks) -> int:
        code = Adaptation(config, run, ranks, frames, instruction)()
        return code if ranks.size == 1 else 0

    return run_practice("adapt", config, body)


@dataclass(frozen=True)
class Budget:
    """How long and how far: what the command line gives, otherwise what the station file says."""

    iterations: int
    seconds: float
    horizon: int
    rollouts: int

    @classmethod
    def of(cls, config: AdaptConfig, station: StationConfig) -> Budget:
        own = station.adaptation
        return cls(
            config.iterations or own.iterations,
            config.seconds or own.seconds,
            config.horizon or own.horizon,
            config.evaluation_rollouts or own.evaluation_rollouts,
        )


class Adaptation:
    """One test-time training; its methods are the steps, in the order in which they are called.

    begun: the start frames, and where the arm was in them where that is known.
    """

    def __init__(
        self, config: AdaptConfig, run: RunFolder, ranks: Ranks, begun: Sequence[StartFrame], instruction: str
    ) -> None:
        self.config = config
        self.run = run
        self.ranks = ranks
        self.begun = begun
        self._report("load")
        opened = open_station(config.config, config.policy, config.world_model, config.judge, config.device)
        self.opened = on_this_rank(opened, ranks)
        self.station = self.opened.config
        self.instruction = _known_instruction(instruction, self.station)
        count = self.station.adaptation.logged_frames if config.logged is None else config.logged
        if count:
            folder, seed = self.station.recorder.folder, config.seed
            self.begun = [*begun, *logged_frames(folder, self.instruction, count, seed, say)]
        self.budget = Budget.of(config, self.station)
        self.judges: tuple[Judge, ...] = ()
        self.confirm: Confirmation | None = None
        self.consolidated = ""
        self.store = AdapterStore(config.adapters or self.station.models.adapters)
        self.store.prepare()

    def __call__(self) -> int:
        """All steps; 0 when an adapter was accepted, 1 when the base was kept."""
        self.open()
        self.weigh_imagination()
        if self.required:
            return self.refuse()
        self.load()
        before = self.measure("before")
        hopeless, stopped_by = no_room_to_rise(before), "no room to rise"
        others_before = self.measure_others() if not hopeless else []
        trainer = self.prepare(hopeless)
        if not hopeless:
            stopped_by = train_within(trainer, self.budget.iterations, self.budget.seconds, self.run, self.best)
        chosen = self.best.restore() if self.best is not None else None
        self.consolidated = self.consolidate(trainer, chosen)
        after = self.measure("after", trainer.update) if trainer.update else before
        others_after = self.measure_others() if trainer.update else others_before
        weights = trainer.weights() if trainer.trained.sharded else {}
        if not self.ranks.first:
            return 0
        self._report("gate", trainer.update)
        gate = judge_adapter(before, after, self.required, compare_others(others_before, others_after))
        if trainer.update == 0:  # there is nothing to compare
            found = hopeless or trainer.source.hindrance or f"allow more than {self.budget.seconds:.0f} s"
            gate = dataclasses.replace(gate, failed_conditions=(f"no update was made: {found}",))
        kept = self.keep(gate, weights) if gate.accepted or (self.config.keep_refused and trainer.update) else ""
        taken = chosen.update if chosen is not None else trainer.update
        return self.record(self._result(gate, kept, trainer.update, taken, stopped_by), gate, before, after)

    def open(self) -> None:
        """Recipe, imagination and start frames: what the world-model gate looks at."""
        config, station, opened, ranks = self.config, self.station, self.opened, self.ranks
        _ = opened.policy_folder  # a wrong name is an error now, not a reason to go on without it
        self.recipe = open_recipe(
            config.recipe or station.adaptation.recipe,
            ranks,
            horizon=self.budget.horizon,
            seed=config.seed,
            trainable="lora",
            checkpoint_every=1,
        )
        self.other_judge = find_gate_judge(opened, config.gate_judge)
        with busy("loading world model"):
            self.environment = open_imagination(opened, self.recipe.confirm)
        size = station.camera.observation_size
        self.starts = [_start_of(one, self.instruction, config, station) for one in self.begun]
        source = config.rehearsal or station.adaptation.rehearsal
        self.others, told = find_other_starts(station, self.instruction, source, station.recorder.folder, size)
        if told:
            say(told, "yellow" if told.startswith("note") else "")
        wanted = self.recipe.consolidation_steps > 0
        places = (source, station.recorder.folder, size)
        self.other_views = find_other_views(station, self.instruction, *places) if wanted else None
        self.pictures = tuple(
            _picture(self.run, config.frame, number, one, ranks.first) for number, one in enumerate(self.begun)
        )

    def load(self) -> None:
        """Policy and judges."""
        with busy("loading policy and judge"):
            self.policy = open_trainable_policy(self.opened, self.recipe)
            self.judges = _load_judges(self.opened, self.run, self.ranks, self.other_judge)
        self.judge = self.judges[0]
        check_progress(self.recipe, self.judge)
        self.confirm = open_confirmation(self.recipe.confirm, self.opened, self.environment, self.judge)
        self.measuring = Measuring(
            self.policy,
            self.environment,
            self.starts,
            self.others,
            Scorer(self.judge, self.confirm),
            Scorer(self.judges[-1], self.confirm.by(self.judges[-1]) if self.confirm is not None else None),
            self.ranks,
            self.budget.horizon,
            self.config.evaluation_temperature or None,
            self.config.seed,
        )
        if self.other_judge is None:
            say(f"note: {ONE_JUDGE}", "yellow")

    def weigh_imagination(self) -> None:
        """Hold world model and start frames against what was measured, and say how far they can be trusted."""
        frames = [one.frame for one in self.begun]
        confirm = self.recipe.confirm
        steps = self.budget.horizon + (confirm.retreat if confirm.replays else 0)
        self.trust = judge_imagination(
            self.opened, self.environment.loaded, frames, self.instruction, steps, confirm.describe()
        )
        self.required = self.trust.failed if self.station.adaptation.world_model_gate == "require" else ()
        say(f"world model: {self.trust.world_model}")
        for words in self.trust.frames:
            say(f"start frame {words}")
        for words in self.trust.failed:
            say(f"WARNING: {words}: success in imagination says little about the station", "bold yellow")

    def refuse(self) -> int:
        """Keep the base without a single rollout, since no adapter could pass the gate, and say how to go on; 1."""
        if not self.ranks.first:
            return 0
        self._report("gate")
        nothing = unmeasured("nothing was practised, since no adapter could pass the world-model gate", *self.required)
        name_next(self.trust.command)
        return self.record(self._result(nothing, "", 0, 0, "distrust"), nothing, (), ())

    def measure(self, phase: str, update: int = 0) -> list[Rollout]:
        """Rollouts of the policy as it is, on seeds that training never sees, scored by the gate's judge.

        update: how many were made.

        Raises: DataError when the judge abstains on every rollout before training.
        """
        self._report(phase)
        count = self.budget.rollouts
        with busy(f"{count} imagined rollouts {phase} training"):
            rollouts = self.measuring.task(count)
        if self.ranks.first:
            ImaginedFilms(self.run).keep(phase, update, rollouts)
        if phase == "before":
            success = np.array([rollout.completed for rollout in rollouts])
            if not np.isfinite(success).any():
                reason = rollouts[0].verdict.reason if rollouts[0].verdict else ""
                raise DataError(f"the judge abstained on every rollout before training: {reason}")
            console.print(f"before: success {np.nanmean(success):.2f} over {count} imagined rollouts", highlight=False)
        return rollouts

    def measure_others(self) -> list[Rollout]:
        """Rollouts of the station's other tasks, of the policy as it is, on seeds that training never sees."""
        with busy("imagined rollouts of other tasks"):
            return self.measuring.other_tasks(self.budget.rollouts // 2)

    def prepare(self, hopeless: str) -> GRPOTrainer:
        """A fresh adapter on the policy, its trainer, and what keeps the best of its updates."""
        count = self.config.validation_rollouts
        # The base's own share of changed actions, on the seeds that updates will be compared on.
        base_safety = self.measuring.begin_validation(count) if count and not hopeless else 0.0
        prepare_training(self.policy, self.recipe)
        if self.recipe.shard:
            shard(self.ranks, self.policy.model)
        trainer = GRPOTrainer(
            self.policy,
            self.policy.model,
            self.environment,
            self.judge,
            self.starts,
            self.recipe,
            self.run,
            self.others,
            about=models_of(self.station),
            confirm=self.confirm,
        )
        self.best = BestAdapter(trainer, lambda: self.measuring.validate(count), base_safety) if count else None
        return trainer

    def consolidate(self, trainer: GRPOTrainer, chosen: Validation | None) -> str:
        """Take back what practice cost the other tasks; what came of it, empty where the recipe does not ask for it."""
        if not self.recipe.consolidation_steps or not trainer.update:
            return ""
        count = self.config.validation_rollouts or self.budget.rollouts
        told, done = consolidated(trainer, self.measuring, self.other_views, chosen, count)
        say(f"consolidated: {told}" if done else f"note: not consolidated: {told}")
        return told if done else ""

    def keep(self, gate: GateResult, weights: Mapping[str, torch.Tensor]) -> str:
        """Save the adapter, in the run folder where the gate refused it; its name."""
        store = self.store if gate.accepted else AdapterStore(self.run.path / REFUSED)
        name = adapter_name(self.station.name, self.instruction)
        figures = {"success_before": gate.success_before, "success_after": gate.success_after}
        metrics = {figure: value for figure, value in figures.items() if math.isfinite(value)}
        whole = in_one_piece(self.policy, self.opened, self.recipe, weights)
        store.save(whole, ADAPTER, name, self.station.name, self.instruction, metrics)
        reason = f"success in imagination {gate.success_before:.2f} -> {gate.success_after:.2f}"
        if not gate.accepted:
            reason += f"; the gate refused it: {'; '.join(gate.failed_conditions)}"
        write_evidence(store.folder(name), Evidence("imagined", gate.accepted and not self.trust.failed, reason))
        return name

    def record(self, result: AdaptResult, gate: GateResult, before: Sequence[Rollout], after: Sequence[Rollout]) -> int:
        """Write result and page, and say both; 0 when an adapter was accepted, 1 when not."""
        self.run.write_result(result)
        write_adapt_page(self.run, self.config, self.recipe, gate, before, after, result)
        if result.stopped_by == "time":
            say(OUT_OF_TIME.format(updates=result.iterations, wanted=self.budget.iterations), "bold yellow")
        say(result.message, "green" if result.accepted else "yellow")
        go_on = (f"to go on: {words}" for words in result.go_on)
        for words in filter(None, (*go_on, result.judge_spent, f"report: {self.run.path / 'report.html'}")):
            say(words)
        if result.accepted:
            name_next(_trials_of(self.opened, self.config, result))
        return 0 if result.accepted else 1

    def _result(self, gate: GateResult, kept: str, updates: int, chosen: int, stopped_by: str) -> AdaptResult:
        trust = self.trust
        adapter_id, refused = (kept, "") if gate.accepted else ("", kept)
        message = "base policy kept: " + "; ".join(gate.failed_conditions)
        if gate.accepted:
            rise = f"{gate.success_before:.2f} -> {gate.success_after:.2f}"
            message = f"adapter {adapter_id} accepted: success in imagination {rise}"
            if trust.failed:
                message += f"; but the world-model gate does not hold: {'; '.join(trust.failed)}"
        spent = [words for one in self.judges if (words := spent_by(one))]
        if gate.others:
            message += f"; other tasks: {', '.join(other.describe() for other in gate.others)}"
        return AdaptResult(
            adapter_id=adapter_id,
            accepted=gate.accepted,
            success_before=finite_or_none(gate.success_before),
            success_after=finite_or_none(gate.success_after),
            standard_error=finite_or_none(gate.standard_error),
            iterations=updates,
            chosen_update=chosen,
            failed_conditions=gate.failed_conditions,
            message=message,
            run_folder=str(self.run.path),
            instruction=self.instruction,
            pairs=gate.pairs,
            safety_before=gate.safety_before,
            safety_after=gate.safety_after,
            world_model_gate=self.station.adaptation.world_model_gate,
            world_model=trust.world_model,
            start_frames=trust.frames,
            positions=tuple(_place(self.config, self.station, position) for _, position in self.begun),
            distrust=trust.failed,
            gate_judge_trained_the_adapter=self.other_judge is None,
            stopped_by=stopped_by,
            judge_spent="; before and after: ".join(spent),
            pictures=self.pictures,
            consolidated=self.consolidated,
            refused_adapter=refused,
            go_on=trust.remedies if stopped_by == "distrust" else (),
            others=gate.others,
            confirmation=self.recipe.confirm.describe(),
            refused=dict(self.confirm.refused) if self.confirm is not None else {},
            successes_replayed=self.confirm.successes if self.confirm is not None else 0,
        )

    def _report(self, phase: str, iteration: int = 0) -> None:
        if self.ranks.first:
            wanted = self.budget.iterations if phase != "load" else 0
            self.run.report_progress(phase, iteration, wanted)


def _load_judges(opened: StationFile, run: RunFolder, ranks: Ranks, other: JudgeConfig | None) -> tuple[Judge, ...]:
    """The judge that trains, and the gate's where that is another one."""
    place = (opened.config, opened.path, run.path, ranks.rank, ranks.size)
    own = load_judge(*place)
    return (own,) if other is None else (own, load_judge(*place, other, "gate_judge_answers"))


def _trials_of(opened: StationFile, config: AdaptConfig, result: AdaptResult) -> str:
    """The command by which the robot tries an accepted adapter: against its base where the station is simulated."""
    task = next((name for name, task in opened.config.tasks.items() if task.instruction == result.instruction), "")
    if opened.config.simulation is not None and task:
        return gymnast("canary", result.adapter_id, config=opened.path, policy=config.policy, adapters=config.adapters)
    goal = f"{{task: {task}, trials: 20, policy: {result.adapter_id}}}"
    line = ("ros2", "action", "send_goal", "evaluator/run_trials", "gymnast_msgs/action/RunTrials", goal)
    return shlex.join(line) if task else ""


def _picture(run: RunFolder, given: Sequence[str], number: int, begun: StartFrame, writes: bool) -> str:
    """A start frame as a file of the run, written where it is none yet. given: the files that were named."""
    source = Path(given[number]) if number < len(given) else Path()
    if source.suffix == ".png" and source.resolve().parent == run.path:
        return source.name
    path = run.media(f"start_{number}.png")
    if writes:
        write_image(path, begun.frame)
    return str(path.relative_to(run.path))


def _start_of(begun: StartFrame, instruction: str, config: AdaptConfig, station: StationConfig) -> Start:
    """Where rollouts begin: the frame at the policy's size, and where the arm is taken to be in it."""
    position = config.position or begun.position or station.arm.start_position
    return Start(instruction, resize_frame(begun.frame, station.camera.observation_size), position=position)


def _known_instruction(instruction: str, station: StationConfig) -> str:
    """The station's own spelling of a task's instruction; another instruction is noted and kept."""
    known = [task.instruction for task in station.tasks.values()]
    instruction = next((one for one in known if one.casefold() == instruction.casefold()), instruction)
    if instruction not in known:
        names = ", ".join(known) or "none"
        say(f"note: '{instruction}' is no task of station '{station.name}', which has: {names}", "yellow")
    return instruction


def _place(config: AdaptConfig, station: StationConfig, logged: Sequence[float] | None) -> str:
    """Where imagination takes the end effector to be in a start frame, and how that is known, in words."""
    position = config.position or logged or station.arm.start_position
    how = "as given" if config.position else "as logged" if logged is not None else "taken to be the start position"
    return f"{' '.join(f'{value:.3f}' for value in position)} m, {how}"
