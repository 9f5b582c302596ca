"""`gymnast world-model train`: trains the world model on any mix of episode folders.

The autoencoder is frozen and the latents are kept on disk. Batches and noise of step n depend on the seed and n alone,
so a resumed run goes on exactly as if it had not been cut.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from gymnast_core.config import NotNegative, Positive, find_model
from gymnast_core.device import choose_device
from gymnast_core.errors import ConfigError, DataError
from gymnast_core.progress import console, interruptible, progress_bar
from gymnast_core.run_folder import RunFolder, derive_seed, refuse_other_options
from gymnast_core.world_model.actions import null_action
from gymnast_core.world_model.autoencoder import Autoencoder
from gymnast_core.world_model.checkpoint import (
    LoadedWorldModel,
    SamplingConfig,
    check_fit,
    load_autoencoder,
    load_weights,
    load_world_model,
    load_worldgym_checkpoint,
    save_world_model,
)
from gymnast_core.world_model.dataset import EpisodeFile, FlatEpisodes, draw_clips, flatten
from gymnast_core.world_model.diffusion import LossConfig, Schedule, draw_noise, training_loss
from gymnast_core.world_model.evaluate import (
    evaluate_episodes,
    format_horizons,
    gain_curve,
    write_samples,
    write_strips,
)
from gymnast_core.world_model.model import WorldModel, WorldModelConfig, parameter_count
from gymnast_core.world_model.train_autoencoder import learning_rate

OptimiserKind = Literal["adamw", "muon"]


@dataclass(frozen=True)
class TrainConfig:
    """Training of the world model. Values are those of the WorldGym paper; `recipes/` holds this and the miniature."""

    COMMAND: ClassVar[str] = "gymnast world-model train"

    run: str = "runs/world_model/train"
    """Run folder; a second start in the same folder resumes. The result is its subfolder `model`."""
    data: tuple[str, ...] = ()
    """Folders of episodes (gymnast's or WorldGym's layout), each as FOLDER or FOLDER@WEIGHT."""
    autoencoder: str = ""
    """A small autoencoder's folder (or a shipped one, mini/world_model/autoencoder), or sd3:FOLDER for Stable Diffusion
    3's. Empty with `init`: that model's own."""
    init: str = ""
    """Start from this: a world-model folder, or a WorldGym training checkpoint (.pt). Empty: fresh weights."""
    cache: str = "runs/cache"
    """Where latents are kept for the next run."""
    image_size: int = 256
    """Frame side in pixels for sd3:FOLDER; the small autoencoder knows its own."""
    model: WorldModelConfig = field(default_factory=WorldModelConfig)
    """Size; with `init` a folder's own size is used."""
    loss: LossConfig = field(default_factory=LossConfig)
    """What is taught."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """How evaluation draws frames; stored with the model."""
    clip_frames: int = 20
    """Frames of a training clip, at most max_frames."""
    first_action_zero: bool = False
    """Give every clip's first frame the zero action, as a rollout's first frame has."""
    steps: int = 580_000
    """Optimiser steps."""
    seconds: NotNegative = 0.0
    """Time budget; the run ends at whichever of steps and seconds comes first. 0 = no limit."""
    batch: int = 16
    """Clips a step."""
    accumulate: int = 1
    """Split a step's batch into so many passes to save memory."""
    optimiser: OptimiserKind = "adamw"
    """"adamw" (the paper), or "muon": matrices inside the blocks are moved by orthogonalised momentum (Muon, arXiv
    2502.16982, steps of AdamW's size), the rest by AdamW. The miniature needs two thirds of the steps."""
    learning_rate: Positive = 8e-5
    """The optimiser's, after warm-up."""
    decay: bool = False
    """Cosine to a hundredth of the learning rate over the steps or the time budget; otherwise constant."""
    warmup: int = 0
    """Steps of linear warm-up."""
    weight_decay: NotNegative = 0.02
    """The optimiser's, of matrices."""
    ema: float = 0.999
    """Decay of the moving average of the weights, which is what is evaluated and saved."""
    action_dropout: float = 0.1
    """Share of clips whose actions become "no action given", for guidance."""
    clip_norm: Positive = 1.0
    """Largest gradient norm."""
    bf16: bool = False
    """Compute in bfloat16 (weights stay float32). On a GPU yes, on a CPU it is slower."""
    compile: bool = False
    """Use torch.compile."""
    held_out: float = 0.05
    """Share of the episodes kept for evaluation, where the data set has no test folders of its own."""
    checkpoint_seconds: Positive = 300.0
    """How often a resumable checkpoint and `model` are written."""
    evaluate_seconds: Positive = 600.0
    """How often held-out episodes are imagined and compared."""
    evaluate_episodes: int = 16
    """How many of them."""
    horizon: int = 30
    """Frames imagined from an episode's first frame in evaluation."""
    device: str = "auto"
    """torch device; auto takes a GPU if there is one."""
    seed: int = 0
    """Decides initial weights, clips and noise."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "accumulate", "clip_frames", "horizon"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, must be at least 1")
        if not 2 <= self.clip_frames <= self.model.max_frames:
            raise ConfigError(
                f"clip_frames is {self.clip_frames}, must be from 2 to model.max_frames ({self.model.max_frames})"
            )
        if self.batch % self.accumulate:
            raise ConfigError(f"batch {self.batch} must be divisible by accumulate {self.accumulate}")
        if not 0 <= self.ema < 1:
            raise ConfigError(f"ema is {self.ema}, must be from 0 to below 1")
        for name in ("action_dropout", "held_out"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, must be from 0 to below 1")

    @property
    def full_learning_rate(self) -> float:
        """What a later fine-tuning takes a share of."""
        return self.learning_rate


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


def make_optimisers(config: TrainConfig, model: WorldModel) -> dict[str, torch.optim.Optimizer]:
    """AdamW over everything, or over all but the matrices of the blocks and Muon over those; by name in a checkpoint.

    Raises: ConfigError where torch has no Muon.
    """
    matrices: list[Tensor] = []
    if config.optimiser == "muon":
        matrices = [p for name, p in model.named_parameters() if name.startswith("blocks.") and p.ndim == 2]
    chosen = set(matrices)
    decayed = [p for p in model.parameters() if p.ndim >= 2 and p not in chosen]
    plain = [p for p in model.parameters() if p.ndim < 2]
    adamw = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}],
        lr=config.learning_rate,
        betas=(0.9, 0.99),
        foreach=True,
    )
    if not matrices:
        return {"optimiser": adamw}
    if not hasattr(torch.optim, "Muon"):
        raise ConfigError(f"optimiser: muon needs torch 2.9 or newer, found {torch.__version__}; or use adamw")
    muon = torch.optim.Muon(
        matrices, lr=config.learning_rate, weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw"
    )
    return {"optimiser": adamw, "muon": muon}


def encoder_id(autoencoder: Autoencoder) -> str:
    """Names the encoder that made cached latents: a hash of its weights."""
    module = autoencoder if isinstance(autoencoder, torch.nn.Module) else autoencoder.vae  # type: ignore[attr-defined]
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        if name.startswith(("encoder", "latent_scale", "quant_conv")):
            digest.update(name.encode())
            digest.update(tensor.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()


@torch.no_grad()
def update_average(average: Mapping[str, Tensor], model: torch.nn.Module, decay: float, step: int) -> None:
    """Exponential moving average, quicker at the start so that the initial weights leave it."""
    decay = min(decay, (1 + step) / (10 + step))
    torch._foreach_lerp_(
        [average[name] for name, _ in model.named_parameters()], [p.detach() for p in model.parameters()], 1 - decay
    )


def _some(names: Sequence[str], limit: int = 4) -> str:
    distinct = sorted(set(names))
    more = f" and {len(distinct) - limit} more" if len(distinct) > limit else ""
    return ", ".join(distinct[:limit]) + more


@dataclass(frozen=True)
class Workers:
    """The processes of one training run, as `torchrun` starts them; alone without it."""

    rank: int = 0
    count: int = 1
    local_rank: int = 0

    @classmethod
    def join(cls, device_name: str) -> Workers:
        """Join the other processes of this run if there are any."""
        if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
            return cls()
        workers = cls(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), int(os.environ.get("LOCAL_RANK", "0")))
        if workers.count > 1 and not torch.distributed.is_initialized():
            on_gpu = choose_device(device_name).startswith("cuda")
            torch.distributed.init_process_group("nccl" if on_gpu else "gloo")
        return workers

    def any(self, flag: bool, device: torch.device) -> bool:
        """True on every process if it is true on one."""
        if self.count == 1:
            return flag
        value = torch.tensor([float(flag)], device=device)
        torch.distributed.all_reduce(value, op=torch.distributed.ReduceOp.MAX)
        return bool(value.item() > 0)

    def wait(self) -> None:
        if self.count > 1:
            torch.distributed.barrier()

    def leave(self) -> None:
        if self.count > 1 and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def train(config: TrainConfig) -> int:
    """Train, evaluate, write `model`; returns 0, or 130 when interrupted (start again to resume).

    Under `torchrun` the batch is shared out over the processes; the result is that of one process but for rounding.
    Raises DataError, ConfigError, CheckpointError as their parts do; a non-finite loss stops the run and keeps the
    last good checkpoint.
    """
    workers = Workers.join(config.device)
    try:
        return _train(config, workers)
    finally:
        workers.leave()


def _train(config: TrainConfig, workers: Workers) -> int:
    if config.batch % (config.accumulate * workers.count):
        raise ConfigError(
            f"batch {config.batch} must be divisible by accumulate {config.accumulate} x processes {workers.count}"
        )
    device = torch.device(choose_device(config.device))
    if workers.count > 1 and device.type == "cuda":
        device = torch.device("cuda", workers.local_rank)
        torch.cuda.set_device(device)
    first = workers.rank == 0
    model, autoencoder = prepare(config, device)

    def read_data() -> tuple[FlatEpisodes, list[EpisodeFile]]:
        return flatten(
            config.data,
            size=autoencoder.image_size,
            cache=config.cache,
            held_out=config.held_out,
            transform=lambda frames: autoencoder.encode(frames).cpu().numpy().astype(np.float16),
            transform_id=encoder_id(autoencoder),
        )

    if not first:
        workers.wait()  # the first process fills the cache
    flat, held = read_data()
    if first:
        for file in held[: config.evaluate_episodes]:
            file.read(autoencoder.image_size)  # a broken one is named now, not at the first evaluation
    folder = RunFolder(config.run, config if first else None)
    if first:
        workers.wait()
    schedule = Schedule(device=device)
    average = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimisers = make_optimisers(config, model)
    step, elapsed = 0, 0.0
    state = folder.load_checkpoint()
    if state is not None:
        load_weights(model, state["model"], f"{folder.path}/checkpoints, from which --run {config.run} resumes,")
        average = {name: tensor.to(device) for name, tensor in state["ema"].items()}
        refuse_other_options(
            folder.path, {"optimiser": "muon" if "muon" in state else "adamw"}, {"optimiser": config.optimiser}
        )
        for name, optimiser in optimisers.items():
            optimiser.load_state_dict(state[name])
        step, elapsed = int(state["step"]), float(state["elapsed"])
        console.print(f"resuming at step {step}")
    if first:
        console.print(
            f"world model: {parameter_count(model) / 1e6:.2f} M parameters, {len(flat.lengths)} episodes, "
            f"{flat.total_frames} frames, {len(held)} episodes held out, on {device}"
        )

    def snapshot() -> LoadedWorldModel:
        copy = WorldModel(model.config).to(device).eval().requires_grad_(False)
        copy.load_state_dict(average)
        made_by = {
            "command": config.COMMAND,
            "step": step,
            "seconds": round(elapsed, 1),
            "data": list(config.data),
            "objective": config.loss.objective,
            "training": asdict(
                Training(
                    config.loss,
                    config.clip_frames,
                    config.first_action_zero,
                    config.action_dropout,
                    config.full_learning_rate,
                    config.optimiser,
                )
            ),
            "init": config.init,
            "seed": config.seed,
        }
        return LoadedWorldModel(copy, autoencoder, config.sampling, made_by)

    def save() -> None:
        if not first:
            return
        folder.save_checkpoint(
            step,
            {
                "model": model.state_dict(),
                "ema": average,
                "elapsed": elapsed,
                **{name: optimiser.state_dict() for name, optimiser in optimisers.items()},
            },
        )
        save_world_model(folder.path / "model", snapshot())

    def measure() -> dict[str, Any]:
        if not held or not first:
            return {}
        result = evaluate_episodes(snapshot(), held[: config.evaluate_episodes], config.horizon, config.seed)
        write_strips(folder.media(f"strips_{step:08d}.png"), result.strips)
        write_samples(folder.media(f"samples_{step:08d}.mp4"), result.samples)
        folder.log(step, result.metrics)
        console.print(f"step {step}: {format_horizons(result.metrics)}")
        found = result.result()
        return {**found, "curves": {**gain_curve(folder.read_metrics()), **found["curves"]}}

    forward: Any = torch.compile(model) if config.compile else model
    shared: Any = None
    if workers.count > 1:
        forward = shared = torch.nn.parallel.DistributedDataParallel(forward)
    null = null_action(model.config.action_dim).to(device)
    autocast: Any = torch.autocast(device.type, torch.bfloat16) if config.bf16 else nullcontext()
    model.train()
    losses: list[float] = []
    with interruptible() as interrupted, progress_bar() as bar:
        task = bar.add_task("world model", total=config.steps, completed=step, note="", visible=first)
        latest = measure() if step == 0 else {}  # where it starts from
        last_save = last_measure = time.monotonic()
        while step < config.steps:
            if workers.any(bool(interrupted) or bool(config.seconds and elapsed >= config.seconds), device):
                break
            began = time.monotonic()
            rate = config.learning_rate * min(1.0, (step + 1) / max(1, config.warmup))
            if config.decay:
                rate = learning_rate(
                    config.learning_rate, step, config.steps, elapsed, config.seconds, warmup=config.warmup
                )
            for group in (group for optimiser in optimisers.values() for group in optimiser.param_groups):
                group["lr"] = rate
            clips = draw_clips(
                flat, config.batch, config.clip_frames, np.random.default_rng(derive_seed(config.seed, "clips", step))
            )
            generator = torch.Generator(device).manual_seed(derive_seed(config.seed, "noise", step))
            values = clips.values.to(device).float()
            actions = clips.conditions.to(device)
            if config.first_action_zero:
                actions[:, 0] = 0
            dropped = torch.rand(config.batch, generator=generator, device=device) < config.action_dropout
            actions = torch.where(dropped[:, None, None], null, actions)
            valid = None if bool(clips.valid.all()) else clips.valid.to(device)
            noise = draw_noise(schedule, values, config.loss, generator)
            total = 0.0
            size = config.batch // (config.accumulate * workers.count)
            for i in range(config.accumulate):
                begin = (i * workers.count + workers.rank) * size
                part = slice(begin, begin + size)
                last = i == config.accumulate - 1
                with nullcontext() if shared is None or last else shared.no_sync():
                    with autocast:
                        loss = training_loss(
                            forward,
                            schedule,
                            values[part],
                            actions[part],
                            config.loss,
                            noise.part(part),
                            None if valid is None else valid[part],
                        )
                    (loss / config.accumulate).backward()
                total += float(loss.detach()) / config.accumulate
            slope = float(torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm))
            if workers.any(not np.isfinite(total + slope), device):
                raise DataError(
                    f"world model: loss is {total} and its gradient's norm {slope} at step {step} (the batch of this "
                    f"step and seed {config.seed}); its clips came from {_some(clips.names)}; the last good checkpoint "
                    f"in {folder.path} is kept; look at them or lower learning_rate"
                )
            for optimiser in optimisers.values():
                optimiser.step()
                optimiser.zero_grad(set_to_none=True)
            update_average(average, model, config.ema, step)
            step += 1
            losses.append(total)
            elapsed += time.monotonic() - began
            if step % 50 == 0 and first:
                folder.log(step, {"loss": float(np.mean(losses)), "learning_rate": rate, "seconds": elapsed})
                losses = losses[-50:]
            note = f"loss {np.mean(losses[-50:]):.4f}, {step / max(elapsed, 1e-9):.2f} steps/s"
            bar.update(task, completed=step, note=note)
            if time.monotonic() - last_save > config.checkpoint_seconds:
                save()
                last_save = time.monotonic()
            if time.monotonic() - last_measure > config.evaluate_seconds:
                latest = measure()
                last_measure = time.monotonic()
    save()
    if step < config.steps and not (config.seconds and elapsed >= config.seconds):
        folder.close()
        console.print(f"stopped at step {step}; start again with --run {config.run} to go on")
        return 130
    latest = measure()
    if not first:
        return 0
    folder.write_result({**asdict(config.loss), "step": step, "seconds": elapsed, **latest})
    folder.close()
    console.print(f"world model -> {folder.path / 'model'}")
    return 0
