"""How far a world model's outcomes can be trusted: what was measured of it, kept beside its weights.

`gymnast world-model evaluate` measures and writes `gate.json`; practice in imagination reads it. The figures hold for
the weights and the sampling they were measured with, and for no others.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gymnast_core.config import ModelsConfig, parse_config
from gymnast_core.data.frames import write_bytes
from gymnast_core.errors import CheckpointError, ConfigError
from gymnast_core.world_model.checkpoint import SamplingConfig

MIN_AGREEMENT = 0.85
MAX_BIAS = 0.10
MIN_EPISODES = 8
"""Below so many episodes of an instruction, the figures of all instructions stand for it."""
SAMPLES = 64
SAMPLE_BYTES = 65536


@dataclass(frozen=True)
class Replay:
    """Logged actions replayed in imagination from an episode's first frame, and judged.

    agreement: share with the outcome that really happened. false_positives: completed in imagination alone;
    false_negatives: completed really alone. judge_agreement: of the same judge on the real frames, what it alone costs.
    """

    agreement: float
    standard_error: float
    episodes: int
    false_positives: int
    false_negatives: int
    judge_agreement: float | None = None


@dataclass(frozen=True)
class ClosedLoop:
    """A policy's success in imagination, from the first frames of episodes it really played, against theirs.

    bias: imagined - station. standard_error: of the bias, over episodes.
    """

    imagined: float
    station: float
    bias: float
    standard_error: float
    episodes: int


@dataclass(frozen=True)
class Fidelity:
    """Content of gate.json. replay and closed_loop: by instruction, and "all".

    measured: when, ISO 8601. weights: fingerprint. sampling: as `describe_sampling`. horizon: imagined steps.
    temperatures: of the policy.
    """

    measured: str
    weights: str
    sampling: str
    horizon: int
    judge: str
    data: tuple[str, ...]
    replay: dict[str, Replay]
    closed_loop: dict[str, ClosedLoop] = field(default_factory=dict)
    policy: str = ""
    temperatures: tuple[float, ...] = ()


def beside(model: str | Path, name: str) -> Path:
    """Where a world model's file of that name lies: in its folder, or beside a WorldGym checkpoint file."""
    model = Path(model)
    return model.with_name(f"{model.name}.{name}") if model.is_file() else model / name


def fingerprint(model: str | Path) -> str:
    """Of a world model's weights: a hash of their size and of samples, so that gigabytes need no reading through.

    Raises: CheckpointError when they cannot be read.
    """
    path = Path(model) if Path(model).is_file() else Path(model) / "weights.safetensors"
    digest = hashlib.sha256()
    try:
        size = path.stat().st_size
        digest.update(str(size).encode())
        with open(path, "rb") as stream:
            for part in range(SAMPLES):
                stream.seek(max(0, (size - SAMPLE_BYTES)) * part // (SAMPLES - 1))
                digest.update(stream.read(SAMPLE_BYTES))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot read: {error.strerror or error}") from error
    return digest.hexdigest()[:32]


def sampling_of(models: ModelsConfig) -> SamplingConfig:
    """How a station's file wants frames to be drawn."""
    return SamplingConfig(
        models.sampling_steps, models.guidance, models.cache, models.solver, models.compile_world_model
    )


def describe_sampling(sampling: SamplingConfig) -> str:
    """How frames are drawn, as far as it changes them."""
    return f"{sampling.steps} {sampling.solver} steps, guidance {sampling.guidance:g}, {sampling.mode}"


def write_fidelity(model: str | Path, fidelity: Fidelity) -> Path:
    """Write gate.json beside the weights. Raises: DataError when that cannot be written."""
    path = beside(model, "gate.json")
    write_bytes(path, json.dumps(dataclasses.asdict(fidelity), indent=1).encode() + b"\n")
    return path


def read_fidelity(model: str | Path) -> Fidelity | None:
    """What was measured of a world model; None where there is no gate.json.

    Raises: CheckpointError for a damaged one.
    """
    path = beside(model, "gate.json")
    if not path.is_file():
        return None
    try:
        content: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ConfigError(f"{path}: found {type(content).__name__}, needed a mapping of fields")
        return parse_config(Fidelity, content, str(path))
    except (OSError, ValueError, ConfigError) as error:
        raise CheckpointError(f"{path}: damaged ({error}); `gymnast world-model evaluate` makes it anew") from error


@dataclass(frozen=True)
class Standing:
    """What is known of a world model for one instruction. line: both figures in words. failed: conditions that do not
    hold, in words; empty where the model can be trusted."""

    line: str
    failed: tuple[str, ...]


def assess(
    model: str | Path,
    sampling: SamplingConfig,
    horizon: int,
    instruction: str = "",
    min_agreement: float = MIN_AGREEMENT,
    max_bias: float = MAX_BIAS,
) -> Standing:
    """Hold a world model's figures against the gate: for the instruction where it was measured, otherwise for all.

    horizon: how many steps will be imagined; the figures hold for no more than they were measured over.

    Raises: CheckpointError for a damaged gate.json.
    """
    found = read_fidelity(model)
    problem = ""
    if found is None:
        problem = "never measured"
    elif found.weights != fingerprint(model):
        problem = "measured with other weights"
    elif found.sampling != describe_sampling(sampling):
        problem = f"measured with other sampling ({found.sampling}, not {describe_sampling(sampling)})"
    elif found.horizon < horizon:
        problem = f"measured over {found.horizon} imagined steps, not {horizon}"
    if found is None or problem:
        line = f"not measured: {problem}; `gymnast world-model evaluate` measures agreement and bias"
        return Standing(line, (f"the world model's agreement and bias are unknown ({problem})",))
    words, failed = [], []
    name, replay = _of(found.replay, instruction)
    if replay is None:
        words.append("agreement not measured")
        failed.append("the world model's agreement with the station was not measured")
    else:
        words.append(
            f"agreement {replay.agreement:.2f} ± {replay.standard_error:.2f} ({name}, {replay.episodes} replayed "
            f"episodes, {replay.false_positives} false positives, {replay.false_negatives} false negatives)"
        )
        if not replay.agreement >= min_agreement:
            failed.append(
                f"replayed actions agree with the station's outcome in {replay.agreement:.2f} of episodes, needed "
                f"{min_agreement:.2f}"
            )
    name, loop = _of(found.closed_loop, instruction)
    if loop is None:
        words.append("closed-loop bias not measured")
        failed.append("the world model's closed-loop bias was not measured")
    else:
        words.append(
            f"closed-loop bias {loop.bias:+.2f} ± {loop.standard_error:.2f} ({name}, imagined {loop.imagined:.2f}, "
            f"station {loop.station:.2f}, {loop.episodes} episodes)"
        )
        if not abs(loop.bias) <= max_bias:
            failed.append(
                f"success in imagination differs from the station's by {loop.bias:+.2f}, allowed is {max_bias:.2f}"
            )
    return Standing("; ".join(words), tuple(failed))


def _of(figures: Mapping[str, Any], instruction: str) -> tuple[str, Any]:
    """The instruction's own figures, those of all where it has too few, or nothing."""
    own = figures.get(instruction)
    if instruction and own is not None and own.episodes >= MIN_EPISODES:
        return f"'{instruction}'", own
    return "all instructions", figures.get("all")
