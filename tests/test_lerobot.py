"""LeRobot data sets are read as lerobot reads them, and lerobot loads what is written."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gymnast_core.cli import main
from gymnast_core.data.episode import Episode, write_episode
from gymnast_core.data.formats import find_all, open_episode
from gymnast_core.data.labels import Label, write_label
from gymnast_core.data.lerobot_stats import PictureStats, of_dataset, of_numbers
from gymnast_core.errors import DataError, GymnastError
from gymnast_core.rollout.starts import read_frames
from tests.lerobot_environment import MISSING, lerobot_is_there, lerobot_python

pa = pytest.importorskip("pyarrow")
import pyarrow.parquet as pq  # noqa: E402

GOLDENS = Path(__file__).parent / "goldens" / "lerobot"
CAMERAS = ("over_shoulder", "wrist")
KEPT = (0, 1, 2, 3, 4, 5, 7)
"""Columns of the goldens' state without its "pad"."""
"""The Python of an environment with lerobot 0.4.4 or newer."""


@pytest.fixture
def golden(tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDENS / "v3.0", tmp_path / "data set"))


@pytest.mark.parametrize("version", ["v3.0", "v2.1"])
def test_a_data_set_that_lerobot_wrote_is_read_as_lerobot_reads_it(version: str) -> None:
    expected = json.loads((GOLDENS / "as_lerobot_reads_it.json").read_text())["frames"]
    sources = find_all(GOLDENS / version)
    assert [source.name for source in sources] == [f"episode_{number:06d}" for number in range(3)]
    assert [source.outcome().success for source in sources] == [True, False, True]
    close = 0.01 if version == "v3.0" else 6.0  # the films of v2.1 are coded another way than those lerobot read
    for camera in CAMERAS:
        rows = iter(expected)
        for source in (source.seen_by(camera) for source in sources):
            episode = source.read()
            assert len(episode.frames) == episode.length + 1 == source.count()
            assert episode.stamps.tolist() == [200_000_000 * k for k in range(source.count())]
            for k, frame in enumerate(episode.frames):
                row = next(rows)
                colours = frame[8:24, 4 + 6 * k : 16 + 6 * k].reshape(-1, 3).mean(0)
                np.testing.assert_allclose(colours, row[camera], atol=close)
                np.testing.assert_allclose(episode.states[k], np.array(row["state"])[list(KEPT)], rtol=1e-6)
                assert (episode.instruction, source.number(k)) == (row["task"], row["frame"])
                if k < episode.length:
                    np.testing.assert_allclose(episode.actions[k], row["action"], rtol=1e-6)
            np.testing.assert_array_equal(source.frame(2), episode.frames[2])
            np.testing.assert_array_equal(source.frame(-1 % source.count(), 32).shape, (32, 32, 3))
        assert next(rows, None) is None


def test_an_episode_of_a_data_set_is_named_labelled_and_a_start_like_any_other(golden: Path) -> None:
    (golden / "dataset.json").write_text('{"camera": "wrist"}')
    source = open_episode(golden / "episode_000001")
    write_label(source.path, Label(True, steps=3, step=2))
    assert source.outcome().success and source.outcome().by == "person"
    (start,) = read_frames([f"{golden}/episode_000001:2"])
    np.testing.assert_array_equal(start.frame, source.frame(2))
    np.testing.assert_allclose(start.position or (), source.steps().states[2, :3])
    with pytest.raises(DataError, match="no such file or folder"):
        open_episode(golden / "episode_000007")


def compared(column: str) -> list[str]:
    """lerobot 0.4.4 squares a picture's bytes as bytes, so its deviation of pictures is none."""
    return ["min", "max", "mean", "count", *(["std"] if "images" not in column else [])]


def test_statistics_are_those_that_lerobot_computes() -> None:
    episodes = pq.read_table(GOLDENS / "v3.0/meta/episodes/chunk-000/file-000.parquet").to_pylist()
    table = pq.read_table(GOLDENS / "v3.0/data/chunk-000/file-000.parquet")
    ours: list[dict[str, Any]] = []
    for number, source in enumerate(find_all(GOLDENS / "v3.0")):
        begin, length = episodes[number]["dataset_from_index"], episodes[number]["length"]
        part = table.slice(begin, length)
        pictures = PictureStats(length)
        for frame in source.seen_by("wrist").frames():
            pictures.add(frame)
        found: dict[str, Any] = {"observation.images.wrist": pictures.result()}
        for column in ("action", "observation.state", "timestamp", "index"):
            found[column] = of_numbers(np.array(part[column].to_pylist()))
        ours.append(found)
        for column, stats in found.items():
            for name in compared(column):
                theirs = episodes[number][f"stats/{column}/{name}"]
                np.testing.assert_allclose(stats[name], theirs, atol=0.01 if "images" in column else 1e-5)
    whole = json.loads((GOLDENS / "v3.0/meta/stats.json").read_text())
    for column, stats in of_dataset(ours).items():
        for name in compared(column):
            np.testing.assert_allclose(stats[name], whole[column][name], atol=0.01 if "images" in column else 1e-5)
        assert np.shape(stats["q99"]) == np.shape(whole[column]["q99"])


def edit(**changes: Any) -> Callable[[Path], None]:
    """Changes fields of info.json."""

    def change(folder: Path) -> None:
        path = folder / "meta" / "info.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


def action(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        features = json.loads((folder / "meta" / "info.json").read_text())["features"]
        edit(features={**features, "action": {**features["action"], **changes}})(folder)

    return change


def rows(change: Callable[[Any], Any]) -> Callable[[Path], None]:
    """Changes the table of rows."""

    def changed(folder: Path) -> None:
        path = folder / "data/chunk-000/file-000.parquet"
        pq.write_table(change(pq.read_table(path)), path)

    return changed


def places(table: Any) -> Any:
    """Actions that are places of the end effector."""
    values = [[0.3 + value for value in row[:6]] + [row[6]] for row in table["action"].to_pylist()]
    return table.set_column(table.column_names.index("action"), "action", pa.array(values, table["action"].type))


JOINTS = ["waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate", "gripper"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (action(names=JOINTS), "action: column 0 is 'waist'; as Bridge actions needed x, y, z"),
        (action(names={"motors": JOINTS}), "action: column 0 is 'waist'"),
        (action(names=None), 'action: its columns have no names; .* {"action": "bridge"}'),
        (action(names=["x", "y", "z"]), "action: found 3 columns"),
        (rows(places), r"action: column 0 \(x\).*places instead of steps"),
        (rows(lambda table: table.drop_columns(["action"])), "found no column 'action'"),
        (rows(lambda table: table.slice(0, 4)), "found 4 rows of episode 0, needed 6"),
        (edit(codebase_version="v1.6"), "codebase_version: found 'v1.6', allowed are v2.0, v2.1, v3.0"),
        (edit(total_episodes=4), "found 3 episodes, meta/info.json names 4"),
        (edit(total_episodes=-1), "total_episodes: found '-1'"),
        (edit(fps="five"), "fps: found 'five'"),
        (edit(data_path="../{chunk_index}/{file_index}"), "data_path: .* needed a path below the data set"),
        (edit(data_path="data/{chunk_index.__class__}"), "data_path: .* needed a path below the data set"),
        (edit(splits={"train": "all"}), "splits: found 'all'"),
        (edit(features=[]), "features: needed a mapping"),
        (lambda folder: (folder / "dataset.json").unlink(), "found the cameras .*over_shoulder, .*wrist, needed one"),
        (lambda folder: (folder / "dataset.json").write_text('{"camera": "top"}'), "camera: found no 'top'"),
        (lambda folder: (folder / "meta" / "info.json").write_text('{"codebase'), "info.json: .*JSON"),
        (lambda folder: next(folder.glob("videos/*wrist/*/*.mp4")).unlink(), "cannot read the video"),
    ],
)
def test_what_cannot_be_read_is_refused_by_file_and_column(
    golden: Path, change: Callable[[Path], object], told: str
) -> None:
    (golden / "dataset.json").write_text('{"camera": "wrist"}')
    find_all(golden)[0].read()
    change(golden)
    with pytest.raises(GymnastError, match=told) as caught:
        [source.read() for source in find_all(golden)]
    assert "\n" not in str(caught.value)


def test_columns_without_names_are_bridges_where_a_person_says_so(golden: Path) -> None:
    expected = find_all(golden)[0].steps().actions
    action(names=None)(golden)
    (golden / "dataset.json").write_text('{"action": "bridge"}')
    np.testing.assert_array_equal(find_all(golden)[0].steps().actions, expected)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_damaged_byte_is_an_error_or_no_matter_and_never_a_crash(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = Path(shutil.copytree(GOLDENS / "v3.0", tmp_path_factory.mktemp("damaged") / "d"))
    victim = data.draw(st.sampled_from(sorted(path for path in folder.rglob("*") if path.is_file())))
    content = bytearray(victim.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        del content[place:]
    else:
        content[place] ^= data.draw(st.integers(1, 255))
    victim.write_bytes(content)
    try:
        for source in find_all(folder):
            seen = source.seen_by("wrist")
            assert len(seen.read().frames) == seen.steps().length + 1
            seen.outcome()
    except GymnastError as error:
        assert "\n" not in str(error)
    finally:
        shutil.rmtree(folder)


@pytest.mark.skipif(not lerobot_is_there(), reason=MISSING)
@pytest.mark.parametrize("frames", ["video", "pictures"])
def test_lerobot_loads_what_is_written(tmp_path: Path, frames: str) -> None:
    random = np.random.default_rng(1)
    for number, steps in enumerate((3, 5)):
        pictures = np.full((steps + 1, 48, 64, 3), 50, np.uint8)
        for k in range(steps + 1):
            pictures[k, :, 8 * k : 8 * k + 16] = 200
        actions = random.uniform(-0.04, 0.04, (steps, 7)).astype(np.float32)
        actions[:, 6] = 1
        states = random.uniform(-0.3, 0.3, (steps + 1, 7)).astype(np.float32)
        stamps = np.arange(steps + 1) * 200_000_000
        episode = Episode(f"öffne {number}", pictures, actions, actions, states, stamps, number == 1)
        write_episode(tmp_path / "in" / f"e {number}", episode)
    out = tmp_path / "out"
    words = ["data", "convert", str(tmp_path / "in"), "--to", "lerobot", "--out", str(out), "--workers", "1"]
    assert main([*words, "--frames", frames]) == 0
    script = Path(__file__).parent / "parity" / "lerobot_loads.py"
    hidden = ("PYTHONPATH", "VIRTUAL_ENV", "LD_LIBRARY_PATH")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    told = subprocess.run(
        [lerobot_python(), str(script), str(out)],
        env={**environment, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub")},
        capture_output=True,
        text=True,
    )
    assert told.returncode == 0, told.stderr[-3000:]
    found = json.loads(told.stdout.splitlines()[-1])
    assert (found["episodes"], found["frames"], found["fps"], found["merged"]) == (2, 10, 5, 20)
    assert found["inputs"] == {"action": [7], "observation.state": [7], "observation.images.image": [3, 48, 64]}
    for number, source in enumerate(find_all(tmp_path / "in")):
        read = source.read()
        for k in range(source.count()):
            row = found["rows"][number * 4 + k]
            assert row["task"] == read.instruction
            np.testing.assert_allclose(row["state"], read.states[k], rtol=1e-6)
            np.testing.assert_allclose(row["colour"], read.frames[k].mean((0, 1)) / 255, atol=0.02)
            if k < read.length:
                np.testing.assert_allclose(row["action"], read.actions[k], rtol=1e-6)
