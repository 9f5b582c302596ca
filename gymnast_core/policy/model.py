"""OpenVLA-OFT with discrete action tokens: images and prompt in, logits of a whole chunk of action tokens out.

The language model reads

    BOS | projected patches | rest of the prompt | one zero embedding an action token | stop token | padding

with full attention over everything but padding. Logits are shifted by one: the position before the first placeholder
(the last prompt token) gives action token 0, and so on. Padding is behind the stop token, so that every real token
keeps the position it has in an unpadded sequence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from gymnast_core.errors import CheckpointError
from gymnast_core.policy.config import PolicyConfig
from gymnast_core.policy.llama import Llama
from gymnast_core.policy.lora import acts
from gymnast_core.policy.vision import VisionBackbone


class Projector(nn.Module):
    """Patch features to language-model embeddings: three layers, exact GELU after the first two."""

    def __init__(self, vision_width: int, language_width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(vision_width, 4 * vision_width)
        self.fc2 = nn.Linear(4 * vision_width, language_width)
        self.fc3 = nn.Linear(language_width, language_width)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.fc3(F.gelu(self.fc2(F.gelu(self.fc1(features)))))


@dataclass(frozen=True)
class PromptBatch:
    """Prompts of B rows: BOS first, padded on the right.

    ids: (B, P) int64. lengths: (B,) int64, tokens of each row without padding. padded: whether any row has some.
    """

    ids: torch.Tensor
    lengths: torch.Tensor
    padded: bool

    @staticmethod
    def of(prompts: list[list[int]], pad_token_id: int, device: torch.device | str = "cpu") -> PromptBatch:
        """Stack prompts of different lengths."""
        lengths = [len(prompt) for prompt in prompts]
        longest = max(lengths)
        ids = [prompt + [pad_token_id] * (longest - len(prompt)) for prompt in prompts]
        return PromptBatch(
            torch.tensor(ids, dtype=torch.int64, device=device),
            torch.tensor(lengths, dtype=torch.int64, device=device),
            min(lengths) < longest,  # known here without waiting for a GPU
        )


@dataclass(frozen=True)
class Sequence:
    """What enters the language model.

    embeddings: (B, L, width). mask: (B, 1, 1, L) bool, or None where no row is padded.
    first: (B,) int64, position whose logits give action token 0.
    """

    embeddings: torch.Tensor
    mask: torch.Tensor | None
    first: torch.Tensor


class OpenVLA(nn.Module):
    """The network; its state dict has the key names of OpenVLA checkpoints."""

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__()
        self.config = config
        self.active_adapters: tuple[str, ...] = ()
        self.adapter_configs: dict[str, Any] = {}
        self.vision_backbone = VisionBackbone(config.first_tower, config.second_tower, config.image_size)
        self.projector = Projector(config.first_tower.width + config.second_tower.width, config.language.width)
        self.language_model = Llama(config.language)

    def assemble(self, pixels: torch.Tensor, prompts: PromptBatch) -> Sequence:
        """The language model's input for pixels (B, 6, S, S) float and prompts of B rows."""
        config = self.config
        patches = self.projector(self.vision_backbone(pixels))
        embed = self.language_model.model.embed_tokens
        words = embed(prompts.ids)
        batch = len(prompts.ids)
        zeros = words.new_zeros(batch, config.n_action_tokens + 1, words.shape[2])
        x = torch.cat([words[:, :1], patches, words[:, 1:], zeros], dim=1)
        first = config.n_patches + prompts.lengths - 1
        stop = embed.weight[config.stop_token_id]
        if not prompts.padded:
            x = torch.cat([x[:, :-1], stop.expand(batch, 1, -1)], dim=1)
            return Sequence(x, None, first)
        # Rows shorter than the longest: zero what is behind their prompt, put the stop token at their own end.
        position = torch.arange(x.shape[1], device=x.device)[None]
        end = (first + config.n_action_tokens + 1)[:, None]
        x = torch.where((position <= first[:, None])[:, :, None], x, x.new_zeros(()))
        x = torch.where((position == end)[:, :, None], stop, x)
        return Sequence(x, (position <= end)[:, None, None, :], first)

    def states(self, pixels: torch.Tensor, prompts: PromptBatch, n: int) -> torch.Tensor:
        """Normed states (B, n, width) of the n positions whose logits give action tokens 0 .. n - 1 (then stop)."""
        sequence = self.assemble(pixels, prompts)
        positions = sequence.first[:, None] + torch.arange(n, device=pixels.device)[None]
        return self.language_model.model(sequence.embeddings, sequence.mask, positions)

    def action_logits(self, pixels: torch.Tensor, prompts: PromptBatch) -> torch.Tensor:
        """Logits (B, K * 7, n_bins) float32 of the action tokens, time-major; column j is bin index j.

        pixels: (B, 6, S, S), normalised for both towers. Only the action columns of the head are computed.
        """
        config = self.config
        x = self.states(pixels, prompts, config.n_action_tokens)
        head = self.language_model.lm_head
        if acts(head):
            logits = head(x)[..., config.first_action_id : config.unpadded_vocab_size]
        else:
            logits = F.linear(x, head.weight[config.first_action_id : config.unpadded_vocab_size])
        return logits.float()

    def token_logits(self, pixels: torch.Tensor, prompts: PromptBatch) -> torch.Tensor:
        """Logits (B, K * 7 + 1, vocabulary) float32 over the whole vocabulary, the stop token's position last.

        Supervised fine-tuning trains on these, as OpenVLA-OFT does.
        """
        return self.language_model.lm_head(self.states(pixels, prompts, self.config.n_action_tokens + 1)).float()

    def forward(self, pixels: torch.Tensor, prompts: PromptBatch, whole_vocabulary: bool = False) -> torch.Tensor:
        """`token_logits` or `action_logits`."""
        return self.token_logits(pixels, prompts) if whole_vocabulary else self.action_logits(pixels, prompts)

    def unused_parameters(self) -> list[str]:
        """Names of the weights that are in the checkpoint but take no part."""
        towers = (("featurizer", self.config.first_tower), ("fused_featurizer", self.config.second_tower))
        starts = tuple(
            f"vision_backbone.{name}.{part}"
            for name, tower in towers
            for part in (f"blocks.{tower.depth - 1}.", "norm.", "attn_pool.")
        )
        return [name for name, _ in self.named_parameters() if name.startswith(starts)]

    def check_bidirectional(self, source: str) -> None:
        """Probe: changing the last position must change the state of the first one; `source` is named where not.

        Raises: CheckpointError when it does not: the model is causal, or its attention does nothing.
        """
        language = self.language_model.model
        weight = language.embed_tokens.weight
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(1, 8, weight.shape[1], generator=generator).to(weight) * weight.detach().std()
        other = x.clone()
        other[:, -1] = -other[:, -1]
        with torch.no_grad():
            change = (language(x)[:, 0] - language(other)[:, 0]).abs().max()
        if not bool(change > 0):
            raise CheckpointError(
                f"{source}: changing the last token does not change the first logits, so attention is causal; parallel "
                "decoding of OpenVLA-OFT needs bidirectional attention"
            )


def initialise(model: OpenVLA, seed: int) -> None:
    """Fresh weights for a model trained from nothing.

    Matrices are normal with variance 1 / fan-in, those that write into a residual stream smaller by the root of twice
    the depth; norms and LayerScale are one, biases zero, embeddings of deviation 0.5, the head starts near uniform.
    """
    generator = torch.Generator().manual_seed(seed)
    config = model.config
    depth = max(config.language.depth, config.first_tower.depth, config.second_tower.depth)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
            elif "norm" in name or name.endswith("scale_factor"):
                parameter.fill_(1.0)
            elif "embed_tokens" in name or "pos_embed" in name or name.endswith("_token"):
                parameter.normal_(0.0, 0.5, generator=generator)
            elif "lm_head" in name:
                parameter.normal_(0.0, 0.02, generator=generator)
            else:
                deviation = parameter[0].numel() ** -0.5
                if name.endswith(("attn.proj.weight", "mlp.fc2.weight", "o_proj.weight", "down_proj.weight")):
                    deviation /= (2 * depth) ** 0.5
                parameter.normal_(0.0, deviation, generator=generator)
