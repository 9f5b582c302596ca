"""What supervised fine-tuning minimises, and how far greedy actions are from the demonstrated ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from gymnast_core.policy.openvla import OpenVLAPolicy

MEASURED = ("held_out_loss", "held_out_token_accuracy", "held_out_translation_error_mm", "held_out_gripper_error")


def token_logits(policy: OpenVLAPolicy, frames: np.ndarray, instructions: Sequence[str]) -> torch.Tensor:
    """(B, K * 7 + 1, vocabulary) float32 of prepared frames (B, S, S, 3) uint8, the stop token's position last."""
    with torch.autocast(policy.device.type, torch.bfloat16, enabled=policy.device.type == "cuda"):
        return policy.model(*policy.inputs(frames, instructions), whole_vocabulary=True)


def token_loss(
    policy: OpenVLAPolicy, logits: torch.Tensor, bins: np.ndarray, sigma: float = 0.0
) -> tuple[torch.Tensor, float]:
    """(cross-entropy in nats a token, share of action tokens whose likeliest token is the label).

    logits: (B, K * 7 + 1, vocabulary), of `token_logits`. bins: (B, K * 7), the labels.
    sigma: standard deviation, in bins, over which a label is spread; 0: one-hot.
    """
    config = policy.config
    labels = torch.as_tensor(bins + config.first_action_id, device=policy.device)
    log_p = torch.log_softmax(logits, dim=-1)
    if sigma:
        columns = torch.arange(config.n_bins, device=policy.device)
        distance = (columns - torch.as_tensor(bins, device=policy.device)[..., None]) / sigma
        weights = torch.softmax(-0.5 * distance.square(), dim=-1)
        action = -(weights * log_p[:, :-1, config.first_action_id : config.unpadded_vocab_size]).sum(-1)
    else:
        action = -log_p[:, :-1].gather(-1, labels[..., None])[..., 0]
    stop = -log_p[:, -1:, config.stop_token_id]
    loss = torch.cat([action, stop], dim=1).mean()
    return loss, float((logits[:, :-1].argmax(-1) == labels).float().mean())


@torch.no_grad()
def measure_actions(
    policy: OpenVLAPolicy, frames: np.ndarray, instructions: Sequence[str], actions: np.ndarray
) -> np.ndarray:
    """The figures of `MEASURED` (4,), means over prepared frames (B, S, S, 3) with demonstrated actions (B, K, 7)."""
    config = policy.config
    logits = token_logits(policy, frames, instructions)
    loss, accuracy = token_loss(policy, logits, policy.encode_actions(actions))
    tokens = logits[:, :-1, config.first_action_id : config.unpadded_vocab_size].argmax(-1)
    error = np.abs(policy.actions(tokens.cpu().numpy()) - actions)
    gripper = (error[..., 6] > 0.5).mean()
    return np.array([float(loss), accuracy, error[..., :3].mean() * 1000, gripper])
