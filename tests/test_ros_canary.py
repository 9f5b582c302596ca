"""The robot has the last word, over the real graph: imagination is fooled, the canary is not.

Policy and world model are the shipped ones, and the base opens the drawer. The judge of imagination is a server that
lies, so the gate lets an adapter through; on the disk its weights are then made noise.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from benchmarks.openai_server import Server
from gymnast_core.data.episode import read_episode
from gymnast_core.files import read_json, read_json_lines
from gymnast_core.policy.adapter_state import read_evidence
from gymnast_nodes.client import Station
from tests.machine import HANG_S
from tests.ros_tools import SIMULATED, running_station, wait_until

ROLLOUTS = 8
RECIPE = {
    "groups": 2, "min_groups": 1, "group_size": 4, "horizon": 1, "temperature": 1.0, "learning_rate": 1e-4,
    "minibatch": 8, "trainable": "lora", "lora_rank": 4,
}  # fmt: skip


@dataclass
class Fooled:
    """A station whose judge of imagination lies; its folder and our client."""

    folder: Path
    station: Station


def lie(folder: Path, number: int) -> str:
    """What the server answers: failure before practice, success after it, now this, now that between."""
    (run,) = (folder / "adapt").iterdir()
    phase = read_json_lines(run / "progress.jsonl")[-1]["phase"]
    before = 0 if number < ROLLOUTS else number % 2
    return f"Final Score: {before if phase in ('before', 'train') else 1}"


@pytest.fixture
def fooled(tmp_path: Path) -> Iterator[Fooled]:
    server = Server()
    server.script = lambda number, request: lie(tmp_path, number)
    content: dict[str, Any] = yaml.safe_load(SIMULATED.read_text())
    content["arm"]["reset_seconds"] = 1.0
    content["tasks"] = {"open_drawer": {"instruction": "open the drawer", "max_steps": 14}}
    content["models"]["adapters"] = str(tmp_path / "adapters")
    content["recorder"] = {"folder": str(tmp_path / "episodes"), "min_free_mb": 10}
    content["judge"] = {"kind": "vlm", "base_url": server.url, "votes": 1, "concurrency": 1}
    content["executor"] = {"stop_at_success": False}
    content["adaptation"] = {
        "recipe": str(tmp_path / "recipe.yaml"), "iterations": 1, "evaluation_rollouts": ROLLOUTS, "horizon": 1,
        "world_model_gate": "warn", "rehearsal": "off",
    }  # fmt: skip
    content["canary"] = {"trials": 8, "alpha": 0.4, "undecided": "adapter", "other_trials": 0}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    path = tmp_path / "station.yaml"
    path.write_text(yaml.safe_dump(content))
    with running_station(path) as (_, _, station):
        yield Fooled(tmp_path, station)
    server.close()


def sabotage(adapters: Path) -> None:
    """Wait for an adapter and make noise of its weights."""
    wait_until(lambda: list(adapters.glob("[!.]*/adapter_model.safetensors")), HANG_S, "an accepted adapter")
    (path,) = adapters.glob("[!.]*/adapter_model.safetensors")
    generator = torch.Generator().manual_seed(1)
    noise = {name: torch.randn(value.shape, generator=generator) for name, value in load_file(path).items()}
    save_file(noise, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)


def test_a_sabotaged_adapter_that_the_gate_lets_through_is_rolled_back_by_the_canary(fooled: Fooled) -> None:
    task = fooled.station.practise("open the drawer", "open_drawer", reset=True, execute=True, seed=1)
    sabotage(fooled.folder / "adapters")
    result = task.result(HANG_S)
    assert task.status == "succeeded", result.message
    assert result.accepted and result.success_after > result.success_before, "imagination believes in it"
    assert (result.canary_verdict, result.adapter_state) == ("worse", "rolled back"), result.message
    assert read_evidence(fooled.folder / "adapters" / result.adapter_id).state == "rolled back"
    (canary,) = (fooled.folder / "practise").glob("*/**/canary/result.json")
    found = read_json(canary)
    assert found["base_successes"] > found["adapter_successes"] and found["trials"] < 16, "it ended early"
    assert read_episode(result.episode_path).metadata["policy"] == "base"
    refused = fooled.station.run_episode("open the drawer", result.adapter_id, "open_drawer", max_steps=1)
    assert "rolled back" in refused.result(HANG_S).message and refused.status == "aborted"
