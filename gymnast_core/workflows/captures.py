"""Start frames of a practice, captured on the simulated station, each after a reset of its own."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from gymnast_core.config import StationConfig
from gymnast_core.data.episode import EpisodeWriter, read_header
from gymnast_core.errors import DataError
from gymnast_core.protocols import Start
from gymnast_core.simulation.environment import StationEnvironment


def capture_starts(
    station: StationConfig,
    task: str,
    counts: Mapping[str, int],
    seed: Callable[[str, int], int],
    folder: Path,
    check: Callable[[str], None],
) -> tuple[list[Path], str]:
    """Start frames of `task`, and the folder of those of other tasks to rehearse, "" without; those on disk are kept.

    counts: frames of each task. seed: of a task's reset, by its number. check: told what is being done, in words.
    """
    frames: list[Path] = []
    environment = StationEnvironment(station)
    try:
        for name, count in counts.items():
            below = folder / ("frames" if name == task else f"rehearsal/{name}")
            for number in range(count):
                check(f"{name}, frame {number + 1} of {count}")
                path = capture(environment, name, seed(name, number), below / f"{number:03d}")
                frames += [path] if name == task else []
    finally:
        environment.close()
    rehearsal = folder / "rehearsal"
    return frames, str(rehearsal) if rehearsal.exists() else ""


def capture(environment: StationEnvironment, task: str, seed: int, folder: Path) -> Path:
    """The camera's frame after a reset, with the arm's place in it, as an episode of no step; one on disk is kept."""
    try:
        if read_header(folder).get("status") == "complete":
            return folder
    except DataError:
        pass
    shutil.rmtree(folder, ignore_errors=True)
    instruction = environment.config.task(task).instruction
    (frame,) = environment.reset([Start(instruction, None, task, seed)])
    facts = {"task": task, "seed": seed, "station": environment.config.name, "source": "station"}
    with EpisodeWriter(folder, instruction, facts) as writer:
        writer.add_observation(frame, environment.states()[0, 0])
        return writer.finish()
