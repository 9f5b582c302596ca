"""Speed of the policy: action chunks a second, latency and memory, `python benchmarks/policy.py --help`.

Without `--checkpoint` the full-size network (OpenVLA-OFT, 7.5 billion parameters) is made with random weights; that
needs a GPU with 20 GB or more. Prints a Markdown table with what it was measured on.
"""

from __future__ import annotations

import datetime
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import tyro

from gymnast_core.policy.checkpoint import build_meta, read_checkpoint
from gymnast_core.policy.config import PolicyConfig, read_policy_config
from gymnast_core.policy.images import ImageProcessor
from gymnast_core.policy.model import OpenVLA, PromptBatch

PROMPT_LENGTH = 20


@dataclass(frozen=True)
class BenchmarkConfig:
    """What to measure."""

    checkpoint: str = ""
    """Checkpoint folder; empty: full size with random weights."""
    batches: tuple[int, ...] = (1, 8, 32)
    """Batch sizes."""
    repeats: int = 20
    """Timed forwards of each."""
    device: str = "auto"
    dtype: str = "auto"
    """float32 or bfloat16; auto: bfloat16 on a GPU."""
    threads: int = 0
    """CPU threads; 0: torch's default."""


def random_full_size(device: str, dtype: torch.dtype) -> OpenVLA:
    """The full-size network with random weights."""
    content = {"model_type": "openvla", "text_config": {"vocab_size": 32064, "pad_token_id": 32000}}
    model = build_meta(read_policy_config(content, "full size")).to(dtype).to_empty(device=device)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or name.endswith("scale_factor"):
                parameter.fill_(1.0)
            else:
                parameter.normal_(0.0, 0.02)
    return model


def forward_flops(model: OpenVLA) -> float:
    """Multiplications and additions of one row's forward: 2 a weight and token, and 4 a pair of tokens and channel."""
    config = model.config
    length = config.n_patches + PROMPT_LENGTH + config.n_action_tokens + 1
    total = 0.0
    for tower in (config.first_tower, config.second_tower):
        tokens = config.n_patches + (1 + tower.register_tokens if tower.register_tokens else 0)
        block = 4 * tower.width**2 + 2 * tower.width * tower.mlp_hidden
        total += (tower.depth - 1) * (2 * block * tokens + 4 * tokens**2 * tower.width)
    projector = sum(w.weight.numel() for w in (model.projector.fc1, model.projector.fc2, model.projector.fc3))
    total += 2 * projector * config.n_patches
    language = config.language
    head = language.width // language.heads
    layer = 2 * language.width**2 + 2 * language.width * head * language.key_value_heads
    layer += 3 * language.width * language.mlp_hidden
    total += language.depth * (2 * layer * length + 4 * length**2 * language.width)
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


def inputs(config: PolicyConfig, batch: int, device: str, dtype: torch.dtype) -> tuple[torch.Tensor, PromptBatch]:
    """Random frames, already resized, and prompts of one length."""
    frames = np.random.default_rng(0).integers(0, 256, (batch, config.image_size, config.image_size, 3), dtype=np.uint8)
    pixels = ImageProcessor(config.image_size, config.image_variant).normalise(frames, device).to(dtype)
    prompt = [config.bos_token_id, *([config.stop_token_id + 1] * (PROMPT_LENGTH - 1))]
    return pixels, PromptBatch.of([prompt] * batch, config.pad_token_id, device)


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
    model = (
        read_checkpoint(Path(options.checkpoint), device, dtype).model
        if options.checkpoint
        else random_full_size(device, dtype)
    )
    config, loaded = model.config, time.perf_counter() - began
    n_parameters = sum(p.numel() for p in model.parameters())
    hardware = torch.cuda.get_device_name() if on_gpu else f"{platform.processor() or platform.machine()} CPU"
    threads = "" if on_gpu else f", {torch.get_num_threads()} threads"
    print(f"Policy of {n_parameters / 1e6:,.1f} million parameters, {name}, loaded in {loaded:.1f} s")
    print(f"{hardware}{threads}; torch {torch.__version__}; {datetime.date.today()}; {options.repeats} repeats\n")
    with torch.inference_mode():
        one = inputs(config, 1, device, dtype)
        first = time.perf_counter()
        model.action_logits(*one)
        if on_gpu:
            torch.cuda.synchronize()
        first = time.perf_counter() - first
        peak, flops = matmul_peak(device, dtype), forward_flops(model)
        print("| batch | chunks/s | actions/s | median ms | slowest ms | share of matmul peak | memory GiB |")
        print("|---|---|---|---|---|---|---|")
        for batch in options.batches:
            pixels, prompts = inputs(config, batch, device, dtype)
            if on_gpu:
                torch.cuda.reset_peak_memory_stats()
            seconds = timed(partial(model.action_logits, pixels, prompts), options.repeats, device)
            middle = statistics.median(seconds)
            memory = f"{torch.cuda.max_memory_allocated() / 2**30:.1f}" if on_gpu else "-"
            print(
                f"| {batch} | {batch / middle:.1f} | {batch * config.chunk_length / middle:.1f} | {middle * 1e3:.1f} | "
                f"{max(seconds) * 1e3:.1f} | {batch * flops / middle / peak:.0%} | {memory} |"
            )
    print(f"\nFirst chunk after loading: {first * 1e3:.0f} ms. Measured matmul peak: {peak / 1e12:.2f} TFLOP/s.")
    print("A group's first call is one forward whatever its size: logits do not depend on sampled tokens.")


if __name__ == "__main__":
    main(tyro.cli(BenchmarkConfig))
