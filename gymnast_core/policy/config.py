"""Sizes of one policy, read from its checkpoint's `config.json` (Hugging Face layout of OpenVLA)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from textwrap import shorten
from typing import Any, Literal, get_args

from gymnast_core.errors import CheckpointError

# Beyond these a config.json is damaged; building what it says would take for ever.
MAX_DEPTH, MAX_BINS, MAX_CHUNK, MIN_SIDE, MAX_SIDE = 1000, 4096, 64, 16, 4096

ImageVariant = Literal["resize", "center_crop", "jpeg_center_crop"]
"""How a camera frame becomes the model's input at act and RL time; see `images.py`."""


@dataclass(frozen=True)
class TowerConfig:
    """One vision tower."""

    width: int
    depth: int
    """Blocks in the checkpoint; the last one takes no part."""
    heads: int
    patch_size: int
    mlp_hidden: int
    register_tokens: int
    """More than 0 for DINOv2-like towers, which then also have a class token."""
    layer_scale: bool
    attention_pool: bool


@dataclass(frozen=True)
class LanguageConfig:
    """The Llama."""

    vocab_size: int
    width: int
    mlp_hidden: int
    depth: int
    heads: int
    key_value_heads: int
    rms_norm_eps: float
    rope_theta: float


@dataclass(frozen=True)
class PolicyConfig:
    """Everything that fixes the architecture and the token layout."""

    image_size: int
    first_tower: TowerConfig
    second_tower: TowerConfig
    language: LanguageConfig
    n_bins: int
    """Action tokens; they are the last ones of the unpadded vocabulary."""
    pad_to_multiple_of: int
    pad_token_id: int
    bos_token_id: int
    stop_token_id: int
    max_length: int
    """Positions the language model was made for: patches, prompt and action tokens together."""
    chunk_length: int
    """Actions K of one forward."""
    action_dim: int
    image_variant: ImageVariant

    @property
    def n_patches(self) -> int:
        return (self.image_size // self.first_tower.patch_size) ** 2

    @property
    def unpadded_vocab_size(self) -> int:
        """One past the last action token (32000 for Llama 2)."""
        return self.language.vocab_size - self.pad_to_multiple_of

    @property
    def first_action_id(self) -> int:
        """Vocabulary id of column 0 of the action logits (31744 for OpenVLA)."""
        return self.unpadded_vocab_size - self.n_bins

    @property
    def n_action_tokens(self) -> int:
        """K * action dimensions: tokens decoded in one forward."""
        return self.chunk_length * self.action_dim

    @property
    def max_prompt_tokens(self) -> int:
        """What is left for a prompt."""
        return self.max_length - self.n_patches - self.n_action_tokens - 1


# The sizes behind the identifiers of OpenVLA's config: (width, depth, heads, MLP ratio).
KNOWN_TOWERS = {
    "vit_large_patch14_reg4_dinov2.lvd142m": (1024, 24, 16, 4.0),
    "vit_so400m_patch14_siglip_224": (1152, 27, 16, 3.7362),
}
DEFAULT_TOWERS = tuple(KNOWN_TOWERS)
MLP_RATIOS = (4.0, 3.7362)

# Hugging Face leaves fields at their default out of `text_config`; these are Llama's.
LLAMA_DEFAULTS: dict[str, Any] = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def read_policy_config(content: Mapping[str, Any], source: str) -> PolicyConfig:
    """Build the sizes from the mapping of a `config.json`.

    Read besides OpenVLA's own fields: `tiny_vision_backbones` (two mappings embed_dim, depth, num_heads and optionally
    patch_size), and ours, `num_actions_chunk` (5), `action_dim` (7) and `image_variant` ("center_crop").

    Raises: CheckpointError naming `source` and the field.
    """
    if content.get("model_type") != "openvla":
        raise CheckpointError(f"{source}: model_type is {content.get('model_type')!r}, needed 'openvla'")
    text = content.get("text_config")
    if not isinstance(text, Mapping):
        raise CheckpointError(f"{source}: text_config is missing")
    if text.get("model_type", "llama") != "llama":
        raise CheckpointError(f"{source}: text_config.model_type is {text.get('model_type')!r}, needed 'llama'")
    for name, needed in (("hidden_act", "silu"), ("attention_bias", False), ("mlp_bias", False)):
        if text.get(name, needed) != needed:
            raise CheckpointError(f"{source}: text_config.{name} is {text[name]!r}, only {needed!r} is supported")
    rope = text.get("rope_parameters") or {}  # where transformers 5 puts what was rope_theta and rope_scaling
    kind = rope.get("rope_type", "default") if isinstance(rope, Mapping) else rope
    if text.get("rope_scaling") is not None or kind != "default" or text.get("tie_word_embeddings"):
        raise CheckpointError(f"{source}: text_config: rope_scaling and tied embeddings are not supported")
    text = {**rope, **text}
    if any(content.get("timm_override_act_layers") or ()):
        raise CheckpointError(
            f"{source}: timm_override_act_layers is {shorten(repr(content['timm_override_act_layers']), 60)}, only the "
            "towers' own activation is supported"
        )
    for where in (content, text):
        if where.get("bidirectional_attention") is False or where.get("is_causal") is True:
            raise CheckpointError(
                f"{source}: this checkpoint says its attention is causal; parallel decoding needs a model trained "
                "with bidirectional attention"
            )
    if not content.get("use_fused_vision_backbone", True):
        raise CheckpointError(f"{source}: use_fused_vision_backbone is false; two fused towers are needed")
    if content.get("use_proprio"):
        raise CheckpointError(f"{source}: use_proprio is true; this policy takes an image and an instruction only")

    def number(mapping: Mapping[str, Any], name: str, default: Any, lowest: float = 1, highest: float = 1e7) -> Any:
        value = default if mapping.get(name) is None else mapping[name]
        good = isinstance(value, (int, float)) and not isinstance(value, bool) and lowest <= value <= highest
        if not good or (isinstance(default, int) and value != int(value)):
            needed = f"a {'whole ' if isinstance(default, int) else ''}number from {lowest:g} to {highest:g}"
            raise CheckpointError(f"{source}: {name} is {shorten(repr(value), 60)}, needed {needed}")
        return type(default)(value)

    def llama(name: str, lowest: float = 1, highest: float = 1e7) -> Any:
        return number(text, name, LLAMA_DEFAULTS[name], lowest, highest)

    language = LanguageConfig(
        vocab_size=llama("vocab_size"),
        width=llama("hidden_size"),
        mlp_hidden=llama("intermediate_size"),
        depth=llama("num_hidden_layers", highest=MAX_DEPTH),
        heads=llama("num_attention_heads"),
        key_value_heads=number(text, "num_key_value_heads", llama("num_attention_heads")),
        rms_norm_eps=llama("rms_norm_eps", 0),
        rope_theta=llama("rope_theta"),
    )
    if language.width % (2 * language.heads) or language.heads % language.key_value_heads:
        raise CheckpointError(
            f"{source}: hidden_size {language.width}, num_attention_heads {language.heads} and num_key_value_heads "
            f"{language.key_value_heads} do not fit: needed heads of equal, even width that key heads divide"
        )
    sizes = content.get("image_sizes", [224, 224])
    sides = sizes if isinstance(sizes, list) and all(type(side) is int for side in sizes) else []
    if len(set(sides)) != 1 or not MIN_SIDE <= sides[0] <= MAX_SIDE:
        raise CheckpointError(
            f"{source}: image_sizes is {shorten(repr(sizes), 60)}, needed two equal sides of {MIN_SIDE} to {MAX_SIDE} "
            "pixels"
        )
    towers = _read_towers(content, source)
    if any(sizes[0] % tower.patch_size for tower in towers) or towers[0].patch_size != towers[1].patch_size:
        raise CheckpointError(f"{source}: image side {sizes[0]} is not a multiple of one common patch size")
    variant = content.get("image_variant", "center_crop")
    if variant not in get_args(ImageVariant):
        allowed = ", ".join(get_args(ImageVariant))
        raise CheckpointError(f"{source}: image_variant is {variant!r}, allowed are {allowed}")
    config = PolicyConfig(
        image_size=sizes[0],
        first_tower=towers[0],
        second_tower=towers[1],
        language=language,
        n_bins=number(content, "n_action_bins", 256, 3, MAX_BINS),
        pad_to_multiple_of=number(content, "pad_to_multiple_of", 64, 0),
        pad_token_id=number(content, "pad_token_id", 32000, 0),
        bos_token_id=number(text, "bos_token_id", 1, 0),
        stop_token_id=number(text, "eos_token_id", 2, 0),
        max_length=number(content, "llm_max_length", 2048),
        chunk_length=number(content, "num_actions_chunk", 5, 1, MAX_CHUNK),
        action_dim=number(content, "action_dim", 7),
        image_variant=variant,
    )
    if config.action_dim != 7:
        raise CheckpointError(f"{source}: action_dim is {config.action_dim}, needed 7 (Bridge convention)")
    if config.first_action_id <= max(config.bos_token_id, config.stop_token_id):
        raise CheckpointError(
            f"{source}: a vocabulary of {language.vocab_size} (padded by {config.pad_to_multiple_of}) is too small for "
            f"{config.n_bins} action tokens"
        )
    if not config.unpadded_vocab_size <= config.pad_token_id < language.vocab_size:
        raise CheckpointError(
            f"{source}: pad_token_id {config.pad_token_id} is not in the padding of the vocabulary "
            f"({config.unpadded_vocab_size} .. {language.vocab_size - 1}): wrong vocabulary"
        )
    if config.max_prompt_tokens < 1:
        raise CheckpointError(
            f"{source}: llm_max_length {config.max_length} leaves no place for a prompt beside {config.n_patches} "
            f"patches and {config.n_action_tokens} action tokens"
        )
    return config


def _read_towers(content: Mapping[str, Any], source: str) -> tuple[TowerConfig, TowerConfig]:
    tiny = content.get("tiny_vision_backbones")
    if tiny is None:
        names = content.get("timm_model_ids", list(DEFAULT_TOWERS))
        if not isinstance(names, list) or len(names) != 2 or any(name not in KNOWN_TOWERS for name in names):
            raise CheckpointError(f"{source}: timm_model_ids is {names!r}, known are {', '.join(KNOWN_TOWERS)}")
        sizes = [(*KNOWN_TOWERS[name], 14) for name in names]
    else:
        try:
            sizes = [
                (int(t["embed_dim"]), int(t["depth"]), int(t["num_heads"]), ratio, int(t.get("patch_size", 14)))
                for t, ratio in zip(tiny, MLP_RATIOS, strict=True)
            ]
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise CheckpointError(
                f"{source}: tiny_vision_backbones: needed two mappings of embed_dim, depth, num_heads ({error})"
            ) from error
    towers = []
    for index, (width, depth, heads, ratio, patch) in enumerate(sizes):
        if min(width, heads, patch) < 1 or not 2 <= depth <= MAX_DEPTH or width % heads:
            raise CheckpointError(
                f"{source}: vision tower {index}: width {width}, depth {depth}, heads {heads} do not fit"
            )
        is_dino = index == 0
        towers.append(
            TowerConfig(width, depth, heads, patch, int(width * ratio), 4 if is_dino else 0, is_dino, not is_dino)
        )
    return towers[0], towers[1]
