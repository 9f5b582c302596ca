"""One folder layout for everything that trains or evaluates, and one process at a time in each folder.

runs/<kind>/<name>/
    config.yaml        the config the run really used
    metrics.jsonl      one line a logged step; tensorboard/ holds the same
    progress.jsonl     what a watching process (the adapter node) reads while the run goes on
    checkpoints/step_N/state.pt   weights, optimiser, step, random state, data position: enough to resume
    checkpoints/best              link to the checkpoint with the best score, where the run has one
    media/             pictures and videos
    imagined.jsonl     one line for each small film of an imagined rollout in media/imagined/, while practice goes on
    result.json        written at the end
    report.html
    .lock              held by the process that works here, and let go when it ends, however it ends
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import time
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from gymnast_core.config import dump_config
from gymnast_core.contents import name_file
from gymnast_core.data.formats import refuse_episodes
from gymnast_core.errors import CheckpointError, ConfigError, DataError
from gymnast_core.files import append_line, is_number, read_json_lines, write_bytes
from gymnast_core.locks import LOCK, lock_folder
from gymnast_core.results import write_result

BEGINNINGS = frozenset(("config.yaml", "progress.jsonl", LOCK))
"""What a run writes before it has checked its input."""
_runs: weakref.WeakSet[RunFolder] = weakref.WeakSet()


def refuse_other_options(
    path: str | os.PathLike[str], then: Mapping[str, Any], now: Mapping[str, Any], option: str = "--run"
) -> None:
    """A run goes on with the options it began with; those it did not have yet may be new. option: names the folder.

    Raises: ConfigError naming the first option that differs.
    """
    for name, value in now.items():
        if name in then and then[name] != value:
            raise ConfigError(
                f"{path}: holds a run with {name} {then[name]!r}, found {value!r}; give the same options, or choose "
                f"another {option}"
            )


def take_back() -> None:
    """After bad input: what this process's runs wrote before they had checked it, and nothing else, goes away."""
    for run in list(_runs):
        run.take_back()


def _kind_of(config: Any) -> str:
    """The kind of run that has this config, as its checkpoints name it: "module.Class" of the verb's module, whose
    options stand in `module_config`."""
    return f"{type(config).__module__.removesuffix('_config')}.{type(config).__qualname__}"


class RunFolder:
    """Config, metrics, progress, checkpoints and media of one run.

    path: the folder; created if needed. A run resumes when it holds a checkpoint.
    config: the dataclass the run uses, written to config.yaml; without one the folder is only read, or belongs to
    another process of the same run.

    Raises: DataError when the folder cannot be written; ConfigError when another process works in it, or when it holds
    episodes.
    """

    def __init__(self, path: str | os.PathLike[str], config: Any = None, tensorboard: bool = True) -> None:
        self.path = Path(path).resolve()
        self._new = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
        """Folders this start made, the innermost first."""
        self._earlier: bytes | None = None
        """The config.yaml of the start before."""
        file = self.path / "config.yaml"
        try:
            if config is not None:
                refuse_episodes(self.path)
            self.path.mkdir(parents=True, exist_ok=True)
            if config is not None:
                self._lock = lock_folder(self.path)
                self._earlier = file.read_bytes() if file.exists() else None
            for name in ("media", "checkpoints"):
                (self.path / name).mkdir(exist_ok=True)
        except OSError as error:
            raise DataError(f"{self.path}: cannot create the run folder: {error.strerror or error}") from error
        if config is not None:
            write_bytes(file, dump_config(config).encode())
            _runs.add(self)
        self._kind = _kind_of(config) if config is not None else ""
        self._tensorboard_wanted = tensorboard
        self._tensorboard: Any = None
        self._best: tuple[int, float] | None = None
        """Step and score of the best checkpoint."""

    def media(self, name: str) -> Path:
        """Path for a picture or video of this run."""
        return self.path / "media" / name

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append one line of numbers to metrics.jsonl and TensorBoard; NaN becomes null."""
        _runs.discard(self)  # past its beginnings
        values = {name: float(value) for name, value in metrics.items()}
        line = {"step": step, "time": time.time()}
        self._append("metrics.jsonl", {**line, **{k: v if math.isfinite(v) else None for k, v in values.items()}})
        if self._tensorboard_wanted:
            if self._tensorboard is None:
                from torch.utils.tensorboard import SummaryWriter

                self._tensorboard = SummaryWriter(str(self.path / "tensorboard"))
            for name, value in values.items():
                self._tensorboard.add_scalar(name, value, step)
            self._tensorboard.flush()

    def report_progress(self, phase: str, iteration: int = 0, iterations: int = 0, **facts: Any) -> None:
        """Append one line to progress.jsonl for whoever watches: phase, iteration, seconds_left, preview path, ..."""
        line = {"time": time.time(), "phase": phase, "iteration": iteration, "iterations": iterations, **facts}
        self._append("progress.jsonl", line)

    def write_result(self, result: Any) -> None:
        """Write result.json, whole or not at all. result: a dataclass or a mapping."""
        _runs.discard(self)
        write_result(self.path, result)

    def read_metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl so far; a line cut short by a crash is left out."""
        return read_json_lines(self.path / "metrics.jsonl")

    def save_checkpoint(self, step: int, state: Mapping[str, Any], keep: int = 2, score: float | None = None) -> Path:
        """Write checkpoints/step_N/state.pt atomically and delete all but the last `keep` and the best.

        state: nested dicts and lists of tensors, numbers, text and booleans (it is read with weights_only=True).
        score: larger is better; the earliest of equals stays the best. None: this one cannot be the best.

        Raises: CheckpointError when it cannot be written; the previous checkpoint stays.
        """
        final = self._folder(step)
        temporary = final.with_name(f".{final.name}.tmp")
        best = self._best
        if score is not None and math.isfinite(score) and (best is None or score > best[1]):
            best = (step, float(score))
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            torch.save({"kind": self._kind, "step": step, "best": best and list(best), **state}, temporary / "state.pt")
            shutil.rmtree(final, ignore_errors=True)
            os.replace(temporary, final)
        except (OSError, RuntimeError) as error:
            shutil.rmtree(temporary, ignore_errors=True)
            raise CheckpointError(
                f"{final}: cannot write the checkpoint ({error}); the previous one is kept; is the disk full?"
            ) from error
        self._remember_best(best)
        for old in self._checkpoints()[:-keep]:
            if self._best is None or old != self._folder(self._best[0]):
                shutil.rmtree(old, ignore_errors=True)
        return final

    def load_checkpoint(self, tidy: bool = True, mapped: bool = False) -> dict[str, Any] | None:
        """The newest checkpoint's state (with its "step"), or None; metrics logged after it are cut off.

        An unreadable newest checkpoint is passed over for the one before it.
        tidy: False where another process of the same run cuts the metrics.
        mapped: tensors stay in the file until they are used: several processes on a machine do not each hold all.

        Raises: CheckpointError when there are checkpoints and none is readable, or they are of another kind of run.
        """
        found = self._checkpoints()
        problem: Exception | None = None
        for folder in reversed(found):
            try:
                state = torch.load(folder / "state.pt", map_location="cpu", weights_only=True, mmap=mapped)
                state["step"] = int(state["step"])
                best = state.get("best")
                best = best and (int(best[0]), float(best[1]))
            except Exception as error:  # torch raises many kinds for a damaged file
                problem = error
                continue
            if self._kind and state.get("kind", "") not in ("", self._kind):  # the first process alone has the config
                raise CheckpointError(f"{self.path}: holds another run ({state['kind']}); choose another --run")
            if tidy:
                self._cut_metrics(state["step"])
            self._remember_best(best)
            return state
        if found:
            name = f"{found[-1]}/state.pt"
            told = name_file(name)
            other = told and "zip archive" not in told
            why = f"found {told}, needed a state of a run" if other else "unreadable, perhaps cut short"
            raise CheckpointError(f"{name}: {why}; delete it to start anew") from problem
        return None

    def load_best(self) -> dict[str, Any] | None:
        """The state of the best checkpoint so far, or None where no checkpoint had a score.

        Raises: CheckpointError when it is unreadable.
        """
        if self._best is None:
            return None
        path = self._folder(self._best[0]) / "state.pt"
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises many kinds for a damaged file
            raise CheckpointError(f"{path}: the best checkpoint is unreadable, perhaps cut short; delete it") from error
        return state

    def take_back(self) -> None:
        """Bad input: a folder that this start made goes, an older one gets its config.yaml back. Not once there is more
        than a start writes, and only for the run's first process.
        """
        if self not in _runs:
            return
        _runs.discard(self)
        files = {p.relative_to(self.path).as_posix() for p in self.path.rglob("*") if not p.is_dir()}
        with contextlib.suppress(OSError):
            if self._new and files <= BEGINNINGS:
                shutil.rmtree(self.path)
                for folder in self._new[1:]:
                    folder.rmdir()
            elif self._earlier is not None:
                write_bytes(self.path / "config.yaml", self._earlier)

    def close(self) -> None:
        """Flush TensorBoard."""
        if self._tensorboard is not None:
            self._tensorboard.close()
            self._tensorboard = None

    def _folder(self, step: int) -> Path:
        return self.path / "checkpoints" / f"step_{step:08d}"

    def _remember_best(self, best: tuple[int, float] | None) -> None:
        """Also after a kill between writing a checkpoint and linking it, or after going back to an earlier one."""
        self._best = best if best is not None and self._folder(best[0]).exists() else None
        link = self.path / "checkpoints" / "best"
        temporary = link.with_name(".best.tmp")
        with contextlib.suppress(OSError):  # for people; where links are not possible the states still say which it is
            temporary.unlink(missing_ok=True)
            if self._best is None:
                link.unlink(missing_ok=True)
            else:
                temporary.symlink_to(self._folder(self._best[0]).name)
                os.replace(temporary, link)

    def _checkpoints(self) -> list[Path]:
        return sorted((self.path / "checkpoints").glob("step_*"))

    def _cut_metrics(self, step: int) -> None:
        kept = [line for line in self.read_metrics() if is_number(line.get("step")) and line["step"] <= step]
        text = "".join(json.dumps(line) + "\n" for line in kept)
        write_bytes(self.path / "metrics.jsonl", text.encode())

    def _append(self, name: str, line: Mapping[str, Any]) -> None:
        append_line(self.path / name, json.dumps(line))
