"""One goal of evaluator/practise: look, adapt in imagination, gate, canary, perhaps learn and adapt again, act, log."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from pathlib import Path
from typing import Any

from gymnast_msgs.action import Practise

from gymnast_core.config import dump_config
from gymnast_core.data.outcome import ABORTED, OUTCOMES, UNJUDGED
from gymnast_core.errors import DataError, GymnastError, StationError
from gymnast_core.evaluation.canary import Canary, CanaryResult
from gymnast_core.evaluation.session import TRIALS_LOG, PlannedTrial, TrialSession, read_records
from gymnast_core.files import finite_or_none, write_bytes
from gymnast_core.policy.adapters import AdapterStore
from gymnast_core.policy.prompt import normalise_instruction
from gymnast_core.results import read_result, write_result
from gymnast_core.rl.adapt_result import FRAME, AdaptResult
from gymnast_core.seeds import derive_seed
from gymnast_core.workflows.learn_config import LearnConfig
from gymnast_core.workflows.learn_result import Learned
from gymnast_core.workflows.practise_page import write_practise_page
from gymnast_core.workflows.rounds import RoundRecord, goes_on, measuring_trials, result_of
from gymnast_core.workflows.timing import seconds_spent, timed
from gymnast_nodes.lifecycle import ManagedNode
from gymnast_nodes.long_action import Goal
from gymnast_nodes.parameters import check_seconds
from gymnast_nodes.ros_bench import SEEDS, RosBench
from gymnast_nodes.start_frames import MOST_FRAMES, StartViews
from gymnast_nodes.verb_process import VerbProcess

LEARNING_S = 86400.0
"""Learning may take this long; its steps are bounded by `practise` of the station file."""
REPEAT_S = 2.0
"""Feedback is repeated this often while the models learn."""


def check_practise(request: Practise.Goal) -> str:
    """The instruction of a goal, before anything moves. Raises: DataError naming the field that is wrong."""
    instruction = str(request.instruction).strip()
    normalise_instruction(instruction)
    check_seconds("seconds", request.seconds)
    if request.frames > MOST_FRAMES:
        raise DataError(f"frames: found {request.frames}, allowed are at most {MOST_FRAMES}; 0: as configured")
    return instruction


class PractiseGoal:
    """Its methods are the steps. run: a folder of its own. learner: runs `gymnast learn` for this goal.

    `phase` says what is being done.
    """

    def __init__(self, node: ManagedNode, bench: RosBench, goal: Goal[Any], run: Path, learner: VerbProcess) -> None:
        self.node, self.bench, self.goal, self.run, self.learner = node, bench, goal, run, learner
        self.request = goal.request
        self.instruction = check_practise(self.request)
        self.task = node.station.task(self.request.task) if self.request.task else None
        self.result = Practise.Result(run_folder=str(run), outcome=UNJUDGED)
        self.phase = "begin"
        self.rounds: list[RoundRecord] = []

    def __call__(self) -> Practise.Result:
        """All steps. Raises: StationError, DataError, Cancelled."""
        views = self.look()
        acting = self.practise(views, 0, "")
        while goes_on(self.rounds, self.node.station.practise.rounds):
            measure = self.measure_base()
            try:
                learned = self.learn(len(self.rounds) - 1, measure)
            except GymnastError as error:  # the robot's word stands all the same
                self.node.get_logger().error(f"nothing could be learned: {error}")
                self.result.message += f"; nothing could be learned: {error}"
                self.publish(str(error))
                break
            acting = self.practise(views, len(self.rounds), learned.station)
        if self.request.execute:
            self.execute(acting)
        self.tell("log")
        self.log()
        self.result.success = True
        return self.result

    def look(self) -> StartViews:
        """Start frames; where a reset was asked for, of the scene after it."""
        request = self.request
        if request.reset:
            if not request.task:
                raise DataError("task: found nothing; a reset needs the name of a task of the station file")
            self.tell("reset")
            self.bench.reset(request.task, int(request.seed))
        frames = int(request.frames) or self.node.station.adaptation.frames
        return self.bench.look_at_starts(request.task, bool(request.reset), frames, int(request.seed), self.tell)

    def practise(self, views: StartViews, number: int, station_file: str) -> str:
        """One practice, with its canary trials; the policy that acts from now on. station_file: of the round."""
        request, result, folder = self.request, self.result, self.folder(number)
        seed = int(request.seed) if number == 0 else derive_seed(int(request.seed), "round", number) % SEEDS
        with timed(folder, "practice"):
            adapted = self.bench.adapt(
                self.instruction, views, int(request.iterations), float(request.seconds), seed, self.tell, station_file
            )
        result.frame_path = str(Path(adapted.run_folder) / FRAME)
        for name in ("adapter_id", "accepted", "success_before", "success_after", "standard_error"):
            setattr(result, name, getattr(adapted, name))
        result.failed_conditions = list(adapted.failed_conditions)
        result.run_folder, result.message = adapted.run_folder, adapted.message
        result.canary_verdict = result.adapter_state = ""
        self.tell("gate")
        canary = None
        if adapted.adapter_id:
            with timed(folder, "canary"):
                canary = self.canary(adapted.adapter_id, number, seed)
        found = read_result(AdaptResult, adapted.run_folder)
        place = station_file or str(self.node.config_path)
        self.rounds.append(RoundRecord.of(number, place, found, canary, seconds_spent(folder)))
        self.publish()
        if canary is None:
            return str(adapted.adapter_id or "base")
        return "base" if canary.state == "rolled back" else str(adapted.adapter_id)

    def canary(self, adapter: str, number: int, seed: int) -> CanaryResult | None:
        """Let the robot have the last word on an adapter, where that is asked for."""
        request, result, station = self.request, self.result, self.node.station
        config = dataclasses.replace(station.canary, trials=int(request.canary_trials) or station.canary.trials)
        result.adapter_state = "imagined"
        if not config.trials:
            return None
        if not request.task:
            raise DataError("task: found nothing; canary trials need the name of a task of the station file")
        others = [name for name in sorted(station.tasks) if name != request.task] if config.other_trials else []
        store = AdapterStore(station.models.adapters)
        found = Canary(
            self.bench, config, adapter, request.task, others, store.folder(adapter), self.trials(number), seed,
            tell=lambda trial, phase, nested: self.tell("canary", nested), say=self.node.get_logger().info,
        )()  # fmt: skip
        result.canary_verdict, result.adapter_state = found.verdict, found.state
        result.message = f"{result.message}; {found.reason}"
        if request.reset:  # the trials moved the scene
            self.bench.reset(request.task, int(request.seed))
        return found

    def learn(self, number: int, measure: list[str]) -> Learned:
        """Let the models of round `number` learn from the canary episodes of all rounds so far, at low priority.

        Raises: StationError when that ends with an error, with its last words; Cancelled.
        """
        folder = self.folder(number)
        config = LearnConfig(
            data=tuple(path for place in range(number + 1) for path in self.episodes(place)),
            measure=tuple(measure),
            earlier=str(self.folder(number - 1) / "learn") if number else "",
            config=self.rounds[number].station,
            run=str(folder / "learn"),
            seed=derive_seed(int(self.request.seed), "learn", number) % SEEDS,
        )
        write_bytes(folder / "learn.yaml", dump_config(config).encode())
        told = -math.inf

        def step() -> None:
            nonlocal told
            if time.monotonic() - told >= REPEAT_S:
                told = time.monotonic()
                self.tell(
                    "learn", Practise.Feedback(iteration=number + 1, iterations=self.node.station.practise.rounds)
                )

        with timed(folder, "learning"):
            self.learner.run(self.goal, "learn", folder / "learn.yaml", folder / "learn.log", LEARNING_S, step)
        learned = read_result(Learned, folder / "learn")
        self.node.get_logger().info(str(learned))
        done = self.rounds[number]
        self.rounds[number] = dataclasses.replace(done, learned=learned, seconds=seconds_spent(folder))
        self.publish()
        return learned

    def measure_base(self) -> list[str]:
        """Episodes of the base policy from further resets, the same in all rounds: their folders."""
        station, seed = self.node.station, int(self.request.seed)
        folder, count = self.run / "measuring", measuring_trials(station)
        for task in station.tasks if count else ():
            resets = [derive_seed(seed, "measuring", task, number) % SEEDS for number in range(count)]
            (folder / task).mkdir(parents=True, exist_ok=True)
            plan = [PlannedTrial(task, reset) for reset in resets]
            session = TrialSession(
                self.bench, plan, folder / task, tell=lambda trial, phase, nested: self.tell("measure", nested)
            )
            session()
        if count and self.request.reset:  # the trials moved the scene
            self.bench.reset(self.request.task, seed)
        return episodes_of(folder)

    def episodes(self, number: int) -> list[str]:
        """Folders of the canary episodes of a round whose outcome counts."""
        return episodes_of(self.trials(number))

    def execute(self, acting: str) -> None:
        """One episode with the policy that acts from now on."""
        request, result = self.request, self.result
        self.tell("execute")
        episode = self.bench.execute(
            self.instruction, request.task, acting,
            self.task.max_steps if self.task else 0, int(request.seed), lambda nested: self.tell("execute", nested),
        )  # fmt: skip
        result.outcome, result.episode_path = episode.outcome, episode.episode_path
        if episode.outcome == ABORTED:
            raise StationError(f"the episode after practising was stopped: {episode.message}")

    def tell(self, phase: str, nested: Any = None) -> None:
        """Give feedback. nested: of the action under way."""
        feedback = Practise.Feedback(phase=phase)
        self.phase = f"practise: {phase}"
        for name in ("iteration", "iterations", "mean_reward", "usable_groups", "seconds_left", "step", "preview"):
            if nested is not None and hasattr(nested, name):
                setattr(feedback, name, getattr(nested, name))
        self.goal.publish_feedback(feedback)

    def publish(self, trouble: str = "") -> None:
        """Where the station file asks for rounds, write result and page of those that are done.

        trouble: why nothing could be learned from the last one.
        """
        station, allowed = self.node.station, self.node.station.practise.rounds
        if allowed:
            result = result_of(station.name, self.request.task, self.instruction, allowed, self.rounds, trouble)
            write_result(self.run, result)
            write_practise_page(self.run, result)

    def log(self) -> None:
        """Write practise.json."""
        request, result = self.request, self.result
        content = {
            "instruction": request.instruction,
            "task": request.task,
            "seed": int(request.seed),
            "adapter_id": result.adapter_id,
            "accepted": bool(result.accepted),
            "success_before": finite_or_none(result.success_before),
            "success_after": finite_or_none(result.success_after),
            "standard_error": finite_or_none(result.standard_error),
            "failed_conditions": list(result.failed_conditions),
            "canary_verdict": result.canary_verdict,
            "adapter_state": result.adapter_state,
            "rounds": len(self.rounds),
            "outcome": OUTCOMES[result.outcome],
            "episode_path": result.episode_path,
            "adaptation": result.run_folder,
        }
        write_bytes(self.run / "practise.json", json.dumps(content, indent=1).encode())

    def folder(self, number: int) -> Path:
        """The folder of one round."""
        path = self.run / "rounds" / str(number)
        path.mkdir(parents=True, exist_ok=True)
        return path

    def trials(self, number: int) -> Path:
        """The folder of one round's canary trials."""
        return self.folder(number) / "canary"


def episodes_of(folder: Path) -> list[str]:
    """Folders of the episodes of the trials below a folder whose outcome counts."""
    logs = sorted(folder.glob(f"*/{TRIALS_LOG}"))
    records = [record for log in logs for record in read_records(log.parent)]
    return [record.episode_path for record in records if record.episode_path and math.isfinite(record.value)]
