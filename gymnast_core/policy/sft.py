"""Supervised fine-tuning of the policy on episodes, as OpenVLA-OFT trains with discrete tokens: cross-entropy over the
whole vocabulary on the tokens of a chunk and the stop token behind them, all predicted in one forward.

A new model is built from a recipe (`--init`), or a checkpoint is fine-tuned (`--base`), in full or as a low-rank
adapter. Iter-SFT (World-Gymnast, section 5.2): `--mix` adds logged or imagined successes at a stated ratio; action
statistics come from the base, or from the demonstrations alone for a new model. Under `torchrun` the processes shard
the model (FSDP2) and divide the samples; the result is that of one process with a batch as large.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch

from gymnast_core.device import choose_device
from gymnast_core.errors import CheckpointError, ConfigError, DataError
from gymnast_core.policy import adapters
from gymnast_core.policy.checkpoint import check_target
from gymnast_core.policy.openvla import OpenVLAPolicy
from gymnast_core.policy.sft_batches import Batch, Batches, SFTEpisodes
from gymnast_core.policy.sft_config import SFTConfig
from gymnast_core.policy.sft_loss import MEASURED, measure_actions, token_logits, token_loss
from gymnast_core.policy.sft_start import (
    ADAPTER,
    build_policy,
    check_folders,
    find_base,
    prepare_sft,
    writes_checkpoint,
)
from gymnast_core.policy.sft_state import State, settings_of, trained_parameters
from gymnast_core.policy.sharding import shard, whole, whole_state
from gymnast_core.progress import Stopped, console, interruptible, interrupts, progress_bar, readers, say
from gymnast_core.ranks import PeerLost, Ranks
from gymnast_core.run_folder import RunFolder
from gymnast_core.seeds import derive_seed, seed_everything

Read = TypeVar("Read")


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
        self._episodes = SFTEpisodes.find(config)
        self.policy = self._build(self.ranks.device(choose_device(config.device)))
        self.data = Batches(config, self._episodes, self.policy)
        prepare_sft(self.policy, config)
        shard(self.ranks, self.policy.model)
        trained = trained_parameters(self.policy)
        self.parameters = list(trained.values())
        self.optimizer = self._optimizer()
        settings = settings_of(config, self.policy, self.data)
        self._state = State(self.run, self.ranks, self.policy.model, self.optimizer, trained, settings)
        self.progress = self._state.resume()
        if self.progress.step:
            say(f"resuming {self.run.path} after step {self.progress.step}")

    def _build(self, device: str) -> OpenVLAPolicy:
        return build_policy(self.config, self._episodes.train, self._episodes.instructions, device)

    def _optimizer(self) -> torch.optim.Optimizer:
        config = self.config
        decayed = [p for p in self.parameters if p.ndim >= 2]
        others = [p for p in self.parameters if p.ndim < 2]
        groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
        return torch.optim.AdamW([g for g in groups if g["params"]], lr=config.learning_rate)

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
            logits = token_logits(self.policy, frames, instructions)
            loss, accuracy = token_loss(self.policy, logits, bins, self.config.label_sigma)
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
        self.progress.samples += len(batches) * self.config.batch * self.ranks.size
        return {"loss": total, "token_accuracy": right, "grad_norm": norm, "learning_rate": rate}

    def evaluate(self) -> dict[str, float]:
        """Cross-entropy, token accuracy and error of greedy actions on held-out samples, not augmented."""
        policy, held, size = self.policy, self.data.held, self.config.batch
        n = min(len(held), self.config.evaluate_samples)
        if not n:
            return {}
        chosen = np.random.default_rng(derive_seed(self.config.seed, "evaluate")).permutation(len(held))[:n]
        sums = np.zeros(len(MEASURED))
        for begin in range(0, n, size):
            indices = chosen[begin : begin + size].tolist()
            raw = self._together(partial(self._held_frames, indices))
            if raw is None:
                return {}
            frames = np.concatenate([policy.images.prepare(frame[None]) for frame in raw])
            labels = [held.label(i) for i in indices]
            actions = np.stack([chunk for _, chunk in labels])
            sums += len(indices) * measure_actions(policy, frames, [text for text, _ in labels], actions)
        return dict(zip(MEASURED, (sums / n).tolist()))

    def _held_frames(self, indices: Sequence[int]) -> list[np.ndarray]:
        return [self.data.held.frame(i) for i in indices]

    def _together(self, read: Callable[[], Read]) -> Read | None:
        """What `read` returns; None, in every process, where one of them was asked to stop meanwhile."""
        try:
            found = read()
        except Stopped:
            found = None
        return None if self.ranks.agree(found is None, 0.0)[0] else found

    @torch.no_grad()
    def _training_loss(self) -> float:
        """Of one batch, where nothing is held out."""
        frames, instructions, bins = self.data(0)
        return float(token_loss(self.policy, token_logits(self.policy, frames, instructions), bins)[0])

    def train(self) -> bool:
        """Train until the steps or the time are spent; False when interrupted (resumable)."""
        config, ranks = self.config, self.ranks
        interrupted = False
        with interruptible() as stop, progress_bar() as bar, readers(config.workers) as pool:
            task = bar.add_task("sft", total=config.steps, completed=self.progress.step, note="")
            pending: list[Future[Batch]] = []
            drawn = self.progress.samples + ranks.rank * config.batch
            while not self._spent():
                while len(pending) < config.accumulation + config.workers:
                    pending.append(pool.submit(self.data, drawn))
                    drawn += config.batch * ranks.size
                began, now = time.monotonic(), self.progress
                batches = self._together(partial(self._prepared, pending))
                if batches is None:
                    interrupted = True
                    break
                metrics = self.step(batches)
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
            "episodes": len(self.data.sources[0].entries),
            "mixed_episodes": len(self.data.sources[1].entries),
            "parameters": sum(p.numel() for p in policy.model.parameters()),
            **measured,
        }
        base = str(find_base(config) or "")
        made_by = {"command": "gymnast sft", "base": base, "data": list(config.data), "mix": list(config.mix)}
        if config.lora_rank and not config.merge:
            store = adapters.AdapterStore(config.adapters)
            name = adapters.adapter_name(config.unnorm_key, "sft")
            store.save(policy, ADAPTER, name, config.unnorm_key, "sft", measured)
            facts["adapter"] = str(store.root / name)
        else:
            if config.lora_rank:
                adapters.merge(policy, ADAPTER)
            facts["checkpoint"] = str(policy.save(config.out, {**made_by, **facts}))
        self.run.write_result(facts)
        self.run.close()
        return facts

    def save(self) -> None:
        """Write a checkpoint from which the run goes on as if it had never stopped; all processes take part.

        Raises: CheckpointError when it cannot be written; the one before stays.
        """
        self._state.save(self.progress)

    def _gathered(self) -> OpenVLAPolicy:
        """The sharded policy as a plain one, whole on the first process."""
        state = whole_state(self.policy.model)
        policy = self.policy
        if self.ranks.first:
            policy = self._build("cpu")
            policy.model.to(self.policy.dtype)  # as one process would write it
            prepare_sft(policy, self.config)
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


def sft(config: SFTConfig) -> int:
    """Run `gymnast sft`; 0 when finished, 130 when interrupted or another process of the run ended (run it again)."""
    trainer = Trainer(config)
    demonstrations, mixed = trainer.data.sources
    trained, where = sum(p.numel() for p in trainer.parameters), trainer.policy.device
    say(
        f"{len(demonstrations)} samples of {len(demonstrations.entries)} episodes (+ {len(mixed)} mixed, "
        f"{len(trainer.data.held)} held out); {trained:,} parameters on {where}, {trainer.ranks.size} process(es)"
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
