"""Supervised fine-tuning of the policy on episodes, as OpenVLA-OFT trains with discrete tokens: cross-entropy over the
whole vocabulary on the tokens of a chunk and the stop token behind them, all predicted in one forward.

A new model is built from a recipe (`--init`), or a checkpoint is fine-tuned (`--base`), in full or as a low-rank
adapter. Iter-SFT (World-Gymnast, section 5.2): `--mix` adds logged or imagined successes at a stated ratio; action
statistics come from the base, or from the demonstrations alone for a new model. Under `torchrun` the processes shard
the model (FSDP2) and divide the samples; the result is that of one process with a batch as large.
"""

from __future__ import annotations

import hashlib
import math
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field

from gymnast_core.config import Fraction, NotNegative, Positive, Seed, find_model, load_config
from gymnast_core.device import choose_device
from gymnast_core.errors import CheckpointError, ConfigError, DataError
from gymnast_core.policy import adapters
from gymnast_core.policy.checkpoint import check_target, read_checkpoint, with_statistics
from gymnast_core.policy.config import ImageVariant
from gymnast_core.policy.dataset import (
    Kept,
    Labels,
    Order,
    Samples,
    TrainingEpisode,
    find_entries,
    say,
    split_entries,
)
from gymnast_core.policy.images import Augmentation, augment
from gymnast_core.policy.openvla import OpenVLAPolicy
from gymnast_core.policy.parallel import (
    PeerLost,
    Ranks,
    load_whole_optimizer_state,
    load_whole_state,
    whole,
    whole_optimizer_state,
    whole_state,
)
from gymnast_core.policy.recipe import ModelRecipe, new_checkpoint
from gymnast_core.policy.statistics import compute_statistics
from gymnast_core.progress import console, interruptible, interrupts, progress_bar
from gymnast_core.run_folder import RunFolder, derive_seed, refuse_other_options, seed_everything

RECIPES = Path(__file__).resolve().parent / "recipes"
Count = Annotated[int, Field(ge=1)]
SHIPPED = "mini/policy"
Batch = tuple[np.ndarray, list[str], np.ndarray]
"""Prepared frames (B, S, S, 3) uint8, B instructions and bins (B, K * 7) int64."""


@dataclass(frozen=True)
class SFTConfig:
    """Supervised fine-tuning of the policy."""

    data: tuple[str, ...] = ()
    """Folders of demonstrations: gymnast episodes, or WorldGym's N.mp4 with N.npz."""
    mix: tuple[str, ...] = ()
    """Folders of logged or imagined episodes; those judged a success are mixed in (Iter-SFT)."""
    mix_ratio: Positive = 1.0
    """Mixed samples for each sample of the demonstrations; the paper's Iter-SFT has 1."""
    base: str = ""
    """Checkpoint folder to start from, or the name of a shipped one; empty: a new model by `init` or `model`, and where
    these are empty too the shipped mini/policy."""
    chunk_length: Annotated[int, Field(ge=0, le=64)] = 0
    """Actions of one forward of a base; 0: as its config.json says, 5 where it says nothing. Not for an adapter alone,
    which acts as its base does."""
    image_variant: ImageVariant | Literal[""] = ""
    """How frames become a base's input; empty: as its config.json says, center_crop where it says nothing. Not for an
    adapter alone."""
    init: str = ""
    """Recipe whose `model` section a new model is built from: a shipped one by name, or a YAML file."""
    model: ModelRecipe | None = None
    """Sizes of a new model; usually given by a recipe."""
    out: str = "runs/policy"
    """Checkpoint folder to write (with lora_rank 0 or merge), replaced when it is one already."""
    run: str = "runs/sft"
    """Run folder: metrics and checkpoints; an interrupted run in it is resumed."""
    unnorm_key: str = "station"
    """Name of the action statistics: computed from the data for a new model, looked up in a base."""
    instruction: str = ""
    """Instruction of episodes that carry none."""
    labels: Labels = "executed"
    """Learn what the safety envelope let through, or what was commanded."""
    successes_only: bool = True
    """Leave out episodes that were judged failures."""
    holdout: Fraction = 0.1
    """Share of the demonstrations kept back to measure on."""
    steps: Count = 20000
    """Optimiser steps."""
    seconds: NotNegative = 0.0
    """Stop after this time, learning rate decayed by then; 0: no limit."""
    batch_size: Count = 32
    """Samples of one forward, on each process."""
    accumulation: Count = 1
    """Forwards of one optimiser step."""
    learning_rate: Positive = 5e-4
    """AdamW's, after the warm-up."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Learning rate after the warm-up."""
    decay_after: Annotated[int, Field(ge=0)] = 0
    """Step from which the learning rate is a tenth, as OpenVLA-OFT does after 100,000; 0: never."""
    warmup: Annotated[int, Field(ge=0)] = 0
    """Steps over which the learning rate rises from a tenth."""
    weight_decay: NotNegative = 0.01
    """AdamW's."""
    max_grad_norm: NotNegative = 1.0
    """Longest gradient; 0: any, as OpenVLA-OFT trains."""
    label_sigma: Annotated[float, Field(ge=0, le=64)] = 0.0
    """Standard deviation, in bins, of a Gaussian that spreads each label over its neighbours: bins are ordered, and a
    model trained from nothing on few episodes need not learn that from data. 0: one-hot, as OpenVLA-OFT trains."""
    lora_rank: Annotated[int, Field(ge=0, le=1024)] = 32
    """Rank of the adapter that is trained; 0 trains all weights."""
    lora_alpha: Positive = 16.0
    """The adapter's change is scaled by alpha / rank."""
    lora_vision: bool = True
    """Adapt the vision towers and the projector besides the language model."""
    merge: bool = True
    """Add the trained adapter to the weights and write a whole checkpoint; otherwise write it to `adapters`."""
    adapters: str = "runs/adapters"
    """Folder of adapters, used without merge."""
    crop_area: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Share of a training frame that a random crop keeps (with `resize`: at least); 1: no crop."""
    brightness: Fraction = 0.2
    """Training frames are made darker or brighter by up to this share of full scale; 0: never."""
    contrast: Fraction = 0.2
    """Contrast is changed by a factor of up to 1 plus or minus this."""
    saturation: Fraction = 0.2
    """Saturation likewise."""
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.05
    """Hue is turned by up to this share of the colour circle."""
    recompute_activations: bool = False
    """Trade time for memory in the language model."""
    log_every: Count = 20
    """Steps between logged figures."""
    evaluate_every: Count = 500
    """Steps between measurements on the held-out episodes."""
    evaluate_samples: Count = 512
    """At most so many held-out samples."""
    save_every: Count = 500
    """Steps between resumable checkpoints."""
    workers: Annotated[int, Field(ge=1, le=64)] = 1
    """Threads that prepare the next batches."""
    threads: Annotated[int, Field(ge=0, le=256)] = 0
    """CPU threads of torch; 0: its default."""
    device: str = "auto"
    """"cpu", "cuda", or "auto"."""
    seed: Seed = 0
    """Decides initial weights, order, crops and colours, and which episodes are held out."""


@dataclass
class Progress:
    """Where a run is: optimiser steps done, samples drawn, seconds spent."""

    step: int = 0
    samples: int = 0
    seconds: float = 0.0


class Trainer:
    """One run of supervised fine-tuning. Raises: ConfigError, DataError, CheckpointError before anything is trained."""

    def __init__(self, config: SFTConfig) -> None:
        self.config = config
        self.ranks = Ranks()
        console.quiet = not self.ranks.first
        if not config.data:
            raise ConfigError("data: found nothing, needed at least one folder of episodes (--data)")
        if config.threads:
            torch.set_num_threads(config.threads)
        seed_everything(config.seed)
        check_folders(config)
        if self.ranks.first and writes_checkpoint(config):
            check_target(config.out)
        elif self.ranks.first:
            adapters.AdapterStore(config.adapters).prepare()
        self.run = RunFolder(config.run, config if self.ranks.first else None)
        keep: Kept = "not failures" if config.successes_only else "all"
        demonstrations = find_entries(config.data, config.instruction, config.labels, keep)
        mixed = find_entries(config.mix, config.instruction, config.labels, "successes") if config.mix else []
        train, held = split_entries(demonstrations, config.holdout, config.seed)
        self._train_entries = train
        self._instructions = {entry.instruction: entry.path for entry in (*mixed, *demonstrations)}
        self.policy = self._build(self.ranks.device(choose_device(config.device)))
        self._check_instructions()
        self.adapter = "sft" if config.lora_rank else None
        self._prepare(self.policy)
        self.ranks.shard(self.policy.model)
        self.parameters = list(self._trained().values())
        length = self.policy.chunk_length
        self.sources = (Samples(train, length), Samples(mixed, length))
        self.held = Samples(held, length)
        share = config.mix_ratio / (1.0 + config.mix_ratio)
        self.order = Order(len(self.sources[0]), len(self.sources[1]), share, config.seed)
        jitter = (config.brightness, config.contrast, config.saturation, config.hue)
        self.augmentation = Augmentation(config.crop_area, *jitter)
        decayed = [p for p in self.parameters if p.ndim >= 2]
        others = [p for p in self.parameters if p.ndim < 2]
        groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW([g for g in groups if g["params"]], lr=config.learning_rate)
        self.progress = Progress()
        self._resume()

    # --- data ---------------------------------------------------------------------------------------------------

    def _check_instructions(self) -> None:
        """See that the vocabulary can spell them all, before training. Raises: DataError naming the episode."""
        for instruction, path in self._instructions.items():
            try:
                self.policy.prompts(instruction)
            except DataError as error:
                raise DataError(f"{path}: {error}") from error

    def batch(self, first: int) -> Batch:
        """Samples first .. first + batch_size - 1. Raises: DataError when one cannot be read any more."""
        frames, instructions, actions = [], [], []
        for k in range(first, first + self.config.batch_size):
            source, index = self.order(k)
            samples = self.sources[source]
            generator = np.random.default_rng(derive_seed(self.config.seed, "augment", k))
            images = self.policy.images
            frames.append(augment(samples.frame(index), images.variant, images.size, self.augmentation, generator))
            instruction, chunk = samples.label(index)
            instructions.append(instruction)
            actions.append(chunk)
        return np.stack(frames), instructions, self.policy.encode_actions(np.stack(actions))

    # --- training -----------------------------------------------------------------------------------------------

    def learning_rate(self) -> float:
        """Of the next step; a time limit counts like steps, whichever is further on."""
        config, now = self.config, self.progress
        done = now.step / config.steps
        if config.seconds:
            done = max(done, now.seconds / config.seconds)
        rate = config.learning_rate
        if config.schedule == "cosine":
            rate *= 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))
        if config.decay_after and now.step >= config.decay_after:
            rate *= 0.1
        return rate * (0.1 + 0.9 * min(1.0, (now.step + 1) / config.warmup)) if config.warmup else rate

    def step(self, batches: Sequence[Batch]) -> dict[str, float]:
        """One optimiser step over `accumulation` batches. Raises: CheckpointError when the loss is not finite."""
        rate = self.learning_rate()
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        total, right = 0.0, 0.0
        for frames, instructions, bins in batches:
            loss, accuracy = self.loss(self.logits(frames, instructions), bins, self.config.label_sigma)
            (loss / len(batches)).backward()
            total += float(loss.detach()) / len(batches)
            right += accuracy / len(batches)
        norm = float(whole(torch.nn.utils.clip_grad_norm_(self.parameters, self.config.max_grad_norm or math.inf)))
        total, right = self.ranks.average(total, right)
        if not (math.isfinite(total) and math.isfinite(norm)):
            raise CheckpointError(
                f"{self.config.run}: at step {self.progress.step} the loss is {total}, its gradient's length {norm}; "
                "lower learning_rate and resume"
            )
        self.optimizer.step()
        self.progress.step += 1
        self.progress.samples += len(batches) * self.config.batch_size * self.ranks.size
        return {"loss": total, "token_accuracy": right, "grad_norm": norm, "learning_rate": rate}

    def logits(self, frames: np.ndarray, instructions: Sequence[str]) -> torch.Tensor:
        """(B, K * 7 + 1, vocabulary) float32 of prepared frames (B, S, S, 3) uint8, the stop token's position last."""
        policy = self.policy
        with torch.autocast(policy.device.type, torch.bfloat16, enabled=policy.device.type == "cuda"):
            return policy.model(*policy.inputs(frames, instructions), whole_vocabulary=True)

    def loss(self, logits: torch.Tensor, bins: np.ndarray, sigma: float = 0.0) -> tuple[torch.Tensor, float]:
        """(cross-entropy in nats a token, share of action tokens whose likeliest token is the label).

        logits: (B, K * 7 + 1, vocabulary), of `logits`. bins: (B, K * 7), the labels.
        sigma: standard deviation, in bins, over which a label is spread; 0: one-hot.
        """
        policy, config = self.policy, self.policy.config
        labels = torch.as_tensor(bins + config.first_action_id, device=policy.device)
        log_p = torch.log_softmax(logits, dim=-1)
        if sigma:
            columns = torch.arange(config.n_bins, device=policy.device)
            distance = (columns - torch.as_tensor(bins, device=policy.device)[..., None]) / sigma
            weights = torch.softmax(-0.5 * distance.square(), dim=-1)
            action = -(weights * log_p[:, :-1, config.first_action_id : config.unpadded_vocab_size]).sum(-1)
        else:
            action = -log_p[:, :-1].gather(-1, labels[..., None])[..., 0]
        stop = -log_p[:, -1:, config.stop_token_id]
        loss = torch.cat([action, stop], dim=1).mean()
        return loss, float((logits[:, :-1].argmax(-1) == labels).float().mean())

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Cross-entropy, token accuracy and error of greedy actions on held-out samples, not augmented."""
        policy, n = self.policy, min(len(self.held), self.config.evaluate_samples)
        if not n:
            return {}
        chosen = np.random.default_rng(derive_seed(self.config.seed, "evaluate")).permutation(len(self.held))[:n]
        sums = np.zeros(4)
        for begin in range(0, n, self.config.batch_size):
            indices = chosen[begin : begin + self.config.batch_size].tolist()
            raw = [self.held.frame(i) for i in indices]
            frames = np.concatenate([policy.images.prepare(frame[None]) for frame in raw])
            labels = [self.held.label(i) for i in indices]
            actions = np.stack([chunk for _, chunk in labels])
            instructions = [text for text, _ in labels]
            logits = self.logits(frames, instructions)
            loss, accuracy = self.loss(logits, policy.encode_actions(actions))
            tokens = logits[:, :-1, policy.config.first_action_id : policy.config.unpadded_vocab_size].argmax(-1)
            error = np.abs(policy.actions(tokens.cpu().numpy()) - actions)
            gripper = (error[..., 6] > 0.5).mean()
            sums += len(indices) * np.array([float(loss), accuracy, error[..., :3].mean() * 1000, gripper])
        names = ("held_out_loss", "held_out_token_accuracy", "held_out_translation_error_mm", "held_out_gripper_error")
        return dict(zip(names, (sums / n).tolist()))

    @torch.no_grad()
    def _training_loss(self) -> float:
        """Of one batch, where nothing is held out."""
        frames, instructions, bins = self.batch(0)
        return float(self.loss(self.logits(frames, instructions), bins)[0])

    def train(self) -> bool:
        """Train until the steps or the time are spent; False when interrupted (resumable)."""
        config, ranks = self.config, self.ranks
        interrupted = False
        with interruptible() as stop, progress_bar() as bar, ThreadPoolExecutor(config.workers) as pool:
            task = bar.add_task("sft", total=config.steps, completed=self.progress.step, note="")
            pending: list[Future[Batch]] = []
            drawn = self.progress.samples + ranks.rank * config.batch_size
            while not self._spent():
                while len(pending) < config.accumulation + config.workers:
                    pending.append(pool.submit(self.batch, drawn))
                    drawn += config.batch_size * ranks.size
                began, now = time.monotonic(), self.progress
                metrics = self.step(self._prepared(pending))
                now.seconds += time.monotonic() - began  # waiting for samples included
                interrupted, now.seconds = ranks.agree(bool(stop), now.seconds)
                if ranks.first and (now.step % config.log_every == 0 or now.step == 1):
                    metrics["samples"] = float(now.samples)
                    metrics["samples_per_second"] = now.samples / max(now.seconds, 1e-9)
                    self.run.log(now.step, metrics)
                note = f"loss {metrics['loss']:.3f}  accuracy {metrics['token_accuracy']:.2f}"
                if config.seconds:
                    note += f"  {max(0.0, config.seconds - now.seconds):.0f} s left"
                bar.update(task, completed=now.step, note=note)
                if interrupted:
                    break
                if now.step % config.evaluate_every == 0:
                    self._report(self.evaluate())
                if now.step % config.save_every == 0:
                    self.save()
            for future in pending:
                future.cancel()
        self.save()
        return self._spent()

    def _prepared(self, pending: list[Future[Batch]]) -> list[Batch]:
        """The next step's batches. A sample that cannot be read any more does not cost what is trained already."""
        try:
            return [pending.pop(0).result() for _ in range(self.config.accumulation)]
        except DataError:
            if self.ranks.size == 1 and self.progress.step:
                self.save()
            raise

    def finish(self) -> dict[str, Any]:
        """Measure, write the checkpoint or adapter and `result.json`; returns the result.

        Raises: CheckpointError when training blew the weights up, or nothing can be written.
        """
        config, policy = self.config, self.policy
        measured = self.evaluate()
        self._report(measured)
        last = measured["held_out_loss"] if measured else self._training_loss()
        if not math.isfinite(last):
            what = "held-out loss" if measured else "loss"
            raise CheckpointError(
                f"{config.run}: the {what} is {last} in the end, nothing is written; lower learning_rate and train in "
                "another --run"
            )
        if self.ranks.size > 1:
            policy = self._gathered()
        if not self.ranks.first:
            return {}
        facts: dict[str, Any] = {
            "steps": self.progress.step,
            "samples": self.progress.samples,
            "seconds": round(self.progress.seconds, 1),
            "episodes": len(self.sources[0].entries),
            "mixed_episodes": len(self.sources[1].entries),
            "parameters": sum(p.numel() for p in policy.model.parameters()),
            **measured,
        }
        base = str(find_base(config) or "")
        made_by = {"command": "gymnast sft", "base": base, "data": list(config.data), "mix": list(config.mix)}
        if self.adapter and not config.merge:
            store = adapters.AdapterStore(config.adapters)
            name = adapters.adapter_name(config.unnorm_key, "sft")
            store.save(policy, self.adapter, name, config.unnorm_key, "sft", measured)
            facts["adapter"] = str(store.root / name)
        else:
            if self.adapter:
                adapters.merge(policy, self.adapter)
            facts["checkpoint"] = str(policy.save(config.out, {**made_by, **facts}))
        self.run.write_result(facts)
        self.run.close()
        return facts

    # --- state --------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write a checkpoint from which the run goes on as if it had never stopped; all processes take part.

        Raises: CheckpointError when it cannot be written; the one before stays.
        """
        now, model = self.progress, self.policy.model
        trained = self._trained()
        if self.ranks.size > 1:
            weights = {name: value for name, value in whole_state(model).items() if name in trained}
            optimizer = whole_optimizer_state(model, self.optimizer)
        else:
            weights = {name: parameter.detach().cpu().clone() for name, parameter in trained.items()}
            optimizer = self.optimizer.state_dict()
        if self.ranks.first:
            facts: dict[str, Any] = {"samples": now.samples, "seconds": now.seconds, "processes": self.ranks.size}
            facts["settings"] = self._settings()
            self.run.save_checkpoint(now.step, {"weights": weights, "optimizer": optimizer, **facts})
        self.ranks.wait()

    def _resume(self) -> None:
        state = self.run.load_checkpoint(tidy=self.ranks.first, mapped=self.ranks.size > 1)
        if state is None:
            return
        refuse_other_options(self.run.path, state.get("settings") or {}, self._settings())
        before = int(state.get("processes", 1))
        if before != self.ranks.size:
            raise CheckpointError(
                f"{self.run.path}: was run with {before} process(es), found {self.ranks.size}; resume with as many, or "
                "choose another --run"
            )
        named = self._trained()
        weights: Mapping[str, torch.Tensor] = state["weights"]
        if {n: tuple(p.shape) for n, p in named.items()} != {n: tuple(w.shape) for n, w in weights.items()}:
            raise CheckpointError(f"{self.run.path}: holds a run of another model or adapter; choose another --run")
        if self.ranks.size > 1:
            load_whole_state(self.policy.model, weights)
            load_whole_optimizer_state(self.policy.model, self.optimizer, state["optimizer"])
        else:
            with torch.no_grad():
                for name, parameter in named.items():
                    parameter.copy_(weights[name])
            self.optimizer.load_state_dict(state["optimizer"])
        self.progress = Progress(int(state["step"]), int(state["samples"]), float(state["seconds"]))
        say(f"resuming {self.run.path} after step {self.progress.step}")

    def _settings(self) -> dict[str, str]:
        """What must be the same for a run to go on as if it had never stopped, as text.

        Steps, time and the learning rate with its schedule may change: they say how the run goes on.
        """
        config, model = self.config, self.policy.config
        names = ("unnorm_key", "mix_ratio", "batch_size", "accumulation", "lora_rank", "lora_alpha", "lora_vision")
        found = {name: str(getattr(config, name)) for name in (*names, "weight_decay", "labels", "label_sigma", "seed")}
        for name, source in zip(("data", "mix"), self.sources):
            found[f"{name} (samples)"] = str(len(source))
        for name, source in zip(("data", "mix"), self.sources):  # the same count of others is not the same
            texts = (f"{entry.instruction}\0".encode() + entry.actions.tobytes() for entry in source.entries)
            found[f"{name} (digest)"] = _digest(*texts)
        found["augmentation"] = str(self.augmentation)
        found["base"] = self.policy.checkpoint.fingerprint
        found["chunk_length"], found["image_variant"] = str(model.chunk_length), model.image_variant
        found["model (digest)"] = _digest(str(model).encode())
        return found

    def _build(self, device: str) -> OpenVLAPolicy:
        return build_policy(self.config, self._train_entries, self._instructions, device)

    def _trained(self) -> dict[str, torch.nn.Parameter]:
        return {name: p for name, p in self.policy.model.named_parameters() if p.requires_grad}

    def _prepare(self, policy: OpenVLAPolicy) -> None:
        """Choose what is trained: a fresh adapter, or all weights that take part."""
        config = self.config
        policy.model.language_model.model.recompute_activations = config.recompute_activations
        if self.adapter:
            vision = config.lora_vision
            factors = (config.lora_rank, config.lora_alpha, vision, vision, config.seed, 1.0 / config.lora_rank)
            adapters.attach(policy, self.adapter, *factors)
            adapters.activate(policy, self.adapter)
        adapters.train_only(policy, self.adapter)

    def _gathered(self) -> OpenVLAPolicy:
        """The sharded policy as a plain one, whole on the first process."""
        state = whole_state(self.policy.model)
        policy = self.policy
        if self.ranks.first:
            policy = self._build("cpu")
            policy.model.to(self.policy.dtype)  # as one process would write it
            self._prepare(policy)
            with torch.no_grad():
                for name, parameter in policy.model.named_parameters():
                    parameter.copy_(state[name])
        return policy

    def _report(self, measured: Mapping[str, float]) -> None:
        if not measured:
            return
        if self.ranks.first:
            self.run.log(self.progress.step, measured)
        say(f"step {self.progress.step}: " + "  ".join(f"{name} {value:.4g}" for name, value in measured.items()))

    def _spent(self) -> bool:
        config, now = self.config, self.progress
        return now.step >= config.steps or (config.seconds > 0 and now.seconds >= config.seconds)


def writes_checkpoint(config: SFTConfig) -> bool:
    """Whether the result is a whole checkpoint in `out`, not an adapter."""
    return config.lora_rank == 0 or config.merge


def find_base(config: SFTConfig) -> Path | None:
    """The checkpoint to start from; None: a new model. Raises: ConfigError when there is none of that name."""
    named = config.base or ("" if config.init or config.model else SHIPPED)
    return find_model(named) if named else None


def check_folders(config: SFTConfig) -> None:
    """See that no folder is in the way of another. Raises: ConfigError naming the option."""
    try:
        run, out, base = Path(config.run).resolve(), Path(config.out).resolve(), find_base(config)
    except ValueError as error:  # a NUL
        raise ConfigError(f"run or out: found {config.run!r} and {config.out!r}, needed names of folders") from error
    if writes_checkpoint(config):
        if base is not None and out == base.resolve():
            raise ConfigError(f"out: found the base itself ({config.out}), needed another folder")
        if out == run or out in run.parents:
            raise ConfigError(
                f"run: found {config.run}, which is, or lies in, the checkpoint folder that will be replaced "
                f"({config.out}); choose another --run"
            )


def build_policy(
    config: SFTConfig, demonstrations: Sequence[TrainingEpisode], instructions: Iterable[str], device: str
) -> OpenVLAPolicy:
    """The policy to train, on `device`: a base with its statistics, or a new model with those of the demonstrations.

    instructions: of everything it is trained and measured on; their words become a new model's tokens.

    Raises: ConfigError when base and init are both given, or a new model is given options of a base; CheckpointError
        for a bad base.
    """
    if config.base and config.init:
        raise ConfigError("base and init: found both, give one of them")
    base = find_base(config)
    if base is not None:
        for name in ("chunk_length", "image_variant"):
            if (found := getattr(config, name)) and not writes_checkpoint(config):
                raise ConfigError(
                    f"{name}: found {found!r} for an adapter, which acts as its base's config.json says; write "
                    "it there, or merge"
                )
        # Float32 masters whatever the device; the forward runs in bfloat16 on a GPU.
        dtype = torch.bfloat16 if config.lora_rank and device.startswith("cuda") else torch.float32
        given = (config.chunk_length or None, config.image_variant or None)
        return OpenVLAPolicy(read_checkpoint(base, device, dtype, *given), config.unnorm_key)
    recipe = load_model_recipe(config.init) if config.init else config.model
    assert recipe is not None
    if config.lora_rank:
        raise ConfigError(f"lora_rank: found {config.lora_rank} for a new model, needed 0 (there is no base to adapt)")
    for name in ("chunk_length", "image_variant"):
        if found := getattr(config, name):
            raise ConfigError(f"{name}: found {found!r} for a new model, which takes it from `model.{name}`")
    statistics = compute_statistics([entry.actions for entry in demonstrations])
    words = sorted({word for text in instructions for word in re.findall(r"[^\W\d_]+", text)})
    checkpoint = new_checkpoint(recipe, words, config.seed, Path(config.out))
    checkpoint.model.to(device)
    return OpenVLAPolicy(with_statistics(checkpoint, config.unnorm_key, statistics), config.unnorm_key)


def load_model_recipe(name: str) -> ModelRecipe:
    """The `model` section of a recipe, shipped (by name) or a YAML file. Raises: ConfigError."""
    shipped = RECIPES / f"{name}.yaml"
    path = shipped if shipped.exists() else Path(name).expanduser()
    if not path.exists():
        names = ", ".join(sorted(p.stem for p in RECIPES.glob("*.yaml")))
        raise ConfigError(f"init '{name}': neither a file nor a shipped recipe ({names})")
    recipe = load_config(SFTConfig, path).model
    if recipe is None:
        raise ConfigError(f"{path}: has no `model` section")
    return recipe


def sft(config: SFTConfig) -> int:
    """Run `gymnast sft`; 0 when finished, 130 when interrupted or another process of the run ended (run it again)."""
    trainer = Trainer(config)
    demonstrations, mixed = trainer.sources
    trained, where = sum(p.numel() for p in trainer.parameters), trainer.policy.device
    say(
        f"{len(demonstrations)} samples of {len(demonstrations.entries)} episodes (+ {len(mixed)} mixed, "
        f"{len(trainer.held)} held out); {trained:,} parameters on {where}, {trainer.ranks.size} process(es)"
    )
    try:
        with trainer.ranks.together():
            code = _train_and_write(trainer)
    except PeerLost as end:
        say(f"{end}; the same command goes on from {trainer.run.path}")
        return 130
    trainer.ranks.finish()
    return code


def _train_and_write(trainer: Trainer) -> int:
    if not trainer.train():
        say(f"interrupted; the same command goes on from {trainer.run.path}")
        return 130
    with interrupts():  # what is trained is saved: the same command comes back to here
        result = trainer.finish()
    say(f"written: {result.get('checkpoint') or result.get('adapter')}")
    return 0


def _digest(*parts: bytes) -> str:
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]
