"""What is known of an episode's success: a person's label before the station's truth, that before a judge, by step."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gymnast_core.data.episode import EpisodeWriter, read_episode
from gymnast_core.data.formats import StoredEpisode, open_episode
from gymnast_core.data.labels import BY_PERSON, Label, label_file, write_label
from gymnast_core.data.outcome import BY_STATION, Outcome, labelled_outcome, logged_outcome
from gymnast_core.errors import ConfigError, DataError
from gymnast_core.evaluation.imagination_config import EvaluateConfig
from gymnast_core.evaluation.replay import labelled
from gymnast_core.policy.dataset import find_entries
from gymnast_core.protocols import Verdict
from gymnast_core.reward.train import label_frames
from tests.tiny_station import INSTRUCTION, picture

KNOWN = st.sampled_from([True, False, None])


@st.composite
def logs(draw: st.DrawFn) -> tuple[int, bool | None, dict[str, object], list[bool | None]]:
    """Steps, success, metadata and truths by step of a log."""
    steps = draw(st.integers(1, 6))
    success = draw(KNOWN)
    metadata: dict[str, object] = {"outcome_by": draw(st.sampled_from(["", BY_STATION, "classifier"]))}
    if success and draw(st.booleans()):
        metadata["completed_at"] = draw(st.integers(0, steps))
    truths = draw(st.one_of(st.just([]), st.lists(KNOWN, min_size=steps, max_size=steps)))
    return steps, success, metadata, truths


@st.composite
def labels(draw: st.DrawFn, steps: int) -> Label:
    success = draw(KNOWN)
    return Label(success, steps, draw(st.none() | st.integers(0, steps)) if success else None)


@given(logs(), st.data())
def test_a_persons_label_is_the_outcome_and_what_is_known_within_a_step_stays_known(
    log: tuple[int, bool | None, dict[str, object], list[bool | None]], data: st.DataObject
) -> None:
    steps, success, metadata, truths = log
    logged = logged_outcome(success, metadata, truths, lambda: steps + 1, "log")
    label = data.draw(labels(steps))
    told = labelled_outcome(label, logged, steps + 1, Path("log"))
    assert told.success == label.success and told.by == BY_PERSON and not told.judged
    if label.step is not None:
        assert [told.within(n) for n in range(steps + 1)] == [n >= label.step for n in range(steps + 1)]
    if label.success is False:
        assert told.within(steps) is False
    if any(truth is not None for truth in truths):
        assert logged.by == BY_STATION, "its truth goes before a judge's verdict"
        if None not in truths:
            assert [logged.within(n) for n in range(1, steps + 1)] == [any(truths[:n]) for n in range(1, steps + 1)]
    for outcome in (logged, told):
        found = [outcome.within(n) for n in range(steps + 1)]
        assert all(later for earlier, later in itertools.pairwise(found) if earlier), "what was reached stays reached"


def test_a_label_that_cannot_be_is_one_line(tmp_path: Path) -> None:
    for success, step, words in ((False, 2, "no success"), (None, 0, "no success"), (True, 7, "allowed are 0 to 6")):
        with pytest.raises(ConfigError, match=words):
            Label(success, 6, step)
    folder = write(tmp_path / "one", 6)
    path = label_file(folder)
    assert path == folder / "label.json" and label_file(tmp_path / "a.mp4").name == "a.mp4.label.json"
    for text, words in (
        ("{", "damaged"),
        ('{"success": 1, "steps": 6}', "success"),
        ('{"success": true, "steps": 6, "step": -1}', "step"),
        ('{"success": true, "steps": 6, "step": 9}', "allowed are 0 to 6"),
        ('{"success": true, "steps": 6, "color": 1}', "unknown field"),
        ('{"success": true, "steps": 5}', "made of an episode of 5 steps, this one has 6"),
    ):
        path.write_text(text)
        with pytest.raises(DataError, match=words) as caught:
            open_episode(folder).outcome()
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def write(folder: Path, steps: int, success: bool | None = None, **facts: object) -> Path:
    with EpisodeWriter(folder, INSTRUCTION, facts) as writer:
        writer.add_observation(picture(0))
        for step in range(steps):
            writer.add_step([0.0] * 7)
            writer.add_observation(picture(step + 1))
        return writer.finish(success=success)


def test_every_reader_of_outcomes_takes_the_label_over_the_judge_and_the_log_stays(tmp_path: Path) -> None:
    folder = write(tmp_path / "one", 6, True, outcome_by="classifier", completed_at=5)
    source = open_episode(folder)
    config = EvaluateConfig(model="", data=(), horizon=4)

    def read() -> tuple[object, ...]:
        frames = label_frames(source, 32)
        assert frames is not None
        (entry,) = labelled([source], config)
        return read_episode(folder).success, frames.labels.tolist(), entry.success, entry.outcome.by

    assert read() == (True, [0.0] * 5 + [1.0] * 2, False, "classifier"), "the judge's frame is known"
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    write_label(folder, Label(True, 6, 3))
    assert read() == (True, [0.0] * 3 + [1.0] * 4, True, BY_PERSON)
    assert len(find_entries([str(tmp_path)])) == 1
    write_label(folder, Label(False, 6))
    assert read() == (False, [0.0] * 7, False, BY_PERSON)
    with pytest.raises(DataError, match="none of them"):
        find_entries([str(tmp_path)])
    write_label(folder, Label(None, 6))
    assert label_frames(source, 32) is None, "where a person cannot tell, no judge is believed"
    assert {path: path.read_bytes() for path in before} == before


class Seeing:
    """A judge that sees the task done from the fifth frame on."""

    name = "seeing"

    def frame_indices(self, n_frames: int) -> list[int]:
        return list(range(n_frames))

    def judge(self, videos: Sequence[np.ndarray], instructions: Sequence[str]) -> list[Verdict]:
        return [Verdict(float(len(video) > 4), 1.0, "") for video in videos]


def test_where_the_end_alone_is_known_the_judge_looks_at_the_real_frames(tmp_path: Path) -> None:
    files: list[StoredEpisode] = [
        open_episode(write(tmp_path / "ended", 6, True, outcome_by=BY_STATION)),
        open_episode(write(tmp_path / "failed", 6, False, outcome_by=BY_PERSON)),
        open_episode(write(tmp_path / "unknown", 6)),
    ]

    def outcomes(horizon: int) -> dict[str, tuple[bool, str]]:
        found = labelled(files, EvaluateConfig(model="", data=(), horizon=horizon), Seeing())
        return {entry.source.path.name: (entry.success, entry.outcome.by) for entry in found}

    judge = Seeing.name
    assert outcomes(2) == {"ended": (False, judge), "failed": (False, BY_PERSON)}
    assert outcomes(4) == {"ended": (True, judge), "failed": (False, BY_PERSON)}
    assert outcomes(6) == {"ended": (True, BY_STATION), "failed": (False, BY_PERSON)}, "the end needs no judge"
    assert Outcome(True, judge).judged
