"""A lab's whole way, from its first logged episodes to its first accepted adapter: docs/how-to/real_station.md.

Each verb is called as the line `next: ...` of the one before says, with small numbers added. The simulated station
stands for a real one: what it knew of success is taken out of its logs, so that a person's labels are all there is.
"""

from __future__ import annotations

import io
import json
import shlex
from pathlib import Path

import pytest
import yaml

from gymnast_core.cli import main
from gymnast_core.data.formats import find_all, open_episode
from gymnast_core.data.labels import label_file
from gymnast_core.data.logged_by import station_file_of
from gymnast_core.station_file import find_station_file

TASK = "close the drawer"
STEPS = 12
"""Of every episode, and of imagination."""
SEEDS = 3
"""Practices from one frame are no sure thing: at most this many are tried."""
RECIPE = {
    "groups": 4,
    "min_groups": 1,
    "group_size": 8,
    "learning_rate": 1e-3,
    "filter_low": 0.05,
    "filter_high": 0.95,
    "baseline": "alive",
    "safety_penalty": 0.5,
    "trainable": "lora",
}
SAFETY = {
    "workspace_min": [0.1, -0.3, -0.05],
    "workspace_max": [0.5, 0.3, 0.4],
    "max_translation": 0.1,
    "max_rotation": 0.5,
}
"""So wide that a short practice does not learn to meet it."""


class Lab:
    """A folder of a lab with its station file, and the last line that a verb said."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self._capsys = folder, capsys
        self.logs = folder / "logs"
        self.station = folder / "my_station.yaml"
        content = yaml.safe_load(find_station_file("simulated_drawer").read_text())
        content["name"] = "my_station"
        content["recorder"] = {"folder": str(self.logs)}
        content["models"]["adapters"] = str(folder / "adapters")
        content["safety"] = SAFETY
        del content["adaptation"]["gate_judge"]  # the lab has but its own judge
        limits = {"horizon": STEPS, "min_agreement": 0.5, "max_bias": 0.7}  # a handful of episodes measures no better
        content["adaptation"] = {**content["adaptation"], **limits, "recipe": str(folder / "recipe.yaml")}
        (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
        self.station.write_text(yaml.safe_dump(content))
        self.said = ""

    def set(self, section: str, **values: object) -> None:
        """Write into the station file, as a verb says."""
        content = yaml.safe_load(self.station.read_text())
        content[section] = {**content[section], **values}
        self.station.write_text(yaml.safe_dump(content))

    def run(self, words: list[str], *more: object, code: int = 0) -> list[str]:
        """Run a verb; the words of the command that it names as its last line, after `gymnast`."""
        assert main([*words, *map(str, more)]) == code, self._capsys.readouterr().err
        self.said = self._capsys.readouterr().err
        last = self.said.splitlines()[-1]
        assert last.startswith("next: gymnast "), self.said
        return shlex.split(last)[2:]


def as_a_real_arm_logs(folder: Path) -> dict[str, int | None]:
    """Take the station's truth out of the logs; by name, the first frame that shows the task done."""
    seen = {}
    for episode in (source.path for source in find_all(folder)):
        frames = open_episode(episode).outcome().frames
        seen[episode.name] = next((number for number, done in enumerate(frames) if done), None)
        header = json.loads((episode / "episode.json").read_text())
        facts = {name: value for name, value in header["metadata"].items() if name != "outcome_by"}
        header.update(success=None, metadata={**facts, "source": "robot"})
        (episode / "episode.json").write_text(json.dumps(header))
        lines = [json.loads(line) for line in (episode / "steps.jsonl").read_text().splitlines()]
        for line in lines:
            line.pop("success", None)
        (episode / "steps.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        assert open_episode(episode).outcome().success is None
    return seen


def test_a_lab_opens_the_gate_with_its_own_logs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    lab = Lab(tmp_path, capsys)
    log = ["data", "collect", "--config", str(lab.station), "--out", str(lab.logs), "--horizon", str(STEPS)]
    log += ["--tasks", "close_drawer", "--first-seed", "100", "--workers", "1"]
    lab.run(log, "--policy", "mini/policy", "--episodes", 10)
    then = lab.run(log, "--policy", "expert", "--episodes", 16)
    seen = as_a_real_arm_logs(lab.logs)
    assert 4 <= sum(first is not None for first in seen.values()) <= 14
    assert station_file_of([str(lab.logs)]) == lab.station

    # Without labels nothing goes, and each says so before it costs anything.
    small_judge = ["--steps", "200", "--width", "12", "--batch", "32", "--stride", "1", "--consecutive", "1"]
    assert main([*then, *small_judge]) == 2 and "`gymnast data label`" in capsys.readouterr().err
    logs = {path: path.read_bytes() for path in lab.logs.rglob("*") if path.is_file()}
    keys = ["f" if first is None else f"s {first}" for first in seen.values()]
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{key}\n" for key in keys)))
    then = lab.run(["data", "label"], "--data", lab.logs)
    assert {path: path.read_bytes() for path in logs} == logs and label_file(lab.logs / next(iter(seen))).exists()

    then = lab.run(then, *small_judge)
    judge = Path(then[then.index("--checkpoint") + 1])
    then = lab.run(then)
    assert f"{len(seen)} episodes taught this judge" in lab.said and "by a person" in lab.said
    assert f"judge: {{kind: classifier, checkpoint: {judge.resolve()}" in lab.said
    lab.set("judge", kind="classifier", checkpoint=str(judge.resolve()))

    then = lab.run(then, "--steps", 4, "--batch", 2, "--evaluate-episodes", 1, "--horizon", 2, "--warmup", 1)
    model = Path(then[then.index("--model") + 1])
    start = next((name, first) for name, first in reversed(seen.items()) if first is not None)
    frame = f"{lab.logs / start[0]}:{start[1] - 6}"  # a few steps before the task is done
    practise = ["adapt", "--config", str(lab.station), "--frame", frame, "--instruction", TASK]
    refused = lab.run([*practise, "--world-model", str(model)], code=1)
    assert refused[:2] == then[:2] == ["world-model", "evaluate"] and "never measured" in lab.said
    assert "before: success" not in lab.said

    then = lab.run(then, "--repeats", 1, "--episodes", 1)
    assert "real outcomes: " in lab.said and "by a person" in lab.said and "by the judge" not in lab.said
    lab.set("models", world_model=str(model.resolve()))

    then[then.index("--frame") + 1] = frame
    less = ["--horizon", 9, "--iterations", 5, "--evaluation-rollouts", 16, "--validation-rollouts", 0]
    less += ["--evaluation-temperature", 1]
    for seed in range(SEEDS):
        code = main([*then, *map(str, less), "--seed", str(seed), "--run", f"practice_{seed}"])
        lab.said = capsys.readouterr().err
        if code == 0:
            break
    assert code == 0, lab.said
    last = shlex.split(lab.said.splitlines()[-1])
    assert last[:3] == ["next:", "gymnast", "canary"]
    assert main(["adapter", "list", "--adapters", str(tmp_path / "adapters")]) == 0
    assert f"{last[3]}  imagined  (my_station / {TASK}" in capsys.readouterr().out
