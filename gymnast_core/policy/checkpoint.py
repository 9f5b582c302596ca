"""Checkpoint folders in the Hugging Face layout of OpenVLA and OpenVLA-OFT: read, checked, written whole.

    config.json                     sizes, token layout, norm_stats
    model.safetensors               or model-NNNNN-of-NNNNN.safetensors with model.safetensors.index.json
    dataset_statistics.json         wins over config.json's norm_stats where present
    tokenizer.json                  and what else the tokenizer came with
    preprocessor_config.json

No code of a checkpoint is ever run. What is written holds every file the original code needs: entries of the source's
`config.json` and `preprocessor_config.json` that nobody here reads (`auto_map` and the like) are kept, its tokenizer's
files and its code, where it was there, are copied along.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from gymnast_core.contents import other_folder
from gymnast_core.errors import CheckpointError
from gymnast_core.files import put_in_place, read_json
from gymnast_core.policy.config import ImageVariant, PolicyConfig, read_policy_config
from gymnast_core.policy.foreign import leave_out
from gymnast_core.policy.images import ImageProcessor
from gymnast_core.policy.lora import adapter_of, base_name
from gymnast_core.policy.model import OpenVLA
from gymnast_core.policy.processor_files import read_image_processor
from gymnast_core.policy.prompt import FIRST_ACTION, PromptTokens, read_tokenizer
from gymnast_core.tensor_files import TensorInfo, open_tensors, refuse_quantised, survey

log = logging.getLogger(__name__)
OPENVLA_BINS = 256
INDEX = "model.safetensors.index.json"
SHARD_BYTES = 5 * 1000**3
# Small files that travel with a checkpoint unchanged.
COMPANIONS = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "generation_config.json",
    "processor_config.json",
    "configuration_prismatic.py",
    "modeling_prismatic.py",
    "processing_prismatic.py",
    "constants.py",
    "train_utils.py",
)
# What OpenVLA-OFT puts beside a checkpoint whose actions do not come from tokens, or whose inputs are others.
OTHER_HEADS = {
    "action_head--*": "a regression or diffusion head",
    "noisy_action_projector--*": "a diffusion head",
    "proprio_projector--*": "proprioceptive input",
    "vision_backbone--*": "language-modulated vision (FiLM)",
}
# What a folder that is written anew may hold already: nothing else is ever deleted.
FILES = {"config.json", "dataset_statistics.json", "preprocessor_config.json", "gymnast.json", INDEX, *COMPANIONS}


@dataclass(frozen=True)
class Checkpoint:
    """A folder read into memory.

    content: the mapping of config.json (norm_stats replaced by dataset_statistics.json where that is present).
    companions: the other files of the folder, by name.
    fingerprint: identifies the weights; adapters are bound to it.
    """

    folder: Path
    content: Mapping[str, Any]
    config: PolicyConfig
    model: OpenVLA
    images: ImageProcessor
    companions: Mapping[str, bytes]
    fingerprint: str

    @property
    def norm_stats(self) -> Mapping[str, Any]:
        return self.content.get("norm_stats") or {}

    def prompts(self) -> PromptTokens:
        """The prompt builder of the folder's tokenizer. Raises: CheckpointError (missing, or another vocabulary)."""
        path = self.folder / "tokenizer.json"
        tokenizer = read_tokenizer(self.companions.get("tokenizer.json"), str(path))
        found, config = tokenizer.get_vocab_size(with_added_tokens=True), self.config
        if not config.unpadded_vocab_size <= found <= config.language.vocab_size:
            raise CheckpointError(
                f"{path}: wrong vocabulary: {found} tokens, config.json needs {config.unpadded_vocab_size} to "
                f"{config.language.vocab_size}"
            )
        for token, wanted in (("<s>", config.bos_token_id), ("</s>", config.stop_token_id)):
            if (number := tokenizer.token_to_id(token)) != wanted:
                raise CheckpointError(
                    f"{path}: wrong vocabulary: {token!r} is token {number}, config.json says {wanted}"
                )
        # A vocabulary that names no action tokens is Llama's, whose last 256 OpenVLA's action tokens took the place of.
        named = tokenizer.token_to_id(FIRST_ACTION)
        bins = OPENVLA_BINS if named is None else config.unpadded_vocab_size - named
        if config.n_bins != bins:
            source = self.folder / "config.json"
            raise CheckpointError(f"{source}: n_action_bins is {config.n_bins}, the vocabulary has {bins} such tokens")
        return PromptTokens(tokenizer, config.bos_token_id, config.first_action_id, config.max_prompt_tokens, str(path))


def read_checkpoint(
    folder: str | os.PathLike[str],
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    chunk_length: int | None = None,
    image_variant: ImageVariant | None = None,
) -> Checkpoint:
    """Read a folder; `chunk_length` and `image_variant` replace what config.json says (OpenVLA's own says neither).

    Raises: CheckpointError when a file or shard is missing, a tensor is missing, unexpected, of another shape or not
        finite, attention is causal, or the checkpoint has another head or other inputs than tokens, image and text.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(other_folder(folder, "the folder of a policy checkpoint"))
    for pattern, what in OTHER_HEADS.items():
        if found := next(folder.glob(pattern), None):
            raise CheckpointError(
                f"{found}: this checkpoint has {what}; only discrete action tokens from an image and text"
            )
    if not os.path.lexists(folder / "config.json"):
        raise CheckpointError(other_folder(folder, "a policy checkpoint"))
    content = dict(read_json(folder / "config.json"))
    if "model_type" not in content:
        raise CheckpointError(other_folder(folder, "a policy checkpoint (model_type 'openvla')"))
    if chunk_length is not None:
        content["num_actions_chunk"] = chunk_length
    if image_variant is not None:
        content["image_variant"] = image_variant
    statistics = folder / "dataset_statistics.json"
    if os.path.lexists(statistics):  # a link to nothing too: config.json's may be others
        content["norm_stats"] = read_json(statistics)
    if not isinstance(content.get("norm_stats", {}), (Mapping, type(None))):
        raise CheckpointError(f"{folder / 'config.json'}: norm_stats is no mapping of data sets")
    config = read_policy_config(content, str(folder / "config.json"))
    images = read_image_processor(folder, config.image_size, config.image_variant)
    model = build_meta(config)
    files = _weight_files(folder)
    _load_weights(model, files, content, device, dtype)
    model.check_bidirectional(str(folder))
    companions = {name: (folder / name).read_bytes() for name in COMPANIONS if (folder / name).is_file()}
    return Checkpoint(folder, content, config, model.eval(), images, companions, _fingerprint(files))


def fingerprint(folder: Path) -> str:
    """What identifies the weights in a folder, without loading them (`Checkpoint.fingerprint`).

    Raises: CheckpointError when weight files are missing; OSError.
    """
    return _fingerprint(_weight_files(folder))


def build_meta(config: PolicyConfig) -> OpenVLA:
    """The network without memory behind it (full-size checks, loading)."""
    with torch.device("meta"):
        return OpenVLA(config)


def base_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """The state dict without adapters: exactly the checkpoint's keys."""
    return {base_name(name): value for name, value in model.state_dict().items() if adapter_of(name) is None}


def write_checkpoint(
    folder: str | os.PathLike[str],
    content: Mapping[str, Any],
    state: Mapping[str, torch.Tensor],
    images: ImageProcessor,
    companions: Mapping[str, bytes],
    made_by: Mapping[str, Any] | None = None,
) -> Path:
    """Write a self-contained folder: complete under a temporary name first, then put in place of `folder`.

    content: for config.json; its norm_stats also become dataset_statistics.json.
    state: all tensors by checkpoint name. made_by: what made it, kept as gymnast.json.

    Raises: CheckpointError when it cannot be written; what was at `folder` stays.
    """
    folder = check_target(folder)
    temporary = folder.with_name(f".{folder.name}.tmp")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        texts = {"config.json": dict(content), "preprocessor_config.json": images.to_json()}
        if content.get("norm_stats"):
            texts["dataset_statistics.json"] = dict(content["norm_stats"])
        if made_by:
            texts["gymnast.json"] = dict(made_by)
        for name, value in texts.items():
            # Statistics of other data sets may hold NaN, which is theirs to have: Python's JSON writes and reads it.
            (temporary / name).write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
        for name, blob in companions.items():
            (temporary / name).write_bytes(blob)
        _write_weights(temporary, state)
        put_in_place(temporary, folder)
    except BaseException as error:  # an interrupt too must leave neither half a checkpoint nor gigabytes of rubbish
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, (OSError, ValueError, SafetensorError)):
            raise CheckpointError(
                f"{folder}: cannot write the checkpoint ({error}); free disk space or choose another folder"
            ) from error
        raise
    return folder


def check_target(folder: str | os.PathLike[str]) -> Path:
    """See that a checkpoint can be written to `folder`, before hours of work are spent on it; returns its full path.

    What is there already must be empty, or a policy checkpoint and nothing besides, because it is replaced.

    Raises: CheckpointError when something else is there, or its parent cannot be written.
    """
    try:
        folder = Path(folder).resolve()
        if folder.exists():
            _check_replaceable(folder)
        made = [parent for parent in folder.parents if not parent.exists()]
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            probe = folder.with_name(f".{folder.name}.tmp")
            probe.mkdir(exist_ok=True)
            if not any(probe.iterdir()):
                probe.rmdir()
        finally:
            for parent in made:
                with contextlib.suppress(OSError):
                    parent.rmdir()
    except (OSError, ValueError) as error:  # ValueError: no name for a file
        raise CheckpointError(
            f"{folder}: cannot be written ({getattr(error, 'strerror', None) or error}); choose another folder"
        ) from error
    return folder


def _check_replaceable(folder: Path) -> None:
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    if (names or not folder.is_dir()) and not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder}: exists and is not a policy checkpoint; choose another folder")
    others = [name for name in names if name not in FILES and not name.endswith(".safetensors")]
    if others:
        raise CheckpointError(f"{folder}: holds '{others[0]}', which is no part of a policy; choose another folder")
    if names and (kind := read_json(folder / "config.json").get("model_type")) != "openvla":
        raise CheckpointError(f"{folder}: its config.json says model_type {kind!r}, no policy; choose another folder")


def with_statistics(checkpoint: Checkpoint, key: str, statistics: Mapping[str, Any]) -> Checkpoint:
    """The same checkpoint with statistics added (or replaced) under `key`."""
    stats = {**checkpoint.norm_stats, key: dict(statistics)}
    return replace(checkpoint, content={**checkpoint.content, "norm_stats": stats})


def _weight_files(folder: Path) -> list[Path]:
    single, index = folder / "model.safetensors", folder / INDEX
    if os.path.lexists(single):  # even where there is an index too, as the original code decides
        return [single]
    if not index.exists():
        others = sorted(path.name for end in ("*.bin", "*.pt", "*.pth", "*.gguf") for path in folder.glob(end))
        found = f"; found {others[0]}, which is not read" if others else ""
        raise CheckpointError(
            f"{folder}: neither model.safetensors nor {INDEX} is there (only safetensors are read){found}"
        )
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index}: weight_map is missing")
    names = sorted({str(name) for name in weight_map.values()})
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise CheckpointError(
                f"{index}: weight_map names {name[:80]!r}, needed the name of a .safetensors file in this folder"
            )
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{folder}: shard {missing[0]} is missing ({len(missing)} of {len(names)}); download it again"
        )
    return [folder / name for name in names]


def _load_weights(
    model: OpenVLA, files: list[Path], content: Mapping[str, Any], device: torch.device | str, dtype: torch.dtype
) -> None:
    """Fill a network on the meta device shard by shard, so that the weights are never in memory twice.

    All headers are looked at first: what kind of checkpoint it is says more than the first tensor that does not fit.
    """
    needed, found, folder = model.state_dict(), survey(files), files[0].parent
    refuse_quantised(found, needed, content, folder)
    if spare := leave_out(found, needed, model.config.language, folder):
        log.warning("%s: left out %d tensors that take no part in acting, as '%s'", folder, len(spare), spare[0])
    _check_shapes(found, needed, folder)
    for path in files:
        part: dict[str, torch.Tensor] = {}
        with open_tensors(path) as archive:
            for name in (name for name in needed if found[name].path == path):
                part[name] = archive.get_tensor(name).to(device=device, dtype=dtype)
                if not bool(torch.isfinite(part[name]).all()):
                    raise CheckpointError(
                        f"{path}: '{name}' holds a value that is not finite as {str(dtype).removeprefix('torch.')}"
                    )
        model.load_state_dict(part, strict=False, assign=True)
    for parameter in model.parameters():
        parameter.requires_grad_(True)


def _check_shapes(found: Mapping[str, TensorInfo], needed: Mapping[str, torch.Tensor], folder: Path) -> None:
    """Raises: CheckpointError naming the first tensor that is missing or of another shape."""
    for name, tensor in needed.items():
        if name in found and found[name].shape != tuple(tensor.shape):
            raise CheckpointError(
                f"{found[name].path}: '{name}' has shape {found[name].shape}, config.json needs {tuple(tensor.shape)}"
                + (": wrong vocabulary" if "embed_tokens" in name or "lm_head" in name else "")
            )
    if missing := sorted(set(needed) - set(found)):
        raise CheckpointError(f"{folder}: {len(missing)} tensors are missing, for example '{missing[0]}'")


def _write_weights(folder: Path, state: Mapping[str, torch.Tensor]) -> None:
    shards: list[dict[str, torch.Tensor]] = [{}]
    size = 0
    for name, tensor in state.items():
        n_bytes = tensor.numel() * tensor.element_size()
        if shards[-1] and size + n_bytes > SHARD_BYTES:
            shards.append({})
            size = 0
        shards[-1][name] = tensor.detach().cpu().contiguous()
        size += n_bytes
    if len(shards) == 1:
        _write_shard(shards[0], folder / "model.safetensors")
        return
    weight_map = {}
    for number, shard in enumerate(shards, start=1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        _write_shard(shard, folder / name)
        weight_map.update(dict.fromkeys(shard, name))
    total = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _write_shard(tensors: dict[str, torch.Tensor], path: Path) -> None:
    save_file(tensors, str(path), metadata={"format": "pt"})
    shutil.copymode(path.with_name("config.json"), path)  # safetensors makes it its owner's alone


def _fingerprint(files: list[Path]) -> str:
    """Hash of the weights: whole files when small, otherwise the ends and 64 places between."""
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.name}:{path.stat().st_size};".encode())
        for block in _sampled_blocks(path):
            digest.update(block)
    return digest.hexdigest()[:16]


def _sampled_blocks(path: Path, block: int = 1 << 20, places: int = 64) -> Iterator[bytes]:
    size = path.stat().st_size
    with open(path, "rb") as stream:
        if size <= block * places:
            while chunk := stream.read(block):
                yield chunk
            return
        for place in range(places):
            stream.seek((size - block) * place // (places - 1))
            yield stream.read(block)
