"""Canary trials: the robot has the last word, is seldom wrong, repeats no trial, and what it rolled back stays so."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gymnast_core.cli import main
from gymnast_core.config import CanaryConfig
from gymnast_core.data.outcome import ABORTED, FAILURE, SUCCESS
from gymnast_core.errors import CheckpointError, DataError, StationError
from gymnast_core.evaluation.canary import Canary, CanaryResult, pairs_of, plan_pairs
from gymnast_core.evaluation.canary_page import write_canary_page
from gymnast_core.evaluation.resets import ResetReport
from gymnast_core.evaluation.session import EpisodeOutcome, PlannedTrial, Tell, read_records
from gymnast_core.policy.adapter_state import Evidence, read_evidence, write_evidence
from gymnast_core.robot.strain import ArmStrain, StepStrain
from gymnast_core.seeds import derive_seed
from gymnast_core.sequential_test import PairedTest, log_wealth, simulate

CONFIG = CanaryConfig(trials=24, other_trials=0)


class CoinBench:
    """A robot on which a policy succeeds with a certain rate at each task, decided by reset and policy alone."""

    def __init__(self, rates: dict[tuple[str, str], float], holds: dict[str, int] | None = None) -> None:
        self.rates, self.holds = rates, holds or {}
        self.ran: list[PlannedTrial] = []
        self.faults: set[int] = set()
        self.dies_after = 10**9
        self.always_aborts: set[tuple[int, str]] = set()

    def check(self, tasks: Sequence[str]) -> None: ...

    def reset(self, task: str, seed: int) -> ResetReport:
        return ResetReport()

    def practise(self, task: str, seed: int, tell: Tell) -> str:
        raise AssertionError("a canary does not practise")

    def run(self, trial: PlannedTrial, max_steps: int, tell: Tell) -> EpisodeOutcome:
        if len(self.ran) == self.dies_after:
            raise KeyboardInterrupt
        self.ran.append(trial)
        if (trial.seed, trial.policy) in self.always_aborts:
            return EpisodeOutcome(ABORTED, message="a fault")
        chance = derive_seed("coin", trial.task, trial.seed, trial.policy) / 2**63
        success = chance < self.rates[trial.policy, trial.task]
        cost = [StepStrain((), ("overload",), 1.1)] * self.holds.get(trial.policy, 0) + [StepStrain(load=0.4)]
        return EpisodeOutcome(SUCCESS if success else FAILURE, 9).at_the_cost_of(cost)

    def truth(self, task: str) -> bool | None:
        return None


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    folder = tmp_path / "adapters" / "new"
    folder.mkdir(parents=True)
    (folder / "adapter.json").write_text(
        json.dumps({"base": "0" * 16, "rank": 4, "alpha": 4.0, "modules": ["language_model.x"], "task": "close"})
    )
    return folder


def canary(bench: CoinBench, adapter: Path, run: Path, config: CanaryConfig = CONFIG, seed: int = 0) -> CanaryResult:
    others = ["open"] if config.other_trials else []
    run.mkdir(exist_ok=True)
    return Canary(bench, config, "new", "close", others, adapter, run, seed)()


def rates(base: float, new: float, base_open: float = 0.95, new_open: float = 0.95) -> dict[tuple[str, str], float]:
    return {("base", "close"): base, ("new", "close"): new, ("base", "open"): base_open, ("new", "open"): new_open}


@pytest.mark.parametrize("rate", [0.05, 0.16, 0.5, 0.95])
def test_an_adapter_that_is_no_better_is_seldom_confirmed(rate: float) -> None:
    """The exact promise: at most alpha, whenever one stops; 10,000 runs of 60 pairs, looked at after every one."""
    found = simulate(rate, rate, 0.05, 60, 10_000, seed=1)
    assert found["better"] <= 0.05 and found["worse"] <= 0.05
    worse = simulate(min(1.0, rate + 0.04), rate, 0.05, 60, 10_000, seed=2)
    assert worse["better"] <= 0.05


def test_what_is_clearly_better_or_worse_is_found_within_a_dozen_pairs() -> None:
    better, worse = simulate(0.16, 0.9, 0.05, 24, 10_000), simulate(0.98, 0.25, 0.05, 24, 10_000)
    assert better["better"] > 0.99 and np.median(better["decided"]) <= 12
    assert worse["worse"] > 0.99 and np.median(worse["decided"]) <= 12


@given(st.integers(0, 40), st.integers(0, 40))
def test_the_wealth_is_a_fair_bet(wins: int, losses: int) -> None:
    """Under chances of one half the next pair leaves the mean of the wealth as it is: a martingale."""
    now = float(log_wealth(wins, wins + losses))
    won, lost = (float(log_wealth(wins + more, wins + losses + 1)) for more in (1, 0))
    assert np.logaddexp(won, lost) - np.log(2) == pytest.approx(now, abs=1e-6)
    assert float(log_wealth(0, 0)) == pytest.approx(0.0)


def test_trials_that_were_aborted_do_not_count(adapter: Path, tmp_path: Path) -> None:
    bench = CoinBench(rates(0.1, 0.95))
    first = plan_pairs("close", "new", 24, 0)[0]
    bench.always_aborts = {(first.seed, "new")}
    result = canary(bench, adapter, tmp_path / "run")
    assert result.void == 1 and result.state == "confirmed" and result.pairs >= 5
    assert result.strain == (0.0, 0.0) and read_evidence(adapter).state == "confirmed", "the evidence can be read back"


def test_better_confirms_worse_rolls_back_for_good_and_undecided_does_what_the_file_says(
    adapter: Path, tmp_path: Path
) -> None:
    result = canary(CoinBench(rates(0.1, 0.95)), adapter, tmp_path / "better")
    assert (result.verdict, result.state) == ("better", "confirmed") and result.pairs <= 14
    assert read_evidence(adapter).state == "confirmed"
    same = CoinBench(rates(0.5, 0.5))
    kept = dataclasses.replace(CONFIG, trials=6, undecided="adapter")
    assert canary(same, adapter, tmp_path / "same", kept).state == "imagined"
    assert canary(same, adapter, tmp_path / "again", dataclasses.replace(kept, undecided="base")).state == "rolled back"
    with pytest.raises(DataError, match="was rolled back; practise again"):
        canary(CoinBench(rates(0.1, 0.95)), adapter, tmp_path / "once_more")
    with pytest.raises(CheckpointError, match="which nothing undoes"):
        write_evidence(adapter, Evidence("confirmed"))


def test_worse_ends_the_trials_at_once(adapter: Path, tmp_path: Path) -> None:
    bench = CoinBench(rates(0.95, 0.05))
    result = canary(bench, adapter, tmp_path / "run")
    assert (result.verdict, result.state) == ("worse", "rolled back") and len(bench.ran) == 2 * result.pairs < 30


def test_another_task_that_falls_or_an_arm_that_suffers_rolls_back_what_is_better(
    adapter: Path, tmp_path: Path
) -> None:
    config = dataclasses.replace(CONFIG, other_trials=10)
    other = canary(CoinBench(rates(0.1, 0.95, 0.95, 0.1)), adapter, tmp_path / "other", config)
    assert (other.verdict, other.state) == ("better", "rolled back") and "success at 'open'" in other.reason
    assert other.others["open"] < -0.5 and other.trials == 2 * (other.pairs + other.void) + 20
    (adapter / "evidence.json").unlink()
    bench = CoinBench(rates(0.1, 0.95), holds={"base": 0, "new": 7})
    hard = canary(bench, adapter, tmp_path / "hard")
    assert (hard.verdict, hard.state) == ("better", "rolled back") and "harder on the arm: +7.0" in hard.reason
    assert hard.base_arm == ArmStrain(0, 0, 0, 0.4) and hard.adapter_arm == ArmStrain(7 * hard.pairs, 0, 0, 1.1)
    page = write_canary_page(tmp_path / "hard", CONFIG, hard, pairs_of(read_records(tmp_path / "hard" / "task"), "new"))
    assert "7.0 holds, 0.0 refused and 0.0 clipped actions per trial, peak load 110%" in page.read_text()


def test_a_canary_cut_short_repeats_no_trial(adapter: Path, tmp_path: Path) -> None:
    bench = CoinBench(rates(0.1, 0.95))
    bench.dies_after = 7
    with pytest.raises(KeyboardInterrupt):
        canary(bench, adapter, tmp_path / "run")
    assert read_evidence(adapter).state == "imagined" and len(read_records(tmp_path / "run" / "task")) == 7
    rest = CoinBench(rates(0.1, 0.95))
    result = canary(rest, adapter, tmp_path / "run")
    whole = canary(CoinBench(rates(0.1, 0.95)), adapter, tmp_path / "whole")
    figures = ("verdict", "pairs", "base_successes", "adapter_successes", "evidence_better")
    assert [getattr(result, name) for name in figures] == [getattr(whole, name) for name in figures]
    assert rest.ran[0] == plan_pairs("close", "new", 24, 0)[7], "it goes on in the middle of a pair"
    assert canary(CoinBench({}), adapter, tmp_path / "run") == result, "an ended canary runs nothing again"


def test_three_faults_in_a_row_leave_the_adapter_as_it_was(adapter: Path, tmp_path: Path) -> None:
    bench = CoinBench(rates(0.1, 0.9))
    bench.always_aborts = {(trial.seed, trial.policy) for trial in plan_pairs("close", "new", 24, 0)}
    with pytest.raises(StationError, match="3 trials in a row"):
        canary(bench, adapter, tmp_path / "run")
    assert read_evidence(adapter).state == "imagined"


def test_an_adapter_deleted_meanwhile_is_told(adapter: Path, tmp_path: Path) -> None:
    (adapter / "adapter.json").unlink()
    with pytest.raises(CheckpointError, match="the adapter is gone"):
        canary(CoinBench(rates(0.1, 0.95)), adapter, tmp_path / "run")


def test_the_list_says_how_far_each_adapter_has_come(adapter: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["adapter", "list", "--adapters", str(adapter.parent)]
    assert main(words) == 0 and "new  imagined, ungated  " in capsys.readouterr().out
    write_evidence(adapter, Evidence("rolled back", reason="worse"))
    assert main(words) == 0 and "new  rolled back  " in capsys.readouterr().out


def test_the_order_within_pairs_is_drawn_and_both_run_from_the_same_reset() -> None:
    plan = plan_pairs("close", "new", 200, 3)
    firsts = [trial.policy for trial in plan[::2]]
    assert 70 < firsts.count("base") < 130 and plan == plan_pairs("close", "new", 200, 3)
    assert all(one.seed == other.seed and one.policy != other.policy for one, other in zip(plan[::2], plan[1::2]))
    assert len({trial.seed for trial in plan}) == 200


def test_counts_are_those_of_the_pairs() -> None:
    test = PairedTest.of(0.05, [(0, 1), (1, 0), (1, 1), (0, 0), (float("nan"), 1)])
    assert (test.wins, test.losses, test.ties, test.void, test.pairs) == (1, 1, 2, 1, 4)
    assert test.verdict == "undecided" and "4 pairs, 1 void" in str(test)
