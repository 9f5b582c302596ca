"""Options of `gymnast policy imagine`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from pydantic import Field

from gymnast_core.config import NotNegative, Seed
from gymnast_core.rollout.confirmation_config import ConfirmationConfig


@dataclass(frozen=True)
class ImaginePolicyConfig:
    """Trials of a policy in imagination: success by task, from frames alone. Started again with the same run folder it
    goes on, and repeats no rollout."""

    starts: tuple[str, ...] = ()
    """Folders with WorldGym's trials (X.png with X.json {"instruction": ...}) or logged episodes, of which the first
    frame counts."""
    frame: tuple[str, ...] = ()
    """Single frames: an image, VIDEO:INDEX, or EPISODE:INDEX; they need an instruction."""
    instruction: str = ""
    """What to do from each `frame`."""
    policy: str = ""
    """A policy checkpoint's folder or hf:OWNER/NAME of the Hugging Face Hub, recorded actions (.npz), a policy server's
    address (http:// or ws://host:port), or "random"; empty: the station's. Rollouts of a server run one after another,
    since it may remember what it saw."""
    adapter: str = ""
    """Name of an adapter that is active."""
    adapters: str = ""
    """Folder of adapters instead of the station's."""
    config: str = "simulated_drawer"
    """Station file, a path or the name of a shipped one: its world model, sampling, judge, safety envelope."""
    world_model: str = ""
    """World-model checkpoint instead of the station's."""
    judge: str = ""
    """Folder of a learned judge instead of the station's judge."""
    votes: Annotated[int, Field(ge=1, le=25)] = 5
    """Votes of a vision-language model on each rollout; the majority decides. A learned judge has one, since it always
    says the same."""
    repeats: Annotated[int, Field(ge=1, le=1000)] = 5
    """Rollouts from each start, each with other noise."""
    horizon: Annotated[int, Field(gt=0, le=1000)] | None = None
    """Imagined steps of each rollout. None: as practice imagines (`adaptation.horizon` of the station file)."""
    temperature: NotNegative = 0.0
    """The policy's; 0: greedy, as the executor acts."""
    confirm: ConfirmationConfig = field(default_factory=ConfirmationConfig)
    """What a success must survive to count; one that does not is left without a verdict."""
    limit: Annotated[int, Field(ge=0)] = 0
    """At most this many starts of each instruction, the first ones; 0: all."""
    films: Annotated[int, Field(ge=0, le=1000)] = 3
    """Film strips and videos that are kept of each instruction's failures, and as many of its successes and of the
    rollouts without a verdict."""
    batch: Annotated[int, Field(ge=1, le=4096)] = 32
    """Rollouts side by side; it changes no result."""
    seed: Seed = 0
    """Decides all noise and whatever the policy samples. Policies with the same seed meet the same noise."""
    run: str = ""
    """Run folder; empty: a new one below runs/imagined."""
    device: str = ""
    """"cpu", "cuda" or "auto"; empty: the station file's."""
