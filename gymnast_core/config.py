"""One config language: frozen dataclasses read from YAML, with overrides; and the file that describes a station.

Every field is checked where it enters; an unknown, missing or out-of-range field is one line naming file and field.
Lengths are metres, angles radians, times seconds, rates hertz, unless a field says otherwise.
"""

from __future__ import annotations

import dataclasses
import os
import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from gymnast_core.errors import ConfigError

Config = TypeVar("Config")
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Vector3 = tuple[Finite, Finite, Finite]
Vector6 = tuple[Finite, Finite, Finite, Finite, Finite, Finite]

PACKAGE_ROOT = Path(__file__).resolve().parent
SCRIPTED_POLICIES = ("expert", "mixed", "random")
"""Names that stand for a policy of the simulated station; every other name is a folder, a file or an address."""


@dataclass(frozen=True)
class ArmConfig:
    """The WidowX 250s and how it is driven."""

    namespace: Annotated[str, Field(pattern=r"^/?[A-Za-z]\w*(/[A-Za-z]\w*)*/?$")] = "/wx250s"
    """ROS namespace of the vendor's driver (its robot_name); a leading slash may be left out."""
    control_hz: Annotated[float, Field(gt=0, le=50)] = 5.0
    """Control steps a second; Bridge data is recorded at 5."""
    rotation: Literal["bridge", "autoeval_compat"] = "bridge"
    """How rotation deltas compose: about the base axes (Bridge), or Euler addition as deployed AutoEval stations do."""
    start_position: Vector3 = (0.258325, 0.0, 0.19065)
    """End effector position after a reset, base frame, metres; the gripper points straight down."""
    reset_seconds: Positive = 2.0
    """Duration of the reset motion."""
    profile_velocity_ms: Annotated[int, Field(gt=0)] = 250
    """Dynamixel time profile: duration of one step's motion, milliseconds (1.25 x the control period)."""
    profile_acceleration_ms: Annotated[int, Field(ge=0)] = 100
    """Dynamixel time profile: ramp, milliseconds."""
    gripper: Literal["pwm", "linear_position"] = "pwm"
    """How the gripper is driven: by PWM, as the vendor's default, or by distance."""
    driver_timeout_s: Positive = 3.0
    """How long to wait for the driver, and for the camera's, before giving up; both are started before the graph."""
    max_effort_ma: Annotated[float, Field(gt=0)] = 1500.0
    """Measured joint effort above which the arm holds, milliamperes."""

    @property
    def driver(self) -> str:
        """`namespace` as an absolute ROS name, "/wx250s"."""
        return f"/{self.namespace.strip('/')}"


@dataclass(frozen=True)
class CameraConfig:
    """The one camera."""

    source: Literal["topic", "device"] = "topic"
    """Subscribe to a driver's image topic, or open a video device."""
    topic: Annotated[str, Field(pattern=r"^/?[A-Za-z_]\w*(/[A-Za-z_]\w*)*$")] = "/camera/image_raw"
    """Image topic (sensor_msgs/Image, rgb8 or bgr8): subscribed to, or published when the source is a device."""
    device: str = "/dev/video0"
    """Video device, read when the source is "device"."""
    width: Annotated[int, Field(ge=16, le=8192)] = 640
    height: Annotated[int, Field(ge=16, le=8192)] = 480
    rate_hz: Annotated[float, Field(gt=0, le=30)] = 10.0
    """Frames a second of a device or of the simulated camera."""
    max_age_s: Positive = 1.0
    """A frame older than this is stale: the policy stops and the arm holds."""
    observation_size: Annotated[int, Field(ge=32, le=1024)] = 256
    """Side in pixels of the square observation every frame is squashed to before policy and log."""


@dataclass(frozen=True)
class SafetyConfig:
    """The envelope everything passes on its way to the arm."""

    max_translation: Positive = 0.05
    """Largest translation of one step along one axis, metres."""
    max_rotation: Positive = 0.25
    """Largest rotation of one step about one axis, radians."""
    workspace_min: Vector3 = (0.1, -0.2, -0.01)
    """Lower corner of the box the end effector's target stays in, base frame, metres."""
    workspace_max: Vector3 = (0.45, 0.25, 0.30)
    """Upper corner."""
    max_joint_speed: Positive = 3.14
    """Radians a second; the WidowX 250s reaches pi."""
    max_drift: Positive = 0.10
    """Largest distance between target and measured end effector, metres: beyond it the target stops running ahead."""
    command_timeout_s: Positive = 0.4
    """An action older than this is refused, and the arm holds when none came for this long."""


@dataclass(frozen=True)
class TaskConfig:
    """One task of a station."""

    instruction: Annotated[str, Field(max_length=500, pattern=r"^[^\x00-\x1f]*[^\x00-\x20][^\x00-\x1f]*$")]
    """What the policy is told: one line."""
    max_steps: Annotated[int, Field(gt=0, le=10000)] = 40
    """Steps after which an episode ends."""
    question: str = ""
    """What a vision-language model judge is asked besides the instruction; empty: the instruction alone."""
    partial_credit_criteria: str = ""
    """When half a point is given; empty: none."""


@dataclass(frozen=True)
class ModelsConfig:
    """Checkpoint folders; relative paths are looked up beside the station file, then in the shipped weights."""

    policy: str = "mini/policy"
    unnorm_key: str = "station"
    """Which statistics of the policy's checkpoint un-normalise its actions."""
    world_model: str = "mini/world_model"
    autoencoder: str = ""
    """Only for a WorldGym checkpoint, which holds none: "sd3:FOLDER" with Stable Diffusion 3's autoencoder."""
    sampling_steps: Annotated[int, Field(ge=1, le=1000)] = 10
    """Denoising steps a frame."""
    guidance: NotNegative = 1.0
    """Classifier-free guidance of the world model; 1 is none."""
    solver: Literal["ddim", "dpm++"] = "ddim"
    """How a frame is denoised: DDIM, or DPM-Solver++(2M); up to two steps they are the same."""
    cache: Literal["exact", "streaming"] = "streaming"
    """What happens to the world model's keys and values when its window slides: "exact" computes the window anew,
    "streaming" keeps the old ones."""
    compile_world_model: bool = False
    """torch.compile and CUDA graphs for the imagination: for a GPU."""
    imagined_rollouts: Annotated[int, Field(ge=1, le=4096)] = 128
    """Imagined rollouts side by side at most: each costs memory (a third of a gigabyte at full size)."""
    adapters: str = "runs/adapters"
    """Folder that adapted policies (LoRA adapters) are kept in."""
    device: str = "auto"
    """"cpu", "cuda", "cuda:1", or "auto": a GPU where there is one."""


@dataclass(frozen=True)
class JudgeConfig:
    """Who scores episodes."""

    kind: Literal["classifier", "vlm", "truth"] = "classifier"
    checkpoint: str = "mini/judge"
    """Folder of the learned classifier."""
    model: str = "gpt-4o"
    """Name of the vision-language model at the server."""
    base_url: str = ""
    """OpenAI-compatible server; empty: the client's default."""
    votes: Annotated[int, Field(ge=1, le=25)] = 5
    stride: Annotated[int, Field(ge=1)] = 3
    """Every stride-th frame is shown, and always the last one."""
    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    """Of the votes: at 0 they are all alike."""
    answer_tokens: Annotated[int, Field(ge=1, le=100_000)] = 400
    """Longest answer; a model that reasons before it answers needs some thousands."""
    timeout_s: Positive = 60.0
    """For one answer; one that does not come, or not whole, is asked for again."""
    concurrency: Annotated[int, Field(ge=1, le=256)] = 8
    """Requests under way together at most."""
    requests_per_minute: NotNegative = 0.0
    """Requests sent at most; 0: as many as `concurrency` lets through."""
    max_dollars: NotNegative = 20.0
    """Spend limit of one run, US dollars, its resumptions included."""
    max_total_tokens: Annotated[int, Field(ge=0)] = 0
    """Limit of one run in tokens, in and out; 0: none."""
    dollars_per_million_input_tokens: NotNegative = 2.5
    dollars_per_million_output_tokens: NotNegative = 10.0


@dataclass(frozen=True)
class AdaptationConfig:
    """Test-time training: budget and recipe. The recipe file holds the optimiser's settings."""

    recipe: str = "mini"
    """A shipped GRPO recipe ("paper", "mini") or the path of a YAML file."""
    iterations: Annotated[int, Field(gt=0)] = 20
    """At most this many updates."""
    seconds: Positive = 480.0
    """At most this long, before and after measurements not counted."""
    evaluation_rollouts: Annotated[int, Field(ge=8)] = 64
    """Imagined rollouts of the before and after measurements each, on seeds the training never saw."""
    horizon: Annotated[int, Field(gt=0, le=1000)] = 30
    """Imagined steps a rollout."""
    gate_judge: str | JudgeConfig = ""
    """Another judge, which trains no adapter, for the before and after measurements: the folder of a learned one, or a
    section like `judge` (another model behind an API). Empty: the one judge does both, and the report says so."""
    world_model_gate: Literal["require", "warn"] = "require"
    """What follows where the world model's figures or the start frame do not hold (below): the base policy is kept, or
    a warning is all."""
    min_agreement: Fraction = 0.85
    """Least share of replayed station episodes that end as they really did (`gymnast world-model evaluate`)."""
    max_bias: Fraction = 0.10
    """Largest distance between a policy's success in imagination and on the station."""


@dataclass(frozen=True)
class LookAheadConfig:
    """Looking before acting: candidate chunks are tried in imagination, and the best one is executed."""

    rollouts: Annotated[int, Field(ge=0, le=1024)] = 0
    """Sampled candidates beside the greedy one, before every chunk; 0: act without looking ahead."""
    horizon: Annotated[int, Field(gt=0, le=1000)] = 20
    """Imagined steps of each, the candidate chunk included."""
    temperature: Positive = 1.0
    """Of sampling the candidates and what follows them in imagination."""


@dataclass(frozen=True)
class RecorderConfig:
    """Where episodes go."""

    folder: str = "runs/episodes"
    mcap_compression: Literal["none", "lz4", "zstd"] = "none"
    """Camera frames hardly compress and zstd costs more than the frame's time: none or lz4 for cameras."""
    min_free_mb: Annotated[int, Field(ge=0)] = 500
    """A recording is refused when less disk space is free, megabytes."""


@dataclass(frozen=True)
class SimulationConfig:
    """The simulated station; absent where the arm is real."""

    scene: str = "drawer"
    """A shipped scene or the path of a scene file."""
    seed: int = 0


@dataclass(frozen=True)
class StationConfig:
    """Everything about one station: the file a lab writes."""

    name: Annotated[str, Field(min_length=1)]
    tasks: Annotated[dict[str, TaskConfig], Field(min_length=1)]
    arm: ArmConfig = field(default_factory=ArmConfig)
    camera: CameraConfig = field(default_factory=CameraConfig)
    safety: SafetyConfig = field(default_factory=SafetyConfig)
    models: ModelsConfig = field(default_factory=ModelsConfig)
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    adaptation: AdaptationConfig = field(default_factory=AdaptationConfig)
    look_ahead: LookAheadConfig = field(default_factory=LookAheadConfig)
    recorder: RecorderConfig = field(default_factory=RecorderConfig)
    simulation: SimulationConfig | None = None

    def __post_init__(self) -> None:
        period = 1 / self.arm.control_hz
        if self.safety.command_timeout_s <= period:
            raise ConfigError(
                f"safety.command_timeout_s is {self.safety.command_timeout_s:g}, must be over arm.control_hz's period "
                f"of {period:g} seconds, or the arm would hold between all actions"
            )

    def task(self, name: str) -> TaskConfig:
        """The task of that name. Raises: ConfigError that lists the tasks there are."""
        if name not in self.tasks:
            known = ", ".join(sorted(self.tasks)) or "none"
            raise ConfigError(f"unknown task {name!r}; station '{self.name}' has: {known}")
        return self.tasks[name]


def load_config(cls: type[Config], path: str | os.PathLike[str], overrides: Mapping[str, Any] | None = None) -> Config:
    """Read a YAML file into a frozen dataclass, checking every field; `overrides` are dotted names with values.

    Raises: ConfigError, one line naming the file, the field, what was found and what is allowed.
    """
    path = Path(path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such config file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot read: {error}") from error
    except RecursionError as error:
        raise ConfigError(f"{path}: nested too deeply for a config file") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: found {type(content).__name__}, needed a mapping of fields")
    for name, value in (overrides or {}).items():
        target = content
        *parents, last = name.split(".")
        for parent in parents:
            target = target.setdefault(parent, {})
            if not isinstance(target, dict):
                raise ConfigError(f"override {name}: '{parent}' is not a section")
        target[last] = value
    return parse_config(cls, content, str(path))


def parse_config(cls: type[Config], content: Mapping[str, Any], source: str) -> Config:
    """Check a mapping against a dataclass and build it.

    Raises: ConfigError, one line naming `source`, the field, what was found and what is allowed.
    """
    _refuse_unknown(cls, content, source, "")
    try:
        return _adapter(cls).validate_python(content)  # type: ignore[arg-type]
    except ValidationError as error:
        problems: dict[tuple[Any, ...], list[Any]] = {}
        for one in error.errors():
            problems.setdefault(_place(one, content), []).append(one)
        # Of a value that may be text or a section, only what is wrong within the section that it is.
        places = [place for place in problems if not any(o != place and o[: len(place)] == place for o in problems)]
        where = ".".join(str(part) for part in places[0]) or "file"
        found = problems[places[0]]
        shown = "nothing" if found[0]["type"] == "missing" else repr(found[0]["input"])[:80]
        allowed = ", or: ".join(str(one["msg"]) for one in found)
        more = f" (and {len(places) - 1} more)" if len(places) > 1 else ""
        raise ConfigError(f"{source}: {where}: found {shown}; {allowed}{more}") from error
    except ConfigError as error:  # a dataclass's own check of fields that must fit together
        raise ConfigError(f"{source}: {error}") from error


def dump_config(config: Any) -> str:
    """A config as YAML text that `load_config` reads back."""
    return yaml.safe_dump(_plain(dataclasses.asdict(config)), sort_keys=False, allow_unicode=True)


def find_model(name: str, config_path: str | os.PathLike[str] | None = None) -> Path:
    """A model folder: as given, beside the station file, or among the shipped weights.

    Raises: ConfigError listing where it was looked for.
    """
    candidates = [Path(name).expanduser()]
    if not candidates[0].is_absolute():
        if config_path is not None:
            candidates.append(Path(config_path).resolve().parent / name)
        candidates.append(PACKAGE_ROOT / "weights" / name)
    for candidate in candidates:
        if candidate.exists():
            return candidate.resolve()
    raise ConfigError(f"model '{name}' not found; looked at {', '.join(str(c) for c in candidates)}")


@cache
def _adapter(cls: type[Any]) -> TypeAdapter[Any]:
    return TypeAdapter(cls, config=None if dataclasses.is_dataclass(cls) else ConfigDict(extra="forbid"))


def _refuse_unknown(cls: Any, content: Any, source: str, where: str) -> None:
    """Name misspelt fields: pydantic ignores unknown fields of plain dataclasses."""
    cls = _unwrap(cls)
    if dataclasses.is_dataclass(cls) and isinstance(content, Mapping):
        hints = get_type_hints(cls, include_extras=False)
        known = [f.name for f in dataclasses.fields(cls)]
        for key, value in content.items():
            if key not in known:
                raise ConfigError(f"{source}: unknown field '{where}{key}'; allowed here: {', '.join(known)}")
            _refuse_unknown(hints[key], value, source, f"{where}{key}.")
    elif get_origin(cls) is dict and isinstance(content, Mapping):
        for key, value in content.items():
            _refuse_unknown(get_args(cls)[1], value, source, f"{where}{key}.")


def _unwrap(cls: Any) -> Any:
    """`X | None` is `X` here, and `str | Section` is `Section`."""
    if get_origin(cls) in (Union, types.UnionType):
        inner = [part for part in get_args(cls) if part is not type(None)]
        sections = [part for part in inner if dataclasses.is_dataclass(part)]
        return inner[0] if len(inner) == 1 else sections[0] if len(sections) == 1 else cls
    return cls


def _place(error: Any, content: Any) -> tuple[Any, ...]:
    """Where pydantic found an error, without the names of the types of a union, which are no fields of the content."""
    place = []
    for part in error["loc"]:
        if isinstance(content, Mapping) and (part in content or error["type"] == "missing"):
            place.append(part)
            content = content.get(part)
        elif isinstance(part, int):
            place.append(part)
            content = content[part] if isinstance(content, (list, tuple)) and part < len(content) else None
    return tuple(place)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return str(value) if isinstance(value, Path) else value
