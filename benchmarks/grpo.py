"""Seconds and memory of one GRPO step, split by part: `python -m benchmarks.grpo` on a machine with a GPU.

Full size with random weights: OpenVLA-OFT (7.5 billion parameters, a low-rank adapter is trained), WorldGym's world
model (608 million) with Stable Diffusion 3's autoencoder (needs the package diffusers), a learned judge, 20 groups of 8
rollouts of 40 steps. It is the real trainer on the real classes; only rewards are made up: every group is usable.

    python -m benchmarks.grpo                                    one step as in the paper
    python -m benchmarks.grpo --side-by-side 32 --memory-cap 80  as on a card of 80 GB
    python -m benchmarks.grpo --side-by-side 8 --micro-batch 1 --recompute --memory-cap 24 --groups 2
    python -m benchmarks.grpo --base-precision nf4 --recompute   a frozen base in 4 bits (needs bitsandbytes)
    python -m benchmarks.grpo --executor --memory-cap 80         with the executor's own copy of the policy beside it
    python -m benchmarks.grpo --mini                             the shipped mini models, on any CPU

Prints Markdown with hardware, versions, sizes and date. The judge works in a thread beside the rollouts: its seconds
are its own and come on top only where the rollouts wait for it.
"""

from __future__ import annotations

import argparse
import datetime
import platform
import resource
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.policy import random_full_size
from benchmarks.world_model import stable_diffusion_autoencoder
from gymnast_core.config import find_model
from gymnast_core.policy.openvla import OpenVLAPolicy, load_policy
from gymnast_core.protocols import Start, Verdict
from gymnast_core.reward.classifier import ClassifierConfig, ClassifierJudge, FrameClassifier
from gymnast_core.rl.four_bit import FourBitLinear, quantise_base
from gymnast_core.rl.parts import prepare_training
from gymnast_core.rl.trainer import GRPOConfig, GRPOTrainer
from gymnast_core.run_folder import RunFolder
from gymnast_core.world_model.checkpoint import LoadedWorldModel, SamplingConfig, load_world_model
from gymnast_core.world_model.environment import WorldModelEnvironment
from gymnast_core.world_model.model import WorldModel, WorldModelConfig

INSTRUCTIONS = ("open the drawer", "close the drawer")
GIB = 2**30


class Clock:
    """Seconds by part; parts inside others are taken off the outer one."""

    def __init__(self, on_gpu: bool) -> None:
        self.on_gpu = on_gpu
        self.seconds: Counter[str] = Counter()
        self._stack: list[float] = []

    def wrap(self, owner: Any, name: str, part: str, nested: bool = True) -> None:
        """Count the time of owner.name(...) as `part`. nested: False for what runs in a thread of its own."""
        work: Callable[..., Any] = getattr(owner, name)

        def timed(*arguments: Any, **options: Any) -> Any:
            began = self._now()
            if nested:
                self._stack.append(0.0)
            try:
                return work(*arguments, **options)
            finally:
                spent = self._now() - began
                if nested:
                    inside = self._stack.pop()
                    if self._stack:
                        self._stack[-1] += spent
                    self.seconds[part] += spent - inside
                else:
                    self.seconds[part] += spent

        setattr(owner, name, timed)

    def _now(self) -> float:
        if self.on_gpu:
            torch.cuda.synchronize()
        return time.perf_counter()


class EvenJudge(ClassifierJudge):
    """A learned judge that does its work and then calls every second rollout a success: all groups are usable."""

    def judge(self, videos: Sequence[np.ndarray], instructions: Sequence[str]) -> list[Verdict]:
        verdicts = super().judge(videos, instructions)
        return [Verdict(float(index % 2), 1.0, verdict.reason) for index, verdict in enumerate(verdicts)]


def world_model(options: argparse.Namespace, device: str) -> LoadedWorldModel:
    """The shipped one, or WorldGym's size with random weights."""
    sampling = SamplingConfig(options.denoising_steps, options.guidance, "streaming", options.solver, options.compile)
    if options.mini:
        loaded = load_world_model(find_model("mini/world_model"), device)
        loaded.sampling = sampling
        return loaded
    model = WorldModel(WorldModelConfig())
    model.initialise(0)
    model = model.to(device, torch.bfloat16).eval().requires_grad_(False)
    settings = argparse.Namespace(bf16=True, autoencoder=options.autoencoder, device=device)
    autoencoder = stable_diffusion_autoencoder(settings, 256)
    if autoencoder is None:
        raise SystemExit("the full size needs the package diffusers (pip install diffusers)")
    return LoadedWorldModel(model, autoencoder, sampling)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mini", action="store_true", help="the shipped mini models instead of the full size")
    parser.add_argument("--groups", type=int, default=20)
    parser.add_argument("--group-size", type=int, default=8)
    parser.add_argument("--horizon", type=int, default=40)
    parser.add_argument("--side-by-side", type=int, default=64, help="imagined rollouts of one batch")
    parser.add_argument("--micro-batch", type=int, default=8, help="policy calls of one pass of the update")
    parser.add_argument("--recompute", action="store_true", help="recompute activations in the update")
    parser.add_argument("--trainable", choices=("lora", "full"), default="lora")
    parser.add_argument("--base-precision", choices=("auto", "float32", "bfloat16", "nf4"), default="auto")
    parser.add_argument("--denoising-steps", type=int, default=10)
    parser.add_argument("--solver", choices=("ddim", "dpm++"), default="ddim")
    parser.add_argument("--guidance", type=float, default=1.0)
    parser.add_argument("--compile", action="store_true", help="torch.compile the world model")
    parser.add_argument("--autoencoder", default="", help="Stable Diffusion 3's, a diffusers folder; empty: random")
    parser.add_argument("--executor", action="store_true", help="keep a second copy of the policy, as beside a robot")
    parser.add_argument("--memory-cap", type=float, default=0.0, help="GB of GPU memory this process may use; 0: all")
    parser.add_argument("--steps", type=int, default=2, help="steps; the last one is told")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


def main() -> int:
    options = arguments()
    on_gpu = options.device.startswith("cuda")
    if not options.mini and not on_gpu:
        raise SystemExit("the full size needs a GPU; --mini runs anywhere")
    if options.memory_cap and on_gpu:
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, options.memory_cap * 1e9 / total))

    def policy(precision: str) -> OpenVLAPolicy:
        dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16}
        dtype = dtypes.get(precision, torch.bfloat16 if on_gpu else torch.float32)
        if options.mini:
            made = load_policy(find_model("mini/policy"), device=options.device, dtype=dtype)
        else:
            made = OpenVLAPolicy(random_full_size(options.device, dtype))
        if precision == "nf4":
            quantise_base(made.model, options.device)
        return made

    config = GRPOConfig(
        groups=options.groups,
        min_groups=options.groups,
        group_size=options.group_size,
        horizon=options.horizon,
        micro_batch=options.micro_batch,
        trainable=options.trainable,
        recompute_activations=options.recompute,
        base_precision=options.base_precision,
        checkpoint_every=10**9,
    )
    if options.trainable == "full" and options.base_precision not in ("auto", "float32"):
        raise SystemExit("all weights are trained in float32; --base-precision is for adapters")
    trained = policy("float32" if options.trainable == "full" else options.base_precision)
    executor = policy("auto") if options.executor else None
    prepare_training(trained, config)
    environment = WorldModelEnvironment(world_model(options, options.device), max_rollouts=options.side_by_side)
    classes = ClassifierConfig(INSTRUCTIONS, 64 if options.mini else 224)
    judge = EvenJudge(classes, FrameClassifier(classes), options.device)
    side = environment.image_size
    frames = np.random.default_rng(0).integers(0, 256, (options.groups, side, side, 3), dtype=np.uint8)
    starts = [Start(INSTRUCTIONS[i % 2], frame, seed=i) for i, frame in enumerate(frames)]

    clock = Clock(on_gpu)
    clock.wrap(trained, "sample", "policy")
    for name in ("reset", "step", "video"):
        clock.wrap(environment, name, "world model")
    clock.wrap(environment.loaded.autoencoder, "decode", "decode")
    clock.wrap(judge, "judge", "judge (beside the rollouts)", nested=False)
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder(Path(folder), None, tensorboard=False)
        trainer = GRPOTrainer(trained, trained.model, environment, judge, starts, config, run)
        clock.wrap(trainer, "update_policy", "update")
        for _ in range(options.steps):
            clock.seconds.clear()
            if on_gpu:
                torch.cuda.reset_peak_memory_stats()
            began = time.perf_counter()
            trainer.step()
            total = time.perf_counter() - began
    report(options, on_gpu, clock, total, trained, environment, executor is not None)
    return 0


def report(
    options: argparse.Namespace,
    on_gpu: bool,
    clock: Clock,
    total: float,
    policy: OpenVLAPolicy,
    environment: WorldModelEnvironment,
    executor: bool,
) -> None:
    """The table."""
    hardware = torch.cuda.get_device_name() if on_gpu else f"{platform.processor() or platform.machine()} CPU"
    trained = sum(p.numel() for p in policy.parameters())
    weights = sum(p.numel() for p in policy.model.parameters()) + sum(
        m.in_features * m.out_features for m in policy.model.modules() if isinstance(m, FourBitLinear)
    )
    imagined = sum(p.numel() for p in environment.loaded.model.parameters())
    precision = "nf4" if options.base_precision == "nf4" else str(policy.dtype)
    cap = f", memory cap {options.memory_cap:g} GB" if options.memory_cap else ""
    print(f"{datetime.date.today()}, {hardware}, torch {torch.__version__}, base {precision}{cap}")
    print(
        f"policy {weights / 1e6:.1f} M ({trained / 1e6:.2f} M trained: {options.trainable}), world model "
        f"{imagined / 1e6:.1f} M, {'with' if executor else 'without'} an executor's policy beside it"
    )
    print(
        f"{options.groups} groups x {options.group_size} rollouts x {options.horizon} steps, {options.side_by_side} "
        f"side by side; {options.solver} {options.denoising_steps}, guidance {options.guidance:g}; micro-batch "
        f"{options.micro_batch}{', activations recomputed' if options.recompute else ''}\n"
    )
    print("| part | seconds | share |")
    print("|---|---|---|")
    parts = ("policy", "world model", "decode", "update")
    rest = total - sum(clock.seconds[part] for part in parts)
    for part in parts:
        print(f"| {part} | {clock.seconds[part]:.2f} | {clock.seconds[part] / total:.0%} |")
    print(f"| rest (waiting for the judge, bookkeeping) | {rest:.2f} | {rest / total:.0%} |")
    print(f"| **step** | **{total:.2f}** | |")
    beside = "judge (beside the rollouts)"
    print(f"| {beside} | {clock.seconds[beside]:.2f} | |")
    if on_gpu:
        print(f"\npeak memory: {torch.cuda.max_memory_allocated() / GIB:.1f} GiB in use, ", end="")
        print(f"{torch.cuda.max_memory_reserved() / GIB:.1f} GiB reserved")
    else:
        print(f"\npeak memory of the process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB")


if __name__ == "__main__":
    raise SystemExit(main())
