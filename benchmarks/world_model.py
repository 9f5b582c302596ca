"""Imagining: speed of the cache modes, what decoding costs, what fewer steps and old keys cost, full size on a GPU.

    python -m benchmarks.world_model                    the four cache modes at a full window, as ratios
    python -m benchmarks.world_model --table decoding   a rollout with every frame decoded, or only those looked at
    python -m benchmarks.world_model --table solvers    picture error of a trained model by solver and steps
    python -m benchmarks.world_model --table sliding    exact against streaming past the window of a trained model
    python -m benchmarks.world_model --table full       full size (608 M), bf16, compiled; on a CUDA machine, see below

The rows of a table share one process and the same layers, so their ratios mean something on a busy machine; on a CPU,
processor seconds are counted, not the clock. Prints hardware, versions, sizes, date and a Markdown table.

`--table full` measures batches 1, 8 and 32, guidance 1 and 3, DDIM 10 and DPM-Solver++ 5 steps, without decoding and
with every frame or every fifth decoded by Stable Diffusion 3's autoencoder (its real size with random weights, unless
`--autoencoder FOLDER` names it), and which share of the measured matrix-product peak that is. About ten minutes;
`--batches 1` or `--no-guidance` make it shorter. On a CPU it runs at a toy size, to show that it works.
"""

from __future__ import annotations

import argparse
import datetime
import platform
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from gymnast_core.reporting.media import write_picture
from gymnast_core.world_model.autoencoder import Autoencoder, StableDiffusion3Autoencoder
from gymnast_core.world_model.checkpoint import LoadedWorldModel, load_world_model
from gymnast_core.world_model.dataset import EpisodeFile, find_all
from gymnast_core.world_model.diffusion import SOLVERS, Schedule, Solver, SolverKind
from gymnast_core.world_model.evaluate import evaluate_episodes
from gymnast_core.world_model.imagine import Imagination
from gymnast_core.world_model.metrics import psnr
from gymnast_core.world_model.model import WorldModel, WorldModelConfig, parameter_count
from gymnast_core.world_model.sampler import CACHE_MODES, CacheMode, LatentRollout


def seconds(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


class FullWindow:
    """A rollout whose window is full and slides."""

    def __init__(self, play: LatentRollout, batch: int, latent: int) -> None:
        config = play.model.config
        self.play, self.batch = play, batch
        self.device = play.model.x_proj.weight.device
        self.generator = torch.Generator().manual_seed(0)
        self.shape = (batch, latent, latent, config.in_channels)
        self.action = torch.zeros(batch, config.action_dim, device=self.device)
        play.start(self.noise())
        # The cheapest number of steps fills the window: what is in it does not matter to the time.
        chosen, play.solver = play.solver, Solver(play.schedule, play.schedule.sampling_levels(1))
        for _ in range(config.max_frames):
            self.extend()
        play.solver = chosen
        self.extend()

    def noise(self) -> torch.Tensor:
        return torch.randn(self.shape, generator=self.generator).to(self.device)

    def extend(self) -> torch.Tensor:
        return self.play.extend(self.action, self.noise())

    def measure(self, frames: int, autoencoder: Autoencoder | None = None, every: int = 1) -> tuple[float, float]:
        """(frame-forwards, seconds) per new frame; with an autoencoder, one frame in `every` is decoded."""
        forwards, began = self.play.frame_forwards, seconds(self.device)
        for index in range(frames):
            latents = self.extend()
            if autoencoder is not None and index % every == every - 1:
                autoencoder.decode(latents)
        return (self.play.frame_forwards - forwards) / frames, (seconds(self.device) - began) / frames


def build(config: WorldModelConfig, options: argparse.Namespace) -> WorldModel:
    model = WorldModel(config)
    model.initialise(0)
    return model.to(options.device, torch.bfloat16 if options.bf16 else torch.float32).eval().requires_grad_(False)


def describe(options: argparse.Namespace) -> str:
    """The first line of every table."""
    hardware = torch.cuda.get_device_name() if options.device.startswith("cuda") else platform.processor() or "CPU"
    unit = "wall" if options.device.startswith("cuda") else "processor"
    kind = "bf16" if options.bf16 else "float32"
    return (
        f"{datetime.date.today()}, {hardware} {platform.machine()}, torch {torch.__version__}, {kind}, "
        f"{torch.get_num_threads()} threads, {unit} seconds"
    )


def cache_table(options: argparse.Namespace) -> None:
    config = WorldModelConfig(
        in_channels=options.channels,
        patch_size=options.patch,
        dim=options.dim,
        num_layers=options.layers,
        num_heads=options.heads,
        max_frames=options.window,
    )
    model = build(config, options)
    print(describe(options))
    latents = f"{options.latent}x{options.latent}x{config.in_channels}"
    print(f"{parameter_count(model) / 1e6:.2f} M parameters, latents {latents}")
    print(f"window {options.window}, {options.steps} steps, guidance {options.guidance}, batch {options.batch}\n")
    print("| mode | frame-forwards a frame | seconds a frame and batch | frames/s | times no cache |")
    print("|---|---|---|---|---|")
    base = 0.0
    schedule = Schedule(device=options.device)
    for mode in CACHE_MODES:
        play = LatentRollout(
            model, schedule, sampling_steps=options.steps, guidance=options.guidance, mode=mode, compile=options.compile
        )
        forwards, spent = FullWindow(play, options.batch, options.latent).measure(options.frames)
        base = base or spent
        rate = options.batch / spent
        print(f"| {mode} | {forwards:.0f} | {spent:.3f} | {rate:.1f} | {base / spent:.1f} |", flush=True)


def decoding_table(options: argparse.Namespace) -> None:
    """One group of rollouts as the trainer plays it: chunks of 5 actions, a judge with a stride of 3."""
    device = torch.device(options.device)
    loaded: LoadedWorldModel = load_world_model(options.model, options.device)
    size, horizon = loaded.autoencoder.image_size, 30
    frame = np.random.default_rng(0).integers(0, 255, (size, size, 3)).astype(np.uint8)
    actions = np.zeros((options.batch, 7), np.float32)
    policy = set(range(5, horizon + 1, 5))
    judge = {*range(0, horizon + 1, 3), horizon}
    rows: Sequence[tuple[str, set[int]]] = (
        ("every frame", set(range(1, horizon + 1))),
        ("policy's (every 5th) and judge's (stride 3, last)", (policy | judge) - {0}),
        ("policy's alone", policy),
        ("none", set()),
    )
    print(describe(options))
    print(f"{options.model}, batch {options.batch}, {horizon} frames, {loaded.sampling}\n")
    print("| decoded | frames | seconds | of which decoding | frames/s | times every frame decoded |")
    print("|---|---|---|---|---|---|")
    play = Imagination(loaded)
    base = 0.0
    for name, wanted in rows:
        best, decoding = float("inf"), 0.0
        for _ in range(3):  # the first also warms up
            play.start([frame] * options.batch, list(range(options.batch)))
            began, spent = seconds(device), 0.0
            for k in range(1, horizon + 1):
                play.step(actions)
                if k in wanted & policy or len(wanted) == horizon:
                    before = seconds(device)
                    play.decode([k])
                    spent += seconds(device) - before
            late = sorted(wanted - policy) if len(wanted) < horizon else []
            if late:  # the judge looks when the rollout is over
                before = seconds(device)
                play.decode(late)
                spent += seconds(device) - before
            total = seconds(device) - began
            if total < best:
                best, decoding = total, spent
        base = base or best
        rate = options.batch * horizon / best
        print(
            f"| {name} | {len(wanted)} | {best:.2f} | {decoding / best:.0%} | {rate:.0f} | {base / best:.2f} |",
            flush=True,
        )


def held_out(options: argparse.Namespace) -> list[EpisodeFile]:
    return [file for folder in options.data.split(",") for file in find_all(folder)][: options.episodes]


def table_head(frames: Sequence[int], first: str) -> None:
    print("| " + " | ".join([first, *(f"frame {k}" for k in frames)]) + " |")
    print("|---" * (len(frames) + 1) + "|")


def solver_table(options: argparse.Namespace) -> None:
    """PSNR in dB and SSIM of held-out episodes; the network's cost grows with steps + 1 (streaming)."""
    loaded, files = load_world_model(options.model, options.device), held_out(options)
    frames = (1, 5, 10, 20, 30)
    print(describe(options))
    print(f"{options.model}, {len(files)} episodes of {options.data}, {loaded.sampling.mode}; dB (SSIM)\n")
    table_head(frames, "solver and steps")
    chosen: list[tuple[SolverKind, int]] = [("ddim", 1), ("ddim", 2)]
    chosen += [(kind, steps) for steps in (3, 5, 10) for kind in SOLVERS]
    for kind, steps in chosen:
        sampling = replace(loaded.sampling, steps=steps, solver=kind)
        error = evaluate_episodes(loaded, files, max(frames), 0, sampling, strips=0, samples=0).metrics
        cells = [f"{error[f'psnr_{k}']:.2f} ({error[f'ssim_{k}']:.3f})" for k in frames]
        name = f"either, {steps}" if steps < 3 else f"{kind}, {steps}"
        print("| " + " | ".join([name, *cells]) + " |", flush=True)
    cells = [f"{error[f'copy_{k}']:.2f} ({error[f'copy_ssim_{k}']:.3f})" for k in frames]
    print("| " + " | ".join(["first frame copied", *cells]) + " |", flush=True)


def sliding_table(options: argparse.Namespace) -> None:
    """PSNR and SSIM of exact and streaming on episodes longer than the window, and how far they are apart."""
    loaded, files = load_world_model(options.model, options.device), held_out(options)
    frames, window = (10, 20, 30, 45, 60), loaded.model.config.max_frames
    print(describe(options))
    print(f"{options.model}, {len(files)} episodes of {options.data}, window {window}; dB (SSIM)\n")
    table_head(frames, "mode")
    videos: dict[str, list[np.ndarray]] = {}
    modes: tuple[CacheMode, ...] = ("exact", "streaming")
    for mode in modes:
        result = evaluate_episodes(
            loaded, files, max(frames), 0, replace(loaded.sampling, mode=mode), strips=0, samples=len(files)
        )
        videos[mode] = list(result.samples)
        error = result.metrics
        cells = [f"{error[f'psnr_{k}']:.2f} ({error[f'ssim_{k}']:.3f})" for k in frames]
        print("| " + " | ".join([mode, *cells]) + " |", flush=True)
    size = loaded.autoencoder.image_size
    pairs = list(zip(videos["exact"], videos["streaming"], strict=True))
    cells = [f"{np.mean([psnr(a[k, :, size:], b[k, :, size:]) for a, b in pairs]):.2f}" for k in frames]
    print("| " + " | ".join(["one against the other", *cells]) + " |")
    cells = [f"{error[f'copy_{k}']:.2f} ({error[f'copy_ssim_{k}']:.3f})" for k in frames]
    print("| " + " | ".join(["first frame copied", *cells]) + " |")
    if options.picture:
        picked = [0, 5, *frames]
        rows = []
        for exact, streaming in pairs[:2]:
            for source in (exact[:, :, :size], exact[:, :, size:], streaming[:, :, size:]):
                rows.append(np.concatenate(list(source[picked]), axis=1))
            rows.append(np.full((6, rows[-1].shape[1], 3), 255, np.uint8))
        write_picture(options.picture, np.concatenate(rows[:-1]))


def matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations a second of a large matrix product."""
    side, repeats = (8192, 20) if device.type == "cuda" else (1024, 3)
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    for _ in range(2):
        a @ b
    began = seconds(device)
    for _ in range(repeats):
        a @ b
    return 2 * side**3 * repeats / (seconds(device) - began)


def stable_diffusion_autoencoder(options: argparse.Namespace, image_size: int) -> Autoencoder | None:
    """The named one, or its architecture with random weights; None without `diffusers`."""
    dtype = torch.bfloat16 if options.bf16 else torch.float32
    if options.autoencoder:
        return StableDiffusion3Autoencoder(
            options.autoencoder, image_size=image_size, device=options.device, dtype=dtype, batch=32
        )
    try:
        from diffusers import AutoencoderKL
    except ImportError:
        return None
    widths = (128, 256, 512, 512) if image_size == 256 else (8, 8, 8, 8)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=widths,
        layers_per_block=2,
        latent_channels=16,
        norm_num_groups=32 if image_size == 256 else 4,
        scaling_factor=1.5305,
        shift_factor=0.0609,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    with tempfile.TemporaryDirectory() as folder:
        vae.save_pretrained(Path(folder) / "vae")
        return StableDiffusion3Autoencoder(folder, image_size=image_size, device=options.device, dtype=dtype, batch=32)


def full_table(options: argparse.Namespace) -> None:
    device = torch.device(options.device)
    on_gpu = device.type == "cuda"
    options.bf16 = on_gpu
    toy = WorldModelConfig(dim=32, num_layers=2, num_heads=2, max_frames=6)
    config, latent = (WorldModelConfig(), 32) if on_gpu else (toy, 8)
    model = build(config, options)
    autoencoder = stable_diffusion_autoencoder(options, latent * 8)
    peak = matmul_peak(device, model.x_proj.weight.dtype)
    schedule = Schedule(device=device)
    frames = options.frames if options.frames > 2 or not on_gpu else 10
    batches = [int(batch) for batch in options.batches.split(",")]
    print(describe(options))
    print(f"{parameter_count(model) / 1e6:.0f} M parameters, latents {latent}x{latent}x16, {options.mode}")
    print(f"matrix product: {peak / 1e12:.3g} TFLOP/s; compiled: {options.compile}")
    print(f"autoencoder: {'needs the package diffusers' if autoencoder is None else options.autoencoder or 'random'}\n")
    print("| batch | guidance | solver | decoded | frames/s | ms a frame and batch | share of the peak |")
    print("|---|---|---|---|---|---|---|")
    rates: dict[int, float] = {}
    for batch in batches:
        for guidance in (1.0,) if options.no_guidance else (1.0, 3.0):
            play = LatentRollout(
                model, schedule, guidance=guidance, mode=options.mode, compile=options.compile, backend=options.backend
            )
            window = FullWindow(play, batch, latent)
            solvers: tuple[tuple[SolverKind, int], ...] = (("ddim", 10), ("dpm++", 5))
            for kind, steps in solvers:
                play.solver = Solver(schedule, schedule.sampling_levels(steps), kind)
                compiled, play._compiled = play._compiled, None  # operations are counted on plain layers
                with FlopCounterMode(display=False) as counter:
                    window.extend()
                play._compiled = compiled
                window.extend()
                decodings: list[tuple[str, Autoencoder | None, int]] = [("none", None, 1)]
                if autoencoder is not None and guidance == 1:
                    decodings += [("every frame", autoencoder, 1), ("every 5th", autoencoder, 5)]
                for name, decoder, every in decodings:
                    _, spent = window.measure(-(-frames // every) * every, decoder, every)
                    share = "" if decoder else f"{counter.get_total_flops() / spent / peak:.0%}"
                    if decoder is None and guidance == 1 and kind == "ddim":
                        rates[batch] = batch / spent
                    print(
                        f"| {batch} | {guidance:.0f} | {kind} {steps} | {name} | {batch / spent:.1f} | "
                        f"{1000 * spent:.1f} | {share} |",
                        flush=True,
                    )
            del window, play
    if 1 in rates and 8 in rates:
        ratio = rates[8] / rates[1]
        print(f"\nbatch 8 against batch 1: {ratio:.1f} times the frames/s (guidance 1, DDIM 10, not decoded)")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", choices=("cache", "decoding", "solvers", "sliding", "full"), default="cache")
    parser.add_argument("--device", default="")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, help="default: only in the full table")
    parser.add_argument("--backend", default="inductor", help="of torch.compile")
    parser.add_argument("--frames", type=int, default=2, help="frames measured in each row")
    parser.add_argument("--batch", type=int, default=2)
    cache = parser.add_argument_group("cache modes")
    cache.add_argument("--dim", type=int, default=256)
    cache.add_argument("--layers", type=int, default=4)
    cache.add_argument("--heads", type=int, default=4)
    cache.add_argument("--channels", type=int, default=16)
    cache.add_argument("--patch", type=int, default=2)
    cache.add_argument("--latent", type=int, default=16, help="side of the latents")
    cache.add_argument("--window", type=int, default=20)
    cache.add_argument("--steps", type=int, default=10, help="denoising steps")
    cache.add_argument("--guidance", type=float, default=1.0)
    cache.add_argument("--bf16", action="store_true")
    parser.add_argument("--model", default="mini/world_model", help="of the tables decoding, solvers and sliding")
    trained = parser.add_argument_group("solvers and sliding")
    trained.add_argument("--data", default="runs/data/heldout,runs/data/heldout_policy", help="folders of episodes")
    trained.add_argument("--episodes", type=int, default=1000, help="at most so many")
    trained.add_argument("--picture", default="", help="PNG with the truth, exact and streaming, frame by frame")
    full = parser.add_argument_group("full size")
    full.add_argument("--batches", default="1,8,32")
    full.add_argument("--mode", choices=CACHE_MODES, default="streaming")
    full.add_argument("--no-guidance", action="store_true", help="leave guidance 3 out")
    full.add_argument("--autoencoder", default="", help="folder of Stable Diffusion 3's")
    options = parser.parse_args()
    if not options.device:
        options.device = "cuda" if options.table == "full" and torch.cuda.is_available() else "cpu"
    if options.compile is None:
        options.compile = options.table == "full"
    tables = {
        "cache": cache_table,
        "decoding": decoding_table,
        "solvers": solver_table,
        "sliding": sliding_table,
        "full": full_table,
    }
    tables[options.table](options)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
