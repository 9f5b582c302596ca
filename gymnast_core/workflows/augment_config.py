"""Options of `gymnast augment distractors`, `instructions` and `tasks`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field

from gymnast_core.config import Address, Fraction, JudgeConfig, NotNegative, PathText, Seed
from gymnast_core.errors import ConfigError


@dataclass(frozen=True)
class AskedServer:
    """A model behind an OpenAI-compatible server. OPENAI_API_KEY holds its key."""

    model: Annotated[str, Field(min_length=1)]
    """Its name at the server."""
    base_url: Address = ""
    """"http://host:port/v1"; empty: OPENAI_BASE_URL, or OpenAI's own."""
    answer_tokens: Annotated[int, Field(ge=1, le=100_000)] = 1000
    """Longest answer."""
    timeout_s: Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False)] = 180.0
    """Time for one answer, seconds."""
    concurrency: Annotated[int, Field(ge=1, le=256)] = 4
    """At most this many requests are under way at the same time."""
    requests_per_minute: NotNegative = 0.0
    """At most this many requests per minute; 0: only `concurrency` limits them."""
    max_dollars: NotNegative = 20.0
    """Spend limit of what is made in one folder, US dollars, resumptions included."""
    max_total_tokens: Annotated[int, Field(ge=0)] = 0
    """Its limit in tokens, input and output together; 0: no limit."""
    dollars_per_million_input_tokens: NotNegative | None = None
    """Price of what the model reads, US dollars. None: nothing for a server on this machine or in the local network,
    and 2.5 for every other."""
    dollars_per_million_output_tokens: NotNegative | None = None
    """Price of what the model writes, US dollars. None: nothing, or 10, by the same rule."""

    def section(self) -> JudgeConfig:
        """As the client of judges' servers takes it."""
        return JudgeConfig(
            kind="vlm",
            votes=1,
            model=self.model,
            base_url=self.base_url,
            answer_tokens=self.answer_tokens,
            timeout_s=self.timeout_s,
            concurrency=self.concurrency,
            requests_per_minute=self.requests_per_minute,
            max_dollars=self.max_dollars,
            max_total_tokens=self.max_total_tokens,
            dollars_per_million_input_tokens=self.dollars_per_million_input_tokens,
            dollars_per_million_output_tokens=self.dollars_per_million_output_tokens,
        )


def _judge() -> AskedServer:
    return AskedServer("gpt-4o")


def _editor() -> AskedServer:
    return AskedServer("gpt-image-1", dollars_per_million_input_tokens=10.0, dollars_per_million_output_tokens=40.0)


@dataclass(frozen=True)
class FramesConfig:
    """Which frames are taken."""

    out: Annotated[PathText, Field(min_length=1)]
    """Folder that the new starts are written into. One that was interrupted goes on."""
    starts: tuple[str, ...] = ()
    """Folders of start frames (X.png with X.json) or of logged episodes, whose first frames count; none: resets of the
    simulated station."""
    config: str = "simulated_drawer"
    """Station file: its camera made the frames, and without `starts` its simulation makes them."""
    tasks: tuple[str, ...] = ()
    """Without `starts`: tasks of the station; none: all."""
    resets: Annotated[int, Field(ge=1)] = 20
    """Without `starts`: different resets of each task."""
    limit: Annotated[int, Field(ge=0)] = 0
    """At most this many frames of each instruction; 0: all."""
    seed: Seed = 0
    """Decides whatever is drawn. The same seed gives the same pictures."""


@dataclass(frozen=True)
class DistractorsConfig(FramesConfig):
    """Copies of start frames with things added that do not matter. The arm, what the task is about and all that is not
    bare table stay as they are, bit for bit."""

    by: Literal["compositor", "model"] = "compositor"
    """Place objects here, without a server, or let an image-editing model behind `editor` add them."""
    variants: Annotated[int, Field(ge=1, le=100)] = 1
    """New frames for each old one."""
    fewest: Annotated[int, Field(ge=1, le=20)] = 1
    """At least this many objects in a frame."""
    most: Annotated[int, Field(ge=1, le=20)] = 3
    """At most this many objects in a frame."""
    objects: PathText = ""
    """Compositor: folder of objects that were cut out of other pictures: PNG files with transparency, or X.png with
    X.mask.png. X.json may hold {"name": "...", "height": metres}. Empty: drawn solids."""
    mask: PathText = ""
    """What is protected, white: a PNG file for all frames, or a folder with one of each frame's name. Empty: as the
    simulation says; of logged episodes, whatever moves in them."""
    table: PathText = ""
    """Where the bare table is, white: a PNG file for all frames, or a folder. Empty: as the simulation says, or guessed
    from colours."""
    clearance: Annotated[float, Field(ge=0, le=0.2)] = 0.02
    """Between what is protected and what is added, as a share of the frame's width."""
    camera_height: Annotated[float, Field(ge=0.05, le=5)] = 0.45
    """Of the camera above the table, metres; a simulation knows its own."""
    camera_pitch: Annotated[float, Field(ge=5, le=85)] = 40.0
    """Of the camera's axis below the horizon, degrees; a simulation knows its own."""
    camera_fovy: Annotated[float, Field(ge=10, le=120)] = 50.0
    """The camera's vertical field of view, degrees; a simulation knows its own."""
    check: Literal["auto", "model", "none"] = "auto"
    """Let the model behind `judge` look whether the task is still possible and the robot unchanged; auto: where a model
    edits."""
    attempts: Annotated[int, Field(ge=1, le=20)] = 3
    """For each new frame, until one passes the checks; then it is left out."""
    editor: AskedServer = field(default_factory=_editor)
    """The image-editing model."""
    judge: AskedServer = field(default_factory=_judge)
    """The vision-language model that checks."""

    def __post_init__(self) -> None:
        if self.fewest > self.most:
            raise ConfigError(f"fewest: found {self.fewest}, allowed is at most `most`, {self.most}")

    @property
    def checked(self) -> bool:
        """Whether a model looks at every new frame."""
        return self.check == "model" or (self.check == "auto" and self.by == "model")


@dataclass(frozen=True)
class InstructionsConfig(FramesConfig):
    """Copies of start frames with other instructions that the robot can follow from there."""

    by: Literal["templates", "model"] = "templates"
    """Take instructions from `templates`, or let the model behind `judge` propose them from the frame."""
    each: Annotated[int, Field(ge=1, le=20)] = 2
    """At most this many new instructions for each frame."""
    templates: PathText = ""
    """YAML file with instructions by the one that they replace; empty: the shipped one, which knows the station files
    of this project."""
    candidates: tuple[str, ...] = ()
    """Model: instructions of your own, which it checks on each frame before its own proposals."""
    judge: AskedServer = field(default_factory=_judge)
    """The vision-language model that proposes and checks."""


@dataclass(frozen=True)
class TasksConfig:
    """Start frames sorted by instruction into the folders of a mixture, some of each held out of training."""

    out: Annotated[PathText, Field(min_length=1)]
    """Root of the mixture's folders: `--starts` of `gymnast train`."""
    starts: Annotated[tuple[str, ...], Field(min_length=1)]
    """Folders of start frames (X.png with X.json) or of logged episodes, whose first frames count."""
    mixture: str = "distract"
    """"distract", "language", "scaled" (World-Gymnast's), or a YAML file; its parts that list instructions are made."""
    limit: Annotated[int, Field(ge=0)] = 0
    """At most this many frames of each instruction; 0: all."""
    held_out: Fraction | None = None
    """Share of the frames of each instruction that is kept out of training. None: as the mixture says."""
    seed: Seed = 0
    """Decides which frames are held out."""
