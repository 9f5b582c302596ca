"""A station file with tiny, untrained models of the real classes: all of it runs in seconds, none of it is any good."""

from __future__ import annotations

import atexit
import functools
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors.torch import load_file, save_file

from gymnast_core.data.frames import write_image
from gymnast_core.policy.checkpoint import with_statistics
from gymnast_core.policy.openvla import OpenVLAPolicy, load_policy
from gymnast_core.policy.recipe import new_checkpoint
from gymnast_core.policy.sft_config import ModelRecipe, TowerRecipe
from gymnast_core.protocols import Start
from gymnast_core.reward.classifier import ClassifierConfig, ClassifierJudge, FrameClassifier
from gymnast_core.rollout.rollout import measure
from gymnast_core.world_model.autoencoder import SmallAutoencoder
from gymnast_core.world_model.checkpoint import LoadedWorldModel, save_world_model
from gymnast_core.world_model.config import SamplingConfig, SmallAutoencoderConfig, WorldModelConfig
from gymnast_core.world_model.environment import WorldModelEnvironment
from gymnast_core.world_model.model import WorldModel

INSTRUCTION = "open the drawer"
TASKS = {
    "open_drawer": {"instruction": INSTRUCTION, "max_steps": 10},
    "close_drawer": {"instruction": "close the drawer", "max_steps": 10},
}


def picture(seed: int = 0, size: int = 48) -> np.ndarray:
    """A smooth coloured frame."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(60, 200, (3, 3, 3)).astype(np.uint8)
    return np.kron(coarse, np.ones((size // 3, size // 3, 1), dtype=np.uint8))


@functools.cache
def _models(seed: int) -> Path:
    """A folder with the models, made once a process."""
    made = tempfile.TemporaryDirectory(prefix="tiny_station_")
    atexit.register(made.cleanup)
    folder = Path(made.name)
    torch.manual_seed(seed)
    tower = TowerRecipe(16, 2, 2)
    recipe = ModelRecipe(32, 16, tower, tower, 32, 1, 2, 64, n_bins=8, words=("open", "close", "the", "drawer"))
    checkpoint = new_checkpoint(recipe, [], seed, folder / "policy")
    limits = [0.05] * 3 + [0.2] * 3 + [1.0]
    statistics = {"action": {"q01": [-x for x in limits[:6]] + [0.0], "q99": limits, "mask": [True] * 6 + [False]}}
    OpenVLAPolicy(with_statistics(checkpoint, "station", statistics), "station").save(folder / "policy")

    autoencoder = SmallAutoencoder(SmallAutoencoderConfig(32, 4, 16)).eval()
    model = WorldModel(WorldModelConfig(4, 4, 32, 1, 2, max_frames=6)).eval()
    with torch.no_grad():  # an untrained network gives zeros: stir it, so that actions and noise show
        for parameter in [*model.parameters(), *autoencoder.parameters()]:
            parameter.add_(0.05 * torch.randn_like(parameter))
    loaded = LoadedWorldModel(model, autoencoder, SamplingConfig(2, 1.0, "streaming"))
    save_world_model(folder / "world_model", loaded)

    write_image(folder / "start.png", picture())
    network = FrameClassifier(ClassifierConfig((INSTRUCTION,), 32, 8))
    probing = ClassifierJudge(ClassifierConfig((INSTRUCTION,), 32, 8, 0.5, 2), network)
    environment = WorldModelEnvironment.from_folder(
        folder / "world_model", sampling=SamplingConfig(2, 1.0, "streaming")
    )
    rollouts = measure(
        load_policy(folder / "policy"), environment, probing, [Start(INSTRUCTION, picture())], 32, 10, 1.0, seed
    )
    scores = []
    for rollout in rollouts:
        assert rollout.video is not None
        probability = probing.probabilities(rollout.video)[:, 0]
        scores.append(np.minimum(probability[1:], probability[:-1]).max())
    config = ClassifierConfig((INSTRUCTION, "close the drawer"), 32, 8, float(np.median(scores)), 2)
    final = FrameClassifier(config)
    state = network.state_dict()
    state["head.weight"] = state["head.weight"].repeat(2, 1)
    state["head.bias"] = state["head.bias"].repeat(2)
    final.load_state_dict(state)
    ClassifierJudge(config, final).save(folder / "judge")
    return folder


def build_tiny_station(folder: Path, seed: int = 0, simulated: bool = False) -> Path:
    """Write models and station.yaml into `folder`; returns the file. About half of the imagined rollouts "succeed"."""
    shutil.copytree(_models(seed), folder, dirs_exist_ok=True)
    station: dict[str, Any] = {
        "name": "tiny",
        "camera": {"observation_size": 48},
        "safety": {"workspace_min": [0.0, -0.5, -0.1], "workspace_max": [0.6, 0.5, 0.5]},
        "tasks": TASKS,
        "models": {
            "policy": str(folder / "policy"),
            "world_model": str(folder / "world_model"),
            "sampling_steps": 2,
            "adapters": str(folder / "adapters"),
            "device": "cpu",
        },
        "judge": {"kind": "classifier", "checkpoint": str(folder / "judge")},
        "adaptation": {
            "recipe": str(folder / "recipe.yaml"),
            "iterations": 2,
            "seconds": 60.0,
            "evaluation_rollouts": 8,
            "horizon": 10,
            "world_model_gate": "warn",
            "rehearsal": "off",  # this machine's own episodes play no part
        },
    }
    if simulated:
        station["simulation"] = {"scene": "drawer"}
        station["camera"] = {"observation_size": 48, "width": 160, "height": 120}
    recipe_text = {
        "groups": 2,
        "min_groups": 1,
        "group_size": 6,
        "horizon": 10,
        "temperature": 1.0,
        "learning_rate": 1e-3,
        "minibatch": 6,
        "trainable": "lora",
        "lora_rank": 2,
        "warn_after": 3,
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe_text))
    path = folder / "station.yaml"
    path.write_text(yaml.safe_dump(station))
    return path


def let_practice_succeed(path: Path) -> None:
    """Let actions decide what is imagined, so that a few updates please the judge from any start of the simulator."""
    judge, weights = path.parent / "judge" / "judge.json", path.parent / "world_model" / "weights.safetensors"
    judge.write_text(json.dumps({**json.loads(judge.read_text()), "threshold": 0.536}))
    save_file(
        {name: 20.0 * value if "action" in name else value for name, value in load_file(weights).items()}, weights
    )


def put_on_graph(path: Path, **sections: dict[str, Any]) -> None:
    """Fit a station file for real ROS processes: simulated, reset in a second, episodes beside it; and these values."""
    content = yaml.safe_load(path.read_text())
    usual = {
        "simulation": {"scene": "drawer"},
        "arm": {"reset_seconds": 1.0},
        "recorder": {"folder": str(path.parent / "episodes"), "min_free_mb": 10},
    }
    for name, values in (*usual.items(), *sections.items()):
        content[name] = {**content.get(name, {}), **values}
    path.write_text(yaml.safe_dump(content))
