"""`gymnast practise`: a task practised on the simulated station until the robot agrees, or the rounds are spent.

Each step leaves its outcome in the folder of its round, and a step that is done is read instead of repeated:

    measuring/                     episodes of the base policy, which measure what was learned
    rounds/N/frames/, rehearsal/   the start frames, as episodes of no step
    rounds/N/adapt/                the run folder of `gymnast adapt`
    rounds/N/canary/, episodes/    canary trials, and the episodes of them
    rounds/N/learn/                what the models learned from all episodes so far (`gymnast learn`)
    rounds/N/round.json            what came of the round
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from gymnast_core.commands import gymnast, name_next
from gymnast_core.config import MOST_ROUNDS, find_model, load_config
from gymnast_core.errors import ConfigError, GymnastError
from gymnast_core.files import write_json
from gymnast_core.progress import interrupts, progress_bar, say
from gymnast_core.results import read_record
from gymnast_core.rl.adapt_config import AdaptConfig
from gymnast_core.rl.adapt_result import AdaptResult
from gymnast_core.run_folder import RunFolder, refuse_other_options
from gymnast_core.seeds import derive_seed
from gymnast_core.station_file import StationFile, open_station
from gymnast_core.workflows.captures import capture_starts
from gymnast_core.workflows.child import adapt_apart
from gymnast_core.workflows.learn import Learning, check_data
from gymnast_core.workflows.learn_config import LearnConfig
from gymnast_core.workflows.learn_result import Learned
from gymnast_core.workflows.practise_config import PractiseOptions
from gymnast_core.workflows.practise_page import write_practise_page
from gymnast_core.workflows.robot_trials import EPISODES, RobotTrials
from gymnast_core.workflows.room import Check, reset_seed
from gymnast_core.workflows.rounds import PractiseResult, RoundRecord, goes_on, result_of
from gymnast_core.workflows.timing import seconds_spent, timed

RECORD = "round.json"
ROUNDS = "rounds"
FREE = ("rounds", "run", "device")
"""Options that may change when a run goes on."""


def practise(options: PractiseOptions) -> int:
    """Practise; 0 when an adapter acts in the end, 1 when the base does, 130 when interrupted.

    Raises: ConfigError, one line naming an option or a field; DataError, CheckpointError, StationError.
    """
    station = open_station(options.config, device=options.device)
    if station.config.simulation is None:
        raise ConfigError(f"{station.path}: has no simulation section; on a real station use the action `Practise`")
    station.config.task(options.task)
    check_data(station.config)
    for model in (station.config.models.policy, station.config.models.world_model):
        find_model(model, station.path)  # before anything is practised
    folder = Path(options.run or f"runs/practise/{datetime.now():%Y%m%d_%H%M%S}_{options.task}")
    if (folder / "config.yaml").exists():
        then = dataclasses.asdict(load_config(PractiseOptions, folder / "config.yaml"))
        now = {name: value for name, value in dataclasses.asdict(options).items() if name not in FREE}
        refuse_other_options(folder, then, now)
    run = RunFolder(folder, options, tensorboard=False)
    try:
        with interrupts(), progress_bar() as bar:
            row = bar.add_task("practising", total=None, note="")
            result = Rounds(options, station, run, lambda doing: bar.update(row, note=doing))()
    except KeyboardInterrupt:
        say(f"interrupted; resume with --run {run.path}")
        return 130
    say(result.message, "green" if result.adapter else "yellow")
    say(f"report: {run.path / 'report.html'}")
    if result.rounds[-1].rolled_back and result.rounds_allowed < MOST_ROUNDS:
        given = {name: value for name, value in dataclasses.asdict(options).items() if value not in (None, "")}
        name_next(gymnast("practise", **{**given, "rounds": result.rounds_allowed + 1, "run": run.path}))
    return 0 if result.adapter else 1


class Rounds:
    """The rounds of one run. station: the file that the first one practises with.

    tick: told what is being done, in words; what it raises ends the run, which can be resumed.
    """

    def __init__(self, options: PractiseOptions, station: StationFile, run: RunFolder, tick: Check) -> None:
        self.options, self.own, self.run, self.tick = options, station, run, tick
        config = station.config
        self.instruction = config.task(options.task).instruction
        self.rounds = config.practise.rounds if options.rounds is None else options.rounds
        self.seeds = f"practise/{options.seed}"
        self.trials = RobotTrials(station, self.seeds)

    def __call__(self) -> PractiseResult:
        """Practise until no further round follows, or nothing can be learned.

        Raises: DataError, CheckpointError, StationError.
        """
        done: list[RoundRecord] = []
        station = self.own
        while not done or goes_on(done, self.rounds) or self.record_of(len(done)).exists():
            if done:
                measure = self.trials.measure_base(
                    self.run.path / "measuring", lambda doing: self.tick(f"measuring the base: {doing}")
                )
                try:
                    learned = self.learn(done[-1], station, measure)
                except GymnastError as error:  # the robot's word stands all the same
                    if self.record_of(len(done)).exists():  # which a further round has already
                        raise
                    return self.publish(done, str(error))
                done[-1] = dataclasses.replace(done[-1], learned=learned, seconds=seconds_spent(self.folder(done[-1])))
                self.publish(done)
                station = open_station(learned.station, device=self.options.device)
            done.append(self.practise(len(done), station))
            self.publish(done)
        return self.publish(done)

    def practise(self, number: int, station: StationFile) -> RoundRecord:
        """One practice and its canary trials; those of a finished round are read."""
        folder = self.run.path / ROUNDS / str(number)
        record = self.record_of(number)
        if record.exists():
            return read_record(RoundRecord, record, f"delete {folder} to practise again")
        folder.mkdir(parents=True, exist_ok=True)

        def check(doing: str) -> None:
            self.tick(f"round {number}: {doing}")

        say(f"round {number}: practising '{self.instruction}'")
        with timed(folder, "frames"):
            frames, rehearsal = self.capture(folder, number, check)
        with timed(folder, "practice"):
            adapted = self.adapt(folder, number, station, frames, rehearsal, check)
        say(f"round {number}: {adapted.message}")
        canary = None
        if adapted.adapter_id:
            with timed(folder, "canary"):
                name, task, trials = adapted.adapter_id, self.options.task, self.options.trials
                canary = self.trials.canary(folder, name, task, str(number), trials, check)
            say(f"round {number}: {canary.reason}")
        found = RoundRecord.of(number, str(station.path), adapted, canary, seconds_spent(folder))
        write_json(record, dataclasses.asdict(found))
        return found

    def capture(self, folder: Path, number: int, check: Check) -> tuple[list[Path], str]:
        """Start frames of the task and, where the station file lets other tasks be rehearsed, the folder of theirs."""
        station, adaptation = self.own.config, self.own.config.adaptation
        others = adaptation.rehearsal_frames if adaptation.rehearsal == "auto" else 0
        frames = self.options.frames or adaptation.frames
        counts = dict.fromkeys(station.tasks, others) | {self.options.task: frames}

        def seed(task: str, place: int) -> int:
            return reset_seed(self.seeds, "frame", task, number, place)

        return capture_starts(station, self.options.task, counts, seed, folder, check)

    def adapt(
        self, folder: Path, number: int, station: StationFile, frames: Sequence[Path], rehearsal: str, check: Check
    ) -> AdaptResult:
        """Practise in a process of its own."""
        config = AdaptConfig(
            frame=tuple(map(str, frames)),
            instruction=self.instruction,
            config=str(station.path),
            run=str(folder / "adapt"),
            iterations=self.options.iterations,
            rehearsal=rehearsal,
            device=self.options.device,
            seed=derive_seed(self.seeds, "practice", number) % 2**31,
        )
        return adapt_apart(config, check)

    def learn(self, last: RoundRecord, station: StationFile, measure: tuple[str, ...]) -> Learned:
        """Let the models of the last round learn from the episodes of all rounds so far.

        measure: folders of the base policy's episodes, see `RobotTrials.measure_base`.
        """
        folder = self.folder(last)
        say(f"round {last.number}: learning from the episodes of the canary trials")
        config = LearnConfig(
            measure=measure,
            earlier=str(self.run.path / ROUNDS / str(last.number - 1) / "learn") if last.number else "",
            data=tuple(str(self.run.path / ROUNDS / str(number) / EPISODES) for number in range(last.number + 1)),
            config=str(station.path),
            run=str(folder / "learn"),
            device=self.options.device,
            seed=derive_seed(self.seeds, "learn", last.number) % 2**31,
        )
        with timed(folder, "learning"):
            learned = Learning(config, lambda doing: self.tick(f"round {last.number}: {doing}"))()
        say(f"round {last.number}: {learned}")
        return learned

    def publish(self, done: Sequence[RoundRecord], trouble: str = "") -> PractiseResult:
        """Write result and page of the rounds that are done. trouble: why nothing could be learned from the last."""
        station, task = self.own.config.name, self.options.task
        result = result_of(station, task, self.instruction, self.rounds, done, trouble)
        self.run.write_result(result)
        write_practise_page(self.run.path, result)
        return result

    def folder(self, record: RoundRecord) -> Path:
        """The folder of one round."""
        return self.run.path / ROUNDS / str(record.number)

    def record_of(self, number: int) -> Path:
        """The file that a finished round leaves."""
        return self.run.path / ROUNDS / str(number) / RECORD
