"""Picture error by horizon on held-out episodes, and an action sheet; `gymnast world-model evaluate` shows both.

The baseline is copying the first frame: a model is worth its time only where it beats that. The action sheet shows from
one frame what constant actions do, one row each: rows that look alike mean that the model ignores actions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from gymnast_core.data.formats import StoredEpisode, find_all
from gymnast_core.data.frames import read_image, write_image
from gymnast_core.errors import ConfigError
from gymnast_core.files import finite_or_none
from gymnast_core.progress import console, say
from gymnast_core.reporting.media import write_video
from gymnast_core.run_folder import RunFolder
from gymnast_core.seeds import derive_seed
from gymnast_core.world_model.actions import ACTION_DIM, to_worldgym
from gymnast_core.world_model.checkpoint import LoadedWorldModel
from gymnast_core.world_model.config import SamplingConfig
from gymnast_core.world_model.dataset import parse_source, read_clip, split
from gymnast_core.world_model.imagine import imagine
from gymnast_core.world_model.metrics import psnr, ssim
from gymnast_core.world_model.pictures_config import PicturesConfig

HORIZONS = (1, 5, 10, 20, 30, 45, 60)
SHEET_STEP_M = 0.02
"""Metres a step of the action sheet's constant translations."""
SHEET_TURN_RAD = 0.1


@dataclass(frozen=True)
class Evaluation:
    """Imagined episodes against the true ones.

    metrics: for each horizon K, psnr_K and ssim_K, and of copying the first frame copy_K (PSNR) and copy_ssim_K.
    psnr, copy: PSNR of every frame 1 .. horizon, in dB, imagined and copied. counts: how many episodes reach it.
    strips: pairs of film strips, truth above imagination. samples: (T, S, 2 S, 3) videos, truth left.
    """

    metrics: Mapping[str, float]
    psnr: Sequence[float] = ()
    copy: Sequence[float] = ()
    counts: Sequence[int] = ()
    strips: Sequence[np.ndarray] = field(default_factory=tuple)
    samples: Sequence[np.ndarray] = field(default_factory=tuple)

    def result(self) -> dict[str, Any]:
        """For result.json: the metrics, how many episodes reach the last frame, and `curves` as a report draws them."""
        chosen = [k for k in HORIZONS if k <= len(self.counts)]
        similar = [[self.metrics[f"{name}_{k}"] for k in chosen] for name in ("ssim", "copy_ssim")]
        curves = {
            title: {"x_label": "imagined frame", "x": x, "lines": {"imagined": ours, "first frame copied": copied}}
            for title, x, ours, copied in (
                ("PSNR by frame, dB", list(range(1, len(self.counts) + 1)), list(self.psnr), list(self.copy)),
                ("SSIM by frame", chosen, *similar),
            )
        }
        return {**self.metrics, "episodes_to_the_end": self.counts[-1] if self.counts else 0, "curves": curves}


def imagine_episodes(
    loaded: LoadedWorldModel,
    files: Sequence[StoredEpisode],
    horizon: int,
    seed: int,
    sampling: SamplingConfig | None = None,
    shuffled: bool = False,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Each episode's frames 0 to `horizon` at most, true and imagined on its actions, (T + 1, S, S, 3) uint8.

    shuffled: on the actions of the episode before it instead.
    """
    size = loaded.autoencoder.image_size
    episodes = []
    for file in files:
        frames, conditions = read_clip(file, size)
        n = min(horizon, len(frames) - 1)
        episodes.append((frames[: n + 1], conditions[1 : n + 1]))
    padded = np.zeros((len(episodes), max((len(a) for _, a in episodes), default=0), ACTION_DIM), np.float32)
    for i, (_, vectors) in enumerate(episodes):
        padded[i, : len(vectors)] = vectors
    if shuffled:
        padded = np.roll(padded, 1, axis=0)
    seeds = [derive_seed(seed, "evaluate", i) for i in range(len(episodes))]
    videos = imagine(loaded, [frames[0] for frames, _ in episodes], padded, seeds, sampling)
    return [(frames, video[: len(frames)]) for (frames, _), video in zip(episodes, videos, strict=True)]


def evaluate_episodes(
    loaded: LoadedWorldModel,
    files: Sequence[StoredEpisode],
    horizon: int,
    seed: int,
    sampling: SamplingConfig | None = None,
    strips: int = 6,
    samples: int = 6,
) -> Evaluation:
    """Replay each episode's actions from its first frame and compare; episodes shorter than a horizon leave it out."""
    episodes = imagine_episodes(loaded, files, horizon, seed, sampling)
    longest = max((len(frames) for frames, _ in episodes), default=1)
    curve, copied, counts = [], [], []
    metrics: dict[str, float] = {}
    for k in range(1, longest):
        reaching = [(frames[k], video[k], frames[0]) for frames, video in episodes if len(frames) > k]
        counts.append(len(reaching))
        curve.append(float(np.mean([psnr(true, ours) for true, ours, _ in reaching])))
        copied.append(float(np.mean([psnr(true, first) for true, _, first in reaching])))
        if k in HORIZONS:
            metrics[f"psnr_{k}"], metrics[f"copy_{k}"] = curve[-1], copied[-1]
            metrics[f"ssim_{k}"] = float(np.mean([ssim(true, ours) for true, ours, _ in reaching]))
            metrics[f"copy_ssim_{k}"] = float(np.mean([ssim(true, first) for true, _, first in reaching]))
    pictures, sample_videos = [], []
    for frames, video in episodes[: max(strips, samples)]:
        pick = np.linspace(0, len(frames) - 1, min(10, len(frames))).astype(int)
        rows = [np.concatenate(list(source[pick]), axis=1) for source in (frames, video)]
        pictures.append(np.concatenate(rows, axis=0))
        sample_videos.append(np.concatenate((frames, video), axis=2))
    return Evaluation(metrics, curve, copied, counts, pictures[:strips], sample_videos[:samples])


IGNORED = 1.1
"""An action-shuffle ratio up to this says that the model hardly looks at its actions."""


def action_shuffle_ratio(
    loaded: LoadedWorldModel,
    files: Sequence[StoredEpisode],
    horizon: int,
    seed: int,
    sampling: SamplingConfig | None = None,
) -> float:
    """Mean squared error of pictures imagined on other episodes' actions, over that on their own, with the same noise.

    1: the model ignores actions. NaN for fewer than two episodes.
    """
    if len(files) < 2:
        return math.nan
    errors = []
    for shuffled in (True, False):
        pairs = imagine_episodes(loaded, files, horizon, seed, sampling, shuffled)
        squares = [np.square(true[1:].astype(np.float32) - ours[1:]).mean() for true, ours in pairs if len(true) > 1]
        errors.append(float(np.mean(squares)))
    return errors[0] / errors[1]


def gain_curve(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """From a run's logged lines: PSNR above that of copying the first frame over the training steps, by horizon.

    In the form of a result's `curves`; {} where nothing was measured.
    """
    measured = [line for line in lines if "psnr_1" in line]
    if not measured:
        return {}
    gains = {
        f"frame {k}": [line[f"psnr_{k}"] - line[f"copy_{k}"] for line in measured]
        for k in HORIZONS
        if all(line.get(f"psnr_{k}") is not None for line in measured)
    }
    title = "PSNR above copying the first frame, dB"
    return {title: {"x_label": "step", "x": [line["step"] for line in measured], "lines": gains}}


def write_samples(path: Path, samples: Sequence[np.ndarray], rate_hz: float = 5.0, columns: int = 2) -> None:
    """One video of several episodes (T, S, 2 S, 3) on a grid, truth left and imagination right in each.

    Shorter episodes hold their last frame; small pictures are enlarged to 128 pixels or more.
    """
    if not samples:
        return
    longest = max(len(sample) for sample in samples)
    scale = max(1, -(-128 // samples[0].shape[1]))
    cells = [
        np.pad(sample[np.minimum(np.arange(longest), len(sample) - 1)], ((0, 0), (4, 4), (4, 4), (0, 0)))
        .repeat(scale, 1)
        .repeat(scale, 2)
        for sample in samples
    ]
    cells += [np.zeros_like(cells[0])] * (-len(cells) % min(columns, len(cells)))
    width = min(columns, len(samples))
    rows = [np.concatenate(cells[i : i + width], axis=2) for i in range(0, len(cells), width)]
    write_video(path, np.concatenate(rows, axis=1), rate_hz)


def format_horizons(metrics: Mapping[str, float]) -> str:
    """One line: horizon, PSNR and SSIM, and in brackets those of copying the first frame."""
    parts = [
        f"frame {k} {metrics[f'psnr_{k}']:.1f} dB {metrics[f'ssim_{k}']:.2f} "
        f"(copy {metrics[f'copy_{k}']:.1f} {metrics[f'copy_ssim_{k}']:.2f})"
        for k in HORIZONS
        if f"psnr_{k}" in metrics
    ]
    return "; ".join(parts)


def write_strips(path: Path, strips: Sequence[np.ndarray]) -> None:
    """Stack film strips of possibly different widths into one picture."""
    if not strips:
        return
    width = max(strip.shape[1] for strip in strips)
    rows = [np.pad(strip, ((0, 6), (0, width - strip.shape[1]), (0, 0)), constant_values=255) for strip in strips]
    write_image(path, np.concatenate(rows, axis=0))


def sheet_actions(steps: int) -> dict[str, np.ndarray]:
    """Constant actions (steps, 7) by name: each axis both ways with an open gripper, turns, and the gripper itself."""
    still = np.zeros((steps, 7), np.float32)
    still[:, 6] = 1.0
    out = {"still": still}
    for axis, name in enumerate(("x", "y", "z")):
        for sign, label in ((1, "+"), (-1, "-")):
            actions = still.copy()
            actions[:, axis] = sign * SHEET_STEP_M
            out[f"{label}{name}"] = actions
    turn = still.copy()
    turn[:, 5] = SHEET_TURN_RAD
    out["+yaw"] = turn
    closed = still.copy()
    closed[:, 6] = 0.0
    out["close"] = closed
    again = closed.copy()
    again[steps // 2 :, 6] = 1.0
    out["close, open"] = again
    return out


def action_sheet(
    loaded: LoadedWorldModel, frame: np.ndarray, steps: int = 10, seed: int = 0, sampling: SamplingConfig | None = None
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """(picture with one labelled row an action, videos by action name (steps + 1, S, S, 3)), the same noise in each."""
    import cv2

    actions = sheet_actions(steps)
    vectors = to_worldgym(np.stack(list(actions.values())))
    videos = imagine(loaded, [frame] * len(actions), vectors, [seed] * len(actions), sampling)
    pick = np.linspace(0, steps, min(8, steps + 1)).astype(int)
    rows = []
    for name, video in zip(actions, videos, strict=True):
        strip = np.concatenate(list(video[pick]), axis=1)
        label = np.full((strip.shape[0], 90, 3), 255, np.uint8)
        cv2.putText(label, name, (2, strip.shape[0] // 2), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1, cv2.LINE_AA)
        rows.append(np.concatenate((label, strip), axis=1))
    return np.concatenate(rows, axis=0), dict(zip(actions, videos, strict=True))


def chosen_sampling(loaded: LoadedWorldModel, steps: int, mode: str, solver: str = "") -> SamplingConfig:
    """The model's own sampling with what the command line replaces; 0 and "" leave it."""
    own = loaded.sampling
    changes = {"steps": steps, "mode": mode, "solver": solver}
    return replace(own, **{name: value for name, value in changes.items() if value})  # type: ignore[arg-type]


def held_out_files(data: Sequence[str], share: float) -> list[StoredEpisode]:
    """The episodes that training with this share held out; all of them for 0.

    Raises: ConfigError where there is none, DataError for a folder without episodes.
    """
    files: list[StoredEpisode] = []
    for source in data:
        everything = find_all(parse_source(source)[0])
        files += split(everything, share)[1] if share > 0 else everything
    if not files:
        raise ConfigError("data: no held-out episode; give a folder with at least two episodes, or --held-out 0")
    return files


def evaluate_pictures(
    config: PicturesConfig, loaded: LoadedWorldModel, files: Sequence[StoredEpisode], folder: RunFolder
) -> dict[str, Any]:
    """Write media/strips.png, samples.mp4 and actions.png; prints the table of horizons. Returns the figures."""
    sampling = chosen_sampling(loaded, config.steps, config.mode, config.solver)
    result = evaluate_episodes(loaded, files[: config.episodes], config.horizon, config.seed, sampling)
    write_strips(folder.media("strips.png"), result.strips)
    write_samples(folder.media("samples.mp4"), result.samples)
    frame = read_image(config.frame) if config.frame else files[0].frame(0, loaded.autoencoder.image_size)
    sheet, _ = action_sheet(loaded, frame, seed=config.seed, sampling=sampling)
    write_image(folder.media("actions.png"), sheet)
    ratio = action_shuffle_ratio(loaded, files[: config.episodes], config.horizon, config.seed, sampling)
    console.print(format_horizons(result.metrics))
    if math.isfinite(ratio):
        words = f"action-shuffle ratio {ratio:.2f} (1: actions are ignored)"
        ignored = ratio <= IGNORED
        say(f"WARNING: {words}: the model hardly follows actions" if ignored else words, "yellow" if ignored else "")
    console.print(f"pictures in {folder.path / 'media'}")
    found = {"episodes": min(len(files), config.episodes), "action_shuffle": finite_or_none(ratio)}
    return {**found, **result.result()}
