"""Compares the world model with golden values: `python -m tests.parity.world_model FILE [DEVICE]`.

FILE is a safetensors file whose metadata holds `config` (JSON: the model's size, `timesteps`, `sampling_timesteps`,
`cfg`) and whose tensors are `model.*` weights, `alphas_cumprod`, `forward_{x,t,action,v}`, `loss`, `loss_noise` and
`rollout_{first_latent,actions,noise,latents}`. Prints the largest absolute error of every golden tensor; the exit code
is 1 above the tolerance or when a tensor is missing.
"""

from __future__ import annotations

import json
import sys
from dataclasses import fields
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from gymnast_core.errors import GymnastError
from gymnast_core.world_model.config import CacheMode, WorldModelConfig
from gymnast_core.world_model.diffusion import Schedule, diffusion_forcing_loss
from gymnast_core.world_model.model import WorldModel
from gymnast_core.world_model.sampler import LatentRollout

TOLERANCE = 1e-4
NEEDED = (
    "alphas_cumprod",
    "forward_x",
    "forward_t",
    "forward_action",
    "forward_v",
    "loss",
    "loss_noise",
    "rollout_first_latent",
    "rollout_actions",
    "rollout_noise",
    "rollout_latents",
)


def load(path: Path, device: str = "cpu") -> tuple[dict[str, Tensor], dict]:
    with safe_open(str(path), framework="pt") as file:
        metadata = file.metadata() or {}
        return {name: file.get_tensor(name).to(device) for name in file.keys()}, json.loads(metadata["config"])  # noqa: SIM118


def build(tensors: dict[str, Tensor], config: dict) -> tuple[WorldModel, Schedule]:
    names = {field.name for field in fields(WorldModelConfig)}
    model = WorldModel(WorldModelConfig(**{k: v for k, v in config.items() if k in names})).eval()
    model.load_state_dict({k[len("model.") :]: v for k, v in tensors.items() if k.startswith("model.")})
    device = tensors["alphas_cumprod"].device
    return model.to(device), Schedule(config["timesteps"], device)


def rollout(tensors: dict[str, Tensor], config: dict, mode: CacheMode) -> Tensor:
    """Latents (N, T + 1, H, W, C) of the golden rollout, computed in the given cache mode."""
    model, schedule = build(tensors, config)
    play = LatentRollout(
        model, schedule, sampling_steps=config["sampling_timesteps"], guidance=config["cfg"], mode=mode
    )
    first = tensors["rollout_first_latent"][:, 0]
    play.start(first)
    frames = [first]
    for k in range(tensors["rollout_actions"].shape[1]):
        frames.append(play.extend(tensors["rollout_actions"][:, k], tensors["rollout_noise"][:, k]))
    return torch.stack(frames, dim=1)


def errors(path: Path, device: str = "cpu") -> dict[str, float]:
    """Largest absolute error of every golden tensor; KeyError names what is missing."""
    tensors, config = load(path, device)
    missing = [name for name in NEEDED if name not in tensors]
    if missing:
        raise KeyError(f"missing tensors: {', '.join(missing)}")
    model, schedule = build(tensors, config)
    with torch.no_grad():
        v = model(tensors["forward_x"], tensors["forward_t"], tensors["forward_action"])
        loss = diffusion_forcing_loss(
            model,
            schedule,
            tensors["forward_x"],
            tensors["forward_action"],
            tensors["forward_t"],
            tensors["loss_noise"],
        )
    latents = rollout(tensors, config, "exact")

    def worst(ours: Tensor, golden: Tensor) -> float:
        return float((ours - golden).abs().max()) if ours.shape == golden.shape else float("inf")

    return {
        "alphas_cumprod": worst(schedule.abar, tensors["alphas_cumprod"]),
        "forward_v": worst(v, tensors["forward_v"]),
        "loss": worst(loss.reshape(1), tensors["loss"].reshape(1)),
        "rollout_latents": worst(latents, tensors["rollout_latents"]),
    }


def main(arguments: list[str]) -> int:
    if len(arguments) not in (1, 2):
        print("usage: python -m tests.parity.world_model FILE [DEVICE]")
        return 1
    try:
        found = errors(Path(arguments[0]), *arguments[1:])
    except (KeyError, OSError, ValueError, RuntimeError, GymnastError) as error:
        print(f"{arguments[0]}: {error.args[0] if error.args else error}")
        return 1
    failed = False
    for name, error in found.items():
        bad = not error <= TOLERANCE
        failed |= bad
        print(f"{name:20s} {error:.2e}{'  above ' + str(TOLERANCE) if bad else ''}")
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
