"""`gymnast world-model evaluate`: what a world model's pictures, and its outcomes, are worth.

Pictures: error by horizon on held-out episodes and an action sheet (`gymnast_core/world_model/pictures.py`). With a
station file also outcomes, on the held-out episodes that say what became of them:

* replay: their logged actions from their first frame in imagination, scored by the station's judge: how often that is
  the outcome that really happened by then (`horizon` steps, which bounds how far practice may imagine);
  With `confirm`, also how often where a success must survive other noise or a second world model;
* meters: how well each meter of hallucination tells the replays that ended otherwise, and the limit above which a
  rollout should not be believed;
* closed loop: the station's policy in imagination from the first frames of those episodes that it really played: how
  far its success there is from its success on the station;
* familiarity: how far held-out frames lie from the training frames, against which every start frame is held.

The outcomes' figures (gate.json) and the training frames' features (familiarity.safetensors) are kept beside the
weights, where `gymnast adapt` and `gymnast train` read them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from gymnast_core.commands import HELD_OUT, brief, gymnast, name_next
from gymnast_core.config import find_model
from gymnast_core.data.formats import StoredEpisode, data_path, find_all
from gymnast_core.data.outcome import said_by
from gymnast_core.errors import DataError
from gymnast_core.evaluation.imagination_config import EvaluateConfig
from gymnast_core.evaluation.imagination_page import outcome_sections, say_outcomes
from gymnast_core.evaluation.metering import Metering
from gymnast_core.evaluation.replay import (
    ALL,
    Logged,
    closed_loop,
    labelled,
    loop_figures,
    meter_figures,
    played_by,
    replay,
    replay_figures,
    temperature_of,
)
from gymnast_core.policy.openvla import load_policy
from gymnast_core.progress import busy, console, progress_bar, say
from gymnast_core.protocols import Judge
from gymnast_core.reporting.report import Section, report_run
from gymnast_core.reward.factory import load_judge
from gymnast_core.robot.safety import DeadReckoning
from gymnast_core.rollout.open import open_confirmation
from gymnast_core.run_folder import RunFolder
from gymnast_core.station_file import StationFile, open_station
from gymnast_core.world_model import pictures
from gymnast_core.world_model.checkpoint import LoadedWorldModel, SamplingConfig, load_world_model
from gymnast_core.world_model.dataset import parse_source
from gymnast_core.world_model.environment import WorldModelEnvironment
from gymnast_core.world_model.familiarity import (
    MAX_REFERENCE,
    calibrate,
    choose_frames,
    load_familiarity,
    save_familiarity,
)
from gymnast_core.world_model.fidelity import (
    Fidelity,
    Standing,
    assess,
    beside,
    describe_sampling,
    fingerprint,
    sampling_of,
    write_fidelity,
)

HELD_OUT_FRAMES = 400


def evaluate(config: EvaluateConfig) -> int:
    """Measure, print and write result.json and report.html, and the two files beside the weights.

    Raises: ConfigError, CheckpointError, DataError, JudgeError.
    """
    return Evaluation(config)()


class Evaluation:
    """One evaluation of a world model; its methods are the steps."""

    def __init__(self, config: EvaluateConfig) -> None:
        self.station = open_station(config.config, config.policy, judge=config.judge) if config.config else None
        self.model = find_model(config.model, self.station.path if self.station else None)
        if self.station is not None:
            own = self.station.config.models
            config = dataclasses.replace(
                config,
                steps=config.steps or own.sampling_steps,
                mode=config.mode or own.cache,
                solver=config.solver or own.solver,
            )
        self.config = config
        with busy("loading world model"):
            self.loaded = load_world_model(self.model, config.device, config.autoencoder, dtype=None)
        self.files = pictures.held_out_files(config.data, config.held_out)
        self.run = RunFolder(config.run, config, tensorboard=False)
        self.shuffle: float | None = None

    def __call__(self) -> int:
        """All steps; the exit code."""
        title = f"World model: {self.config.model}"
        result = pictures.evaluate_pictures(self.config, self.loaded, self.files, self.run)
        self.shuffle = result["action_shuffle"]
        self.run.write_result(result)
        report_run(self.run.path, title)
        sections = [_familiarity(self.config, self.model, self.loaded, self.files)]
        if self.station is not None:
            fidelity, own, command = self.outcomes(self.station)
            name_next(command)
            sections = [*own, *sections]
            self.run.write_result({**result, "fidelity": dataclasses.asdict(fidelity)})
        report_run(self.run.path, title, first=sections)
        say(f"report: {self.run.path / 'report.html'}")
        return 0

    def outcomes(self, station: StationFile) -> tuple[Fidelity, list[Section], str]:
        """Measure outcomes, keep them beside the weights, and say what practice on this station will think of them, and
        which command comes next."""
        config, own = self.config, station.config
        sampling = pictures.chosen_sampling(self.loaded, config.steps, config.mode, config.solver)
        sampling = dataclasses.replace(sampling, guidance=own.models.guidance)
        judge = load_judge(own, station.path, self.run.path)
        logged = labelled(self.files, config, judge)
        with progress_bar() as bar:
            row = bar.add_task("replaying", total=len(logged), note="")
            replaying = WorldModelEnvironment(self.loaded, max_rollouts=config.batch, sampling=sampling)
            played = replay(
                replaying,
                judge,
                logged,
                config.seed,
                lambda n: bar.update(row, advance=n),
                open_confirmation(config.confirm, station, replaying, judge, envelope=False),
                Metering(replaying),
            )
        loops = self.close_loop(station, sampling, judge, logged)
        names = [ALL, *sorted({entry.episode.instruction for entry in logged})]
        fidelity = Fidelity(
            measured=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            weights=fingerprint(self.model),
            sampling=describe_sampling(sampling),
            horizon=config.horizon,
            judge=f"{judge.name} {own.judge.checkpoint if judge.name == 'classifier' else own.judge.model}",
            data=tuple(config.data),
            outcomes_by=said_by(entry.outcome for entry in logged),
            replay={name: found for name in names if (found := replay_figures(played, name))},
            closed_loop={name: loop for name in names if (loop := loop_figures(loops, name))},
            policy=own.models.policy,
            temperatures=tuple(sorted({temperature_of(entry, config.temperature) for entry, _ in loops})),
            confirmation=config.confirm.describe(),
            confirmed={name: found for name in names if (found := replay_figures(played, name, confirmed=True))}
            if config.confirm.replays
            else {},
            meters=meter_figures(played, self.unfamiliarity(logged)),
            action_shuffle=self.shuffle,
        )
        written = write_fidelity(self.model, fidelity)
        limits = own.adaptation
        sampled, words = sampling_of(own.models), config.confirm.describe()
        standings = {
            name: assess(self.model, sampled, limits, limits.horizon, "" if name == ALL else name, words)
            for name in names
        }
        say_outcomes(fidelity, standings)
        say(f"figures kept in {written}")
        sections = outcome_sections(self.run, fidelity, standings, limits, played, len(logged) - len(loops))
        return fidelity, sections, self.what_next(station, logged, standings)

    def what_next(self, station: StationFile, logged: Sequence[Logged], standings: Mapping[str, Standing]) -> str:
        """Practice of an instruction whose gate holds; otherwise what would open it."""
        config = self.config
        held = [entry for entry in logged if not standings[entry.episode.instruction].failed]
        if held:
            start = next((entry for entry in held if not entry.success), held[0])
            return gymnast(
                "adapt",
                config=station.path,
                world_model=self.model,
                judge=config.judge,
                frame=f"{brief(start.source.path.resolve())}:0",
                instruction=start.episode.instruction,
            )
        share = config.held_out or HELD_OUT
        if any(standing.measured for standing in standings.values()):
            run = Path("runs/world_model") / f"{station.config.name}_{datetime.now():%Y%m%d_%H%M%S}"
            return gymnast("world-model finetune", init=self.model, data=config.data, held_out=share, run=run)
        return gymnast(
            "world-model evaluate",
            config=station.path,
            model=self.model,
            data=config.data,
            judge=config.judge,
            held_out=config.held_out,
            horizon=max(config.horizon, station.config.adaptation.horizon),
            run=config.run,
        )

    def unfamiliarity(self, logged: Sequence[Logged]) -> np.ndarray | None:
        """(n,) distances of the episodes' first frames from the training frames; None where that is not known."""
        measure = load_familiarity(beside(self.model, "familiarity.safetensors"), self.loaded.autoencoder)
        if measure is None:
            return None
        return measure.distances(self.loaded.autoencoder, [entry.source.frame(0) for entry in logged])

    def close_loop(
        self, station: StationFile, sampling: SamplingConfig, judge: Judge, logged: Sequence[Logged]
    ) -> list[tuple[Logged, float]]:
        """The station's policy in imagination from the first frames of the episodes that it really played."""
        config, own = self.config, station.config
        folder = station.policy_folder
        starts = [entry for entry in logged if played_by(entry, folder)]
        if not starts:
            return []
        arm = DeadReckoning(own.arm, own.safety)
        acting = WorldModelEnvironment(self.loaded, max_rollouts=config.batch, sampling=sampling, arm=arm)
        policy = load_policy(folder, own.models.unnorm_key, config.device)
        with progress_bar() as bar:
            row = bar.add_task("closed loop", total=len(starts), note="")
            return closed_loop(policy, acting, judge, starts, config, lambda n: bar.update(row, advance=n))


def _familiarity(
    config: EvaluateConfig, model: Path, loaded: LoadedWorldModel, files: Sequence[StoredEpisode]
) -> Section:
    """Write the measure of familiarity where the training episodes are at hand; the report's section."""
    named = config.training or tuple(str(source) for source in loaded.made_by.get("data", ()))
    # What a model's config names is fetched from no Hub: only what the command line names is.
    find = data_path if config.training else Path
    folders = [find(parse_source(source)[0]) for source in named]
    missing = [str(folder) for folder in folders if not folder.is_dir()]
    title = "How far do frames lie from the training data?"
    if missing or not folders:
        words = (
            f"not measured: training episodes {', '.join(missing) or 'unknown'} are not there; name them (--training)"
        )
        console.print(f"familiarity {words}", style="yellow", markup=False)
        return Section(title, words, "warning")
    held = {file.path.resolve() for file in files}
    training = [file for folder in folders for file in find_all(folder) if file.path.resolve() not in held]
    try:
        measure = calibrate(
            loaded.autoencoder,
            choose_frames(training, MAX_REFERENCE, config.seed),
            choose_frames(files, HELD_OUT_FRAMES, config.seed),
            {"training": list(named), "held_out": list(config.data)},
        )
        save_familiarity(beside(model, "familiarity.safetensors"), measure)
    except DataError as error:
        console.print(f"familiarity not measured: {error}", style="yellow", markup=False)
        return Section(title, str(error), "warning")
    q = measure.quantiles
    words = (
        f"Held-out frames lie {q[50]:.2f} (median), {q[90]:.2f} (90 of 100) and {q[99]:.2f} (99 of 100) standard "
        f"deviations from {len(measure.reference)} training frames; "
        f"a start frame is familiar up to {measure.limit:.2f}."
    )
    console.print(f"familiarity: {words}", highlight=False, markup=False)
    return Section(title, words)
