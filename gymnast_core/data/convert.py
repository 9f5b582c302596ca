"""`gymnast data convert`: episodes of any format become one data set of another.

Everything is written into a hidden folder beside the data set's place, each episode whole or not at all; it is renamed
when all is there. What a killed run left in it counts, as long as episodes and settings are the same.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gymnast_core.data.convert_config import ConvertConfig
from gymnast_core.data.dataset_writer import DatasetSettings, DatasetWriter
from gymnast_core.data.formats import Format, StoredEpisode, episode_at, find_all, formats
from gymnast_core.errors import CheckpointError, ConfigError, DataError
from gymnast_core.files import put_in_place, read_json, user_path, write_json
from gymnast_core.locks import lock_folder
from gymnast_core.progress import Interruption, interruptible, progress_bar, say, worker_processes

STATE_FILE = "conversion.json"


@dataclass(frozen=True)
class Entry:
    """An episode and its name in the new data set, without suffix; "/" parts folders."""

    name: str
    source: StoredEpisode


def convert(config: ConvertConfig) -> int:
    """Exit code 0: the data set is there. Raises: ConfigError, DataError."""
    target = _format(config.to)
    out = user_path(config.out, "out")
    if out.is_dir() and any(out.iterdir()):
        raise ConfigError(f"out: {out} holds something already; choose another folder, or remove it")
    if out.exists() and not out.is_dir():
        raise ConfigError(f"out: {out} is a file; choose a folder")
    entries = find_entries(config.sources, config.camera)
    with interruptible() as stop:
        done = Conversion(target, entries, config, out).run(stop)
    if not done:
        return 130
    say(f"{len(entries)} episodes in {out}")
    return 0


def find_entries(sources: Sequence[str], camera: str = "") -> list[Entry]:
    """The episodes of some folders, seen by a camera, those held out last.

    Raises: DataError where there is none; ConfigError where two have one name.
    """
    found: dict[str, StoredEpisode] = {}
    roots = [user_path(text, "sources") for text in sources]
    for root in roots:
        single = episode_at(root)
        for source in [single] if single else find_all(root):
            name = source.name if single else _name(source, root)
            name = f"{root.name}/{name}" if len(roots) > 1 and not single else name
            other = found.setdefault(name, source.seen_by(camera) if camera else source)
            if other.path != source.path:
                raise ConfigError(f"sources: {other.path} and {source.path} would both be called '{name}'; rename one")
    return sorted((Entry(name, source) for name, source in found.items()), key=lambda entry: entry.source.held_out)


class Conversion:
    """One conversion, and what is left of it on disk while it is not done."""

    def __init__(self, target: Format, entries: Sequence[Entry], config: ConvertConfig, out: Path) -> None:
        names = [field.name for field in dataclasses.fields(DatasetSettings)]
        settings = DatasetSettings(**{name: getattr(config, name) for name in names})
        self._entries, self._out, self._workers = entries, out, config.workers
        self._folder = out.with_name(f".{out.name}.converting")
        assert target.open_writer is not None  # `_format` has looked
        self._writer: DatasetWriter = target.open_writer(self._folder, settings)
        self._state = {
            "to": target.name,
            "settings": dataclasses.asdict(settings),
            "camera": config.camera,
            "episodes": {entry.name: entry.source.stamp() for entry in entries},
        }

    def run(self, stop: Interruption) -> bool:
        """Whether the data set is whole and in its place now. Raises: ConfigError, DataError, OSError."""
        self._folder.mkdir(parents=True, exist_ok=True)
        _lock = lock_folder(self._folder)
        try:
            self._begin()
        except BaseException:
            if not (self._folder / STATE_FILE).exists():
                shutil.rmtree(self._folder, ignore_errors=True)
            raise
        done = False
        try:
            if self._write(stop):
                self._finish()
                done = True
        finally:
            if not done:
                self._tell_kept()
        return done

    def _finish(self) -> None:
        with progress_bar() as bar:
            row = bar.add_task("joining", total=1, note="")
            self._writer.whole.mkdir(exist_ok=True)
            self._writer.finish(len(self._entries))
            bar.advance(row)
        put_in_place(self._writer.whole, self._out)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _tell_kept(self) -> None:
        done = sum(self._writer.has(number, entry.name) for number, entry in enumerate(self._entries))
        say(f"{done} of {len(self._entries)} episodes are kept in {self._folder}; the same command goes on from there")

    def _begin(self) -> None:
        """Look at all episodes, once; a conversion that was begun must be the same. Raises: ConfigError, DataError."""
        path = self._folder / STATE_FILE
        if path.exists():
            self._compare(path)
            return
        with progress_bar() as bar:
            row = bar.add_task("looking at episodes", total=len(self._entries), note="")

            def sources() -> Iterator[StoredEpisode]:
                for entry in self._entries:
                    yield entry.source
                    bar.advance(row)

            self._writer.prepare(sources())
        write_json(path, self._state)

    def _compare(self, path: Path) -> None:
        try:
            begun = read_json(path)
        except CheckpointError as error:
            raise ConfigError(f"{error}; remove {self._folder} to begin anew") from error
        if begun == self._state:
            return
        names = [name for name in self._state if begun.get(name) != self._state[name]]
        what = names[0]
        if what == "episodes":
            before, now = begun.get(what) or {}, self._state[what]
            assert isinstance(now, dict)
            differing = [name for name in {**before, **now} if before.get(name) != now.get(name)]
            what = f"episode '{differing[0]}'"
        raise ConfigError(
            f"out: {self._folder} holds an unfinished conversion with another {what}; remove it to begin anew, or "
            "choose another --out"
        )

    def _write(self, stop: Interruption) -> bool:
        """Every episode that is not there yet; False when asked to stop."""
        todo = [(n, entry) for n, entry in enumerate(self._entries) if not self._writer.has(n, entry.name)]
        with progress_bar() as bar:
            row = bar.add_task(
                "converting", total=len(self._entries), completed=len(self._entries) - len(todo), note=""
            )
            if self._workers == 1 or len(todo) < 2:
                for number, entry in todo:
                    if stop:
                        break
                    self._writer.add(number, entry.name, entry.source)
                    bar.advance(row)
            else:
                for _ in self._in_processes(todo, stop):
                    bar.advance(row)
        return not stop

    def _in_processes(self, todo: Sequence[tuple[int, Entry]], stop: Interruption) -> Iterator[None]:
        """Yields once for each episode that was written. Raises: DataError, OSError, as the first that failed did."""
        running: set[Future[Any]] = set()
        waiting = iter(todo)
        try:
            with worker_processes(min(self._workers, len(todo))) as pool:
                try:
                    while not stop:
                        while len(running) < 2 * self._workers and (job := next(waiting, None)):
                            running.add(pool.submit(self._writer.add, job[0], job[1].name, job[1].source))
                        if not running:
                            return
                        finished, running = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
                        for future in finished:
                            future.result()
                            yield
                except KeyboardInterrupt:  # asked for a second time: now, and not after the episodes in hand
                    for child in multiprocessing.active_children():
                        child.terminate()
                    raise
                finally:
                    for future in running:
                        future.cancel()
        except BrokenExecutor as error:
            told = "a worker process was ended, perhaps for want of memory; use fewer --workers"
            raise DataError(f"{self._out}: {told}") from error


def _format(name: str) -> Format:
    """Raises: ConfigError naming the formats that can be written."""
    known = {form.name: form for form in formats() if form.open_writer}
    if name not in known:
        raise ConfigError(f"to: found '{name}', allowed are {', '.join(known)}")
    return known[name]


def _name(source: StoredEpisode, root: Path) -> str:
    place = source.path.relative_to(root)
    place = place.with_suffix("") if source.path.is_file() else place
    return place.as_posix() if place != Path(".") else source.name
