"""Comparisons of policies: the same resets for all, intervals that keep what they promise, an end when it is clear."""

from __future__ import annotations

import math
from collections import Counter

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gymnast_core.data.outcome import ABORTED, FAILURE, SUCCESS, UNJUDGED
from gymnast_core.estimates import independent_interval, paired_interval, success_rate, wilson_interval
from gymnast_core.evaluation.camera_view import compare_views
from gymnast_core.evaluation.comparison import ComparisonPlan, compare, gap_between, is_clear, tried_of
from gymnast_core.evaluation.session import PlannedTrial, TrialRecord, trial_name
from tests.tiny_station import picture

NAMES = ("base", "lab_open_1", "ws://lab:8000", "models/mine")
plans = st.builds(
    ComparisonPlan,
    policies=st.integers(1, 4).map(lambda count: NAMES[:count]),
    tasks=st.sampled_from([("open",), ("open", "close")]),
    trials=st.integers(1, 6),
    repeats=st.integers(1, 3),
    seed=st.integers(0, 2**40),
)
outcomes = st.sampled_from([FAILURE, SUCCESS, UNJUDGED, ABORTED])


def record(number: int, planned: PlannedTrial, outcome: int) -> TrialRecord:
    return TrialRecord(number, planned.seed, planned.policy, outcome, None, None, 9, 1.0, "", "", planned.task)


@given(plans)
def test_every_policy_is_tried_once_from_every_reset_before_the_next_reset(plan: ComparisonPlan) -> None:
    planned = plan.trials_in_order()
    count = len(plan.policies)
    rounds = [planned[first : first + count] for first in range(0, len(planned), count)]
    assert len(rounds) == plan.trials * plan.repeats * len(plan.tasks)
    for one in rounds:
        assert {trial.policy for trial in one} == set(plan.policies)
        assert len({(trial.task, trial.seed) for trial in one}) == 1
    assert len({(one[0].task, one[0].seed) for one in rounds}) == len(rounds), "no reset twice"
    longer = ComparisonPlan(plan.policies, plan.tasks, plan.trials + 2, plan.repeats, plan.seed)
    assert longer.trials_in_order()[: len(planned)] == planned, "a longer comparison begins with the shorter one"


def test_the_order_of_policies_is_drawn() -> None:
    planned = ComparisonPlan(NAMES[:3], ("open",), 600).trials_in_order()
    orders = Counter(tuple(trial.policy for trial in planned[first : first + 3]) for first in range(0, 1800, 3))
    assert len(orders) == 6 and min(orders.values()) > 60, orders


@given(plans, st.data())
def test_figures_are_those_of_the_trials_and_a_gap_turned_round_is_its_opposite(
    plan: ComparisonPlan, data: st.DataObject
) -> None:
    planned = plan.trials_in_order()
    drawn = data.draw(st.lists(outcomes, max_size=len(planned)))
    records = [record(number, planned[number], outcome) for number, outcome in enumerate(drawn)]
    tried = tried_of(plan, records)
    result = compare(plan, tried, "lab", "run")
    whole = [rate for rate in result.rates if rate.task == ("" if len(plan.tasks) > 1 else plan.tasks[0])]
    assert sum(rate.trials + rate.uncounted for rate in whole) == len(records) == result.done
    assert sum(rate.successes for rate in whole) == drawn.count(SUCCESS)
    assert result.success == (len(records) == len(planned))
    for rate in result.rates:
        assert (rate.rate is None) == (rate.interval is None) == (rate.trials == 0)
        if rate.interval is not None and rate.rate is not None:
            assert 0 <= rate.interval[0] <= rate.rate + 1e-9 and rate.rate - 1e-9 <= rate.interval[1] <= 1
    for gap in result.gaps:
        back = gap_between(gap.policy, gap.reference, gap.task, gap.alpha, tried)
        assert (gap.pairs, gap.void, gap.wins, gap.losses) == (back.pairs, back.void, back.losses, back.wins)
        assert (gap.evidence_better, gap.evidence_worse) == (back.evidence_worse, back.evidence_better)
        if gap.mean is not None and back.mean is not None and gap.interval and back.interval:
            assert gap.mean == pytest.approx((gap.wins - gap.losses) / gap.pairs) == -back.mean
            assert gap.interval == pytest.approx((-back.interval[1], -back.interval[0]))
            assert gap.interval[0] < gap.interval[1], "pairs that are all alike are not certain"


@pytest.mark.parametrize(("first", "second", "n"), [(0.1, 0.1, 20), (0.2, 0.8, 20), (0.9, 0.95, 50), (0.5, 0.4, 50)])
def test_intervals_cover_what_they_estimate(first: float, second: float, n: int) -> None:
    generator = np.random.default_rng(4)
    runs = 500
    shared = generator.random((runs, n))  # outcomes of one reset go together, as on a station
    before = ((shared < first) ^ (generator.random((runs, n)) < 0.1)).astype(float)
    after = ((shared < second) ^ (generator.random((runs, n)) < 0.1)).astype(float)
    rates = [0.9 * rate + 0.1 * (1 - rate) for rate in (first, second)]
    covered = Counter[str]()
    for one, other in zip(before, after):
        for name, found, truth in (
            ("paired", paired_interval(one, other), rates[1] - rates[0]),
            ("independent", independent_interval(one, generator.permutation(other)), rates[1] - rates[0]),
        ):
            assert found is not None
            covered[name] += found[0] <= truth <= found[1]
    assert min(covered.values()) / runs >= 0.92, covered


def test_wilsons_interval_is_that_of_the_books() -> None:
    assert wilson_interval([1.0] * 8 + [0.0] * 2 + [math.nan]) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson_interval([1.0] * 10) == pytest.approx((0.7225, 1.0), abs=1e-4)
    assert wilson_interval([math.nan]) is None and success_rate([]).n == 0


def test_it_is_clear_when_each_further_policy_is_better_or_worse_and_three_tests_share_one_alpha() -> None:
    plan = ComparisonPlan(("base", "a", "b", "c"), ("open",), 40)
    planned = plan.trials_in_order()
    success = {"base": False, "a": True, "b": True, "c": True}
    records = [record(k, trial, SUCCESS if success[trial.policy] else FAILURE) for k, trial in enumerate(planned)]
    ends = [count for count in range(len(records)) if is_clear(plan, tried_of(plan, records[:count]))]
    alone = ComparisonPlan(("base", "a"), ("open",), 40)
    pair = [one for one in records if one.policy in alone.policies]
    planned_alone = [
        record(k, t, SUCCESS if success[t.policy] else FAILURE) for k, t in enumerate(alone.trials_in_order())
    ]
    ends_alone = [count for count in range(len(pair)) if is_clear(alone, tried_of(alone, planned_alone[:count]))]
    assert ends and ends_alone and ends[0] // 4 > ends_alone[0] // 2, "more policies need more resets"
    assert plan.alpha_of_one == pytest.approx(plan.alpha / 3)
    told = is_clear(plan, tried_of(plan, records))
    assert told == "clear: a is better, b is better, c is better than base"
    assert not is_clear(ComparisonPlan(("base",), ("open",), 9), [])


@given(st.sampled_from(NAMES), st.sampled_from(NAMES), st.integers(0, 2**31 - 1))
def test_a_trials_folder_is_named_by_it_alone(one: str, other: str, seed: int) -> None:
    names = [trial_name(PlannedTrial("open", seed, policy)) for policy in (one, other)]
    assert (names[0] == names[1]) == (one == other)
    assert all("/" not in name and ":" not in name for name in names)
    assert trial_name(PlannedTrial("open", 7, "models/mine")) != trial_name(PlannedTrial("open", 7, "models_mine"))


@given(st.integers(-9, 9), st.integers(-9, 9))
def test_a_camera_that_was_moved_is_seen_and_one_that_was_not_is_not(across: int, down: int) -> None:
    scene = np.kron(np.random.default_rng(3).integers(30, 220, (24, 24, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    change = compare_views(scene, np.roll(scene, (down, across), (0, 1)))
    assert change.shift * 192 == pytest.approx(math.hypot(across, down), abs=0.6)
    assert change.same == (math.hypot(across, down) < 1.9)
    dimmer = compare_views(scene, (scene * 0.96).astype(np.uint8))
    assert dimmer.same and compare_views(picture(0), picture(1)).same is False


@pytest.mark.parametrize("turned, nearer", [(2.5, 1.0), (-2.5, 1.0), (0.0, 1.05), (0.0, 0.95)])
def test_a_camera_that_was_turned_or_brought_nearer_is_seen_by_the_parts_of_its_picture(
    turned: float, nearer: float
) -> None:
    generator = np.random.default_rng(5)
    small = generator.integers(30, 220, (9, 12, 3)).astype(np.uint8)
    scene = cv2.resize(small, (384, 288), interpolation=cv2.INTER_NEAREST)
    later = scene.copy()
    later[150:250, 40:140] = 90  # a thing was put there
    noisy = np.clip(later + generator.normal(0, 3, later.shape), 0, 255).astype(np.uint8)
    alone = compare_views(scene, noisy)
    assert not alone.problems(0.01, 40.0) and alone.recognised >= 6 and alone.textured == 9
    turn = cv2.getRotationMatrix2D((192, 144), turned, nearer)
    change = compare_views(scene, cv2.warpAffine(noisy, turn, (384, 288), borderMode=cv2.BORDER_REFLECT))
    assert 0.01 < change.parts < 0.03 and change.recognised >= 5 and change.problems(0.01, 40.0)
    assert compare_views(scene, scene[::-1, ::-1]).problems(0.01, 40.0)
    noise = generator.integers(0, 255, scene.shape).astype(np.uint8)
    assert "of 9 parts of the picture are recognised" in compare_views(scene, noise).problems(0.5, 255.0)[0]
    dark = compare_views(scene, (scene * 0.5).astype(np.uint8))
    assert dark.problems(0.01, 40.0)[0].startswith("darker by ") and dark.known
    assert not dark.problems(0.01, 120.0)
