"""RLDS is read and written without TensorFlow, field by field, and damage is named."""

from __future__ import annotations

import io
import json
import os
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from gymnast_core.data import rlds_writer
from gymnast_core.data.dataset_writer import DatasetSettings
from gymnast_core.data.episode import write_episode
from gymnast_core.data.examples import Values, pack_example, parse_example
from gymnast_core.data.formats import StoredEpisode, find_all, open_episode
from gymnast_core.data.labels import Label, write_label
from gymnast_core.data.records import HEAD, TAIL, find_records, read_record, read_records, write_record
from gymnast_core.errors import DataError
from tests.test_formats import made

GOLDEN = Path(__file__).resolve().parent / "goldens" / "rlds"
TENSORFLOW = os.environ.get("GYMNAST_TENSORFLOW_PYTHON", "")
ROOT = Path(__file__).resolve().parent.parent


def whole_before(path: Path) -> tuple[list[bytes], str]:
    """The records up to the first that is damaged, and what was said of that one."""
    found: list[bytes] = []
    try:
        for record in read_records(path):
            found.append(record)
    except DataError as error:
        return found, str(error)
    return found, ""


@settings(max_examples=40, deadline=None)
@given(st.lists(st.binary(max_size=30), min_size=1, max_size=4), st.data())
def test_a_cut_or_a_changed_byte_is_named_and_whole_records_before_it_are_read(
    records: list[bytes], data: st.DataObject
) -> None:
    stream = io.BytesIO()
    ends = list(accumulate(write_record(stream, record) for record in records))
    content = bytearray(stream.getvalue())
    place = data.draw(st.integers(0, len(content) - 1))
    hit = next(k for k, end in enumerate(ends) if place < end)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "größe 1"
        path.write_bytes(content)
        assert whole_before(path) == (records, "")
        cut = Path(folder) / "cut"
        cut.write_bytes(content[:place])
        at_an_end = place in (0, *ends)
        before, told = whole_before(cut)
        assert before == records[:hit] and (told == "") == at_an_end
        assert at_an_end or f"cut: record {hit}: cut off: found" in told
        flipped = Path(folder) / "flipped"
        content[place] ^= data.draw(st.integers(1, 255))
        flipped.write_bytes(content)
        before, told = whole_before(flipped)
        assert before == records[:hit] and f"flipped: record {hit}: damaged: " in told
        start = ends[hit] - len(records[hit]) - HEAD - TAIL
        if place >= start + HEAD:  # the record itself, not its length: those behind it are found
            assert [read_record(flipped, k) for k in range(hit + 1, len(records))] == records[hit + 1 :]
            assert find_records(flipped).count == len(records)


@settings(max_examples=40, deadline=None)
@given(
    st.dictionaries(
        st.text(max_size=8),
        st.one_of(
            st.lists(st.binary(max_size=8), min_size=1, max_size=3),
            st.lists(st.floats(width=32), min_size=1, max_size=3).map(lambda v: np.array(v, np.float32)),
            st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=3).map(lambda v: np.array(v, np.int64)),
        ),
        max_size=4,
    )
)
def test_an_example_comes_back_as_it_was(features: dict[str, Values]) -> None:
    found = parse_example(pack_example(features), "here")
    assert found.keys() == features.keys()
    for name, values in features.items():
        if isinstance(values, list):
            assert found[name] == values
        else:
            np.testing.assert_array_equal(found[name], values)


def test_what_tensorflow_datasets_wrote_is_read_as_it_reads_it() -> None:
    sources = find_all(GOLDEN)
    assert [source.held_out for source in sources] == [False, False, False, True]
    with np.load(GOLDEN / "expected.npz", allow_pickle=False) as expected:
        for source, name in zip(sources, ("train_0", "train_1", "train_2", "val_0")):
            episode = source.read()
            np.testing.assert_array_equal(episode.actions, expected[f"{name}_action"][:-1])
            np.testing.assert_array_equal(episode.executed, episode.actions)
            np.testing.assert_array_equal(episode.states, expected[f"{name}_state"])
            apart = np.abs(episode.frames.astype(int) - expected[f"{name}_frames"])
            assert apart.max() <= 16 and apart.mean() < 0.5  # JPEG leaves it to the decoder how edges of colour blend
            assert episode.instruction == str(expected[f"{name}_instruction"]) == source.describe().instruction
            assert (episode.success, source.count()) == (None, episode.length + 1)
            assert episode.metadata["file_path"].startswith("/nfs/a b/ü")
            assert open_episode(source.path) == source and source.position(1) == episode.position(1)
    dark = sources[0].seen_by("image_1")
    assert dark.frame(0).max() < 5 < sources[0].frame(0).max()


def convert(data: Path, out: Path, **told: Any) -> list[StoredEpisode]:
    stage = out.with_name(f".{out.name}")
    stage.mkdir(parents=True)
    writer = rlds_writer.RldsWriter(stage, DatasetSettings(**told))
    sources = find_all(data)
    for number, source in reversed(list(enumerate(sources))):
        assert not writer.has(number, source.name)
        writer.add(number, source.name, source)
        assert writer.has(number, source.name)
    for _ in range(2):  # a kill in the middle of the first one
        writer.finish(len(sources))
    os.replace(writer.whole, out)
    return find_all(out)


def test_an_episode_goes_to_rlds_and_back_field_by_field(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rlds_writer, "SHARD_BYTES", 9_000)
    facts = [{"latency": 0.1 * k, "success": k == 5, "wörter": ["a b"]} for k in range(6)]
    episodes = []
    for seed in range(5):
        episode = made(seed)
        executed, states = episode.executed.copy(), np.zeros((7, 7), np.float32)
        executed[4 + seed % 2 :] = np.nan  # the arm went silent
        states[2] = np.nan
        about = {"source": "robot", "seed": seed, "station": "Küche 2"}
        success = (True, False, None)[seed % 3]
        episodes.append(
            replace(episode, executed=executed, states=states, success=success, complete=seed != 3, metadata=about)
        )
        write_episode(tmp_path / "Daten a" / f"ü {seed}", episodes[-1], facts if success else ())
    write_label(tmp_path / "Daten a" / "ü 2", Label(False, 6, who="Ada"))
    found = convert(tmp_path / "Daten a", tmp_path / "neu b", frames="pictures")
    names = sorted(path.name for path in (tmp_path / "neu b").glob("*.tfrecord-*"))
    assert len(names) > 1 and all(name.endswith(f"-of-{len(names):05d}") for name in names)
    for seed, (source, episode) in enumerate(zip(found, episodes, strict=True)):
        back = source.read()
        for name in ("frames", "actions", "executed", "states", "stamps"):
            np.testing.assert_array_equal(getattr(back, name), getattr(episode, name), name)
        assert (back.instruction, back.complete) == (episode.instruction, episode.complete)
        assert back.success == (False if seed == 2 else episode.success)
        assert dict(back.metadata).items() >= dict(episode.metadata).items()
        assert source.outcome().by == ("person" if seed == 2 else source.outcome().by)
        if episode.success:
            told = [{"safety_events": [], **fact} for fact in facts]
            assert list(source.facts()) == told and source.truths() == [False] * 5 + [True]
    again = convert(tmp_path / "neu b", tmp_path / "dritte", frames="pictures")
    for source, other in zip(found, again, strict=True):
        np.testing.assert_array_equal(source.read().frames, other.read().frames)
        assert source.facts() == other.facts() and source.describe() == other.describe()


@pytest.mark.skipif(not TENSORFLOW, reason="GYMNAST_TENSORFLOW_PYTHON names no Python with tensorflow-datasets")
def test_tensorflow_datasets_opens_what_we_write(tmp_path: Path) -> None:
    for seed in range(3):
        write_episode(tmp_path / "data" / str(seed), made(seed))
    convert(tmp_path / "data", tmp_path / "out")
    command = [TENSORFLOW, "-c", f"from tests.parity import rlds; rlds.read({str(tmp_path / 'out')!r})"]
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert list(found) == ["train"] and len(found["train"]) == 3
    for seed, seen in enumerate(found["train"]):
        episode = made(seed)
        np.testing.assert_allclose(seen["actions"][:-1], episode.actions, atol=1e-7)
        np.testing.assert_allclose(seen["mean"], episode.frames.mean(axis=(1, 2, 3)), atol=2)
        assert (seen["instruction"], seen["shape"]) == (episode.instruction, [48, 48, 3])
        assert seen["last"] == [False] * 6 + [True] and seen["success"] == episode.success


def picture(side: int = 32, kind: str = "RGB") -> bytes:
    stream = io.BytesIO()
    Image.new(kind, (side, side)).save(stream, "PNG")
    return stream.getvalue()


def features(count: int = 3) -> dict[str, Sequence[bytes] | np.ndarray]:
    number = np.arange(count)
    return {
        "steps/action": np.full((count, 7), 0.01, np.float32),
        "steps/observation/image_0": [picture()] * count,
        "steps/is_first": number == 0,
        "steps/is_last": number == count - 1,
    }


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (
            {"steps/action": np.zeros((3, 6), np.float32)},
            r"steps/action: found 6 numbers for each of 3 steps, needed 7",
        ),
        (
            {"steps/action": None, "steps/action/world_vector": np.zeros((3, 3), np.float32)},
            r"steps/action: found steps/action/world_vector; needed 7 numbers",
        ),
        ({"steps/action": np.full((3, 7), 0.9, np.float32)}, r"steps/action: column 0 \(x\): found 0\.9 at row 0"),
        ({"steps/action": np.eye(3, 7, 6, dtype=np.float32) * -1}, r"column 6 \(gripper\): found -1 at row 0"),
        ({"steps/action": np.full((3, 7), np.inf, np.float32)}, "steps/action: found an infinite number"),
        ({"steps/action": np.full((3, 7), np.nan, np.float32)}, "steps/action: found nan at step 0, dimension 0"),
        ({"steps/is_last": None}, "steps/is_first and steps/is_last: needed both"),
        ({"steps/is_first": np.array([1, 1, 0])}, "needed 1 in the first and the last of the 3 steps alone"),
        (
            {
                "steps/observation/image_0": None,
                **{f"steps/observation/{name}": [picture()] * 3 for name in ("left", "right", "wrist")},
            },
            r"steps/observation/\*: found left, right, wrist; needed one camera; say which in dataset\.json",
        ),
        ({"steps/observation/image_0": None}, "found no pictures; needed one camera"),
        ({"steps/observation/image_0": [picture()] * 2}, "image_0: found 2 pictures, needed 3"),
        ({"steps/observation/image_0": [picture(kind="I;16")] * 3}, "image_0: step 0: found uint16 pixels or deeper"),
        ({"steps/language_instruction": [b"a", b"b", b"a"]}, "steps/language_instruction: found 2 instructions"),
        ({"steps/stamp_ns": np.array([1, 2])}, "steps/stamp_ns: found 2 values, needed 3"),
        ({"episode_metadata/success": np.array([7])}, "episode_metadata/success: needed one whole number"),
        ({"steps/facts": [b"[]"] * 3}, "steps/facts: found list, needed a mapping"),
    ],
)
def test_what_is_no_bridge_episode_is_refused_by_its_column(tmp_path: Path, changed: dict[str, Any], told: str) -> None:
    kept = {name: values for name, values in {**features(), **changed}.items() if values is not None}
    path = tmp_path / "my data-train.tfrecord-00000-of-00001"
    with open(path, "wb") as stream:
        write_record(stream, pack_example(features()))
        write_record(stream, pack_example(kept))
    (tmp_path / "features.json").write_text("{}")
    good, bad = find_all(tmp_path)
    assert good.read().length == 2
    with pytest.raises(DataError, match=rf"my data-train\.tfrecord-00000-of-00001: record 1: .*{told}"):
        bad.read()
        bad.facts()


def test_a_camera_is_named_once_for_a_data_set(tmp_path: Path) -> None:
    wide = {**features(), "steps/observation/wide": [picture(64)] * 3}
    (tmp_path / "v" / "1.0.0").mkdir(parents=True)
    with open(tmp_path / "v" / "1.0.0" / "d-val.tfrecord-00000-of-00001", "wb") as stream:
        write_record(stream, pack_example(wide))
    (tmp_path / "v" / "1.0.0" / "features.json").write_text("{}")
    (source,) = find_all(tmp_path)
    assert source.frame(0).shape == (32, 32, 3) and source.held_out
    (tmp_path / "v" / "dataset.json").write_text('{"camera": "wide"}')
    assert source.frame(0).shape == (64, 64, 3)
    with pytest.raises(DataError, match="observation/depth: found image_0, wide; needed one camera"):
        source.seen_by("depth").frame(0)
