"""Seconds and memory of one GRPO step, split by part: `python -m benchmarks.grpo` on a machine with a GPU.

Full size with random weights: OpenVLA-OFT (7.5 billion parameters, a low-rank adapter is trained), WorldGym's world
model (608 million) with Stable Diffusion 3's autoencoder (needs the package diffusers), a learned judge, 20 groups of 8
rollouts of 40 steps. It is the real trainer on the real classes; only rewards are made up: every group is usable.

    python -m benchmarks.grpo                                    one step as in the paper
    python -m benchmarks.grpo --side-by-side 32 --memory-cap 80 --executor --groups 4 --horizon 10 --no-warm-up
                                                                 what a card of 80 GB holds
    python -m benchmarks.grpo --side-by-side 8 --micro-batch 1 --recompute --memory-cap 24 --groups 1 --no-warm-up
    python -m benchmarks.grpo --base-precision nf4 --recompute   a frozen base in 4 bits (needs bitsandbytes)
    python -m benchmarks.grpo --mini                             the shipped mini models, on any CPU

A short step warms up; then a step with as many groups as are rolled out side by side is told, and the whole one, unless
`--seconds` are too few for it. Prints Markdown with hardware, versions, sizes and date, and writes it to `--out FOLDER`
as it goes. The judge works in a thread beside the rollouts: its seconds are its own and come on top only where the
rollouts wait for it.
"""

from __future__ import annotations

import argparse
import dataclasses
import resource
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.measure import Budget, Report, clock, hardware
from benchmarks.policy import random_full_size
from benchmarks.world_model import random_world_model, stable_diffusion_autoencoder
from gymnast_core.config import find_model
from gymnast_core.policy.openvla import OpenVLAPolicy, load_policy
from gymnast_core.protocols import Start, Verdict
from gymnast_core.reward.classifier import ClassifierConfig, ClassifierJudge, FrameClassifier
from gymnast_core.rl.config import GRPOConfig
from gymnast_core.rl.four_bit import FourBitLinear, quantise_base
from gymnast_core.rl.trainable import prepare_training
from gymnast_core.rl.trainer import GRPOTrainer
from gymnast_core.run_folder import RunFolder
from gymnast_core.world_model.autoencoder import SmallAutoencoder
from gymnast_core.world_model.checkpoint import LoadedWorldModel, load_world_model
from gymnast_core.world_model.config import SamplingConfig, SmallAutoencoderConfig, WorldModelConfig
from gymnast_core.world_model.environment import WorldModelEnvironment

INSTRUCTIONS = ("open the drawer", "close the drawer")
GIB = 2**30
BESIDE = "judge (beside the rollouts)"


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
        return clock("cuda" if self.on_gpu else "cpu")


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
    model = random_world_model(WorldModelConfig(), device, torch.bfloat16)
    settings = argparse.Namespace(bf16=True, autoencoder=options.autoencoder, device=device)
    autoencoder = stable_diffusion_autoencoder(settings, 256)
    if autoencoder is None:  # latents of the same shape, frames of half the size: all but the decoding is measured
        small = SmallAutoencoder(SmallAutoencoderConfig(image_size=128, latent_channels=16))
        autoencoder = small.to(device).eval().requires_grad_(False)
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
    parser.add_argument(
        "--compile", action=argparse.BooleanOptionalAction, help="torch.compile the world model; default: on a GPU"
    )
    parser.add_argument("--autoencoder", default="", help="Stable Diffusion 3's, a diffusers folder; empty: random")
    parser.add_argument("--executor", action="store_true", help="keep a second copy of the policy, as beside a robot")
    parser.add_argument("--memory-cap", type=float, default=0.0, help="GB of GPU memory this process may use; 0: all")
    parser.add_argument("--warm-up", action=argparse.BooleanOptionalAction, default=True, help="a short step first")
    parser.add_argument("--seconds", type=float, default=0.0, help="leave the whole step out if that would be exceeded")
    parser.add_argument("--out", default="", help="folder for the tables, written as they are made")
    parser.add_argument("--name", default="grpo", help="of the files there")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


def main() -> int:
    options = arguments()
    on_gpu = options.device.startswith("cuda")
    if not options.mini and not on_gpu:
        raise SystemExit("the full size needs a GPU; --mini runs anywhere")
    if options.trainable == "full" and options.base_precision not in ("auto", "float32"):
        raise SystemExit("all weights are trained in float32; --base-precision is for adapters")
    if options.compile is None:
        options.compile = on_gpu
    if options.memory_cap and on_gpu:
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, options.memory_cap * 1e9 / total))
    report = Report(options.name, options.out)
    with report.attempt("practice"), tempfile.TemporaryDirectory() as folder:
        measure(options, on_gpu, report, Budget(options.seconds), RunFolder(Path(folder), None, tensorboard=False))
    if on_gpu and report.failures:
        report.say(f"by then {memory(on_gpu)}")
    return report.exit_code()


def load(options: argparse.Namespace, precision: str) -> OpenVLAPolicy:
    """The shipped policy, or one of full size with random weights."""
    on_gpu = options.device.startswith("cuda")
    dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    dtype = dtypes.get(precision, torch.bfloat16 if on_gpu else torch.float32)
    if options.mini:
        made = load_policy(find_model("mini/policy"), device=options.device, dtype=dtype)
    else:
        made = OpenVLAPolicy(random_full_size(options.device, dtype))
    if precision == "nf4":
        quantise_base(made.model, options.device)
        if on_gpu:
            torch.cuda.empty_cache()  # what the whole base took is not counted
    return made


class Practice:
    """The real trainer on the real classes, with a clock on its parts."""

    def __init__(self, options: argparse.Namespace, on_gpu: bool, report: Report, run: RunFolder) -> None:
        self.options, self.on_gpu, self.report = options, on_gpu, report
        self.config = GRPOConfig(
            groups=options.groups,
            min_groups=options.groups,
            group_size=options.group_size,
            min_group_size=min(4, options.group_size),
            horizon=options.horizon,
            micro_batch=options.micro_batch,
            trainable=options.trainable,
            recompute_activations=options.recompute,
            base_precision=options.base_precision,
            checkpoint_every=10**9,
        )
        self.trained = load(options, "float32" if options.trainable == "full" else options.base_precision)
        self.executor = load(options, "auto") if options.executor else None
        prepare_training(self.trained, self.config)
        environment = WorldModelEnvironment(world_model(options, options.device), max_rollouts=options.side_by_side)
        classes = ClassifierConfig(INSTRUCTIONS, 64 if options.mini else 224, stride=3)
        judge = EvenJudge(classes, FrameClassifier(classes), options.device)
        side = environment.image_size
        frames = np.random.default_rng(0).integers(0, 256, (options.groups, side, side, 3), dtype=np.uint8)
        starts = [Start(INSTRUCTIONS[i % 2], frame, seed=i) for i, frame in enumerate(frames)]
        describe(options, report, self.trained, environment, self.executor is not None)
        self.parts = Clock(on_gpu)
        self.parts.wrap(self.trained, "sample", "policy")
        for name in ("reset", "step", "video"):
            self.parts.wrap(environment, name, "world model")
        self.parts.wrap(environment.loaded.autoencoder, "decode", "decode")
        self.parts.wrap(judge, "judge", BESIDE, nested=False)
        self.trainer = GRPOTrainer(self.trained, self.trained.model, environment, judge, starts, self.config, run)
        self.parts.wrap(self.trainer, "update_policy", "update")

    def step(self, groups: int, horizon: int) -> float:
        """Seconds of one step of that size."""
        config = dataclasses.replace(self.config, groups=groups, min_groups=groups, horizon=horizon)
        self.trainer.reconfigure(config)
        self.parts.seconds.clear()
        if self.on_gpu:
            torch.cuda.reset_peak_memory_stats()
        began = time.perf_counter()
        self.trainer.step()
        return time.perf_counter() - began

    def tell(self, groups: int) -> float:
        """Take a step of this many groups and write its table; returns its seconds."""
        total = self.step(groups, self.options.horizon)
        tell(self.report, self.on_gpu, self.parts, total, f"{groups} groups")
        return total


def measure(options: argparse.Namespace, on_gpu: bool, report: Report, budget: Budget, run: RunFolder) -> None:
    """Build everything, warm up, and tell the steps."""
    practice = Practice(options, on_gpu, report, run)
    few = min(options.groups, max(1, options.side_by_side // options.group_size))
    if options.warm_up:
        spent = practice.step(few, min(options.horizon, 2 * practice.trained.chunk_length))
        report.say(f"warm-up: {spent:.1f} s, {memory(on_gpu)}\n")
    if few < options.groups:
        needs = practice.tell(few) * options.groups / few
        if budget.left() < 1.2 * needs:
            report.say(f"\n{options.groups} groups: left out; {options.groups / few:g} times that, about {needs:.0f} s")
            return
        report.say()
    practice.tell(options.groups)


def memory(on_gpu: bool) -> str:
    """Peak memory since the last reset."""
    if on_gpu:
        used, reserved = torch.cuda.max_memory_allocated() / GIB, torch.cuda.max_memory_reserved() / GIB
        return f"peak memory: {used:.1f} GiB in use, {reserved:.1f} GiB reserved"
    return f"peak memory of the process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB"


def describe(
    options: argparse.Namespace,
    report: Report,
    policy: OpenVLAPolicy,
    environment: WorldModelEnvironment,
    executor: bool,
) -> None:
    """What is measured, on what."""
    trained = sum(p.numel() for p in policy.parameters())
    weights = sum(p.numel() for p in policy.model.parameters()) + sum(
        m.in_features * m.out_features for m in policy.model.modules() if isinstance(m, FourBitLinear)
    )
    imagined = sum(p.numel() for p in environment.loaded.model.parameters())
    decoder = environment.loaded.autoencoder
    precision = "nf4" if options.base_precision == "nf4" else str(policy.dtype).removeprefix("torch.")
    cap = f", memory cap {options.memory_cap:g} GB" if options.memory_cap else ""
    report.say(f"{hardware(options.device)}, base {precision}{cap}")
    report.say(
        f"policy {weights / 1e6:.1f} M ({trained / 1e6:.2f} M trained: {options.trainable}), world model "
        f"{imagined / 1e6:.1f} M, {'with' if executor else 'without'} an executor's policy beside it; frames of "
        f"{decoder.image_size} pixels by {type(decoder).__name__}"
    )
    report.say(
        f"{options.groups} groups x {options.group_size} rollouts x {options.horizon} steps, {options.side_by_side} "
        f"side by side; {options.solver} {options.denoising_steps}, guidance {options.guidance:g}, "
        f"{'compiled' if options.compile else 'not compiled'}; micro-batch {options.micro_batch}"
        f"{', activations recomputed' if options.recompute else ''}\n"
    )


def tell(report: Report, on_gpu: bool, parts: Clock, total: float, what: str) -> None:
    """The table of one step."""
    report.table(f"part ({what})", "seconds", "share")
    names = ("policy", "world model", "decode", "update")
    rest = total - sum(parts.seconds[part] for part in names)
    for part in names:
        report.row(part, f"{parts.seconds[part]:.2f}", f"{parts.seconds[part] / total:.0%}")
    report.row("rest (waiting for the judge, bookkeeping)", f"{rest:.2f}", f"{rest / total:.0%}")
    report.row("**step**", f"**{total:.2f}**", "")
    report.row(BESIDE, f"{parts.seconds[BESIDE]:.2f}", "")
    report.say(f"\n{memory(on_gpu)}")


if __name__ == "__main__":
    raise SystemExit(main())
