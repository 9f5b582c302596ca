"""Everything GRPO needs to know besides the policy, the environment, the judge and the starts; shipped recipes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from gymnast_core.config import Fraction, NotNegative, Positive, Seed, load_config
from gymnast_core.errors import ConfigError
from gymnast_core.files import user_path
from gymnast_core.rollout.confirmation_config import ConfirmationConfig

RECIPES = Path(__file__).resolve().parent / "recipes"


@dataclass(frozen=True)
class GRPOConfig:
    """Everything GRPO needs to know besides the policy, the environment, the judge and the starts."""

    groups: Annotated[int, Field(ge=1)] = 20
    """Groups generated per batch; an update uses at most this many."""
    min_groups: Annotated[int, Field(ge=1)] = 20
    """Usable groups that an update needs; batches are generated until it has them."""
    group_size: Annotated[int, Field(ge=2)] = 8
    """Rollouts of one start that are compared with each other."""
    min_group_size: Annotated[int, Field(ge=2)] = 4
    """A group that abstentions left smaller than this is not used."""
    horizon: Annotated[int, Field(ge=1, le=1000)] = 40
    """Environment steps of a rollout."""
    temperature: Positive = 1.6
    """Temperature of sampling and of the log-probabilities."""
    learning_rate: Positive = 5e-6
    weight_decay: NotNegative = 0.01
    beta1: Fraction = 0.9
    beta2: Fraction = 0.999
    clip_low: Fraction = 0.2
    clip_high: NotNegative = 0.28
    filter_low: Fraction = 0.1
    """Groups of binary rewards are used when their mean is not below this ..."""
    filter_high: Fraction = 0.9
    """... nor above this. Groups of real-valued rewards are used when their rewards differ."""
    safety_penalty: NotNegative = 0.0
    """A rollout's reward is lowered by this value times the share of its actions that the safety envelope changed: of
    two successes the one within the envelope is the better. 0: the paper's reward. The judge's scores alone decide
    whether a group is used, but with a penalty a group that always succeeds is used too if its shares differ."""
    progress_credit: Fraction = 0.0
    """An unfinished rollout's reward is this times how far the task has come by its judge, 0 to 1 and at most .99, for
    judges that tell it (RoboReward's grades, log P(True), Robometer, the station's truth). 0: a failure is a failure.
    Success is counted as before."""
    progress_by: Literal["rollout", "chunk"] = "rollout"
    """With progress_credit: one reward for the whole rollout, or for each chunk what was reached after it began, for
    judges that tell progress frame by frame (Robometer)."""
    baseline: Literal["group", "alive"] = "group"
    """Compare a chunk with the whole group (the paper) or with the members still acting at that chunk."""
    minibatch: Annotated[int, Field(ge=1)] = 160
    """About this many trajectories per optimiser step: an update's trajectories are divided evenly among its steps."""
    epochs: Annotated[int, Field(ge=1)] = 1
    """Passes over the trajectories of an update."""
    micro_batch: Annotated[int, Field(ge=1)] = 64
    """Policy calls per forward pass; it changes the memory needed, not the result."""
    recompute_activations: bool = False
    """Save memory in the update, which then takes longer."""
    max_grad_norm: Positive = 1.0
    max_staleness: Annotated[int, Field(ge=0)] = 1
    """At most this many updates lie between the sampling of a carried group and its use; 0: carry no group over."""
    common_noise: bool = False
    """Give the world model's noise the same seed across a group."""
    curriculum: Literal["uniform", "variance"] = "uniform"
    """Take starts equally often, or more often where success and failure are mixed."""
    rehearsal_share: Annotated[float, Field(ge=0, lt=1)] = 0.25
    """Share of the groups that begin at start frames of other tasks, where there are any."""
    rehearsal_anchor: NotNegative = 0.0
    """Weight of the divergence from the policy before practice, on the rollouts of rehearsed tasks: what the policy
    does there stays as it was, whatever imagination says of it. 0: only their rewards count. It keeps a copy of the
    trained weights, for a moment two, and takes two more passes over those rollouts."""
    consolidation_steps: Annotated[int, Field(ge=0, le=10000)] = 0
    """Steps at the end of practice in which the policy learns to act as before practice on logged pictures of the
    station's other tasks, and as practice taught it on what its imagined successes saw (`rl.consolidation`). 0: none.
    It keeps a copy of the trained weights, for a moment two."""
    branch_share: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the groups that begin in states which earlier rollouts have come to, not at a start frame ..."""
    branch_chunks: Annotated[int, Field(ge=1, le=1000)] = 2
    """... and go on for this many chunks, or to the horizon where that comes first."""
    confirm: ConfirmationConfig = field(default_factory=ConfirmationConfig)
    """What a success in imagination must survive to count, in practice and before the gate."""
    trainable: Literal["full", "lora"] = "full"
    """Train all weights of the policy, or low-rank adapters on it."""
    base_precision: Literal["auto", "float32", "bfloat16", "nf4"] = "auto"
    """Precision of the frozen base under an adapter: auto is float32 on a CPU and bfloat16 on a GPU; nf4 keeps the
    language model's layers in 4 bits (package bitsandbytes). Training of all weights is in float32."""
    lora_rank: Annotated[int, Field(ge=1, le=1024)] = 32
    lora_alpha: Positive = 16.0
    lora_vision: bool = False
    """Adapt the vision towers and the projector too, not the language model alone."""
    shard: bool = True
    """Under torchrun: divide weights, gradients and optimiser state among the processes (FSDP2). False: each process
    keeps all of them, which costs memory but saves gathering the weights for every pass."""
    warn_after: Annotated[int, Field(ge=1)] = 5
    """Batches in a row without a usable group after which a warning says what to change."""
    give_up_after: Annotated[int, Field(ge=1)] = 50
    """Batches in a row without a usable group after which practice ends."""
    checkpoint_every: Annotated[int, Field(ge=1)] = 5
    """Updates between checkpoints."""
    keep_checkpoints: Annotated[int, Field(ge=1)] = 2
    """The last checkpoints that are kept, besides the best one."""
    best_over: Annotated[int, Field(ge=1)] = 5
    """The best checkpoint has the highest mean reward over this many updates up to it. An update's reward is that of
    the rollouts it learned from, so the weights are one update ahead of it."""
    seed: Seed = 0


def load_recipe(recipe: str, **overrides: Any) -> GRPOConfig:
    """A shipped recipe by name ("paper", "mini") or a YAML file by path.

    Raises: ConfigError when there is no such recipe or a field is wrong.
    """
    shipped = RECIPES / f"{recipe}.yaml"
    path = shipped if shipped.exists() else user_path(recipe)
    if not path.exists():
        names = ", ".join(sorted(p.stem for p in RECIPES.glob("*.yaml")))
        raise ConfigError(f"recipe '{recipe}': neither a file nor a shipped recipe ({names})")
    config = load_config(GRPOConfig, path, overrides)
    if config.min_groups > config.groups and config.max_staleness == 0:
        raise ConfigError(
            f"{path}: min_groups {config.min_groups} exceeds groups {config.groups}, and max_staleness is 0"
        )
    if config.trainable == "full" and config.base_precision not in ("auto", "float32"):
        raise ConfigError(f"{path}: base_precision {config.base_precision} is for adapters; all weights need float32")
    if config.filter_low > config.filter_high:
        raise ConfigError(f"{path}: filter_low {config.filter_low} is above filter_high {config.filter_high}")
    return config
