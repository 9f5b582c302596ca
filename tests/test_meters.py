"""Meters of hallucination: what they read, how they are calibrated, and what becomes of rollouts above the limit."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gymnast_core.errors import CheckpointError
from gymnast_core.estimates import area_under_curve
from gymnast_core.protocols import Start, Verdict
from gymnast_core.rollout.confirmation_config import ConfirmationConfig
from gymnast_core.rollout.open import open_imagination
from gymnast_core.rollout.rollout import RolloutOptions, run_rollouts
from gymnast_core.simulation.environment import StationEnvironment
from gymnast_core.station_file import open_station
from gymnast_core.world_model.checkpoint import load_world_model
from gymnast_core.world_model.environment import WorldModelEnvironment
from gymnast_core.world_model.fidelity import meter_limits, read_fidelity, sampling_of, write_fidelity
from gymnast_core.world_model.imagine import Imagination
from gymnast_core.world_model.meters import (
    INSTABILITY,
    MOST_DOUBTED,
    ROUND_TRIP,
    MeterFigure,
    calibrate_meter,
    read_meters,
    spread,
)
from tests.point_world import PointJudge, PointPolicy

readings = arrays(np.float64, st.integers(2, 60), elements=st.floats(0, 10, allow_nan=False, width=16))


@given(readings, st.integers(0, 2**16))
def test_a_limit_doubts_at_most_a_tenth_and_never_costs_agreement(values: np.ndarray, seed: int) -> None:
    differed = np.random.default_rng(seed).random(len(values)) < values / 12
    area = area_under_curve(values, differed)
    pairs = [(a > b) + (a == b) / 2 for a in values[differed] for b in values[~differed]]
    assert area.mean == pytest.approx(np.mean(pairs)) if pairs else np.isnan(area.mean)
    figure = calibrate_meter(values, differed)
    if figure.limit is None:
        return
    within = values <= figure.limit
    assert 1 - within.mean() == pytest.approx(figure.doubted) and figure.doubted <= MOST_DOUBTED + 1e-9
    assert (~differed[within]).mean() == pytest.approx(figure.agreement)
    assert figure.agreement >= (~differed).mean() - 1e-12


def test_a_meter_that_tells_nothing_has_no_limit_and_one_that_tells_all_has() -> None:
    generator = np.random.default_rng(0)
    differed = generator.random(300) < 0.05
    assert calibrate_meter(generator.random(300), differed).limit is None
    figure = calibrate_meter(generator.random(300) + 2.0 * differed, differed)
    assert figure.auroc == 1.0 and figure.limit is not None and figure.agreement == 1.0
    nothing = calibrate_meter(generator.random(20), np.zeros(20, bool))
    assert nothing.auroc is None and nothing.limit is None


@pytest.fixture(scope="module")
def frame() -> np.ndarray:
    environment = StationEnvironment(open_station("simulated_drawer").config)
    picture = environment.reset([Start("close the drawer", None, "close_drawer", 3)])[0]
    environment.close()
    return picture


def test_what_no_picture_looks_like_reads_higher_and_one_noise_has_no_spread(frame: np.ndarray) -> None:
    station = open_station("simulated_drawer")
    loaded = load_world_model(station.world_model_folder, "cpu")
    imagination = Imagination(loaded, sampling_of(station.config.models))
    imagination.start([frame] * 3, [0, 1, 0])
    actions = np.zeros((3, 7), np.float32)
    actions[:, 0], actions[:, 6] = 0.01, 1.0
    for _ in range(4):
        imagination.step(actions)
    found = read_meters(imagination)
    assert set(found) == {ROUND_TRIP, INSTABILITY} and all(values.shape == (3, 4) for values in found.values())
    assert all(np.isfinite(values).all() and (values > 0).all() for values in found.values())
    np.testing.assert_allclose(found[ROUND_TRIP][0], found[ROUND_TRIP][2], rtol=1e-4)
    # Latents that are no picture's: as large as before, in another order.
    shuffled = imagination.latents[-1][1].flatten()[torch.randperm(imagination.latents[-1][1].numel())]
    imagination.latents[-1][1] = shuffled.reshape(imagination.latents[-1][1].shape)
    again = read_meters(imagination)[ROUND_TRIP]
    assert again[1, 3] > 2 * found[ROUND_TRIP][1, 3] and np.allclose(again[0], found[ROUND_TRIP][0], rtol=1e-4)
    whole = torch.stack(imagination.latents, dim=1)
    np.testing.assert_allclose(spread((whole, whole)), 0.0, atol=1e-6)
    assert (spread((whole[:1], whole[1:2])) > 0).all()


def test_a_rollout_above_the_limit_counts_as_nothing_success_or_failure(frame: np.ndarray) -> None:
    station = open_station("simulated_drawer")
    loaded = load_world_model(station.world_model_folder, "cpu")
    sampling = sampling_of(station.config.models)
    starts = [Start("close the drawer", frame, seed=number) for number in range(3)]
    policy = PointPolicy()

    class Pleased(PointJudge):
        def judge(self, videos, instructions):  # type: ignore[no-untyped-def]
            return [Verdict(1.0, 1.0, "whatever it sees") for _ in videos]

    policy.logits = lambda frames, instructions: torch.zeros(len(frames), 3, 7, 8)  # type: ignore[method-assign]
    believed = WorldModelEnvironment(loaded, sampling=sampling, limits={ROUND_TRIP: 1e9, INSTABILITY: 1e9})
    doubted = WorldModelEnvironment(loaded, sampling=sampling, limits={ROUND_TRIP: 1e-9})
    options = RolloutOptions(3)
    first = run_rollouts(policy, believed, Pleased(), starts, [None] * 3, options)
    assert [rollout.completed for rollout in first] == [1.0] * 3
    second = run_rollouts(policy, doubted, Pleased(), starts, [None] * 3, options)
    assert all(one.verdict is not None and one.verdict.score is None for one in second)
    assert all(one.verdict is not None and "round trip" in one.verdict.reason for one in second)


def test_limits_are_those_of_these_weights_or_an_error_says_how_to_get_them(tmp_path: Path) -> None:
    station = open_station("simulated_drawer")
    model = Path(shutil.copytree(station.world_model_folder, tmp_path / "model"))
    fidelity = read_fidelity(model)
    assert fidelity is not None
    write_fidelity(model, dataclasses.replace(fidelity, meters={}))
    with pytest.raises(CheckpointError, match="world-model evaluate"):
        meter_limits(model)
    meters = {
        ROUND_TRIP: MeterFigure(0.9, 0.02, 100, 9, 1.5, 0.95, 0.08),
        INSTABILITY: MeterFigure(0.5, 0.05, 100, 9),
        "unfamiliarity": MeterFigure(0.8, 0.05, 100, 9, 3.0, 0.93, 0.1),
    }
    write_fidelity(model, dataclasses.replace(fidelity, meters=meters))
    assert read_fidelity(model) == dataclasses.replace(fidelity, meters=meters)
    assert meter_limits(model) == {ROUND_TRIP: 1.5}
    models = dataclasses.replace(station.config.models, world_model=str(model))
    opened = dataclasses.replace(station, config=dataclasses.replace(station.config, models=models))
    environment = open_imagination(opened, ConfirmationConfig(meters=True))
    assert environment._limits == {ROUND_TRIP: 1.5}
    assert open_imagination(opened, ConfirmationConfig())._limits == {}
    write_fidelity(model, dataclasses.replace(fidelity, meters=meters, weights="others"))
    with pytest.raises(CheckpointError, match="with these weights"):
        meter_limits(model)
