"""Adapted policies: small named low-rank adapters on one base, so that adapting to a task cannot spoil the others.

On a policy (`attach`, `activate`, `deactivate`, `detach`): the base weights are never touched, so rolling back is free,
and several adapters may act at once, their changes added.

On disk (`AdapterStore`): one folder an adapter, in the file format of the `peft` library, so that the original code can
load it too, with a record of what made it:

    <root>/<name>/adapter_model.safetensors   factors A and B of every adapted layer
    <root>/<name>/adapter_config.json         rank, alpha, layers
    <root>/<name>/adapter.json                base fingerprint, station, task, time, metrics
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from gymnast_core.errors import CheckpointError, ConfigError
from gymnast_core.policy.checkpoint import ADAPTER_MARK, put_in_place
from gymnast_core.policy.layers import Linear, LowRank
from gymnast_core.policy.openvla import OpenVLAPolicy

LANGUAGE = "language_model."
VISION = "vision_backbone."
PROJECTOR = "projector."
PEFT_PREFIX = "base_model.model."
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
MAX_ALPHA = 1e6


@dataclass(frozen=True)
class AdapterRecord:
    """What an adapter is and what made it.

    base: fingerprint of the base checkpoint. created: UTC, ISO 8601. metrics: numbers of the run that made it, for
    example success before and after. modules: names of the adapted layers.
    """

    name: str
    base: str
    rank: int
    alpha: float
    modules: tuple[str, ...]
    station: str = ""
    task: str = ""
    created: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)


FIELDS = tuple(f.name for f in dataclasses.fields(AdapterRecord) if f.name != "name")
"""What adapter.json says besides the name, which is the folder's."""


def adapter_name(station: str, task: str, time: datetime | None = None) -> str:
    """The name of a new adapter: station, task and UTC time, for example `lab_open_drawer_20261122_051500_123456`."""
    moment = (time or datetime.now(timezone.utc)).astimezone(timezone.utc)
    plain = re.sub(r"[^A-Za-z0-9]+", "_", f"{station}_{task}").strip("_").lower()[:70] or "adapter"
    return f"{plain}_{moment:%Y%m%d_%H%M%S_%f}"


def attach(
    policy: OpenVLAPolicy,
    name: str,
    rank: int = 32,
    alpha: float = 16.0,
    vision: bool = False,
    projector: bool = False,
    seed: int = 0,
    deviation: float | None = None,
) -> list[str]:
    """Add a fresh adapter to every linear layer of the language model (not its head), which changes nothing yet.

    vision, projector: adapt those too, without the last vision blocks, which take no part. deviation: of the Gaussian
    that factor A starts from; None: 1 / sqrt(rank), which keeps the size of A x whatever the rank (`peft`'s "gaussian",
    with which OpenVLA-OFT trains, is 1 / rank). Returns the layers' names.

    Raises: ConfigError when the name is taken or not allowed, or rank or alpha are not positive.
    """
    prefixes = (LANGUAGE, *((VISION,) if vision else ()), *((PROJECTOR,) if projector else ()))
    modules = [module for module in _adaptable(policy) if module.startswith(prefixes)]
    _attach(policy, name, modules, rank, alpha)
    generator = torch.Generator().manual_seed(seed)
    for module in modules:
        _factors(policy, module, name).reset(rank**-0.5 if deviation is None else deviation, generator)
    return modules


def detach(policy: OpenVLAPolicy, name: str) -> None:
    """Take an adapter off the policy (its folder stays). Raises: ConfigError when it is not there."""
    _need(policy, name)
    for layer in _linears(policy.model):
        if name in layer.adapters:
            del layer.adapters[name]
        layer.active = tuple(other for other in layer.active if other != name)


def activate(policy: OpenVLAPolicy, *names: str) -> None:
    """Let these adapters act from now on, and no other. Raises: ConfigError when one is not attached."""
    for name in names:
        _need(policy, name)
    once = tuple(dict.fromkeys(names))  # naming one twice does not double it
    for layer in _linears(policy.model):
        layer.active = once


def deactivate(policy: OpenVLAPolicy) -> None:
    """The base alone acts."""
    activate(policy)


def active(policy: OpenVLAPolicy) -> tuple[str, ...]:
    """Names of the adapters that act."""
    return next(_linears(policy.model)).active


def attached(policy: OpenVLAPolicy) -> list[str]:
    """Names of the adapters on the policy."""
    return sorted({name for layer in _linears(policy.model) for name in layer.adapters})


def train_only(policy: OpenVLAPolicy, name: str | None) -> list[nn.Parameter]:
    """Make one adapter's factors the only parameters that require a gradient; None: all base weights that take part.

    Returns those parameters. Raises: ConfigError when there is no such adapter.
    """
    if name is not None:
        _need(policy, name)
    unused = set(policy.model.unused_parameters())
    chosen = []
    for own, parameter in policy.model.named_parameters():
        if name is not None:
            wanted = f"{ADAPTER_MARK}{name}." in own
        else:
            wanted = ADAPTER_MARK not in own and own not in unused
        parameter.requires_grad_(wanted)
        if wanted:
            chosen.append(parameter)
    return chosen


def merge(policy: OpenVLAPolicy, name: str) -> None:
    """Add an attached adapter to the base weights for good and take it off; for writing a whole checkpoint."""
    _need(policy, name)
    with torch.no_grad():
        for layer in _linears(policy.model):
            if name in layer.adapters:
                factors = layer.adapters[name]
                change = factors.lora_B.float() @ factors.lora_A.float() * factors.scale  # type: ignore[operator, union-attr]
                layer.weight += change.to(layer.weight)
    detach(policy, name)


def adapter_state(policy: OpenVLAPolicy, name: str) -> dict[str, torch.Tensor]:
    """An attached adapter's factors by `peft` key, as copies on the CPU."""
    _need(policy, name)
    state = {}
    for module, layer in _named_linears(policy.model):
        if name in layer.adapters:
            factors = layer.adapters[name]
            for key in ("lora_A", "lora_B"):
                state[f"{PEFT_PREFIX}{module}.{key}.weight"] = getattr(factors, key).detach().cpu().clone()
    return state


class AdapterStore:
    """The adapters kept below one folder."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)

    def prepare(self) -> None:
        """Make the folder, before hours of training for it. Raises: CheckpointError when it cannot be."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CheckpointError(
                f"{self.root}: cannot be the folder of adapters ({error.strerror or error}); choose another"
            ) from error

    def names(self) -> tuple[str, ...]:
        """Names of the adapters that are there, readable or not, in order."""
        found = (path.parent.name for path in self.root.glob("*/adapter.json"))
        return tuple(sorted(name for name in found if NAME.fullmatch(name)))

    def list(self, base: str | None = None) -> list[AdapterRecord]:
        """Records of all readable adapters, oldest first; with `base` only those of that fingerprint."""
        records = []
        for name in self.names():
            try:
                records.append(self.read(name))
            except CheckpointError:
                continue
        records.sort(key=lambda record: (record.created, record.name))
        return [record for record in records if base is None or record.base == base]

    def read(self, name: str) -> AdapterRecord:
        """One adapter's record. Raises: CheckpointError when it is missing (it lists those present) or broken."""
        path = self._present(name) / "adapter.json"
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if missing := [key for key in ("base", "rank", "alpha", "modules") if key not in content]:
                raise ValueError(f"it lacks {', '.join(missing)}")
            record = AdapterRecord(**{key: content[key] for key in FIELDS if key in content}, name=name)
            _check_record(record)
            return dataclasses.replace(record, modules=tuple(record.modules))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise CheckpointError(f"{path}: not a readable adapter record ({error})") from error

    def save(
        self,
        policy: OpenVLAPolicy,
        attached_name: str,
        name: str,
        station: str = "",
        task: str = "",
        metrics: Mapping[str, float] | None = None,
    ) -> AdapterRecord:
        """Write the adapter that the policy carries as `attached_name` to the folder `name`, whole or not at all.

        Raises: ConfigError for a bad name, CheckpointError when it cannot be written.
        """
        folder = self._folder(name)
        state = adapter_state(policy, attached_name)
        suffix = ".lora_A.weight"
        modules = tuple(key[len(PEFT_PREFIX) : -len(suffix)] for key in state if key.endswith(suffix))
        factors = _factors(policy, modules[0], attached_name)
        rank = factors.lora_A.shape[0]
        created = datetime.now(timezone.utc).isoformat(timespec="seconds")
        record = AdapterRecord(
            name,
            policy.checkpoint.fingerprint,
            rank,
            factors.scale * rank,
            modules,
            station,
            task,
            created,
            dict(metrics or {}),
        )
        peft_config: dict[str, Any] = {
            "peft_type": "LORA",
            "base_model_name_or_path": str(policy.checkpoint.folder),
            "r": rank,
            "lora_alpha": record.alpha,
            "lora_dropout": 0.0,
            "bias": "none",
            "target_modules": list(modules),
            "inference_mode": True,
            "task_type": None,
        }
        temporary = folder.with_name(f".{name}.{os.getpid()}.tmp")
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            save_file(state, str(temporary / "adapter_model.safetensors"), metadata={"format": "pt"})
            (temporary / "adapter_config.json").write_text(json.dumps(peft_config, indent=1), encoding="utf-8")
            text = json.dumps(dataclasses.asdict(record), indent=1)
            (temporary / "adapter.json").write_text(text, encoding="utf-8")
            put_in_place(temporary, folder)
        except BaseException as error:  # an interrupt too leaves no half adapter
            shutil.rmtree(temporary, ignore_errors=True)
            if isinstance(error, (OSError, SafetensorError)):
                raise CheckpointError(
                    f"{folder}: cannot write the adapter ({error}); free disk space or choose another folder"
                ) from error
            raise
        return record

    def load(self, policy: OpenVLAPolicy, name: str) -> AdapterRecord:
        """Attach a stored adapter to a running policy (replacing one of that name); `activate` lets it act.

        Raises: CheckpointError when it is missing or belongs to another base, or its tensors are not those of its
            record: missing, left over, of another shape or not finite; ConfigError for a name that is not allowed.
        """
        record = self.read(name)
        if record.base != policy.checkpoint.fingerprint:
            raise CheckpointError(
                f"{self._folder(name)}: this adapter belongs to base {record.base}, the policy at hand is "
                f"{policy.checkpoint.fingerprint} ({policy.checkpoint.folder})"
            )
        path = self._folder(name) / "adapter_model.safetensors"
        try:
            state = load_file(str(path))
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{path}: missing or damaged ({error})") from error
        layers = dict(_named_linears(policy.model))
        for module in record.modules:
            if module not in layers:
                raise CheckpointError(f"{path}: adapts layer '{module}', which this policy lacks")
            layer = layers[module]
            for key, shape in (
                ("lora_A", (record.rank, layer.in_features)),
                ("lora_B", (layer.out_features, record.rank)),
            ):
                tensor = state.get(f"{PEFT_PREFIX}{module}.{key}.weight")
                if tensor is None or tuple(tensor.shape) != shape or not tensor.is_floating_point():
                    kind = "nothing" if tensor is None else f"{tensor.dtype} of shape {tuple(tensor.shape)}"
                    raise CheckpointError(f"{path}: {key} of '{module}': found {kind}, needed floats of shape {shape}")
                if not bool(torch.isfinite(tensor).all()):
                    raise CheckpointError(f"{path}: {key} of '{module}' holds a value that is not finite")
        if left_over := sorted(set(state) - set(_state_keys(record.modules))):
            raise CheckpointError(f"{path}: holds '{left_over[0]}', which its adapter.json does not name")
        was_active = active(policy)
        if name in attached(policy):
            detach(policy, name)
        _attach(policy, name, record.modules, record.rank, float(record.alpha))
        for module in record.modules:
            factors = _factors(policy, module, name)
            for key in ("lora_A", "lora_B"):  # the tensors read become the factors: no second copy
                tensor = state[f"{PEFT_PREFIX}{module}.{key}.weight"]
                setattr(factors, key, nn.Parameter(tensor.to(policy.device, torch.float32)))
        activate(policy, *was_active)
        return record

    def remove(self, name: str) -> None:
        """Delete an adapter's folder, readable or not. Raises: CheckpointError when there is none, or it cannot go."""
        folder = self._present(name)
        try:
            if folder.is_symlink():
                folder.unlink()
            else:
                shutil.rmtree(folder)
        except OSError as error:
            raise CheckpointError(f"{folder}: cannot be deleted ({error.strerror or error})") from error

    def _present(self, name: str) -> Path:
        folder = self._folder(name)
        if not (folder / "adapter.json").exists():
            raise CheckpointError(f"{self.root}: no adapter '{name}'; present: {', '.join(self.names()) or 'none'}")
        return folder

    def _folder(self, name: str) -> Path:
        check_name(name)
        return self.root / name


def check_name(name: str) -> None:
    """See that an adapter can have this name. Raises: ConfigError saying what is allowed."""
    if not NAME.fullmatch(name):
        raise ConfigError(f"adapter name {shorten(repr(name), 60)}: allowed are letters, digits, '_' and '-', 1 to 100")
    if hasattr(nn.ModuleDict, name):
        raise ConfigError(f"adapter name '{name}': taken by torch's own modules; choose another")


def _check_record(record: AdapterRecord) -> None:
    """Raises: ValueError naming the field."""
    if not isinstance(record.metrics, Mapping):
        raise ValueError(f"metrics is {shorten(repr(record.metrics), 60)}, needed a mapping of numbers")
    texts = {key: getattr(record, key) for key in ("base", "station", "task", "created")}
    numbers = {"alpha": record.alpha, **{f"metrics.{key}": value for key, value in record.metrics.items()}}
    for key, value in texts.items():
        if not isinstance(value, str):
            raise ValueError(f"{key} is {shorten(repr(value), 60)}, needed text")
    for key, value in numbers.items():
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            raise ValueError(f"{key} is {shorten(repr(value), 60)}, needed a number")
    if not 0 < record.alpha <= MAX_ALPHA:
        raise ValueError(f"alpha is {record.alpha}, allowed are numbers above 0 to {MAX_ALPHA:g}")
    if not isinstance(record.rank, int) or isinstance(record.rank, bool) or record.rank < 1:
        raise ValueError(f"rank is {shorten(repr(record.rank), 60)}, needed a whole number from 1")
    names = record.modules
    if not isinstance(names, (list, tuple)) or not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f"modules is {shorten(repr(names), 60)}, needed the names of the adapted layers")


def _state_keys(modules: Sequence[str]) -> list[str]:
    return [f"{PEFT_PREFIX}{module}.{key}.weight" for module in modules for key in ("lora_A", "lora_B")]


def _attach(policy: OpenVLAPolicy, name: str, modules: Sequence[str], rank: int, alpha: float) -> None:
    check_name(name)
    if rank < 1 or not 0 < alpha <= MAX_ALPHA:
        raise ConfigError(
            f"adapter '{name}': found rank {rank} and alpha {alpha:g}, needed at least 1, and above 0 to {MAX_ALPHA:g}"
        )
    if name in attached(policy):
        raise ConfigError(f"adapter '{name}' is attached already; detach it first")
    layers = dict(_named_linears(policy.model))
    for module in modules:
        layer = layers[module]
        # Factors stay float32 whatever the base is: small updates must not be rounded away.
        layer.adapters[name] = LowRank(layer.in_features, layer.out_features, rank, alpha / rank, policy.device)


def _factors(policy: OpenVLAPolicy, module: str, name: str) -> LowRank:
    layer = policy.model.get_submodule(module)
    assert isinstance(layer, Linear)
    factors = layer.adapters[name]
    assert isinstance(factors, LowRank)
    return factors


def _adaptable(policy: OpenVLAPolicy) -> Iterator[str]:
    """Layers worth adapting: neither the head nor the vision blocks that take no part."""
    config = policy.config
    unused = (
        f"{VISION}featurizer.blocks.{config.first_tower.depth - 1}.",
        f"{VISION}fused_featurizer.blocks.{config.second_tower.depth - 1}.",
        f"{LANGUAGE}lm_head",
    )
    for module, _ in _named_linears(policy.model):
        if not module.startswith(unused):
            yield module


def _named_linears(model: nn.Module) -> Iterator[tuple[str, Linear]]:
    for name, module in model.named_modules():
        if isinstance(module, Linear):
            yield name, module


def _linears(model: nn.Module) -> Iterator[Linear]:
    for _, layer in _named_linears(model):
        yield layer


def _need(policy: OpenVLAPolicy, name: str) -> None:
    present = attached(policy)
    if name not in present:
        raise ConfigError(f"adapter '{name}' is not attached; attached: {', '.join(present) or 'none'}")
