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
from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from gymnast_core.addresses import address_problem, policy_server_problem
from gymnast_core.errors import ConfigError, DocumentError
from gymnast_core.files import user_path
from gymnast_core.hub_files import fetch
from gymnast_core.hub_names import is_hub_name
from gymnast_core.plain_json import parse_json
from gymnast_core.plain_yaml import MAX_BYTES, PlainDumper, parse_yaml
from gymnast_core.redaction import redact
from gymnast_core.units import (
    METRES,
    MILLIAMPERES,
    MILLISECONDS,
    RADIANS,
    RADIANS_A_SECOND,
    SECONDS,
    unit_hint,
)

Config = TypeVar("Config")
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Vector3 = tuple[Finite, Finite, Finite]
Vector6 = tuple[Finite, Finite, Finite, Finite, Finite, Finite]

# The WidowX 250s: a grasp point reaches 0.664 m from the base's axis, from 0.44 m below to 0.774 m above the plate it
# stands on; its joints turn pi radians a second, and its motors measure at most 3.21 A.
Sideways = Annotated[float, Field(ge=-0.67, le=0.67, allow_inf_nan=False), METRES]
Height = Annotated[float, Field(ge=-0.44, le=0.78, allow_inf_nan=False), METRES]
Place = tuple[Sideways, Sideways, Height]

PathText = Annotated[str, Field(pattern=r"^[^\x00-\x1f]*$")]
TopicName = Annotated[str, Field(pattern=r"^[~/]?[A-Za-z_][A-Za-z0-9_]*(/[A-Za-z_][A-Za-z0-9_]*)*$", max_length=255)]
MessageType = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*/msg/[A-Z][A-Za-z0-9]*$", max_length=255)]


def _check_address(address: str) -> str:
    if address and (wrong := address_problem(address)):
        raise ValueError(f"{wrong}, needed http://host:port/path")
    return address


def _check_policy_server(address: str) -> str:
    if wrong := policy_server_problem(address):
        raise ValueError(wrong)
    return address


Address = Annotated[str, AfterValidator(_check_address)]
"""Of a server: http or https, without a password; or empty."""

PACKAGE_ROOT = Path(__file__).resolve().parent
SCRIPTED_POLICIES = ("expert", "mixed", "random")
"""Names that stand for a policy of the simulated station; every other name is a folder, a file or an address."""
REACH = 1.0
"""Metres along an axis, base frame: the end effector is nowhere farther (a WidowX 250s reaches 0.65)."""
Coordinate = Annotated[float, Field(ge=-REACH, le=REACH)]
MOST_ROUNDS = 10
"""At most this many rounds of learning and practising again."""


@dataclass(frozen=True)
class ArmConfig:
    """The arm and how it is driven."""

    model: Annotated[str, Field(pattern=r"^[^\x00-\x1f]*[^\x00-\x20][^\x00-\x1f]*$")] = "wx250s"
    """Which arm it is: the name of a shipped description ("wx250s", "wxai"), or the path of one's own (my_arm.yaml,
    docs/how-to/another_arm.md). At another arm the arm node refuses to start."""
    namespace: Annotated[str, Field(pattern=r"^/?[A-Za-z]\w*(/[A-Za-z]\w*)*/?$")] = "/wx250s"
    """ROS namespace of the vendor's driver (its robot_name); a leading slash may be left out."""
    driver: Annotated[str, Field(pattern=r"^(xs_sdk|xs_modules|trossen|[A-Za-z_][\w.]*:[A-Za-z_]\w*)$")] = "xs_sdk"
    """What drives the arm. An X-Series arm has its vendor's driver: the arm node speaks to it by topics and services
    (xs_sdk), or through the vendor's Python API `interbotix_xs_modules` (xs_modules), for a lab that has built on it.
    gymnast's own driver node drives a WidowX AI through `trossen_arm` (trossen), and another arm through a Python class
    of yours (my_package.my_arm:MyDriver)."""
    address: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.:-]{0,252}$")] = "192.168.1.2"
    """Host name or IP address of the arm's controller, where gymnast's own driver node connects to one."""
    control_hz: Annotated[float, Field(gt=0, le=50)] = 5.0
    """Control steps per second; Bridge data is recorded at 5."""
    rotation: Literal["bridge", "autoeval_compat"] = "bridge"
    """How rotation deltas compose: about the base axes (Bridge), or by adding Euler angles, as AutoEval stations do."""
    start_position: Place = (0.258325, 0.0, 0.19065)
    """End effector position after a reset, base frame, metres; the gripper points straight down."""
    reset_seconds: Annotated[float, Field(gt=0, le=60, allow_inf_nan=False), SECONDS] = 2.0
    """Duration of the reset motion; it is longer when the joints cannot move that fast."""
    profile_velocity_ms: Annotated[int, Field(ge=20, le=5000), MILLISECONDS] = 250
    """Dynamixel time profile: duration of one step's motion, milliseconds (1.25 x the control period)."""
    profile_acceleration_ms: Annotated[int, Field(ge=0, le=2500), MILLISECONDS] = 100
    """Dynamixel time profile: ramp, milliseconds."""
    motor_reboots_per_hour: Annotated[int, Field(ge=0, le=20)] = 0
    """How often in an hour a wrist or gripper motor with an overload alert is rebooted without a person, while the arm
    holds; 0: never. The motors of waist, shoulder and elbow carry the arm: they always wait for a person."""
    correct_droop: bool = False
    """Correct gravity's droop, so that the arm ends where the actions say. Off: as Bridge data was recorded, a few
    millimetres low, which policies trained on it expect."""
    gripper: Literal["pwm", "linear_position"] = "pwm"
    """How the gripper is driven: by PWM, as the vendor's default, or by distance."""
    driver_timeout_s: Annotated[float, Field(gt=0, le=300, allow_inf_nan=False), SECONDS] = 3.0
    """How long to wait for the drivers of arm and camera before giving up; start both before the graph."""
    max_effort_ma: Annotated[float, Field(ge=100, le=3210, allow_inf_nan=False), MILLIAMPERES] = 1500.0
    """Measured joint effort above which the arm holds, milliamperes; at most what the motors can measure."""

    @property
    def is_direct(self) -> bool:
        """Whether gymnast's own driver node drives the arm."""
        return self.driver not in ("xs_sdk", "xs_modules")

    @property
    def driver_node(self) -> str:
        """Full name of the driver's node."""
        return f"{self.driver_name}/{'driver' if self.is_direct else 'xs_sdk'}"

    @property
    def driver_name(self) -> str:
        """`namespace` as an absolute ROS name, "/wx250s"."""
        return f"/{self.namespace.strip('/')}"


@dataclass(frozen=True)
class CameraConfig:
    """The one camera."""

    source: Literal["topic", "device"] = "topic"
    """Subscribe to a driver's topic, or open `device`."""
    topic: Annotated[str, Field(pattern=r"^/?[A-Za-z_]\w*(/[A-Za-z_]\w*)*$")] = "/camera/image_raw"
    """Topic of the pictures: subscribed to, or published when the source is a device."""
    message: Literal["Image", "CompressedImage"] = "Image"
    """Type of the topic's messages, of sensor_msgs: Image in RGB, grey, YUV 4:2:2 or Bayer, or CompressedImage (JPEG or
    PNG)."""
    info_topic: TopicName | Literal[""] = ""
    """Topic of sensor_msgs/CameraInfo, which is recorded where somebody publishes it. Empty: `camera_info` beside
    `topic`, as camera drivers have it."""
    device: PathText = "/dev/video0"
    """What is opened when the source is "device": a video device (/dev/video0), the address of a stream
    (rtsp://camera/1, http://camera/mjpeg), a film (a file, relative to the station file), which is played again and
    again, or a GStreamer pipeline ("v4l2src ! videoconvert ! appsink")."""
    calibration: PathText = ""
    """Calibration of a device (a YAML file of ROS's camera_calibration), relative to the station file: published as
    CameraInfo with each frame. Empty: none is published."""
    exposure: Annotated[float, Field(gt=0, le=100_000, allow_inf_nan=False)] | None = None
    """Fixed exposure of a video device, in its own unit: 0.1 milliseconds for most. Empty: left to the device."""
    white_balance: Annotated[float, Field(ge=1000, le=20_000)] | None = None
    """Fixed white balance of a video device, kelvin. Empty: left to the device."""
    gain: Annotated[float, Field(ge=0, le=100_000, allow_inf_nan=False)] | None = None
    """Fixed gain of a video device, in its own unit. Empty: left to the device."""
    width: Annotated[int, Field(ge=16, le=8192)] = 640
    """Of the camera's frames, pixels."""
    height: Annotated[int, Field(ge=16, le=8192)] = 480
    """Of the camera's frames, pixels."""
    rate_hz: Annotated[float, Field(gt=0, le=30)] = 10.0
    """Frames per second of a device or of the simulated camera."""
    max_age_s: Annotated[float, Field(gt=0, le=10, allow_inf_nan=False), SECONDS] = 1.0
    """A frame older than this is stale: the policy stops and the arm holds."""
    observation_size: Annotated[int, Field(ge=32, le=1024)] = 256
    """Side in pixels of the square observation every frame is squashed to before policy and log."""

    @property
    def info(self) -> str:
        """Topic of sensor_msgs/CameraInfo."""
        beside = self.topic.removesuffix("/compressed").rpartition("/")
        return self.info_topic or f"{beside[0]}{beside[1]}camera_info"

    @property
    def fixed(self) -> dict[str, float]:
        """The settings of a video device that are wanted, by name."""
        wanted = {"exposure": self.exposure, "white_balance": self.white_balance, "gain": self.gain}
        return {name: value for name, value in wanted.items() if value is not None}

    def __post_init__(self) -> None:
        if self.source == "topic" and self.fixed:
            name, value = next(iter(self.fixed.items()))
            raise ConfigError(
                f"camera.{name}: found {value:g} with source: topic, whose driver alone sets it; set it in the driver"
            )
        if self.source == "topic" and self.calibration:
            raise ConfigError(
                f"camera.calibration: found {self.calibration} with source: topic, whose driver publishes its own; set "
                "it in the driver"
            )
        if self.source == "device" and self.message != "Image":
            raise ConfigError(
                f"camera.message: found {self.message} with source: device, which publishes Image; leave it out"
            )
        if self.source == "device" and not self.device.strip():
            raise ConfigError("camera.device: found none, needed a video device, an address, a film or a pipeline")


@dataclass(frozen=True)
class SafetyConfig:
    """The envelope everything passes on its way to the arm. Each bound is what the arm itself can do."""

    max_translation: Annotated[float, Field(gt=0, le=0.42, allow_inf_nan=False), METRES] = 0.05
    """Largest translation of one step along one axis, metres; at most what the outstretched arm covers in 0.2 s."""
    max_rotation: Annotated[float, Field(gt=0, le=1.571, allow_inf_nan=False), RADIANS] = 0.25
    """Largest rotation of one step about one axis, radians; at most a quarter turn, which takes half a second."""
    workspace_min: Place = (0.1, -0.2, -0.01)
    """Lower corner of the box the end effector's target stays in, base frame, metres, within the arm's reach."""
    workspace_max: Place = (0.45, 0.25, 0.30)
    """Upper corner."""
    max_joint_speed: Annotated[float, Field(gt=0, le=3.142, allow_inf_nan=False), RADIANS_A_SECOND] = 3.14
    """Radians a second; the WidowX 250s reaches pi."""
    max_drift: Annotated[float, Field(gt=0, le=0.52, allow_inf_nan=False), METRES] = 0.10
    """Largest distance between target and measured end effector, metres: the target runs no farther ahead. At most what
    the outstretched arm covers within one motion of 250 ms."""
    max_joint_drift: Annotated[float, Field(gt=0, le=1.571, allow_inf_nan=False), RADIANS] = 0.7
    """The same for each joint, radians: a little more than one control step at the WidowX 250s's largest speed."""
    command_timeout_s: Annotated[float, Field(gt=0, le=2, allow_inf_nan=False), SECONDS] = 0.4
    """An action older than this is refused, and the arm holds when none came for this long; seconds, at most 2."""

    def __post_init__(self) -> None:
        low, high = list(self.workspace_min), list(self.workspace_max)
        if not all(a < b for a, b in zip(low, high)):
            raise ConfigError(f"safety.workspace_min {low} is not below workspace_max {high}")


@dataclass(frozen=True)
class TaskConfig:
    """One task of a station."""

    instruction: Annotated[str, Field(max_length=500, pattern=r"^[^\x00-\x1f]*[^\x00-\x20][^\x00-\x1f]*$")]
    """The instruction that the policy gets, one line."""
    max_steps: Annotated[int, Field(gt=0, le=10000)] = 40
    """Steps after which an episode ends."""
    question: str = ""
    """What a vision-language model judge is asked besides the instruction; empty: the instruction alone."""
    partial_credit_criteria: str = ""
    """When the judge gives half a point; empty: never."""
    reset_task: str = ""
    """The task that undoes this one, as closing a drawer undoes opening it: `evaluation.reset: task` resets by it."""
    reset_policy: PathText = "base"
    """Who does that: "base", an adapter, recorded actions (.npz), a checkpoint folder or a policy server's address."""


@dataclass(frozen=True)
class ModelsConfig:
    """Checkpoint folders; relative paths are looked up beside the station file, then in the shipped weights. A model of
    the Hugging Face Hub is named hf:OWNER/NAME or hf:OWNER/NAME@REVISION."""

    policy: PathText = "mini/policy"
    """Checkpoint folder of the policy, the address of a policy server, or recorded actions (.npz)."""
    policy_token_env: dict[
        Annotated[str, AfterValidator(_check_policy_server)],
        Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,99}$")],
    ] = field(default_factory=dict)
    """Environment variables that hold the tokens of policy servers, by address: {"ws://lab-gpu:8000": LAB_TOKEN}. A
    token goes to its address alone. Without an entry, the server of `policy` gets that of GYMNAST_POLICY_TOKEN."""
    unnorm_key: str = "station"
    """Which statistics of the policy's checkpoint un-normalise its actions."""
    world_model: PathText = "mini/world_model"
    """World-model folder, or a WorldGym checkpoint."""
    second_world_model: PathText = ""
    """Another world model, trained apart, that confirms imagined successes where the recipe asks for it."""
    autoencoder: PathText = ""
    """Only for a WorldGym checkpoint, which holds no autoencoder: "sd3:FOLDER", Stable Diffusion 3's."""
    sampling_steps: Annotated[int, Field(ge=1, le=1000)] = 10
    """Denoising steps per frame."""
    guidance: NotNegative = 1.0
    """Classifier-free guidance of the world model; 1: no guidance."""
    solver: Literal["ddim", "dpm++"] = "ddim"
    """How a frame is denoised: by DDIM, or by DPM-Solver++(2M); with one or two steps both give the same."""
    cache: Literal["exact", "streaming"] = "streaming"
    """What happens to the world model's keys and values when its window slides: "exact" computes the window anew,
    "streaming" keeps the old ones."""
    compile_world_model: bool = False
    """torch.compile and CUDA graphs for the imagination: for a GPU."""
    imagined_rollouts: Annotated[int, Field(ge=1, le=4096)] = 128
    """At most this many imagined rollouts run side by side: each costs memory (a third of a gigabyte at full size)."""
    adapters: Annotated[PathText, Field(min_length=1)] = "runs/adapters"
    """Folder that adapted policies (LoRA adapters) are kept in."""
    device: str = "auto"
    """"cpu", "cuda", "cuda:1", or "auto": a GPU where there is one."""


@dataclass(frozen=True)
class JudgeConfig:
    """Who scores episodes."""

    kind: Literal["classifier", "vlm", "transformers", "robometer", "truth"] = "classifier"
    """A learned classifier, a vision-language model behind a server or in this process, a Robometer server, or the
    station's own state."""
    checkpoint: PathText = "mini/judge"
    """Folder of the learned classifier, or (kind transformers) of a vision-language model."""
    model: str = "gpt-4o"
    """Name of the vision-language model at the server."""
    base_url: Address = ""
    """OpenAI-compatible server, "http://host:port/v1"; empty: OPENAI_BASE_URL, or OpenAI's own. Kind robometer: its
    evaluation server, "http://host:port"."""
    scale: Literal["0-1", "1-5", "log_p_true"] = "0-1"
    """What a vision-language model is asked for: done or not, a grade from 1 to 5 (RoboReward), or the log-probability
    that "True" is its answer (TOPReward)."""
    threshold: Finite | None = None
    """The grade from which an episode counts as completed, as `gymnast judge evaluate` prints it. Empty: a learned
    judge's own; the majority of the votes (0-1); 4.5 (1-5); -0.693, the log of a half (log_p_true); 0.5 (robometer)."""
    prompt: PathText = ""
    """A text file with a prompt of your own, which holds {instruction} and may hold {question}; empty: the scale's."""
    frames_as: Literal["images", "video"] = "images"
    """Show the frames as pictures, or as one film (vLLM; in this process models that read films, with torchvision)."""
    device: str = ""
    """Kind transformers: "cpu", "cuda", "cuda:1"; empty: as `models.device`."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Kind transformers: precision of the weights; auto: bfloat16 on a GPU, float32 on a CPU."""
    votes: Annotated[int, Field(ge=1, le=25)] = 5
    """How many times a vision-language model is asked about an episode."""
    stride: Annotated[int, Field(ge=1)] = 3
    """Every stride-th frame is shown, and always the last one."""
    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    """Sampling temperature of the votes; at 0 all votes are alike."""
    answer_tokens: Annotated[int, Field(ge=1, le=100_000)] = 400
    """Longest answer; a model that reasons before it answers needs some thousands."""
    timeout_s: Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False), SECONDS] = 60.0
    """Time for one answer; an answer that does not come whole within it is asked for again."""
    concurrency: Annotated[int, Field(ge=1, le=256)] = 8
    """At most this many requests are under way at the same time."""
    requests_per_minute: NotNegative = 0.0
    """At most this many requests per minute; 0: only `concurrency` limits them."""
    max_dollars: NotNegative = 20.0
    """Spend limit of one run, US dollars, its resumptions included."""
    max_total_tokens: Annotated[int, Field(ge=0)] = 0
    """Limit of one run in tokens, input and output together; 0: no limit."""
    dollars_per_million_input_tokens: NotNegative | None = None
    """Price of what the model reads, US dollars. Empty: nothing for a server on this machine or in the local network,
    and 2.5, gpt-4o's price, for every other. A local server that passes requests on to a paid one needs its price."""
    dollars_per_million_output_tokens: NotNegative | None = None
    """Price of what the model writes, US dollars. Empty: nothing, or 10, by the same rule."""

    @property
    def asks(self) -> bool:
        """Whether this judge asks a model, which may take `timeout_s` to answer."""
        return self.kind in ("vlm", "transformers", "robometer")

    def __post_init__(self) -> None:
        if self.kind not in ("vlm", "transformers") and (self.scale != "0-1" or self.prompt):
            name, found = ("scale", self.scale) if self.scale != "0-1" else ("prompt", self.prompt)
            raise ConfigError(f"judge.{name}: found '{found}', which kind {self.kind} does not have; leave it out")
        if self.threshold is None:
            return
        if self.kind == "truth":
            raise ConfigError("judge.threshold: found one, but the station's truth has none; leave it out")
        graded = self.kind in ("vlm", "transformers")
        low, high = {"1-5": (1.0, 5.0), "log_p_true": (-30.0, 0.0)}.get(self.scale if graded else "", (0.0, 1.0))
        if not low <= self.threshold <= high:
            what = f"scale {self.scale}" if graded else f"kind {self.kind}"
            raise ConfigError(f"judge.threshold: found {self.threshold:g}, allowed for {what} is {low:g} to {high:g}")


@dataclass(frozen=True)
class AdaptationConfig:
    """Test-time training: budget and recipe. The recipe file holds the optimiser's settings."""

    recipe: PathText = "mini"
    """A shipped GRPO recipe ("paper", "mini") or the path of a YAML file."""
    iterations: Annotated[int, Field(gt=0)] = 20
    """At most this many updates."""
    seconds: Positive = 3600.0
    """Practice takes at most this long; the measurements before and after it are not counted. This is a last resort,
    because a busy machine does less in an hour than an idle one: limit practice by `iterations`."""
    evaluation_rollouts: Annotated[int, Field(ge=8)] = 64
    """Imagined rollouts of each measurement, before and after practice, on seeds that training never saw."""
    horizon: Annotated[int, Field(gt=0, le=1000)] = 30
    """Imagined steps per rollout."""
    frames: Annotated[int, Field(ge=1, le=64)] = 1
    """Start frames of one practice over ROS: the scene is reset and looked at so often."""
    logged_frames: Annotated[int, Field(ge=0, le=256)] = 0
    """Further start frames of a practice, from logged episodes of its instruction in `recorder.folder`: any step at
    which the task is not done."""
    rehearsal: Annotated[PathText, Field(min_length=1)] = "auto"
    """Start frames of the station's other tasks, which practice mixes in so that they are not forgotten, and which the
    gate looks at: a folder, "auto" (captured over ROS where the station resets itself; otherwise from logged episodes
    in `recorder.folder`), or "off"."""
    rehearsal_frames: Annotated[int, Field(ge=0, le=64)] = 2
    """Start frames of each other task that a practice over ROS captures."""
    gate_judge: str | JudgeConfig = ""
    """Another judge for the measurements before and after practice, which trains no adapter: the folder of a learned
    judge, or a section like `judge` (another model behind an API). Empty: one judge does both; the report says so."""
    world_model_gate: Literal["require", "warn"] = "require"
    """What happens when the world model's figures miss the limits below, or a start frame is not familiar: "require"
    keeps the base policy, "warn" only prints a warning."""
    min_agreement: Fraction = 0.85
    """Least share of replayed station episodes that end as they really did (`gymnast world-model evaluate`)."""
    max_bias: Fraction = 0.10
    """Largest distance between a policy's success in imagination and on the station."""


@dataclass(frozen=True)
class CanaryConfig:
    """Canary trials: base and adapter on the same resets of the robot, until one is clearly better."""

    trials: Annotated[int, Field(ge=0, le=1000)] = 0
    """At most this many pairs of trials, after an adapter passed the gate; 0: the gate has the last word."""
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    """Largest probability of confirming an adapter that is no better, and of rejecting one that is no worse."""
    power: Annotated[float, Field(gt=0, lt=1)] = 0.8
    """The report says which rise in success these trials would find with this probability."""
    undecided: Literal["base", "adapter"] = "base"
    """Which policy acts when the trials are spent and neither is clearly better."""
    other_trials: Annotated[int, Field(ge=0, le=1000)] = 8
    """Pairs of trials on each other task of the station, which the adapter must not harm; 0: no such trials."""


@dataclass(frozen=True)
class PractiseConfig:
    """Rounds of practice: where canary trials rolled an adapter back, world model and judges learn from the episodes of
    those trials, the gate is measured anew, and the task is practised again."""

    rounds: Annotated[int, Field(ge=0, le=MOST_ROUNDS)] = 0
    """At most this many rounds of learning and practising again; 0: one practice, and what the canary says holds."""
    held_out: Annotated[float, Field(ge=0.05, le=0.9)] = 0.3
    """Share of the canary's resets whose episodes teach nothing; the gate is measured on them."""
    old_data: tuple[PathText, ...] = ()
    """Folders of episodes that are mixed in when the world model learns, each as FOLDER or FOLDER@WEIGHT, so that it
    keeps what it knew."""
    held_out_data: tuple[PathText, ...] = ()
    """Folders of further episodes of this station on which the gate is measured, and from which nothing is learned."""
    measuring_trials: Annotated[int, Field(ge=0, le=1000)] | None = None
    """Episodes of the base policy at each task, from further resets, on which the gate is measured, too: a canary alone
    holds out few. They run once, before the first round of learning. None: 20 where the station is simulated, and none
    on a real one."""
    weight: Annotated[float, Field(gt=0, le=1000)] = 4.0
    """A frame of the canary's episodes is drawn this many times as often as one of `old_data`."""
    world_model_steps: Annotated[int, Field(ge=1, le=1_000_000)] = 100
    """Optimiser steps of the world model in each round."""
    world_model_batch: Annotated[int, Field(ge=1, le=4096)] = 16
    """Clips per step."""
    world_model_learning_rate: NotNegative = 0.0
    """0: a twentieth of the one that the model was trained with: a canary's episodes are few."""
    judge_steps: Annotated[int, Field(ge=0, le=1_000_000)] = 300
    """Optimiser steps of each learned judge in each round; 0: the judges stay as they are."""
    judge_learning_rate: Annotated[float, Field(gt=0, le=0.1)] = 2e-4
    """The highest learning rate of the judges."""


def _schedule_alone(value: Any) -> Any:
    return {"schedule": value} if isinstance(value, (str, bool)) else value  # YAML reads `off` as false


def _off(value: Any) -> Any:
    return "off" if value is False else value


Hour = Annotated[int, Field(ge=0, le=24)]


@dataclass(frozen=True)
class DynaConfig:
    """Rounds of `gymnast dyna`: the world model and the judges learn from all that the station logged, and its tasks
    are practised. `dyna: nightly` alone is short for `dyna: {schedule: nightly}`. How the models learn stands in
    `practise`."""

    schedule: Annotated[Literal["off", "nightly"], BeforeValidator(_off)] = "off"
    """nightly: `gymnast queue run` adds rounds once each night, while no job waits."""
    night: tuple[Hour, Hour] = (20, 6)
    """Local hours from which and until which a night lasts; (0, 24): rounds begin at any time of a day."""
    rounds: Annotated[int, Field(ge=1, le=100)] = 1
    """Rounds of a run, and of each night. A round follows only where there are new episodes."""
    trajectories: Annotated[int, Field(ge=2, le=100_000)] = 100
    """At most this many episodes of each task, the latest ones; World-Gymnast's number. `practise.held_out` of them
    measure."""
    world_model_steps: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """Optimiser steps of the world model in each round. 0: by the data and the model's size."""
    share: Annotated[float, Field(gt=0, le=1)] = 0.25
    """Share of the learning rate of the world model's training, where `practise.world_model_learning_rate` is 0."""
    then: Literal["practise", "train", "nothing"] = "practise"
    """What follows in each round: practice of each task from logged start frames, one training over the frames of all
    tasks, or nothing."""
    updates: Annotated[int, Field(ge=1, le=100_000)] = 100
    """At most this many updates of a training (`then: train`)."""


@dataclass(frozen=True)
class LookAheadConfig:
    """Looking before acting: candidate chunks are tried in imagination, and the best one is executed."""

    rollouts: Annotated[int, Field(ge=0, le=1024)] = 0
    """Sampled candidates beside the greedy one, before every chunk; 0: act without looking ahead."""
    horizon: Annotated[int, Field(gt=0, le=1000)] = 20
    """Imagined steps of each candidate; its chunk counts."""
    temperature: Positive = 1.0
    """Temperature of sampling the candidates and the actions after them in imagination."""


@dataclass(frozen=True)
class ExecutorConfig:
    """When an episode on the arm ends before its steps are spent."""

    stop_at_success: bool = False
    """End an episode when the judge sees success on its frames; the arm then holds. False: go on to `max_steps`."""
    look_every: Annotated[int, Field(ge=1, le=1000)] = 1
    """Steps between two looks of the judge. A look of a vision-language model costs what judging an episode costs."""
    success_looks: Annotated[int, Field(ge=1, le=100)] = 1
    """Looks in a row that must see success: the time that the scene is given to settle, in which the arm goes on. A
    learned judge already wants two frames in a row."""


@dataclass(frozen=True)
class RestConfig:
    """A rest for the motors between trials."""

    every_s: Annotated[float, Field(ge=0, le=86400, allow_inf_nan=False), SECONDS] = 0.0
    """Seconds of episodes after which the arm rests; 0: never."""
    seconds: Annotated[float, Field(gt=0, le=86400, allow_inf_nan=False), SECONDS] = 1200.0
    """How long it rests."""
    torque: Literal["on", "off"] = "on"
    """"on": the arm stands at its start. "off": it lies down in the driver's sleep pose, and its motors are let go."""


@dataclass(frozen=True)
class PersonPageConfig:
    """The page on which a person who was called sees the scene, reads what to do, and says that it is done."""

    host: Annotated[str, Field(pattern=r"^[0-9A-Za-z.-]{1,253}$")] = "127.0.0.1"
    """Address to listen on from the first call on; by default this machine alone. 0.0.0.0: every network."""
    port: Annotated[int, Field(ge=0, le=65535)] = 0
    """0: any free one."""
    address: Address = ""
    """How people reach the page from where they are ("http://lab-pc:8020"), as calls name it; empty: by host and
    port."""


@dataclass(frozen=True)
class EvaluationConfig:
    """How trials over ROS go on while nobody watches."""

    reset: Literal["auto", "task", "person"] = "auto"
    """Who brings the scene to its start: the station's reset service where there is one, else a person ("auto"); an
    episode of each task's `reset_task` ("task"); or always a person."""
    reset_attempts: Annotated[int, Field(ge=1, le=20)] = 3
    """Resets that may fail in a row; then a person is called. Trials on a simulated station that resets itself end."""
    reference_view: PathText = ""
    """A photograph of the scene by the station's camera, the arm at its start; relative to the station file. A person
    is called when the camera sees the scene from elsewhere, or in other light. Empty: nobody looks."""
    max_view_shift: Annotated[float, Field(gt=0, le=0.5)] = 0.01
    """Largest shift of the live picture against `reference_view`, as a share of its width."""
    max_view_brightness: Annotated[float, Field(gt=0, le=255)] = 40.0
    """Largest difference in mean brightness between the live picture and `reference_view`, grey levels of 255."""
    person_timeout_s: Annotated[float, Field(gt=0, le=86400, allow_inf_nan=False), SECONDS] = 900.0
    """After this time without a person trials count as paused, and the person is called again. They never end by it."""
    look_cleared: bool = False
    """Bring the arm to its start after each episode, and let the judge see the scene without it as last picture."""
    reset_check: bool = False
    """After each reset, see whether the scene is at the task's start: by the station's truth where it has one, else by
    the judge. A wrong scene is reset again, within `reset_attempts`."""
    page: PersonPageConfig = field(default_factory=PersonPageConfig)
    """The page on which a person who was called answers."""
    rest: RestConfig = field(default_factory=RestConfig)
    """When the motors rest."""


@dataclass(frozen=True)
class ConsoleConfig:
    """The page in a browser on which people watch and operate the station (`gymnast console`)."""

    enabled: bool = True
    """Whether `gymnast up` and the launch file start it. Without the extra `serve` they say so and go on."""
    host: Annotated[str, Field(pattern=r"^[0-9A-Za-z.-]{1,253}$")] = "127.0.0.1"
    """Address to listen on; by default this machine alone. 0.0.0.0: every network. Whoever reaches the page may look;
    its buttons need the token."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8010
    """0: any free one."""
    token_env: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,99}$")] = "GYMNAST_CONSOLE_TOKEN"
    """Environment variable that holds the token. Where it is not set, a token is made at the first start, and kept in a
    file of this machine that its user alone can read."""


@dataclass(frozen=True)
class RecorderConfig:
    """Where episodes go."""

    folder: Annotated[PathText, Field(min_length=1)] = "runs/episodes"
    """Folder of the episodes."""
    mcap_compression: Literal["none", "lz4", "zstd"] = "none"
    """Compression of the bag. Use none or lz4: camera frames hardly compress, and zstd is slower than the camera."""
    min_free_mb: Annotated[int, Field(ge=0)] = 500
    """A recording is refused when less disk space is free, megabytes."""
    topics: dict[TopicName, MessageType] = field(default_factory=dict)
    """Further topics for the log, as their messages come: their types by name, for instance another camera's
    ("/wrist/image_raw": sensor_msgs/msg/Image)."""


@dataclass(frozen=True)
class BagConfig:
    """Bags that others recorded: which topic holds what, on which clock, at which rate."""

    image: PathText = ""
    """Topic of the pictures (sensor_msgs Image or CompressedImage). Empty: the only such topic in the bag."""
    actions: PathText = ""
    """Topic of Bridge actions: std_msgs Float32MultiArray or Float64MultiArray of 7 numbers (x, y, z in metres, roll,
    pitch, yaw in radians, gripper 1 = open), or gymnast_msgs BridgeAction."""
    poses: PathText = ""
    """Topic of the measured end effector in the base's frame (geometry_msgs PoseStamped, Pose or TransformStamped)."""
    actions_from: Literal["actions", "poses"] = "actions"
    """What the actions are: those of the topic, or the differences of the measured poses, one step apart."""
    tool_axis: Literal["x", "z"] = "x"
    """The axis of the measured pose that points out of the gripper; the vendor's ee_gripper_link has "x"."""
    gripper: PathText = ""
    """Topic of the measured gripper: std_msgs Float32 or Float64, or sensor_msgs JointState."""
    gripper_joint: str = ""
    """Name of the gripper's joint, where its topic holds joint states."""
    gripper_closed: Finite = 0.0
    """What the gripper's topic says when it is closed."""
    gripper_open: Finite = 1.0
    """What it says when it is open."""
    instruction: str = ""
    """The instruction of bags that name none themselves."""
    instruction_topic: PathText = ""
    """Topic of the instruction (std_msgs String)."""
    rate_hz: Annotated[float, Field(gt=0, le=50)] = 5.0
    """Steps per second."""
    stamps: Literal["header", "received"] = "header"
    """The time of a message: the stamp in its header, where its type has one, or always that of receipt."""

    def __post_init__(self) -> None:
        if self.gripper_closed == self.gripper_open:
            raise ConfigError(
                f"gripper_closed and gripper_open: found {self.gripper_open:g} for both, needed two values"
            )
        if self.actions_from == "poses" and not (self.poses and self.gripper):
            raise ConfigError("actions_from: poses: needed the topics `poses` and `gripper` as well")


@dataclass(frozen=True)
class ScheduledFault:
    """One fault of the simulated station, at its time."""

    kind: Annotated[str, Field(min_length=1)]
    """Its kind, and the motor of those that have one: read_failure, overload:elbow (docs/reference/faults.md)."""
    at: Annotated[float, Field(ge=0, allow_inf_nan=False), SECONDS] = 0.0
    """When it begins, seconds after the station's start."""
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False), SECONDS] = 0.0
    """How long it lasts; 0: for good."""


@dataclass(frozen=True)
class SimulationConfig:
    """The simulated station; absent where the arm is real."""

    scene: PathText = "drawer"
    """A shipped scene or the path of a scene file."""
    seed: Seed = 0
    """Decides the scene at the start."""
    faults: tuple[ScheduledFault, ...] = ()
    """Faults that come by themselves, for tests of what is built on a station."""


@dataclass(frozen=True)
class StationConfig:
    """Everything about one station: the file a lab writes."""

    name: Annotated[str, Field(min_length=1)]
    """Name of the station: adapters, runs and logs carry it."""
    tasks: Annotated[dict[str, TaskConfig], Field(min_length=1)]
    """The tasks, by names of your own such as `close_drawer`."""
    arm: ArmConfig = field(default_factory=ArmConfig)
    """The arm and how it is driven."""
    camera: CameraConfig = field(default_factory=CameraConfig)
    """The camera."""
    safety: SafetyConfig = field(default_factory=SafetyConfig)
    """What no action may exceed."""
    models: ModelsConfig = field(default_factory=ModelsConfig)
    """Which policy, world model and adapters are used."""
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    """Who scores episodes."""
    adaptation: AdaptationConfig = field(default_factory=AdaptationConfig)
    """How a task is practised."""
    canary: CanaryConfig = field(default_factory=CanaryConfig)
    """Trials on the robot after practice."""
    practise: PractiseConfig = field(default_factory=PractiseConfig)
    """Rounds of learning and practising again."""
    dyna: Annotated[DynaConfig, BeforeValidator(_schedule_alone)] = field(default_factory=DynaConfig)
    """Rounds of learning from all logs."""
    look_ahead: LookAheadConfig = field(default_factory=LookAheadConfig)
    """Whether candidates are imagined before the arm moves."""
    executor: ExecutorConfig = field(default_factory=ExecutorConfig)
    """When an episode ends."""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    """How trials go on while nobody watches."""
    console: ConsoleConfig = field(default_factory=ConsoleConfig)
    """The page on which people watch and operate the station."""
    recorder: RecorderConfig = field(default_factory=RecorderConfig)
    """Where episodes are logged."""
    bags: BagConfig = field(default_factory=BagConfig)
    """How bags that others recorded are read."""
    simulation: SimulationConfig | None = None
    """The simulated station; leave it out where the arm is real."""

    def __post_init__(self) -> None:
        period = 1 / self.arm.control_hz
        if self.safety.command_timeout_s <= period:
            raise ConfigError(
                f"safety.command_timeout_s is {self.safety.command_timeout_s:g}, must be over arm.control_hz's period "
                f"of {period:g} seconds, or the arm would hold between all actions"
            )
        if self.simulation is not None and self.arm.is_direct:
            raise ConfigError(
                f"arm.driver: found {self.arm.driver} with a simulation section, which has its own driver; leave it out"
            )

        for name, task in self.tasks.items():
            if task.reset_task not in self.tasks and (task.reset_task or self.evaluation.reset == "task"):
                raise ConfigError(
                    f"tasks.{name}.reset_task: found {task.reset_task!r}, needed one of {', '.join(sorted(self.tasks))}"
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
    content = read_mapping(path)
    for name, value in (overrides or {}).items():
        target = content
        *parents, last = name.split(".")
        for parent in parents:
            target = target.setdefault(parent, {})
            if not isinstance(target, dict):
                raise ConfigError(f"override {name}: '{parent}' is not a section")
        target[last] = value
    return parse_config(cls, content, str(Path(path)))


def read_mapping(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The fields of a YAML or JSON file, unchecked. Raises: ConfigError, one line naming the file and what is wrong."""
    path = Path(path)
    try:
        with open(path, "rb") as stream:
            text = stream.read(MAX_BYTES + 1).decode("utf-8-sig")
        content = parse_json(text) if path.suffix == ".json" else parse_yaml(text)
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such config file") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from error
    except DocumentError as error:
        raise ConfigError(f"{path}: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(
            f"{path}: found {'nothing' if content is None else type(content).__name__}, needed a mapping of fields"
        )
    return content


def parse_config(cls: type[Config], content: Mapping[str, Any], source: str) -> Config:
    """Check a mapping against a dataclass and build it.

    Raises: ConfigError, one line naming `source`, the field, what was found and what is allowed.
    """
    _refuse_wrong(cls, content, source, "")
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
        shown = "nothing" if found[0]["type"] == "missing" else redact(repr(found[0]["input"]))[:80]
        allowed = ", or: ".join(str(one["msg"]).removeprefix("Value error, ") for one in found)
        allowed += unit_hint(_field_at(cls, places[0]), found[0].get("input"))
        more = f" (and {len(places) - 1} more)" if len(places) > 1 else ""
        raise ConfigError(f"{source}: {where}: found {shown}; {allowed}{more}") from error
    except ConfigError as error:  # a dataclass's own check of fields that must fit together
        raise ConfigError(f"{source}: {error}") from error


def dump_config(config: Any) -> str:
    """A config as YAML text that `load_config` reads back."""
    return yaml.dump(_plain(dataclasses.asdict(config)), Dumper=PlainDumper, sort_keys=False, allow_unicode=True)


def find_model(name: str, config_path: str | os.PathLike[str] | None = None, network: bool = True) -> Path:
    """A model folder: as given, beside the station file, or among the shipped weights; or one on the Hugging Face Hub
    (`hf:OWNER/NAME[@REVISION]`), which is fetched into the cache.

    network: False where nothing may be fetched, as for names that strangers send.

    Raises: ConfigError listing where it was looked for, or saying what the Hub says.
    """
    if is_hub_name(name):
        return fetch(name, "model", network)
    candidates = [user_path(name)]
    if not candidates[0].is_absolute():
        if config_path is not None:
            candidates.append(Path(config_path).resolve().parent / name)
        candidates.append(PACKAGE_ROOT / "weights" / name)
    try:
        for candidate in candidates:
            if candidate.exists():
                return candidate.resolve()
    except OSError as error:
        raise ConfigError(f"model '{name[:200]}': {error.strerror or error}") from error
    raise ConfigError(f"model '{name}' not found; looked at {', '.join(str(c) for c in candidates)}")


@cache
def _adapter(cls: type[Any]) -> TypeAdapter[Any]:
    return TypeAdapter(cls, config=None if dataclasses.is_dataclass(cls) else ConfigDict(extra="forbid"))


def _refuse_wrong(cls: Any, content: Any, source: str, where: str) -> None:
    """Name misspelt fields, which pydantic ignores in plain dataclasses, and values of another kind, which it converts:
    true is no number, and text in quotes is none either."""
    cls = _unwrap(cls)
    if dataclasses.is_dataclass(cls) and isinstance(content, Mapping):
        hints = get_type_hints(cls, include_extras=False)
        known = [f.name for f in dataclasses.fields(cls)]
        for key, value in content.items():
            if key not in known:
                comma = "; is this a decimal comma? write 0.4" if value is None and str(key).isdigit() else ""
                raise ConfigError(f"{source}: unknown field '{where}{key}'{comma}; allowed here: {', '.join(known)}")
            _refuse_wrong(hints[key], value, source, f"{where}{key}.")
    elif get_origin(cls) is dict and isinstance(content, Mapping):
        for key, value in content.items():
            _refuse_wrong(get_args(cls)[1], value, source, f"{where}{key}.")
    elif get_origin(cls) in (tuple, list) and isinstance(content, (list, tuple)):
        for index, value in enumerate(content):
            _refuse_wrong(_element(cls, index), value, source, f"{where}{index}.")
    elif (cls in (int, float) and isinstance(content, (bool, str))) or (cls is bool and type(content) in (int, float)):
        needed = "true or false" if cls is bool else "a number alone, without quotes or unit"
        raise ConfigError(f"{source}: {where[:-1]}: found {content!r:.80}; needed {needed}")


def _field_at(cls: Any, place: tuple[Any, ...]) -> Any:
    """The annotated type of the field at a place of a config; None where there is none."""
    for part in place:
        inner = _unwrap(get_args(cls)[0] if get_origin(cls) is Annotated else cls)
        if dataclasses.is_dataclass(inner):
            cls = get_type_hints(inner, include_extras=True).get(part)
        elif get_origin(inner) is dict:
            cls = get_args(inner)[1]
        elif get_origin(inner) in (tuple, list) and isinstance(part, int):
            cls = _element(inner, part)
        else:
            return None
    return cls


def _element(cls: Any, index: int) -> Any:
    """The type of an element of a list or tuple type; None where there are fewer."""
    parts = get_args(cls)
    if len(parts) == 1 or (parts and parts[-1] is Ellipsis):
        return parts[0]
    return parts[index] if index < len(parts) else None


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
    for left, part in reversed(list(enumerate(reversed(error["loc"])))):
        if isinstance(content, Mapping) and (part in content or (error["type"] == "missing" and left == 0)):
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
