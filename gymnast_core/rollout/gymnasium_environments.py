"""The simulated station and the world model as gymnasium environments, for libraries that speak gymnasium.

An action is one step in Bridge convention (7,) float32: translation in metres and rotation in radians along the base
axes, then the gripper, absolute, 1 = open and 0 = closed. The bounds of the action space are the station's safety
envelope, which also stands before both environments: what lies outside is executed as far as the envelope lets it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from gymnast_core.config import StationConfig
from gymnast_core.data.frames import check_frame
from gymnast_core.errors import ConfigError
from gymnast_core.protocols import Environment, Start, StepResult
from gymnast_core.reward.factory import load_judge
from gymnast_core.rollout.open import open_imagination
from gymnast_core.rollout.starts import StartFrame, check_instruction, read_frames
from gymnast_core.simulation.environment import StationEnvironment
from gymnast_core.station_file import open_station

RENDER_MODES = (None, "rgb_array")
STATE = 7
Observation = dict[str, np.ndarray]
Info = dict[str, Any]


class SingleRollout(gymnasium.Env[Observation, np.ndarray]):
    """One rollout of an `Environment`, one action a step.

    Observations hold "pixels", (S, S, 3) uint8 RGB. The instruction of the episode is `task_description`, and stands in
    every info, as do "is_success", "executed" (the action after the safety envelope) and "safety_events" (the names of
    its interventions). An episode is truncated after `max_steps` steps.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 5}  # noqa: RUF012 - as gymnasium declares it

    def __init__(self, environment: Environment, station: StationConfig, size: int, max_steps: int, mode: str | None):
        if mode not in RENDER_MODES:
            raise ConfigError(f"render_mode: found '{mode}', allowed are rgb_array and None")
        if not 1 <= max_steps <= 10000:
            raise ConfigError(f"max_steps: found {max_steps}, allowed are 1 to 10000")
        safety = station.safety
        bound = np.array([safety.max_translation] * 3 + [safety.max_rotation] * 3, np.float32)
        low, high = np.append(-bound, np.float32(0)), np.append(bound, np.float32(1))
        self.action_space = spaces.Box(low, high, dtype=np.float32)
        self.pixels = spaces.Box(0, 255, (size, size, 3), np.uint8)
        self.observation_space: spaces.Space[Any] = spaces.Dict({"pixels": self.pixels})
        self.metadata = {**type(self).metadata, "render_fps": station.arm.control_hz}
        self.render_mode = mode
        self.task_description = ""
        self.task = ""
        self.max_steps = max_steps
        self._environment = environment
        self._steps = 0
        self._frame: np.ndarray | None = None

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[Observation, Info]:
        """Begin an episode; the same seed begins the same one. Raises: GymnastError."""
        super().reset(seed=seed)
        start = self._start(int(self.np_random.integers(2**31)), dict(options or {}))
        self._frame = self._environment.reset([start])[0]
        self._steps, self.task_description = 0, start.instruction
        return self._observe(), self._info()

    def step(self, action: np.ndarray) -> tuple[Observation, float, bool, bool, Info]:
        """Execute one action (7,). Raises: ConfigError for one of another shape, or not finite."""
        values = np.asarray(action, dtype=np.float32)
        if values.shape != (STATE,) or not np.isfinite(values).all():
            raise ConfigError(f"action: found shape {values.shape} of {values.tolist()}, needed 7 finite numbers")
        if self._frame is None:
            raise gymnasium.error.ResetNeeded("reset the environment before its first step")
        result = self._environment.step(values[None, None])
        self._frame = result.frames[0]
        self._steps += 1
        ends = self._steps >= self.max_steps
        reward, success, told = self._reward(result, ends)
        info = {"executed": result.executed[0, 0], "safety_events": tuple(result.safety_events[0][0]), **told}
        return self._observe(), reward, success, ends and not success, self._info(success, info)

    def render(self) -> np.ndarray | None:  # type: ignore[override]  # gymnasium's own type allows lists too
        """The newest frame, in the mode "rgb_array"."""
        return self._frame if self.render_mode == "rgb_array" else None

    @abstractmethod
    def _start(self, seed: int, options: Info) -> Start:
        """Where the next episode begins."""

    @abstractmethod
    def _reward(self, result: StepResult, ends: bool) -> tuple[float, bool, Info]:
        """(reward, whether the task is done, further facts) of a step. ends: no further step is allowed."""

    def _observe(self) -> Observation:
        assert self._frame is not None
        return {"pixels": self._frame}

    def _info(self, success: bool = False, told: Info | None = None) -> Info:
        return {"is_success": success, "instruction": self.task_description, **(told or {})}


class StationEnv(SingleRollout):
    """A simulated station, "gymnast/Station-v0".

    Observations also hold "agent_pos" (7,) float32: the measured end effector x, y, z (metres, base frame), roll,
    pitch, yaw (radians, Bridge rotation frame), and the gripper's opening, 0 to 1. The reward is 1 in the step in which
    the station's own truth sees the task done, which terminates the episode, and 0 before.

    config: a station file with a simulation, or the name of a shipped one. task: one of its tasks; empty: its first.
    max_steps: 0: as the task says. reset(options={"task": NAME}) changes the task.

    Raises: ConfigError.
    """

    def __init__(
        self,
        config: str = "simulated_drawer",
        task: str = "",
        max_steps: int = 0,
        render_mode: str | None = None,
    ) -> None:
        station = open_station(config).config
        if not station.tasks:
            raise ConfigError(f"station '{station.name}' has no task; add one under 'tasks'")
        chosen = task or min(station.tasks)
        steps = max_steps or station.task(chosen).max_steps
        self._simulated = StationEnvironment(station)
        super().__init__(self._simulated, station, station.camera.observation_size, steps, render_mode)
        self.task, self.station = chosen, station
        unbounded = spaces.Box(-np.inf, np.inf, (STATE,), np.float32)
        self.observation_space = spaces.Dict({"pixels": self.pixels, "agent_pos": unbounded})

    def close(self) -> None:
        """Give the renderer back."""
        self._simulated.close()

    def _start(self, seed: int, options: Info) -> Start:
        self.task = str(options.pop("task", self.task))
        _nothing_left(options, ("task",))
        return Start(self.station.task(self.task).instruction, None, self.task, seed)

    def _reward(self, result: StepResult, ends: bool) -> tuple[float, bool, Info]:
        success = bool(result.success[0, 0])
        credit = {} if result.credit is None else {"credit": float(result.credit[0, 0])}
        return float(success), success, credit

    def _observe(self) -> Observation:
        return {**super()._observe(), "agent_pos": self._simulated.states()[0, -1]}


class ImaginationEnv(SingleRollout):
    """The world model of a station file, "gymnast/Imagination-v0".

    There is no truth in imagination: at the end of an episode the station's judge looks at its frames, and the reward
    is its score, 0 to 1. The info of that step holds "judge_score", None where the judge abstains, and "judge_reason".

    config: a station file, or the name of a shipped one. frames: where episodes begin: pictures, films or logged
    episodes, `SOURCE` or `SOURCE:INDEX`, one of them drawn for each episode. instruction: what is to be done in them.
    max_steps: imagined actions of an episode. judged: False leaves the judge out, and every reward is 0.
    reset(options={"frame": SOURCE or an (H, W, 3) uint8 array, "instruction": TEXT}) begins elsewhere.

    Raises: ConfigError, CheckpointError, DataError (a frame), JudgeError.
    """

    def __init__(
        self,
        config: str = "simulated_drawer",
        frames: str | Sequence[str] = (),
        instruction: str = "",
        max_steps: int = 30,
        render_mode: str | None = None,
        judged: bool = True,
        device: str = "",
    ) -> None:
        opened = open_station(config, device=device)
        self._starts = read_frames([frames] if isinstance(frames, str) else list(frames)) if frames else []
        self._instruction = check_instruction(instruction) if instruction else ""
        imagination = open_imagination(opened)
        self._judge = load_judge(opened.config, opened.path) if judged else None
        super().__init__(imagination, opened.config, imagination.image_size, max_steps, render_mode)

    def _start(self, seed: int, options: Info) -> Start:
        frame, instruction = options.pop("frame", None), options.pop("instruction", self._instruction)
        _nothing_left(options, ("frame", "instruction"))
        if isinstance(frame, str):
            chosen = read_frames([frame])[0]
        elif frame is not None:
            chosen = StartFrame(check_frame(frame, "options: frame"))
        elif self._starts:
            chosen = self._starts[seed % len(self._starts)]
        else:
            raise ConfigError("frames: found none; name a picture when the environment is made, or reset with options")
        text = check_instruction(str(instruction), "instruction")
        return Start(text, chosen.frame, seed=seed, position=chosen.position)

    def _reward(self, result: StepResult, ends: bool) -> tuple[float, bool, Info]:
        if not ends or self._judge is None:
            return 0.0, False, {}
        shown = self._environment.video(self._judge.frame_indices(self._steps + 1))[0]
        verdict = self._judge.judge([shown], [self.task_description])[0]
        told = {"judge_score": verdict.score, "judge_reason": verdict.reason}
        return verdict.score or 0.0, bool(verdict.completed), told


def _nothing_left(options: Info, known: Sequence[str]) -> None:
    """Raises: ConfigError for an option that nobody asked for."""
    if options:
        raise ConfigError(f"options: found '{min(options)}', allowed are {', '.join(known)}")
