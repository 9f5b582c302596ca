"""Speed of the policy: `python benchmarks/policy.py` on a machine with a GPU of 20 GB or more.

Without `--checkpoint` the full-size network (OpenVLA-OFT, 7.5 billion parameters) is made with random weights. Prints
Markdown tables with what they were measured on: the network alone (chunks a second at several batch sizes, share of the
machine's measured matmul peak, memory), whole calls from camera frames (image processing, network, sampling), and the
first chunk after loading. `python benchmarks/policy.py --checkpoint mini/policy` tries the same on any CPU.
"""

from __future__ import annotations

import datetime
import platform
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


def timed(work: Callable[[], object], repeats: int, device: str) -> list[float]:
    """Seconds of each repeat, after two that are not counted."""

    def once() -> float:
        began = time.perf_counter()
        work()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        return time.perf_counter() - began

    once(), once()
    return [once() for _ in range(repeats)]


def matmul_peak(device: str, dtype: torch.dtype) -> float:
    """Measured operations a second of a large matrix product."""
    side = 8192 if device.startswith("cuda") else 1024
    a = torch.randn(side, side, device=device, dtype=dtype)
    seconds = statistics.median(timed(lambda: a @ a, 10, device))
    return 2 * side**3 / seconds


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


def network_table(policy: OpenVLAPolicy, options: BenchmarkConfig, device: str, peak: float) -> None:
    """The network alone."""
    print("| batch, rows that differ | chunks/s | median ms | slowest ms | share of matmul peak | peak memory GiB |")
    print("|---|---|---|---|---|---|")
    for batch in options.batches:
        pixels, prompts = prepared(policy, batch)
        flops = forward_flops(policy.model, int(prompts.lengths.max()))
        if device.startswith("cuda"):
            torch.cuda.reset_peak_memory_stats()
        seconds = timed(partial(policy.model.action_logits, pixels, prompts), options.repeats, device)
        middle = statistics.median(seconds)
        print(
            f"| {batch} | {batch / middle:.1f} | {middle * 1e3:.1f} | {max(seconds) * 1e3:.1f} | "
            f"{batch * flops / middle / peak:.0%} | {memory(device)} |"
        )


def call_table(policy: OpenVLAPolicy, options: BenchmarkConfig, device: str) -> float:
    """Whole calls from camera frames; returns the actions a second of a single stream."""
    print("| call | rows | chunks/s | actions/s | median ms | slowest ms |")
    print("|---|---|---|---|---|---|")

    def line(name: str, rows: int, work: Callable[[], object]) -> float:
        seconds = timed(work, options.repeats, device)
        middle = statistics.median(seconds)
        rate = rows * policy.chunk_length / middle
        slowest = max(seconds) * 1e3
        print(f"| {name} | {rows} | {rows / middle:.1f} | {rate:.1f} | {middle * 1e3:.1f} | {slowest:.1f} |")
        return rate

    one = frames(1)
    single = line("act, single stream", 1, lambda: policy.act(one, [INSTRUCTION]))
    for group in (batch for batch in options.batches if batch > 1):
        texts, seeds = [INSTRUCTION] * group, list(range(group))
        for call, rows in (("first", np.repeat(one, group, axis=0)), ("later", frames(group))):
            line(f"sample, a group's {call}", group, partial(policy.sample, rows, texts, TEMPERATURE, seeds))
    return single


def main(options: BenchmarkConfig) -> None:
    """Measure and print."""
    device = options.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    on_gpu = device.startswith("cuda")
    name = options.dtype if options.dtype != "auto" else ("bfloat16" if on_gpu else "float32")
    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]
    if options.threads:
        torch.set_num_threads(options.threads)
    began = time.perf_counter()
    if options.checkpoint:
        checkpoint = read_checkpoint(find_model(options.checkpoint), device, dtype)
    else:
        checkpoint = random_full_size(device, dtype)
    policy = OpenVLAPolicy(checkpoint, next(iter(checkpoint.norm_stats), None))
    loaded = time.perf_counter() - began
    began = time.perf_counter()
    policy.act(frames(1), [INSTRUCTION])
    first = time.perf_counter() - began
    n_parameters = sum(p.numel() for p in policy.model.parameters())
    hardware = torch.cuda.get_device_name(device) if on_gpu else f"{platform.processor() or platform.machine()} CPU"
    threads = "" if on_gpu else f", {torch.get_num_threads()} threads"
    what = checkpoint.folder if options.checkpoint else "full size, random weights"
    print(f"Policy ({what}): {n_parameters / 1e6:,.1f} million parameters, {name}, chunks of {policy.chunk_length}")
    print(f"{hardware}{threads}; torch {torch.__version__}; {datetime.date.today()}; {options.repeats} repeats")
    with torch.inference_mode():
        peak = matmul_peak(device, dtype)
        print(f"Measured matmul peak: {peak / 1e12:.2f} TFLOP/s\n")
        network_table(policy, options, device, peak)
        print()
        single = call_table(policy, options, device)
    print(f"\nMade or loaded in {loaded:.1f} s; first chunk after that {first * 1e3:.0f} ms.")
    goal = "" if options.checkpoint else f"; the goal at full size is {GOAL:.0f}"
    print(f"Single stream: {single:.0f} actions/s{goal}.")
    print("A group's first call is one forward, sampled once a row: logits do not depend on sampled tokens.")


if __name__ == "__main__":
    main(tyro.cli(BenchmarkConfig))
