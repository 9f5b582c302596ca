"""Checkpoints of a practice: what a run needs to go on as if it had never stopped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from gymnast_core.protocols import Start, Verdict
from gymnast_core.rollout.rollout import Group, Rollout

DAMAGE = (LookupError, TypeError, ValueError, ArithmeticError, AttributeError, RuntimeError)
"""What reading a state raises that holds other things than it should."""


IDENTITY = ("trainable", "base_precision", "lora_rank", "lora_alpha", "lora_vision", "seed")
"""Options of a recipe that a resumed run has in common with its beginning; the others may be changed on the way."""


def group_state(group: Group) -> dict[str, Any]:
    return {
        "version": group.version,
        "rollouts": [
            {
                "instruction": rollout.start.instruction,
                "task": rollout.start.task,
                "seed": rollout.start.seed,
                "frames": torch.from_numpy(rollout.frames),
                "tokens": torch.from_numpy(rollout.tokens),
                "log_probs": torch.from_numpy(rollout.log_probs),
                "mask": torch.from_numpy(rollout.mask),
                "actions": torch.from_numpy(rollout.actions),
                "success": rollout.success,
                "changed": torch.from_numpy(rollout.changed),
                "reward": rollout.reward,
                "progress": None if rollout.progress is None else torch.from_numpy(rollout.progress),
            }
            for rollout in group.rollouts
        ],
    }


def knows_changes(state: Mapping[str, Any]) -> bool:
    return all("changed" in rollout for rollout in state["rollouts"])


def group_from_state(state: dict[str, Any]) -> Group:
    rollouts = tuple(
        Rollout(
            start=Start(entry["instruction"], None, entry["task"], entry["seed"]),
            frames=entry["frames"].numpy(),
            tokens=entry["tokens"].numpy(),
            log_probs=entry["log_probs"].numpy(),
            mask=entry["mask"].numpy(),
            actions=entry["actions"].numpy(),
            executed=entry["actions"].numpy(),
            steps=len(entry["actions"]),
            truth=np.full(len(entry["actions"]), np.nan, dtype=np.float32),
            success=entry["success"],
            step_events=((),) * len(entry["actions"]),
            changed=entry["changed"].numpy(),
            verdict=Verdict(entry["reward"], 1.0, "carried over"),
            progress=None if (told := entry.get("progress")) is None else told.numpy(),
        )
        for entry in state["rollouts"]
    )
    return Group(rollouts, state["version"])
