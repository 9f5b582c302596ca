"""What all benchmarks share: time on a GPU, its peak, a budget of seconds, and a report that is written as it goes."""

from __future__ import annotations

import datetime
import json
import os
import platform
import statistics
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch


def clock(device: torch.device | str) -> float:
    """The clock in seconds, after all that was asked of the device is done."""
    if str(device).startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter()


def repeated(work: Callable[[], object], repeats: int, device: torch.device | str) -> list[float]:
    """Seconds of each repeat, after two that are not counted."""
    spent = []
    for _ in range(repeats + 2):
        began = clock(device)
        work()
        spent.append(clock(device) - began)
    return spent[2:]


def matmul_peak(device: torch.device | str, dtype: torch.dtype) -> float:
    """Floating-point operations a second of a large matrix product of random numbers: the median of ten."""
    side = 8192 if str(device).startswith("cuda") else 1024
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    repeated(lambda: a @ b, 20 if str(device).startswith("cuda") else 1, device)  # until the clocks have risen
    return 2 * side**3 / statistics.median(repeated(lambda: a @ b, 10, device))


def hardware(device: torch.device | str) -> str:
    """Date, processor or GPU, and torch's version."""
    if str(device).startswith("cuda"):
        properties = torch.cuda.get_device_properties(torch.device(device))
        name = f"{properties.name} {properties.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}"
    else:
        name = f"{platform.processor() or 'CPU'} {platform.machine()}, {torch.get_num_threads()} threads"
    return f"{datetime.date.today()}, {name}, torch {torch.__version__}"


class Budget:
    """Seconds that a benchmark may take; 0: no limit."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds if seconds else float("inf")

    def left(self) -> float:
        """Seconds until the end."""
        return self._end - time.monotonic()


class Report:
    """Markdown lines, printed and, with a folder, written to NAME.md and NAME.json one by one: a cut run has them."""

    def __init__(self, name: str, folder: str = "") -> None:
        self.name = name
        self.folder = Path(folder) if folder else None
        self.lines: list[str] = []
        self.rows: list[dict[str, str]] = []
        """Rows of all tables by column."""
        self.failures: list[str] = []
        self._columns: list[str] = []

    def say(self, text: str = "") -> None:
        """A line of text."""
        print(text, flush=True)
        self.lines.append(text)
        self._write()

    def table(self, *columns: str) -> None:
        """Begin a table."""
        self._columns = list(columns)
        self.say("| " + " | ".join(columns) + " |")
        self.say("|---" * len(columns) + "|")

    def row(self, *cells: Any) -> None:
        """A row of the table that was begun last."""
        texts = [str(cell) for cell in cells]
        self.rows.append(dict(zip(self._columns, texts)))
        self.say("| " + " | ".join(texts) + " |")

    def remark(self, text: str) -> None:
        """A line of text that does not end a table."""
        self.say(f"| {text} |" if self.lines and self.lines[-1].startswith("|") else text)

    @contextmanager
    def attempt(self, what: str) -> Iterator[None]:
        """What fails inside (for want of memory, say) is reported in one line; the benchmark goes on."""
        try:
            yield
        except Exception as error:
            reason = (" ".join(str(error).split()) or type(error).__name__)[:200]
            self.failures.append(f"{what}: {reason}\n{traceback.format_exc()[-4000:]}")
            self.remark(f"{what}: failed ({reason})")
            traceback.print_exc()
        finally:
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def exit_code(self) -> int:
        """1 when something failed and nothing was measured."""
        return int(bool(self.failures) and not self.rows)

    def _write(self) -> None:
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        content = {"name": self.name, "rows": self.rows, "failures": self.failures, "text": self.lines}
        for suffix, text in (("json", json.dumps(content, indent=1) + "\n"), ("md", "\n".join(self.lines) + "\n")):
            temporary = self.folder / f".{self.name}.{suffix}.tmp"
            temporary.write_text(text, encoding="utf-8")
            os.replace(temporary, self.folder / f"{self.name}.{suffix}")


def fits(report: Report, budget: Budget, what: str, needs: float) -> bool:
    """Whether this many seconds are left; if not, the report says what is left out."""
    if budget.left() >= needs:
        return True
    report.remark(f"{what}: left out, {max(0.0, budget.left()):.0f} s are left and it takes about {needs:.0f}")
    return False
