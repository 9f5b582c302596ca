"""Options of `gymnast sft`, and the sizes of a new policy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro
from pydantic import Field

from gymnast_core.config import Fraction, NotNegative, Positive, Seed
from gymnast_core.policy.config import MAX_BINS, ImageVariant, Labels

Count = Annotated[int, Field(gt=0)]


@dataclass(frozen=True)
class TowerRecipe:
    """One vision tower; the last of its blocks takes no part, as in OpenVLA."""

    width: Count
    """Width of its layers."""
    depth: Annotated[int, Field(ge=2)]
    """Layers."""
    heads: Count
    """Attention heads of each layer."""


@dataclass(frozen=True)
class ModelRecipe:
    """Sizes of a new policy in the OpenVLA layout."""

    image_size: Count
    """Side of the model's square input, pixels."""
    patch_size: Count
    """Side of a patch, pixels."""
    dino: TowerRecipe
    """The tower with class and register tokens."""
    siglip: TowerRecipe
    """The other tower."""
    width: Count
    """Width of the language model."""
    depth: Count
    """Layers of the language model."""
    heads: Count
    """Attention heads of each of its layers."""
    mlp_hidden: Count
    """Width inside the feed-forward part of each of its layers."""
    n_bins: Annotated[int, Field(ge=3, le=MAX_BINS)]
    """Action tokens a dimension can take; one more than there are values."""
    rope_theta: Annotated[float, Field(gt=1)] = 10000.0
    """Base of the rotary position embedding: short sequences tell positions apart better with a small one."""
    chunk_length: Count = 5
    """Actions of one forward."""
    image_variant: ImageVariant = "resize"
    """How a frame becomes the input; see `gymnast_core/policy/images.py`."""
    words: tuple[str, ...] = ()
    """Words that become one token each; any other word is spelt."""


@dataclass(frozen=True)
class SFTConfig:
    """Supervised fine-tuning of the policy."""

    data: tuple[str, ...] = ()
    """Folders of demonstrations, of every format that `gymnast data formats` lists, or hf:OWNER/NAME of the Hugging
    Face Hub."""
    mix: tuple[str, ...] = ()
    """Folders of logged or imagined episodes; those judged a success are mixed in (Iter-SFT)."""
    mix_ratio: Positive = 1.0
    """Mixed samples for each sample of the demonstrations; the paper's Iter-SFT has 1."""
    base: str = ""
    """Checkpoint folder to start from, the name of a shipped one, or hf:OWNER/NAME of the Hugging Face Hub.
    Empty: a new model by `init` or `model`; if these are empty too, the shipped mini/policy."""
    chunk_length: Annotated[int, Field(ge=0, le=64)] = 0
    """Actions of one forward of a base; 0: as its config.json says, or 5 if it says nothing. Not for an adapter alone,
    which acts as its base does."""
    image_variant: ImageVariant | Literal[""] = ""
    """How frames become a base's input; empty: as its config.json says, or center_crop if it says nothing. Not for an
    adapter alone."""
    init: str = ""
    """Recipe whose `model` section a new model is built from: a shipped one by name, or a YAML file."""
    model: tyro.conf.Suppress[ModelRecipe | None] = None
    """Sizes of a new model; a recipe gives them (`--from FILE.yaml`), no option does."""
    out: str = "runs/policy"
    """Checkpoint folder to write (with lora_rank 0 or merge). A checkpoint that is already there is replaced."""
    run: str = "runs/sft"
    """Run folder: metrics and checkpoints; an interrupted run in it is resumed."""
    unnorm_key: str = "station"
    """Name of the action statistics. A new model's are computed from the data; a base's are looked up in it."""
    instruction: str = ""
    """Instruction of episodes that have none of their own."""
    labels: Labels = "executed"
    """Learn the actions that the safety envelope let through, or the commanded ones."""
    successes_only: bool = True
    """Leave out episodes that were judged failures."""
    holdout: Fraction = 0.1
    """Share of the demonstrations kept back to measure on."""
    steps: Count = 20000
    """Optimiser steps."""
    seconds: NotNegative = 0.0
    """Stop after this time; the learning rate has decayed by then. 0: no limit."""
    batch: Count = 32
    """Samples of one forward, on each process."""
    accumulation: Count = 1
    """Forwards of one optimiser step."""
    learning_rate: Positive = 5e-4
    """Learning rate of AdamW after the warm-up."""
    schedule: Literal["constant", "cosine"] = "constant"
    """How the learning rate goes on after the warm-up."""
    decay_after: Annotated[int, Field(ge=0)] = 0
    """Step from which the learning rate is a tenth, as OpenVLA-OFT does after 100,000; 0: never."""
    warmup: Annotated[int, Field(ge=0)] = 0
    """Steps over which the learning rate rises from a tenth."""
    weight_decay: NotNegative = 0.01
    """Weight decay of AdamW."""
    max_grad_norm: NotNegative = 1.0
    """Largest gradient norm; 0: no limit, as OpenVLA-OFT trains."""
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
    """Save memory in the language model, which then takes longer."""
    log_every: Count = 20
    """Steps between logged figures."""
    evaluate_every: Count = 500
    """Steps between measurements on the held-out episodes."""
    evaluate_samples: Count = 512
    """At most this many held-out samples per measurement."""
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
