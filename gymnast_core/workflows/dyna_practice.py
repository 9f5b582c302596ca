"""The second half of a round of `gymnast dyna`: practice in the models that learned, and the station's word on it."""

from __future__ import annotations

from pathlib import Path

from gymnast_core.data.formats import find_all
from gymnast_core.errors import DataError
from gymnast_core.evaluation.canary import CanaryResult
from gymnast_core.policy.adapters import AdapterStore
from gymnast_core.results import RESULT, read_result
from gymnast_core.rl.adapt_config import AdaptConfig
from gymnast_core.rl.train_config import TrainConfig
from gymnast_core.rl.train_result import TrainResult
from gymnast_core.seeds import derive_seed
from gymnast_core.station_file import StationFile
from gymnast_core.workflows.child import adapt_apart, run_apart
from gymnast_core.workflows.dyna_config import DynaOptions
from gymnast_core.workflows.robot_trials import RobotTrials
from gymnast_core.workflows.room import Check
from gymnast_core.workflows.rounds import RoundRecord
from gymnast_core.workflows.timing import seconds_spent, timed

TOGETHER = "all tasks"


class RoundPractice:
    """Practice of one round. folder: of the round. station: with the models of the round. teach: folder of the episodes
    that taught, from which practice starts. What a finished step left is read."""

    def __init__(
        self,
        options: DynaOptions,
        folder: Path,
        number: int,
        station: StationFile,
        trials: RobotTrials,
        teach: Path,
        check: Check,
    ) -> None:
        self.options, self.folder, self.number = options, folder, number
        self.station, self.trials, self.teach, self.check = station, trials, teach, check
        self.notes: list[str] = []

    def practise(self, task: str) -> RoundRecord | None:
        """Practise a task from the first frames of its latest episodes; None where it has none, which is noted.

        Raises: DataError where practice ends with an error.
        """
        instruction = self.station.config.task(task).instruction
        count = self.options.frames or self.station.config.adaptation.frames
        starts = [one.path for one in find_all(self.teach) if one.describe().instruction == instruction][-count:]
        if not starts:
            self.notes.append(f"{task}: not practised, since no episode that teaches is of it")
            return None
        folder = self.folder / "tasks" / task
        folder.mkdir(parents=True, exist_ok=True)
        config = AdaptConfig(
            frame=tuple(f"{path}:0" for path in starts),
            instruction=instruction,
            config=str(self.station.path),
            run=str(folder / "adapt"),
            iterations=self.options.iterations,
            device=self.options.device,
            seed=self._seed("practice", task),
        )
        with timed(folder, "practice"):
            adapted = adapt_apart(config, lambda doing: self.check(f"{task}: {doing}"))
        canary = self.canary(folder, adapted.adapter_id, task)
        return RoundRecord.of(self.number, str(self.station.path), adapted, canary, seconds_spent(folder))

    def train(self, updates: int) -> RoundRecord:
        """One training from the frames of all episodes that taught. Raises: DataError where it ends with an error."""
        folder = self.folder / "train"
        folder.mkdir(parents=True, exist_ok=True)
        station = self.station.config
        name = f"{station.name}_dyna_{self.folder.parent.parent.name}_{self.number}"
        name = "".join(one if one.isalnum() else "_" for one in name)[:100]
        config = TrainConfig(
            starts=str(self.teach),
            config=str(self.station.path),
            run=str(folder / "run"),
            updates=updates,
            out=name,
            adapters=station.models.adapters,
            device=self.options.device,
            seed=self._seed("train"),
        )
        with timed(folder, "training"):
            run_apart("train", config, lambda doing: self.check(doing), ends=(0, 1), mark=RESULT)
        trained = read_result(TrainResult, folder / "run")
        adapter = name if trained.saved and name in AdapterStore(station.models.adapters).names() else ""
        canary = self.canary(folder, adapter, next(iter(self.tasks())))
        said = f"saved {trained.saved}" if trained.saved else f"nothing saved: {trained.hindrance}"
        return RoundRecord(
            self.number,
            str(self.station.path),
            adapter,
            said,
            None,
            None,
            0,
            trained.updates,
            trained.trust,
            canary=canary,
            seconds=seconds_spent(folder),
        )

    def tasks(self) -> tuple[str, ...]:
        """Those to practise."""
        return self.options.tasks or tuple(self.station.config.tasks)

    def canary(self, folder: Path, adapter: str, task: str) -> CanaryResult | None:
        """What the simulated station says of an adapter. None where there is none, or nobody to try it."""
        trials = self.options.trials
        if not adapter or trials == 0:
            return None
        if self.station.config.simulation is None:
            self.notes.append(f"{task}: adapter {adapter} is not tried yet; the action `Practise` has canary trials")
            return None
        with timed(folder, "canary"):
            return self.trials.canary(
                folder, adapter, task, f"{self.number}", trials, lambda doing: self.check(f"{task}: {doing}")
            )

    def _seed(self, *parts: str) -> int:
        return derive_seed(self.options.seed, "dyna", self.number, *parts) % 2**31


def teaching_folder(learned_in: Path) -> Path:
    """The episodes that taught, of a finished learning. Raises: DataError where they have gone."""
    folder = learned_in / "data" / "teach"
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; delete {learned_in.parent} to do the round again")
    return folder
