"""How far imagination deserves trust: the world model's measured figures and the familiarity of start frames."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gymnast_core.commands import HELD_OUT, gymnast
from gymnast_core.station_file import StationFile
from gymnast_core.world_model.checkpoint import LoadedWorldModel
from gymnast_core.world_model.familiarity import load_familiarity
from gymnast_core.world_model.fidelity import Standing, assess, beside, sampling_of


@dataclass(frozen=True)
class Trust:
    """How far imagination deserves trust. world_model: its measured figures in words; frames: a line for each start
    frame; failed: the conditions that do not hold, in words; remedies: what to do about them, in words; command: the
    first thing to do, where it is one command."""

    world_model: str
    frames: tuple[str, ...]
    failed: tuple[str, ...]
    remedies: tuple[str, ...] = ()
    command: str = ""


def judge_imagination(
    station: StationFile,
    loaded: LoadedWorldModel,
    frames: Sequence[np.ndarray],
    instruction: str,
    horizon: int,
    confirmation: str = "",
) -> Trust:
    """Hold the station's world model against its measured figures, start frames (H, W, 3) against its training data.

    horizon: imagined steps. confirmation: what a success has to survive (`ConfirmationConfig.describe`). What was never
    measured has failed. Raises: CheckpointError for a damaged file.
    """
    standing = _standing(station, instruction, horizon, confirmation)
    measure = load_familiarity(beside(station.world_model_folder, "familiarity.safetensors"), loaded.autoencoder)
    if measure is None:
        unknown = "how far start frames lie from the world model's training data was never measured"
        found = Trust(standing.line, (f"not measured: {unknown}",), (*standing.failed, unknown))
        return _with_remedies(found, station, dataclasses.replace(standing, measured=False), horizon)
    distances = measure.distances(loaded.autoencoder, frames)
    far = tuple(
        f"start frame {number} is unlike what the world model was trained on ({distance:.1f}, familiar up to "
        f"{measure.limit:.1f})"
        for number, distance in enumerate(distances)
        if not distance <= measure.limit
    )
    frames_told = tuple(measure.describe(float(d)) for d in distances)
    return _with_remedies(Trust(standing.line, frames_told, (*standing.failed, *far)), station, standing, horizon)


def _with_remedies(trust: Trust, station: StationFile, standing: Standing, horizon: int) -> Trust:
    """What to do about each condition that failed: the world model's first, because they take longest."""
    if not trust.failed:
        return trust
    model, logs = station.world_model_folder, station.config.recorder.folder
    measure = gymnast("world-model evaluate", config=station.path, model=model, data=logs, held_out=0, horizon=horizon)
    run = Path("runs/world_model") / station.config.name
    tune = gymnast("world-model finetune", init=model, data=logs, held_out=HELD_OUT, run=run)
    remedies, command = [], ""
    if not standing.measured:
        remedies.append(f"measure the world model on episodes of this station, some of this policy: {measure}")
        command = measure
    elif standing.failed:
        remedies.append(f"fine-tune the world model on this station's episodes, and measure it again: {tune}")
        command = tune
    if len(trust.failed) > len(standing.failed) and standing.measured:
        remedies.append(
            f"take a frame of a scene that the world model knows, such as a logged one (--frame EPISODE:0 of {logs}), "
            f"or fine-tune it on episodes of this scene: {tune}"
        )
        command = command or tune
    remedies.append("or practise all the same, with `world_model_gate: warn` (the adapter is listed as ungated)")
    return dataclasses.replace(trust, remedies=tuple(remedies), command=command)


def world_model_gate_line(station: StationFile, horizon: int, instruction: str = "") -> str:
    """One line to print before practice: the world model's agreement and bias, and whether its gate holds.

    horizon: imagined steps. instruction: its own figures, where there are enough; otherwise those of all.
    Raises: CheckpointError.
    """
    standing = _standing(station, instruction, horizon)
    if not standing.failed:
        return f"world model: {standing.line}; the gate holds"
    return f"world model: {standing.line}; WARNING: the gate does not hold: {'; '.join(standing.failed)}"


def _standing(station: StationFile, instruction: str, horizon: int, confirmation: str = "") -> Standing:
    models, limits = station.config.models, station.config.adaptation
    return assess(station.world_model_folder, sampling_of(models), limits, horizon, instruction, confirmation)
