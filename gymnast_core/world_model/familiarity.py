"""How far a frame lies from what a world model was trained on, by its nearest neighbours among training frames.

A frame's features are its latents, averaged over a coarse grid and taken along the principal axes of training frames,
each in its own standard deviations: a change of what never changed in training shows most. A frame's distance is that
to its 5th nearest neighbour in a stored set of training frames. What is near and what is far is read off frames of
held-out scenes, whose distances are stored beside. Works with any autoencoder.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import save_file

from gymnast_core.data.formats import StoredEpisode
from gymnast_core.data.frames import resize_frame
from gymnast_core.errors import CheckpointError, DataError
from gymnast_core.files import remove, write_bytes
from gymnast_core.plain_json import parse_json
from gymnast_core.progress import progress_bar
from gymnast_core.tensor_files import open_tensors
from gymnast_core.world_model.autoencoder import Autoencoder

FAMILIARITY = "familiarity.safetensors"
"""Where the measure lies, beside a world model's weights."""
NEIGHBOUR = 5
GRID = 4
MAX_REFERENCE = 1200
"""Stored training frames at most."""
MIN_FRAMES = 2 * NEIGHBOUR
MARGIN = 2.0
"""A frame is familiar up to this multiple of the distance that 99 of 100 held-out frames keep within."""
FLOOR = 0.03
"""Least standard deviation of a principal axis, as a share of the root mean square of all."""
PROBE_TOLERANCE = 0.05
BATCH = 64
AGAIN = "`gymnast world-model evaluate` makes it anew"


def features(autoencoder: Autoencoder, frames: Sequence[np.ndarray]) -> np.ndarray:
    """(N, d) float32 of frames (H, W, 3) uint8 of any size: latents averaged over a 4 x 4 grid."""
    out = []
    for begin in range(0, len(frames), BATCH):
        part = np.stack([resize_frame(frame, autoencoder.image_size) for frame in frames[begin : begin + BATCH]])
        latents = autoencoder.encode(part).float().permute(0, 3, 1, 2)
        grid = min(GRID, latents.shape[2], latents.shape[3])
        out.append(torch.nn.functional.adaptive_avg_pool2d(latents, grid).flatten(1).cpu().numpy())
    return np.concatenate(out)


class Familiarity:
    """A calibrated measure of distance, see the module.

    reference: (n, d) features of training frames. quantiles: (101,) distances of held-out frames, 0 to 100 %.
    probe: (d,) features of a fixed test picture, by which another autoencoder is recognised. facts: what made it.
    """

    def __init__(
        self, reference: np.ndarray, quantiles: np.ndarray, probe: np.ndarray, facts: Mapping[str, Any] | None = None
    ) -> None:
        self.reference: np.ndarray = reference.astype(np.float16)
        self.quantiles: np.ndarray = quantiles.astype(np.float32)
        self.probe: np.ndarray = probe.astype(np.float32)
        self.facts = dict(facts or {})
        values = self.reference.astype(np.float64)
        self._centre = values.mean(0)
        variance, axes = np.linalg.eigh(np.cov((values - self._centre).T))
        self._axes = axes / np.sqrt(np.maximum(variance, FLOOR**2 * max(float(variance.mean()), 1e-12)))
        self._points = (values - self._centre) @ self._axes

    @property
    def limit(self) -> float:
        """The largest distance that counts as familiar."""
        return MARGIN * float(self.quantiles[99])

    def distances(self, autoencoder: Autoencoder, frames: Sequence[np.ndarray]) -> np.ndarray:
        """(N,) root-mean-square distance of each frame to its 5th nearest training frame, in standard deviations."""
        points = (features(autoencoder, frames) - self._centre) @ self._axes
        square = (points**2).sum(1)[:, None] + (self._points**2).sum(1)[None] - 2 * points @ self._points.T
        kth = np.partition(np.maximum(square, 0), NEIGHBOUR - 1, axis=1)[:, NEIGHBOUR - 1]
        return np.sqrt(kth / points.shape[1])

    def describe(self, distance: float) -> str:
        """One line for people."""
        return (
            f"{'familiar' if distance <= self.limit else 'unfamiliar'}: {distance:.2f} from the training frames "
            f"(held-out frames: median {self.quantiles[50]:.2f}, 99 of 100 within {self.quantiles[99]:.2f}; "
            f"familiar up to {self.limit:.2f})"
        )


def calibrate(
    autoencoder: Autoencoder,
    training: Sequence[np.ndarray],
    held_out: Sequence[np.ndarray],
    facts: Mapping[str, Any] | None = None,
) -> Familiarity:
    """Measure of distance from `training` frames, calibrated on frames of held-out scenes.

    Raises: DataError where there are fewer than 10 of either.
    """
    for name, frames in (("training", training), ("held-out", held_out)):
        if len(frames) < MIN_FRAMES:
            raise DataError(f"familiarity: found {len(frames)} {name} frames, needed {MIN_FRAMES}")
    reference, probe = features(autoencoder, training), _probe(autoencoder)
    distances = Familiarity(reference, np.zeros(101), probe).distances(autoencoder, held_out)
    return Familiarity(reference, np.percentile(distances, np.arange(101)), probe, facts)


def choose_frames(files: Sequence[StoredEpisode], count: int, seed: int = 0) -> list[np.ndarray]:
    """About `count` frames of episodes: of each chosen one the first, and one from anywhere, since practice may begin
    at any frame. Which ones depends on the seed alone."""
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(files))[: max(1, -(-count // 2))]
    frames: list[np.ndarray] = []
    with progress_bar() as bar:
        row = bar.add_task("reading frames", total=len(order), note="")
        for index in sorted(order.tolist()):
            frames += _two_frames(files[index], generator)
            bar.advance(row)
    return frames[:count]


def save_familiarity(path: Path, measure: Familiarity) -> None:
    """Write the file, whole or not at all. Raises: CheckpointError."""
    arrays: dict[str, np.ndarray] = {
        "reference": measure.reference,
        "quantiles": measure.quantiles,
        "probe": measure.probe,
    }
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        save_file(arrays, str(temporary), {"facts": json.dumps(dict(measure.facts))})
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        remove(temporary)
        raise CheckpointError(f"{path}: cannot write: {error}; free disk space or choose another folder") from error


def know_both(before: Path, after: Path) -> None:
    """Let the measure of a model that was trained further know the frames of the training before as well.

    before, after: files of the two measures; without the first nothing is changed. The autoencoder is the same. What is
    near and what is far stays as it was for the first, since new episodes are few. Raises: CheckpointError, DataError.
    """
    if not before.is_file():
        return
    if not after.is_file():
        write_bytes(after, before.read_bytes())
        return
    old, new = _read(before), _read(after)
    if "and" in new.facts or np.array_equal(old.reference, new.reference):  # it knows them already
        return
    share = MAX_REFERENCE - min(len(new.reference), MAX_REFERENCE // 2)
    kept = np.random.default_rng(0).permutation(len(old.reference))[:share]
    reference = np.concatenate((new.reference[: MAX_REFERENCE // 2], old.reference[np.sort(kept)]))
    save_familiarity(after, Familiarity(reference, old.quantiles, old.probe, {**old.facts, "and": new.facts}))


def load_familiarity(path: Path, autoencoder: Autoencoder) -> Familiarity | None:
    """Read the measure of a world model; None where there is no file.

    Raises: CheckpointError for a damaged file, or one made with another autoencoder.
    """
    if not path.is_file():
        return None
    measure = _read(path)
    now = _probe(autoencoder)
    if now.shape != measure.probe.shape or float(np.abs(now - measure.probe).max()) > PROBE_TOLERANCE:
        raise CheckpointError(f"{path}: made with another autoencoder; {AGAIN} for this one")
    return measure


def _read(path: Path) -> Familiarity:
    """A file of a measure. Raises: CheckpointError."""
    try:
        with open_tensors(path, "numpy") as content:
            arrays = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118 - no mapping
            facts = parse_json((content.metadata() or {}).get("facts", "{}"))
        reference, quantiles, probe = arrays["reference"], arrays["quantiles"], arrays["probe"]
    except CheckpointError as error:
        raise CheckpointError(f"{error}; or {AGAIN}") from error
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"{path}: damaged ({error}); {AGAIN}") from error
    sound = reference.ndim == 2 and len(reference) >= MIN_FRAMES and quantiles.shape == (101,)
    if not sound or probe.shape != reference.shape[1:] or not all(np.isfinite(a).all() for a in arrays.values()):
        raise CheckpointError(f"{path}: damaged (shapes or numbers); {AGAIN}")
    return Familiarity(reference, quantiles, probe, facts)


def _probe(autoencoder: Autoencoder) -> np.ndarray:
    """Features (d,) of a fixed picture of colour ramps."""
    ramp = np.linspace(0, 255, autoencoder.image_size).astype(np.uint8)
    across = np.broadcast_to(ramp[None], (len(ramp), len(ramp)))
    return features(autoencoder, [np.stack([across, across.T, across[::-1, ::-1]], axis=-1)])[0]


def _two_frames(file: StoredEpisode, generator: np.random.Generator) -> list[np.ndarray]:
    draw = float(generator.random())
    return [file.frame(0), file.frame(int(draw * file.count()))]
