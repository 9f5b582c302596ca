"""`gymnast data convert` loses nothing that a format can hold, goes on after a kill, and writes nothing by halves."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from gymnast_core.cli import main
from gymnast_core.data.episode import Episode, write_episode
from gymnast_core.data.formats import StoredEpisode, find_all, formats
from gymnast_core.data.labels import Label, write_label
from tests.processes import wait_for

pytest.importorskip("pyarrow")

SIDE = 32
WRITABLE = [known.name for known in formats() if known.open_writer]


def made(seed: int, steps: int = 4, side: int = SIDE, **changes: Any) -> Episode:
    random = np.random.default_rng(seed)
    frames = np.full((steps + 1, side, side, 3), 40 + 20 * (seed % 5), np.uint8)
    for k in range(steps + 1):
        frames[k, 8:24, 4 * (k % 5) : 4 * (k % 5) + 12] = (200, 90, 30)
    actions = random.uniform(-0.04, 0.04, (steps, 7)).astype(np.float32)
    actions[:, 6] = random.integers(0, 2, steps)
    executed = (actions * [0.5, 0.5, 0.5, 1, 1, 1, 1]).astype(np.float32)
    states = random.uniform(-0.3, 0.3, (steps + 1, 7)).astype(np.float32)
    stamps = 1_764_000_000_000_000_000 + np.arange(steps + 1) * 200_000_000 + random.integers(0, 9_000_000, steps + 1)
    told = {"source": "robot", "seed": seed, "task": "drawer"}
    text = f"öffne die Schublade {seed % 2}"
    episode = Episode(text, frames, actions, executed, states, stamps, seed % 2 == 0, True, told)
    return dataclasses.replace(episode, **changes)


FACTS = [{"safety_events": ["clipped"], "holds": ["overload"], "load": 1.25, "note": {"ü": [1, None]}}, {"load": None}]


def write(root: Path, count: int = 2, **changes: Any) -> Path:
    for seed in range(count):
        write_episode(root / f"ein Tag/Versuch ö {seed}", made(seed, **changes), FACTS)
    return root


def run(*words: object) -> int:
    return main(["data", "convert", *map(str, words), "--workers", "1"])


def same(a: StoredEpisode, b: StoredEpisode, fields: str, close: float = 0.0) -> None:
    """fields: those of the episode that must not differ. close: mean difference of frames that is allowed."""
    first, second = a.read(), b.read()
    assert np.abs(first.frames.astype(int) - second.frames).mean() <= close
    for name in fields.split():
        one, other = getattr(first, name), getattr(second, name)
        if isinstance(one, np.ndarray):
            assert one.dtype == other.dtype
            np.testing.assert_allclose(one, other, atol=0 if name != "executed" or not close else 1e-6)
        else:
            assert one == other


ALL = "instruction success complete metadata actions executed states stamps"


@pytest.mark.parametrize(
    ("words", "close"),
    [(("lerobot", "--frames", "pictures"), 0.0), (("lerobot",), 4.0), (("gymnast",), 0.0)],
    ids=["lerobot pictures", "lerobot", "gymnast"],
)
def test_every_field_comes_back(tmp_path: Path, words: tuple[str, ...], close: float) -> None:
    source = write(tmp_path / "in")
    assert run(source, "--out", tmp_path / "über dort", "--to", *words) == 0
    assert run(tmp_path / "über dort", "--out", tmp_path / "back", "--to", "gymnast") == 0
    for before, there, after in zip(*(find_all(tmp_path / name) for name in ("in", "über dort", "back")), strict=True):
        same(before, there, ALL, close)
        same(there, after, ALL)
        assert list(before.facts()) == list(there.facts()) == list(after.facts())
        assert before.outcome() == there.outcome() == after.outcome()
        assert (before.count(), before.position(1)) == (after.count(), after.position(1))


@pytest.mark.parametrize(("name", "close"), [("worldgym", 4.0), ("pictures", 0.0)])
def test_what_a_format_can_hold_comes_back(tmp_path: Path, name: str, close: float) -> None:
    source = write(tmp_path / "in")
    assert run(source, "--out", tmp_path / "out", "--to", name) == 0
    for before, after in zip(find_all(source), find_all(tmp_path / "out"), strict=True):
        same(before, after, "instruction success executed", close)
        assert after.path.relative_to(tmp_path / "out").with_suffix("") == before.path.relative_to(source)


@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_whatever_was_logged_comes_back_from_a_lerobot_data_set(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("any")
    plain = st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text(max_size=5)
    facts = st.dictionaries(st.sampled_from(["safety_events", "note", "ä"]), st.lists(plain, max_size=2), max_size=3)
    for number in range(data.draw(st.integers(1, 3))):
        steps = data.draw(st.integers(1, 4))
        number_or_none = st.floats(-0.5, 0.5, width=32) | st.just(float("nan"))
        changes = {
            "states": data.draw(arrays.arrays(np.float32, (steps + 1, 7), elements=number_or_none)),
            "executed": data.draw(arrays.arrays(np.float32, (steps, 7), elements=st.floats(0, 0.125, width=32))),
            "success": data.draw(st.none() | st.booleans()),
            "complete": data.draw(st.booleans()),
            "instruction": data.draw(st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12)),
            "metadata": data.draw(st.dictionaries(st.text(max_size=5), plain, max_size=3)),
        }
        if data.draw(st.booleans()):
            changes["executed"][steps - 1 :] = np.nan
        logged = data.draw(st.lists(facts, min_size=steps, max_size=steps))
        write_episode(root / "in" / str(number), made(number, steps, **changes), logged)
    assert run(root / "in", "--to", "lerobot", "--out", root / "out", "--frames", "pictures", "--fps", 5) == 0
    for before, after in zip(find_all(root / "in"), find_all(root / "out"), strict=True):
        same(before, after, ALL.replace(" metadata", ""))
        assert {**after.describe().metadata, **before.describe().metadata} == dict(after.describe().metadata)
        assert list(before.facts()) == list(after.facts())
        assert (before.outcome().success, before.outcome().frames) == (after.outcome().success, after.outcome().frames)
    shutil.rmtree(root)


def test_a_label_and_what_is_held_out_come_along(tmp_path: Path) -> None:
    source = write(tmp_path / "in", 3)
    labelled = find_all(source)[1]
    write_label(labelled.path, Label(True, steps=4, step=2))
    assert run(source, "--to", "worldgym", "--out", tmp_path / "first") == 0
    (tmp_path / "first/ein Tag/test").mkdir()
    for file in (tmp_path / "first/ein Tag").glob("*0.*"):
        file.rename(file.parent / "test" / file.name)
    assert run(tmp_path / "first", "--to", "lerobot", "--out", tmp_path / "second") == 0
    assert [episode.held_out for episode in find_all(tmp_path / "second")] == [False, False, True]
    assert json.loads((tmp_path / "second/meta/info.json").read_text())["splits"] == {"train": "0:2", "test": "2:3"}
    assert [episode.describe().success for episode in find_all(tmp_path / "second")] == [True, True, True]
    assert run(tmp_path / "second", "--to", "worldgym", "--out", tmp_path / "third") == 0
    assert (tmp_path / "third/test/episode_000002.mp4").exists()
    rows = [np.load(next((tmp_path / name).rglob("test/*.npz")))["arr_0"] for name in ("first", "third")]
    np.testing.assert_allclose(*rows, atol=1e-5)


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_killed_conversion_goes_on_and_ends_as_if_nothing_had_been(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source, out, kept = write(tmp_path / "in", 10, side=64, steps=20), tmp_path / "out", tmp_path / ".out.converting"
    command = [sys.executable, "-m", "gymnast_core.cli", "data", "convert", str(source), "--to", "lerobot"]
    process = subprocess.Popen([*command, "--out", str(out)], stderr=subprocess.PIPE, text=True)
    try:
        wait_for(lambda: len(list(kept.glob("pieces/0*"))) >= 2, 120, process)
        process.send_signal(signal.SIGSTOP)
        assert main([*command[3:], "--out", str(out)]) == 2  # another one keeps away meanwhile
        assert f"process {process.pid} works in this folder" in capfd.readouterr().err
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert not out.exists()
    done = {path: path.stat().st_ino for path in kept.glob("pieces/0*/film.mp4")}
    assert 2 <= len(done) < 10
    conflicting = [str(source), "--to", "worldgym", "--out", str(out)]
    assert run(*conflicting) == 2  # another conversion does not go on with these pieces
    assert {path: path.stat().st_ino for path in done} == done
    assert main([*command[3:], "--out", str(out)]) == 0
    assert not kept.exists()
    assert run(source, "--to", "lerobot", "--out", tmp_path / "whole") == 0
    assert files(out) == files(tmp_path / "whole")


@pytest.mark.parametrize("name", ["lerobot", "worldgym", "pictures"])
def test_a_full_disk_leaves_nothing_half_written_and_the_same_command_goes_on(
    tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    source = write(tmp_path / "in", 2)
    random = np.random.default_rng(0).integers(0, 255, (5, SIDE * 2, SIDE * 2, 3), np.uint8)  # large in any coding
    big = made(9, frames=random)
    write_episode(source / "x", made(8, side=SIDE * 2))
    shutil.rmtree(source / "ein Tag")
    write_episode(source / "y", big)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    out = tmp_path / "out"
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (9_000, limits[1]))
        assert run(source, "--to", name, "--out", out) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    told = capfd.readouterr().err
    assert "1 of 2 episodes are kept" in told and "Traceback" not in told
    assert not out.exists()
    assert run(source, "--to", name, "--out", out) == 0
    assert [episode.count() for episode in find_all(out)] == [5, 5]
    assert sorted(os.listdir(tmp_path)) == ["in", "out"]


def slow(number: int) -> dict[str, Any]:
    return {"stamps": np.arange(5) * (200_000_000 if number else 33_333_333)}


def refused(tmp_path: Path, *words: object) -> int:
    """The exit code; nothing may be left behind."""
    before = sorted(os.listdir(tmp_path))
    code = run(tmp_path / "in", "--out", tmp_path / "out", *words)
    assert sorted(os.listdir(tmp_path)) == before
    return code


def test_what_cannot_stand_in_one_data_set_is_refused_before_anything_is_written(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    cases: list[tuple[list[Episode], list[str], str]] = [
        ([made(0, **slow(0)), made(1, **slow(1))], [], "5 frames per second in .*e1 and 30 in .*e0; needed one rate"),
        ([made(0, stamps=np.zeros(5, np.int64))], [], "the time of frame 1 is not after that of frame 0"),
        ([made(0), made(1, side=48)], [], "needed one size in a data set"),
        ([made(0)], ["--camera", "wrist"], "found 'wrist', but this format keeps one camera"),
        ([made(0)], ["--fps", "0"], "fps"),
    ]
    for episodes, words, told in cases:
        for number, episode in enumerate(episodes):
            write_episode(tmp_path / "in" / f"e{number}", episode)
        assert refused(tmp_path, "--to", "lerobot", *words) == 2
        said = capfd.readouterr().err
        assert re.search(told, " ".join(said.split())), said
        shutil.rmtree(tmp_path / "in")


def test_what_a_format_cannot_say_is_refused_by_column_or_clipped_when_told(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    episode = made(0)
    episode.executed[2, 1] = 0.07
    write_episode(tmp_path / "in" / "e0", episode)
    assert run(tmp_path / "in", "--to", "worldgym", "--out", tmp_path / "out") == 2
    assert "column 1 (y): found 0.07 at row 2; WorldGym's rows hold -0.05 to 0.05" in capfd.readouterr().err
    shutil.rmtree(tmp_path / ".out.converting")
    assert run(tmp_path / "in", "--to", "worldgym", "--out", tmp_path / "out", "--clip") == 0
    assert find_all(tmp_path / "out")[0].steps().actions[2, 1] == pytest.approx(0.05)
    assert run(tmp_path / "in", "--to", "worldgym", "--out", tmp_path / "out") == 2
    assert "holds something already" in capfd.readouterr().err
    assert run(tmp_path / "in", "--to", "rosbag", "--out", tmp_path / "new") == 2
    assert "to: found 'rosbag', allowed are " + ", ".join(WRITABLE) in capfd.readouterr().err
