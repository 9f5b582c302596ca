"""`gymnast world-model train`: trains the world model on any mix of episode folders.

The autoencoder is frozen and the latents are kept on disk. Batches and noise of step n depend on the seed and n alone,
so a resumed run goes on exactly as if it had not been cut.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gymnast_core.config import find_model
from gymnast_core.device import choose_device
from gymnast_core.errors import ConfigError, DataError
from gymnast_core.progress import Stopped, console, interruptible, progress_bar, say
from gymnast_core.ranks import PeerLost, Ranks
from gymnast_core.run_folder import RunFolder, refuse_other_options
from gymnast_core.seeds import derive_seed
from gymnast_core.world_model.actions import null_action
from gymnast_core.world_model.autoencoder import Autoencoder
from gymnast_core.world_model.checkpoint import (
    LoadedWorldModel,
    check_fit,
    load_autoencoder,
    load_weights,
    load_world_model,
    load_worldgym_checkpoint,
    save_world_model,
)
from gymnast_core.world_model.config import LossConfig
from gymnast_core.world_model.dataset import draw_clips, flatten
from gymnast_core.world_model.diffusion import Noise, Schedule, draw_noise, training_loss
from gymnast_core.world_model.model import WorldModel, parameter_count
from gymnast_core.world_model.optimisers import decayed_rate, make_optimisers, update_average
from gymnast_core.world_model.pictures import (
    evaluate_episodes,
    format_horizons,
    gain_curve,
    write_samples,
    write_strips,
)
from gymnast_core.world_model.train_config import OptimiserKind, TrainConfig


@dataclass(frozen=True)
class Training:
    """What of its training a model's folder keeps, so that fine-tuning can go on in the same way (see TrainConfig)."""

    loss: LossConfig = field(default_factory=LossConfig)
    clip_frames: int = 20
    first_action_zero: bool = False
    action_dropout: float = 0.1
    learning_rate: float = TrainConfig.learning_rate
    optimiser: OptimiserKind = "adamw"


def prepare(config: TrainConfig, device: torch.device) -> tuple[WorldModel, Autoencoder]:
    """The network to start from and its frozen autoencoder."""
    init = find_model(config.init) if config.init else None
    loaded = load_world_model(init, str(device)) if init is not None and init.is_dir() else None
    if config.autoencoder:
        autoencoder = load_autoencoder(config.autoencoder, image_size=config.image_size, device=str(device))
    elif loaded is not None:
        autoencoder = loaded.autoencoder
    else:
        raise ConfigError("autoencoder: nothing given; train one with `gymnast world-model train-autoencoder`")
    if loaded is not None:
        model = loaded.model.requires_grad_(True)
    elif init is not None:
        model = load_worldgym_checkpoint(init, config.model).to(device)
    else:
        model = WorldModel(config.model)
        model.initialise(derive_seed(config.seed, "weights"))
        model = model.to(device)
    check_fit(model.config, autoencoder, config.autoencoder or config.init)
    if config.clip_frames > model.config.max_frames:
        raise ConfigError(f"clip_frames is {config.clip_frames}, the model's max_frames is {model.config.max_frames}")
    return model, autoencoder


def encoder_id(autoencoder: Autoencoder) -> str:
    """Names the encoder that made cached latents: a hash of its weights."""
    module = autoencoder if isinstance(autoencoder, torch.nn.Module) else autoencoder.vae  # type: ignore[attr-defined]
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        if name.startswith(("encoder", "latent_scale", "quant_conv")):
            digest.update(name.encode())
            digest.update(tensor.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()


def _some(names: Sequence[str], limit: int = 4) -> str:
    distinct = sorted(set(names))
    more = f" and {len(distinct) - limit} more" if len(distinct) > limit else ""
    return ", ".join(distinct[:limit]) + more


def train(config: TrainConfig) -> int:
    """Train, evaluate, write `model`; returns 0, or 130 when interrupted or another process of the run ended (start
    again to resume).

    Under `torchrun` the batch is divided among the processes; the result is that of one process but for rounding.
    Raises DataError, ConfigError, CheckpointError as their parts do; a non-finite loss stops the run and keeps the
    last good checkpoint.
    """
    ranks = Ranks()
    console.quiet = not ranks.first
    try:
        with ranks.together():
            code = Trainer(config, ranks)()
    except PeerLost as end:
        say(f"{end}; the same command goes on from {config.run}")
        return 130
    ranks.finish()
    return code


@dataclass(frozen=True)
class Batch:
    """Clips of one step with their noise.

    values: latents (B, T, C, H, W) float32. actions: (B, T, 10). valid: (B, T) bool, None where all frames count.
    names: the episodes, for error messages.
    """

    values: Tensor
    actions: Tensor
    valid: Tensor | None
    noise: Noise
    names: Sequence[str]

    def loss(self, forward: Any, schedule: Schedule, config: LossConfig, part: slice) -> Tensor:
        """Of the clips of `part`."""
        valid = None if self.valid is None else self.valid[part]
        return training_loss(
            forward, schedule, self.values[part], self.actions[part], config, self.noise.part(part), valid
        )


class Trainer:
    """One training of a world model; its methods are the steps. Raises as `train` does."""

    def __init__(self, config: TrainConfig, ranks: Ranks) -> None:
        if config.batch % (config.accumulate * ranks.size):
            raise ConfigError(
                f"batch {config.batch} must be divisible by accumulate {config.accumulate} x processes {ranks.size}"
            )
        self.config, self.ranks = config, ranks
        self.device = torch.device(ranks.device(choose_device(config.device)))
        self.model, self.autoencoder = prepare(config, self.device)
        self._read()
        self.schedule = Schedule(device=self.device)
        self.average = {name: p.detach().clone() for name, p in self.model.named_parameters()}
        self.optimisers = make_optimisers(
            self.model, config.optimiser, learning_rate=config.learning_rate, weight_decay=config.weight_decay
        )
        self.step, self.elapsed = 0, 0.0
        self._resume()
        self.forward: Any = torch.compile(self.model) if config.compile else self.model
        if ranks.size > 1:
            self.forward = torch.nn.parallel.DistributedDataParallel(self.forward)
        self._no_action = null_action(self.model.config.action_dim).to(self.device)
        self._losses: list[float] = []

    def __call__(self) -> int:
        """Train to the end; 0, or 130 when interrupted."""
        config = self.config
        console.print(
            f"world model: {parameter_count(self.model) / 1e6:.2f} M parameters, {len(self.flat.lengths)} episodes, "
            f"{self.flat.total_frames} frames, {len(self.held)} episodes held out, on {self.device}"
        )
        self.train()
        self.save()
        if self.step < config.steps and not self._out_of_time:
            self.folder.close()
            console.print(f"stopped at step {self.step}; start again with --run {config.run} to go on")
            return 130
        found = self.measure()
        if self.ranks.first:
            result = {**asdict(config.loss), "step": self.step, "seconds": self.elapsed, **found}
            self.folder.write_result(result)
            self.folder.close()
            console.print(f"world model -> {self.folder.path / 'model'}")
        return 0

    def train(self) -> None:
        """Steps until they, or the time, are spent, or the run is asked to stop."""
        config = self.config
        self.model.train()
        with interruptible() as interrupted, progress_bar() as bar:
            task = bar.add_task("world model", total=config.steps, completed=self.step, note="")
            if self.step == 0:
                self.measure()  # where it starts from
            last_save = last_measure = time.monotonic()
            while self.step < config.steps:
                stopped, self.elapsed = self.ranks.agree(bool(interrupted), self.elapsed)
                if stopped or self._out_of_time:
                    break
                self.take_step()
                note = f"loss {np.mean(self._losses[-50:]):.4f}, {self.step / max(self.elapsed, 1e-9):.2f} steps/s"
                bar.update(task, completed=self.step, note=note)
                if time.monotonic() - last_save > config.checkpoint_seconds:
                    self.save()
                    last_save = time.monotonic()
                if time.monotonic() - last_measure > config.evaluate_seconds:
                    self.measure()
                    last_measure = time.monotonic()

    def take_step(self) -> None:
        """One optimiser step. Raises: DataError where the loss or its gradient is not finite."""
        config, began = self.config, time.monotonic()
        rate = self.learning_rate()
        for optimiser in self.optimisers.values():
            for group in optimiser.param_groups:
                group["lr"] = rate
        batch = self.draw()
        loss = self.backward(batch)
        slope = float(torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.clip_norm))
        if self.ranks.agree(not np.isfinite(loss + slope), 0.0)[0]:
            raise DataError(
                f"world model: loss is {loss} and its gradient's norm {slope} at step {self.step} (the batch of this "
                f"step and seed {config.seed}); its clips came from {_some(batch.names)}; the last good checkpoint "
                f"in {self.folder.path} is kept; look at them or lower learning_rate"
            )
        for optimiser in self.optimisers.values():
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        update_average(self.average, self.model, config.ema, self.step)
        self.step += 1
        self._losses.append(loss)
        self.elapsed += time.monotonic() - began
        if self.step % 50 == 0:
            if self.ranks.first:
                metrics = {"loss": float(np.mean(self._losses)), "learning_rate": rate, "seconds": self.elapsed}
                self.folder.log(self.step, metrics)
            self._losses = self._losses[-50:]

    def learning_rate(self) -> float:
        """Of the next step."""
        config = self.config
        if not config.decay:
            return config.learning_rate * min(1.0, (self.step + 1) / max(1, config.warmup))
        return decayed_rate(
            config.learning_rate, self.step, config.steps, self.elapsed, config.seconds, warmup=config.warmup
        )

    def draw(self) -> Batch:
        """The whole batch of the next step, the same in every process."""
        config, device = self.config, self.device
        numbers = np.random.default_rng(derive_seed(config.seed, "clips", self.step))
        clips = draw_clips(self.flat, config.batch, config.clip_frames, numbers)
        generator = torch.Generator(device).manual_seed(derive_seed(config.seed, "noise", self.step))
        values = clips.values.to(device).float()
        actions = clips.conditions.to(device)
        if config.first_action_zero:
            actions[:, 0] = 0
        dropped = torch.rand(config.batch, generator=generator, device=device) < config.action_dropout
        actions = torch.where(dropped[:, None, None], self._no_action, actions)
        valid = None if bool(clips.valid.all()) else clips.valid.to(device)
        return Batch(values, actions, valid, draw_noise(self.schedule, values, config.loss, generator), clips.names)

    def backward(self, batch: Batch) -> float:
        """Add the gradients of this process's clips, summed over processes in the last pass; their mean loss."""
        config, ranks = self.config, self.ranks
        autocast: Any = torch.autocast(self.device.type, torch.bfloat16) if config.bf16 else nullcontext()
        size = config.batch // (config.accumulate * ranks.size)
        total = 0.0
        for i in range(config.accumulate):
            begin = (i * ranks.size + ranks.rank) * size
            last = i == config.accumulate - 1
            with nullcontext() if ranks.size == 1 or last else self.forward.no_sync():
                with autocast:
                    loss = batch.loss(self.forward, self.schedule, config.loss, slice(begin, begin + size))
                (loss / config.accumulate).backward()
            total += float(loss.detach()) / config.accumulate
        return total

    def measure(self) -> dict[str, Any]:
        """Imagine held-out episodes, log and show how they compare; what the run's result says of it."""
        config, folder = self.config, self.folder
        if not self.held or not self.ranks.first:
            return {}
        held = self.held[: config.evaluate_episodes]
        try:
            result = evaluate_episodes(self.snapshot(), held, config.horizon, config.seed)
        except Stopped:  # the loop saves and leaves
            return {}
        write_strips(folder.media(f"strips_{self.step:08d}.png"), result.strips)
        write_samples(folder.media(f"samples_{self.step:08d}.mp4"), result.samples)
        folder.log(self.step, result.metrics)
        console.print(f"step {self.step}: {format_horizons(result.metrics)}")
        found = result.result()
        return {**found, "curves": {**gain_curve(folder.read_metrics()), **found["curves"]}}

    def snapshot(self) -> LoadedWorldModel:
        """The averaged weights as a model."""
        config = self.config
        copy = WorldModel(self.model.config).to(self.device).eval().requires_grad_(False)
        copy.load_state_dict(self.average)
        training = Training(
            config.loss,
            config.clip_frames,
            config.first_action_zero,
            config.action_dropout,
            config.full_learning_rate,
            config.optimiser,
        )
        made_by = {
            "command": config.COMMAND,
            "step": self.step,
            "seconds": round(self.elapsed, 1),
            "data": list(config.data),
            "objective": config.loss.objective,
            "training": asdict(training),
            "init": config.init,
            "seed": config.seed,
        }
        return LoadedWorldModel(copy, self.autoencoder, config.sampling, made_by)

    def save(self) -> None:
        """Write a checkpoint to resume from, and `model`. Raises: CheckpointError when they cannot be written."""
        if not self.ranks.first:
            return
        state = {"model": self.model.state_dict(), "ema": self.average, "elapsed": self.elapsed}
        state.update({name: optimiser.state_dict() for name, optimiser in self.optimisers.items()})
        self.folder.save_checkpoint(self.step, state)
        save_world_model(self.folder.path / "model", self.snapshot())

    @property
    def _out_of_time(self) -> bool:
        return bool(self.config.seconds and self.elapsed >= self.config.seconds)

    def _read(self) -> None:
        """Data and run folder; the first process fills the cache, the others wait for it."""
        config, autoencoder, first = self.config, self.autoencoder, self.ranks.first
        if not first:
            self.ranks.wait()
        self.flat, self.held = flatten(
            config.data,
            size=autoencoder.image_size,
            cache=config.cache,
            held_out=config.held_out,
            transform=lambda frames: autoencoder.encode(frames).cpu().numpy().astype(np.float16),
            transform_id=encoder_id(autoencoder),
        )
        if first:
            for file in self.held[: config.evaluate_episodes]:
                file.read(autoencoder.image_size)  # a broken one is named now, not at the first evaluation
        self.folder = RunFolder(config.run, config if first else None)
        if first:
            self.ranks.wait()

    def _resume(self) -> None:
        """Go on from the run folder's newest checkpoint, if there is one."""
        config, folder = self.config, self.folder
        state = folder.load_checkpoint(tidy=self.ranks.first)
        if state is None:
            return
        load_weights(self.model, state["model"], f"{folder.path}/checkpoints, from which --run {config.run} resumes,")
        self.average = {name: tensor.to(self.device) for name, tensor in state["ema"].items()}
        refuse_other_options(
            folder.path, {"optimiser": "muon" if "muon" in state else "adamw"}, {"optimiser": config.optimiser}
        )
        for name, optimiser in self.optimisers.items():
            optimiser.load_state_dict(state[name])
        self.step, self.elapsed = int(state["step"]), float(state["elapsed"])
        console.print(f"resuming at step {self.step}")
