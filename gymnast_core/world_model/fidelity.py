"""How far a world model's outcomes can be trusted: what was measured of it, kept beside its weights.

`gymnast world-model evaluate` measures and writes `gate.json`; practice in imagination reads it. The figures hold for
the weights and the sampling they were measured with, and for no others.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gymnast_core.config import AdaptationConfig, ModelsConfig
from gymnast_core.errors import CheckpointError
from gymnast_core.files import write_json
from gymnast_core.results import read_record
from gymnast_core.world_model.config import SamplingConfig
from gymnast_core.world_model.meters import OWN, MeterFigure

MIN_EPISODES = 8
"""An instruction with fewer episodes than this is represented by the figures of all instructions."""
SAMPLES = 64
SAMPLE_BYTES = 65536


@dataclass(frozen=True)
class Replay:
    """Logged actions replayed in imagination from an episode's first frame, and judged.

    agreement: share with the outcome that really happened. false_positives: completed in imagination alone;
    false_negatives: completed really alone. judge_agreement: of the same judge on the real frames, what it alone costs;
    None where every real outcome is a judge's word.
    """

    agreement: float
    standard_error: float
    episodes: int
    false_positives: int
    false_negatives: int
    judge_agreement: float | None = None
    abstained: int = 0
    """Episodes without a verdict, which are not counted above."""


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
    temperatures: of the policy. outcomes_by: how many of the real outcomes are whose word, see `data/outcome.py`.
    confirmation: what a success had to survive in `confirmed`, the figures of the replays
    after it (`ConfirmationConfig.describe`). meters: what each meter of hallucination is worth. action_shuffle: error
    of pictures imagined on other episodes' actions over the error on their own.
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
    outcomes_by: dict[str, int] = field(default_factory=dict)
    confirmation: str = ""
    confirmed: dict[str, Replay] = field(default_factory=dict)
    meters: dict[str, MeterFigure] = field(default_factory=dict)
    action_shuffle: float | None = None


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
    write_json(path, dataclasses.asdict(fidelity))
    return path


def read_fidelity(model: str | Path) -> Fidelity | None:
    """What was measured of a world model; None where there is no gate.json.

    Raises: CheckpointError for a damaged one.
    """
    path = beside(model, "gate.json")
    if not path.is_file():
        return None
    return read_record(Fidelity, path, "`gymnast world-model evaluate` makes it anew")


@dataclass(frozen=True)
class Standing:
    """What is known of a world model for one instruction. line: both figures in words. failed: conditions that do not
    hold, in words; empty where the model can be trusted. measured: whether there are figures that hold for it."""

    line: str
    failed: tuple[str, ...]
    measured: bool = True


def assess(
    model: str | Path,
    sampling: SamplingConfig,
    limits: AdaptationConfig,
    horizon: int,
    instruction: str = "",
    confirmation: str = "",
) -> Standing:
    """Hold a world model's figures against the gate: for the instruction where it was measured, otherwise for all.

    limits: `min_agreement` and `max_bias` of the station file. horizon: how many steps will be imagined; the figures
    hold for no more than they were measured over. confirmation: what successes will have to survive; where the same was
    measured, its agreement counts.

    Raises: CheckpointError for a damaged gate.json.
    """
    found = read_fidelity(model)
    problem = _why_not_measured(found, model, sampling, horizon)
    if found is None or problem:
        line = f"not measured: {problem}; `gymnast world-model evaluate` measures agreement and bias"
        return Standing(line, (f"the world model's agreement and bias are unknown ({problem})",), measured=False)
    replays = found.confirmed if confirmation and confirmation == found.confirmation else found.replay
    told = (_agreement(replays, instruction, limits.min_agreement), _bias(found, instruction, limits.max_bias))
    failed = tuple(failed for _, failed in told if failed)
    measured = bool(found.replay and found.closed_loop)
    return Standing("; ".join(words for words, _ in told), failed, measured)


def _why_not_measured(found: Fidelity | None, model: str | Path, sampling: SamplingConfig, horizon: int) -> str:
    """Why the figures say nothing about this model with this sampling and horizon; empty where they do."""
    if found is None:
        return "never measured"
    if found.weights != fingerprint(model):
        return "measured with other weights"
    if found.sampling != describe_sampling(sampling):
        return f"measured with other sampling ({found.sampling}, not {describe_sampling(sampling)})"
    if found.horizon < horizon:
        return f"measured over {found.horizon} imagined steps, not {horizon}"
    return ""


def meter_limits(model: str | Path) -> dict[str, float]:
    """Limits of the meters that a rollout has by itself, as far as they were found to tell anything.

    Raises: CheckpointError for a damaged gate.json, and where the meters were never measured with these weights.
    """
    found = read_fidelity(model)
    if found is None or not found.meters or found.weights != fingerprint(model):
        raise CheckpointError(
            f"{beside(model, 'gate.json')}: the meters of hallucination were not measured with these weights; "
            "`gymnast world-model evaluate --config ...` measures them, or leave `confirm.meters` false"
        )
    return {name: one.limit for name, one in found.meters.items() if name in OWN and one.limit is not None}


def _agreement(replays: Mapping[str, Replay], instruction: str, least: float) -> tuple[str, str]:
    """(the replay's figures in words, the condition that fails or "")."""
    name, replay = _of(replays, instruction)
    if replay is None:
        return "agreement not measured", "the world model's agreement with the station was not measured"
    words = (
        f"agreement {replay.agreement:.2f} ± {replay.standard_error:.2f} ({name}, {replay.episodes} replayed "
        f"episodes, {replay.false_positives} false positives, {replay.false_negatives} false negatives"
        + (f", {replay.abstained} without a verdict)" if replay.abstained else ")")
    )
    if replay.agreement >= least:
        return words, ""
    agreement = f"replayed actions agree with the station's outcome in {replay.agreement:.2f} of episodes"
    return words, f"{agreement}, needed {least:.2f}"


def _bias(found: Fidelity, instruction: str, most: float) -> tuple[str, str]:
    """(the closed loop's figures in words, the condition that fails or "")."""
    name, loop = _of(found.closed_loop, instruction)
    if loop is None:
        return "closed-loop bias not measured", "the world model's closed-loop bias was not measured"
    words = (
        f"closed-loop bias {loop.bias:+.2f} ± {loop.standard_error:.2f} ({name}, imagined {loop.imagined:.2f}, "
        f"station {loop.station:.2f}, {loop.episodes} episodes)"
    )
    if abs(loop.bias) <= most:
        return words, ""
    return words, f"success in imagination differs from the station's by {loop.bias:+.2f}, allowed is {most:.2f}"


def _of(figures: Mapping[str, Any], instruction: str) -> tuple[str, Any]:
    """The instruction's own figures, those of all where it has too few, or nothing."""
    own = figures.get(instruction)
    if instruction and own is not None and own.episodes >= MIN_EPISODES:
        return f"'{instruction}'", own
    return "all instructions", figures.get("all")
