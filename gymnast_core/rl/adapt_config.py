"""Options of `gymnast adapt`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro
from pydantic import BeforeValidator, Field

from gymnast_core.config import Coordinate, NotNegative, Positive, Seed


@dataclass(frozen=True)
class AdaptConfig:
    """Test-time training from one frame and an instruction. Empty and unset fields are taken from the station file."""

    frame: Annotated[tuple[str, ...], BeforeValidator(lambda value: (value,) if isinstance(value, str) else value)]
    """Where the frame comes from: a PNG or JPEG file, a video, or the folder of a logged episode. With several frames,
    practice takes each in turn. `SOURCE:INDEX` names the frame of a video or the step of an episode."""
    instruction: str
    """What the robot should do."""
    index: int = 0
    """Which frame of a video, or which step of an episode, for sources without `:INDEX`; a negative number counts from
    the end."""
    position: tuple[Coordinate, Coordinate, Coordinate] | None = None
    """Where the end effector is in the frames: x y z, metres, base frame. Imagination needs it to keep to the
    workspace. None: as logged in an episode, otherwise the station's start position."""
    logged: Annotated[int, Field(ge=0, le=256)] | None = None
    """Further start frames, from logged episodes of this instruction in the station's `recorder.folder`: any step at
    which the task is not done. None: as the station file says."""
    config: str = "simulated_drawer"
    """Station file: a path, or the name of a shipped one."""
    run: str = ""
    """Run folder; empty: a new one below runs/adapt. A run that was interrupted is resumed."""
    policy: str = ""
    """Policy checkpoint instead of the station's: a folder, or hf:OWNER/NAME of the Hugging Face Hub."""
    world_model: str = ""
    """World model instead of the station's: a folder, or hf:OWNER/NAME of the Hugging Face Hub."""
    judge: str = ""
    """Folder of a learned judge instead of the station's judge."""
    gate_judge: str = ""
    """Folder of another learned judge for the measurements before and after, one that did not train the adapter;
    empty: the station's gate_judge, which may be a model behind an API."""
    recipe: str = ""
    """GRPO recipe: "mini", "paper" or a YAML file; empty: the station file's."""
    iterations: Annotated[Annotated[int, Field(ge=1)] | None, tyro.conf.arg(aliases=["--updates"])] = None
    """At most this many updates. None, here and in the next three: as the station file says."""
    seconds: Positive | None = None
    """Training takes at most this long, with its resumptions."""
    horizon: Annotated[int, Field(ge=1, le=1000)] | None = None
    """Imagined steps per rollout."""
    evaluation_rollouts: Annotated[int, Field(ge=8, le=10000)] | None = None
    """Imagined rollouts of each measurement, before and after practice."""
    evaluation_temperature: NotNegative = 0.0
    """How the policy acts in these measurements; 0: greedy, as the executor acts on the arm."""
    validation_rollouts: Annotated[int, Field(ge=0, le=10000)] = 32
    """Imagined rollouts after every update, greedy as the executor acts, on seeds of their own. The best weights are
    kept, and practice ends when nothing is left to learn. 0: the last weights are taken."""
    rehearsal: str = ""
    """Start frames of other tasks, mixed in so that they are not forgotten: a folder, "auto" (from logged episodes) or
    "off"; empty: as the station file says."""
    adapters: str = ""
    """Folder for accepted adapters."""
    keep_refused: bool = False
    """Keep an adapter that the gate refused too, in the run folder's `refused`, for study: no arm is driven by it."""
    device: str = ""
    """"cpu", "cuda" or "auto"; empty: the station file's."""
    seed: Seed = 0
    """Decides noise and whatever is sampled: the same seed, the same run."""
