"""`gymnast policy imagine`: trials of a policy in imagination, from frames alone, as World-Gymnast evaluates (its D.1).

From each start several rollouts with noise of their own, each with the votes of a judge and their majority. A rollout
without a verdict is counted apart: it is no failure. Rollouts from one start are no independent trials, so the standard
errors are over starts. (`gymnast world-model evaluate` measures the world model itself.)
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial

import numpy as np
from rich.table import Table

from gymnast_core.commands import gymnast, name_next
from gymnast_core.config import parse_config
from gymnast_core.errors import ConfigError, DataError
from gymnast_core.evaluation.imagined_config import ImaginePolicyConfig
from gymnast_core.evaluation.imagined_page import standing_of, write_imagined_page
from gymnast_core.evaluation.imagined_parts import Parts, made_with, open_parts, station_of
from gymnast_core.evaluation.imagined_result import (
    ImaginedResult,
    ImaginedRollout,
    figures,
    summarise_starts,
    summarise_task,
    summarise_tasks,
)
from gymnast_core.evaluation.imagined_starts import Beginning, criteria_of, gather
from gymnast_core.files import append_line, finite_or_none, read_json_lines
from gymnast_core.progress import console, interrupts, progress_bar, say
from gymnast_core.reporting.media import film_strip, write_picture, write_video
from gymnast_core.results import RESULT, read_result
from gymnast_core.reward.spending import spent_by
from gymnast_core.rollout.rollout import Rollout, RolloutOptions, run_rollouts
from gymnast_core.run_folder import RunFolder, refuse_other_options
from gymnast_core.seeds import derive_seed

ROLLOUTS = "rollouts.jsonl"
BATCHES = 4
"""Batches of rollouts between two records on disk: the judge looks at one while the next is imagined."""
STRIP = 8
"""Frames of a film strip."""
FPS = 5.0
"""Of a video: Bridge's rate."""

Planned = tuple[Beginning, int]
"""A start, and which of its rollouts."""


def imagine_policy(config: ImaginePolicyConfig) -> int:
    """Imagine what is not done yet; 0 when all is done, 130 when interrupted.

    Raises: ConfigError, CheckpointError, DataError, JudgeError.
    """
    station = station_of(config)
    side = station.config.camera.observation_size
    beginnings = gather(config.starts, config.frame, config.instruction, side, config.limit)
    folder = config.run or f"runs/imagined/{datetime.now():%Y%m%d_%H%M%S}"
    run = RunFolder(folder, config, tensorboard=False)
    parts = open_parts(config, station, run.path, criteria_of(beginnings))
    return ImaginedTrials(config, beginnings, parts, run)()


class ImaginedTrials:
    """The rollouts of one policy, portion by portion; each is on record before the next begins."""

    def __init__(
        self, config: ImaginePolicyConfig, beginnings: Sequence[Beginning], parts: Parts, run: RunFolder
    ) -> None:
        self.config, self.parts, self.run = config, parts, run
        self.horizon = config.horizon or parts.station.config.adaptation.horizon
        self.plan: list[Planned] = [(one, repeat) for repeat in range(config.repeats) for one in beginnings]
        self.facts = made_with(config, parts)
        self.records: list[ImaginedRollout] = []
        self._refuse_other_rollouts()
        self.records = self._on_record()

    def __call__(self) -> int:
        """All of them; the exit code."""
        self.run.write_result(self.result())  # says what the rollouts on record are made with
        code = 0
        try:
            with interrupts():
                self.roll_out()
        except KeyboardInterrupt:
            code = 130
            say(f"interrupted; the same command goes on with --run {self.run.path}")
        result = self.result()
        self.run.write_result(result)
        write_imagined_page(self.run, result, self.records, self.parts, self.config.confirm.describe())
        self.show(result)
        return code

    def roll_out(self) -> None:
        """The rollouts that are not on record, with a bar."""
        done = {(one.mark, one.repeat) for one in self.records}
        pending = [planned for planned in self.plan if (planned[0].mark, planned[1]) not in done]
        if done:
            say(f"{len(done)} of {len(self.plan)} rollouts are done already")
        batch, chunks = self.parts.environment.max_rollouts, math.ceil(self.horizon / self.parts.policy.chunk_length)
        with progress_bar() as bar:
            row = bar.add_task("imagining", total=len(self.plan), completed=len(done), note="")
            for begin in range(0, len(pending), batch * BATCHES):
                portion = pending[begin : begin + batch * BATCHES]
                share = len(portion) / (chunks * math.ceil(len(portion) / batch))
                self.keep(portion, self.imagine(portion, partial(bar.advance, row, share)))
                self.run.write_result(so_far := self.result())
                note = "" if so_far.overall.success is None else f"success {so_far.overall.success:.2f}"
                bar.update(row, completed=len(self.records), note=note)
                self.run.report_progress("imagine", len(self.records), len(self.plan))

    def imagine(self, portion: Sequence[Planned], tick: Callable[[], None]) -> list[Rollout]:
        """Judged rollouts; each depends on its start, its number and the seed alone. tick: called after each chunk."""
        starts = [
            dataclasses.replace(one.start, seed=derive_seed(self.config.seed, "imagined", one.mark, repeat))
            for one, repeat in portion
        ]
        seeds = [derive_seed(start.seed, "policy") for start in starts]
        options = RolloutOptions(
            self.horizon, self.config.temperature or None, stop_at_success=False, keep_frames=False, keep_video=True
        )
        parts = self.parts
        acting = (parts.policy, parts.environment, parts.judge)
        return run_rollouts(*acting, starts, seeds, options, tick, parts.confirm)

    def keep(self, portion: Sequence[Planned], rollouts: Sequence[Rollout]) -> None:
        """Put finished rollouts on record, with films of some of them."""
        path = self.run.path / ROLLOUTS
        for (one, repeat), rollout in zip(portion, rollouts, strict=True):
            verdict, completed = rollout.verdict, rollout.completed
            assert verdict is not None
            record = ImaginedRollout(
                mark=one.mark,
                repeat=repeat,
                source=one.source,
                instruction=one.start.instruction,
                score=finite_or_none(rollout.reward),
                completed=bool(completed) if math.isfinite(completed) else None,
                confidence=float(verdict.confidence),
                reason=verdict.reason,
                changed=round(rollout.changed_share, 4),
            )
            record = dataclasses.replace(record, film=self._film(record, rollout.video))
            self.records.append(record)
            append_line(path, json.dumps(dataclasses.asdict(record)), durable=one is portion[-1][0])

    def result(self) -> ImaginedResult:
        """What is on record so far."""
        config = self.config
        return ImaginedResult(
            policy=self.parts.policy_name,
            horizon=self.horizon,
            repeats=config.repeats,
            temperature=config.temperature,
            seed=config.seed,
            side=self.parts.station.config.camera.observation_size,
            made_with=self.facts,
            planned=len(self.plan),
            overall=summarise_task(self.records),
            tasks=summarise_tasks(self.records),
            starts=summarise_starts(self.records),
            run_folder=str(self.run.path),
        )

    def show(self, result: ImaginedResult) -> None:
        """Print the table, and where everything lies."""
        table = Table("instruction", "success", "standard error", "rollouts", "no verdict", "starts")
        for name, task in (*result.tasks.items(), ("all", result.overall)):
            table.add_row(name, *figures(task), str(task.rollouts), str(task.abstained), str(task.starts))
        console.print(table)
        if words := spent_by(self.parts.judge):
            say(words)
        for name in result.tasks:
            standing = standing_of(self.parts, self.horizon, name, self.config.confirm.describe())
            if standing.failed:
                told = ", ".join(standing.failed)
                say(f"warning: {name}: {told}: success in imagination says little", "yellow")
        say(f"report: {self.run.path / 'report.html'}")
        if result.complete:
            name_next(gymnast("policy correlate", imagined=self.run.path, real="EPISODES_OF_THIS_POLICY"))

    def _film(self, record: ImaginedRollout, video: np.ndarray | None) -> str:
        """Keep strip and video of the frames that the judge saw, where there are not enough of this kind yet."""
        kept = sum(
            one.film != "" and (one.instruction, one.kind) == (record.instruction, record.kind) for one in self.records
        )
        if video is None or not len(video) or kept >= self.config.films:
            return ""
        name = f"{record.mark}_{record.repeat}"
        strip = film_strip(video, STRIP, 112, record.value)
        write_picture(self.run.media(f"{name}.png"), strip)
        if len(video) > 1:
            write_video(self.run.media(f"{name}.mp4"), video, FPS)
        return name

    def _on_record(self) -> list[ImaginedRollout]:
        """Rollouts of the plan that were done before. Raises: DataError naming a line that holds none."""
        path = self.run.path / ROLLOUTS
        wanted = {(one.mark, repeat) for one, repeat in self.plan}
        try:
            records = [parse_config(ImaginedRollout, line, str(path)) for line in read_json_lines(path)]
        except ConfigError as error:
            raise DataError(str(error)) from error
        found = {(one.mark, one.repeat): one for one in records if (one.mark, one.repeat) in wanted}
        return list(found.values())

    def _refuse_other_rollouts(self) -> None:
        """Rollouts of two policies, world models or judges are not one result. Raises: ConfigError, what differs."""
        if not (self.run.path / RESULT).exists():
            return
        then, now = read_result(ImaginedResult, self.run.path), self.result()
        refuse_other_options(self.run.path, _decisive(then), _decisive(now))


def _decisive(result: ImaginedResult) -> dict[str, object]:
    """What decides a rollout besides its start, by name."""
    return {name: getattr(result, name) for name in ("horizon", "temperature", "seed", "side")} | result.made_with
