"""Speed of imagining one more frame at a full window: no cache, a cache cleared at every frame, and ours.

    python -m benchmarks.world_model [--dim 256 --layers 4 --latent 16 --batch 2 --device cpu]

All modes share the same layers in one process, so the ratios mean something on a busy machine; on a CPU, processor
seconds are counted, not the clock. Prints hardware, versions, sizes, date and a Markdown table.
"""

from __future__ import annotations

import argparse
import datetime
import platform
import time

import torch

from gymnast_core.world_model.diffusion import Schedule
from gymnast_core.world_model.model import WorldModel, WorldModelConfig, parameter_count
from gymnast_core.world_model.sampler import CACHE_MODES, CacheMode, LatentRollout


def seconds(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def measure(
    model: WorldModel, mode: CacheMode, batch: int, latent: int, steps: int, guidance: float, frames: int
) -> tuple[float, float]:
    """(frame-forwards, seconds) per new frame of one rollout batch, once the window is full and slides."""
    device = model.x_proj.weight.device
    config = model.config
    generator = torch.Generator().manual_seed(0)
    shape = (batch, latent, latent, config.in_channels)
    play = LatentRollout(model, Schedule(device=device), sampling_steps=steps, guidance=guidance, mode=mode)
    play.start(torch.randn(shape, generator=generator).to(device))
    action = torch.zeros(batch, config.action_dim, device=device)
    # Filling the window with the cheapest number of steps: its content does not matter to the time.
    play.levels, levels = play.schedule.sampling_levels(1), play.levels
    for _ in range(config.max_frames):
        play.extend(action, torch.randn(shape, generator=generator))
    play.levels = levels
    play.extend(action, torch.randn(shape, generator=generator))
    forwards, began = model.frame_forwards, seconds(device)
    for _ in range(frames):
        play.extend(action, torch.randn(shape, generator=generator))
    return (model.frame_forwards - forwards) / frames, (seconds(device) - began) / frames


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--patch", type=int, default=2)
    parser.add_argument("--latent", type=int, default=16, help="side of the latents")
    parser.add_argument("--window", type=int, default=20)
    parser.add_argument("--steps", type=int, default=10, help="DDIM steps")
    parser.add_argument("--guidance", type=float, default=1.0)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--frames", type=int, default=2, help="frames measured in each mode")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bf16", action="store_true")
    options = parser.parse_args()
    config = WorldModelConfig(
        in_channels=options.channels,
        patch_size=options.patch,
        dim=options.dim,
        num_layers=options.layers,
        num_heads=options.heads,
        max_frames=options.window,
    )
    model = WorldModel(config)
    model.initialise(0)
    model = model.to(options.device, torch.bfloat16 if options.bf16 else torch.float32).eval().requires_grad_(False)
    hardware = torch.cuda.get_device_name() if options.device.startswith("cuda") else platform.processor() or "CPU"
    unit = "wall" if options.device.startswith("cuda") else "processor"
    kind = "bf16" if options.bf16 else "float32"
    size = f"{options.latent}x{options.latent}x{options.channels}"
    print(f"{datetime.date.today()}, {hardware} {platform.machine()}, torch {torch.__version__}, {kind}")
    print(f"{torch.get_num_threads()} threads; {parameter_count(model) / 1e6:.2f} M parameters, latents {size}")
    print(f"window {options.window}, {options.steps} steps, guidance {options.guidance}, batch {options.batch}\n")
    print(f"| mode | frame-forwards a frame | {unit} seconds a frame and batch | frames/s | times no cache |")
    print("|---|---|---|---|---|")
    base = 0.0
    for mode in CACHE_MODES:
        forwards, spent = measure(
            model, mode, options.batch, options.latent, options.steps, options.guidance, options.frames
        )
        base = base or spent
        print(
            f"| {mode} | {forwards:.0f} | {spent:.3f} | {options.batch / spent:.1f} | {base / spent:.1f} |", flush=True
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
