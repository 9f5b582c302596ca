"""A person labels logged episodes, one after the other, in a terminal or on a page; what both need of the episodes.

Labels are written at once, beside the episodes (`data/labels.py`), so that a session that ends at any moment goes on
where it was. What a judge or the station says of an episode is told only after the person has decided.
"""

from __future__ import annotations

import statistics
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from gymnast_core.data.episode import HEADER_FILE
from gymnast_core.data.formats import StoredEpisode, find_all
from gymnast_core.data.labels import Label, read_label, remove_label, write_label
from gymnast_core.data.outcome import BY_STATION, COMPLETED_AT, logged_outcome
from gymnast_core.data.recover import needs_recovery
from gymnast_core.errors import ConfigError, DataError, JudgeError
from gymnast_core.estimates import success_rate
from gymnast_core.files import is_number
from gymnast_core.hub_names import is_hub_name
from gymnast_core.progress import say

if TYPE_CHECKING:  # it imports torch, which labelling alone does without
    from gymnast_core.protocols import Judge


@dataclass(frozen=True)
class Said:
    """What somebody other than the person says of an episode. first: the first frame that shows it done, if known."""

    name: str
    success: bool
    first: int | None = None

    def beside(self, label: Label) -> str:
        """For people, beside the label: "the judge 'vlm': failure, disagrees"."""
        since = "" if self.first is None else f" from frame {self.first}"
        words = f"success{since}" if self.success else "failure"
        return f"{_who(self.name)}: {words}, {'agrees' if self.success == label.success else 'disagrees'}"


class Labelling:
    """The episodes of some folders, their labels, and how far judge and station agree with them.

    judge: looks at the frames of labelled episodes; None: the verdict that was logged counts. who: the person's name.

    Its methods may be called from several threads.

    Raises: DataError where there is no episode that can be labelled, ConfigError for those of the Hub.
    """

    def __init__(self, folders: Sequence[str], judge: Judge | None = None, who: str = "") -> None:
        if of_hub := next(filter(is_hub_name, folders), ""):
            raise ConfigError(
                f"{of_hub}: labels are written beside the episodes, and the cache is no place for them; "
                f"`gymnast hub pull {of_hub} --out FOLDER` makes a copy of your own"
            )
        found = {source.path.resolve(): source for folder in folders for source in find_all(folder)}
        self.episodes = [source for source in found.values() if _whole(source)]
        if not self.episodes:
            raise DataError(f"{', '.join(folders)}: no episode that can be labelled; see the warnings")
        self._judge, self._who = judge, who
        self._said: dict[int, tuple[Said, ...]] = {}
        self._lock = threading.Lock()
        self.labels: list[Label | None] = [self._read(source) for source in self.episodes]

    @property
    def left(self) -> list[int]:
        """The numbers of the episodes without a label."""
        return [number for number, label in enumerate(self.labels) if label is None]

    def after(self, number: int) -> int | None:
        """The next episode without a label after this one, from the first on again; None where all have one."""
        left = self.left
        return next((other for other in left if other > number), left[0] if left else None)

    def set(self, number: int, success: bool | None, step: int | None = None) -> str:
        """Label an episode; what others say of it, for people.

        Raises: DataError where the step is not in it, or the label cannot be written.
        """
        source = self.episodes[number]
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        try:
            label = Label(success, source.count() - 1, step, self._who, now)
        except ConfigError as error:
            raise DataError(f"{source.path}: {error}") from error
        with self._lock:
            write_label(source.path, label)
            self.labels[number] = label
        if success is None:
            return ""
        return "; ".join(said.beside(label) for said in self.said(number))

    def clear(self, number: int) -> None:
        """Take a label back. Raises: DataError."""
        with self._lock:
            remove_label(self.episodes[number].path)
            self.labels[number] = None

    def said(self, number: int) -> tuple[Said, ...]:
        """What the station and a judge say of an episode; a judge that fails says nothing, with a warning."""
        with self._lock:
            if number not in self._said:
                self._said[number] = self._ask(self.episodes[number])
            return self._said[number]

    def agreement(self) -> list[str]:
        """A line for station and judge each: in how many labelled episodes they say what the person says."""
        right: dict[str, list[float]] = {}
        apart: dict[str, list[int]] = {}
        for number, label in enumerate(self.labels):
            if label is None or label.success is None:
                continue
            for said in self.said(number):
                right.setdefault(said.name, []).append(float(said.success == label.success))
                if said.success and label.step is not None and said.first is not None:
                    apart.setdefault(said.name, []).append(abs(said.first - label.step))
        lines = []
        for name, values in sorted(right.items()):
            rate = success_rate(values)
            share = f"{rate.mean:.2f} ± {rate.standard_error:.2f}"
            steps = f", {statistics.median(apart[name]):g} steps apart in the median" if name in apart else ""
            lines.append(f"{_who(name)} agrees with {sum(values):.0f} of {rate.n} labels ({share}){steps}")
        return lines

    def _ask(self, source: StoredEpisode) -> tuple[Said, ...]:
        try:
            about, truths = source.describe(), source.truths()
            found = []
            station = logged_outcome(about.success, about.metadata, truths, source.count, str(source.path))
            if station.by == BY_STATION and station.success is not None:
                first = next((frame for frame, done in enumerate(station.frames) if done), None)
                found.append(Said(BY_STATION, station.success, first if station.success else None))
            if (judged := self._verdict(source)) is not None:
                found.append(judged)
            return tuple(found)
        except (DataError, JudgeError) as error:
            say(f"warning: {error}", "yellow")
            return ()

    def _verdict(self, source: StoredEpisode) -> Said | None:
        """The judge's verdict on the frames, or the one that was logged."""
        facts = source.describe().metadata
        if self._judge is None:
            score, first = facts.get("judge_score"), facts.get(COMPLETED_AT)
            if score is None or not is_number(score):
                return None
            known = isinstance(first, int) and not isinstance(first, bool)
            return Said(str(facts.get("judge") or "judge"), score >= 1.0, first if known else None)
        chosen = self._judge.frame_indices(source.count())
        verdict = self._judge.judge([source.pick(chosen)], [source.instruction()])[0]
        if verdict.completed is None:
            return None
        at = verdict.completed_at
        return Said(self._judge.name, verdict.completed, None if at is None else chosen[at])

    def _read(self, source: StoredEpisode) -> Label | None:
        """The label of an episode; none, with a warning, where it is damaged or of an episode of another length."""
        try:
            label = read_label(source.path)
            if label is not None and label.steps != source.count() - 1:
                raise DataError(f"{source.path}: its label was made of {label.steps} steps; label it anew")
            return label
        except DataError as error:
            say(f"warning: {error}", "yellow")
            return None


def _who(name: str) -> str:
    return "the station" if name == BY_STATION else f"the judge '{name}'"


def _whole(source: StoredEpisode) -> bool:
    """Whether an episode can be labelled; a warning says why it cannot."""
    try:
        if (source.path / HEADER_FILE).is_file() and needs_recovery(source.path):
            raise DataError("is being recorded, or was cut short (`gymnast data recover` mends it)")
        if source.count() < 2:
            raise DataError("holds no step")
        return True
    except DataError as error:
        told = str(error).removeprefix(f"{source.path}: ")
        say(f"warning: left out: {source.path}: {told}", "yellow")
        return False
