"""Every verb that reads episodes reads every registered format; a new format is one class."""

from __future__ import annotations

import dataclasses
import importlib
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gymnast_core.cli import main
from gymnast_core.data import formats as registry
from gymnast_core.data.episode import Episode, find_episodes, read_episode
from gymnast_core.data.formats import (
    Description,
    Format,
    StoredEpisode,
    episode_at,
    find_all,
    formats,
    open_episode,
    register_format,
)
from gymnast_core.data.frames import resize_frame, write_image
from gymnast_core.data.worldgym import scale_actions
from gymnast_core.errors import ConfigError, DataError
from gymnast_core.evaluation.imagination_config import EvaluateConfig
from gymnast_core.evaluation.replay import labelled
from gymnast_core.policy.dataset import find_entries
from gymnast_core.reward.train import label_frames
from gymnast_core.rollout.starts import read_frame, read_starts
from gymnast_core.verbs import VERBS, Verb
from gymnast_core.workflows.learn_data import divide, find_resets
from gymnast_core.world_model.dataset import read_clip
from tests.test_films import write_film
from tests.tiny_station import TASKS, build_tiny_station

STEPS, SIDE = 6, 48


@dataclass(frozen=True)
class Toy(StoredEpisode):
    """Everything in one file, `X.toy`."""

    def files(self) -> Sequence[Path]:
        return (self.path,)

    def describe(self) -> Description:
        return Description(str(self._array("instruction")), bool(self._array("success")))

    def steps(self) -> Episode:
        about, actions, count = self.describe(), self._array("actions"), self.count()
        nan, stamps = np.full((count, 7), np.nan, np.float32), np.arange(count)
        empty = np.empty((0, 0, 0, 3), np.uint8)
        return Episode(about.instruction, empty, actions, actions, nan, stamps, about.success)

    def count(self) -> int:
        return len(self._array("frames"))

    def frames(self, size: int | None = None) -> Iterator[np.ndarray]:
        return (self.frame(number, size) for number in range(self.count()))

    def frame(self, number: int, size: int | None = None) -> np.ndarray:
        frame = self._array("frames")[number]
        return resize_frame(frame, size) if size else frame

    def _array(self, name: str) -> np.ndarray:
        with np.load(self.path, allow_pickle=False) as archive:
            return archive[name]


def write_toy(path: Path, episode: Episode) -> Path:
    path = path.with_suffix(".toy")
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as stream:
        np.savez(
            stream,
            frames=episode.frames,
            actions=episode.actions,
            instruction=np.array(episode.instruction),
            success=np.array(episode.success),
        )
    return path


TOY = Format("toy", "X.toy", lambda folder, names: [folder / n for n in names if n.endswith(".toy")], Toy, write_toy)


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Format:
    monkeypatch.setattr(registry, "_registered", [])
    return register_format(TOY)


def write_worldgym(path: Path, episode: Episode) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = np.concatenate((np.zeros((1, 10), np.float32), scale_actions(episode.actions)))
    np.savez(path.with_suffix(".npz"), arr_0=rows)
    about = {"instruction": episode.instruction, "success": episode.success}
    path.with_suffix(".json").write_text(json.dumps(about))
    return write_film(path.with_suffix(".mp4"), episode.frames, pixels="yuv444p", preset="ultrafast")


def made(seed: int) -> Episode:
    """A bright square that goes with the action; even ones succeed, on two instructions."""
    random = np.random.default_rng(seed)
    frames = np.full((STEPS + 1, SIDE, SIDE, 3), 60 + seed % 3 * 20, np.uint8)
    actions = np.zeros((STEPS, 7), np.float32)
    actions[:, 6] = 1.0
    x = 10
    for step in range(STEPS + 1):
        frames[step, 8 + seed % 24 : 20 + seed % 24, x : x + 10] = 230
        if step < STEPS:
            actions[step, 0] = random.choice([-0.03, 0.03])
            x += 4 if actions[step, 0] > 0 else -1
    nan, stamps = np.full((STEPS + 1, 7), np.nan, np.float32), np.arange(STEPS + 1) * 200_000_000
    text = list(TASKS.values())[seed // 2 % 2]["instruction"]
    return Episode(str(text), frames, actions, actions, nan, stamps, seed % 2 == 0, metadata={"source": "robot"})


WRITERS: dict[str, Callable[[Path, Episode], Path]] = {"worldgym": write_worldgym}


def written(name: str) -> Callable[[Path, Episode], Path]:
    known = next(known for known in formats() if known.name == name)
    return known.write or WRITERS[name]


@pytest.mark.parametrize("name", ["gymnast", "worldgym", "pictures", "toy"])
def test_an_episode_is_the_same_in_every_format(toy: Format, tmp_path: Path, name: str) -> None:
    assert {"gymnast", "worldgym", "pictures", "lerobot", "rlds", "bags", "trials", "toy"} == {
        known.name for known in formats()
    }
    for seed in range(3):
        written(name)(tmp_path / "data" / f"e{seed}", made(seed))
    found = find_all(tmp_path / "data")
    assert [source.name for source in found] == ["e0", "e1", "e2"]
    close = 6 if name == "worldgym" else 0  # a film is lossy
    for seed, source in enumerate(found):
        episode, whole = made(seed), source.read()
        assert np.abs(whole.frames.astype(int) - episode.frames).mean() <= close
        np.testing.assert_allclose(whole.executed, episode.executed, atol=1e-6)
        np.testing.assert_allclose(whole.actions, episode.actions, atol=1e-6)
        about = source.describe()
        assert (about.instruction, about.success) == (episode.instruction, episode.success)
        assert (whole.instruction, whole.success) == (episode.instruction, episode.success)
        assert source.count() == STEPS + 1 and source.number(-1) == STEPS
        with pytest.raises(DataError, match="found 7 frames, there is no index 7; allowed are 0 to 6"):
            source.number(7)
        assert np.array_equal(source.pick([4, 0, 4]), whole.frames[[4, 0, 4]])
        assert np.array_equal(source.frame(3), whole.frames[3]) and source.frame(3, 16).shape == (16, 16, 3)
        source.check_frames(STEPS + 1)
        frames, conditions = read_clip(source, 32)
        assert frames.shape == (STEPS + 1, 32, 32, 3) and not conditions[0].any()
        np.testing.assert_allclose(conditions[1:], scale_actions(episode.actions), atol=1e-5)
        assert open_episode(source.path) == source and len({found[0], source, open_episode(found[0].path)}) < 3
    stamp = found[0].stamp()
    assert open_episode(found[0].path).stamp() == stamp != found[1].stamp()
    starts = read_starts(tmp_path / "data", 32)
    assert [start.instruction for start in starts] == [made(seed).instruction for seed in range(3)]
    assert np.array_equal(read_frame(str(found[1].path), 2).frame, found[1].frame(2))


@pytest.mark.parametrize("name", ["gymnast", "worldgym", "pictures"])
def test_episodes_are_divided_in_every_format(tmp_path: Path, name: str) -> None:
    for seed in range(6):
        written(name)(tmp_path / "data" / f"e{seed}", made(seed))
    divided = divide(find_resets([str(tmp_path / "data")]), 0.3, tmp_path / "divided")
    teach, measure = find_all(divided.teach), find_all(divided.measure)
    assert (len(teach), len(measure)) == (divided.teaching, divided.measuring) and len(teach) + len(measure) == 6
    assert sum(bool(source.outcome().success) for source in teach) == divided.successes
    assert sum(bool(source.outcome().success) for source in (*teach, *measure)) == 3
    for source in (*teach, *measure):
        assert source.read().length == STEPS


def options_of(verb: Verb) -> type[Any]:
    module, name = verb.options.split(":")
    found: type[Any] = getattr(importlib.import_module(module), name)
    return found


def test_an_added_format_is_read_by_every_verb_that_takes_data(
    toy: Format, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, held = tmp_path / "data", tmp_path / "held"
    for seed in range(12):
        toy.write and toy.write(data / f"{seed:02d}", made(seed))
        toy.write and toy.write(held / f"{seed + 50}", made(seed + 50))
    station = build_tiny_station(tmp_path / "station")
    models = station.parent
    runs = tmp_path / "runs"
    tuning = ["--init", models / "world_model", "--cache", tmp_path / "cache", "--held-out", "0.2", "--device", "cpu"]
    tuning += ["--batch", 2, "--steps", 2, "--horizon", 3, "--clip-frames", 4, "--warmup", 1]
    sizes = ["--model.in-channels", 4, "--model.patch-size", 4, "--model.dim", 32, "--model.num-layers", 1]
    sizes += ["--model.num-heads", 2, "--model.max-frames", 6, "--autoencoder", models / "world_model" / "autoencoder"]
    options: dict[str, list[object]] = {
        "sft": ["--base", models / "policy", "--out", runs / "policy", "--steps", 1, "--batch", 2],
        "judge train": ["--out", runs / "judge", "--steps", 2, "--size", 32, "--width", 8, "--batch", 4],
        "judge evaluate": ["--config", station],
        "world-model train": [*tuning, *sizes],
        "world-model finetune": tuning,
        "world-model train-autoencoder": ["--steps", 2, "--model.image-size", 32, "--cache", tmp_path / "cache"],
        "world-model evaluate": ["--model", models / "world_model", "--horizon", 6, "--held-out", 0],
        "world-model reconstruct": ["--out", runs / "copies", "--world-model", models / "world_model"],
        "data check": [],
        "data list": [],
        "data label": ["--who", "a test"],  # the last one: it changes what the episodes say
    }
    monkeypatch.setattr("sys.stdin", io.StringIO("f\n" * 12))
    options["world-model evaluate"] += ["--training", data, "--config", station, "--device", "cpu"]
    taking = {
        verb
        for verb, found in VERBS.items()
        if "data" in {field.name for field in dataclasses.fields(options_of(found))}
    }
    assert taking - {"learn", "data view"} == set(options), (
        "what learns runs these verbs, each in a process of its own; the other needs Rerun"
    )
    for verb, words in options.items():
        read = held if verb == "world-model evaluate" else data
        run = (
            []
            if verb in ("world-model reconstruct", "data label", "data list")
            else ["--run", runs / verb.replace(" ", "_")]
        )
        assert main([*verb.split(), *map(str, ["--data", read, *run, *words])]) == 0, verb

    assert json.loads((runs / "judge_evaluate" / "result.json").read_text())["episodes"] == 12
    gate = json.loads((models / "world_model" / "gate.json").read_text())
    assert gate["replay"]["all"]["episodes"] == 12 and (models / "world_model" / "familiarity.safetensors").exists()
    copies = find_episodes(runs / "copies")
    assert [folder.name for folder in copies] == [f"{seed:02d}" for seed in range(12)]
    copy = read_episode(copies[3])
    assert (copy.instruction, copy.success) == (made(3).instruction, False)
    np.testing.assert_allclose(copy.executed, made(3).executed, atol=1e-6)
    words = ["--model", models / "world_model", "--out", tmp_path / "film.mp4", "--episode", data / "03.toy"]
    assert main(["world-model", "rollout", *map(str, words)]) == 0 and (tmp_path / "film.mp4").exists()
    for run in (data, tmp_path / "data"):  # no verb's files get among them
        assert main(["sft", "--data", str(data), "--run", str(run), "--out", str(tmp_path / "no")]) == 2


def test_nothing_is_read_before_it_is_asked_for(tmp_path: Path) -> None:
    """Damage costs those alone who read what is damaged, and they are told the file."""
    for name in ("gymnast", "pictures", "worldgym"):
        path = written(name)(tmp_path / name / "e", made(1))
        (source,) = find_all(tmp_path / name)
        if name == "worldgym":
            path.with_suffix(".npz").write_bytes(b"rubbish")
            assert source.frame(2).shape == (SIDE, SIDE, 3) and source.describe().success is False
            with pytest.raises(DataError, match=r"e\.npz: cannot read an array 'arr_0'"):
                source.steps()
            continue
        (path / "frames" / "000004.png").write_bytes(b"rubbish")
        assert source.frame(3).shape == (SIDE, SIDE, 3) and source.steps().length == STEPS
        assert len(list(zip(range(4), source.frames()))) == 4
        for read in (
            source.read,
            lambda source=source: source.check_frames(STEPS),
            lambda source=source: source.pick([4]),
        ):
            with pytest.raises(DataError, match=r"frames/000004\.png: not a readable image"):
                read()


def test_a_copy_takes_the_place_of_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = build_tiny_station(tmp_path / "station").parent
    words = ["world-model", "reconstruct", "--autoencoder", str(models / "world_model" / "autoencoder")]
    path = written("pictures")(tmp_path / "data" / "e", made(0))
    before = open_episode(path).read()
    assert main([*words, "--data", str(tmp_path / "data"), "--out", str(tmp_path)]) == 2
    assert "data/e is an episode of the data; choose another --out" in capsys.readouterr().err
    assert np.array_equal(open_episode(path).read().frames, before.frames)
    (tmp_path / "out" / "data" / "e").mkdir(parents=True)
    (tmp_path / "out" / "data" / "e" / "notes.txt").write_text("mine")
    assert main([*words, "--data", str(tmp_path / "data"), "--out", str(tmp_path / "out")]) == 2
    assert "data/e: cannot write" in capsys.readouterr().err
    assert (tmp_path / "out" / "data" / "e" / "notes.txt").read_text() == "mine"
    write_worldgym(tmp_path / "data" / "e", made(0))
    assert main([*words, "--data", str(tmp_path / "data"), "--out", str(tmp_path / "other")]) == 2
    assert "would both be copied to" in capsys.readouterr().err and not (tmp_path / "other").exists()


def test_what_is_no_bridge_action_is_refused_wherever_one_is_needed(tmp_path: Path) -> None:
    """By file, column and value; a world model learns a film's rows of any robot, and a judge looks at no action."""
    data, config = tmp_path / "data", EvaluateConfig(model="", data=())
    wild = dataclasses.replace(made(0), executed=made(0).executed.copy())
    wild.executed[2, 1] = 3.0
    for name in ("gymnast", "pictures"):
        path = written(name)(data / name / "e", wild)
        where = rf"{name}/e.*: executed: column 1 \(y\): found 3 at row 2; allowed are -0\.5 to 0\.5 \(metres\)"
        reads = (
            lambda path=path: find_entries([str(path)]),
            lambda path=path: read_clip(open_episode(path), 32),
            lambda path=path: labelled([open_episode(path)], config),
        )
        for read in reads:
            with pytest.raises(DataError, match=where):
                read()
        found = label_frames(open_episode(path), 32)
        assert found is not None and found.success and len(found.frames) == STEPS + 1
    film = write_worldgym(data / "film" / "0", made(0))
    rows = np.full((STEPS + 1, 10), -1, np.float32)  # a base that moves
    np.savez(film.with_suffix(".npz"), arr_0=rows)
    assert np.array_equal(read_clip(open_episode(film), 32)[1][1:], rows[1:])
    assert label_frames(open_episode(film), 32) is not None
    for read in (lambda: find_entries([str(film.parent)]), lambda: labelled([open_episode(film)], config)):
        with pytest.raises(
            DataError, match=r"film/0\.npz: column 7 \(base 1\): found -1 at row 0; .* no base that moves"
        ):
            read()


def test_a_judge_is_not_asked_about_an_episode_without_an_instruction(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    film = write_worldgym(tmp_path / "0", made(0))
    film.with_suffix(".json").write_text('{"success": true}')
    with pytest.raises(DataError, match=r"0\.mp4: no instruction; write one beside it"):
        label_frames(open_episode(film), 32)
    with pytest.raises(DataError, match="no held-out episode has a known outcome"):
        labelled([open_episode(film)], EvaluateConfig(model="", data=()))
    assert "left out" in capsys.readouterr().err


def test_a_folder_of_pictures_is_put_in_order_by_number_or_refused(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "e"
    (folder / "frames").mkdir(parents=True)
    for number in range(12):
        write_image(folder / "frames" / f"im_{number}.jpg", np.full((32, 32, 3), 10 * number, np.uint8))
    actions = np.full((11, 7), 0.01, np.float32)
    np.savez(folder / "actions.npz", actions=actions)
    (folder / "frames" / "._im_3.jpg").write_bytes(b"\0")
    (folder / "frames" / "Thumbs.db").write_bytes(b"\0")
    assert [round(frame.mean() / 10) for frame in open_episode(folder).frames()] == list(range(12))
    assert open_episode(folder).describe() == Description("", None, {"source": "robot", "file": "e"})

    def refused(message: str) -> None:
        with pytest.raises(DataError, match=message):
            open_episode(folder).read()

    wild = actions.copy()
    wild[4, 1] = 35.0
    for array, message in (
        (actions[:9], r"actions\.npz: found 9 actions and 9 executed for 12 frames; needed one frame more"),
        (wild, r"actions\.npz: actions: column 1 \(y\): found 35 at row 4; allowed are -0\.5 to 0\.5 \(metres\)"),
        (actions[:, :6], r"actions\.npz: actions: found shape \(11, 6\), needed \(steps, 7\)"),
        (np.full((11, 7), np.nan), r"actions\.npz: found nan at \[0, 0\]; needed finite numbers"),
    ):
        np.savez(folder / "actions.npz", actions=array)
        refused(message)
    np.savez(folder / "actions.npz", actions=actions, executed=wild)
    refused(r"actions\.npz: executed: column 1")
    np.savez(folder / "actions.npz", actions=actions, executed=actions / 2)
    assert np.allclose(open_episode(folder).read().executed, actions / 2)
    (folder / "description.json").write_text('{"success": "yes"}')
    refused(r"description\.json: success: found 'yes', needed true, false or null")
    (folder / "description.json").unlink()
    picture = (folder / "frames" / "im_5.jpg").read_bytes()
    (folder / "frames" / "image_5.png").write_bytes(picture)
    refused(r"image_5\.png: has the number of im_5\.jpg; needed one picture for each number")
    (folder / "frames" / "image_5.png").rename(folder / "frames" / "cover.png")
    refused(r"cover\.png: found no number at the end of its name")
    (folder / "frames" / "cover.png").unlink()
    (folder / "frames" / "im_5.jpg").unlink()
    refused(r"frames: found no picture 5, but later ones; needed numbers without a gap")
    write_image(folder / "frames" / "im_5.jpg", np.zeros((40, 32, 3), np.uint8))
    refused(r"data/e: frames: found sizes \[\(32, 32\), \(40, 32\)\] \(height, width\), needed one size")


def test_a_path_is_read_by_one_format_and_a_name_stands_for_one(toy: Format, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is a format called 'pictures' already"):
        register_format(dataclasses.replace(TOY, name="pictures"))
    path = written("gymnast")(tmp_path / "data" / "e", made(0))
    np.savez(path / "actions.npz", actions=made(0).actions)  # a folder that two formats could claim
    assert [type(source).__name__ for source in find_all(tmp_path)] == ["GymnastEpisode"]
    assert episode_at(tmp_path) is None and episode_at(tmp_path / "nowhere") is None
    for wrong, found in ((tmp_path, "no episode"), (tmp_path / "nowhere", "no such file or folder")):
        with pytest.raises(
            DataError, match=rf"{wrong.name}: {found}; needed a folder with episode\.json, or N\.mp4 .*X\.toy"
        ):
            open_episode(wrong)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty: no episode below it; needed .*, or X\.toy"):
        find_all(tmp_path / "empty")


def test_the_formats_are_listed(toy: Format, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "formats"]) == 0
    told = capsys.readouterr()
    lines = [" ".join(line.split()) for line in (told.out + told.err).splitlines()]
    assert "worldgym read, write N.mp4 with N.npz beside it" in lines and "toy read, write X.toy" in lines
    page = (Path(__file__).resolve().parent.parent / "docs" / "reference" / "formats.md").read_text()
    assert all(f"## `{known.name}`" in page for known in formats() if known != toy)
