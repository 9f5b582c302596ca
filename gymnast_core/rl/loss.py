"""The clipped policy-gradient loss of GRPO with decoupled clip bounds, without an entropy bonus; a divergence for what
is to stay as it was.

For a token with log-probability ratio r = exp(log p - log p_old) and advantage A the loss is
max(-A r, -A clip(r, 1 - clip_low, 1 + clip_high)); a trajectory's loss is the mean over its tokens, and the loss of a
batch the mean over its trajectories (World-Gymnast, arXiv 2602.02454, eq. 4).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class LossStatistics:
    """clip_fraction: share of tokens whose clipped term is the larger one; approx_kl: mean of log p_old - log p;
    both averaged like the loss."""

    clip_fraction: torch.Tensor
    approx_kl: torch.Tensor


def trajectory_weights(mask: torch.Tensor) -> torch.Tensor:
    """Weight of each token so that a weighted sum is the mean over trajectories of the token mean; (N, L) float32.

    mask: (N, L) bool; a trajectory without any token counts for nothing.
    """
    tokens = mask.sum(dim=1, keepdim=True)
    trajectories = (tokens > 0).sum().clamp(min=1)
    return mask.float() / tokens.clamp(min=1) / trajectories


def weighted_policy_loss(
    log_probs: torch.Tensor,
    old_log_probs: torch.Tensor,
    advantages: torch.Tensor,
    weights: torch.Tensor,
    clip_low: float,
    clip_high: float,
) -> tuple[torch.Tensor, LossStatistics]:
    """The loss as a weighted sum over tokens, all arguments of one shape: parts of a batch add up to its loss."""
    ratio = torch.exp(log_probs - old_log_probs)
    plain = -advantages * ratio
    clipped = -advantages * torch.clamp(ratio, 1.0 - clip_low, 1.0 + clip_high)
    loss = (torch.maximum(plain, clipped) * weights).sum()
    with torch.no_grad():
        clip_fraction = ((clipped > plain).float() * weights).sum()
        approx_kl = ((old_log_probs - log_probs) * weights).sum()
    return loss, LossStatistics(clip_fraction, approx_kl)


def weighted_divergence(log_probs: torch.Tensor, reference: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Kullback-Leibler divergence of the policy from a reference as a weighted sum over tokens, never below zero.

    It is estimated from the sampled tokens alone: q / p - log(q / p) - 1, where p is the policy's probability and q the
    reference's (arXiv 2402.03300, eq. 4).
    """
    ratio = reference - log_probs
    return ((torch.exp(ratio) - ratio - 1.0) * weights).sum()


def clipped_policy_loss(
    log_probs: torch.Tensor,
    old_log_probs: torch.Tensor,
    advantages: torch.Tensor,
    mask: torch.Tensor,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
) -> tuple[torch.Tensor, LossStatistics]:
    """Loss (scalar) and statistics of whole trajectories.

    log_probs, old_log_probs, advantages: (N, L) float32, one row a trajectory. mask: (N, L) bool.
    """
    return weighted_policy_loss(log_probs, old_log_probs, advantages, trajectory_weights(mask), clip_low, clip_high)
