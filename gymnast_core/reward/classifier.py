"""A learned judge: a small convolutional network that says, frame by frame, whether the instruction is fulfilled.

It knows the instructions it was trained on and abstains on any other. An episode counts as completed when the
probability exceeds the threshold on enough consecutive frames it looked at: one mistaken frame is not a success.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from gymnast_core.config import Fraction, load_config
from gymnast_core.contents import name_folder, unreadable
from gymnast_core.data.frames import resize_frame
from gymnast_core.device import choose_device
from gymnast_core.errors import CheckpointError, ConfigError, JudgeError
from gymnast_core.files import read_json, remove, write_json
from gymnast_core.protocols import Verdict
from gymnast_core.tensor_files import load_tensors, refuse_quantised

TRAINED_ON = "trained_on"
"""In gymnast.json: the episodes that taught a judge, which do not measure it, as `episode_mark` names them."""


@dataclass(frozen=True)
class ClassifierConfig:
    """The network and how its frame probabilities become a verdict."""

    instructions: tuple[str, ...]
    """What it can judge, in the order of its outputs."""
    size: Annotated[int, Field(ge=16, le=512)] = 64
    """Side of the square input, pixels; frames are squashed to it."""
    width: Annotated[int, Field(ge=4, le=512, multiple_of=4)] = 24
    """Channels of the first layer, twice as many in the second, four times as many in the third and fourth."""
    threshold: Fraction = 0.7
    """A frame above this probability counts as fulfilled."""
    consecutive: Annotated[int, Field(ge=1, le=100)] = 2
    """Fulfilled frames in a row that make a success."""
    stride: Annotated[int, Field(ge=1)] = 1
    """Look at every stride-th frame, counted back from the last one."""
    window: Annotated[int, Field(ge=1)] = 1000
    """The last frames that it looks at, at most."""


class FrameClassifier(nn.Module):
    """(N, 3, S, S) in [0, 1] to one logit an instruction, (N, instructions)."""

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        width = config.width
        layers: list[nn.Module] = []
        channels = 3
        for out in (width, 2 * width, 4 * width, 4 * width):
            layers += [nn.Conv2d(channels, out, 3, stride=2, padding=1), nn.GroupNorm(4, out), nn.SiLU()]
            channels = out
        self.features = nn.Sequential(*layers)
        self.position = nn.Linear(channels * 16, 128)
        self.head = nn.Linear(128, len(config.instructions))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (N, instructions)."""
        features = nn.functional.adaptive_avg_pool2d(self.features(images * 2 - 1), 4)
        return self.head(nn.functional.silu(self.position(features.flatten(1))))


class ClassifierJudge:
    """The learned judge. `device` is "cpu", "cuda", or "auto"."""

    name = "classifier"
    tells_progress = False

    def __init__(self, config: ClassifierConfig, network: FrameClassifier, device: str = "cpu") -> None:
        self.config = config
        self.device = torch.device(choose_device(device))
        self.network = network.to(self.device).eval()
        self._index = {_normal(text): place for place, text in enumerate(config.instructions)}

    def frame_indices(self, n_frames: int) -> list[int]:
        """Every stride-th frame counted back from the last one, at most `window` of them, in order."""
        indices = list(range(n_frames - 1, -1, -self.config.stride))[: self.config.window]
        return indices[::-1]

    def probabilities(self, *videos: np.ndarray) -> np.ndarray:
        """Frames (n, H, W, 3) uint8, of one or several sizes, to (sum of n, instructions) in [0, 1]."""
        images = torch.cat([prepare(frames, self.config.size) for frames in videos])
        with torch.inference_mode():
            parts = [
                torch.sigmoid(self.network(part.to(self.device).float() / 255)).cpu() for part in images.split(512)
            ]
        return torch.cat(parts).numpy()

    def judge(self, videos: Sequence[np.ndarray], instructions: Sequence[str]) -> list[Verdict]:
        """Completed when `consecutive` frames in a row exceed the threshold; unknown instruction: abstention."""
        known = [i for i, text in enumerate(instructions) if _normal(text) in self._index and len(videos[i])]
        taught = ", ".join(f"'{text}'" for text in self.config.instructions)
        verdicts = [
            Verdict(None, 0.0, f"this judge does not know '{text}'; it knows: {taught}") for text in instructions
        ]
        if not known:
            return verdicts
        probabilities = self.probabilities(*(videos[i] for i in known))
        begin = 0
        for i in known:
            part = probabilities[begin : begin + len(videos[i]), self._index[_normal(instructions[i])]]
            begin += len(videos[i])
            verdicts[i] = self._verdict(part)
        return verdicts

    def _verdict(self, probabilities: np.ndarray) -> Verdict:
        return judge_frames(probabilities, self.config.consecutive, self.config.threshold)

    def save(self, folder: str | os.PathLike[str], made_by: dict[str, Any] | None = None) -> Path:
        """Write judge.json and model.safetensors."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / ".model.safetensors.tmp"
        try:
            save_file({k: v.contiguous().cpu() for k, v in self.network.state_dict().items()}, temporary)
            os.replace(temporary, folder / "model.safetensors")
        except (OSError, SafetensorError) as error:
            remove(temporary)
            raise CheckpointError(f"{folder}: cannot write the judge: {error}") from error
        write_json(folder / "judge.json", asdict(self.config))
        if made_by:
            write_json(folder / "gymnast.json", made_by)
        return folder


def judge_frames(probabilities: np.ndarray, consecutive: int, threshold: float) -> Verdict:
    """Completed when `consecutive` of the frames in a row exceed the threshold; probabilities (n,), 0 to 1."""
    run = min(consecutive, len(probabilities))
    weakest = np.lib.stride_tricks.sliding_window_view(probabilities, run).min(axis=-1)
    best = float(weakest.max())
    done = best > threshold
    confidence = best if done else 1.0 - best
    reason = f"best run of {run} frames has probability {best:.2f} (threshold {threshold:g})"
    first = int(np.argmax(weakest > threshold)) + run - 1 if done else None
    return Verdict(float(done), float(np.clip(confidence, 0.0, 1.0)), reason, first, grade=best)


def load_classifier(
    folder: str | os.PathLike[str], device: str = "auto", threshold: float | None = None
) -> ClassifierJudge:
    """Read a judge folder; threshold: instead of the folder's own.

    Raises: CheckpointError when a file is missing, damaged or of another size.
    """
    folder = Path(folder)
    for name in ("judge.json", "model.safetensors"):
        if not (folder / name).is_file():
            other = name_folder(folder) if name == "judge.json" else ""
            found = f"; found {other}" if other else ""
            raise CheckpointError(
                f"{folder / name}: no such file; a judge folder holds judge.json and model.safetensors{found}"
            )
    try:
        config = load_config(ClassifierConfig, folder / "judge.json")  # JSON is YAML
    except ConfigError as error:
        cause = unreadable(folder / "judge.json", "")
        found = f"{folder}/judge.json: {cause}" if cause.startswith("found ") else str(error)
        raise CheckpointError(found) from error
    if not config.instructions:
        raise CheckpointError(f"{folder}/judge.json: instructions: found none, needed at least one")
    network = FrameClassifier(config)
    state = load_tensors(folder / "model.safetensors")
    refuse_quantised(state, network.state_dict(), None, folder)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError(
            f"{folder}/model.safetensors: does not fit judge.json ({' '.join(str(error).split())})"
        ) from error
    if not all(bool(torch.isfinite(value).all()) for value in state.values()):
        raise CheckpointError(f"{folder}/model.safetensors: holds a value that is not finite")
    return ClassifierJudge(config if threshold is None else replace(config, threshold=threshold), network, device)


def episode_mark(path: Path) -> str:
    """A short name of an episode by where it lies, which gives no folder away."""
    return hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:12]


def taught_by(folder: str | os.PathLike[str]) -> frozenset[str]:
    """Marks of the episodes that a judge's folder says it was trained on; empty where it does not say.

    Raises: CheckpointError for a damaged gymnast.json.
    """
    path = Path(folder) / "gymnast.json"
    named = read_json(path).get(TRAINED_ON, []) if path.is_file() else []
    return frozenset(one for one in named if isinstance(one, str)) if isinstance(named, list) else frozenset()


def prepare(frames: np.ndarray, size: int) -> torch.Tensor:
    """Frames (n, H, W, 3) uint8 to (n, 3, size, size) uint8."""
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
        raise JudgeError(f"judge: found frames {frames.dtype} {frames.shape}, needed uint8 (n, height, width, 3)")
    resized = np.stack([resize_frame(frame, size) for frame in frames])
    return torch.from_numpy(resized).permute(0, 3, 1, 2)


def _normal(instruction: str) -> str:
    """Instructions are compared without case, outer blanks and a final full stop."""
    return " ".join(instruction.lower().split()).rstrip(".")
