"""`gymnast benchmark transfer`: what practice is worth on the robot, and which of several recipes is worth most.

Of each recipe many independent practices are made, from several sets of start frames with several seeds, and every
adapter is tried on the same resets of the simulated station, whether the gate let it through or not. So the table says
what a user gets (the mean, the worst, how often less than the base), what the other tasks pay, and which share of bad
adapters gate and canary caught.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from gymnast_core.config import find_model, load_config
from gymnast_core.errors import ConfigError, GymnastError
from gymnast_core.progress import interrupts, progress_bar, say
from gymnast_core.rl.groups import BudgetSpent
from gymnast_core.run_folder import RunFolder, refuse_other_options
from gymnast_core.station_file import open_station
from gymnast_core.workflows.room import Check, trials_on_record
from gymnast_core.workflows.transfer_config import TransferConfig
from gymnast_core.workflows.transfer_page import TABLE, in_words, write_transfer_page
from gymnast_core.workflows.transfer_practice import PlannedPractice, Practice, read_practice
from gymnast_core.workflows.transfer_recipe import TransferRecipe, read_recipes
from gymnast_core.workflows.transfer_result import PracticeRecord, TransferResult, Trials, tabulate

FAILURES_IN_A_ROW = 3
"""After this many practices in a row that ended with an error, the rest is not tried."""
FIXED = ("task", "split", "trials", "temperature")
"""Options that a benchmark keeps when it goes on; recipes and seeds may be added."""


def transfer(config: TransferConfig) -> int:
    """Run what is not done yet; 0 when all is done, 1 when time ended it or practices failed, 130 when interrupted.

    Raises: ConfigError, one line naming a recipe or an option; GymnastError when practices fail one after the other.
    """
    opened = open_station(config.config, device=config.device)
    if opened.config.simulation is None:
        raise ConfigError(f"{opened.path}: has no simulation section; the benchmark resets a simulated station")
    recipes = read_recipes(config.recipes, opened)
    for recipe in recipes:
        recipe.station.task(config.task)
        for model in (recipe.station.models.policy, recipe.station.models.world_model):
            find_model(model, opened.path)  # before hours of practice
    folder = Path(config.run or f"runs/benchmark_transfer/{datetime.now():%Y%m%d_%H%M%S}")
    earlier = folder / "config.yaml"
    if earlier.exists():
        then, now = dataclasses.asdict(load_config(TransferConfig, earlier)), dataclasses.asdict(config)
        refuse_other_options(folder, then, {name: now[name] for name in FIXED})
    run = RunFolder(folder, config, tensorboard=False)
    return Benchmark(config, recipes, run)()


class Benchmark:
    """The practices of a benchmark, one after another, and its table, which is written anew after each of them."""

    def __init__(self, config: TransferConfig, recipes: Sequence[TransferRecipe], run: RunFolder) -> None:
        self.config, self.run = config, run
        stations = {recipe.name: recipe.store(run.path / "recipes" / recipe.name) for recipe in recipes}
        self.planned = [  # recipes take turns: a benchmark that is cut short compares them all the same
            PlannedPractice(recipe, stations[recipe.name], frame_seed, seed)
            for frame_seed in dict.fromkeys(config.frame_seeds)
            for seed in dict.fromkeys(config.seeds)
            for recipe in recipes
        ]
        found = {one.name: read_practice(self._folder(one)) for one in self.planned}
        self.done: dict[str, PracticeRecord] = {name: record for name, record in found.items() if record is not None}
        self.failed: dict[str, str] = {}
        self.began = time.monotonic()
        self.took: list[float] = []
        """Seconds of each practice that this process has made, with its trials."""

    def __call__(self) -> int:
        """Make every practice that is not done; returns the exit code."""
        if self.done:
            say(f"{len(self.done)} of {len(self.planned)} practices are done already")
        code = 130
        try:
            with interrupts():
                code = self.practise()
        except KeyboardInterrupt:
            say(f"interrupted; resume with --run {self.run.path}")
        except BudgetSpent:
            code = 1
            say(f"{self.config.seconds:g} s are over; the same command goes on, with --run {self.run.path}", "yellow")
        self.publish()
        self.show()
        return code

    def practise(self) -> int:
        """The practices, with a bar. Raises: GymnastError, the error of the last of several that failed in a row."""
        in_a_row = 0
        with progress_bar() as bar:
            row = bar.add_task("practices", total=len(self.planned), completed=len(self.done), note="")
            for planned in self.planned:
                if planned.name in self.done:
                    continue

                def check(doing: str, name: str = planned.name) -> None:
                    if self.config.seconds is not None and time.monotonic() - self.began > self.config.seconds:
                        raise BudgetSpent
                    bar.update(row, note=f"{name}: {doing}; {self._left()}")

                began = time.monotonic()
                try:
                    record = self._one(planned, check)
                except GymnastError as error:
                    self.failed[planned.name] = " ".join(str(error).split())
                    say(f"{planned.name} failed: {self.failed[planned.name]}", "bold red")
                    in_a_row += 1
                    if in_a_row == FAILURES_IN_A_ROW:
                        raise
                    continue
                in_a_row = 0
                self.took.append(time.monotonic() - began)
                self.done[planned.name] = record
                bar.update(row, completed=len(self.done))
                self.publish()
                self.run.report_progress("practice", len(self.done), len(self.planned), practice=planned.name)
                say(f"{len(self.done)} of {len(self.planned)}: {planned.name}: {record.fate}; {self._left()}")
        return 1 if self.failed else 0

    def result(self) -> TransferResult:
        """What is done so far."""
        practices = tuple(self.done[one.name] for one in self.planned if one.name in self.done)
        bases: dict[str, dict[str, Trials]] = {}
        for name in dict.fromkeys(one.base for one in practices):
            below = self.run.path / "base" / name
            bases[name] = {path.name: trials_on_record(path) for path in sorted(below.iterdir())}
        return TransferResult(
            station=self.planned[0].station.config.name,
            task=self.config.task,
            split=self.config.split,
            resets=self.config.trials,
            temperature=self.config.temperature,
            planned=len(self.planned),
            rows=tabulate(self.config.task, practices, bases),
            practices=practices,
            bases=bases,
            failed=self.failed,
        )

    def publish(self) -> None:
        """Write result and page of what is done so far."""
        if self.done:
            result = self.result()
            self.run.write_result(result)
            write_transfer_page(self.run, result)

    def show(self) -> None:
        """Print what the table says of each recipe, and where it lies."""
        if not self.done:
            return
        for row in self.result().rows:
            say(in_words(row))
        say(f"report: {self.run.path / 'report.html'}; table: {self.run.path / TABLE}")

    def _one(self, planned: PlannedPractice, check: Check) -> PracticeRecord:
        return Practice(planned, self.config, self._folder(planned), self.run.path / "base", check)()

    def _folder(self, planned: PlannedPractice) -> Path:
        return self.run.path / "practices" / planned.name

    def _left(self) -> str:
        """How long the rest will take, in words, as long as practices of this process took."""
        if not self.took:
            return "time left not known yet"
        minutes = (len(self.planned) - len(self.done)) * sum(self.took) / len(self.took) / 60.0
        return f"about {minutes / 60.0:.1f} h left" if minutes > 90 else f"about {minutes:.0f} min left"
