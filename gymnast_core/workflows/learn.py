"""`gymnast learn`: world model and judges learn from a station's own episodes, and the gate is measured anew.

The steps are verbs, each in a process of its own, and what a finished step left is not made again:

    data/teach, data/measure   links to the episodes, divided by their resets
    before/                    figures of the world model and the judges as they were, on the episodes that measure
    world_model/               the run of `gymnast world-model finetune`; `model` in it is the new one
    second_world_model/        likewise, where the recipe confirms successes with it
    imagined/                  the episodes that teach, as the new world model imagines them, for the judges
    judge/, gate_judge/        the runs of `gymnast judge train`; `model` in them is the new judge
    station.yaml               the station file with the new models, everything else the same
    after/                     figures of the new models on the episodes that measure
    kept/                      figures of the world model as it was with the new judges, where it is kept
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gymnast_core.config import JudgeConfig, StationConfig, dump_config, find_model, load_config
from gymnast_core.data.formats import data_path
from gymnast_core.errors import ConfigError, DataError
from gymnast_core.evaluation.imagination_config import EvaluateConfig
from gymnast_core.evaluation.judge_config import EvaluateJudgeConfig
from gymnast_core.files import is_number, read_json, user_path, write_bytes, write_json
from gymnast_core.locks import lock_folder
from gymnast_core.progress import interrupts, progress_bar, say
from gymnast_core.results import RESULT, read_result, write_result
from gymnast_core.reward.train_config import JudgeTrainConfig
from gymnast_core.rl.config import GRPOConfig, load_recipe
from gymnast_core.run_folder import refuse_other_options
from gymnast_core.seeds import derive_seed
from gymnast_core.station_file import StationFile, open_station
from gymnast_core.workflows.child import run_apart
from gymnast_core.workflows.learn_config import LearnConfig
from gymnast_core.workflows.learn_data import divide, find_resets, link_model
from gymnast_core.workflows.learn_result import GateFigures, JudgeFigures, Learned, figures_of
from gymnast_core.workflows.learned_station import GATE_JUDGE, JUDGE, SECOND, WORLD_MODEL, with_models
from gymnast_core.workflows.timing import seconds_spent, timed
from gymnast_core.world_model.dataset import parse_source
from gymnast_core.world_model.familiarity import FAMILIARITY, know_both
from gymnast_core.world_model.fidelity import beside, read_fidelity
from gymnast_core.world_model.finetune_config import FinetuneConfig
from gymnast_core.world_model.reconstruct_config import ReconstructConfig

STATION = "station.yaml"
OPTIONS, DIVISION = "config.yaml", "division.json"
GENTLY = 0.05
"""Share of the learning rate of the world model's training: a canary's episodes are few."""
WARMUP = 50
"""Steps of linear warm-up of the world model, at most a tenth of all."""


def learn(config: LearnConfig) -> int:
    """Learn and measure; 0, or 130 when interrupted (the same command goes on).

    Raises: ConfigError, CheckpointError; DataError where a step ends with an error, with its last words.
    """
    try:
        with interrupts(), progress_bar() as bar:
            row = bar.add_task("learning", total=None, note="")
            learned = Learning(config, lambda doing: bar.update(row, note=doing))()
    except KeyboardInterrupt:
        say(f"interrupted; the same command goes on, with --run {config.run}")
        return 130
    for words in (str(learned), *learned.skipped, f"to practise with the new models: --config {learned.station}"):
        say(words)
    return 0


class Learning:
    """One time of learning, in its folder; its methods are the steps.

    tick: called several times a second with what is being done, in words; what it raises ends the work, which can be
    resumed.

    Raises: ConfigError where the station file is wrong, or its `practise.old_data` is not there.
    """

    def __init__(self, config: LearnConfig, tick: Callable[[str], None]) -> None:
        self.config, self.tick = config, tick
        self.folder = user_path(config.run, "run").resolve()
        self.station = open_station(config.config, device=config.device)
        self.own = self.station.config.practise
        check_data(self.station.config)
        self.recipe: GRPOConfig = load_recipe(self.station.config.adaptation.recipe)
        self.skipped: list[str] = []

    def __call__(self) -> Learned:
        """All steps; what a finished time of learning found is read. Raises: DataError, CheckpointError."""
        self.claim()
        if (self.folder / RESULT).exists():
            return self.finished()
        resets = find_resets(self.config.data, self.apart())
        self.folder.mkdir(parents=True, exist_ok=True)
        _lock = lock_folder(self.folder)
        write_bytes(self.folder / OPTIONS, dump_config(self.config).encode())
        write_json(self.folder / DIVISION, {"held_out": self.own.held_out})
        self.data = divide(resets, self.own.held_out, self.folder / "data")
        models = {WORLD_MODEL: self.station.world_model_folder}
        if self.recipe.confirm.second:
            models[SECOND] = self.station.second_world_model_folder
        judges = self.learned_judges()
        old = link_model(models[WORLD_MODEL], self.folder / "before" / "model")
        before = self.measure("before", self.station, old)
        new = {name: self.finetune(name, model) for name, model in models.items()}
        new |= self.train_judges(judges, new[WORLD_MODEL])
        station = self.write_station(new)
        after = self.measure("after", station, new[WORLD_MODEL])
        if words := self.worse_pictures():
            self.skipped.append(f"{WORLD_MODEL}: kept as it was, since {words}")
            del new[WORLD_MODEL]
            station = self.write_station({**new, WORLD_MODEL: old})
            after = self.measure("kept", station, old)
        for model in (old, new.get(WORLD_MODEL, old)):
            know_both(beside(models[WORLD_MODEL], FAMILIARITY), beside(model, FAMILIARITY))
        learned = Learned(
            station=str(station.path),
            episodes=self.data.teaching,
            successes=self.data.successes,
            held_out=self.data.measuring,
            models=tuple(new),
            before=before,
            after=after,
            judges_before={name: self.measure_judge("before", name, self.station) for name in judges if name in new},
            judges_after={name: self.measure_judge("after", name, station) for name in judges if name in new},
            skipped=tuple(self.skipped),
            seconds=seconds_spent(self.folder),
        )
        write_result(self.folder, learned)
        return learned

    def claim(self) -> None:
        """Look whether the folder is free, or holds this time of learning, before anything in it is touched.

        Raises: ConfigError where it holds something else, or learning began there with other options.
        """
        path = self.folder / OPTIONS
        if not path.exists():
            if self.folder.exists() and any(not one.name.startswith(".") for one in self.folder.iterdir()):
                raise ConfigError(f"run: found {self.folder}, which holds other files; choose another --run")
            return
        now, then = (dataclasses.asdict(one) for one in (self.config, load_config(LearnConfig, path)))
        refuse_other_options(self.folder, then, {name: now[name] for name in ("data", "measure", "config", "seed")})
        if (self.folder / DIVISION).exists():  # what has taught must not measure
            began = read_json(self.folder / DIVISION)
            refuse_other_options(self.folder, began, {"held_out": self.own.held_out})

    def finished(self) -> Learned:
        """What was found before; a station file that has gone is written again. Raises: DataError, ConfigError."""
        learned = read_result(Learned, self.folder)
        if not (self.folder / STATION).exists():
            old = link_model(self.station.world_model_folder, self.folder / "before" / "model")
            self.write_station({WORLD_MODEL: old, **{name: self.folder / name / "model" for name in learned.models}})
        return learned

    def apart(self) -> tuple[str, ...]:
        """Folders whose episodes measure and never teach."""
        return (*self.config.measure, *self.own.held_out_data)

    def learned_judges(self) -> dict[str, Path]:
        """Folders of the judges that can learn; why another one cannot is noted."""
        if not self.own.judge_steps:
            self.skipped.append("judges: not trained further, since practise.judge_steps is 0")
            return {}
        if not self.data.successes:
            self.skipped.append(
                f"judges: not trained further, since all {self.data.teaching} episodes that teach failed"
            )
            return {}
        found = {}
        gate = self.station.config.adaptation.gate_judge
        gate = JudgeConfig(kind="classifier", checkpoint=gate) if gate and isinstance(gate, str) else gate
        for name, judge in ((JUDGE, self.station.config.judge), (GATE_JUDGE, gate)):
            if isinstance(judge, JudgeConfig) and judge.kind == "classifier":
                found[name] = find_model(judge.checkpoint, self.station.path)
            elif isinstance(judge, JudgeConfig):
                self.skipped.append(f"{name}: not trained further, since a judge of kind {judge.kind} learns nothing")
        return found

    def finetune(self, name: str, model: Path) -> Path:
        """Train one world model further; the new one's folder."""
        own, run = self.own, self.folder / name
        steps = own.world_model_steps
        config = FinetuneConfig(
            run=str(run),
            data=(f"{self.data.teach}@{own.weight:g}", *own.old_data),
            init=str(model),
            autoencoder=self.station.config.models.autoencoder if model.is_file() else "",
            steps=steps,
            batch=own.world_model_batch,
            learning_rate=own.world_model_learning_rate,
            share=GENTLY,
            warmup=min(WARMUP, steps // 10),
            held_out=0.0,
            device=self.station.device,
            seed=self.seed(name),
        )
        self.step(name, "world-model finetune", config)
        return run / "model"

    def train_judges(self, judges: dict[str, Path], world_model: Path) -> dict[str, Path]:
        """Train the judges further, on the episodes and on what the new world model makes of them; their new folders.

        Imagined copies keep what really happened as their outcome.
        """
        if not judges:
            return {}
        imagined = self.folder / "imagined"
        copies = ReconstructConfig(
            data=(str(self.data.teach),),
            out=str(imagined),
            world_model=str(world_model),
            device=self.station.device,
            seed=self.seed("imagined"),
        )
        self.step("imagined", "world-model reconstruct", copies, imagined)
        for name, judge in judges.items():
            run = self.folder / name
            config = JudgeTrainConfig(
                data=(str(self.data.teach),),
                decoded=(str(imagined),),
                init=str(judge),
                out=str(run / "model"),
                run=str(run),
                steps=self.own.judge_steps,
                learning_rate=self.own.judge_learning_rate,
                held_out=0.0,
                device=self.station.device,
                seed=self.seed(name),
            )
            self.step(name, "judge train", config)
        return {name: self.folder / name / "model" for name in judges}

    def write_station(self, new: dict[str, Path]) -> StationFile:
        """The station file of the new models, opened. Raises: ConfigError."""
        path = self.folder / STATION
        config = with_models(open_station(self.config.config).portable(), new)
        write_bytes(path, dump_config(config).encode())
        return open_station(str(path), device=self.config.device)

    def measure(self, when: str, station: StationFile, model: Path) -> dict[str, GateFigures]:
        """A world model's figures on the episodes that measure, by instruction; kept beside its weights."""
        confirm, adaptation = self.recipe.confirm, station.config.adaptation
        config = EvaluateConfig(
            model=str(model),
            data=self.measuring(),
            run=str(self.folder / when / "evaluate"),
            held_out=0.0,
            config=str(station.path),
            horizon=adaptation.horizon + (confirm.retreat if confirm.replays else 0),
            confirm=confirm,
            autoencoder=station.config.models.autoencoder if model.is_file() else "",
            device=self.station.device,
            seed=self.seed("measure"),
        )
        self.step(f"measure {when}", "world-model evaluate", config)
        fidelity = read_fidelity(model)
        if fidelity is None:
            raise DataError(f"{model}: was measured, but holds no gate.json")
        return figures_of(fidelity)

    def worse_pictures(self) -> str:
        """Why the new world model is not to be used, in words: its pictures of held-out episodes are worse than before,
        as they are when it learned a few episodes by heart. Empty where they are not."""
        then, now = (
            picture_quality(read_json(self.folder / when / "evaluate" / RESULT)) for when in ("before", "after")
        )
        if now >= then:
            return ""
        return f"its pictures of the episodes that measure became worse ({then:.1f} -> {now:.1f} dB)"

    def measuring(self) -> tuple[str, ...]:
        """Folders of the episodes that measure."""
        return (str(self.data.measure), *self.apart())

    def measure_judge(self, when: str, name: str, station: StationFile) -> JudgeFigures:
        """A judge's agreement with the outcomes of the episodes that measure."""
        run = self.folder / when / name
        config = EvaluateJudgeConfig(
            data=self.measuring(), config=str(station.path), gate=name == GATE_JUDGE, run=str(run)
        )
        self.step(f"measure {name} {when}", "judge evaluate", config)
        return JudgeFigures.of(read_json(run / RESULT))

    def step(self, name: str, verb: str, config: Any, run: Path | None = None) -> None:
        """One verb in a process of its own, unless it came to its end before. run: where it has no `run` option."""
        with timed(self.folder, name):
            run_apart(verb, config, lambda doing: self.tick(f"{name}: {doing}"), run=run)

    def seed(self, name: str) -> int:
        """The seed of one step."""
        return derive_seed(self.config.seed, "learn", name) % 2**31


def picture_quality(result: Mapping[str, Any]) -> float:
    """Mean PSNR over horizons of what `gymnast world-model evaluate` found, dB."""
    found = [value for name, value in result.items() if name.startswith("psnr_") and is_number(value)]
    return float(np.mean([value for value in found if math.isfinite(value)] or [0.0]))


def check_data(station: StationConfig) -> None:
    """Raises: ConfigError where a folder of `practise.old_data` or `practise.held_out_data` is not there."""
    for name in ("old_data", "held_out_data"):
        for source in getattr(station.practise, name):
            folder = parse_source(source)[0] if name == "old_data" else source
            if not data_path(folder, f"practise.{name}").is_dir():
                raise ConfigError(f"practise.{name}: found '{folder}', needed an existing folder of episodes")
