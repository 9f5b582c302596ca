"""Adapted policies: small named low-rank adapters on one base, so that adapting to a task cannot spoil the others.

On a policy (`attach`, `activate`, `deactivate`, `detach`): the base weights are never touched, so rolling back is free,
and several adapters may act at once, their changes added. The layers are those of the `peft` library, which is imported
when the first adapter is put on a policy and not before.

On disk (`AdapterStore`): one folder for each adapter, in `peft`'s format, with a record of what made it:

    <root>/<name>/adapter_model.safetensors   factors A and B of every adapted layer
    <root>/<name>/adapter_config.json         rank, alpha, layers
    <root>/<name>/adapter.json                base fingerprint, station, task, time, metrics

A LoRA folder that other code wrote with `peft` has no adapter.json. It loads as well when its layers fit; which base it
was trained on is then nobody's word but its own.
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
from safetensors.torch import save_file
from torch import nn

from gymnast_core.contents import unreadable
from gymnast_core.errors import CheckpointError, ConfigError
from gymnast_core.files import put_in_place, read_whole, user_path
from gymnast_core.plain_json import parse_json
from gymnast_core.policy.adapter_state import Evidence, read_evidence
from gymnast_core.policy.lora import adapted_layers, adapter_of, base_modules, factors, put_in, set_active, take_out
from gymnast_core.policy.lora_files import CONFIG, MAX_ALPHA, PREFIX, TENSORS, read_lora, read_lora_config
from gymnast_core.policy.names import ADAPTER as NAME
from gymnast_core.policy.openvla import OpenVLAPolicy

LANGUAGE = "language_model."
VISION = "vision_backbone."
PROJECTOR = "projector."
MOST_IN_MEMORY = 8
"""Stored adapters that one policy of a server, or of a station, keeps in memory."""


@dataclass(frozen=True)
class AdapterRecord:
    """What an adapter is and what made it.

    base: fingerprint of the base checkpoint; empty where other code wrote the folder. created: UTC, ISO 8601. metrics:
    numbers of the run that made it, for example success before and after. modules: names of the adapted layers, empty
    where other code wrote the folder.
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


RECORD = "adapter.json"
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
    check_name(name)
    if rank < 1 or not 0 < alpha <= MAX_ALPHA:
        raise ConfigError(
            f"adapter '{name}': found rank {rank} and alpha {alpha:g}, needed at least 1, and above 0 to {MAX_ALPHA:g}"
        )
    if name in attached(policy):
        raise ConfigError(f"adapter '{name}' is attached already; detach it first")
    from gymnast_core.policy.lora_layer import LoraConfig, put_on

    config = LoraConfig(r=rank, lora_alpha=alpha, init_lora_weights=False)  # type: ignore[arg-type]
    layers = put_on(policy.model, name, config, dict.fromkeys(modules, (rank, alpha)), active(policy))
    generator = torch.Generator().manual_seed(seed)
    spread = rank**-0.5 if deviation is None else deviation
    for layer in layers.values():
        put_in(layer, name, "lora_A.weight", torch.randn((rank, layer.in_features), generator=generator) * spread)
        put_in(layer, name, "lora_B.weight", torch.zeros(layer.out_features, rank))
    return modules


def detach(policy: OpenVLAPolicy, name: str) -> None:
    """Take an adapter off the policy (its folder stays). Raises: ConfigError when it is not there."""
    _need(policy, name)
    activate(policy, *(other for other in active(policy) if other != name))
    take_out(policy.model, name)
    del policy.model.adapter_configs[name]


def activate(policy: OpenVLAPolicy, *names: str) -> None:
    """Let these adapters act from now on, and no other. Raises: ConfigError when one is not attached."""
    for name in names:
        _need(policy, name)
    once = tuple(dict.fromkeys(names))  # naming one twice does not double it
    set_active(policy.model, once)
    policy.model.active_adapters = once


def deactivate(policy: OpenVLAPolicy) -> None:
    """The base alone acts."""
    activate(policy)


def active(policy: OpenVLAPolicy) -> tuple[str, ...]:
    """Names of the adapters that act."""
    return policy.model.active_adapters


def load_library() -> None:
    """Import what adapters need, which takes seconds, so that the first adapter is not waited for."""
    import gymnast_core.policy.lora_layer  # noqa: F401


def attached(policy: OpenVLAPolicy) -> list[str]:
    """Names of the adapters on the policy."""
    return sorted({name for layer in adapted_layers(policy.model).values() for name in layer.lora_A})


def train_only(policy: OpenVLAPolicy, name: str | None) -> list[nn.Parameter]:
    """Make one adapter's factors the only parameters that require a gradient; None: all base weights that take part.

    Returns those parameters. Raises: ConfigError when there is no such adapter.
    """
    if name is not None:
        _need(policy, name)
    unused = set(policy.model.unused_parameters())
    chosen = []
    for own, parameter in policy.model.named_parameters():
        wanted = adapter_of(own) == name and not (name is None and own in unused)
        parameter.requires_grad_(wanted)
        if wanted:
            chosen.append(parameter)
    return chosen


def merge(policy: OpenVLAPolicy, name: str) -> None:
    """Add an attached adapter to the base weights for good and take it off; for writing a whole checkpoint.

    Raises: ConfigError when it is not there, the base is in 4 bits, or the adapter adds a bias that a layer lacks.
    """
    _need(policy, name)
    layers = adapted_layers(policy.model, name)
    for module, layer in layers.items():
        if not isinstance(layer.base_layer.weight, nn.Parameter):
            raise ConfigError("a base in 4 bits cannot be changed; merge the adapter into the full base")
        if layer.lora_B[name].bias is not None and layer.base_layer.bias is None:
            raise ConfigError(f"adapter '{name}' adds a bias to '{module}', which has none: it cannot be merged")
    with torch.no_grad():
        for layer in layers.values():
            layer.merge(adapter_names=[name])
            layer.merged_adapters.remove(name)
    detach(policy, name)


def adapter_state(policy: OpenVLAPolicy, name: str) -> dict[str, torch.Tensor]:
    """An attached adapter's factors by `peft` key, as copies on the CPU."""
    _need(policy, name)
    return {
        f"{PREFIX}{module}.{key}": getattr(holder, own).detach().cpu().clone()
        for module, layer in adapted_layers(policy.model, name).items()
        for key, (holder, own) in factors(layer, name).items()
    }


class AdapterStore:
    """The adapters kept below one folder."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = user_path(root, "models.adapters")

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
        found = {path.parent.name for file in (RECORD, CONFIG) for path in self.root.glob(f"*/{file}")}
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
        path = self._present(name) / RECORD
        if not os.path.lexists(path):  # other code wrote it
            found = read_lora_config(path.parent)
            return AdapterRecord(name, "", found.get("r", 8), float(found.get("lora_alpha", 8)), ())
        try:
            content = parse_json(read_whole(path))
            if missing := [key for key in ("base", "rank", "alpha", "modules") if key not in content]:
                raise ValueError(f"it lacks {', '.join(missing)}")
            record = AdapterRecord(**{key: content[key] for key in FIELDS if key in content}, name=name)
            _check_record(record)
            return dataclasses.replace(record, modules=tuple(record.modules))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise CheckpointError(f"{path}: {unreadable(path, error, 'adapter record')}") from error

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
        content = _peft_content(policy, attached_name)
        created = datetime.now(timezone.utc).isoformat(timespec="seconds")
        record = AdapterRecord(
            name,
            policy.checkpoint.fingerprint,
            content["r"],
            content["lora_alpha"],
            tuple(content["target_modules"]),
            station,
            task,
            created,
            dict(metrics or {}),
        )
        temporary = folder.with_name(f".{name}.{os.getpid()}.tmp")
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            save_file(state, str(temporary / TENSORS), metadata={"format": "pt"})
            (temporary / CONFIG).write_text(json.dumps(content, indent=1), encoding="utf-8")
            text = json.dumps(dataclasses.asdict(record), indent=1)
            (temporary / RECORD).write_text(text, encoding="utf-8")
            put_in_place(temporary, folder)
        except BaseException as error:  # an interrupt too leaves no half adapter
            shutil.rmtree(temporary, ignore_errors=True)
            if isinstance(error, (OSError, SafetensorError)):
                raise CheckpointError(
                    f"{folder}: cannot write the adapter ({error}); free disk space or choose another folder"
                ) from error
            raise
        return record

    def evidence(self, name: str) -> Evidence:
        """What is known of an adapter. Raises: CheckpointError when it is missing, or its evidence is damaged."""
        return read_evidence(self._present(name))

    def folder(self, name: str) -> Path:
        """An adapter's folder. Raises: CheckpointError when it is missing (it lists those present)."""
        return self._present(name)

    def check_fit_to_act(self, name: str) -> None:
        """Raises: CheckpointError when the adapter was rolled back (no arm is driven by it again), or is gone."""
        evidence = self.evidence(name)
        if evidence.state == "rolled back":
            raise CheckpointError(f"{self._folder(name)}: this adapter was rolled back: {evidence.reason}")

    def load(self, policy: OpenVLAPolicy, name: str, for_study: bool = False) -> AdapterRecord:
        """Attach a stored adapter to a running policy (replacing one of that name); `activate` lets it act.

        for_study: also one that was rolled back, where no arm is driven.

        Raises: CheckpointError when it was rolled back, is missing, belongs to another base, or does not fit (see
            `read_lora`); the policy is then as before. ConfigError for a name that is not allowed.
        """
        record = self.read(name)
        folder = self._folder(name)
        if not for_study:
            self.check_fit_to_act(name)
        if record.base and record.base != policy.checkpoint.fingerprint:
            raise CheckpointError(
                f"{folder}: this adapter belongs to base {record.base}, the policy at hand is "
                f"{policy.checkpoint.fingerprint} ({policy.checkpoint.folder})"
            )
        read = read_lora(folder, policy.model)
        if record.base:
            _check_agreement(folder / RECORD, record, read.config.r, read.config.lora_alpha, tuple(read.state))
        from gymnast_core.policy.lora_layer import put_on

        was_active = active(policy)
        if name in attached(policy):
            detach(policy, name)
        layers = put_on(policy.model, name, read.config, read.layers, active(policy))
        for module, tensors in read.state.items():
            for key, tensor in tensors.items():
                put_in(layers[module], name, key, tensor)
        if name in was_active:
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
        if not (folder / RECORD).exists() and not (folder / CONFIG).exists():
            raise CheckpointError(f"{self.root}: no adapter '{name}'; present: {', '.join(self.names()) or 'none'}")
        return folder

    def _folder(self, name: str) -> Path:
        check_name(name)
        return self.root / name


class KeptAdapters:
    """Which stored adapters of a running policy stay in memory: at most `most`, the one asked for longest ago leaves
    first (its folder stays).

    own: an adapter that the policy came with; it stays, does not count, and is not looked up.
    """

    def __init__(self, policy: OpenVLAPolicy, store: AdapterStore, own: str = "", most: int = MOST_IN_MEMORY) -> None:
        self._policy, self._store, self._own, self._most = policy, store, own, most
        self._names: list[str] = []

    def bring(self, name: str) -> None:
        """Have an adapter on the policy, where `activate` lets it act.

        Raises: CheckpointError when there is none, it does not fit, or it was rolled back, also since it was loaded;
            ConfigError for a name that is not allowed.
        """
        if name == self._own:
            return
        self._store.check_fit_to_act(name)
        present = self._policy.model.adapter_configs
        self._names = [other for other in self._names if other in present and other != name]
        if name not in present:
            while len(self._names) >= self._most:
                detach(self._policy, self._names.pop(0))
            self._store.load(self._policy, name)
        self._names.append(name)

    def has(self, name: str) -> bool:
        """Whether an adapter is in memory."""
        return name in self._policy.model.adapter_configs


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


def _check_agreement(path: Path, record: AdapterRecord, rank: int, alpha: float, modules: Sequence[str]) -> None:
    """Raises: CheckpointError where adapter.json says something else than what `peft` reads."""
    said = {"rank": record.rank, "alpha": record.alpha, "modules": sorted(record.modules)}
    for key, found in (("rank", rank), ("alpha", alpha), ("modules", sorted(modules))):
        if said[key] != found:
            texts = [shorten(repr(value), 60) for value in (said[key], found)]
            raise CheckpointError(f"{path}: {key} is {texts[0]}, {CONFIG} beside it says {texts[1]}")


def _peft_content(policy: OpenVLAPolicy, name: str) -> dict[str, Any]:
    """What adapter_config.json says of an attached adapter: its layers by their full names."""
    config = policy.model.adapter_configs[name]
    return {
        "peft_type": "LORA",
        "base_model_name_or_path": str(policy.checkpoint.folder),
        "r": config.r,
        "lora_alpha": config.lora_alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": list(adapted_layers(policy.model, name)),
        "rank_pattern": dict(config.rank_pattern or {}),
        "alpha_pattern": dict(config.alpha_pattern or {}),
        "use_rslora": config.use_rslora,
        "use_dora": config.use_dora,
        "lora_bias": config.lora_bias,
        "inference_mode": True,
        "task_type": None,
    }


def _adaptable(policy: OpenVLAPolicy) -> Iterator[str]:
    """Layers worth adapting: neither the head nor the vision blocks that take no part."""
    config = policy.config
    unused = (
        f"{VISION}featurizer.blocks.{config.first_tower.depth - 1}.",
        f"{VISION}fused_featurizer.blocks.{config.second_tower.depth - 1}.",
        f"{LANGUAGE}lm_head",
    )
    for name, module in base_modules(policy.model).items():
        if isinstance(module, nn.Linear) and not name.startswith(unused) and ".attn_pool." not in name:
            yield name


def _need(policy: OpenVLAPolicy, name: str) -> None:
    present = attached(policy)
    if name not in present:
        raise ConfigError(f"adapter '{name}' is not attached; attached: {', '.join(present) or 'none'}")
