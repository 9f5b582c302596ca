"""A new policy from a recipe: the sizes and vocabulary of a model that is trained from nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gymnast_core.policy.checkpoint import Checkpoint
from gymnast_core.policy.config import read_policy_config
from gymnast_core.policy.images import ImageProcessor
from gymnast_core.policy.model import OpenVLA, initialise
from gymnast_core.policy.prompt import build_tokenizer
from gymnast_core.policy.sft_config import ModelRecipe

TOKENIZER_CONFIG = (
    '{"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<PAD>", '
    '"padding_side": "right", "model_max_length": 2048, "tokenizer_class": "PreTrainedTokenizerFast", '
    '"processor_class": "PrismaticProcessor"}\n'
)


def new_checkpoint(recipe: ModelRecipe, words: Sequence[str], seed: int, folder: Path) -> Checkpoint:
    """A freshly initialised policy with its own small tokenizer; `folder` is where it will be saved.

    words: of the instructions it is trained on; they become one token each, besides those of the recipe.

    Raises: CheckpointError when the sizes do not fit together.
    """
    tokenizer, size = build_tokenizer([*recipe.words, *words], recipe.n_bins)
    towers = [
        {"embed_dim": t.width, "depth": t.depth, "num_heads": t.heads, "patch_size": recipe.patch_size}
        for t in (recipe.dino, recipe.siglip)
    ]
    content: dict[str, Any] = {
        "model_type": "openvla",
        "architectures": ["OpenVLAForActionPrediction"],
        "arch_specifier": "no-align+fused-gelu-mlp",
        "vision_backbone_id": "dinosiglip-vit-so-224px",
        "llm_backbone_id": "llama2-7b-pure",
        "image_resize_strategy": "resize-naive",
        "image_sizes": [recipe.image_size, recipe.image_size],
        "image_variant": recipe.image_variant,
        "n_action_bins": recipe.n_bins,
        "num_actions_chunk": recipe.chunk_length,
        "action_dim": 7,
        "norm_stats": {},
        "pad_to_multiple_of": 64,
        "pad_token_id": size,
        "text_config": {
            "model_type": "llama",
            "hidden_size": recipe.width,
            "intermediate_size": recipe.mlp_hidden,
            "num_attention_heads": recipe.heads,
            "num_key_value_heads": recipe.heads,
            "num_hidden_layers": recipe.depth,
            "rms_norm_eps": 1e-6,
            "rope_theta": recipe.rope_theta,
            "pad_token_id": size,
            "vocab_size": size + 64,
        },
        "tiny_vision_backbones": towers,
        "use_fused_vision_backbone": True,
        "use_proprio": False,
    }
    config = read_policy_config(content, "recipe")
    model = OpenVLA(config)
    initialise(model, seed)
    companions = {
        "tokenizer.json": tokenizer.to_str(pretty=True).encode(),
        "tokenizer_config.json": TOKENIZER_CONFIG.encode(),
    }
    images = ImageProcessor(config.image_size, config.image_variant)
    return Checkpoint(folder, content, config, model.eval(), images, companions, "")
