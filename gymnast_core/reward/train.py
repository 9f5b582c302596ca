"""`gymnast judge train`: the learned judge from logged episodes with outcomes.

Frame labels: where an episode's steps carry the station's own truth ("success" in steps.jsonl), that is the label of
the frame after the step. Otherwise the outcome of the whole episode is all there is: every frame of a failed episode is
negative, the last two frames of a successful one are positive, its first quarter negative, and the frames between are
left out. Frames that went through the world model's autoencoder (folders given as `decoded`, of the same layout) teach
the judge what imagined frames look like.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import nn

from gymnast_core.config import Fraction, Positive, Seed
from gymnast_core.data.episode import find_episodes, read_episode
from gymnast_core.data.frames import resize_frame
from gymnast_core.errors import CheckpointError, ConfigError, DataError
from gymnast_core.progress import console, progress_bar
from gymnast_core.reward.agreement import Agreement, measure_agreement
from gymnast_core.reward.classifier import ClassifierConfig, ClassifierJudge, FrameClassifier
from gymnast_core.run_folder import RunFolder, refuse_other_options, seed_everything

SETTINGS = ("data", "decoded", "size", "width", "steps", "batch", "learning_rate", "garbled", "held_out", "seed")
"""Options that decide what is learned: a run goes on with the ones it began with."""


@dataclass(frozen=True)
class JudgeTrainConfig:
    """Train the learned judge."""

    data: tuple[str, ...]
    """Folders with logged episodes that have an outcome."""
    out: str
    """Folder the judge is written to."""
    decoded: tuple[str, ...] = ()
    """Folders with the same episodes after a round trip through the autoencoder, or imagined on their actions (`gymnast
    world-model reconstruct`); used as further training data."""
    run: str = "runs/judge"
    """Run folder: metrics, checkpoints to resume from."""
    size: Annotated[int, Field(ge=16, le=512)] = 64
    """Side of the square pictures it looks at, pixels."""
    width: Annotated[int, Field(ge=4, le=512, multiple_of=4)] = 24
    """Channels of the network's first layer."""
    threshold: Fraction = 0.7
    """A frame above this probability shows the task completed."""
    consecutive: Annotated[int, Field(ge=1, le=100)] = 2
    """So many such frames in a row are a success."""
    stride: Annotated[int, Field(ge=1)] = 2
    """It looks at every so-many-th frame of an episode, counted back from the last one."""
    window: Annotated[int, Field(ge=1)] = 1000
    """It looks at so many frames of an episode at most, the last ones."""
    steps: Annotated[int, Field(ge=1)] = 1500
    """Optimiser steps."""
    batch: Annotated[int, Field(ge=2)] = 64
    """Frames a step."""
    learning_rate: Positive = 1e-3
    """AdamW's, at its highest."""
    garbled: Fraction = 0.1
    """Share of each batch that is frames cut into blocks and shuffled, labelled as not completed: a picture that fell
    apart, as a poor world model draws it, is no evidence of success."""
    held_out: Fraction = 0.15
    """Share of the episodes kept for measuring."""
    device: str = "auto"
    """"cpu", "cuda" or "auto"."""
    seed: Seed = 0
    """Decides initial weights, batches, and which episodes are held out."""


@dataclass(frozen=True)
class LabelledFrames:
    """Frames (n, S, S, 3) uint8 of the episode in folder `name`, labels (n,) 0, 1 or NaN (unknown), and its outcome."""

    name: str
    frames: np.ndarray
    labels: np.ndarray
    instruction: str
    success: bool


def label_frames(folder: Path, size: int) -> LabelledFrames | None:
    """One episode's frames with labels; None where nobody said how it ended. Raises: DataError (unreadable)."""
    episode = read_episode(folder)
    if episode.success is None or episode.length == 0:
        return None
    truth = _step_truth(folder)
    n = len(episode.frames)
    labels = np.full(n, np.nan, dtype=np.float32)
    if truth and len(truth) >= n - 1:
        labels[1:] = truth[: n - 1]
        labels[0] = 0.0
    elif episode.success:
        labels[-2:] = 1.0
        labels[: max(1, n // 4)] = 0.0
    else:
        labels[:] = 0.0
    frames = np.stack([resize_frame(frame, size) for frame in episode.frames])
    return LabelledFrames(folder.name, frames, labels, episode.instruction, bool(episode.success))


def train_judge(config: JudgeTrainConfig) -> int:
    """Train, measure on held-out episodes, write the judge folder.

    Raises: ConfigError when something other than a judge lies in `out`; DataError when the episodes teach nothing.
    """
    _check_target(Path(config.out))
    seed_everything(config.seed)
    run = RunFolder(config.run, config)
    episodes = _read_all(config.data, config.size)
    if len(episodes) < 2:
        raise DataError(f"{', '.join(config.data)}: found 1 episode with an outcome; needed 2, one to measure on")
    instructions = tuple(sorted({episode.instruction for episode in episodes}))
    generator = np.random.default_rng(config.seed)
    order = generator.permutation(len(episodes))
    n_held_out = min(max(1, round(config.held_out * len(episodes))), len(episodes) - 1)
    held_out = [episodes[i] for i in order[:n_held_out]]
    training = [episodes[i] for i in order[n_held_out:]]
    if config.decoded:
        names = {episode.name for episode in held_out}
        training += [episode for episode in _read_all(config.decoded, config.size) if episode.name not in names]
    network_config = ClassifierConfig(
        instructions, config.size, config.width, config.threshold, config.consecutive, config.stride, config.window
    )
    network = FrameClassifier(network_config)
    judge = ClassifierJudge(network_config, network, config.device)
    images, tasks, labels = _table(training, instructions)
    console.print(
        f"{len(training)} episodes to train on, {len(held_out)} held out; {len(labels)} labelled frames, "
        f"{int(labels.sum())} positive",
        highlight=False,
    )
    if not 0 < labels.sum() < len(labels):
        raise DataError(f"{', '.join(config.data)}: needed episodes of both outcomes, found only one")
    _fit(judge, images, tasks, labels, config, run)
    found = measure(judge, held_out)
    run.write_result(found.facts())
    judge.save(config.out, {"made_by": "gymnast judge train", "data": list(config.data), **found.facts()})
    console.print(f"{found.judged} held-out episodes: {found}; written to {config.out}", highlight=False)
    return 0


def _check_target(folder: Path) -> None:
    """A judge replaces a judge and nothing else, such as a policy whose weights' file has the same name."""
    if folder.exists() and not (folder / "judge.json").exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"out: found {folder}, which is no folder of a judge; choose another --out")


def measure(judge: ClassifierJudge, episodes: Sequence[LabelledFrames]) -> Agreement:
    """Agreement with the outcomes of whole episodes."""
    videos = [episode.frames[judge.frame_indices(len(episode.frames))] for episode in episodes]
    verdicts = judge.judge(videos, [episode.instruction for episode in episodes])
    return measure_agreement(verdicts, [episode.success for episode in episodes])


def augment(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Brightness, contrast, colour, noise and shifts of up to two pixels, on (N, 3, S, S) float in [0, 1]."""
    n = len(images)

    def uniform(low: float, high: float, *shape: int) -> torch.Tensor:
        return torch.rand(n, *shape, 1, 1, generator=generator) * (high - low) + low

    images = (images - 0.5) * uniform(0.8, 1.2, 1) + 0.5 + uniform(-0.12, 0.12, 1) + uniform(-0.04, 0.04, 3)
    images = images + torch.randn(images.shape, generator=generator) * uniform(0.0, 0.04, 1)
    shift = torch.randint(-2, 3, (2,), generator=generator).tolist()
    return torch.roll(images, shift, dims=(2, 3)).clamp(0, 1)


def garble(images: torch.Tensor, generator: torch.Generator, blocks: int = 8) -> torch.Tensor:
    """Images (N, 3, S, S) cut into blocks x blocks tiles, most of which change places, also between images."""
    n, channels, size, _ = images.shape
    tile = size // blocks
    cut = images[:, :, : tile * blocks, : tile * blocks].reshape(n, channels, blocks, tile, blocks, tile)
    tiles = cut.permute(0, 2, 4, 1, 3, 5).reshape(n * blocks * blocks, channels, tile, tile).clone()
    moved = torch.nonzero(torch.rand(len(tiles), generator=generator) < 0.8)[:, 0]
    tiles[moved] = tiles[moved[torch.randperm(len(moved), generator=generator)]]
    whole = tiles.reshape(n, blocks, blocks, channels, tile, tile).permute(0, 3, 1, 4, 2, 5)
    garbled = images.clone()
    garbled[:, :, : tile * blocks, : tile * blocks] = whole.reshape(n, channels, tile * blocks, tile * blocks)
    return garbled


def _fit(
    judge: ClassifierJudge,
    images: torch.Tensor,
    tasks: torch.Tensor,
    labels: torch.Tensor,
    config: JudgeTrainConfig,
    run: RunFolder,
) -> None:
    network, device = judge.network, judge.device
    optimizer = torch.optim.AdamW(network.parameters(), lr=config.learning_rate, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.learning_rate, total_steps=config.steps)
    positive, negative = torch.nonzero(labels == 1)[:, 0], torch.nonzero(labels == 0)[:, 0]
    settings = {name: str(getattr(config, name)) for name in SETTINGS}
    first = 0
    if (state := run.load_checkpoint()) is not None:
        refuse_other_options(run.path, state.get("settings") or {}, settings)
        try:
            network.load_state_dict(state["network"])
            optimizer.load_state_dict(state["optimizer"])
            schedule.load_state_dict(state["schedule"])
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise CheckpointError(
                f"{run.path}: its checkpoint is of another training or size ({' '.join(str(error).split())[:120]}); "
                "choose another --run"
            ) from error
        first = int(state["step"])
    network.train()
    with progress_bar() as bar:
        task = bar.add_task("judge", total=config.steps, completed=first, note="")
        for step in range(first, config.steps):
            generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
            half = config.batch // 2
            chosen = torch.cat(
                [
                    positive[torch.randint(len(positive), (half,), generator=generator)],
                    negative[torch.randint(len(negative), (config.batch - half,), generator=generator)],
                ]
            )
            batch, wanted = images[chosen].float() / 255, labels[chosen].clone()
            broken = torch.randperm(len(chosen), generator=generator)[: round(config.garbled * len(chosen))]
            if len(broken):
                batch[broken] = garble(batch[broken], generator)
                wanted[broken] = 0.0
            batch = augment(batch, generator).to(device)
            logits = network(batch).gather(1, tasks[chosen, None].to(device))[:, 0]
            loss = nn.functional.binary_cross_entropy_with_logits(logits, wanted.to(device))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            bar.update(task, advance=1, note=f"loss {loss.item():.3f}")
            if (step + 1) % 100 == 0 or step + 1 == config.steps:
                run.log(step + 1, {"loss": loss.item()})
                run.save_checkpoint(
                    step + 1,
                    {
                        "network": network.state_dict(),
                        "optimizer": optimizer.state_dict(),
                        "schedule": schedule.state_dict(),
                        "settings": settings,
                    },
                )
    network.eval()


def _table(
    episodes: Sequence[LabelledFrames], instructions: Sequence[str]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Labelled frames of all episodes: images (n, 3, S, S) uint8, instruction indices (n,) int64, labels (n,) float."""
    images, tasks, labels = [], [], []
    for episode in episodes:
        if episode.instruction not in instructions:
            continue
        known = np.isfinite(episode.labels)
        images.append(torch.from_numpy(episode.frames[known]).permute(0, 3, 1, 2))
        tasks.append(torch.full((int(known.sum()),), list(instructions).index(episode.instruction)))
        labels.append(torch.from_numpy(episode.labels[known]))
    return torch.cat(images), torch.cat(tasks), torch.cat(labels)


def _read_all(folders: Sequence[str], size: int) -> list[LabelledFrames]:
    paths = [path for folder in folders for path in find_episodes(folder)]
    found = []
    with progress_bar() as bar:
        task = bar.add_task("reading episodes", total=len(paths), note="")
        for path in paths:
            try:
                episode = label_frames(path, size)
            except DataError as error:
                console.print(f"warning: left out: {error}", style="yellow", markup=False, soft_wrap=True)
                episode = None
            if episode is not None:
                found.append(episode)
            bar.update(task, advance=1)
    if not found:
        raise DataError(
            f"{', '.join(folders)}: none of the {len(paths)} episodes is readable and has an outcome; label them first"
        )
    return found


def _step_truth(folder: Path) -> list[float]:
    """The station's truth after each step where it was logged, else empty. Raises: DataError when it is no truth."""
    truth = []
    for text in (folder / "steps.jsonl").read_text(encoding="utf-8").splitlines():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            break
        if isinstance(line, dict) and "step" in line:
            if not isinstance(line.get("success"), (bool, int, float)):
                return []
            if line["success"] not in (0, 1):
                raise DataError(f"{folder}/steps.jsonl: success: found {line['success']}, allowed are true and false")
            truth.append(float(line["success"]))
    return truth
