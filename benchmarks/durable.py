"""What surviving a power cut costs: `python -m benchmarks.durable FOLDER` times episodes with and without syncs there.

Prints the seconds that an episode of 40 steps takes (256 x 256 pixels of noise, which PNG cannot shrink): to open, to
write and to finish, and those of one small file; medians.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from benchmarks.measure import hardware
from gymnast_core.data.episode import EpisodeWriter
from gymnast_core.files import write_bytes

STEPS = 40


@contextmanager
def without_syncs() -> Iterator[None]:
    """Within this block the system is never asked to give anything to the disk."""
    sync = os.fsync
    os.fsync = lambda _: None
    try:
        yield
    finally:
        os.fsync = sync


def timed(work: Callable[[], object]) -> float:
    """Seconds that `work` takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def episode(folder: Path, frames: np.ndarray) -> list[float]:
    """Seconds to open, write and finish an episode."""
    writers: list[EpisodeWriter] = []
    opened = timed(lambda: writers.append(EpisodeWriter(folder, "close the drawer", {})))
    writer = writers[0]

    def write() -> None:
        writer.add_observation(frames[0])
        for frame in frames[1:]:
            writer.add_step([0.0] * 7)
            writer.add_observation(frame)

    return [opened, timed(write), timed(lambda: writer.finish(success=True))]


def main() -> None:
    frames = np.random.default_rng(0).integers(0, 255, (STEPS + 1, 256, 256, 3), np.uint8)
    print(hardware("cpu"))
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as folder:

        def measure(name: str) -> None:
            spent = [episode(Path(folder) / f"{name} {k}", frames) for k in range(9)]
            opened, written, finished = (1000 * statistics.median(part) for part in zip(*spent, strict=True))
            small = [timed(lambda: write_bytes(Path(folder) / "small.json", b"x" * 2000)) for _ in range(50)]
            print(
                f"{name}: open {opened:.1f} ms, write {written:.0f} ms, finish {finished:.1f} ms; "
                f"a file of 2 kB {1000 * statistics.median(small):.2f} ms"
            )

        measure("with syncs")
        with without_syncs():
            measure("without")


if __name__ == "__main__":
    main()
