"""Everything that is to be measured on a GPU, in three parts of at most nine minutes: `python -m benchmarks.gpu PART`.

    python -m benchmarks.gpu world_model   recorded passes and golden values on the GPU; full-size table; cache modes
    python -m benchmarks.gpu policy        the policy's tables; one GRPO step by part
    python -m benchmarks.gpu memory        GRPO under memory caps of 80 and 24 GB; a step with fewer denoising steps

Each command of a part has its own process and time limit and is followed by the next whatever becomes of it; one that
fails early is tried once more without what may have failed (the compiler, then CUDA graphs). In the folder `--out`,
PART.md, PART.json and PART.log are up to date every few seconds, so that a run that is cut short leaves what it has.
A machine without a network gets the packages it lacks, and the golden values, in a folder made by `benchmarks/pack.sh`.
`--toy` runs the same commands at a toy size on a CPU.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

ROOT = Path(__file__).resolve().parent.parent
LEAST = 20.0
"""With fewer seconds left, a command is not begun."""
WORLD_MODEL, GRPO, POLICY = "-m benchmarks.world_model", "-m benchmarks.grpo", "-m benchmarks.policy"
GPU_TEST = "-m pytest -q -p no:cacheprovider tests/test_world_model_equals_worldgym.py -k"
SMALL = "--dim 32 --layers 2 --heads 2 --latent 8 --window 6"
FULL = "--dim 1024 --layers 16 --heads 16 --latent 32 --bf16 --compile --device cuda"
MINI = "--mini --groups 2 --group-size 4 --side-by-side 4 --horizon 10 --denoising-steps 2"


@dataclass(frozen=True)
class Command:
    """One measurement: its name, the seconds it may take, Python's arguments, those at toy size, and what is added when
    it failed. {seconds} is filled in."""

    name: str
    seconds: float
    arguments: str
    toy: str
    otherwise: tuple[str, ...] = ()


WITHOUT = ("--backend none", "--no-compile")
PARTS: dict[str, tuple[Command, ...]] = {
    "world_model": (
        Command("passes_on_gpu", 150, f"{GPU_TEST} gpu", f"{GPU_TEST} recorded"),
        Command(
            "world_model_full",
            330,
            f"{WORLD_MODEL} --table full --seconds {{seconds}}",
            f"{WORLD_MODEL} --table full --seconds {{seconds}} --backend none --batches 2,1",
            WITHOUT,
        ),
        *(
            Command(f"parity_{name}", 40, f"{command} cuda", command)
            for name in ("tiny", "tiny_cfg")
            for command in (f"-m tests.parity.world_model tests/goldens/worldgym/worldgym_{name}.safetensors",)
        ),
        Command(
            "world_model_cache",
            120,
            f"{WORLD_MODEL} --table cache --seconds {{seconds}} --batch 1 --frames 5 {FULL}",
            f"{WORLD_MODEL} --table cache --seconds {{seconds}} {SMALL}",
            WITHOUT,
        ),
    ),
    "policy": (
        Command(
            "policy",
            150,
            f"{POLICY} --seconds {{seconds}}",
            f"{POLICY} --checkpoint mini/policy --repeats 3 --batches 1 2 --seconds {{seconds}}",
        ),
        Command(
            "grpo", 390, f"{GRPO} --seconds {{seconds}}", f"{GRPO} {MINI} --seconds {{seconds}}", ("--no-compile",)
        ),
    ),
    "memory": (
        Command(
            "memory_80",
            130,
            f"{GRPO} --side-by-side 32 --executor --memory-cap 80 --groups 4 --horizon 10 --no-warm-up",
            f"{GRPO} {MINI} --executor --no-warm-up",
        ),
        Command(
            "memory_24",
            110,
            f"{GRPO} --side-by-side 8 --micro-batch 1 --recompute --memory-cap 24 --groups 1 --horizon 10 --no-warm-up "
            "--no-compile",
            f"{GRPO} {MINI} --micro-batch 1 --recompute --no-warm-up",
        ),
        Command(
            "memory_24_nf4",
            130,
            f"{GRPO} --side-by-side 24 --micro-batch 4 --recompute --base-precision nf4 --memory-cap 24 --groups 3 "
            "--horizon 10 --no-warm-up --no-compile",
            f"{GRPO} {MINI} --micro-batch 1 --recompute --base-precision nf4 --no-warm-up",
        ),
        Command(
            "grpo_dpm",
            170,
            f"{GRPO} --solver dpm++ --denoising-steps 5 --groups 8 --seconds {{seconds}}",
            f"{GRPO} {MINI} --solver dpm++ --seconds {{seconds}}",
            ("--no-compile",),
        ),
    ),
}


class Runner:
    """Runs the commands of one part and keeps its three files up to date."""

    def __init__(self, part: str, out: Path, seconds: float, environment: dict[str, str]) -> None:
        self.part, self.out = part, out
        self.end = time.monotonic() + seconds
        self.environment = environment
        self.work = Path(tempfile.mkdtemp(prefix="gpu_"))
        """Where the commands write."""
        self.told: list[str] = []
        out.mkdir(parents=True, exist_ok=True)
        self.log: TextIO = open(out / f"{part}.log", "w", encoding="utf-8")  # noqa: SIM115 - for as long as it runs

    def close(self) -> None:
        self.log.close()

    def tell(self, line: str) -> None:
        print(line, flush=True)
        self.log.write(line + "\n")
        self.log.flush()

    def run(self, command: Command, arguments: str) -> bool:
        """Whether it ended well. Its reports and last lines are kept either way."""
        limit = min(command.seconds, self.end - time.monotonic())
        if limit < LEAST:
            self.told.append(f"{command.name}: not begun, no time was left")
            self.tell(self.told[-1])
            return True
        filled = arguments.format(seconds=int(limit - 10))
        if f"-m {__package__}." in f" {arguments}":
            filled += f" --out {self.work / command.name}"
        if GRPO in arguments:
            filled += f" --name {command.name}"
        self.tell(f"=== {command.name} (at most {limit:.0f} s): python {filled}")
        began = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, *filled.split()],
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        lines: list[str] = []

        def read() -> None:
            assert process.stdout is not None
            for line in process.stdout:
                lines.append(line.rstrip())
                self.tell(line.rstrip())

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        while process.poll() is None and time.monotonic() - began < limit:
            time.sleep(0.5)
            if int(time.monotonic() - began) % 5 == 0:
                self.write()
        for sign in (signal.SIGTERM, signal.SIGKILL):
            if process.poll() is None:
                os.killpg(process.pid, sign)
                try:
                    process.wait(timeout=5)
                except subprocess.TimeoutExpired:
                    continue
        reader.join(timeout=2)
        if process.stdout is not None and not reader.is_alive():
            process.stdout.close()
        spent, code = time.monotonic() - began, process.returncode
        how = "ended well" if code == 0 else f"cut at {limit:.0f} s" if spent >= limit else f"failed with code {code}"
        self.told.append(f"{command.name}: {how} after {spent:.0f} s")
        if not self.reports(command.name):
            self.told += ["", "```", *lines[-12:], "```"]
        self.tell(self.told[-1] if self.told[-1] != "```" else f"{command.name}: {how} after {spent:.0f} s")
        self.write()
        return code == 0 or spent >= 0.6 * limit

    def reports(self, name: str) -> list[Path]:
        return sorted((self.work / name).glob("*.md"))

    def write(self) -> None:
        """PART.md and PART.json from what there is."""
        texts, contents = [f"# {self.part}", "", *self.told], {}
        for path in sorted(self.work.glob("*/*.md"), key=lambda path: path.stat().st_ctime):
            texts += ["", f"## {path.parent.name}", "", path.read_text(encoding="utf-8")]
            contents[path.parent.name] = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        for suffix, text in (("md", "\n".join(texts) + "\n"), ("json", json.dumps(contents, indent=1) + "\n")):
            temporary = self.out / f".{self.part}.{suffix}"
            temporary.write_text(text, encoding="utf-8")
            os.replace(temporary, self.out / f"{self.part}.{suffix}")


def prepared(packed: Path) -> dict[str, str]:
    """The environment of the commands: packages that are missing here unpacked."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1"}
    archive = packed / "packages.tar.gz"
    missing = [name for name in ("pydantic", "tyro", "stamina", "diffusers") if importlib.util.find_spec(name) is None]
    if missing and archive.is_file():
        folder = tempfile.mkdtemp(prefix="packages_")
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (folder, os.environ.get("PYTHONPATH", ""))))
    elif missing:
        print(f"missing here: {', '.join(missing)}; bring them with benchmarks/pack.sh", flush=True)
    return environment


def run_part(commands: Sequence[Command], runner: Runner, toy: bool = False) -> None:
    """Every command, and those that fail early once more without what may have failed."""
    for command in commands:
        arguments = command.toy if toy else command.arguments
        for extra in ("", *command.otherwise):
            if runner.run(command, f"{arguments} {extra}".strip()):
                break


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "gpu")
    parser.add_argument("--seconds", type=float, default=525.0, help="for the whole part")
    parser.add_argument("--packed", type=Path, default=ROOT / ".offline", help="folder that benchmarks/pack.sh made")
    parser.add_argument("--only", default="", help="of the part, the commands of these names, separated by commas")
    parser.add_argument("--toy", action="store_true", help="at a toy size, on a CPU")
    options = parser.parse_args()
    runner = Runner(options.part, options.out.resolve(), options.seconds, prepared(options.packed.resolve()))
    chosen = [name for name in options.only.split(",") if name]
    run_part([c for c in PARTS[options.part] if not chosen or c.name in chosen], runner, options.toy)
    runner.close()
    print((options.out.resolve() / f"{options.part}.md").read_text(encoding="utf-8"))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
