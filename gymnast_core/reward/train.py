"""`gymnast judge train`: the learned judge from logged episodes with outcomes.

Frame labels: where it is known from which step on an episode shows the task done, from a person's label
(`gymnast data label`), the station's own truth or another judge, that is the label of every frame. Otherwise the
outcome of the whole episode is all there is: every frame of a failed episode is negative, the last two frames of a
successful one are positive, its first quarter negative, and the frames between are left out. Frames that went through
the world model's autoencoder (folders given as `decoded`, episodes of the same names) teach the judge what imagined
frames look like.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from gymnast_core.commands import YOUR_STATION, gymnast, name_next
from gymnast_core.config import find_model
from gymnast_core.data.formats import StoredEpisode, find_all
from gymnast_core.data.logged_by import station_file_of
from gymnast_core.data.outcome import LABEL_THEM
from gymnast_core.errors import CheckpointError, ConfigError, DataError
from gymnast_core.progress import console, progress_bar
from gymnast_core.reward.agreement import Agreement, measure_agreement
from gymnast_core.reward.classifier import (
    TRAINED_ON,
    ClassifierConfig,
    ClassifierJudge,
    FrameClassifier,
    episode_mark,
    load_classifier,
    taught_by,
)
from gymnast_core.reward.train_config import JudgeTrainConfig
from gymnast_core.run_folder import RunFolder, refuse_other_options
from gymnast_core.seeds import seed_everything

SETTINGS = (
    "data",
    "decoded",
    "init",
    "size",
    "width",
    "steps",
    "batch",
    "learning_rate",
    "garbled",
    "held_out",
    "seed",
)
"""Options that decide what is learned: a run goes on with the ones it began with."""


@dataclass(frozen=True)
class LabelledFrames:
    """Frames (n, S, S, 3) uint8 of an episode, labels (n,) 0, 1 or NaN (unknown), and its outcome."""

    path: Path
    name: str
    frames: np.ndarray
    labels: np.ndarray
    instruction: str
    success: bool


def label_frames(source: StoredEpisode, size: int) -> LabelledFrames | None:
    """One episode's frames with labels; None where nobody said how it ended. Raises: DataError (unreadable)."""
    outcome = source.outcome()
    if outcome.success is None or source.count() < 2:
        return None
    frames = np.stack(list(source.frames(size)))
    n = len(frames)
    labels = np.full(n, np.nan, dtype=np.float32)
    known = [value for value in outcome.frames[1:n] if value is not None]
    if len(known) == n - 1:
        labels[1:] = known
        labels[0] = bool(outcome.frames[0])
    elif outcome.success:
        labels[-2:] = 1.0
        labels[: max(1, n // 4)] = 0.0
    else:
        labels[:] = 0.0
    return LabelledFrames(source.path, source.name, frames, labels, source.instruction(), outcome.success)


def train_judge(config: JudgeTrainConfig) -> int:
    """Train, measure on held-out episodes, write the judge folder.

    Raises: ConfigError when something other than a judge lies in `out`; DataError when the episodes teach nothing.
    """
    _check_target(Path(config.out))
    before = load_classifier(find_model(config.init), config.device) if config.init else None
    size = before.config.size if before is not None else config.size
    seed_everything(config.seed)
    run = RunFolder(config.run, config)
    episodes = _read_all(config.data, size)
    if config.held_out and len(episodes) < 2:
        raise DataError(f"{', '.join(config.data)}: found 1 episode with an outcome; needed 2, one to measure on")
    instructions = tuple(sorted({episode.instruction for episode in episodes}))
    generator = np.random.default_rng(config.seed)
    order = generator.permutation(len(episodes))
    n_held_out = min(max(1, round(config.held_out * len(episodes))), len(episodes) - 1) if config.held_out else 0
    held_out = [episodes[i] for i in order[:n_held_out]]
    training = [episodes[i] for i in order[n_held_out:]]
    if config.decoded:
        names = {episode.name for episode in held_out}
        training += [episode for episode in _read_all(config.decoded, size) if episode.name not in names]
    judge = _begin(config, before, instructions)
    frames = _table(training, judge.config.instructions)
    labels = frames[-1]
    console.print(
        f"{len(training)} episodes to train on, {len(held_out)} held out; {len(labels)} labelled frames, "
        f"{int(labels.sum())} positive",
        highlight=False,
    )
    if not 0 < labels.sum() < len(labels):
        raise DataError(f"{', '.join(config.data)}: needed episodes of both outcomes, found only one")
    Fit(judge, frames, config, run)()
    found = measure(judge, held_out)
    run.write_result(found.facts())
    earlier = taught_by(find_model(config.init)) if config.init else frozenset()
    learned = {TRAINED_ON: sorted({*earlier, *(episode_mark(episode.path) for episode in training)})}
    made_by = {"made_by": "gymnast judge train", "data": list(config.data), "init": config.init}
    judge.save(config.out, {**made_by, **found.facts(), **learned})
    console.print(f"{found.judged} held-out episodes: {found}; written to {config.out}", highlight=False)
    station = station_file_of(config.data) or YOUR_STATION
    name_next(gymnast("judge evaluate", config=station, checkpoint=config.out, data=config.data))
    return 0


def _begin(config: JudgeTrainConfig, before: ClassifierJudge | None, instructions: tuple[str, ...]) -> ClassifierJudge:
    """The judge that training begins with. before: the one that is trained further, if any."""
    if before is None:
        looks = (config.size, config.width, config.threshold, config.consecutive, config.stride, config.window)
        fresh = ClassifierConfig(instructions, *looks)
        return ClassifierJudge(fresh, FrameClassifier(fresh), config.device)
    known = before.config.instructions
    extended = replace(before.config, instructions=(*known, *(text for text in instructions if text not in known)))
    network = FrameClassifier(extended)
    head = network.head.state_dict()
    state = before.network.state_dict()
    for name, fresh_rows in head.items():
        state[f"head.{name}"] = torch.cat((state[f"head.{name}"].cpu(), fresh_rows[len(known) :]))
    network.load_state_dict(state)
    return ClassifierJudge(extended, network, config.device)


def _check_target(folder: Path) -> None:
    """A judge replaces a judge and nothing else, such as a policy whose weights' file has the same name."""
    if folder.exists() and not (folder / "judge.json").exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"out: found {folder}, which is not a judge's folder; choose another --out")


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


class Fit:
    """The classifier's training on labelled frames; its methods are the steps.

    frames: images (n, 3, S, S) uint8, instruction indices (n,) and labels (n,), 0 or 1, of `_table`.

    Raises: ConfigError, CheckpointError when the run folder holds another training.
    """

    def __init__(
        self,
        judge: ClassifierJudge,
        frames: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
        config: JudgeTrainConfig,
        run: RunFolder,
    ) -> None:
        self.network, self.device, self.config, self.run = judge.network, judge.device, config, run
        self.images, self.tasks, self.labels = frames
        self.positive, self.negative = (torch.nonzero(self.labels == label)[:, 0] for label in (1, 0))
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=config.learning_rate, weight_decay=1e-3)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, config.learning_rate, total_steps=config.steps
        )
        self.settings = {name: str(getattr(config, name)) for name in SETTINGS}
        self.step = self._resume()

    def __call__(self) -> None:
        """Train to the last step."""
        steps = self.config.steps
        self.network.train()
        with progress_bar() as bar:
            task = bar.add_task("judge", total=steps, completed=self.step, note="")
            while self.step < steps:
                loss = self.take_step()
                bar.update(task, advance=1, note=f"loss {loss:.3f}")
                if self.step % 100 == 0 or self.step == steps:
                    self.run.log(self.step, {"loss": loss})
                    self.save()
        self.network.eval()

    def take_step(self) -> float:
        """One optimiser step; its loss."""
        generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + self.step)
        batch, tasks, wanted = self.draw(generator)
        logits = self.network(batch.to(self.device)).gather(1, tasks[:, None].to(self.device))[:, 0]
        loss = nn.functional.binary_cross_entropy_with_logits(logits, wanted.to(self.device))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.schedule.step()
        self.step += 1
        return loss.item()

    def draw(self, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """As many frames of either label, a share of them garbled, augmented: images float in [0, 1], tasks, labels."""
        config = self.config
        half = config.batch // 2
        sizes = ((self.positive, half), (self.negative, config.batch - half))
        chosen = torch.cat([rows[torch.randint(len(rows), (n,), generator=generator)] for rows, n in sizes])
        batch, wanted = self.images[chosen].float() / 255, self.labels[chosen].clone()
        broken = torch.randperm(len(chosen), generator=generator)[: round(config.garbled * len(chosen))]
        if len(broken):
            batch[broken] = garble(batch[broken], generator)
            wanted[broken] = 0.0
        return augment(batch, generator), self.tasks[chosen], wanted

    def save(self) -> None:
        """Write a checkpoint to resume from. Raises: CheckpointError when it cannot be written."""
        state = {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "settings": self.settings,
        }
        self.run.save_checkpoint(self.step, state)

    def _resume(self) -> int:
        """Steps done already."""
        state = self.run.load_checkpoint()
        if state is None:
            return 0
        refuse_other_options(self.run.path, state.get("settings") or {}, self.settings)
        try:
            self.network.load_state_dict(state["network"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.schedule.load_state_dict(state["schedule"])
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise CheckpointError(
                f"{self.run.path}: its checkpoint is of another training or size ("
                f"{' '.join(str(error).split())[:120]}); choose another --run"
            ) from error
        return int(state["step"])


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
    sources = [source for folder in folders for source in find_all(folder)]
    found = []
    with progress_bar() as bar:
        task = bar.add_task("reading episodes", total=len(sources), note="")
        for source in sources:
            try:
                episode = label_frames(source, size)
            except DataError as error:
                console.print(f"warning: left out: {error}", style="yellow", markup=False, soft_wrap=True)
                episode = None
            if episode is not None:
                found.append(episode)
            bar.update(task, advance=1)
    if not found:
        what = f"no episode (of {len(sources)}) is readable and has an outcome; {LABEL_THEM}"
        raise DataError(f"{', '.join(folders)}: {what}")
    return found
