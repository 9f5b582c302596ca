"""Compare the policy with golden values of the reference: `python -m tests.parity.policy tests/goldens/openvla`.

Prints the largest error of every tensor beside its tolerance and exits 1 when one is above it, or a tensor, a number of
golden.json or a weight is missing. Everything runs in float32 on the CPU.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from gymnast_core.data.frames import read_image
from gymnast_core.errors import GymnastError
from gymnast_core.policy.checkpoint import read_checkpoint
from gymnast_core.policy.images import ImageProcessor, prepare
from gymnast_core.policy.model import PromptBatch
from gymnast_core.policy.openvla import token_log_probs
from gymnast_core.policy.statistics import read_statistics
from gymnast_core.policy.tokens import ActionTokens
from gymnast_core.rl.advantages import group_advantages
from gymnast_core.rl.loss import clipped_policy_loss
from tests.golden_values import whole

GRADIENTS = 6  # gradient tensors stored for the case "clipped"


class Comparison:
    """Collects (name, error, tolerance) and what is missing."""

    def __init__(self, golden: dict[str, torch.Tensor]) -> None:
        self.golden = golden
        self.used: set[str] = set()
        self.lines: list[tuple[str, float, float]] = []

    def take(self, name: str) -> torch.Tensor:
        """A golden tensor used as input."""
        if name not in self.golden:
            raise KeyError(name)
        self.used.add(name)
        return self.golden[name]

    def add(self, name: str, error: float, tolerance: float) -> None:
        """A scalar comparison; not-a-number counts as infinitely wrong."""
        self.lines.append((name, math.inf if math.isnan(error) else error, tolerance))

    def tensor(self, name: str, ours: Any, tolerance: float, relative: bool = False) -> None:
        """Largest absolute difference, divided by the golden's largest value if `relative`."""
        if name not in self.golden:
            self.add(f"{name} (missing)", math.inf, tolerance)
            return
        wanted = self.take(name).to(torch.float64)
        found = torch.tensor(np.asarray(ours.detach() if isinstance(ours, torch.Tensor) else ours)).to(torch.float64)
        if found.shape != wanted.shape:
            self.add(f"{name} (shape {tuple(found.shape)}, golden {tuple(wanted.shape)})", math.inf, tolerance)
            return
        error = float((found - wanted).abs().max()) if wanted.numel() else 0.0
        self.add(name, error / max(float(wanted.abs().max()), 1e-30) if relative else error, tolerance)


def compare(folder: Path) -> Comparison:
    """All comparisons of one folder of goldens, packed or not; what is missing there is a comparison that fails."""
    with whole(folder) as unpacked:
        comparison = Comparison(load_file(str(unpacked / "golden.safetensors")))
        try:
            _compare(comparison, unpacked)
        except KeyError as error:  # an input: what needs it cannot be compared either
            comparison.add(f"{error.args[0]} (missing)", math.inf, 0)
    for name in sorted(set(comparison.golden) - comparison.used):
        comparison.add(f"{name} (not compared)", math.inf, 0)
    return comparison


def _compare(comparison: Comparison, folder: Path) -> None:
    facts = json.loads((folder / "golden.json").read_text())
    tolerance = facts["suggested_tolerance"]
    checkpoint = read_checkpoint(folder, chunk_length=facts["chunk"])
    model, config = checkpoint.model, checkpoint.config
    for name, ours in (
        ("action_token_first_id", config.first_action_id),
        ("n_action_bins", config.n_bins),
        ("num_patches", config.n_patches),
        ("pad_token_id", config.pad_token_id),
        ("bos_token_id", config.bos_token_id),
        ("stop_token_id", config.stop_token_id),
    ):
        comparison.add(f"golden.json {name}", abs(facts[name] - ours), 0)

    _images(comparison, folder, facts, checkpoint.images)
    pixels = comparison.take("pixel_values")
    ids, attention = comparison.take("input_ids"), comparison.take("attention_mask")
    prompts = [row[keep.bool()].tolist() for row, keep in zip(ids, attention)]
    comparison.add("golden.json prompt_lengths", float([len(p) for p in prompts] != facts["prompt_lengths"]), 0)
    _inference(comparison, facts, checkpoint, pixels, prompts)
    with torch.no_grad():
        _row0(comparison, tolerance, model, pixels[:1], PromptBatch.of(prompts[:1], config.pad_token_id))
    _policy_update(comparison, facts, checkpoint, pixels)


def _images(comparison: Comparison, folder: Path, facts: dict[str, Any], processor: ImageProcessor) -> None:
    size = processor.size
    rows = [
        prepare(read_image(folder / name), "center_crop" if crop else "resize", size)
        for name, crop in zip(facts["images"], facts["center_crop"])
    ]
    comparison.tensor("image0_resized_u8", rows[0], 0)
    comparison.tensor("image1_cropped_u8", rows[1], 0)
    comparison.tensor("pixel_values", processor.normalise(np.stack(rows)), 1e-6)
    exact = json.loads((folder / "preprocessor_config.json").read_text())
    pairs = tuple((tuple(mean), tuple(std)) for mean, std in zip(exact["means"], exact["stds"]))
    unrounded = ImageProcessor(size, "resize", (pairs[0], pairs[1])).normalise(rows[0][None])
    corner = comparison.golden.get("image0_exact_norm_corner")
    side = 32 if corner is None else corner.shape[-1]
    comparison.tensor("image0_exact_norm_corner", unrounded[0, :, :side, :side], 1e-6)


def _inference(
    comparison: Comparison, facts: dict[str, Any], checkpoint: Any, pixels: torch.Tensor, prompts: list[list[int]]
) -> None:
    model, config = checkpoint.model, checkpoint.config
    tolerance = facts["suggested_tolerance"]
    batch = PromptBatch.of(prompts, config.pad_token_id)
    with torch.no_grad():
        mask = model.assemble(pixels, batch).mask
        logits = model.action_logits(pixels, batch)
        alone = model.action_logits(pixels[:1], PromptBatch.of(prompts[:1], config.pad_token_id))
    longest = config.n_patches + batch.ids.shape[1] + config.n_action_tokens + 1
    mask = torch.ones(len(prompts), longest) if mask is None else mask[:, 0, 0]
    comparison.tensor("padded_lm_attention_mask", mask.long(), 0)
    comparison.tensor("action_logits", logits, tolerance["action_logits"])
    comparison.add("row 0 alone against in the batch", float((alone - logits[:1]).abs().max()), 1e-4)
    greedy = logits.argmax(-1)
    first, second = logits.topk(2, dim=-1).values.unbind(-1)
    margin = abs(float((first - second).min()) - facts["min_greedy_margin"])
    comparison.add("golden.json min_greedy_margin", margin, 2 * tolerance["action_logits"])
    comparison.tensor("greedy_token_ids", greedy + config.first_action_id, 0)
    tokens = ActionTokens(config.n_bins)
    comparison.tensor("decode_table", tokens.decode(np.arange(config.n_bins)), 1e-12)
    round_trip = tokens.encode(tokens.centers)
    comparison.add("encode(decode) of every centre", float(np.abs(tokens.decode(round_trip) - tokens.centers).max()), 0)
    sampled = comparison.take("sampled_token_ids") - config.first_action_id
    others = [key for key in checkpoint.norm_stats if key != facts["unnorm_key"]]
    if not others:
        raise KeyError("norm_stats of a second data set")
    for name, index, key in (
        ("greedy_actions", greedy, facts["unnorm_key"]),
        ("greedy_actions_other_dataset", greedy, "other_dataset" if "other_dataset" in others else others[0]),
        ("sampled_actions", sampled, facts["unnorm_key"]),
    ):
        statistics = read_statistics(checkpoint.norm_stats, key, "config.json")
        values = tokens.decode(index.numpy()).reshape(-1, config.chunk_length, config.action_dim)
        comparison.tensor(name, statistics.unnormalise(values), tolerance["actions"])
    for suffix, temperature in (("", facts["temperature"]), ("_T1", 1.0)):
        log_p, entropy = token_log_probs(logits, sampled, temperature)
        comparison.tensor(f"sampled_logprobs{suffix}", log_p, tolerance["logprobs_entropy"])
        comparison.tensor(f"sampled_entropy{suffix}", entropy, tolerance["logprobs_entropy"])


def _row0(comparison: Comparison, tolerance: dict[str, float], model: Any, pixels: torch.Tensor, prompt: Any) -> None:
    near = tolerance["vision_and_projector"]
    vision = model.vision_backbone
    comparison.tensor("row0_dino_tokens_in", vision.featurizer.tokens(pixels[:, :3])[0], near)
    comparison.tensor("row0_siglip_tokens_in", vision.fused_featurizer.tokens(pixels[:, 3:])[0], near)
    features = vision(pixels)
    comparison.tensor("row0_patch_features", features[0], near)
    comparison.tensor("row0_projected", model.projector(features)[0], near)
    states: list[torch.Tensor] = []
    sequence = model.assemble(pixels, prompt)
    final = model.language_model.model(sequence.embeddings, sequence.mask, states=states)
    # The reference lists the input and every layer's output, the last layer's both before and after the final norm.
    comparison.tensor("row0_hidden_states", torch.cat([*states, final]), tolerance["hidden_states"])
    comparison.tensor("row0_full_logits_pos0", model.token_logits(pixels, prompt)[0, 0], tolerance["action_logits"])


def _policy_update(comparison: Comparison, facts: dict[str, Any], checkpoint: Any, pixels: torch.Tensor) -> None:
    model, config = checkpoint.model, checkpoint.config
    tolerance, grpo = facts["suggested_tolerance"], facts["grpo"]
    take = comparison.take
    image_index = take("grpo_image_index")
    trajectories, calls = image_index.shape
    ids = take("grpo_input_ids").flatten(0, 1)
    attention = take("grpo_attention_mask").flatten(0, 1).bool()
    prompts = [row[keep].tolist() for row, keep in zip(ids, attention)]
    prompt_row, whole = take("grpo_prompt_row"), take("input_ids")
    known = [whole[int(r)][take("attention_mask")[int(r)].bool()].tolist() for r in prompt_row]
    comparison.add("grpo prompts are the prompts", float(prompts != [p for p in known for _ in range(calls)]), 0)
    tokens = take("grpo_token_ids").flatten(0, 1) - config.first_action_id
    batch = PromptBatch.of(prompts, config.pad_token_id)
    success, group_id = take("grpo_success").numpy(), take("grpo_group_id").numpy()

    logits = model.action_logits(pixels[image_index.flatten()], batch)
    log_p, entropy = token_log_probs(logits, tokens, grpo["temperature"])
    log_p, entropy = log_p.view(trajectories, -1), entropy.view(trajectories, -1)
    comparison.tensor("grpo_logprobs", log_p, tolerance["logprobs_entropy"])
    comparison.tensor("grpo_entropy", entropy, tolerance["logprobs_entropy"])
    for case in ("clipped", "masked", "on_policy"):
        wanted = grpo[case]
        ends = np.asarray(wanted["finish_step"]) * config.action_dim
        mask = np.arange(log_p.shape[1])[None] < ends[:, None]
        rewards = np.zeros(mask.shape, dtype=np.float32)
        rewards[np.arange(trajectories), ends - 1] = grpo["reward_coef"] * success
        comparison.tensor(f"grpo_{case}_mask", mask, 0)
        comparison.tensor(f"grpo_{case}_token_rewards", rewards, 0)
        advantages = np.zeros(mask.shape, dtype=np.float32)
        for group in np.unique(group_id):
            members = group_id == group
            scores = group_advantages(rewards[members].sum(1), grpo["advantage_epsilon"])
            advantages[members] = scores[:, None] * mask[members]
        comparison.tensor(f"grpo_{case}_advantages", advantages, 1e-5)
        old = take("grpo_logprobs" if case == "on_policy" else "grpo_old_logprobs")
        given = (torch.as_tensor(advantages), torch.as_tensor(mask), grpo["clip_low"], grpo["clip_high"])
        loss, _ = clipped_policy_loss(log_p, old, *given)
        ratios = (log_p.detach() - old).exp()[torch.as_tensor(mask)]
        for name, found in (("ratio_min", ratios.min()), ("ratio_max", ratios.max())):
            error = abs(float(found) - wanted[name]) / wanted[name]
            comparison.add(f"{case} {name}", error, 2 * tolerance["logprobs_entropy"])
        comparison.add(f"{case} loss", abs(float(loss.detach()) - wanted["loss"]), tolerance["loss"])
        rows = [
            clipped_policy_loss(*(t[i : i + 1] for t in (log_p, old, *given[:2])), *given[2:])
            for i in range(trajectories)
        ]
        each = np.array([[float(row.detach()), float(s.clip_fraction), float(s.approx_kl)] for row, s in rows])
        for column, name in enumerate(("loss", "clip_fraction", "approx_kl")):
            error = np.abs(each[:, column] - wanted[f"{name}_per_trajectory"]).max()
            comparison.add(f"{case} {name}_per_trajectory", float(error), tolerance["logprobs_entropy"])
        model.zero_grad(set_to_none=True)
        loss.backward(retain_graph=True)
        _gradients(comparison, case, wanted, model, tolerance)
    model.zero_grad(set_to_none=True)


def _gradients(
    comparison: Comparison, case: str, wanted: dict[str, Any], model: Any, tolerance: dict[str, float]
) -> None:
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    without = sorted(name for name, p in model.named_parameters() if p.grad is None)
    comparison.add(f"{case} params_without_grad", float(without != sorted(wanted["params_without_grad"])), 0)

    def norm(prefix: str) -> float:
        return math.sqrt(sum(float(g.double().square().sum()) for n, g in gradients.items() if n.startswith(prefix)))

    relative: Callable[[float, float], float] = lambda found, golden: abs(found - golden) / abs(golden)  # noqa: E731
    for name in ("grad_norm", "grad_norm_when_split_per_step"):  # accumulating backwards changes nothing
        comparison.add(f"{case} {name}", relative(norm(""), wanted[name]), tolerance["grad_norm_relative"])
    for prefix, golden in wanted["grad_norm_by_prefix"].items():
        comparison.add(f"{case} grad_norm {prefix}", relative(norm(prefix), golden), tolerance["grad_norm_relative"])
    stored = f"grpo_{case}_grad."
    names = [name for name in comparison.golden if name.startswith(stored)]
    if case == "clipped" and len(names) < GRADIENTS:
        comparison.add(f"{stored}* ({GRADIENTS - len(names)} of {GRADIENTS} missing)", math.inf, 0)
    for name in names:
        gradient = gradients.get(name[len(stored) :], torch.zeros(0))
        comparison.tensor(name, gradient, tolerance["gradient_tensors_relative_to_max"], relative=True)


def main(arguments: list[str]) -> int:
    """Print the comparison; 0 when all is within tolerance."""
    if len(arguments) != 1:
        print("usage: python -m tests.parity.policy FOLDER", file=sys.stderr)
        return 2
    try:
        comparison = compare(Path(arguments[0]))
    except (GymnastError, SafetensorError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    bad = 0
    for name, found, tolerance in comparison.lines:
        wrong = not found <= tolerance
        bad += wrong
        print(f"{'FAIL' if wrong else 'ok':4}  {found:10.3e}  (tolerance {tolerance:7.1e})  {name}")
    print(f"{len(comparison.lines) - bad} of {len(comparison.lines)} within tolerance")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
