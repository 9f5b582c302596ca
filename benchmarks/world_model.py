"""Imagining: speed of the cache modes, what decoding costs, what fewer steps and old keys cost, full size on a GPU.

    python -m benchmarks.world_model                    the four cache modes at a full window, as ratios
    python -m benchmarks.world_model --table decoding   a rollout with every frame decoded, or only those looked at
    python -m benchmarks.world_model --table solvers    picture error of a trained model by solver and steps
    python -m benchmarks.world_model --table sliding    exact against streaming past the window of a trained model
    python -m benchmarks.world_model --table full       full size (608 M), bf16, compiled; on a CUDA machine, see below

The rows of a table share one process and the same layers, so their ratios mean something on a busy machine; on a CPU,
processor seconds are counted, not the clock. Prints hardware, versions, sizes, date and a Markdown table.

`--table full` measures batches 32, 1 and 8, guidance 1 and 3, DDIM 10 and DPM-Solver++ 5 steps, without decoding and
with every frame or every fifth decoded by Stable Diffusion 3's autoencoder (its real size with random weights, unless
`--autoencoder FOLDER` names it), and which share of the measured matrix-product peak that is; then attention along time
computed in three ways, and the kernels that take most of a frame. `--seconds N` leaves out what would take longer, and
`--out FOLDER` gets the tables while they are made. On a CPU it runs at a toy size, to show that it works.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measure import Budget, Report, clock, fits, hardware, matmul_peak, repeated
from gymnast_core.data.formats import StoredEpisode, find_all
from gymnast_core.reporting.media import write_picture
from gymnast_core.world_model.autoencoder import Autoencoder, StableDiffusion3Autoencoder
from gymnast_core.world_model.checkpoint import LoadedWorldModel, load_world_model
from gymnast_core.world_model.config import CACHE_MODES, SOLVERS, CacheMode, SolverKind, WorldModelConfig
from gymnast_core.world_model.diffusion import Schedule, Solver
from gymnast_core.world_model.imagine import Imagination
from gymnast_core.world_model.metrics import psnr
from gymnast_core.world_model.model import WorldModel, attend, attend_reading_once, parameter_count
from gymnast_core.world_model.pictures import evaluate_episodes
from gymnast_core.world_model.sampler import LatentRollout


def seconds(device: torch.device) -> float:
    return clock(device) if device.type == "cuda" else time.process_time()


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


def random_world_model(config: WorldModelConfig, device: str, dtype: torch.dtype) -> WorldModel:
    """Random weights everywhere, drawn on the device: a product with zeros may be faster than one with a model's."""
    with torch.device("meta"):
        model = WorldModel(config)
    model = model.to(dtype).to_empty(device=device)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.02)
    return model.eval().requires_grad_(False)


def build(config: WorldModelConfig, options: argparse.Namespace) -> WorldModel:
    return random_world_model(config, options.device, torch.bfloat16 if options.bf16 else torch.float32)


def describe(options: argparse.Namespace) -> str:
    """The first line of every table."""
    unit = "wall" if options.device.startswith("cuda") else "processor"
    return f"{hardware(options.device)}, {'bf16' if options.bf16 else 'float32'}, {unit} seconds"


def cache_table(options: argparse.Namespace, report: Report) -> None:
    config = WorldModelConfig(
        in_channels=options.channels,
        patch_size=options.patch,
        dim=options.dim,
        num_layers=options.layers,
        num_heads=options.heads,
        max_frames=options.window,
    )
    model, budget = build(config, options), Budget(options.seconds)
    report.say(describe(options))
    latents = f"{options.latent}x{options.latent}x{config.in_channels}"
    report.say(f"{parameter_count(model) / 1e6:.2f} M parameters, latents {latents}")
    report.say(f"window {options.window}, {options.steps} steps, guidance {options.guidance}, batch {options.batch}\n")
    report.table("mode", "frame-forwards a frame", "seconds a frame and batch", "frames/s", "times no cache")
    base, longest = 0.0, 0.0
    schedule = Schedule(device=options.device)
    for mode in CACHE_MODES:
        if not fits(report, budget, mode, longest):
            continue
        began = time.monotonic()
        with report.attempt(mode):
            play = LatentRollout(
                model,
                schedule,
                sampling_steps=options.steps,
                guidance=options.guidance,
                mode=mode,
                compile=options.compile,
                backend=options.backend,
            )
            forwards, spent = FullWindow(play, options.batch, options.latent).measure(options.frames)
            base = base or spent
            rate = options.batch / spent
            report.row(mode, f"{forwards:.0f}", f"{spent:.3f}", f"{rate:.1f}", f"{base / spent:.1f}")
        longest = max(longest, time.monotonic() - began)


def decoding_table(options: argparse.Namespace, report: Report) -> None:
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
    report.say(describe(options))
    report.say(f"{options.model}, batch {options.batch}, {horizon} frames, {loaded.sampling}\n")
    report.table("decoded", "frames", "seconds", "of which decoding", "frames/s", "times every frame decoded")
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
        report.row(name, len(wanted), f"{best:.2f}", f"{decoding / best:.0%}", f"{rate:.0f}", f"{base / best:.2f}")


def held_out(options: argparse.Namespace) -> list[StoredEpisode]:
    return [file for folder in options.data.split(",") for file in find_all(folder)][: options.episodes]


def table_head(report: Report, frames: Sequence[int], first: str) -> None:
    report.table(first, *(f"frame {k}" for k in frames))


def solver_table(options: argparse.Namespace, report: Report) -> None:
    """PSNR in dB and SSIM of held-out episodes; the network's cost grows with steps + 1 (streaming)."""
    loaded, files = load_world_model(options.model, options.device), held_out(options)
    frames = (1, 5, 10, 20, 30)
    report.say(describe(options))
    report.say(f"{options.model}, {len(files)} episodes of {options.data}, {loaded.sampling.mode}; dB (SSIM)\n")
    table_head(report, frames, "solver and steps")
    chosen: list[tuple[SolverKind, int]] = [("ddim", 1), ("ddim", 2)]
    chosen += [(kind, steps) for steps in (3, 5, 10) for kind in SOLVERS]
    for kind, steps in chosen:
        sampling = replace(loaded.sampling, steps=steps, solver=kind)
        error = evaluate_episodes(loaded, files, max(frames), 0, sampling, strips=0, samples=0).metrics
        cells = [f"{error[f'psnr_{k}']:.2f} ({error[f'ssim_{k}']:.3f})" for k in frames]
        name = f"either, {steps}" if steps < 3 else f"{kind}, {steps}"
        report.row(name, *cells)
    cells = [f"{error[f'copy_{k}']:.2f} ({error[f'copy_ssim_{k}']:.3f})" for k in frames]
    report.row("first frame copied", *cells)


def sliding_table(options: argparse.Namespace, report: Report) -> None:
    """PSNR and SSIM of exact and streaming on episodes longer than the window, and how far they are apart."""
    loaded, files = load_world_model(options.model, options.device), held_out(options)
    frames, window = (10, 20, 30, 45, 60), loaded.model.config.max_frames
    report.say(describe(options))
    report.say(f"{options.model}, {len(files)} episodes of {options.data}, window {window}; dB (SSIM)\n")
    table_head(report, frames, "mode")
    videos: dict[str, list[np.ndarray]] = {}
    modes: tuple[CacheMode, ...] = ("exact", "streaming")
    for mode in modes:
        result = evaluate_episodes(
            loaded, files, max(frames), 0, replace(loaded.sampling, mode=mode), strips=0, samples=len(files)
        )
        videos[mode] = list(result.samples)
        error = result.metrics
        cells = [f"{error[f'psnr_{k}']:.2f} ({error[f'ssim_{k}']:.3f})" for k in frames]
        report.row(mode, *cells)
    size = loaded.autoencoder.image_size
    pairs = list(zip(videos["exact"], videos["streaming"], strict=True))
    cells = [f"{np.mean([psnr(a[k, :, size:], b[k, :, size:]) for a, b in pairs]):.2f}" for k in frames]
    report.row("one against the other", *cells)
    cells = [f"{error[f'copy_{k}']:.2f} ({error[f'copy_ssim_{k}']:.3f})" for k in frames]
    report.row("first frame copied", *cells)
    if options.picture:
        picked = [0, 5, *frames]
        rows = []
        for exact, streaming in pairs[:2]:
            for source in (exact[:, :, :size], exact[:, :, size:], streaming[:, :, size:]):
                rows.append(np.concatenate(list(source[picked]), axis=1))
            rows.append(np.full((6, rows[-1].shape[1], 3), 255, np.uint8))
        write_picture(options.picture, np.concatenate(rows[:-1]))


def stable_diffusion_autoencoder(options: argparse.Namespace, image_size: int) -> Autoencoder | None:
    """The named one, or its architecture with random weights; None without `diffusers`."""
    dtype = torch.bfloat16 if options.bf16 else torch.float32
    if options.autoencoder:
        return StableDiffusion3Autoencoder(
            options.autoencoder, image_size=image_size, device=options.device, dtype=dtype
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
        return StableDiffusion3Autoencoder(folder, image_size=image_size, device=options.device, dtype=dtype)


def full_table(options: argparse.Namespace, report: Report) -> None:
    device = torch.device(options.device)
    on_gpu = device.type == "cuda"
    options.bf16 = on_gpu
    budget = Budget(options.seconds)
    toy = WorldModelConfig(dim=32, num_layers=2, num_heads=2, max_frames=6)
    config, latent = (WorldModelConfig(), 32) if on_gpu else (toy, 8)
    model = build(config, options)
    autoencoder = None
    with report.attempt("autoencoder"):
        autoencoder = stable_diffusion_autoencoder(options, latent * 8)
    peak = matmul_peak(device, model.x_proj.weight.dtype)
    report.say(describe(options))
    report.say(f"{parameter_count(model) / 1e6:.0f} M parameters, latents {latent}x{latent}x16, {options.mode}")
    passes = f"compiled ({options.backend or 'recorded alone'})" if options.compile else "not compiled"
    report.say(f"matrix product: {peak / 1e12:.3g} TFLOP/s; passes {passes}")
    decoder = "none (needs the package diffusers)" if autoencoder is None else options.autoencoder or "random weights"
    report.say(f"autoencoder: {decoder}\n")
    report.table("batch", "guidance", "solver", "decoded", "frames/s", "ms a frame and batch", "share of the peak")
    batches = [int(batch) for batch in options.batches.split(",")]
    rates: dict[int, float] = {}
    longest = 0.0
    for guidance in (1.0,) if options.no_guidance else (1.0, 3.0):
        for batch in batches:
            what = f"batch {batch}, guidance {guidance:.0f}"
            if not fits(report, budget, what, longest):
                continue
            began = time.monotonic()
            with report.attempt(what):
                decode = autoencoder if guidance == 1 else None
                rates |= full_rows(model, options, report, batch, latent, guidance, decode, peak)
            longest = max(longest, time.monotonic() - began)
    if 1 in rates and 8 in rates:
        ratio = rates[8] / rates[1]
        report.say(f"\nbatch 8 against batch 1: {ratio:.1f} times the frames/s (guidance 1, DDIM 10, not decoded)")
    if fits(report, budget, "attention along time", 30 if on_gpu else 0):
        with report.attempt("attention along time"):
            attention_table(options, report, config, (latent // 2) ** 2, batches)
    if on_gpu and fits(report, budget, "kernels of a frame", 40):
        with report.attempt("kernels of a frame"):
            kernel_table(model, options, report, max(batches), latent)


def full_rows(
    model: WorldModel,
    options: argparse.Namespace,
    report: Report,
    batch: int,
    latent: int,
    guidance: float,
    autoencoder: Autoencoder | None,
    peak: float,
) -> dict[int, float]:
    """The rows of one batch size and guidance; frames/s by batch, of guidance 1, DDIM 10, no decoding alone."""
    schedule = Schedule(device=options.device)
    frames = options.frames if options.frames > 2 or options.device == "cpu" else 10
    play = LatentRollout(
        model, schedule, guidance=guidance, mode=options.mode, compile=options.compile, backend=options.backend
    )
    window = FullWindow(play, batch, latent)
    rates: dict[int, float] = {}
    solvers: tuple[tuple[SolverKind, int], ...] = (("ddim", 10), ("dpm++", 5))
    for kind, steps in solvers:
        play.solver = Solver(schedule, schedule.sampling_levels(steps), kind)
        compiled, play._compiled = play._compiled, None  # operations are counted on plain layers
        with FlopCounterMode(display=False) as counter:
            window.extend()
        play._compiled = compiled
        window.extend()
        decodings: list[tuple[str, Autoencoder | None, int]] = [("none", None, 1)]
        if autoencoder is not None:
            decodings += [("every frame", autoencoder, 1), ("every 5th", autoencoder, 5)]
        for name, decoder, every in decodings:
            if decoder is not None:
                window.measure(1, decoder)  # warms up
            _, spent = window.measure(-(-frames // every) * every, decoder, every)
            share = "" if decoder else f"{counter.get_total_flops() / spent / peak:.0%}"
            if decoder is None and guidance == 1 and kind == "ddim":
                rates[batch] = batch / spent
            report.row(
                batch, f"{guidance:.0f}", f"{kind} {steps}", name, f"{batch / spent:.1f}", f"{1000 * spent:.1f}", share
            )
    return rates


def attention_table(
    options: argparse.Namespace, report: Report, config: WorldModelConfig, tokens: int, batches: Sequence[int]
) -> None:
    """One frame looking at a full window, in one layer: the fused kernel, what plain and what compiled passes do."""
    dtype = torch.bfloat16 if options.bf16 else torch.float32
    report.say("\nAttention of one frame along time, one layer\n")
    report.table("batch", "fused kernel, ms", "matrix products, ms", "read once, ms", "GB/s of this")
    for batch in batches:
        shape = (batch, tokens, config.num_heads, config.max_frames, config.head_dim)
        q = torch.randn(*shape[:3], 1, shape[-1], device=options.device, dtype=dtype)
        k, v = (torch.randn(shape, device=options.device, dtype=dtype) for _ in range(2))
        mask = torch.ones(1, config.max_frames, dtype=torch.bool, device=options.device)
        once = torch.compile(attend_reading_once, backend=options.backend or "eager", dynamic=False)
        flat = [x.flatten(1, 2) for x in (q, k, v)]
        with torch.no_grad():
            fused = min(repeated(partial(F.scaled_dot_product_attention, *flat, attn_mask=mask), 20, options.device))
            products = min(repeated(partial(attend, q, k, v, mask, temporal=True), 20, options.device))
            read = min(repeated(partial(once, q, k, v, mask), 20, options.device))
        moved = 2 * k.numel() * k.element_size() / read / 1e9
        report.row(batch, *(f"{1000 * spent:.3f}" for spent in (fused, products, read)), f"{moved:.0f}")


def kernel_table(
    model: WorldModel, options: argparse.Namespace, report: Report, batch: int, latent: int, count: int = 15
) -> None:
    """Where a frame's time goes on the GPU."""
    play = LatentRollout(
        model, Schedule(device=options.device), mode=options.mode, compile=options.compile, backend=options.backend
    )
    window = FullWindow(play, batch, latent)
    window.extend()
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        window.extend()
        torch.cuda.synchronize()
    kernels = sorted(profile.key_averages(), key=lambda event: -event.self_device_time_total)
    total = sum(event.self_device_time_total for event in kernels) or 1.0
    report.say(f"\nKernels of one frame, batch {batch}, guidance 1, DDIM 10: {total / 1000:.1f} ms\n")
    report.table("kernel", "calls", "ms", "share")
    for event in kernels[:count]:
        spent = event.self_device_time_total
        name = event.key.replace("|", "/")[:90]
        report.row(f"`{name}`", event.count, f"{spent / 1000:.2f}", f"{spent / total:.0%}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", choices=("cache", "decoding", "solvers", "sliding", "full"), default="cache")
    parser.add_argument("--device", default="")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, help="default: only in the full table")
    parser.add_argument("--backend", default="inductor", help="of torch.compile; none: CUDA graphs alone")
    parser.add_argument("--frames", type=int, default=2, help="frames measured in each row")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument(
        "--seconds", type=float, default=0.0, help="of the tables cache and full: leave out what is over"
    )
    parser.add_argument("--out", default="", help="folder for the tables, written as they are made")
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
    trained.add_argument("--episodes", type=int, default=1000, help="episodes, at most")
    trained.add_argument("--picture", default="", help="PNG with the truth, exact and streaming, frame by frame")
    full = parser.add_argument_group("full size")
    full.add_argument("--batches", default="32,1,8", help="in this order")
    full.add_argument("--mode", choices=CACHE_MODES, default="streaming")
    full.add_argument("--no-guidance", action="store_true", help="leave guidance 3 out")
    full.add_argument("--autoencoder", default="", help="folder of Stable Diffusion 3's")
    options = parser.parse_args()
    if not options.device:
        options.device = "cuda" if options.table == "full" and torch.cuda.is_available() else "cpu"
    if options.compile is None:
        options.compile = options.table == "full"
    if options.backend == "none":
        options.backend = None
    return options


def main() -> int:
    options = arguments()
    tables = {
        "cache": cache_table,
        "decoding": decoding_table,
        "solvers": solver_table,
        "sliding": sliding_table,
        "full": full_table,
    }
    report = Report(f"world_model_{options.table}", options.out)
    tables[options.table](options, report)
    return report.exit_code()


if __name__ == "__main__":
    raise SystemExit(main())
