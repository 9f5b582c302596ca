"""Supervised fine-tuning: labels, resuming bit for bit, Iter-SFT mixing, adapters, and that it learns."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from gymnast_core.cli import main as gymnast
from gymnast_core.config import dump_config, load_config
from gymnast_core.data.episode import Episode, write_episode
from gymnast_core.errors import CheckpointError, ConfigError, DataError
from gymnast_core.policy import adapters
from gymnast_core.policy.dataset import OUTCOMES, Order, Samples, chunk_at, find_entries
from gymnast_core.policy.openvla import load_policy
from gymnast_core.policy.sft import Trainer, sft
from gymnast_core.policy.sft_config import ModelRecipe, SFTConfig, TowerRecipe
from gymnast_core.policy.sft_loss import token_logits, token_loss
from gymnast_core.policy.sft_start import RECIPES
from tests.machine import HANG_S

ROOT = Path(__file__).resolve().parent.parent
BRIDGE = ROOT.parent / "shared" / "data" / "bridge_episodes"
TINY = ModelRecipe(
    image_size=32,
    patch_size=8,
    dino=TowerRecipe(16, 2, 2),
    siglip=TowerRecipe(16, 2, 2),
    width=48,
    depth=3,
    heads=2,
    mlp_hidden=96,
    n_bins=8,
    chunk_length=2,
)


def make_episode(seed: int, task: str, success: bool | None = True, steps: int = 6) -> Episode:
    """Before a red wall the arm moves towards +x, before a blue one the other way; "open" keeps the gripper open."""
    random = np.random.default_rng(seed)
    frames = np.full((steps + 1, 32, 32, 3), 30, dtype=np.uint8)
    actions = np.zeros((steps, 7), dtype=np.float32)
    red = seed % 4 < 2
    frames[..., 0 if red else 2] = 220
    frames[:, :8] = random.integers(0, 256, (steps + 1, 8, 32, 3))
    actions[:, 0] = 0.02 if red else -0.02
    actions[:, 6] = float(task == "open")
    nan = np.full((steps + 1, 7), np.nan, dtype=np.float32)
    return Episode(f"{task} it", frames, actions, actions, nan, np.arange(steps + 1), success)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("episodes")
    for seed in range(12):
        write_episode(root / f"{seed:02d}", make_episode(seed, "open" if seed % 2 else "close", seed != 5))
    return root


def config(data: Path, tmp_path: Path, name: str = "a", **changes: object) -> SFTConfig:
    plain = SFTConfig(
        data=(str(data),),
        model=TINY,
        lora_rank=0,
        out=str(tmp_path / f"out_{name}"),
        run=str(tmp_path / f"run_{name}"),
        steps=8,
        batch=8,
        learning_rate=3e-3,
        crop_area=0.9,
        evaluate_every=1000,
        save_every=4,
        threads=1,
        device="cpu",
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


def test_the_mix_takes_judged_successes_only(data: Path, tmp_path: Path) -> None:
    for seed, success in enumerate((True, False, None)):
        write_episode(tmp_path / "mix" / str(seed), make_episode(seed, "open", success))
    chosen = {kept: [e.path.name for e in find_entries([str(tmp_path / "mix")], kept=kept)] for kept in OUTCOMES}  # type: ignore[arg-type]
    assert chosen == {"all": ["0", "1", "2"], "not failures": ["0", "2"], "successes": ["0"]}
    trainer = Trainer(config(data, tmp_path, "mix", mix=(str(tmp_path / "mix"),)))
    assert [len(source.entries) for source in trainer.data.sources] == [10, 1]
    write_episode(tmp_path / "none" / "0", make_episode(0, "open", None))
    with pytest.raises(DataError, match="1 episodes, none of them judged a success"):
        Trainer(config(data, tmp_path, "none", mix=(str(tmp_path / "none"),)))


def test_a_missing_or_broken_frame_is_named_before_training(data: Path, tmp_path: Path) -> None:
    shutil.copytree(data, tmp_path / "data")
    frame = tmp_path / "data" / "03" / "frames" / "000002.png"
    frame.write_bytes(frame.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"03/frames/000002\.png: not a whole PNG"):
        Trainer(config(tmp_path / "data", tmp_path, "cut"))
    for shape, kind, words in (((32, 32), np.uint8, r"1 channel\(s\)"), ((32, 32, 3), np.uint16, "uint16 pixels")):
        cv2.imwrite(str(frame), np.zeros(shape, kind))
        with pytest.raises(DataError, match=rf"03/frames/000002\.png: found {words}.*, needed .*; convert the image"):
            Trainer(config(tmp_path / "data", tmp_path, "colours"))
    cv2.imwrite(str(frame), np.zeros((8, 32, 3), np.uint8))
    with pytest.raises(DataError, match=r"03/frames/000002\.png: found 32x8 pixels, allowed are sides of 16"):
        Trainer(config(tmp_path / "data", tmp_path, "small"))
    frame.unlink()
    with pytest.raises(DataError, match=r"03/frames/000002\.png: no such image file"):
        Trainer(config(tmp_path / "data", tmp_path, "hole"))


def test_what_would_be_lost_in_the_end_is_refused(data: Path, tmp_path: Path) -> None:
    """An instruction or target that cannot be used at the start; weights that training blew up at the end."""
    with pytest.raises(DataError, match="marker 'in:'"):
        Trainer(config(data, tmp_path, "marker", instruction="In: a"))
    assert sft(config(data, tmp_path, "base", steps=1)) == 0
    base = str(tmp_path / "out_base")
    with pytest.raises(ConfigError, match="found the base itself"):
        Trainer(config(data, tmp_path, "same", base=base, model=None, out=base))
    for name, holdout, what in (("wild", 0.1, "held-out loss"), ("blind", 0.0, "loss")):
        with pytest.raises(CheckpointError, match=f"the {what} is nan in the end, nothing is written"):
            sft(config(data, tmp_path, name, steps=1, learning_rate=1e30, holdout=holdout))
        assert not (tmp_path / f"out_{name}").exists()
    trainer = Trainer(config(data, tmp_path, "unspelt", base=base, model=None))
    write_episode(tmp_path / "foreign" / "0", replace(make_episode(0, "open"), instruction="öffne es"))
    with pytest.raises(DataError, match=r"foreign/0: instruction: 'öffne es' cannot be spelt"):
        Trainer(replace(trainer.config, data=(str(tmp_path / "foreign"),), run=str(tmp_path / "run_foreign")))


def test_no_folder_is_in_the_way_of_another(data: Path, tmp_path: Path) -> None:
    """What is replaced, or written into, holds nothing that would be lost or mixed up."""
    plain = config(data, tmp_path, "plain")
    assert sft(replace(plain, steps=1)) == 0
    (tmp_path / "videos").mkdir()
    for suffix in ("mp4", "npz"):
        (tmp_path / "videos" / f"0.{suffix}").touch()
    for run in (data, data / "00", tmp_path / "videos"):
        with pytest.raises(ConfigError, match="which holds episodes"):
            Trainer(replace(plain, run=str(run)))
        assert not (run / "config.yaml").exists()
    for run in (plain.out, f"{plain.out}/deep/run"):
        with pytest.raises(ConfigError, match="lies in, the checkpoint folder that will be replaced"):
            Trainer(replace(plain, run=run))
    shutil.copytree(data, Path(plain.out) / "demonstrations")
    with pytest.raises(CheckpointError, match="holds 'demonstrations'"):
        Trainer(replace(plain, data=(f"{plain.out}/demonstrations",)))
    with pytest.raises(DataError, match="/nowhere"):
        Trainer(replace(plain, data=("/nowhere",), out=str(tmp_path / "a" / "b"), run=str(tmp_path / "run_other")))
    assert not (tmp_path / "a").exists()


def test_a_frame_that_goes_missing_midway_costs_no_training(data: Path, tmp_path: Path) -> None:
    shutil.copytree(data, tmp_path / "data")
    settings = config(tmp_path / "data", tmp_path, "gone", save_every=1000)
    trainer = Trainer(settings)
    for sample in range(40):  # the first steps find their frames in memory
        source, index = trainer.data.order(sample)
        trainer.data.sources[source].frame(index)
    shutil.rmtree(tmp_path / "data")
    with pytest.raises(DataError, match="no such image file"):
        trainer.train()
    done = trainer.progress.step
    assert 0 < done < 8
    shutil.copytree(data, tmp_path / "data")
    assert Trainer(settings).progress.step == done


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"instruction": "open", "success": "false"}', "success: found 'false', needed true, false or null"),
        ('{"instruction": 5, "success": true}', "instruction: found int, needed text"),
        ("[" * 100_000, "needed a JSON mapping"),
        ("[]", "needed a JSON mapping"),
    ],
)
def test_what_stands_beside_a_video_is_checked(tmp_path: Path, content: str, message: str) -> None:
    for suffix in ("mp4", "npz"):
        (tmp_path / f"0.{suffix}").touch()
    (tmp_path / "0.json").write_text(content)
    with pytest.raises(DataError, match=rf"0\.json: {message}"):
        find_entries([str(tmp_path)])


def test_learning_rate_is_that_of_openvla_oft(data: Path, tmp_path: Path) -> None:
    """Up from a tenth, then constant, then a tenth."""
    trainer = Trainer(config(data, tmp_path, "rate", learning_rate=1.0, warmup=10, decay_after=30, steps=100))
    rates = []
    for step in (0, 4, 9, 29, 30, 99):
        trainer.progress.step = step
        rates.append(trainer.learning_rate())
    assert rates == pytest.approx([0.19, 0.55, 1.0, 1.0, 0.1, 0.1])


def test_labels_past_the_end_stand_still_with_the_last_gripper() -> None:
    actions = np.arange(21, dtype=np.float32).reshape(3, 7)
    assert np.array_equal(chunk_at(actions, 0, 3), actions)
    tail = chunk_at(actions, 2, 4)
    assert np.array_equal(tail[0], actions[2])
    assert (tail[1:, :6] == 0).all() and (tail[1:, 6] == actions[2, 6]).all()


def test_samples_pair_the_frame_before_with_the_actions_after(data: Path) -> None:
    entries = find_entries([str(data)])
    assert len(entries) == 11  # the failure is left out
    assert len(find_entries([str(data)], kept="all")) == 12
    twice = find_entries([str(data), str(data / "00"), f"{data}/../{data.name}"])  # not held out and trained on
    assert [entry.path for entry in twice] == [entry.path for entry in entries]
    samples = Samples(entries, 2)
    assert len(samples) == 11 * 6
    wanted = make_episode(0, "close")
    assert np.array_equal(samples.frame(3), wanted.frames[3])
    assert np.array_equal(samples.label(3)[1], wanted.actions[3:5])


@pytest.mark.parametrize(("ratio", "share"), [(1.0, 0.5), (0.25, 0.2), (3.0, 0.75)])
def test_the_mixing_ratio_holds_everywhere_and_epochs_are_whole(ratio: float, share: float) -> None:
    order = Order(10, 7, ratio / (1 + ratio), seed=1)
    drawn = [order(k) for k in range(400)]
    sources = np.array([source for source, _ in drawn])
    for begin in range(0, 400, 20):
        assert abs(sources[begin : begin + 20].mean() - share) <= 0.05
    first = [index for source, index in drawn if source == 0]
    for epoch in range(len(first) // 10):
        assert sorted(first[epoch * 10 : epoch * 10 + 10]) == list(range(10))
    again = Order(10, 7, ratio / (1 + ratio), seed=1)
    assert [again(k) for k in range(300, 400)] == drawn[300:]


def test_many_threads_may_ask_for_the_order() -> None:
    """A batch larger than the data spans epochs, and threads work at several batches."""
    wanted = [Order(2, 1, 0.5, seed=1)(k) for k in range(4000)]
    order = Order(2, 1, 0.5, seed=1)
    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(order, range(4000))) == wanted


@pytest.mark.parametrize("adapter", [False, True])
def test_a_stopped_run_goes_on_bit_for_bit(data: Path, tmp_path: Path, adapter: bool) -> None:
    """All weights of a new model; or an adapter, over two batches a step, demonstrations and successes mixed."""
    changes: dict[str, object] = {}
    if adapter:
        assert sft(config(data, tmp_path, "base", steps=1)) == 0
        mix = write_episode(tmp_path / "mix" / "0", make_episode(50, "open")).parent
        base = {"model": None, "base": str(tmp_path / "out_base"), "mix": (str(mix),)}
        changes = {**base, "lora_rank": 4, "accumulation": 2, "warmup": 3, "workers": 3}
    whole = Trainer(config(data, tmp_path, "whole", **changes))
    assert whole.train()
    half = Trainer(config(data, tmp_path, "half", steps=4, **changes))
    assert half.train()
    other = shutil.copytree(data, tmp_path / "data")  # as many samples, one of them another
    shutil.rmtree(other / "00")
    write_episode(other / "00", make_episode(99, "open"))
    for option, told in (
        ({"batch": 4}, "batch '8', found '4'; give the same options, or choose another --run"),
        ({"weight_decay": 0.5}, "weight_decay '0.01', found '0.5'"),
        ({"data": (str(other),)}, r"data \(digest\)"),
        ({"chunk_length": 3, "image_variant": "center_crop"}, "chunk_length '2', found '3'"),
    ):
        if not adapter and "chunk_length" in option:  # of a new model they are the recipe's
            option = {"model": replace(TINY, chunk_length=3)}
        with pytest.raises(ConfigError, match=told):
            Trainer(replace(config(data, tmp_path, "half", **changes), **option))  # type: ignore[arg-type]
    rest = Trainer(config(data, tmp_path, "half", **changes))
    assert rest.progress.step == 4
    assert rest.train()
    wanted, found = whole.policy.model.state_dict(), rest.policy.model.state_dict()
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)
    assert any(not torch.equal(wanted[name], value) for name, value in half.policy.model.state_dict().items())


def test_it_learns_and_writes_a_policy_that_acts(data: Path, tmp_path: Path) -> None:
    settings = config(data, tmp_path, "learn", steps=100, batch=16, schedule="cosine", warmup=5)
    assert sft(settings) == 0
    result = json.loads((tmp_path / "run_learn" / "result.json").read_text())
    assert result["held_out_token_accuracy"] > 0.9
    policy = load_policy(tmp_path / "out_learn", "station", device="cpu")
    for seed, task in ((77, "open"), (78, "close"), (79, "open")):
        episode = make_episode(seed, task)
        actions = policy.act(episode.frames[:-1], [f"{task.upper()}  it"] * 6)
        error = np.abs(actions[:, 0] - episode.actions)
        assert error[:, 0].max() < 0.01  # follows the image
        assert error[:, 6].max() < 0.3  # and the instruction
    statistics = policy.checkpoint.norm_stats["station"]
    assert statistics["num_trajectories"] == 10 and statistics["action"]["mask"] == [True] * 6 + [False]
    assert (tmp_path / "run_learn" / "config.yaml").exists()
    assert len((tmp_path / "run_learn" / "metrics.jsonl").read_text().splitlines()) > 3


def test_spread_labels_are_centred_on_the_bin(data: Path, tmp_path: Path) -> None:
    trainer = Trainer(config(data, tmp_path, "spread"))
    frames, instructions, bins = trainer.data(0)
    with torch.no_grad():
        whole = token_logits(trainer.policy, frames, instructions)
        sharp, narrow = (float(token_loss(trainer.policy, whole, bins, sigma)[0]) for sigma in (0.0, 0.05))
        assert sharp == pytest.approx(narrow, rel=1e-5)
        logits = trainer.policy.model.action_logits(*trainer.policy.inputs(frames, instructions))
        first = trainer.policy.config.first_action_id
        assert torch.allclose(logits, whole[:, :-1, first : first + 8], atol=1e-5)


def test_adapter_training_leaves_the_base_and_its_statistics(data: Path, tmp_path: Path) -> None:
    assert sft(config(data, tmp_path, "base")) == 0
    base = tmp_path / "out_base"
    other = tmp_path / "other"
    for seed in range(4):
        episode = make_episode(seed + 50, "open")
        wider = episode.actions * np.array([3, 3, 3, 3, 3, 3, 1], np.float32)
        write_episode(other / str(seed), replace(episode, executed=wider, actions=wider))
    tuned = config(
        data,
        tmp_path,
        "tuned",
        model=None,
        base=str(base),
        lora_rank=4,
        merge=False,
        adapters=str(tmp_path / "adapters"),
        mix=(str(other),),
        accumulation=2,
    )
    assert sft(tuned) == 0
    (record,) = adapters.AdapterStore(tmp_path / "adapters").list()
    policy = load_policy(base, device="cpu")
    assert record.base == policy.checkpoint.fingerprint
    frames = make_episode(3, "open").frames
    before = policy.act(frames, ["open it"] * 7)
    adapters.AdapterStore(tmp_path / "adapters").load(policy, record.name)
    assert np.array_equal(policy.act(frames, ["open it"] * 7), before)  # loaded, not yet active
    pixels, prompts = policy.inputs(policy.images.prepare(frames), ["open it"] * 7)
    plain = policy.model.action_logits(pixels, prompts).detach()
    adapters.activate(policy, record.name)
    assert float((policy.model.action_logits(pixels, prompts).detach() - plain).abs().max()) > 1e-3

    merged = replace(tuned, merge=True, run=str(tmp_path / "run_merged"), out=str(tmp_path / "out_merged"))
    assert sft(merged) == 0
    whole = load_policy(tmp_path / "out_merged", device="cpu")
    assert whole.checkpoint.norm_stats == policy.checkpoint.norm_stats
    assert not any("lora" in name for name in load_file(str(tmp_path / "out_merged" / "model.safetensors")))
    difference = whole.model.action_logits(pixels, prompts) - policy.model.action_logits(pixels, prompts)
    assert float(difference.detach().abs().max()) < 1e-3


def test_an_interrupt_saves_and_the_same_command_goes_on(data: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    tower = "{width: 16, depth: 2, heads: 2}"
    recipe.write_text(
        f"model: {{image_size: 32, patch_size: 8, dino: {tower}, siglip: {tower}, width: 48, depth: 3, heads: 2, "
        "mlp_hidden: 96, n_bins: 8, chunk_length: 2}\nlora_rank: 0\nsteps: 100000\nbatch: 8\nlog_every: 1\n"
        "save_every: 100000\nthreads: 1\ndevice: cpu\n"
    )
    paths = ["--data", str(data), "--out", str(tmp_path / "out"), "--run", str(tmp_path / "run")]
    command = [sys.executable, "-m", "gymnast_core.cli", "sft", "--from", str(recipe), *paths]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    metrics = tmp_path / "run" / "metrics.jsonl"
    try:
        for _ in range(2000):
            if metrics.exists() and len(metrics.read_text().splitlines()) >= 3:
                break
            try:
                process.wait(timeout=0.1)
            except subprocess.TimeoutExpired:
                continue
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=HANG_S)
    finally:
        process.kill()
    assert process.returncode == 130, errors
    assert not (tmp_path / "out").exists()
    done = len(metrics.read_text().splitlines())
    assert gymnast(["sft", "--from", str(recipe), *paths, "--steps", str(done + 2)]) == 0
    assert json.loads((tmp_path / "run" / "result.json").read_text())["steps"] == done + 2


@pytest.mark.timeout(600)
def test_two_processes_do_what_one_does_with_twice_the_batch(data: Path, tmp_path: Path) -> None:
    alone = Trainer(config(data, tmp_path, "alone", steps=3, batch=8, learning_rate=1e-3))
    assert alone.train()
    two = config(data, tmp_path, "two", steps=2, batch=4, learning_rate=1e-3, save_every=1)
    for steps in (2, 3):  # the second start resumes the first
        recipe = tmp_path / "two.yaml"
        recipe.write_text(dump_config(replace(two, steps=steps)))
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        command = [*torchrun, "-m", "gymnast_core.cli", "sft", "--from", str(recipe)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=HANG_S)
        assert done.returncode == 0, done.stderr[-3000:]
    assert "resuming" in done.stderr
    wanted = alone.policy.model.state_dict()
    found = load_file(str(tmp_path / "out_two" / "model.safetensors"))
    assert found.keys() == wanted.keys()
    start = Trainer(config(data, tmp_path, "start", learning_rate=1e-3)).policy.model.state_dict()
    moved = max(float((wanted[name] - start[name]).abs().max()) for name in wanted)
    error = max(float((wanted[name] - found[name]).abs().max()) for name in wanted)
    assert moved > 1e-3 and error < 0.05 * moved  # AdamW turns rounding of tiny gradients into small steps


@pytest.mark.skipif(not BRIDGE.exists(), reason=f"real episodes not found at {BRIDGE}")
def test_real_bridge_episodes_train(tmp_path: Path) -> None:
    settings = config(BRIDGE, tmp_path, "bridge", steps=2, instruction="put the pot on the stove", batch=4)
    with pytest.raises(DataError, match="no instruction"):
        Trainer(replace(settings, instruction=""))
    assert sft(settings) == 0
    assert np.isfinite(json.loads((tmp_path / "run_bridge" / "result.json").read_text())["held_out_loss"])


def test_shipped_recipes_are_valid() -> None:
    mini, paper = (load_config(SFTConfig, RECIPES / f"{name}.yaml") for name in ("mini", "paper"))
    assert mini.model is not None and mini.model.chunk_length == 5 and mini.lora_rank == 0
    assert (paper.lora_rank, paper.learning_rate, paper.batch * paper.accumulation) == (32, 5e-4, 32)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"data": ()}, ConfigError, "data"),
        ({"data": ("/nowhere",)}, DataError, "/nowhere"),
        ({"model": None, "init": "tiny"}, ConfigError, "shipped recipe"),
        ({"lora_rank": 4}, ConfigError, "lora_rank"),
        ({"base": "nowhere", "model": None}, ConfigError, "model 'nowhere' not found"),
        ({"out": "/dev/null/policy"}, CheckpointError, "cannot be written"),
        ({"device": "tpu"}, ConfigError, "device"),
        ({"chunk_length": 3}, ConfigError, "chunk_length: found 3 for a new model"),
        (
            {"model": None, "lora_rank": 4, "merge": False, "chunk_length": 3},
            ConfigError,
            "chunk_length: found 3 for an adapter, which acts as its base's config.json says",
        ),
        ({"image_variant": "resize"}, ConfigError, "image_variant: found 'resize' for a new model"),
    ],
)
def test_bad_settings_are_one_clear_line(
    data: Path, tmp_path: Path, changes: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Trainer(replace(config(data, tmp_path, "bad"), **changes))  # type: ignore[arg-type]
