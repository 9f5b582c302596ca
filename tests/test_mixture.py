"""A mixture's shares hold in every batch that training draws, and its folders come from one file."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gymnast_core.cli import main
from gymnast_core.data.frames import write_image
from gymnast_core.errors import ConfigError
from gymnast_core.rl.config import GRPOConfig
from gymnast_core.rl.curriculum import StartSampler
from gymnast_core.rl.trainer import GRPOTrainer
from gymnast_core.rollout.mixture import Part, counts_of, load_mixture, read_mixture
from gymnast_core.rollout.starts import read_starts
from gymnast_core.run_folder import RunFolder
from tests.point_world import PointEnvironment, PointJudge, PointPolicy, point_starts

shares = st.lists(st.floats(0.01, 10.0), min_size=1, max_size=5)


def parts_of(*weights: float, size: int = 3) -> list[Part]:
    return [Part(str(place), size, weight / sum(weights)) for place, weight in enumerate(weights)]


@given(shares, st.integers(1, 40), st.integers(0, 2**62), st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_each_batch_has_every_share_rounded_down_or_up(weights: list[float], count: int, seed: int, batch: int) -> None:
    parts = parts_of(*weights)
    counts = counts_of(parts, count, seed, batch)
    assert sum(counts) == count and counts == counts_of(parts, count, seed, batch)
    for part, found in zip(parts, counts):
        assert math.floor(part.share * count - 1e-9) <= found <= math.ceil(part.share * count + 1e-9)


def test_over_batches_the_shares_are_exact_in_expectation() -> None:
    parts = parts_of(17, 5, 0.5)
    drawn = np.array([counts_of(parts, 7, 5, batch) for batch in range(2000)])
    for part, mean in zip(parts, drawn.mean(axis=0)):
        assert abs(mean - 7 * part.share) < 5 * 0.5 / math.sqrt(2000), "five standard errors at most"


def test_training_draws_by_the_mixture_the_same_again_after_a_resumption_and_refuses_another(tmp_path: Path) -> None:
    starts, parts = point_starts(12), [Part("old", 8, 0.75), Part("new", 4, 0.25)]
    config = GRPOConfig(groups=8, min_groups=2, group_size=4, horizon=3, checkpoint_every=1, seed=3)

    def open_trainer(these: list[Part], run: str = "run") -> GRPOTrainer:
        policy = PointPolicy()
        folder = RunFolder(tmp_path / run, tensorboard=False)
        return GRPOTrainer(policy, policy, PointEnvironment(), PointJudge(), starts, config, folder, parts=these)

    trainer = open_trainer(parts)
    drawn = []
    for trainer.source.batch in range(20):
        chosen = trainer.source._choose()
        drawn.append([one.index for one in chosen])
        assert sum(index >= 8 for index in drawn[-1]) == 2, "a quarter of eight, in every batch"
    assert len({index for indices in drawn for index in indices}) == 12
    trainer.source.batch = 7
    trainer.save()
    del trainer
    again = open_trainer(parts)
    assert again.source.batch == 7 and [one.index for one in again.source._choose()] == drawn[7]
    del again
    with pytest.raises(ConfigError, match="mixture"):
        open_trainer([Part("old", 8, 0.5), Part("new", 4, 0.5)])
    plain = StartSampler(starts, 3)
    assert Counter(plain.draw(0, 12)) == Counter(range(12)), "without a mixture all starts alike"


def write_frames(folder: Path, instruction: str, count: int, shade: int) -> None:
    for number in range(count):
        frame = np.full((32, 32, 3), (shade, 4 * number, 99), dtype=np.uint8)
        write_image(folder / f"{shade}_{number}.png", frame)
        (folder / f"{shade}_{number}.json").write_text(json.dumps({"instruction": instruction}))


def test_one_file_makes_the_folders_and_trains_from_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    mixture = load_mixture("scaled")
    originals, more = mixture.parts["originals"], mixture.parts["more"]
    assert (originals.share, more.share) == (17, 5) and len(more.instructions) == 5
    listed = [*originals.instructions, *more.instructions]
    for shade, instruction in enumerate(listed[1:]):
        write_frames(tmp_path / "frames", instruction.upper() if shade == 3 else instruction, 5, shade)
    words = ["augment", "tasks", "--starts", "frames", "--mixture", "scaled", "--out", "root"]
    assert main(words) == 1
    assert f"no start frame of 1 instructions: {listed[0]}" in " ".join(capfd.readouterr().err.split())
    train, held_out = (read_starts(tmp_path / "root" / "originals" / name) for name in ("train", "test"))
    assert Counter(one.instruction for one in held_out) == Counter({one.instruction for one in train})
    assert set(Counter(one.instruction for one in train).values()) == {4}
    assert not {one.frame.tobytes() for one in train} & {one.frame.tobytes() for one in held_out}  # type: ignore[union-attr]
    starts, parts = read_mixture(mixture, "root", 32)
    assert [(part.name, part.size) for part in parts] == [("originals", 60), ("more", 25)]
    assert len(starts) == 85 and sum(part.share for part in parts) == pytest.approx(1.0)
    before = {path: path.read_bytes() for path in (tmp_path / "root").rglob("*.png")}
    assert main(words) == 1 and {path: path.read_bytes() for path in (tmp_path / "root").rglob("*.png")} == before
    words = ["augment", "instructions", "--starts", "root/more/train", "--out", "root/instructions/train"]
    (tmp_path / "own.yaml").write_text("instructions: {close cabinet: [open the cabinet]}\n")
    assert main([*words, "--templates", "own.yaml"]) == 1
    assert main(["augment", "tasks", "--starts", "frames", "--mixture", "scaled", "--out", "root"]) == 1
    listed_starts = json.loads((tmp_path / "root" / "augmented.json").read_text())["starts"]
    assert len(listed_starts) == 75 + 25, "and none of those that another verb wrote below"
    for name, weights in (("distract", [0.9, 0.1]), ("language", [0.5, 0.5])):
        found = load_mixture(name).parts.values()
        assert [part.share / sum(one.share for one in found) for part in found] == pytest.approx(weights)
    assert main(["train", "--mixture", "distract", "--starts", "root", "--run", "runs/x"]) == 2
    assert "root/distractors/train: no such folder of start frames" in capfd.readouterr().err
    assert main(["train", "--mixture", "distract", "--environment", "station"]) == 2
    assert "mixture: found 'distract' with --environment station" in capfd.readouterr().err
