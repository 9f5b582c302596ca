"""Adapters through `peft` beside our own layer of before: `python -m benchmarks.lora`, on any CPU or a GPU.

Three ways to run the same adapter on the same policy take turns, so that other work on the machine meets all alike: the
layer that gymnast had before (`OwnLinear`), `peft`'s own layer, and the one in use (`AdaptedLinear`: `peft`'s, with the
factors cast to the activations' type). Measured are one chunk, a batch, log-probabilities with their backward pass, and
the first chunk after an adapter is read from disk, in float32 and bfloat16; then a base in 4 bits beside
bitsandbytes' own layer, and the seconds that importing `peft` takes. Prints Markdown with hardware, versions, sizes and
date; `--out FOLDER` keeps it. Ratios are medians of the ratios within each round; seconds are the processor's on a CPU.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from torch import nn

from benchmarks.measure import Report, clock, hardware
from benchmarks.policy import INSTRUCTION, frames, random_full_size
from gymnast_core.config import find_model
from gymnast_core.policy import adapters
from gymnast_core.policy.lora import acts, adapted_layers
from gymnast_core.policy.lora_files import PREFIX, TENSORS
from gymnast_core.policy.openvla import OpenVLAPolicy, load_policy
from gymnast_core.tensor_files import load_tensors

NAME = "measured"
Work = Callable[[str], object]
WAYS = ("before", "peft's own", "in use")


@dataclass(frozen=True)
class BenchmarkConfig:
    """What to measure."""

    checkpoint: str = "mini/policy"
    """Checkpoint folder, or the name of a shipped one; empty: full size with random weights."""
    rank: int = 32
    batch: int = 8
    """Rows of the batch and of the training step."""
    rounds: int = 15
    """Timed rounds of each; every way runs once in a round."""
    device: str = "auto"
    threads: int = 1
    """CPU threads."""
    types: tuple[str, ...] = ("float32", "bfloat16")
    out: str = ""
    """Folder for the tables, written as they are made."""


class LowRank(nn.Module):
    """The two factors of before."""

    def __init__(self, first: torch.Tensor, second: torch.Tensor, scale: float) -> None:
        super().__init__()
        self.lora_first, self.lora_second, self.scale = nn.Parameter(first), nn.Parameter(second), scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(F.linear(x, self.lora_first.to(x.dtype)), self.lora_second.to(x.dtype)) * self.scale


class OwnLinear(nn.Module):
    """The layer of before: y = W x + scale * B A x for each adapter that acts."""

    def __init__(self, base_layer: nn.Linear, factors: LowRank) -> None:
        super().__init__()
        self.base_layer, self.adapters, self.active = base_layer, nn.ModuleDict({NAME: factors}), (NAME,)

    @property
    def weight(self) -> torch.Tensor:
        return self.base_layer.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.linear(x, self.base_layer.weight, self.base_layer.bias)
        for name in self.active:
            if name in self.adapters:
                y = y + self.adapters[name](x)
        return y


def attach_before(policy: OpenVLAPolicy, state: dict[str, torch.Tensor], scale: float) -> None:
    """Put factors on the policy as it was done before."""
    for key in [key for key in state if key.endswith("lora_A.weight")]:
        path = key.removeprefix(PREFIX).removesuffix(".lora_A.weight")
        parent, _, own = path.rpartition(".")
        first, second = (state[f"{PREFIX}{path}.lora_{x}.weight"].to(policy.device, torch.float32) for x in "AB")
        base = policy.model.get_submodule(path)
        assert isinstance(base, nn.Linear)
        setattr(policy.model.get_submodule(parent), own, OwnLinear(base, LowRank(first, second, scale)))


def take_off_before(policy: OpenVLAPolicy) -> None:
    """The base's own layers again."""
    for path, layer in list(policy.model.named_modules()):
        if isinstance(layer, OwnLinear):
            parent, _, own = path.rpartition(".")
            setattr(policy.model.get_submodule(parent), own, layer.base_layer)


class Ways:
    """The same policy and the same adapter three times."""

    def __init__(self, options: BenchmarkConfig, device: str, dtype: torch.dtype, folder: Path) -> None:
        def opened() -> OpenVLAPolicy:
            if options.checkpoint:
                return load_policy(find_model(options.checkpoint), device=device, dtype=dtype)
            return OpenVLAPolicy(random_full_size(device, dtype))

        self.device = device
        self.policies = {way: opened() for way in WAYS}
        self.store, self.scale = adapters.AdapterStore(folder / str(dtype)), 16.0 / options.rank
        first = self.policies["in use"]
        adapters.attach(first, NAME, options.rank, 16.0)
        for number, parameter in enumerate(adapters.train_only(first, NAME)):
            generator = torch.Generator().manual_seed(number)
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.02)
        self.store.save(first, NAME, NAME)
        adapters.detach(first, NAME)
        for way in WAYS:
            self.load(way)

    def load(self, way: str) -> None:
        """From disk to acting, over what was there."""
        policy = self.policies[way]
        if way == "before":
            take_off_before(policy)
            attach_before(policy, load_tensors(self.store.root / NAME / TENSORS), self.scale)
            return
        self.store.load(policy, NAME)
        adapters.activate(policy, NAME)
        if way == "peft's own":
            from peft.tuners.lora import Linear

            for layer in adapted_layers(policy.model).values():
                layer.__class__ = Linear

    def factors(self, way: str) -> list[nn.Parameter]:
        """What a step trains."""
        model = self.policies[way].model
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(".lora_" in name)
        return [parameter for parameter in model.parameters() if parameter.requires_grad]

    def compare(self, work: Work, rounds: int, before: Work | None) -> dict[str, list[float]]:
        """Seconds of each round (two are not counted), the order of ways turning. before: done first, not timed."""
        spent: dict[str, list[float]] = {way: [] for way in WAYS}
        for number in range(rounds + 2):
            for way in WAYS[number % 3 :] + WAYS[: number % 3]:
                if before:
                    before(way)
                began = now(self.device)
                work(way)
                spent[way].append(now(self.device) - began)
        return {way: seconds[2:] for way, seconds in spent.items()}


def now(device: str) -> float:
    """Seconds: the processor's own on a CPU, where other work is not counted."""
    return time.process_time() if device == "cpu" else clock(device)


def table(options: BenchmarkConfig, ways: Ways, kind: str, report: Report) -> None:
    """Rows of one type of weights."""
    one, many = frames(1), frames(options.batch)
    told = [INSTRUCTION] * options.batch
    config = ways.policies["in use"].config
    tokens = np.random.default_rng(0).integers(0, config.n_bins, (options.batch, config.n_action_tokens))
    trained = {way: ways.factors(way) for way in WAYS}
    found, gradients = {}, {}

    def step(way: str) -> None:
        log_probs = ways.policies[way].log_probs(many, told, tokens, 1.3)[0]
        log_probs.mean().backward()
        found[way] = log_probs.detach().float().cpu()
        gradients[way] = [p.grad.clone() for p in trained[way] if p.grad is not None]
        for parameter in trained[way]:
            parameter.grad = None

    cases: dict[str, Work] = {
        "one chunk": lambda way: ways.policies[way].act(one, [INSTRUCTION]),
        f"batch of {options.batch}": lambda way: ways.policies[way].act(many, told),
        f"forward and backward of {options.batch}": step,
        "read an adapter": ways.load,
        "first chunk after that": lambda way: ways.policies[way].act(one, [INSTRUCTION]),
    }
    for case, work in cases.items():
        before = ways.load if case.startswith("first") else None
        spent = ways.compare(work, options.rounds, before)
        middle = [f"{statistics.median(spent[way]) * 1e3:.1f}" for way in WAYS]
        ratios = [statistics.median(b / a for a, b in zip(spent["before"], spent[way])) for way in WAYS[1:]]
        report.row(kind, case, *middle, *(f"{ratio:.2f}" for ratio in ratios))
    for way in WAYS[1:]:
        apart = float((found[way] - found["before"]).abs().max())
        slope = max(float((a - b).abs().max()) for a, b in zip(gradients[way], gradients["before"]))
        largest = max(float(a.abs().max()) for a in gradients["before"])
        report.remark(
            f"{kind}, {way}: log-probabilities differ by {apart:.1e}, gradients by {slope:.1e} of {largest:.1e}"
        )


def four_bits(options: BenchmarkConfig, device: str, report: Report) -> None:
    """The base layer in 4 bits beside bitsandbytes' own, at widths of the mini policy and of full size."""
    import bitsandbytes as bnb

    from gymnast_core.rl.four_bit import FourBitLinear

    report.table("4 bits: in, out", "ours ms", "Linear4bit ms", "ratio", "weights differ by", "gradient differs by")
    for width, out in ((128, 128), (96, 128), (32, 48), (2048, 2048)):
        layer = nn.Linear(width, out, bias=False).to(device)
        ours = FourBitLinear(layer, device)
        theirs = bnb.nn.Linear4bit(width, out, bias=False, compress_statistics=False, quant_type="nf4")
        theirs.load_state_dict(layer.state_dict())
        theirs.to(device).eval()
        theirs.support_avx512bf16_for_cpu = False  # with it, a pass without gradient ends all gradients
        x = torch.randn(300, width, device=device)
        spent: list[list[float]] = [[], []]
        slopes = []
        for _ in range(options.rounds):
            slopes.clear()
            for seconds, one in zip(spent, (ours, theirs)):
                asked = x.clone().requires_grad_()
                began = now(device)
                one(asked).square().sum().backward()
                seconds.append(now(device) - began)
                slopes.append(asked.grad)
        with torch.no_grad():
            unit = torch.eye(width, device=device)
            apart = float((ours(unit) - theirs(unit)).abs().max() / ours.weight.abs().max())
        ratio = statistics.median(b / a for a, b in zip(*spent))
        times = [f"{statistics.median(seconds) * 1e3:.2f}" for seconds in spent]
        slope = float((slopes[0] - slopes[1]).abs().max() / slopes[0].abs().max())
        report.row(f"{width}, {out}", *times, f"{ratio:.2f}", f"{apart:.1%}", f"{slope:.1%}")


def import_seconds() -> tuple[float, float]:
    """Processor time of importing what acts without adapters, and of `peft` on top of it: medians of three."""
    program = (
        "import time; a = time.process_time(); import gymnast_core.policy.load; b = time.process_time(); "
        "import gymnast_core.policy.lora_layer; print(b - a, time.process_time() - b)"
    )
    found = []
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        found.append([float(word) for word in done.stdout.split()[-2:]])
    return statistics.median(one[0] for one in found), statistics.median(one[1] for one in found)


def main(options: BenchmarkConfig) -> int:
    """Measure and print; 1 when nothing could be measured."""
    device = options.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(options.threads)
    report = Report("lora", options.out)
    versions = ", ".join(f"{name} {version(name)}" for name in ("peft", "transformers", "bitsandbytes"))
    report.say(f"{hardware(device)}, {versions}")
    report.say(
        f"{options.checkpoint or 'full size, random weights'}, rank {options.rank}, {options.rounds} rounds; "
        "ratios are to the layer of before\n"
    )
    report.table("type", "case", *(f"{way} ms" for way in WAYS), *(f"{way} / before" for way in WAYS[1:]))
    with tempfile.TemporaryDirectory() as folder:
        for kind in options.types:
            with report.attempt(kind):
                ways = Ways(options, device, getattr(torch, kind), Path(folder))
                assert all(acts(layer) for layer in adapted_layers(ways.policies["in use"].model).values())
                table(options, ways, kind, report)
    report.say()
    with report.attempt("4 bits"):
        four_bits(options, device, report)
    base, library = import_seconds()
    report.say(
        f"\nImport: {base:.1f} s of processor time without adapters; {library:.1f} s more for peft, once a process."
    )
    return report.exit_code()


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(BenchmarkConfig)))
