"""How far imagination can be trusted: measured on logged episodes, kept beside the weights, read before practice."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from gymnast_core.cli import main
from gymnast_core.config import AdaptationConfig
from gymnast_core.data.episode import Episode, EpisodeWriter, read_episode
from gymnast_core.data.formats import Description, StoredEpisode, open_episode
from gymnast_core.data.frames import resize_frame
from gymnast_core.errors import CheckpointError, DataError
from gymnast_core.evaluation.imagination_config import EvaluateConfig
from gymnast_core.evaluation.replay import (
    Logged,
    closed_loop,
    labelled,
    loop_figures,
    played_by,
    replay,
    replay_figures,
)
from gymnast_core.protocols import StepResult, Verdict
from gymnast_core.rl.trust import judge_imagination, world_model_gate_line
from gymnast_core.rollout.open import open_imagination
from gymnast_core.station_file import open_station
from gymnast_core.world_model.config import SamplingConfig
from gymnast_core.world_model.dataset import read_clip
from gymnast_core.world_model.familiarity import Familiarity, calibrate, load_familiarity, save_familiarity
from gymnast_core.world_model.fidelity import (
    ClosedLoop,
    Fidelity,
    Replay,
    assess,
    describe_sampling,
    fingerprint,
    read_fidelity,
    write_fidelity,
)
from tests.point_world import INSTRUCTIONS, PointEnvironment, PointJudge, PointPolicy, locate, point_starts, reached
from tests.tiny_station import INSTRUCTION, build_tiny_station, picture

STEPS = 12
LIMITS = AdaptationConfig()


@pytest.fixture(scope="module")
def station(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_station(tmp_path_factory.mktemp("tiny"))


def logged_episodes(policy: PointPolicy, count: int) -> list[Logged]:
    """Episodes of a policy on the point's station, of 9 or 12 steps, with what really became of them."""
    world = PointEnvironment(count)
    starts = [dataclasses.replace(start, seed=1000 + i) for i, start in enumerate(point_starts(count))]
    instructions = [start.instruction for start in starts]
    frames = world.reset(starts)
    actions = []
    for chunk in range(STEPS // policy.chunk_length):
        drawn = policy.sample(frames, instructions, 1.0, [7 * i + chunk for i in range(count)]).actions
        actions.append(drawn)
        frames = world.step(drawn).frames
    video, commanded = world.video(), np.concatenate(actions, axis=1)
    found = []
    for i in range(count):
        length = STEPS - 3 * (i % 2)
        success = bool(reached(locate(video[i, length]), instructions[i]))
        facts = {"policy": "point", "temperature": 1.0}
        states = np.full((length + 1, 7), np.nan, np.float32)
        stamps = np.arange(length + 1)
        episode = Episode(
            instructions[i],
            video[i, : length + 1],
            commanded[i, :length],
            commanded[i, :length],
            states,
            stamps,
            success,
            True,
            facts,
        )
        found.append(Logged(Kept(Path(f"episode_{i}"), episode), episode, length, success))
    return found


@dataclasses.dataclass(frozen=True)
class Kept(StoredEpisode):
    """An episode that lies in memory."""

    episode: Episode

    def files(self) -> list[Path]:
        return []

    def describe(self) -> Description:
        return Description(self.episode.instruction, self.episode.success, self.episode.metadata)

    def steps(self) -> Episode:
        return self.episode

    def count(self) -> int:
        return len(self.episode.frames)

    def frames(self, size: int | None = None) -> Iterator[np.ndarray]:
        return (self.frame(number, size) for number in range(self.count()))

    def frame(self, number: int, size: int | None = None) -> np.ndarray:
        frame = self.episode.frames[number]
        return resize_frame(frame, size) if size else frame


class Deaf(PointEnvironment):
    """A world model that ignores actions."""

    def step(self, actions: np.ndarray) -> StepResult:
        return super().step(np.zeros_like(actions))


class Eager(PointEnvironment):
    """A world model in which everything moves half as much again: too easy."""

    def step(self, actions: np.ndarray) -> StepResult:
        return super().step(actions * 1.5)


class Generous(PointJudge):
    """A judge that gives most of the marks for trying."""

    def judge(self, videos: Sequence[np.ndarray], instructions: Sequence[str]) -> list[Verdict]:
        return [Verdict(max(0.9, v.score or 0.0), v.confidence, v.reason) for v in super().judge(videos, instructions)]


def far_policy(drift: float = 1.2) -> PointPolicy:
    """A policy that mostly moves the dot the way it is told, and reaches the side about half the time."""
    policy = PointPolicy(3)
    import torch

    with torch.no_grad():
        head = policy.head.bias.view(policy.chunk_length, 7, policy.bins)
        head[:, 0] += torch.linspace(-drift, drift, policy.bins)
    return policy


def test_replay_tells_a_faithful_world_model_from_one_that_ignores_actions() -> None:
    logged = [entry for entry in logged_episodes(far_policy(), 80) if "right" in entry.episode.instruction]
    share = np.mean([entry.success for entry in logged])
    assert 0.25 < share < 0.75, "the episodes end both ways"
    faithful = replay_figures(replay(PointEnvironment(16, 0.002), PointJudge(), logged, 0), "all")
    assert faithful is not None and faithful.agreement > 0.85 and faithful.judge_agreement == 1.0
    assert faithful.episodes == 40 and 0 < faithful.standard_error < 0.1
    wrong = faithful.false_positives + faithful.false_negatives
    assert faithful.agreement == pytest.approx(1 - wrong / 40, abs=1e-3)
    generous = replay_figures(replay(PointEnvironment(16, 0.002), Generous(), logged, 0), "all")
    assert generous == faithful, "part of a task is no success"
    deaf = replay_figures(replay(Deaf(16), PointJudge(), logged, 0), "all")
    assert deaf is not None and deaf.false_positives == 0
    assert deaf.agreement == pytest.approx(1 - share, abs=0.01), "no replayed dot ever arrives"
    assert replay_figures(replay(Deaf(16), PointJudge(), logged, 0), INSTRUCTIONS[1]) is None
    again = replay(PointEnvironment(5, 0.002), PointJudge(), logged, 0)
    assert replay_figures(again, "all") == faithful, "how rollouts are batched changes nothing"


def test_closed_loop_measures_the_optimism_of_imagination() -> None:
    policy = far_policy()
    logged = [entry for entry in logged_episodes(policy, 160) if len(entry.episode.actions) == STEPS]
    config = EvaluateConfig(model="", data=(), repeats=4, horizon=STEPS)
    fair = loop_figures(closed_loop(policy, PointEnvironment(24), PointJudge(), logged, config), "all")
    assert fair is not None and fair.episodes == 80
    assert abs(fair.bias) < 2.5 * fair.standard_error < 0.2
    assert fair.bias == pytest.approx(fair.imagined - fair.station, abs=2e-4)
    eager = loop_figures(closed_loop(policy, Eager(24), PointJudge(), logged, config), "all")
    assert eager is not None and eager.station == fair.station and eager.bias > max(0.1, 3 * eager.standard_error)
    again = loop_figures(closed_loop(policy, Eager(8), PointJudge(), logged, config), "all")
    assert again == eager, "how rollouts are batched changes nothing"


def test_only_what_the_policy_itself_played_counts(station: Path) -> None:
    policy = station.parent / "policy"
    episode = logged_episodes(far_policy(), 1)[0].episode

    def played(**facts: object) -> bool:
        return played_by(
            Logged(Kept(Path("x"), episode), dataclasses.replace(episode, metadata=facts), 1, True), policy
        )

    assert played(policy=str(policy)) and played(policy="base")
    assert not played(policy="expert") and not played() and not played(policy="mini/policy")
    assert not played(policy="base", adapter="mine") and not played(policy=str(policy), look_ahead=8)


def test_an_outcome_is_what_was_reached_within_the_horizon(tmp_path: Path) -> None:
    for name, truths, success in (("at_3", (False, False, True, False), False), ("unseen", (None,) * 4, True)):
        with EpisodeWriter(tmp_path / name, INSTRUCTION, {}) as writer:
            writer.add_observation(picture())
            for truth in truths:
                facts: dict[str, Any] = {} if truth is None else {"success": truth}
                writer.add_step([0.0] * 7, **facts)
                writer.add_observation(picture())
            writer.finish(success=success)
    files = [open_episode(tmp_path / "at_3"), open_episode(tmp_path / "unseen")]

    def outcomes(horizon: int) -> list[tuple[str, int, bool]]:
        found = labelled(files, EvaluateConfig(model="", data=(), horizon=horizon))
        return [(entry.source.path.name, entry.steps, entry.success) for entry in found]

    assert outcomes(2) == [("at_3", 2, False)], "what an unseen episode was after two steps, nobody knows"
    assert outcomes(3) == [("at_3", 3, True)]
    assert outcomes(30) == [("at_3", 4, True), ("unseen", 4, True)], "reached once is done, as it ends a trial"
    with pytest.raises(DataError, match="within 2 steps"):
        labelled(files[1:], EvaluateConfig(model="", data=(), horizon=2))

    with EpisodeWriter(tmp_path / "silent", INSTRUCTION, {}) as writer:  # the arm never answered the third step
        writer.add_observation(picture())
        for step in range(4):
            writer.add_step([0.0] * 7, [np.nan] * 7 if step == 2 else None, success=step > 1)
            writer.add_observation(picture())
        writer.finish(success=True)
    silent = open_episode(tmp_path / "silent")
    (entry,) = labelled([silent], EvaluateConfig(model="", data=(), horizon=30))
    assert (entry.steps, entry.success) == (2, False), "what came after the silence is no replay's business"
    assert len(read_clip(silent, 64)[0]) == 3, "as in training"


def figures(agreement: float, bias: float, episodes: int = 40) -> tuple[dict[str, Replay], dict[str, ClosedLoop]]:
    return (
        {"all": Replay(agreement, 0.05, episodes, 1, 2), INSTRUCTION: Replay(agreement, 0.05, episodes, 1, 2)},
        {"all": ClosedLoop(0.5 + bias, 0.5, bias, 0.05, episodes)},
    )


def keep(model: Path, agreement: float, bias: float, **changes: object) -> None:
    replays, loops = figures(agreement, bias)
    sampling = describe_sampling(SamplingConfig(2, 1.0, "streaming"))
    fidelity = Fidelity("2026-11-22T00:00:00+00:00", fingerprint(model), sampling, 10, "judge", ("x",), replays, loops)
    write_fidelity(model, dataclasses.replace(fidelity, **changes))  # type: ignore[arg-type]


def test_the_gate_holds_only_for_what_was_measured(station: Path) -> None:
    model = station.parent / "world_model"
    sampling = SamplingConfig(2, 1.0, "streaming")
    (model / "gate.json").unlink(missing_ok=True)
    assert "never measured" in assess(model, sampling, LIMITS, 10).failed[0]
    keep(model, 0.9, -0.05)
    good = assess(model, sampling, LIMITS, 10, INSTRUCTION)
    assert not good.failed and "0.90" in good.line and "-0.05" in good.line and INSTRUCTION in good.line
    keep(model, 0.84, 0.05)
    assert "in 0.84 of episodes, needed 0.85" in " ".join(assess(model, sampling, LIMITS, 10).failed)
    keep(model, 0.9, -0.11)
    assert "by -0.11" in " ".join(assess(model, sampling, LIMITS, 10).failed)
    assert not assess(model, sampling, dataclasses.replace(LIMITS, max_bias=0.2), 10).failed
    keep(model, 0.9, 0.05, closed_loop={})
    assert "bias was not measured" in assess(model, sampling, LIMITS, 10).failed[0]
    keep(model, 0.9, 0.05, weights="0" * 32)
    assert "other weights" in assess(model, sampling, LIMITS, 10).failed[0]
    keep(model, 0.9, 0.05)
    assert "other sampling" in assess(model, SamplingConfig(4, 1.0, "streaming"), LIMITS, 10).failed[0]
    assert "measured over 10 imagined steps, not 11" in assess(model, sampling, LIMITS, 11).failed[0]
    few = {"all": Replay(0.9, 0.05, 40, 1, 2), INSTRUCTION: Replay(0.2, 0.2, 5, 2, 2)}
    keep(model, 0.9, 0.05, replay=few)
    assert not assess(model, sampling, LIMITS, 10, INSTRUCTION).failed, (
        "five episodes say nothing: those of all instructions stand"
    )
    assert "the gate holds" in world_model_gate_line(open_station(str(station)), 6, INSTRUCTION)
    (model / "gate.json").write_text('{"replay": 1}')
    with pytest.raises(CheckpointError, match=r"gate\.json: damaged"):
        read_fidelity(model)
    (model / "gate.json").unlink()


def test_the_shipped_station_imagines_no_further_than_was_measured_of_its_weights() -> None:
    shipped = open_station("simulated_drawer")
    budget = shipped.config.adaptation
    assert budget.world_model_gate == "require"
    line = world_model_gate_line(shipped, budget.horizon, "close the drawer")
    assert "'close the drawer'" in line and line.endswith("the gate holds"), line
    assert "measured over" in world_model_gate_line(shipped, budget.horizon + 1)


def pictures(seeds: Sequence[int], base: int = 0) -> list[np.ndarray]:
    """Pictures of one scene: a fixed background with a small patch that moves."""
    frames = []
    for seed in seeds:
        frame = picture(base).copy()
        row, column = np.random.default_rng(seed).integers(0, 40, 2)
        frame[row : row + 8, column : column + 8] = (230, 40, 40)
        frames.append(frame)
    return frames


def test_frames_of_another_scene_are_unfamiliar(station: Path, tmp_path: Path) -> None:
    opened = open_station(str(station))
    loaded = open_imagination(opened).loaded
    encoder = loaded.autoencoder
    measure = calibrate(encoder, pictures(range(200)), pictures(range(1000, 1060)), {"training": ["x"]})
    assert (measure.distances(encoder, pictures(range(2000, 2040))) <= measure.limit).mean() > 0.95
    other_scene = [picture(i) for i in range(1, 9)]
    dark = (picture() * 0.5).astype(np.uint8)
    assert (measure.distances(encoder, [*other_scene, dark, picture()[:, ::-1].copy()]) > measure.limit).all()

    path = tmp_path / "familiarity.safetensors"
    save_familiarity(path, measure)
    assert path.stat().st_size < 300_000
    back = load_familiarity(path, encoder)
    assert back is not None and back.facts == {"training": ["x"]}
    assert np.allclose(back.distances(encoder, other_scene), measure.distances(encoder, other_scene))
    save_familiarity(path, Familiarity(measure.reference, measure.quantiles, measure.probe + 1))
    with pytest.raises(CheckpointError, match="another autoencoder"):
        load_familiarity(path, encoder)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match="cut short"):
        load_familiarity(path, encoder)
    with pytest.raises(DataError, match="found 3 training frames, needed 10"):
        calibrate(encoder, other_scene[:3], other_scene)

    model = station.parent / "world_model"
    keep(model, 0.9, 0.0)
    save_familiarity(model / "familiarity.safetensors", measure)
    trust = judge_imagination(opened, loaded, [picture(), picture(5)], INSTRUCTION, 10)
    assert len(trust.frames) == 2 and trust.frames[0].startswith("familiar")
    assert len(trust.failed) == 1 and "start frame 1 is unlike" in trust.failed[0]
    (model / "familiarity.safetensors").unlink()
    assert "never measured" in judge_imagination(opened, loaded, [picture()], INSTRUCTION, 10).failed[0]
    (model / "gate.json").unlink()


def write_held_out(folder: Path, policy: Path) -> None:
    """Twelve episodes of which four succeed; every second one is the policy's."""
    generator = np.random.default_rng(0)
    for number in range(12):
        facts = {"policy": str(policy) if number % 2 else "expert", "temperature": 0.0}
        with EpisodeWriter(folder / f"{number:03d}", INSTRUCTION, facts) as writer:
            writer.add_observation(pictures([number])[0])
            for step in range(6):
                writer.add_step([*generator.normal(0, 0.02, 6), 1.0], success=step == 2 and number < 4)
                writer.add_observation(pictures([100 * number + step])[0])
            writer.finish(success=number < 4)


@pytest.mark.parametrize(
    ("limits", "why"),
    [
        ({"min_agreement": 0.0, "max_bias": 1.0, "horizon": 6}, ""),
        ({"min_agreement": 1.0, "max_bias": 1.0, "horizon": 6}, "needed 1.00"),
        ({"min_agreement": 0.0, "max_bias": 0.0, "horizon": 6}, "allowed is 0.00"),
        ({"min_agreement": 0.0, "max_bias": 1.0, "horizon": 7}, "measured over 6 imagined steps, not 7"),
    ],
)
def test_the_report_trusts_a_world_model_exactly_where_practice_does(
    tmp_path: Path, limits: dict[str, float], why: str
) -> None:
    station = build_tiny_station(tmp_path)
    content = yaml.safe_load(station.read_text())
    content["adaptation"].update(limits)
    station.write_text(yaml.safe_dump(content))
    write_held_out(tmp_path / "held", tmp_path / "policy")
    words = ["--model", tmp_path / "world_model", "--data", tmp_path / "held", "--held-out", "0", "--horizon", "6"]
    assert (
        main(["world-model", "evaluate", *map(str, words), "--config", str(station), "--run", str(tmp_path / "run")])
        == 0
    )
    page = (tmp_path / "run" / "report.html").read_text()
    line = world_model_gate_line(open_station(str(station)), int(limits["horizon"]), INSTRUCTION)
    holds = f"bias within {limits['max_bias']:.2f} hold over the 6 steps"
    assert (holds in page) == line.endswith("the gate holds") == (not why)
    assert why in page and why in line


def test_the_command_measures_and_keeps_the_figures(station: Path, tmp_path: Path) -> None:
    write_held_out(tmp_path / "held", station.parent / "policy")
    model = station.parent / "world_model"
    words = ["--model", model, "--data", tmp_path / "held", "--held-out", "0", "--run", tmp_path / "run"]
    extra = ["--config", station, "--horizon", "6", "--training", tmp_path / "held"]
    assert main(["world-model", "evaluate", *map(str, words), *map(str, extra)]) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    found = read_fidelity(model)
    assert found is not None and result["fidelity"]["replay"] == json.loads((model / "gate.json").read_text())["replay"]
    assert found.replay["all"].episodes == 12 and found.closed_loop["all"].episodes == 6
    assert (
        found.temperatures == (0.0,)
        and found.horizon == 6
        and found.weights == fingerprint(model)
        and "psnr_1" in result
    )
    page = (tmp_path / "run" / "report.html").read_text()
    assert "outcome that really happened" in page and "How far do frames lie" in page
    assert not (model / "familiarity.safetensors").exists(), "what is held out trains nothing"
    line = world_model_gate_line(open_station(str(station)), 6, INSTRUCTION)
    assert f"agreement {found.replay[INSTRUCTION].agreement:.2f}" in line

    (model / "gate.json").unlink()
    assert main(["world-model", "evaluate", *map(str, words), "--horizon", "6"]) == 0
    assert not (model / "gate.json").exists(), "pictures alone say nothing of outcomes"
    assert read_episode(tmp_path / "held" / "000").success
