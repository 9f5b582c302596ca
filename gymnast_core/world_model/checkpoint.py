"""World-model and autoencoder checkpoints: our folders, and the public WorldGym training file.

A world-model folder holds `weights.safetensors`, `config.json` (size, how to sample, what made it) and, beside them,
`autoencoder/` unless the autoencoder is Stable Diffusion 3's, which stays where it is and is named in the config.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from gymnast_core.config import find_model, parse_config
from gymnast_core.contents import name_file, name_folder, other_folder, unreadable
from gymnast_core.device import choose_device, inference_dtype
from gymnast_core.errors import CheckpointError, ConfigError
from gymnast_core.files import read_whole
from gymnast_core.plain_json import parse_json
from gymnast_core.tensor_files import load_tensors, refuse_quantised
from gymnast_core.world_model.autoencoder import Autoencoder, SmallAutoencoder, StableDiffusion3Autoencoder
from gymnast_core.world_model.config import (
    SamplingConfig,
    SmallAutoencoderConfig,
    WorldModelConfig,
)
from gymnast_core.world_model.model import WorldModel

FORMAT_VERSION = 1
SD3_PREFIX = "sd3:"
Network = TypeVar("Network", bound=nn.Module)


@dataclass
class LoadedWorldModel:
    """Everything needed to imagine.

    made_by: facts about the run that made the weights (step, data, seconds, objective).
    """

    model: WorldModel
    autoencoder: Autoencoder
    sampling: SamplingConfig
    made_by: Mapping[str, Any] = field(default_factory=dict)


def _fitting(make: Callable[[], Network], weights: Mapping[str, Tensor], source: str) -> Network:
    """The network with these weights. Whether they fit is seen before it takes any memory. Raises: CheckpointError."""
    with torch.device("meta"):
        _check_fit(make().state_dict(), weights, source)
    network = make()
    load_weights(network, weights, source)
    return network


def load_weights(module: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Copy weights into the module; CheckpointError lists missing, unexpected and mis-shaped names."""
    _check_fit(module.state_dict(), weights, source)
    bad = [name for name, tensor in weights.items() if not tensor.is_meta and not torch.isfinite(tensor).all()]
    if bad:
        raise CheckpointError(f"{source}: non-finite numbers in {_some(bad)}")
    module.load_state_dict(dict(weights), strict=True, assign=any(t.is_meta for t in weights.values()))


def _check_fit(own: Mapping[str, Tensor], weights: Mapping[str, Tensor], source: str) -> None:
    refuse_quantised(weights, own, None, source)
    expected = {name: tensor.shape for name, tensor in own.items()}
    missing = sorted(set(expected) - set(weights))
    unexpected = sorted(set(weights) - set(expected))
    shapes = [
        f"{name} {tuple(weights[name].shape)} instead of {tuple(shape)}"
        for name, shape in expected.items()
        if name in weights and weights[name].shape != shape
    ]
    problems = [
        f"{label}: {_some(names)}"
        for label, names in (("missing", missing), ("unexpected", unexpected), ("wrong shape", shapes))
        if names
    ]
    if problems:
        raise CheckpointError(f"{source}: does not fit the configured network; {'; '.join(problems)}")


def _some(names: list[str], limit: int = 4) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def load_worldgym_checkpoint(
    path: str | Path,
    config: WorldModelConfig,
    which: Literal["ema", "model"] = "ema",
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> WorldModel:
    """The public WorldGym training checkpoint: a dict with `model`, `ema`, `optimizer`, `step`.

    Nothing but tensors and plain containers is unpickled, and the file is mapped, not read whole: of its nine gigabytes
    only these weights reach the device. On device "meta" only names and shapes are checked. Raises CheckpointError.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; download the WorldGym checkpoint and give its path")
    if (told := name_file(path)) and "zip archive" not in told and "pickle" not in told:
        raise CheckpointError(f"{path}: found {told}, needed a WorldGym checkpoint (torch.save's file)")
    try:
        place = "meta" if device == "meta" else "cpu"
        content = torch.load(path, map_location=place, weights_only=True, mmap=place == "cpu")
    except Exception as error:  # torch raises many kinds on a damaged or foreign file
        reason = "it holds more than tensors" if "weights_only" in str(error) else str(error).splitlines()[0][:200]
        raise CheckpointError(f"{path}: not a readable checkpoint ({reason}); it may be cut short") from error
    if not isinstance(content, dict) or which not in content or not isinstance(content[which], dict):
        found = ", ".join(sorted(map(str, content)))[:200] if isinstance(content, dict) else type(content).__name__
        raise CheckpointError(
            f"{path}: no dict {which!r} inside (found {found}); WorldGym's has model, ema, optimizer, step"
        )
    weights = {_plain_name(name): value for name, value in content[which].items() if isinstance(value, Tensor)}
    with torch.device("meta"):
        model = WorldModel(config)
    if device != "meta":
        model = model.to(dtype).to_empty(device=device)
    load_weights(model, weights, str(path))
    return model


def _plain_name(name: str) -> str:
    """Without the prefixes that data-parallel and compiled modules put before a name."""
    for prefix in ("module.", "_orig_mod."):
        name = name.removeprefix(prefix)
    return name


def save_folder(folder: str | Path, weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """Write weights.safetensors and config.json into a folder, each whole or not at all; other files stay."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f".weights.{os.getpid()}.tmp"
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}, str(temporary))
        os.replace(temporary, folder / "weights.safetensors")
        temporary = folder / f".config.{os.getpid()}.tmp"
        temporary.write_text(json.dumps({"format": FORMAT_VERSION, **config}, indent=2), encoding="utf-8")
        os.replace(temporary, folder / "config.json")
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{folder}: cannot write the checkpoint: {error}; free disk space or choose another"
        ) from error


def read_folder(folder: str | Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights and config of a checkpoint folder; CheckpointError if incomplete or of another kind."""
    folder = Path(folder)
    path = folder / "config.json"
    if not os.path.lexists(path):
        raise CheckpointError(f"{other_folder(folder, f'a {kind} checkpoint')} (config.json is missing)")
    try:
        config = parse_json(read_whole(path))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: {unreadable(path, error)}") from error
    if isinstance(config, dict) and "kind" not in config and (told := name_folder(folder)):
        raise CheckpointError(f"{folder}: found {told}, needed a {kind} checkpoint")
    if not isinstance(config, dict) or config.get("kind") != kind:
        found = config.get("kind") if isinstance(config, dict) else type(config).__name__
        raise CheckpointError(f"{path}: kind is {found!r}, must be {kind!r}")
    if config.get("format") != FORMAT_VERSION:
        raise CheckpointError(f"{path}: format is {config.get('format')!r}, this release reads {FORMAT_VERSION}")
    return load_tensors(folder / "weights.safetensors"), config


def save_autoencoder(folder: str | Path, autoencoder: SmallAutoencoder, made_by: Mapping[str, Any]) -> None:
    """Write the small autoencoder's folder."""
    config = {"kind": "small_autoencoder", "model": asdict(autoencoder.config), "made_by": dict(made_by)}
    save_folder(folder, autoencoder.state_dict(), config)


def load_autoencoder(
    name: str | Path,
    *,
    image_size: int = 256,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    network: bool = True,
) -> Autoencoder:
    """An autoencoder by name: a small one's folder (also a shipped one's), or `sd3:FOLDER` for Stable Diffusion 3's.

    device: "cpu", "cuda", "cuda:1" or "auto". dtype: what Stable Diffusion 3's computes in; the small one is float32.
    network: False for names in files of others, which make nobody fetch from the Hub.

    Raises: ConfigError (no such folder or device), CheckpointError (incomplete, damaged, another kind).
    """
    device = choose_device(device)
    text = str(name)
    if text.startswith(SD3_PREFIX):
        return StableDiffusion3Autoencoder(text[len(SD3_PREFIX) :], image_size=image_size, device=device, dtype=dtype)
    if not Path(text).is_absolute():
        name = find_model(text, network=network)
    weights, config = read_folder(name, "small_autoencoder")
    size_of = parse_config(SmallAutoencoderConfig, config.get("model", {}), f"{name}/config.json")
    autoencoder = _fitting(lambda: SmallAutoencoder(size_of), weights, f"{name}/weights.safetensors")
    return autoencoder.to(device).eval().requires_grad_(False)


def autoencoder_name(autoencoder: Autoencoder) -> str | None:
    """`sd3:FOLDER` for an autoencoder that lives outside the checkpoint, None for one stored inside."""
    return f"{SD3_PREFIX}{autoencoder.folder}" if isinstance(autoencoder, StableDiffusion3Autoencoder) else None


def save_world_model(folder: str | Path, loaded: LoadedWorldModel, weights: Mapping[str, Tensor] | None = None) -> None:
    """Write a world-model folder; `weights` (for instance the moving average) replace the model's own."""
    folder = Path(folder)
    if isinstance(loaded.autoencoder, SmallAutoencoder):
        save_autoencoder(folder / "autoencoder", loaded.autoencoder, loaded.made_by)
    else:
        shutil.rmtree(folder / "autoencoder", ignore_errors=True)
    config = {
        "kind": "world_model",
        "model": asdict(loaded.model.config),
        "sampling": asdict(loaded.sampling),
        "autoencoder": autoencoder_name(loaded.autoencoder),
        "image_size": loaded.autoencoder.image_size,
        "latent_shape": list(loaded.autoencoder.latent_shape),
        "made_by": dict(loaded.made_by),
    }
    save_folder(folder, weights if weights is not None else loaded.model.state_dict(), config)


def load_world_model(
    folder: str | Path, device: str = "cpu", autoencoder: str = "", dtype: torch.dtype | None = torch.float32
) -> LoadedWorldModel:
    """Read a world-model folder, ready to imagine (evaluation mode, no gradients).

    folder: ours, by path or a shipped one's name ("mini/world_model"), with its own autoencoder; or the public WorldGym
    training checkpoint (a file, full size, `ema` weights), which comes without one: then `autoencoder` names it (see
    `load_autoencoder`).
    dtype: of the weights, and of Stable Diffusion 3's autoencoder; None is what is fast on the device
    (`inference_dtype`), right for imagining; training wants float32.

    Raises CheckpointError if files are missing, damaged or do not fit; ConfigError for a folder that is not there, on a
    bad value in config.json, or where a WorldGym checkpoint has no autoencoder named.
    """
    device = choose_device(device)
    dtype = dtype or inference_dtype(device)
    folder = find_model(str(folder))
    if folder.is_file():
        if not autoencoder:
            raise ConfigError(f"{folder}: a WorldGym checkpoint holds no autoencoder; name it (sd3:FOLDER)")
        network = load_worldgym_checkpoint(folder, WorldModelConfig(), device=device, dtype=dtype)
        decoder = load_autoencoder(autoencoder, device=device, dtype=dtype)
        check_fit(network.config, decoder, str(folder))
        return LoadedWorldModel(network.eval().requires_grad_(False), decoder, SamplingConfig(), {"file": str(folder)})
    weights, config = read_folder(folder, "world_model")
    source = f"{folder}/config.json"
    size_of = parse_config(WorldModelConfig, config.get("model", {}), source)
    model = _fitting(lambda: WorldModel(size_of), weights, f"{folder}/weights.safetensors")
    sampling = parse_config(SamplingConfig, config.get("sampling", {}), source)
    named = config.get("autoencoder")
    size = config.get("image_size")
    if size is not None and type(size) is not int:
        raise CheckpointError(f"{source}: image_size is {str(size)[:60]!r}, needed a whole number of pixels")
    own = load_autoencoder(
        named if isinstance(named, str) else folder / "autoencoder",
        image_size=size if isinstance(size, int) else 256,
        device=device,
        dtype=dtype,
        network=False,
    )
    check_fit(model.config, own, source)
    made_by = config.get("made_by")
    return LoadedWorldModel(
        model.to(device, dtype).eval().requires_grad_(False),
        own,
        sampling,
        made_by if isinstance(made_by, dict) else {},
    )


def check_fit(config: WorldModelConfig, autoencoder: Autoencoder, source: str) -> None:
    """CheckpointError unless the network takes this autoencoder's latents."""
    height, width, channels = autoencoder.latent_shape
    if channels != config.in_channels or height % config.patch_size or width % config.patch_size:
        raise CheckpointError(
            f"{source}: the network takes {config.in_channels} channels in patches of {config.patch_size}, but the "
            f"autoencoder's latents are {height}x{width}x{channels}"
        )
