"""What became of an episode: the names of outcomes, who said so, and how it is written into a recorded episode."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gymnast_core.data.episode import read_header
from gymnast_core.data.labels import BY_PERSON, Label, label_file
from gymnast_core.errors import DataError
from gymnast_core.files import write_json

FAILURE, SUCCESS, UNJUDGED, ABORTED, CANCELLED = range(5)
"""Numbers of the outcomes, as on the wire (gymnast_msgs/action/RunEpisode)."""
OUTCOMES = ("failure", "success", "unjudged", "aborted", "cancelled")
"""Their names, as in episode.json, trials.jsonl and reports."""
ENDED_EARLY = (ABORTED, CANCELLED)
"""The outcomes of episodes that did not come to their end."""
BY_STATION = "station"
"""Who said so (metadata "outcome_by"): the station's own truth; otherwise a judge's name, or a person."""
COMPLETED_AT = "completed_at"
"""Metadata: the first frame in which the judge that gave the outcome saw the task completed."""

LABEL_THEM = "label them (`gymnast data label`)"
"""What to do about episodes whose outcome nobody knows, for an error."""


@dataclass(frozen=True)
class Outcome:
    """What is known of an episode's success, by the best authority there was.

    success: at its end; None where nobody knows.
    by: "person", "station", a judge's name, or empty where a file says it and not who.
    frames: for each of its T + 1 frames whether it shows the task done, None where nobody knows; empty where nothing is
        known by step.
    """

    success: bool | None = None
    by: str = ""
    frames: tuple[bool | None, ...] = ()

    @property
    def judged(self) -> bool:
        """Whether a judge said so, neither a person nor the station nor a file."""
        return self.by not in ("", BY_PERSON, BY_STATION)

    def within(self, steps: int) -> bool | None:
        """Whether the task was done after one of the first `steps` steps, as it ends a trial; None: nobody knows."""
        seen = self.frames[: steps + 1]
        if any(seen):
            return True
        known = len(seen) == steps + 1 and all(frame is not None for frame in seen[1:])
        return False if known else None


def logged_outcome(
    success: bool | None,
    metadata: Mapping[str, Any],
    truths: Sequence[bool | None],
    count: Callable[[], int],
    name: str,
) -> Outcome:
    """The outcome that an episode's log holds: the station's truth before a judge's verdict.

    success, metadata: what it says of itself. truths: the station's truth after each step, as far as it was logged.
    count: its number of frames, asked for where it is needed. name: of the episode, for errors.

    Raises: DataError where `completed_at` is no frame of it.
    """
    by = str(metadata.get("outcome_by") or "")
    found = Outcome(success, by)
    if any(truth is not None for truth in truths):
        nobody = success is None and not ended_early(metadata.get("outcome"))
        if truths[-1] is not None and (nobody or found.judged):
            success = truths[-1]
        return Outcome(success, by if by == BY_PERSON else BY_STATION, (None, *truths))
    if success is False and (found.judged or by == BY_PERSON):  # whoever saw the whole film never saw it done
        return Outcome(success, by, (False,) * count())
    if success and found.judged and COMPLETED_AT in metadata:
        first = metadata[COMPLETED_AT]
        if isinstance(first, bool) or not isinstance(first, int) or not 0 <= first < count():
            raise DataError(f"{name}: {COMPLETED_AT}: found {first!r}, allowed are 0 to {count() - 1}")
        return Outcome(success, by, tuple(frame >= first for frame in range(count())))
    return found


def labelled_outcome(label: Label, logged: Outcome, count: int, episode: Path) -> Outcome:
    """A person's label over what was logged. count: the episode's number of frames.

    Raises: DataError where the label was made of an episode of another length.
    """
    if label.success is None:
        return Outcome(None, BY_PERSON)
    if label.steps != count - 1:
        raise DataError(
            f"{label_file(episode)}: was made of an episode of {label.steps} steps, this one has {count - 1}; "
            "label it anew (`gymnast data label --again`)"
        )
    if not label.success:
        return Outcome(False, BY_PERSON, (False,) * count)
    if label.step is not None:
        return Outcome(True, BY_PERSON, tuple(frame >= label.step for frame in range(count)))
    return Outcome(True, BY_PERSON, logged.frames if logged.success else ())  # they agree; the log may say when


def said_by(outcomes: Iterable[Outcome]) -> dict[str, int]:
    """How many outcomes come from whom."""
    return dict(Counter(outcome.by or "file" for outcome in outcomes).most_common())


def in_words(who: Mapping[str, int]) -> str:
    """For people: "12 by a person, 8 by the station, 1 by the judge 'vlm'"."""
    names = {BY_PERSON: "a person", BY_STATION: "the station", "file": "the episode's file"}
    return ", ".join(f"{count} by {names.get(name, f'the judge {name!r}')}" for name, count in who.items()) or "none"


def ended_early(name: object) -> bool:
    """Whether this is the name of an outcome of an episode that did not come to its end."""
    return name in [OUTCOMES[number] for number in ENDED_EARLY]


def set_outcome(folder: str | os.PathLike[str], success: bool | None, facts: Mapping[str, Any]) -> None:
    """Set `success` of a recorded episode and add flat facts ("outcome_by", "judge_score", ...) to its metadata.

    Raises: DataError when the folder holds no episode or the file cannot be written; the old file then stays.
    """
    path = Path(folder) / "episode.json"
    header = read_header(path.parent)
    header["success"] = success
    header["metadata"] = {**header["metadata"], **facts}
    write_json(path, header)
