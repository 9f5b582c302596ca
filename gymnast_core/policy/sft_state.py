"""The state from which a supervised fine-tuning goes on: weights, optimiser, progress, and what must be the same."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from gymnast_core.errors import CheckpointError
from gymnast_core.policy.lora import name_of_today, names_of_today
from gymnast_core.policy.openvla import OpenVLAPolicy
from gymnast_core.policy.sft_batches import Batches
from gymnast_core.policy.sft_config import SFTConfig
from gymnast_core.policy.sharding import (
    load_whole_optimizer_state,
    load_whole_state,
    whole_optimizer_state,
    whole_state,
)
from gymnast_core.ranks import Ranks
from gymnast_core.run_folder import RunFolder, refuse_other_options


@dataclass
class Progress:
    """Where a run is: optimiser steps done, samples drawn, seconds spent."""

    step: int = 0
    samples: int = 0
    seconds: float = 0.0


def trained_parameters(policy: OpenVLAPolicy) -> dict[str, torch.nn.Parameter]:
    """Those that are trained, by name."""
    return {name: p for name, p in policy.model.named_parameters() if p.requires_grad}


@dataclass(frozen=True)
class State:
    """What a checkpoint of one run holds. settings: of `settings_of`."""

    run: RunFolder
    ranks: Ranks
    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    trained: Mapping[str, torch.nn.Parameter]
    settings: Mapping[str, str]

    def save(self, progress: Progress) -> None:
        """Write a checkpoint from which the run goes on as if it had never stopped; all processes take part.

        Raises: CheckpointError when it cannot be written; the one before stays.
        """
        if self.ranks.size > 1:
            weights = {name: value for name, value in whole_state(self.model).items() if name in self.trained}
            optimizer = whole_optimizer_state(self.model, self.optimizer)
        else:
            weights = {name: parameter.detach().cpu().clone() for name, parameter in self.trained.items()}
            optimizer = self.optimizer.state_dict()
        if self.ranks.first:
            state: dict[str, Any] = {"weights": weights, "optimizer": optimizer, **asdict(progress)}
            state["processes"], state["settings"] = self.ranks.size, dict(self.settings)
            self.run.save_checkpoint(progress.step, state)
        self.ranks.wait()

    def resume(self) -> Progress:
        """Go on from the newest checkpoint; where there is none, from the beginning.

        Raises: CheckpointError when it is another model's, or of another number of processes; ConfigError for other
            settings.
        """
        state = self.run.load_checkpoint(tidy=self.ranks.first, mapped=self.ranks.size > 1)
        if state is None:
            return Progress()
        refuse_other_options(self.run.path, state.get("settings") or {}, self.settings)
        before = int(state.get("processes", 1))
        if before != self.ranks.size:
            raise CheckpointError(
                f"{self.run.path}: was run with {before} process(es), found {self.ranks.size}; resume with as many, or "
                "choose another --run"
            )
        weights = names_of_today(state["weights"])
        if {n: tuple(p.shape) for n, p in self.trained.items()} != {n: tuple(w.shape) for n, w in weights.items()}:
            raise CheckpointError(f"{self.run.path}: holds a run of another model or adapter; choose another --run")
        if self.ranks.size > 1:
            load_whole_state(self.model, weights)
            moments: Mapping[str, Any] = state["optimizer"]
            groups = [{**g, "params": [name_of_today(name) for name in g["params"]]} for g in moments["param_groups"]]
            moments = {"state": names_of_today(moments["state"]), "param_groups": groups}
            load_whole_optimizer_state(self.model, self.optimizer, moments)
        else:
            with torch.no_grad():
                for name, parameter in self.trained.items():
                    parameter.copy_(weights[name])
            self.optimizer.load_state_dict(state["optimizer"])
        return Progress(int(state["step"]), int(state["samples"]), float(state["seconds"]))


def settings_of(config: SFTConfig, policy: OpenVLAPolicy, data: Batches) -> dict[str, str]:
    """What must be the same for a run to go on as if it had never stopped, as text.

    Steps, time and the learning rate with its schedule may change: they say how the run goes on.
    """
    model = policy.config
    names = ("unnorm_key", "mix_ratio", "batch", "accumulation", "lora_rank", "lora_alpha", "lora_vision")
    found = {name: str(getattr(config, name)) for name in (*names, "weight_decay", "labels", "label_sigma", "seed")}
    for name, source in zip(("data", "mix"), data.sources):
        found[f"{name} (samples)"] = str(len(source))
    for name, source in zip(("data", "mix"), data.sources):  # the same count of others is not the same
        texts = (f"{entry.instruction}\0".encode() + entry.actions.tobytes() for entry in source.entries)
        found[f"{name} (digest)"] = _digest(*texts)
    found["augmentation"] = str(data.augmentation)
    found["base"] = policy.checkpoint.fingerprint
    found["chunk_length"], found["image_variant"] = str(model.chunk_length), model.image_variant
    found["model (digest)"] = _digest(str(model).encode())
    return found


def _digest(*parts: bytes) -> str:
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]
