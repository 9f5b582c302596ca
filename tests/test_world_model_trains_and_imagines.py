"""From episodes on disk to imagined frames: training resumes after a kill, bad input is named, rollouts repeat."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from gymnast_core.cli import main
from gymnast_core.config import ArmConfig, SafetyConfig, dump_config, load_config
from gymnast_core.data.episode import Episode, EpisodeWriter, find_episodes, read_episode, write_episode
from gymnast_core.data.films import read_video
from gymnast_core.data.formats import find_all, open_episode
from gymnast_core.errors import CheckpointError, ConfigError, DataError
from gymnast_core.protocols import Environment, Start
from gymnast_core.robot.safety import DeadReckoning
from gymnast_core.seeds import derive_seed
from gymnast_core.world_model.autoencoder import SmallAutoencoder, StableDiffusion3Autoencoder
from gymnast_core.world_model.checkpoint import LoadedWorldModel, load_world_model, save_autoencoder, save_world_model
from gymnast_core.world_model.config import LossConfig, SamplingConfig, SmallAutoencoderConfig, WorldModelConfig
from gymnast_core.world_model.dataset import draw_clips, flatten, read_clip, split
from gymnast_core.world_model.environment import WorldModelEnvironment
from gymnast_core.world_model.finetune_config import FinetuneConfig
from gymnast_core.world_model.metrics import ssim
from gymnast_core.world_model.model import WorldModel
from gymnast_core.world_model.pictures import imagine_episodes
from gymnast_core.world_model.play import rollout
from gymnast_core.world_model.play_config import RolloutConfig
from gymnast_core.world_model.train import train
from gymnast_core.world_model.train_autoencoder import train_autoencoder
from gymnast_core.world_model.train_autoencoder_config import AutoencoderTrainConfig
from gymnast_core.world_model.train_config import TrainConfig
from tests.machine import HANG_S, overdue
from tests.processes import two_processes, wait_for

ROOT = Path(__file__).resolve().parents[1]
BRIDGE = ROOT.parent / "shared" / "data" / "bridge_episodes"
SIZE = 16
MODEL = WorldModelConfig(in_channels=3, patch_size=2, dim=32, num_layers=1, num_heads=2, max_frames=6)


def write_toy_episodes(folder: Path, count: int, length: int = 9) -> None:
    """A bright square on a still background that moves by a pixel a step, to the side that the action says."""
    for e in range(count):
        rng = np.random.default_rng(e)
        background = np.random.default_rng(99).integers(40, 120, (SIZE, SIZE, 3)).astype(np.uint8)
        x, frames, actions = 6, [], []
        for step in range(length + 1):
            frame = background.copy()
            frame[5:10, x : x + 4] = 250
            frames.append(frame)
            if step < length:
                move = int(rng.integers(0, 2)) * 2 - 1
                x = int(np.clip(x + move, 0, SIZE - 4))
                actions.append([move * 0.02, 0, 0, 0, 0, 0, 1])
        array = np.array(actions, np.float32)
        states = np.full((length + 1, 7), np.nan, np.float32)
        stamps = np.arange(length + 1, dtype=np.int64)
        write_episode(folder / f"e{e}", Episode("push", np.stack(frames), array, array, states, stamps))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `data`, an autoencoder and a world model trained for a few seconds."""
    root = tmp_path_factory.mktemp("world")
    write_toy_episodes(root / "data", 12)
    small = SmallAutoencoderConfig(image_size=SIZE, latent_channels=3, width=16)
    config = AutoencoderTrainConfig(
        run=str(root / "autoencoder"), data=(str(root / "data"),), cache=str(root / "cache"), model=small, steps=250
    )
    assert train_autoencoder(config) == 0
    assert train(training(root, steps=150)) == 0
    return root


def training(root: Path, **changes: object) -> TrainConfig:
    config = TrainConfig(
        run=str(root / "run"),
        data=(str(root / "data"),),
        autoencoder=str(root / "autoencoder" / "model"),
        cache=str(root / "cache"),
        model=MODEL,
        loss=LossConfig(objective="teacher_forcing", noise_levels="sampler", sampler_steps=2),
        sampling=SamplingConfig(steps=2, mode="streaming"),
        clip_frames=6,
        first_action_zero=True,
        batch=8,
        learning_rate=3e-3,
        ema=0.9,
        action_dropout=0.1,
        horizon=8,
        device="cpu",
    )
    return replace(config, **changes)  # type: ignore[arg-type]


def metrics(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_world_model(run / "model").model.state_dict()


def test_training_lowers_the_loss_and_evaluation_writes_pictures(world: Path) -> None:
    losses = [line["loss"] for line in metrics(world / "run") if "loss" in line]
    assert losses[-1] < 0.7 * losses[0]
    assert list((world / "run" / "media").glob("strips_*.png"))
    videos = sorted((world / "run" / "media").glob("samples_*.mp4"))  # before the first step and after the last
    trained = json.loads((world / "run" / "result.json").read_text())
    gain = trained["curves"]["PSNR above copying the first frame, dB"]
    assert len(videos) == 2 and len(gain["x"]) == 2 and gain["x"][0] == 0
    assert all(line[-1] > line[0] for line in gain["lines"].values()) and set(gain["lines"]) == {"frame 1", "frame 5"}
    assert read_video(videos[-1]).shape == (9, 8 * (SIZE + 8), 8 * (2 * SIZE + 8), 3)  # one held-out episode
    out = world / "evaluation"
    words = ["world-model", "evaluate", "--model", str(world / "run" / "model"), "--data", str(world / "data")]
    assert main([*words, "--run", str(out), "--horizon", "8"]) == 0
    result = json.loads((out / "result.json").read_text())
    assert result["psnr_5"] > 10 and (out / "media" / "actions.png").exists()
    lines = [[len(line) for line in curve["lines"].values()] for curve in result["curves"].values()]
    assert lines == [[8, 8], [2, 2]]  # PSNR at every frame, SSIM at some
    page = (out / "report.html").read_text()
    assert "SSIM by frame" in page and page.count("<svg") >= 2


def test_structural_similarity_follows_its_definition() -> None:
    a, b = (np.full((16, 16, 3), value, np.uint8) for value in (60, 180))
    c1 = (0.01 * 255) ** 2  # flat pictures differ in luminance alone
    assert ssim(a, b) == pytest.approx((2 * 60 * 180 + c1) / (60**2 + 180**2 + c1), abs=1e-5)
    noise = np.random.default_rng(0).integers(0, 255, (32, 32, 3)).astype(np.uint8)
    assert ssim(noise, noise) == pytest.approx(1.0) and ssim(noise, 255 - noise) < -0.5


def test_latents_have_unit_spread_and_decode_near_the_frames(world: Path) -> None:
    autoencoder = load_world_model(world / "run" / "model").autoencoder
    frames = np.concatenate([read_clip(file, SIZE)[0] for file in find_all(world / "data")])
    latents = autoencoder.encode(frames)
    assert 0.9 < float(latents.std()) < 1.1
    assert np.abs(autoencoder.decode(latents).astype(int) - frames).mean() < 20


def test_imagined_copies_of_episodes_keep_what_really_happened(world: Path, tmp_path: Path) -> None:
    source, broken = tmp_path / "logs", tmp_path / "logs" / "e11" / "steps.jsonl"
    shutil.copytree(world / "data", source)
    lines = [json.loads(line) for line in broken.read_text().splitlines()]
    next(line for line in lines if line.get("step") == 4)["executed"] = [None] * 7  # here the arm fell silent
    broken.write_text("".join(json.dumps(line) + "\n" for line in lines))
    words = ["world-model", "reconstruct", "--data", str(source), "--out", str(tmp_path / "out"), "--batch", "5"]
    assert main([*words, "--world-model", str(world / "run" / "model"), "--device", "cpu"]) == 0
    copies = {path.name: read_episode(path) for path in find_episodes(tmp_path / "out" / "logs")}
    assert len(copies) == 12 and copies["e11"].length == 4 and len(copies["e11"].frames) == 5
    files = [open_episode(source / f"e{e}") for e in (0, 1, 10, 11, 2)]  # the first batch, by name
    loaded = load_world_model(world / "run" / "model")
    expected = imagine_episodes(loaded, files, 9, derive_seed(0, 0))
    for file, (true, imagined) in zip(files, expected, strict=True):
        copy = copies[file.path.name]
        assert np.array_equal(copy.frames, imagined) and np.array_equal(copy.frames[0], true[0])
        assert not np.array_equal(copy.frames[1:], true[1:])
        assert np.array_equal(copy.actions, read_episode(file.path).actions[: copy.length])


def test_a_killed_run_ends_with_the_weights_of_an_uninterrupted_one(world: Path, tmp_path: Path) -> None:
    plain = training(world, run=str(tmp_path / "plain"), steps=60, checkpoint_seconds=0.05, optimiser="muon")
    assert train(plain) == 0
    script = (
        "import sys; from gymnast_core.config import load_config; from gymnast_core.world_model.train import *; "
        "sys.exit(train(load_config(TrainConfig, sys.argv[1], {'run': sys.argv[2]})))"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "plain" / "config.yaml"), str(tmp_path / "killed")]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    started = time.monotonic()
    while not list((tmp_path / "killed" / "checkpoints").glob("step_*")):
        assert process.poll() is None and not overdue(120.0, started)
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert train(replace(plain, run=str(tmp_path / "killed"))) == 0
    for (name, a), b in zip(weights(tmp_path / "plain").items(), weights(tmp_path / "killed").values(), strict=True):
        assert torch.equal(a, b), name
    with pytest.raises(ConfigError, match="holds a run with optimiser 'muon', found 'adamw'"):
        train(replace(plain, optimiser="adamw"))


def test_finetuning_goes_on_as_the_model_was_trained(world: Path, tmp_path: Path) -> None:
    words = ["world-model", "finetune", "--data", str(world / "data"), "--cache", str(world / "cache")]
    words += ["--run", str(tmp_path / "f"), "--steps", "50", "--batch", "8", "--horizon", "4", "--device", "cpu"]
    assert main([*words, "--warmup", "5"]) == 2  # nothing to start from
    assert main([*words, "--warmup", "5", "--init", str(world / "run" / "model")]) == 0
    before, after = load_world_model(world / "run" / "model"), load_world_model(tmp_path / "f" / "model")
    assert after.made_by["command"] == "gymnast world-model finetune"
    assert after.made_by["training"] == before.made_by["training"] and after.sampling == before.sampling
    assert after.model.config == before.model.config
    moved = [(a - b).abs().max() for a, b in zip(after.model.parameters(), before.model.parameters(), strict=True)]
    assert 0 < max(moved) < 3e-3 / 4 * 50  # AdamW moves a weight by about its learning rate a step
    assert load_config(FinetuneConfig, tmp_path / "f" / "config.yaml").learning_rate == pytest.approx(3e-3 / 4)
    first, fresh = (
        next(line["loss"] for line in metrics(run) if "loss" in line) for run in (tmp_path / "f", world / "run")
    )
    assert first < 0.7 * fresh and (tmp_path / "f" / "report.html").exists()


def test_two_processes_train_what_one_does(world: Path, tmp_path: Path) -> None:
    one = training(world, run=str(tmp_path / "one"), steps=4, accumulate=2, horizon=2)
    assert train(one) == 0
    script = tmp_path / "worker.py"
    script.write_text(
        "import sys; from gymnast_core.config import load_config; from gymnast_core.world_model.train import *\n"
        "sys.exit(train(load_config(TrainConfig, sys.argv[1], {'run': sys.argv[2], 'accumulate': 1})))\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    arguments = [str(tmp_path / "one" / "config.yaml"), str(tmp_path / "two")]
    done = subprocess.run([*command, *arguments], cwd=ROOT, env=environment, capture_output=True, timeout=HANG_S)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    for (name, a), b in zip(weights(tmp_path / "one").items(), weights(tmp_path / "two").values(), strict=True):
        torch.testing.assert_close(a, b, atol=2e-4, rtol=1e-3, msg=name)


def test_no_process_of_a_training_waits_for_one_that_ended(world: Path, tmp_path: Path) -> None:
    run, steps = tmp_path / "run", 100_000
    config = tmp_path / "config.yaml"
    config.write_text(dump_config(training(world, run=str(run), steps=steps, checkpoint_seconds=0.05, horizon=2)))
    script = (
        "import sys; from gymnast_core.config import load_config; from gymnast_core.world_model.train import *; "
        "sys.exit(train(load_config(TrainConfig, sys.argv[1])))"
    )
    for number in (signal.SIGINT, signal.SIGKILL):
        before = {path.name for path in run.glob("checkpoints/step_*")}
        with two_processes(sys.executable, "-c", script, str(config)) as processes:
            new = lambda before=before: {path.name for path in run.glob("checkpoints/step_*")} - before  # noqa: E731
            wait_for(new, 120.0, *processes)
            processes[1].send_signal(number)
            told = [process.communicate(timeout=HANG_S)[1] for process in processes]
            codes = [process.returncode for process in processes]
        assert codes == [130, -number if number == signal.SIGKILL else 130], told
        assert not any("Traceback" in text for text in told), told
        assert "start again" in told[0] if number == signal.SIGINT else "the same command goes on from" in told[0]
    done = max(int(path.name[5:]) for path in run.glob("checkpoints/step_*"))
    assert train(training(world, run=str(run), steps=done + 1, horizon=2)) == 0, "one goes on where two were ended"


def test_imagination_depends_on_the_start_and_its_seed_alone(world: Path) -> None:
    frames = [read_clip(file, SIZE)[0][0] for file in find_all(world / "data")[:3]]
    starts = [Start("push", frames[i % 3], seed=i) for i in range(4)]
    actions = np.random.default_rng(0).uniform(-0.02, 0.02, (4, 4, 7)).astype(np.float32)
    folder = world / "run" / "model"
    together = WorldModelEnvironment.from_folder(folder)
    assert isinstance(together, Environment)
    np.testing.assert_array_equal(together.reset(starts), np.stack([s.frame for s in starts if s.frame is not None]))
    results = [together.step(actions), together.step(actions)]
    video = together.video()
    assert video.shape == (4, 9, SIZE, SIZE, 3)
    np.testing.assert_array_equal(results[1].frames, together.video([-1])[:, 0])
    assert np.isnan(results[0].success).all() and results[0].executed.shape == (4, 4, 7)
    for i in (0, 3):
        alone = WorldModelEnvironment.from_folder(folder)
        alone.reset(starts[i : i + 1])
        for _ in range(2):
            alone.step(actions[i : i + 1])
        assert np.abs(alone.video()[0].astype(int) - video[i]).max() <= 1
    again = WorldModelEnvironment.from_folder(folder)
    again.reset([replace(starts[0], seed=77)])
    again.step(actions[:1])
    assert np.abs(again.video([-1])[0].astype(int) - video[0, 4]).max() > 1
    with pytest.raises(DataError, match="no frame"):
        again.reset([Start("push")])
    with pytest.raises(DataError, match="finite"):
        again.step(np.full((1, 1, 7), np.nan, np.float32))


def test_an_imagined_arm_keeps_to_the_safety_envelope(world: Path) -> None:
    """What the arm would not do is not imagined either: the world model sees the action that remains."""
    frame = read_clip(find_all(world / "data")[0], SIZE)[0][0]
    safety = SafetyConfig(max_translation=0.04, workspace_min=(0.2, -0.1, 0.02), workspace_max=(0.4, 0.1, 0.25))
    arm = DeadReckoning(ArmConfig(), safety)
    low = Start("push", frame, seed=1, position=(0.3, 0.0, 0.05))
    wild = np.tile(np.array([0.0, 0.0, -0.05, 0, 0, 0, 1], np.float32), (1, 3, 1))
    tame = wild.copy()
    tame[0, :, 2] = [-0.03, 0.0, 0.0]  # the table
    model = world / "run" / "model"
    limited = WorldModelEnvironment.from_folder(model, arm=arm)
    limited.reset([low])
    result = limited.step(wild)
    np.testing.assert_allclose(result.executed, tame, atol=1e-7)
    assert result.safety_events == [[("translation_clipped", "workspace_clipped")] * 3] and result.changed.all()
    free = WorldModelEnvironment.from_folder(model)
    free.reset([low])
    assert free.step(wild).safety_events == [[()] * 3] and (free.video([-1]) != limited.video([-1])).any()
    free.reset([low])
    free.step(result.executed)
    np.testing.assert_array_equal(free.video(), limited.video())
    limited.reset([replace(low, position=None)])  # taken for the station's start position, far above the table
    assert limited.step(wild).safety_events == [[("translation_clipped",)] * 3]
    with pytest.raises(DataError, match="finite"):
        limited.step(np.full((1, 1, 7), np.nan, np.float32))


def test_rollout_plays_an_episode_a_file_and_a_sweep(world: Path, tmp_path: Path) -> None:
    model, episode = str(world / "run" / "model"), str(find_all(world / "data")[0].path)
    assert rollout(RolloutConfig(model, str(tmp_path / "a.mp4"), episode=episode)) == 0
    assert read_video(tmp_path / "a.mp4").shape == (10, SIZE * 4, SIZE * 8, 3)  # the truth stands beside it
    np.savez(tmp_path / "actions.npz", actions=np.zeros((3, 7), np.float32))
    config = RolloutConfig(model, str(tmp_path / "b.mp4"), episode=episode, actions=str(tmp_path / "actions.npz"))
    assert rollout(config) == 0
    assert read_video(tmp_path / "b.mp4").shape == (4, SIZE * 4, SIZE * 4, 3)
    assert rollout(RolloutConfig(model, str(tmp_path / "c.mp4"), episode=episode, sweep="+x", steps=2)) == 0
    with pytest.raises(ConfigError, match="sweep"):
        rollout(RolloutConfig(model, str(tmp_path / "d.mp4"), episode=episode, sweep="sideways"))
    np.savez(tmp_path / "shape.npz", actions=np.zeros((3, 6)))
    with pytest.raises(DataError, match=r"shape\.npz"):
        rollout(RolloutConfig(model, str(tmp_path / "d.mp4"), episode=episode, actions=str(tmp_path / "shape.npz")))


def test_bad_data_and_checkpoints_are_named(world: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        train(training(world, run=str(tmp_path / "r"), data=(str(tmp_path / "nowhere"),)))
    with pytest.raises(CheckpointError, match="channels"):
        train(training(world, run=str(tmp_path / "r"), model=replace(MODEL, in_channels=4)))
    with pytest.raises(ConfigError, match="clip_frames"):
        training(world, clip_frames=7)
    loaded = load_world_model(world / "run" / "model")
    shutil.copytree(world / "data", tmp_path / "data")
    broken = split(find_all(tmp_path / "data"), 0.05)[1][0].path / "frames" / "000003.png"
    broken.write_bytes(b"not a picture")  # of a held-out episode: named before the training, not after it
    with pytest.raises(DataError, match=str(broken)):
        train(training(world, run=str(tmp_path / "r"), data=(str(tmp_path / "data"),), steps=1))
    assert not (tmp_path / "r").exists()
    save_world_model(tmp_path / "m", loaded)
    file = tmp_path / "m" / "weights.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"weights\.safetensors"):
        load_world_model(tmp_path / "m")
    other = LoadedWorldModel(WorldModel(replace(MODEL, dim=64)), loaded.autoencoder, loaded.sampling)
    save_world_model(tmp_path / "m", other)
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    config["model"]["dim"] = 32
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        CheckpointError, match=r"wrong shape: x_proj\.weight \(64, 3, 2, 2\) instead of \(32, 3, 2, 2\)"
    ):
        load_world_model(tmp_path / "m")


def test_a_loss_that_is_not_finite_stops_the_run_and_names_its_clips(world: Path, tmp_path: Path) -> None:
    save_autoencoder(tmp_path / "bad", SmallAutoencoder(SmallAutoencoderConfig(SIZE, 3, 16)), {})
    from safetensors.torch import load_file, save_file

    path = tmp_path / "bad" / "weights.safetensors"
    broken = load_file(str(path))
    broken["latent_scale"] = torch.tensor(1e38)  # latents overflow to infinity
    save_file(broken, str(path))
    config = training(world, run=str(tmp_path / "r"), autoencoder=str(tmp_path / "bad"), steps=3)
    with pytest.raises(DataError, match=r"loss is nan .* at step 0 .*; its clips came from .*/e\d"):
        train(config)


def test_clips_mix_sources_by_weight_and_pad_short_episodes(tmp_path: Path) -> None:
    write_toy_episodes(tmp_path / "long", 4, length=9)
    write_toy_episodes(tmp_path / "short", 4, length=2)
    sources = (str(tmp_path / "long"), f"{tmp_path / 'short'}@10")
    flat, held = flatten(sources, size=SIZE, cache=tmp_path / "cache", held_out=0.0)
    assert not held and flat.total_frames == 4 * 10 + 4 * 3
    # 40 frames at weight 1 and 12 at weight 10
    assert flat.weights[flat.part == 1].sum() == pytest.approx(120 / 160)
    clips = draw_clips(flat, 64, 6, np.random.default_rng(0))
    from_short = torch.tensor(["/short/" in name for name in clips.names])
    assert clips.valid[~from_short].all() and (clips.valid[from_short].sum(1) == 3).all()
    assert torch.equal(clips.values[from_short][:, 2], clips.values[from_short][:, 5])
    files = find_all(tmp_path / "long")
    train_files, held_files = split(files, 0.3)
    assert held_files and not set(train_files) & set(held_files) and len(train_files) + len(held_files) == 4


@pytest.mark.skipif(not BRIDGE.exists(), reason=f"real episodes are not at {BRIDGE}")
def test_both_episode_layouts_give_the_same_clip(tmp_path: Path) -> None:
    file = find_all(BRIDGE)[0]
    write_episode(tmp_path / "e", file.read())
    frames, conditions = read_clip(file, 64)
    same_frames, same_conditions = read_clip(find_all(tmp_path)[0], 64)
    with np.load(file.path.with_suffix(".npz"), allow_pickle=False) as archive:
        np.testing.assert_allclose(conditions[1:], archive["arr_0"][1:], atol=1e-5)
    np.testing.assert_allclose(same_conditions, conditions, atol=1e-5)
    assert np.abs(frames.astype(int) - same_frames).max() <= 1


def test_an_episode_ends_before_a_step_the_arm_never_answered(tmp_path: Path) -> None:
    with EpisodeWriter(tmp_path / "e", "open the drawer", {}) as writer:
        for k in range(4):
            writer.add_observation(np.full((32, 32, 3), 40 * k, np.uint8))
            executed = [np.nan] * 7 if k == 2 else [0.01 * k] * 6 + [1.0]
            writer.add_step([0.0] * 6 + [1.0], executed)
        writer.add_observation(np.full((32, 32, 3), 160, np.uint8))
        writer.finish(success=True)
    frames, conditions = read_clip(open_episode(tmp_path / "e"), 32)
    assert [int(frame.mean()) for frame in frames] == [0, 40, 80]
    assert len(conditions) == 3 and np.isfinite(conditions).all()


def test_stable_diffusion_latents_are_scaled_and_not_shifted(tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    vae = diffusers.AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=16,
        norm_num_groups=4,
        scaling_factor=1.5305,
        shift_factor=0.0609,
    )
    vae.save_pretrained(tmp_path / "vae")
    frames = np.random.default_rng(0).integers(0, 255, (3, 32, 32, 3)).astype(np.uint8)
    mean = StableDiffusion3Autoencoder(tmp_path, image_size=32, encode_as="mean", batch=2)
    assert mean.latent_shape == (4, 4, 16)
    images = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        expected = vae.encode(images).latent_dist.mean * 1.5305
        decoded = vae.decode(expected / 1.5305).sample
    latents = mean.encode(frames)
    torch.testing.assert_close(latents, expected.permute(0, 2, 3, 1), atol=1e-5, rtol=1e-4)
    pixels = ((decoded + 1) * 127.5).round().clamp(0, 255).permute(0, 2, 3, 1).numpy()
    assert np.abs(mean.decode(latents).astype(int) - pixels).max() <= 1
    sample = StableDiffusion3Autoencoder(tmp_path, image_size=32).encode(frames)
    assert not torch.allclose(sample, latents) and torch.equal(
        sample, StableDiffusion3Autoencoder(tmp_path, image_size=32).encode(frames)
    )
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        StableDiffusion3Autoencoder(tmp_path / "nowhere")
