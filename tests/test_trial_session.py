"""A session of trials: every planned trial once, retries counted, faults told, and a session cut short goes on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pytest

from gymnast_core.data.outcome import ABORTED, FAILURE, SUCCESS, UNJUDGED
from gymnast_core.errors import DataError, StationError
from gymnast_core.evaluation.comparison_page import write_page_of_one
from gymnast_core.evaluation.resets import ResetReport
from gymnast_core.evaluation.session import (
    TRIALS_LOG,
    EpisodeOutcome,
    PlannedTrial,
    Tell,
    TrialSession,
    read_records,
    summarise,
)


class ScriptedBench:
    """A station whose episodes end as written: by seed, one outcome for each attempt."""

    def __init__(self, script: dict[int, list[int]], truth: bool | None = None) -> None:
        self.script = {seed: list(outcomes) for seed, outcomes in script.items()}
        self._truth = truth
        self.done: list[tuple[str, int, str]] = []
        self.dies_at = -1
        self.judge_is_dead = False

    def check(self, tasks: Sequence[str]) -> None:
        if self.judge_is_dead:
            raise StationError(f"no trial begins, the judge does not answer about {', '.join(tasks)}")

    def reset(self, task: str, seed: int) -> ResetReport:
        self.done.append(("reset", seed, task))
        return ResetReport(2, "station", ("the drawer is stuck",), 1.25)

    def practise(self, task: str, seed: int, tell: Tell) -> str:
        self.done.append(("practise", seed, task))
        return f"adapter_{seed}"

    def run(self, trial: PlannedTrial, max_steps: int, tell: Tell) -> EpisodeOutcome:
        if trial.seed == self.dies_at:
            raise KeyboardInterrupt
        self.done.append(("run", trial.seed, trial.policy))
        return EpisodeOutcome(self.script[trial.seed].pop(0), 5, message="as written", events={"holding": 2})

    def truth(self, task: str) -> bool | None:
        return self._truth


def plan(count: int, policy: str = "base") -> list[PlannedTrial]:
    return [PlannedTrial("open", seed, policy) for seed in range(count)]


def test_a_fault_is_tried_again_once_and_the_reset_with_it(tmp_path: Path) -> None:
    bench = ScriptedBench({0: [ABORTED, SUCCESS], 1: [FAILURE], 2: [UNJUDGED]})
    records = TrialSession(bench, plan(3), tmp_path)()
    assert [(record.outcome, record.attempts) for record in records] == [(SUCCESS, 2), (FAILURE, 1), (UNJUDGED, 1)]
    assert [what for what, seed, _ in bench.done if seed == 0] == ["reset", "run"] * 2
    result = summarise(records, 3, tmp_path, "base")
    assert (result.successes, result.abstentions, result.success_rate) == (1, 1, 0.5) and result.success
    assert result.events == {"holding": 6}, "what was hard on the arm is counted"
    assert json.loads((tmp_path / "result.json").read_text())["outcomes"] == ["success", "failure", "unjudged"]


def test_a_judge_that_does_not_answer_ends_the_session_before_the_arm_moves(tmp_path: Path) -> None:
    bench = ScriptedBench({0: [SUCCESS]})
    bench.judge_is_dead = True
    with pytest.raises(StationError, match="no trial begins, the judge does not answer about open"):
        TrialSession(bench, plan(1), tmp_path)()
    assert not bench.done and not read_records(tmp_path)
    bench.judge_is_dead = False
    TrialSession(bench, plan(1), tmp_path)()
    bench.judge_is_dead = True  # nobody need answer where nothing is left to try
    assert len(TrialSession(bench, plan(1), tmp_path)()) == 1


def test_what_resets_took_stands_with_each_trial_and_files_of_before_are_read(tmp_path: Path) -> None:
    bench = ScriptedBench({0: [ABORTED, SUCCESS], 1: [FAILURE]})
    records = TrialSession(bench, plan(2), tmp_path)()
    assert records[0].reset == ResetReport(4, "station", ("the drawer is stuck",) * 2, 2.5)
    assert read_records(tmp_path) == records
    page = write_page_of_one(tmp_path, "lab", "base", "open", 2, records).read_text()
    assert "2 by station; 2 of 2 needed more than one attempt; mean 1.9 s" in page
    assert "station, 4 attempts, 2.5 s" in page and "reset: the drawer is stuck" in page
    older = [{name: value for name, value in asdict(record).items() if name != "reset"} for record in records]
    (tmp_path / TRIALS_LOG).write_text("".join(json.dumps(line) + "\n" for line in older))
    again = read_records(tmp_path)
    assert [record.reset for record in again] == [ResetReport()] * 2
    assert "more than one attempt" not in write_page_of_one(tmp_path, "lab", "base", "open", 2, again).read_text()


def test_three_faults_in_a_row_end_the_session_with_what_was_said(tmp_path: Path) -> None:
    bench = ScriptedBench({seed: [ABORTED] * 2 for seed in range(9)})
    session = TrialSession(bench, plan(9), tmp_path)
    with pytest.raises(StationError, match="3 trials in a row were stopped by a fault: as written"):
        session()
    assert len(read_records(tmp_path)) == 3 and not summarise(session.records, 9, tmp_path, "base").success


def test_a_session_cut_short_repeats_no_trial_and_loses_none(tmp_path: Path) -> None:
    script = {seed: [SUCCESS if seed % 2 else FAILURE] for seed in range(6)}
    bench = ScriptedBench(script)
    bench.dies_at = 3
    with pytest.raises(KeyboardInterrupt):
        TrialSession(bench, plan(6), tmp_path)()
    with open(tmp_path / TRIALS_LOG, "a") as log:
        log.write('{"trial": 3, "se')  # the process died while it wrote
    again = ScriptedBench(script)
    records = TrialSession(again, plan(6), tmp_path)()
    assert [record.seed for record in records] == list(range(6))
    assert {seed for what, seed, _ in again.done if what == "run"} == {3, 4, 5}
    assert [record.seed for record in read_records(tmp_path)] == list(range(6)), "also on the disk"
    with pytest.raises(DataError, match="is of seed 0 and policy base, the plan has seed 0 and policy other"):
        TrialSession(again, plan(6, "other"), tmp_path)


def test_the_stations_truth_outranks_the_judge(tmp_path: Path) -> None:
    records = TrialSession(ScriptedBench({0: [SUCCESS]}, truth=False), plan(1), tmp_path)()
    assert records[0].outcome == FAILURE and records[0].truth is False


def test_a_session_can_practise_before_each_trial_and_end_when_enough_is_known(tmp_path: Path) -> None:
    bench = ScriptedBench({seed: [SUCCESS] for seed in range(9)})
    enough = lambda records: "clear" if len(records) == 2 else ""  # noqa: E731
    session = TrialSession(bench, plan(9, "practise"), tmp_path, until=enough)
    assert [record.policy for record in session()] == ["adapter_0", "adapter_1"] and session.stopped_by == "clear"
