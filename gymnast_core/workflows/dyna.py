"""`gymnast dyna`: a station's world model, judges and policy learn from its logs, round after round.

Each step leaves its outcome in the folder of its round, and a step that is done is read instead of repeated:

    findings.jsonl                 what `gymnast data check` says of each episode, looked at once
    measuring/                     episodes of the base policy on a simulated station, which measure
    rounds/N/data.json             the episodes of the round, and which were left out and why
    rounds/N/station.yaml          the station with the models that the round begins with
    rounds/N/learn/                what the models learned, measured, and which are used (`gymnast learn`)
    rounds/N/tasks/T/adapt, train/ practice in them; canary/ and episodes/ beside it, the trials of its adapter
    rounds/N/round.json            what came of the round
    station.yaml                   the station with the models that are used after the last round
    lineage.json                   every model and adapter with its parents (`gymnast dyna status`)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from gymnast_core.config import dump_config, load_config
from gymnast_core.errors import DataError
from gymnast_core.files import write_bytes, write_json
from gymnast_core.progress import interrupts, progress_bar, say
from gymnast_core.results import read_record
from gymnast_core.run_folder import RunFolder, refuse_other_options
from gymnast_core.seeds import derive_seed
from gymnast_core.station_file import StationFile, open_station
from gymnast_core.workflows.dyna_config import RUNS, DynaOptions
from gymnast_core.workflows.dyna_data import Filter, Gathered, episodes_of_logs, link_episodes
from gymnast_core.workflows.dyna_page import write_dyna_page
from gymnast_core.workflows.dyna_practice import TOGETHER, RoundPractice, teaching_folder
from gymnast_core.workflows.dyna_result import DynaResult, DynaRound, result_of
from gymnast_core.workflows.learn import DIVISION, Learning, check_data, check_sources
from gymnast_core.workflows.learn_config import LearnConfig
from gymnast_core.workflows.learn_result import Learned
from gymnast_core.workflows.learned_station import WORLD_MODEL, with_models
from gymnast_core.workflows.lineage import LINEAGE, Artefact, Lineage, adapter_of, given_by, learned_in, write_lineage
from gymnast_core.workflows.robot_trials import EPISODES, RobotTrials
from gymnast_core.workflows.room import Check
from gymnast_core.workflows.rounds import RoundRecord
from gymnast_core.workflows.timing import seconds_spent, timed

RECORD, DATA, STATION = "round.json", "data.json", "station.yaml"
FIXED = ("config", "seed")
"""Options with which a run goes on; the others may be new in a further round."""
AGAIN = "delete the folder of the round to do it again"


def dyna(options: DynaOptions) -> int:
    """Do what rounds are not done; 0 where something became better, 1 where nothing did, 130 when interrupted.

    Raises: ConfigError, one line naming an option or a field; DataError, CheckpointError, StationError.
    """
    station = open_station(options.config, device=options.device)
    options = dataclasses.replace(options, config=str(station.path))  # one name of it, wherever the command is given
    for task in options.tasks:
        station.config.task(task)
    check_data(station.config)
    check_sources("old_data", options.old_data)
    given: Sequence[Artefact] = given_by(station)  # the models are there before anything is done
    episodes_of_logs(options.logs or (station.config.recorder.folder,))
    folder = Path(options.run or f"{RUNS}/{station.config.name}")
    if (folder / "config.yaml").exists():
        then = dataclasses.asdict(load_config(DynaOptions, folder / "config.yaml"))
        now = {name: value for name, value in dataclasses.asdict(options).items() if name in FIXED}
        refuse_other_options(folder, then, now)
    if (folder / LINEAGE).exists():  # the station file may name what the run has made since
        begun = read_record(Lineage, folder / LINEAGE, "delete it; the run writes it anew")
        given = [one for one in begun.artefacts if one.state == "given"]
    run = RunFolder(folder, options, tensorboard=False)
    try:
        with interrupts(), progress_bar() as bar:
            row = bar.add_task("dyna", total=None, note="")
            result = Dyna(options, station, given, run, lambda doing: bar.update(row, note=doing))()
    except KeyboardInterrupt:
        say(f"interrupted; the same command goes on, with --run {run.path}")
        return 130
    say(result.message)
    for task, adapter in result.adapters.items():
        say(f"{task}: adapter {adapter} acts")
    say(f"the models of the last round: --config {result.station_file}")
    say(f"report: {run.path / 'report.html'}")
    return 0 if any(one.better for one in result.rounds) else 1


class Dyna:
    """The rounds of one run. own: the station. given: its models. tick: told what is being done, in words; what it
    raises ends the run, which can be resumed."""

    def __init__(
        self, options: DynaOptions, own: StationFile, given: Sequence[Artefact], run: RunFolder, tick: Check
    ) -> None:
        self.options, self.own, self.run, self.tick = options, own, run, tick
        self.settings = own.config.dyna
        self.trials = RobotTrials(own, f"dyna/{options.seed}")
        self.artefacts = list(given)
        self.models: dict[str, Path] = {}
        """Models that learned and are used now, by kind."""
        self.parents = {one.kind: one.name for one in given}
        """Names of the models that are used now, by kind."""

    def __call__(self) -> DynaResult:
        """All rounds that are wanted, as long as there are new episodes.

        Raises: DataError, CheckpointError, StationError; DataError too where no round can begin.
        """
        done: list[DynaRound] = []
        while self.record_of(len(done)).exists():
            path = self.record_of(len(done))
            self.take(read_record(DynaRound, path, AGAIN), done)
        wanted = self.options.rounds or self.settings.rounds
        allowed = max(len(done), wanted + (len(done) if self.options.more else 0))
        ended = "as many as were asked for"
        if done:
            self.publish(done, allowed, "the next round is under way")
        while len(done) < allowed:
            data = self.gather(done)
            if not data.new:
                ended = "no new episode has come since the last round"
                break
            self.take(self.round(len(done), data), done)
            self.publish(done, allowed, "the next round is under way")
        if not done:
            raise DataError(
                f"{', '.join(self.logs())}: no whole episode with a known outcome; needed some to learn from"
            )
        return self.publish(done, allowed, ended)

    def take(self, one: DynaRound, done: list[DynaRound]) -> None:
        """Go on with the models of a finished round."""
        done.append(one)
        folder = self.folder(one.number) / "learn"
        found = learned_in(one.number, folder, one.learned, self.parents)
        self.artefacts += found
        self.parents |= {artefact.kind: artefact.name for artefact in found if artefact.state == "used"}
        self.models |= {name: folder / name / "model" for name in one.learned.models}
        if WORLD_MODEL not in one.learned.models:  # as it was, but measured anew
            self.models[WORLD_MODEL] = open_station(one.learned.station).world_model_folder
        self.artefacts += [adapter_of(record, self.parents) for record in one.practices.values() if record.adapter]

    def round(self, number: int, data: Gathered) -> DynaRound:
        """One round, from its episodes to its adapters."""
        folder = self.folder(number)
        say(f"round {number}: {data.words}")
        began = folder / STATION
        write_bytes(began, dump_config(with_models(self.own.portable(), self.models)).encode())
        measure = self.measure_base()
        with timed(folder, "learning"):
            learned = self.learn(number, data, began, measure)
        say(f"round {number}: {learned}")
        for words in learned.skipped:
            say(f"round {number}: {words}")
        station = open_station(learned.station, device=self.options.device)
        practices, notes = self.practise(number, station)
        one = DynaRound(number, str(began), str(station.path), data, learned, practices, notes, seconds_spent(folder))
        write_json(self.record_of(number), dataclasses.asdict(one))
        say(str(one))
        return one

    def gather(self, done: Sequence[DynaRound]) -> Gathered:
        """The episodes of the next round, decided when learning from them begins. Raises: ConfigError, DataError."""
        path = self.folder(len(done)) / DATA
        if path.exists() and (path.parent / "learn" / DIVISION).exists():
            return read_record(Gathered, path, AGAIN)
        below = (f"tasks/*/{EPISODES}", f"train/{EPISODES}")
        tried = [str(path) for one in done for name in below for path in sorted(self.folder(one.number).glob(name))]
        count = self.options.trajectories or self.settings.trajectories
        looking = Filter(self.run.path, self.tick)
        found = looking.gather((*self.logs(), *tried), count, [one.data.chosen for one in done])
        if found.new:
            write_json(path, dataclasses.asdict(found))
        return found

    def measure_base(self) -> tuple[str, ...]:
        """Episodes of the base policy that measure, on a simulated station."""
        if self.own.config.simulation is None:
            return ()
        folder = self.run.path / "measuring"
        return self.trials.measure_base(folder, lambda doing: self.tick(f"measuring the base: {doing}"))

    def learn(self, number: int, data: Gathered, station: Path, measure: tuple[str, ...]) -> Learned:
        """Let the models learn from the episodes of the round, and keep what became better."""
        folder = self.folder(number)
        if not (folder / "learn" / "result.json").exists():
            link_episodes(data.chosen, folder / "logs")
        steps = self.options.world_model_steps
        config = LearnConfig(
            data=(str(folder / "logs"),),
            measure=measure,
            earlier=str(self.folder(number - 1) / "learn") if number else "",
            old_data=self.options.old_data,
            world_model_steps=self.settings.world_model_steps if steps is None else steps,
            share=self.settings.share,
            config=str(station),
            run=str(folder / "learn"),
            device=self.options.device,
            seed=derive_seed(self.options.seed, "dyna", "learn", number) % 2**31,
        )
        return Learning(config, lambda doing: self.tick(f"round {number}: {doing}"))()

    def practise(self, number: int, station: StationFile) -> tuple[dict[str, RoundRecord], tuple[str, ...]]:
        """Practise the tasks in the models of the round; what came of each, and what was not done and why."""
        then = self.options.then or self.settings.then
        folder = self.folder(number)
        teach = teaching_folder(folder / "learn")
        check: Check = lambda doing: self.tick(f"round {number}: {doing}")  # noqa: E731
        practice = RoundPractice(self.options, folder, number, station, self.trials, teach, check)
        found: dict[str, RoundRecord | None] = {}
        with timed(folder, then):
            if then == "practise":
                found = {task: practice.practise(task) for task in practice.tasks()}
            elif then == "train":
                found = {TOGETHER: practice.train(self.settings.updates)}
        return {task: record for task, record in found.items() if record is not None}, tuple(practice.notes)

    def publish(self, done: Sequence[DynaRound], allowed: int, ended: str) -> DynaResult:
        """Write lineage, result, page and station file of the rounds that are done."""
        name = self.own.config.name
        write_lineage(self.run.path, Lineage(name, str(self.run.path), tuple(self.artefacts)))
        station = self.run.path / STATION
        write_bytes(station, dump_config(with_models(self.own.portable(), self.models)).encode())
        result = result_of(name, allowed, str(station), ended, done)
        if done:
            self.run.write_result(result)
            write_dyna_page(self.run.path, result)
        return result

    def logs(self) -> tuple[str, ...]:
        """Folders of the station's own logs."""
        return self.options.logs or (self.own.config.recorder.folder,)

    def folder(self, number: int) -> Path:
        """The folder of one round."""
        return self.run.path / "rounds" / str(number)

    def record_of(self, number: int) -> Path:
        """The file that a finished round leaves."""
        return self.folder(number) / RECORD
