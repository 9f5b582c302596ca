"""`gymnast data check`, `list` and `show`: every kind of damage is found and named, whole episodes are not accused, and
no byte ends in a traceback."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gymnast_core.cli import main
from gymnast_core.config import StationConfig, load_config
from gymnast_core.data.episode import EpisodeWriter, read_episode
from gymnast_core.data.formats import episodes_of, open_episode
from gymnast_core.data.frames import write_image
from gymnast_core.data.labels import Label, write_label
from gymnast_core.data.mcap_log import McapLog, Topic
from gymnast_core.data.outcome import OUTCOMES
from gymnast_core.data.pictures import read_image
from gymnast_core.data.recover import LOG_FOLDER
from gymnast_core.evaluation.check_episode import check_episode
from gymnast_core.evaluation.collect import _collect_one
from gymnast_core.evaluation.collect_config import CollectConfig
from gymnast_core.evaluation.findings import RULES
from gymnast_core.evaluation.logbook import entries_of
from gymnast_core.evaluation.logbook_config import OutcomeName
from gymnast_core.station_file import find_station_file
from tests.machine import HANG_S, overdue
from tests.test_formats import made, write_worldgym, written

ROOT = Path(__file__).resolve().parent.parent
REAL = ROOT.parent / "shared" / "data"
"""Where episodes of others lie beside the repository."""
STEPS, SEED = 24, 2


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An episode that the simulated station recorded: an arm that moves and turns every way, and its camera."""
    out = tmp_path_factory.mktemp("recorded")
    config = str(find_station_file("simulated_drawer"))
    options = CollectConfig(out=str(out), config=config, policy="random", horizon=STEPS)
    _collect_one(options, load_config(StationConfig, config), SEED)
    (folder,) = out.iterdir()
    log = McapLog(folder / LOG_FOLDER, "none")
    log.add_topic(Topic("/station/text", "std_msgs/msg/String", "string data"))
    for index in range(200):
        log.write("/station/text", b"\0\1\0\0" + bytes(400), 1000 + index)
        log.flush()
    log.close()
    return folder


Lines = list[dict[str, Any]]


def rewrite(folder: Path, change: Callable[[Lines, Lines], None]) -> None:
    """Change the observations and the steps of a recording."""
    path = folder / "steps.jsonl"
    lines = [json.loads(text) for text in path.read_text().splitlines()]
    change([line for line in lines if "frame" in line], [line for line in lines if "step" in line])
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def header(folder: Path, **fields: Any) -> None:
    path = folder / "episode.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def frame(folder: Path, number: int) -> Path:
    return folder / "frames" / f"{number:06d}.png"


def damages() -> dict[str, tuple[str, int | None, Callable[[Path], None]]]:
    """Name: the code that must be found, the step where it must be found, the damage."""

    def cut(path: Path, share: float) -> None:
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])

    def killed(folder: Path) -> None:
        header(folder, status="recording")
        cut(folder / "steps.jsonl", 0.9)

    def shorter(folder: Path) -> None:
        path = folder / "steps.jsonl"
        path.write_text("".join(path.read_text().splitlines(keepends=True)[: 2 * 12 + 1]))

    def broken(folder: Path) -> None:
        rewrite(folder, lambda seen, _: seen[3].update(state=1))

    def repeated(folder: Path) -> None:
        for number in range(6, 12):
            shutil.copy(frame(folder, 5), frame(folder, number))

    def black(folder: Path) -> None:
        for number in (4, 5):
            write_image(frame(folder, number), np.full_like(read_image(frame(folder, number)), 3))

    def states(change: Callable[[int, list[float]], None]) -> Callable[[Path], None]:
        def each(seen: Lines, _: Lines) -> None:
            for number, line in enumerate(seen):
                change(number, line["state"])

        return lambda folder: rewrite(folder, each)

    def sent(change: Callable[[list[float]], list[float]]) -> Callable[[Path], None]:
        def each(_: Lines, steps: Lines) -> None:
            for line in steps:
                line["executed"] = change(line["executed"])

        return lambda folder: rewrite(folder, each)

    def stamps(change: Callable[[int, int], int]) -> Callable[[Path], None]:
        def each(seen: Lines, _: Lines) -> None:
            for number, line in enumerate(seen):
                line["stamp_ns"] = change(number, line["stamp_ns"])

        return lambda folder: rewrite(folder, each)

    def still(folder: Path) -> None:
        def each(seen: Lines, _: Lines) -> None:
            for line in seen[8:20]:
                line["state"] = seen[8]["state"]

        rewrite(folder, each)

    def silent(folder: Path) -> None:
        def each(_: Lines, steps: Lines) -> None:
            for line in steps[10:]:
                line["executed"] = [None] * 7

        rewrite(folder, each)

    def leap(number: int, state: list[float]) -> None:
        state[0] -= 0.35 * (number == 9)

    def millimetres(_: int, state: list[float]) -> None:
        state[:3] = [1000 * value for value in state[:3]]

    small = np.zeros((32, 32, 3), np.uint8) + np.arange(32, dtype=np.uint8)[:, None] * 7
    return {
        "killed": ("recording_killed", None, killed),
        "zeroed header": ("header_damaged", None, lambda folder: (folder / "episode.json").write_bytes(bytes(500))),  # type: ignore[dict-item, return-value]
        "lost header": ("header_damaged", None, lambda folder: (folder / "episode.json").unlink()),
        "lost lines": ("steps_lost", 12, shorter),
        "broken line": ("steps_unreadable", None, broken),
        "cut picture": ("frame_unreadable", 7, lambda folder: cut(frame(folder, 7), 0.5)),
        "lost picture": ("frame_unreadable", 9, lambda folder: frame(folder, 9).unlink()),
        "other size": ("frame_size", 8, lambda folder: write_image(frame(folder, 8), small)),
        "black": ("frames_black", 4, black),
        "frozen": ("frames_frozen", 5, repeated),
        "cut log": ("log_damaged", None, lambda folder: cut(folder / LOG_FOLDER / "log_0.mcap", 0.6)),
        "label": ("outcome_damaged", None, lambda folder: write_label(folder, Label(True, STEPS + 3))),  # type: ignore[dict-item, return-value]
        "clock back": ("stamps_backwards", 9, stamps(lambda number, stamp: stamp - 10**9 * (number >= 10))),
        "clock ahead": ("stamps_jump", 9, stamps(lambda number, stamp: stamp + 30 * 10**9 * (number >= 10))),
        "leap": ("state_jump", 8, states(leap)),
        "millimetres": ("state_impossible", 0, states(millimetres)),
        "no motion": ("no_motion", 8, still),
        "silent": ("arm_silent", 10, silent),
        "impossible": ("actions_impossible", None, sent(lambda a: [35 * value for value in a[:3]] + a[3:])),
        "axes": ("convention_axes", None, sent(lambda a: [a[1], -a[0], *a[2:]])),
        "one axis": ("convention_axes", None, sent(lambda a: [a[0], -a[1], *a[2:]])),
        "turns": ("convention_turns", None, sent(lambda a: [*a[:3], a[5], a[4], -a[3], a[6]])),
        "units": ("convention_units", None, sent(lambda a: [value / 35 for value in a[:3]] + a[3:])),
        "gripper": ("convention_gripper", None, sent(lambda a: [*a[:6], 1 - a[6]])),
    }  # fmt: skip


@pytest.mark.parametrize("name", damages())
def test_each_damage_is_found_and_named_where_it_is(recorded: Path, tmp_path: Path, name: str) -> None:
    code, step, damage = damages()[name]
    folder = Path(shutil.copytree(recorded, tmp_path / "e"))
    assert main(["data", "check", "--data", str(tmp_path), "--run", str(tmp_path / "whole")]) == 0
    damage(folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert main(["data", "check", "--data", str(tmp_path), "--run", str(tmp_path / "run")]) == 1
    findings = json.loads((tmp_path / "run" / "result.json").read_text())["findings"]
    found = {finding["code"]: finding["step"] for finding in findings}
    assert found.get(code, "nothing") == step and "unexpected" not in found, findings
    follows = {"millimetres": "convention_units", "impossible": "convention_units", "no motion": "state_jump"}
    assert set(found) - {code, follows.get(name)} == set(), findings
    assert {path: path.read_bytes() for path in before} == before, "without --mend nothing is changed"
    page = (tmp_path / "run" / "report.html").read_text()
    assert code in page and (name in ("zeroed header", "lost header", "broken line") or "data:image/jpeg" in page)


def test_the_damages_are_all_that_can_be_found() -> None:
    tried = {code for code, _, _ in damages().values()}
    assert set(RULES) - tried == {"lengths_differ", "unexpected"}, "the first is tried on films and pictures"
    text = (ROOT / "docs" / "how-to" / "check_data.md").read_text()
    assert [code for code in RULES if f"`{code}`" not in text] == []


def test_films_and_pictures_that_were_cut_are_found(tmp_path: Path) -> None:
    episode = made(0)
    short = dataclasses.replace(episode, frames=episode.frames[:-2])
    arrays = write_worldgym(tmp_path / "whole", episode).with_suffix(".npz").read_bytes()
    write_worldgym(tmp_path / "short", short).with_suffix(".npz").write_bytes(arrays)
    film = write_worldgym(tmp_path / "torn", episode)
    film.write_bytes(film.read_bytes()[:-400])
    written("pictures")(tmp_path / "pictures", episode)
    written("pictures")(tmp_path / "missing", episode)
    (tmp_path / "missing" / "frames" / "000006.png").unlink()
    still = dataclasses.replace(episode, frames=np.repeat(episode.frames[:1], 7, axis=0))
    write_worldgym(tmp_path / "still", still)
    found = {source.name: {f.code for f in check_episode(source)} for source in episodes_of([tmp_path])}
    assert found == {
        "whole": set(),
        "pictures": set(),
        "short": {"lengths_differ"},
        "missing": {"lengths_differ"},
        "torn": {"frame_unreadable", "lengths_differ"},
        "still": {"frames_frozen"},
    }


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no real data in {REAL}")
def test_real_episodes_and_photographs_are_not_accused(tmp_path: Path) -> None:
    for picture in (REAL / "autoeval_station").glob("*.png"):
        shutil.copy(picture, tmp_path)
        (tmp_path / picture.with_suffix(".json").name).write_text(json.dumps({"instruction": picture.stem}))
    sources = episodes_of([REAL, tmp_path])
    assert len(sources) == 13 and [found for source in sources for found in check_episode(source)] == []


def test_mending_saves_what_is_whole_and_keeps_the_original(recorded: Path, tmp_path: Path) -> None:
    repaired = ("killed", "zeroed header", "lost header", "lost lines", "cut picture", "cut log")
    old: dict[Path, bytes] = {}
    for name in (*repaired, "frozen"):
        folder = Path(shutil.copytree(recorded, tmp_path / "data" / name.replace(" ", "_")))
        damages()[name][2](folder)
        old |= {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    words = ["data", "check", "--data", str(tmp_path / "data"), "--mend", "--run", str(tmp_path / "run")]
    assert main(words) == 1
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert {Path(one["episode"]).name for one in result["mended"]} == {name.replace(" ", "_") for name in repaired}
    assert [finding["code"] for finding in result["findings"]] == ["frames_frozen"]
    for path, content in old.items():
        copies = [path, *path.parent.glob(f"{path.name}.damaged*")]
        assert content in [copy.read_bytes() for copy in copies if copy.exists()], path
    assert read_episode(tmp_path / "data" / "cut_picture").length == 6
    shutil.rmtree(tmp_path / "data" / "frozen")
    after = sorted((tmp_path / "data").rglob("*"))
    assert main(words) == 0 and sorted((tmp_path / "data").rglob("*")) == after, "there is nothing more to mend"


def test_what_is_being_recorded_is_left_alone(tmp_path: Path) -> None:
    episode = made(0)
    code = (
        "import sys; import numpy as np; from gymnast_core.data.episode import EpisodeWriter\n"
        "writer = EpisodeWriter(sys.argv[1], 'open the drawer', {})\n"
        "writer.add_observation(np.zeros((32, 32, 3), np.uint8)); print('open', flush=True); input()"
    )
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "open")], **pipes)
    assert process.stdout is not None and process.stdout.readline() == "open\n"
    written("gymnast")(tmp_path / "whole", episode)
    words = ["data", "check", "--data", str(tmp_path), "--mend", "--run", str(tmp_path / "run")]
    try:
        assert main(words) == 0
    finally:
        process.communicate("\n", timeout=HANG_S)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["recording"] == [str(tmp_path / "open")] and result["clean"] == 1
    assert json.loads((tmp_path / "open" / "episode.json").read_text())["status"] == "recording"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An episode of every format, with everything that may lie in or beside it."""
    root = tmp_path_factory.mktemp("small")
    folder = written("gymnast")(root / "gymnast", made(0))
    write_label(folder, Label(True, 6, 3))
    log = McapLog(folder / LOG_FOLDER, "lz4")
    log.add_topic(Topic("/station/text", "std_msgs/msg/String", "string data"))
    log.write("/station/text", b"\0\1\0\0" + bytes(40), 1000)
    log.close()
    written("pictures")(root / "pictures", made(1))
    write_worldgym(root / "film", made(0))
    write_image(root / "trial.png", made(0).frames[0])
    (root / "trial.json").write_text('{"instruction": "open the drawer", "position": [0.3, 0, 0.1]}')
    return root


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 10**6), st.floats(0, 1, exclude_max=True), st.integers(1, 255), st.booleans())
def test_no_byte_ends_in_a_traceback(small: Path, which: int, place: float, change: int, through_cli: bool) -> None:
    files = sorted(path for path in small.rglob("*") if path.is_file() and "run" not in path.parts)
    path = files[which % len(files)]
    content = path.read_bytes()
    damaged = bytearray(content)
    damaged[int(place * len(content))] ^= change
    try:
        path.write_bytes(damaged)
        sources = episodes_of([small])
        findings = [finding for source in sources for finding in check_episode(source)]
        assert "unexpected" not in {finding.code for finding in findings}, findings
        entries_of(sources)
        if through_cli and which % 5 == 0:
            run = str(small.parent / "run")
            assert main(["data", "check", "--data", str(small), "--run", run]) == int(bool(findings))
            assert main(["data", "list", "--data", str(small), "--json"]) == 0
            named = next((s.path for s in sources if path.is_relative_to(s.path) or path == s.path), small / "film.mp4")
            assert main(["data", "show", str(named), "--run", run]) in (0, 1)
    finally:
        path.write_bytes(content)


def logged(root: Path, name: str, day: str, success: bool | None = None, steps: int = 3, **facts: Any) -> Path:
    """A recording of a day, at noon local time."""
    began = int(time.mktime(time.strptime(f"{day} 12:00", "%Y-%m-%d %H:%M"))) * 10**9
    with EpisodeWriter(root / name, "open the drawer", {"task": "open_drawer", "started_ns": began, **facts}) as writer:
        for step in range(steps + 1):
            if step:
                writer.add_step([0.0] * 7)
            writer.add_observation(made(0).frames[step], stamp_ns=began + step * 200_000_000)
        return writer.finish(success=success)


def test_a_log_folder_is_listed_and_filtered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logged(tmp_path, "b", "2026-11-29", True, policy="base", outcome_by="station")
    logged(tmp_path, "a", "2026-11-30", False, policy="drawer_adapter", outcome_by="classifier")
    logged(tmp_path, "c", "2026-12-01", None, policy="base", outcome="aborted")
    write_label(logged(tmp_path, "d", "2026-12-02", False, policy="base", outcome_by="classifier"), Label(True, 3, 2))
    written("pictures")(tmp_path / "pictures", made(1))  # of today
    logged(tmp_path, "broken", "2026-12-03")
    (tmp_path / "broken" / "steps.jsonl").unlink()

    def names(*words: str) -> list[str]:
        assert main(["data", "list", "--data", str(tmp_path), "--json", *words]) == 0
        found = json.loads(capsys.readouterr().out)
        assert len(found["unreadable"]) == 1 and "broken" in found["unreadable"][0]
        return [name for entry in found["episodes"] if (name := Path(entry["path"]).name) != "pictures"]

    assert names() == ["b", "a", "c", "d"], "the oldest first"
    assert names("--policy", "BASE") == ["b", "c", "d"] and names("--policy", "*adapter") == ["a"]
    assert names("--outcome", "success") == ["b", "d"] and names("--outcome", "aborted") == ["c"]
    assert names("--day", "2026-11") == ["b", "a"] and names("--day", "2026-12-01", "--outcome", "success") == []
    assert set(names("--task", "*drawer")) >= {"a", "b", "c", "d"} and names("--task", "fold") == []
    assert main(["data", "list", "--data", str(tmp_path), "--policy", "base"]) == 0
    told = capsys.readouterr()
    head, *rows = told.out.splitlines()
    assert head.split() == ["began", "task", "policy", "outcome", "by", "steps", "seconds", "path"]
    assert rows[2].split()[:9] == ["2026-12-02", "12:00", "open_drawer", "base", "success", "person", "3", "0.6",
                                   str(tmp_path / "d")]  # fmt: skip
    assert "3 of 6 episodes, 1 cannot be read" in told.err and "next: gymnast data check --data" in told.err
    assert set(get_args(OutcomeName)) == {"", *OUTCOMES}
    for wrong in (["--day", "yesterday"], ["--outcome", "won"]):
        assert main(["data", "list", "--data", str(tmp_path), *wrong]) == 2
    for verb in ("list", "check"):
        assert main(["data", verb, "--data", str(tmp_path / "none")]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_an_episode_is_shown_with_its_film(recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    assert main(["data", "show", str(recorded), "--json", "--run", str(run)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["steps"] == STEPS and found["policy"] == "random" and found["by"] == "station"
    assert found["findings"] == [] and found["metadata"]["seed"] == SEED
    page = (run / "report.html").read_text()
    assert page.count("data:image/jpeg") == 4 and "Measured position" in page and "Gripper" in page
    assert main(["data", "show", str(recorded), "--run", str(recorded)]) == 2, "no page gets among the episodes"
    assert main(["data", "show", str(tmp_path)]) == 2
    film = write_worldgym(tmp_path / "film", made(0))
    assert main(["data", "show", str(film), "--run", str(run)]) == 0
    assert open_episode(film).instruction() in capsys.readouterr().out


def test_a_check_that_is_interrupted_reports_what_it_saw(tmp_path: Path) -> None:
    source = written("gymnast")(tmp_path / "data" / "000", made(0))
    for number in range(1, 400):
        shutil.copytree(source, tmp_path / "data" / f"{number:03d}", copy_function=os.link)
    command = [sys.executable, "-m", "gymnast_core.cli", "data", "check", "--data", str(tmp_path / "data")]
    command += ["--run", str(tmp_path / "run")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    begun = tmp_path / "run" / "config.yaml"
    since = time.monotonic()
    while not begun.exists() and process.poll() is None and not overdue(HANG_S, since):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=HANG_S)
    assert process.returncode == 130 and "Traceback" not in err, err
    assert "interrupted after" in out and (tmp_path / "run" / "report.html").exists()
