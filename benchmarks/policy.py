"""Speed of the policy: `python -m benchmarks.policy` on a machine with a GPU of 20 GB or more.

Without `--checkpoint` the full-size network (OpenVLA-OFT, 7.5 billion parameters) is made with random weights. Prints
Markdown tables with what they were measured on: the network alone (chunks a second at several batch sizes, share of the
machine's measured matmul peak, memory), whole calls from camera frames (image processing, network, sampling), and the
first chunk after loading. `python -m benchmarks.policy --checkpoint mini/policy` tries the same on any CPU. `--seconds
N` leaves out what would take longer, `--out FOLDER` gets the tables while they are made.
"""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import tyro

from benchmarks.measure import Budget, Report, clock, fits, hardware, matmul_peak, repeated
from gymnast_core.config import find_model
from gymnast_core.policy.checkpoint import Checkpoint, build_meta, read_checkpoint
from gymnast_core.policy.config import read_policy_config
from gymnast_core.policy.images import ImageProcessor
from gymnast_core.policy.model import OpenVLA, PromptBatch
from gymnast_core.policy.openvla import OpenVLAPolicy
from gymnast_core.policy.prompt import build_tokenizer
from gymnast_core.policy.statistics import compute_statistics

INSTRUCTION = "open the drawer"
FRAME_SIDE = 256
GOAL = 110.0
TEMPERATURE = 1.6


@dataclass(frozen=True)
class BenchmarkConfig:
    """What to measure."""

    checkpoint: str = ""
    """Checkpoint folder, or the name of a shipped one (mini/policy); empty: full size with random weights."""
    batches: tuple[int, ...] = (1, 8, 32)
    """Batch sizes."""
    repeats: int = 20
    """Timed calls of each."""
    device: str = "auto"
    dtype: str = "auto"
    """float32 or bfloat16; auto: bfloat16 on a GPU."""
    threads: int = 0
    """CPU threads; 0: torch's default."""
    seconds: float = 0.0
    """Leave out what would take longer than this; 0: take as long as it takes."""
    out: str = ""
    """Folder for the tables, written as they are made."""


def random_full_size(device: str, dtype: torch.dtype) -> Checkpoint:
    """The full-size network with random weights, a stand-in for its tokenizer, and made-up statistics."""
    statistics_ = compute_statistics([np.random.default_rng(0).normal(0.0, 0.02, (1000, 7))])
    tokenizer, _ = build_tokenizer(INSTRUCTION.split(), n_bins=256, multiple=32000)
    content = {
        "model_type": "openvla",
        "text_config": {"vocab_size": 32064, "pad_token_id": 32000},
        "norm_stats": {"random": statistics_},
    }
    config = read_policy_config(content, "full size")
    model = build_meta(config).to(dtype).to_empty(device=device)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or name.endswith("scale_factor"):
                parameter.fill_(1.0)
            else:
                parameter.normal_(0.0, 0.02)
    images = ImageProcessor(config.image_size, config.image_variant)
    companions = {"tokenizer.json": tokenizer.to_str().encode()}
    return Checkpoint(Path("random"), content, config, model.eval(), images, companions, "random")


def forward_flops(model: OpenVLA, prompt_length: int) -> float:
    """Multiplications and additions of one row's forward: 2 a weight and token, and 4 a pair of tokens and channel.

    The language model's last layer counts only the positions whose logits are wanted: no more are computed.
    """
    config = model.config
    length = config.n_patches + prompt_length + config.n_action_tokens + 1
    total = 0.0
    for tower in (config.first_tower, config.second_tower):
        tokens = config.n_patches + (1 + tower.register_tokens if tower.register_tokens else 0)
        block = 4 * tower.width**2 + 2 * tower.width * tower.mlp_hidden
        total += (tower.depth - 1) * (2 * block * tokens + 4 * tokens**2 * tower.width)
    projector = sum(w.weight.numel() for w in (model.projector.fc1, model.projector.fc2, model.projector.fc3))
    total += 2 * projector * config.n_patches
    language = config.language
    head = language.width // language.heads
    keys_values = 2 * language.width * head * language.key_value_heads
    others = 2 * language.width**2 + 3 * language.width * language.mlp_hidden
    for asking in [length] * (language.depth - 1) + [config.n_action_tokens]:
        total += 2 * (keys_values * length + others * asking) + 4 * asking * length * language.width
    return total + 2 * language.width * config.n_bins * config.n_action_tokens


def frames(count: int) -> np.ndarray:
    """Camera frames that all differ, (count, H, W, 3) uint8."""
    return np.random.default_rng(0).integers(0, 256, (count, FRAME_SIDE, FRAME_SIDE, 3), dtype=np.uint8)


def prepared(policy: OpenVLAPolicy, count: int) -> tuple[torch.Tensor, PromptBatch]:
    """The network's input for `count` frames."""
    return policy.inputs(policy.images.prepare(frames(count)), [INSTRUCTION] * count)


def memory(device: str) -> str:
    """Peak GiB since the last reset: the GPU's, or this process's."""
    if device.startswith("cuda"):
        return f"{torch.cuda.max_memory_allocated() / 2**30:.1f}"
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f}"


def network_table(
    policy: OpenVLAPolicy, options: BenchmarkConfig, device: str, peak: float, report: Report, budget: Budget
) -> None:
    """The network alone."""
    report.table(
        "batch, rows that differ",
        "chunks/s",
        "median ms",
        "slowest ms",
        "share of matmul peak",
        "peak memory GiB",
    )
    longest = 0.0
    for batch in options.batches:
        if not fits(report, budget, f"batch {batch}", 4 * longest):
            continue
        began = time.monotonic()
        with report.attempt(f"batch {batch}"):
            pixels, prompts = prepared(policy, batch)
            flops = forward_flops(policy.model, int(prompts.lengths.max()))
            if device.startswith("cuda"):
                torch.cuda.reset_peak_memory_stats()
            seconds = repeated(partial(policy.model.action_logits, pixels, prompts), options.repeats, device)
            middle = statistics.median(seconds)
            report.row(
                batch,
                f"{batch / middle:.1f}",
                f"{middle * 1e3:.1f}",
                f"{max(seconds) * 1e3:.1f}",
                f"{batch * flops / middle / peak:.0%}",
                memory(device),
            )
        longest = max(longest, time.monotonic() - began)


def call_table(policy: OpenVLAPolicy, options: BenchmarkConfig, device: str, report: Report, budget: Budget) -> float:
    """Whole calls from camera frames; returns the actions a second of a single stream."""
    report.table("call", "rows", "chunks/s", "actions/s", "median ms", "slowest ms")
    longest = 0.0

    def line(name: str, rows: int, work: Callable[[], object]) -> float:
        nonlocal longest
        rate = 0.0
        if not fits(report, budget, name, 4 * longest):
            return rate
        began = time.monotonic()
        with report.attempt(name):
            seconds = repeated(work, options.repeats, device)
            middle = statistics.median(seconds)
            rate = rows * policy.chunk_length / middle
            slowest = max(seconds) * 1e3
            report.row(name, rows, f"{rows / middle:.1f}", f"{rate:.1f}", f"{middle * 1e3:.1f}", f"{slowest:.1f}")
        longest = max(longest, time.monotonic() - began)
        return rate

    one = frames(1)
    single = line("act, single stream", 1, lambda: policy.act(one, [INSTRUCTION]))
    for group in (batch for batch in options.batches if batch > 1):
        texts, seeds = [INSTRUCTION] * group, list(range(group))
        for call, rows in (("first", np.repeat(one, group, axis=0)), ("later", frames(group))):
            line(f"sample, a group's {call}", group, partial(policy.sample, rows, texts, TEMPERATURE, seeds))
    return single


def main(options: BenchmarkConfig) -> int:
    """Measure and print; 1 when nothing could be measured."""
    device = options.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    on_gpu = device.startswith("cuda")
    name = options.dtype if options.dtype != "auto" else ("bfloat16" if on_gpu else "float32")
    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]
    if options.threads:
        torch.set_num_threads(options.threads)
    report, budget = Report("policy", options.out), Budget(options.seconds)
    with report.attempt("policy"):
        measure(options, device, dtype, report, budget)
    return report.exit_code()


def measure(options: BenchmarkConfig, device: str, dtype: torch.dtype, report: Report, budget: Budget) -> None:
    """Both tables, and the first chunk after loading."""
    began = clock(device)
    if options.checkpoint:
        checkpoint = read_checkpoint(find_model(options.checkpoint), device, dtype)
    else:
        checkpoint = random_full_size(device, dtype)
    policy = OpenVLAPolicy(checkpoint, next(iter(checkpoint.norm_stats), None))
    loaded = clock(device) - began
    began = clock(device)
    policy.act(frames(1), [INSTRUCTION])
    first = clock(device) - began
    n_parameters = sum(p.numel() for p in policy.model.parameters())
    what = checkpoint.folder if options.checkpoint else "full size, random weights"
    kind = str(dtype).removeprefix("torch.")
    report.say(
        f"Policy ({what}): {n_parameters / 1e6:,.1f} million parameters, {kind}, chunks of {policy.chunk_length}"
    )
    report.say(f"{hardware(device)}; {options.repeats} repeats")
    with torch.inference_mode():
        peak = matmul_peak(device, dtype)
        report.say(f"Measured matmul peak: {peak / 1e12:.2f} TFLOP/s\n")
        network_table(policy, options, device, peak, report, budget)
        report.say()
        single = call_table(policy, options, device, report, budget)
    report.say(f"\nMade or loaded in {loaded:.1f} s; first chunk after that {first * 1e3:.0f} ms.")
    goal = "" if options.checkpoint else f"; the goal at full size is {GOAL:.0f}"
    report.say(f"Single stream: {single:.0f} actions/s{goal}.")
    report.say("A group's first call is one forward, sampled once a row: logits do not depend on sampled tokens.")


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(BenchmarkConfig)))
