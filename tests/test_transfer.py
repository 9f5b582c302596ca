"""The transfer benchmark counts what it promises, repeats nothing that is finished, and refuses what it cannot vary."""

from __future__ import annotations

import dataclasses
import html
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from gymnast_core.cli import main
from gymnast_core.data.episode import read_episode
from gymnast_core.reporting.report import Points, Scatter
from gymnast_core.reporting.scatter import scatter_svg
from gymnast_core.results import read_result
from gymnast_core.rl.adapt_result import AdaptResult
from gymnast_core.station_file import open_station
from gymnast_core.workflows.transfer_page import imagined_against_real
from gymnast_core.workflows.transfer_recipe import read_recipes
from gymnast_core.workflows.transfer_result import CanaryRecord, PracticeRecord, TransferResult, Trials, tabulate
from tests.machine import HANG_S, overdue
from tests.options import in_place
from tests.processes import wait_for
from tests.tiny_station import build_tiny_station

N = 100
CLOSE, OPEN = "close", "open"


def trials(successes: int, strain: float = 0.0) -> Trials:
    return Trials((1,) * successes + (0,) * (N - successes), (strain, strain / 2) * (N // 2))


BASES = {"b": {CLOSE: trials(16), OPEN: trials(98)}}


def practice(
    close: int = 16,
    open_: int = 98,
    accepted: bool = True,
    canary: tuple[str, str, int] | None = None,
    strain: float = 0.0,
    recipe: str = "one",
    seed: int = 0,
    adapter: str = "a",
) -> PracticeRecord:
    """canary: verdict, state, pairs."""
    tried = {CLOSE: trials(close, strain), OPEN: trials(open_)} if adapter else {}
    said = CanaryRecord(canary[0], canary[1], "", canary[2], 0, 2 * canary[2] + 16) if canary else None
    return PracticeRecord(
        recipe, 0, seed, "b", adapter, accepted, "", 0.1, 1.0, 10, 10, "iterations", 120.0, 1, tried, said
    )  # fmt: skip


BETTER, WORSE = ("better", "confirmed", 6), ("worse", "rolled back", 8)


def test_adapters_are_counted_by_what_they_are_worth_on_the_station() -> None:
    records = [
        practice(100, canary=BETTER),
        practice(96, canary=("undecided", "rolled back", 16)),  # a false roll-back
        practice(90, 60, canary=("better", "rolled back", 5)),  # good, but the other task really fell
        practice(80, strain=3.0, canary=("better", "rolled back", 7)),  # good, but the arm suffers
        practice(40, accepted=False, canary=BETTER),  # good, refused by the gate
        practice(3, canary=WORSE),  # bad: caught by the canary
        practice(9, accepted=False, canary=WORSE),  # bad: caught by both
        practice(12, 92, canary=("better", "confirmed", 9)),  # bad: caught by neither
        practice(16, canary=("undecided", "imagined", 16)),  # as good as the base: not bad
        practice(adapter=""),  # no update was made
    ]
    (row,) = tabulate(CLOSE, [dataclasses.replace(one, seed=k) for k, one in enumerate(records)], BASES)
    assert (row.practices, row.adapters, row.base) == (10, 9, 0.16)
    assert (row.bad, row.gate_caught, row.canary_caught, row.caught_by_neither) == (3, 1, 2, 1)
    assert (row.good, row.refused_good, row.rolled_back_good, row.false_rollbacks) == (6, 1, 3, 1)
    assert (row.canaries, row.undecided, row.pairs_to_decide) == (9, 2, 8)
    assert (row.frames, row.canary_trials, row.seconds, row.updates) == (
        10,
        sum(2 * p + 16 for p in (6, 16, 5, 7, 6, 8, 8, 9, 16)),
        120,
        10,
    )
    practised, gated, acting = row.practised, row.gated, row.acting
    assert practised.mean == pytest.approx((100 + 96 + 90 + 80 + 40 + 3 + 9 + 12 + 16 + 16) / 1000)
    assert (practised.worst, practised.below_base) == (0.03, pytest.approx(0.3))
    assert gated.mean == pytest.approx((100 + 96 + 90 + 80 + 16 + 3 + 16 + 12 + 16 + 16) / 1000)
    assert acting.mean == pytest.approx((100 + 12 + 8 * 16) / 1000) and acting.worst == 0.12
    assert acting.below_base == pytest.approx(0.1), "one bad adapter acts in the end"
    assert practised.others_worst == pytest.approx(-0.38) and acting.others_worst == pytest.approx(-0.06)
    assert practised.strain == pytest.approx(2.25 / 10) and acting.strain == 0


def test_recipes_are_compared_over_equal_frames_and_seeds() -> None:
    ones = [practice(40 + 10 * k, seed=k) for k in range(3)]
    twos = [practice(60 + 10 * k, seed=k, recipe="two") for k in range(2)]
    one, two = tabulate(CLOSE, [*ones, *twos], BASES)
    assert (one.change, two.change, two.change_error) == (0.0, pytest.approx(0.2), pytest.approx(0.0))
    assert one.pairs_to_decide is None and one.canaries == 0


@given(
    st.lists(
        st.builds(
            practice,
            st.integers(0, N),
            st.integers(0, N),
            st.booleans(),
            st.none()
            | st.tuples(st.just("worse"), st.sampled_from(("imagined", "confirmed", "rolled back")), st.just(3)),
            st.sampled_from((0.0, 2.0)),
            adapter=st.sampled_from(("a", "")),
        ),
        min_size=1,
        max_size=30,
    )
)
def test_nothing_is_counted_twice_or_lost(records: list[PracticeRecord]) -> None:
    (row,) = tabulate(CLOSE, records, BASES)
    assert row.bad + row.good == row.adapters <= row.practices == len(records)
    assert round(row.practised.below_base * row.practices) == row.bad
    assert round(row.acting.below_base * row.practices) == row.caught_by_neither
    assert row.bad - row.caught_by_neither <= row.gate_caught + row.canary_caught
    assert row.false_rollbacks <= row.rolled_back_good <= row.good
    found = TransferResult("s", CLOSE, "choose", N, 0.0, len(records), (row,), tuple(records), BASES, {})  # type: ignore[arg-type]
    drawn = imagined_against_real(found)
    assert sum(len(points.x) for points in drawn.points) == row.adapters


@pytest.fixture(scope="module")
def station(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A simulated station of which a practice takes seconds; its judge is hard enough for a start of the station."""
    path = build_tiny_station(tmp_path_factory.mktemp("tiny"), simulated=True)
    file = path.parent / "judge" / "judge.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "threshold": 0.536}))
    content = yaml.safe_load(path.read_text())
    content["judge"]["checkpoint"] = "judge"  # beside the station file, which practices read from elsewhere
    content["canary"] = {"trials": 2, "other_trials": 1}
    path.write_text(yaml.safe_dump(content))
    return path


def words_of(station: Path, run: Path, *more: str, recipes: tuple[str, ...] = ("default",)) -> list[str]:
    """more: options beside these, or in their place."""
    words = ["--task", "close_drawer", "--config", str(station), "--run", str(run), "--trials", "2"]
    return ["benchmark", "transfer", *in_place([*words, "--frame-seeds", "0", "--recipes", *recipes], more)]


def lines_of(run: Path, name: str, phase: str) -> int:
    """How often a practice has reported a phase."""
    progress = run / "practices" / name / "adapt" / "progress.jsonl"
    return progress.read_text().count(f'"phase": "{phase}"') if progress.exists() else 0


def interrupt_at(reached: Callable[[], bool]) -> threading.Thread:
    """Ctrl-C for this process as soon as something is reached."""

    def wait() -> None:
        began = time.monotonic()
        while not reached() and not overdue(150.0, began):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def without_names(record: PracticeRecord) -> PracticeRecord:
    """What two practices with the same settings have in common: all but names and the clock."""
    canary = record.canary and dataclasses.replace(record.canary, reason="")
    return dataclasses.replace(
        record, recipe="", adapter=str(bool(record.adapter)), message="", seconds=0.0, canary=canary
    )


def test_a_practice_killed_and_interrupted_comes_to_the_same_and_nothing_is_repeated(
    station: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two recipes with the same settings: the one's practice runs through, the other's is cut twice."""
    run = tmp_path / "run"
    same = "frames=2,rehearsal_frames=1,rehearsal_episodes=1,consolidation_steps=3,iterations=3"
    words = words_of(station, run, "--seeds", "0", recipes=(f"whole:{same}", f"cut:{same}"))
    whole, cut = "whole/frames_0_seed_0", "cut/frames_0_seed_0"
    assert main([*words, "--seconds", "0.001"]) == 1 and not (run / "practices" / whole / "adapt").exists()

    command = [sys.executable, "-m", "gymnast_core.cli", *words]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    wait_for(lambda: lines_of(run, cut, "train"), 150.0, process)
    process.kill()
    process.communicate(timeout=HANG_S)
    kept = {path: path.stat().st_mtime_ns for path in (run / "practices" / whole).rglob("*") if path.is_file()}
    base = {path: path.read_bytes() for path in (run / "base").rglob("*.jsonl")}
    assert run / "practices" / whole / "practice.json" in kept and len(base) == 2
    capsys.readouterr()
    pressing = interrupt_at(lambda: lines_of(run, cut, "before") == 2)
    assert main(words) == 130 and "resume with --run" in capsys.readouterr().err
    pressing.join()
    assert lines_of(run, cut, "interrupted"), "the practice kept its checkpoint and said so"
    assert main(words) == 0
    assert {path: path.stat().st_mtime_ns for path in kept} == kept, "a finished practice was touched"
    assert {path: path.read_bytes() for path in base} == base, "the base was tried again"

    result = read_result(TransferResult, run)
    first, second = result.practices
    assert without_names(first) == without_names(second)
    assert first.adapter and first.updates == 3 and first.canary is not None and first.frames == 3
    assert set(first.trials) == {"close_drawer", "open_drawer"} and len(first.trials["close_drawer"].successes) == 2
    names = {"recipe": "", "seconds": 0.0}
    assert dataclasses.replace(result.rows[0], **names) == dataclasses.replace(result.rows[1], **names)
    ends = [read_result(AdaptResult, run / "practices" / name / "adapt").consolidated for name in (whole, cut)]
    logged = run / "practices" / whole / "rehearsal" / "open_drawer"
    pictures = max(read_episode(one).length for one in logged.iterdir() if (one / "episode.json").is_file())
    assert ends[0] == ends[1] and f"of {pictures} logged pictures" in ends[0]
    used = yaml.safe_load((run / "practices" / cut / "adapt" / "config.yaml").read_text())
    assert used["iterations"] == 3 and len(used["frame"]) == 2 and used["rehearsal"].endswith(f"{cut}/rehearsal")
    assert "<svg" in (run / "report.html").read_text() and "| cut | 1 |" in (run / "table.md").read_text()
    assert (run / "media" / "transfer.svg").read_text().startswith("<svg xmlns")


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        ("nowhere.yaml", "'nowhere.yaml': no such file; needed default, a YAML file, or NAME:KEY=VALUE"),
        ("one:learning_rat=1e-4", "recipe 'one': unknown field 'learning_rat'; did you mean learning_rate?"),
        ("one:canary.trial=3", "recipe 'one': unknown field 'canary.trial'"),
        ("one:frames=0", "recipe 'one': frames: found 0; Input should be greater than or equal to 1"),
        ("one:seed=3", "recipe 'one': seed: the benchmark decides it for every practice"),
        ("one:validation_rollouts=many", "recipe 'one': validation_rollouts: found 'many'"),
        ("one:learning_rate=0", "learning_rate: found 0"),
        ("one:rehearsal=there,rehearsal_frames=2", "found rehearsal and rehearsal_frames; needed one of them"),
        ("one:frames", "found 'frames', needed KEY=VALUE"),
        ("../one:frames=1", "a name has letters, digits"),
        ("one:from=nowhere.yaml", "nowhere.yaml: no such config file"),
        ("one:models.world_model=nowhere", "model 'nowhere' not found"),
    ],
)
def test_a_recipe_that_cannot_be_is_one_line_and_leaves_no_folder(
    station: Path, tmp_path: Path, recipe: str, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words_of(station, tmp_path / "run", recipes=(recipe,))) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and expected in said[0], said
    assert not (tmp_path / "run").exists()


def test_options_that_cannot_be_are_refused(station: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"

    def refusal(*more: str, recipes: tuple[str, ...] = ("default",)) -> str:
        assert main(words_of(station, run, *more, recipes=recipes)) == 2
        return capsys.readouterr().err.strip().splitlines()[-1]

    assert "unknown task 'fly'" in refusal("--task", "fly")
    assert "frame_seeds" in refusal("--frame-seeds")
    assert "found 'one' twice" in refusal(recipes=("one:frames=1", "one:frames=2"))
    assert "has no simulation section" in refusal("--config", "bridge_widowx")
    assert not run.exists()
    assert main(words_of(station, run, "--seconds", "0.001", recipes=("one:frames=1",))) == 1
    capsys.readouterr()
    assert "holds a run with trials 2, found 3" in refusal("--trials", "3")
    assert "holds a run with frames 1, found 2" in refusal(recipes=("one:frames=2",))


def test_a_practice_that_fails_is_told_and_tried_again(
    station: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    words = words_of(station, run, "--seeds", "0", recipes=("one:judge.checkpoint=nowhere",))
    assert main(words) == 1
    assert "one/frames_0_seed_0 failed: " in (said := capsys.readouterr().err) and "'nowhere' not found" in said
    assert not list(run.rglob("practice.json")) and not (run / "result.json").exists()


def test_one_language_varies_every_setting_of_a_practice(station: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("frames: 4\nadaptation: {iterations: 7}\nlearning_rate: 2.0e-4\nvalidation_rollouts: 0\n")
    opened = open_station(str(station))
    mine, other = read_recipes((str(file), f"other:from={file},canary.trials=5,frames=2"), opened)
    assert (mine.name, mine.captures.frames, mine.station.adaptation.iterations) == ("mine", 4, 7)
    assert (mine.grpo.learning_rate, mine.grpo.group_size, mine.options) == (2e-4, 6, {"validation_rollouts": 0})
    assert (other.captures.frames, other.station.canary.trials, other.grpo.learning_rate) == (2, 5, 2e-4)
    assert mine.station.judge.checkpoint == str(station.parent / "judge"), "what lies beside the station file is found"
    (shipped,) = read_recipes((str(Path(opened.config.adaptation.recipe)),), opened)
    assert shipped.name == "recipe" and shipped.grpo.lora_rank == 2, "a GRPO recipe is a recipe here, too"


@given(st.lists(st.tuples(st.floats(), st.floats()), max_size=20), st.floats(), st.text(max_size=20))
def test_a_scatter_draws_shares_and_leaves_the_rest_out(
    places: list[tuple[float, float]], level: float, label: str
) -> None:
    x, y = (tuple(place[axis] for place in places) for axis in (0, 1))
    drawn = scatter_svg(Scatter("t", "x", label, (Points(label, x, y, "ring"),), ((label, level),)), alone=True)
    shares = sum(0 <= a <= 1 and 0 <= b <= 1 for a, b in places)
    assert drawn.count("<circle") == shares + 1, "one is the legend's"
    assert "nan" not in drawn.replace(html.escape(label), "") and "inf" not in drawn.replace(html.escape(label), "")
