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

A model that did not become better on the episodes that measure is not used (`learn_verdict`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gymnast_core.config import JudgeConfig, StationConfig, dump_config, find_model, load_config
from gymnast_core.data.formats import data_path
from gymnast_core.errors import ConfigError, DataError
from gymnast_core.evaluation.imagination_config import EvaluateConfig
from gymnast_core.evaluation.judge_config import EvaluateJudgeConfig
from gymnast_core.files import read_json, user_path, write_bytes, write_json
from gymnast_core.locks import lock_folder
from gymnast_core.progress import interrupts, progress_bar, say
from gymnast_core.results import RESULT, read_record, read_result, write_result
from gymnast_core.reward.train_config import JudgeTrainConfig
from gymnast_core.rl.config import GRPOConfig, load_recipe
from gymnast_core.run_folder import refuse_other_options
from gymnast_core.seeds import derive_seed
from gymnast_core.station_file import StationFile, open_station
from gymnast_core.workflows.child import run_apart
from gymnast_core.workflows.learn_config import LearnConfig
from gymnast_core.workflows.learn_data import Division, Side, divide, find_resets, link_model
from gymnast_core.workflows.learn_result import ALL, GateFigures, JudgeFigures, Learned, Pictures, figures_of
from gymnast_core.workflows.learn_verdict import worse_judge, worse_world_model
from gymnast_core.workflows.learned_station import GATE_JUDGE, JUDGE, SECOND, WORLD_MODEL, with_models
from gymnast_core.workflows.timing import seconds_spent, timed
from gymnast_core.world_model.dataset import parse_source
from gymnast_core.world_model.familiarity import FAMILIARITY, know_both
from gymnast_core.world_model.fidelity import beside, read_fidelity
from gymnast_core.world_model.finetune_config import FinetuneConfig
from gymnast_core.world_model.reconstruct_config import ReconstructConfig

STATION = "station.yaml"
OPTIONS, DIVISION = "config.yaml", "division.json"
FIXED = ("data", "measure", "earlier", "old_data", "world_model_steps", "share", "config", "seed")
"""Options with which a time of learning goes on."""
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
        check_sources("old_data", config.old_data)
        self.recipe: GRPOConfig = load_recipe(self.station.config.adaptation.recipe)
        self.skipped: list[str] = []
        self.refused: dict[str, str] = {}

    def __call__(self) -> Learned:
        """All steps; what a finished time of learning found is read. Raises: DataError, CheckpointError."""
        self.claim()
        if (self.folder / RESULT).exists():
            return self.finished()
        resets = find_resets(self.config.data, self.apart())
        self.folder.mkdir(parents=True, exist_ok=True)
        _lock = lock_folder(self.folder)
        write_bytes(self.folder / OPTIONS, dump_config(self.config).encode())
        self.data = divide(resets, self.own.held_out, self.folder / "data", self.earlier())
        write_json(self.folder / DIVISION, dataclasses.asdict(Division(self.own.held_out, dict(self.data.sides))))
        models = {WORLD_MODEL: self.station.world_model_folder}
        if self.recipe.confirm.second:
            models[SECOND] = self.station.second_world_model_folder
        judges = self.learned_judges()
        old = link_model(models[WORLD_MODEL], self.folder / "before" / "model")
        before = self.measure("before", self.station, old)
        new = {name: self.finetune(name, model) for name, model in models.items()}
        new |= self.train_judges(judges, new[WORLD_MODEL])
        judged = self.choose_judges(judges, new)
        station = self.write_station(new)
        tried = after = self.measure("after", station, new[WORLD_MODEL])
        if words := self.worse_world_model(before, tried):
            self.refuse(WORLD_MODEL, new, words)
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
            judges_before={name: then for name, (then, _) in judged.items()},
            judges_after={name: now for name, (_, now) in judged.items()},
            skipped=tuple(self.skipped),
            seconds=seconds_spent(self.folder),
            tried=tried,
            pictures={when: self.pictures(when) for when in ("before", "after")},
            refused=self.refused,
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
        refuse_other_options(self.folder, then, {name: now[name] for name in FIXED})
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

    def earlier(self) -> dict[str, Side]:
        """The sides of resets that an earlier time of learning decided. Raises: CheckpointError for a bad file."""
        if not self.config.earlier:
            return {}
        return read_record(Division, user_path(self.config.earlier, "earlier") / DIVISION).sides

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
        asked = self.config.world_model_steps
        steps = own.world_model_steps if asked is None else asked
        config = FinetuneConfig(
            run=str(run),
            data=(f"{self.data.teach}@{own.weight:g}", *own.old_data, *self.config.old_data),
            init=str(model),
            autoencoder=self.station.config.models.autoencoder if model.is_file() else "",
            steps=steps,
            batch=own.world_model_batch,
            learning_rate=own.world_model_learning_rate,
            share=self.config.share,
            warmup=min(WARMUP, steps // 10) if steps else WARMUP,
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

    def choose_judges(
        self, judges: Mapping[str, Path], new: dict[str, Path]
    ) -> dict[str, tuple[JudgeFigures, JudgeFigures]]:
        """Each judge that learned, measured as it was and as it is now; a worse one is taken out of `new`."""
        learned = [name for name in judges if name in new]
        station = self.write_station(new)
        found = {
            name: (self.measure_judge("before", name, self.station), self.measure_judge("after", name, station))
            for name in learned
        }
        for name, (then, now) in found.items():
            if words := worse_judge(then, now):
                self.refuse(name, new, words)
        return found

    def refuse(self, name: str, new: dict[str, Path], words: str) -> None:
        """Take a model that did not become better out of the new ones, and say why."""
        del new[name]
        self.refused[name] = words
        self.skipped.append(f"{name}: kept as it was, since {words}")

    def worse_world_model(self, before: Mapping[str, GateFigures], tried: Mapping[str, GateFigures]) -> str:
        """Why the new world model is not to be used, in words. Empty where it is better."""
        none = GateFigures()
        gate = before.get(ALL, none), tried.get(ALL, none)
        return worse_world_model(self.pictures("before"), self.pictures("after"), *gate)

    def pictures(self, when: str) -> Pictures:
        """What the pictures of a measured world model are worth."""
        return Pictures.of(read_json(self.folder / when / "evaluate" / RESULT))

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


def check_data(station: StationConfig) -> None:
    """Raises: ConfigError where a folder of `practise.old_data` or `practise.held_out_data` is not there."""
    check_sources("practise.old_data", station.practise.old_data)
    check_sources("practise.held_out_data", station.practise.held_out_data, weighed=False)


def check_sources(name: str, sources: Sequence[str], weighed: bool = True) -> None:
    """Raises: ConfigError where a folder of the setting `name` is not there. weighed: each may have a weight."""
    for source in sources:
        folder = parse_source(source)[0] if weighed else source
        if not data_path(folder, name).is_dir():
            raise ConfigError(f"{name}: found '{folder}', needed an existing folder of episodes")
