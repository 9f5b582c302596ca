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
CROP_AREA = 0.9
"""Share of a frame's area that the cropping variants keep."""
Labels = Literal["executed", "commanded"]


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
    text = _checked_text_config(content, source)
    text["rope_theta"] = _rope_theta(text, source)
    _refuse_other_designs(content, text, source)
    fields, text_fields = _Numbers(content, source), _Numbers(text, source)
    language = _read_language(text_fields)
    image_size = _read_image_size(content, source)
    towers = _read_towers(content, source)
    if any(image_size % tower.patch_size for tower in towers) or towers[0].patch_size != towers[1].patch_size:
        raise CheckpointError(f"{source}: image side {image_size} is not a multiple of one common patch size")
    variant = content.get("image_variant", "center_crop")
    if variant not in get_args(ImageVariant):
        allowed = ", ".join(get_args(ImageVariant))
        raise CheckpointError(f"{source}: image_variant is {variant!r}, allowed are {allowed}")
    config = PolicyConfig(
        image_size=image_size,
        first_tower=towers[0],
        second_tower=towers[1],
        language=language,
        n_bins=fields("n_action_bins", 256, 3, MAX_BINS),
        pad_to_multiple_of=fields("pad_to_multiple_of", 64, 0),
        pad_token_id=fields("pad_token_id", 32000, 0),
        bos_token_id=text_fields("bos_token_id", 1, 0),
        stop_token_id=text_fields("eos_token_id", 2, 0),
        max_length=fields("llm_max_length", 2048),
        chunk_length=fields("num_actions_chunk", 5, 1, MAX_CHUNK),
        action_dim=fields("action_dim", 7),
        image_variant=variant,
    )
    _check_tokens(config, source)
    return config


def _checked_text_config(content: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The Llama's section of an OpenVLA's config. Raises: CheckpointError for another model or another Llama."""
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
    if text.get("tie_word_embeddings"):
        raise CheckpointError(f"{source}: text_config: tied embeddings are not supported")
    return dict(text)


def _refuse_other_designs(content: Mapping[str, Any], text: Mapping[str, Any], source: str) -> None:
    """Raises: CheckpointError for a model of OpenVLA's kind that is not computed as OpenVLA-OFT's."""
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


class _Numbers:
    """Numbers of one mapping of a config.json. Raises: CheckpointError naming the field."""

    def __init__(self, mapping: Mapping[str, Any], source: str) -> None:
        self.mapping = mapping
        self.source = source

    def __call__(self, name: str, default: Any, lowest: float = 1, highest: float = 1e7) -> Any:
        """The field's value, of the kind of its default, which stands in where there is none."""
        value = default if self.mapping.get(name) is None else self.mapping[name]
        good = isinstance(value, (int, float)) and not isinstance(value, bool) and lowest <= value <= highest
        if not good or (isinstance(default, int) and value != int(value)):
            needed = f"a {'whole ' if isinstance(default, int) else ''}number from {lowest:g} to {highest:g}"
            raise CheckpointError(f"{self.source}: {name} is {shorten(repr(value), 60)}, needed {needed}")
        return type(default)(value)

    def llama(self, name: str, lowest: float = 1, highest: float = 1e7) -> Any:
        """The same, with Llama's default."""
        return self(name, LLAMA_DEFAULTS[name], lowest, highest)


def _read_language(numbers: _Numbers) -> LanguageConfig:
    text, source = numbers.mapping, numbers.source
    language = LanguageConfig(
        vocab_size=numbers.llama("vocab_size"),
        width=numbers.llama("hidden_size"),
        mlp_hidden=numbers.llama("intermediate_size"),
        depth=numbers.llama("num_hidden_layers", highest=MAX_DEPTH),
        heads=numbers.llama("num_attention_heads"),
        key_value_heads=numbers("num_key_value_heads", numbers.llama("num_attention_heads")),
        rms_norm_eps=numbers.llama("rms_norm_eps", 0),
        rope_theta=numbers.llama("rope_theta"),
    )
    if text.get("head_dim") not in (None, language.width / language.heads):
        raise CheckpointError(
            f"{source}: head_dim is {shorten(repr(text['head_dim']), 60)}, needed hidden_size / num_attention_heads = "
            f"{language.width / language.heads:g}"
        )
    if language.width % (2 * language.heads) or language.heads % language.key_value_heads:
        raise CheckpointError(
            f"{source}: hidden_size {language.width}, num_attention_heads {language.heads} and num_key_value_heads "
            f"{language.key_value_heads} do not fit: needed heads of equal, even width that key heads divide"
        )
    return language


def _read_image_size(content: Mapping[str, Any], source: str) -> int:
    """Side of the square frames, pixels."""
    sizes = content.get("image_sizes", [224, 224])
    sides = sizes if isinstance(sizes, list) and all(type(side) is int for side in sizes) else []
    if len(set(sides)) != 1 or not MIN_SIDE <= sides[0] <= MAX_SIDE:
        raise CheckpointError(
            f"{source}: image_sizes is {shorten(repr(sizes), 60)}, needed two equal sides of {MIN_SIDE} to {MAX_SIDE} "
            "pixels"
        )
    return int(sides[0])


def _check_tokens(config: PolicyConfig, source: str) -> None:
    """Raises: CheckpointError where actions, special tokens and prompt do not fit the vocabulary and its length."""
    language = config.language
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


def _rope_theta(text: Mapping[str, Any], source: str) -> Any:
    """The base of the rotary positions, from where the versions of transformers put it: rope_theta, or within
    rope_parameters (transformers 5) or rope_scaling, which may also say that nothing is scaled.

    Raises: CheckpointError when positions are scaled, turned in part, or two places disagree.
    """
    thetas = {"rope_theta": text["rope_theta"]} if text.get("rope_theta") is not None else {}
    for name in ("rope_scaling", "rope_parameters"):
        said = text.get(name)
        if said is None:
            continue
        where = f"{source}: text_config.{name}"
        if not isinstance(said, Mapping):
            raise CheckpointError(f"{where} is {shorten(repr(said), 60)}, needed a mapping")
        kinds = [said[key] for key in ("rope_type", "type") if said.get(key) is not None]
        nested = [key for key, value in said.items() if isinstance(value, Mapping)]
        whole = said.get("partial_rotary_factor") in (None, 1, 1.0)
        if any(kind != "default" for kind in kinds) or nested or not whole:
            raise CheckpointError(
                f"{where} is {shorten(repr(dict(said)), 80)}: rope_scaling is not supported, only type 'default'"
            )
        if said.get("rope_theta") is not None:
            thetas[f"{name}.rope_theta"] = said["rope_theta"]
    values = list(thetas.values())
    if any(value != values[0] for value in values):
        found = ", ".join(f"{name} {shorten(repr(value), 30)}" for name, value in thetas.items())
        raise CheckpointError(f"{source}: text_config: found {found}, which disagree")
    return values[0] if values else None


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
