"""Who acts on a station, and who judges it: the policy of its file with its adapters, its look-ahead and its judge."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from gymnast_core.config import StationConfig
from gymnast_core.data.episode import check_actions, read_episode
from gymnast_core.errors import DataError, StationError
from gymnast_core.policy.choice import StationPolicies
from gymnast_core.policy.names import BASE
from gymnast_core.policy.openvla import OpenVLAPolicy
from gymnast_core.protocols import EpisodicPolicy, Judge, Policy, Verdict
from gymnast_core.reward.check import JudgeAnswer, check_judge
from gymnast_core.reward.factory import load_judge
from gymnast_core.rollout.ending import SuccessWatch, station_ending
from gymnast_core.rollout.look_ahead import ActingPolicies, LookAheadPolicy
from gymnast_core.station_file import StationFile


class StationActor:
    """station, station_file: whose policy acts. answers: where raw answers of a judge behind an API are kept."""

    def __init__(self, station: StationConfig, station_file: Path, answers: Path) -> None:
        self._station = station
        self._station_file = station_file
        self._answers = answers
        self._policy: Policy | None = None
        """The one that acts now."""
        self._judge: Judge | None = None
        self._open()

    def load(self) -> float:
        """Load the policy and let it act once; returns the seconds that one chunk takes.

        Raises: ConfigError, CheckpointError, JudgeError, DataError.
        """
        self._policy = self._acting.choose(BASE)
        self._policies.warm_up()
        size = self._station.camera.observation_size
        started = time.monotonic()
        self._policy.act(np.zeros((1, size, size, 3), np.uint8), ["warm up"])
        return time.monotonic() - started

    def unload(self) -> None:
        """Forget policies and judge."""
        self._policy = self._judge = None
        self._open()

    def _open(self) -> None:
        station = StationFile(self._station_file, self._station)
        self._policies = StationPolicies(station)
        self._acting = ActingPolicies(station, self._policies, str(self._answers))

    @property
    def fingerprint(self) -> str:
        """Of the checkpoint that acts; empty for a policy without one."""
        acts = self._policy.policy if isinstance(self._policy, LookAheadPolicy) else self._policy
        return acts.checkpoint.fingerprint if isinstance(acts, OpenVLAPolicy) else ""

    def candidates(self, name: str) -> int:
        """How many candidates the policy of a name imagines before each chunk; 0: it does not look ahead."""
        return self._acting.candidates(name)

    def select(self, name: str, seed: int) -> None:
        """Let one policy act in the next episode, which has this seed: see `StationPolicies`.

        Raises: StationError without a policy; CheckpointError when there is no such adapter, or it may not act;
            ConfigError, DataError when another policy cannot be opened, or looks ahead and cannot; JudgeError.
        """
        if self._policy is None:
            raise StationError("the executor has no policy; configure it first")
        self._policy = self._acting.choose(name)
        if isinstance(self._policy, LookAheadPolicy):
            self._policy.begin(seed)

    @property
    def remembers(self) -> bool:
        """Whether the policy must be told that an episode begins (`restart`)."""
        return isinstance(self._policy, EpisodicPolicy)

    def restart(self) -> None:
        """An episode begins: a policy that remembers forgets the one before."""
        if isinstance(self._policy, EpisodicPolicy):
            self._policy.restart()

    def act(self, frame: np.ndarray, instruction: str, position: tuple[float, float, float] | None) -> np.ndarray:
        """The next chunk of actions (K, 7).

        frame: (S, S, 3) uint8. position: of the end effector, metres in the arm's base frame, where it is known.

        Raises: DataError when the policy gives something else; StationError without a policy; what the policy raises.
        """
        if self._policy is None:
            raise StationError("the executor has no policy; configure it first")
        if isinstance(self._policy, LookAheadPolicy) and position is not None:
            self._policy.place(np.array([position]))
        actions = self._policy.act(frame[None], [instruction])
        if actions.ndim != 3 or len(actions) != 1 or not len(actions[0]):
            raise DataError(f"policy: found actions of shape {actions.shape}, needed (1, chunk, 7)")
        return check_actions(actions[0], "policy")

    def judge(self, folder: str, instruction: str, after: np.ndarray | None = None) -> tuple[str, Verdict]:
        """The judge's name, and its verdict on a recorded episode; `completed_at` counts the episode's frames.

        after: a frame (S, S, 3) uint8 of the scene after the episode, which the judge sees last.

        Raises: ConfigError, CheckpointError, DataError, JudgeError.
        """
        judge = self._open_judge()
        frames = read_episode(folder).frames
        last = len(frames) - 1
        if after is not None:
            frames = np.concatenate([frames, after[None]])
        chosen = judge.frame_indices(len(frames))
        verdict = judge.judge([frames[chosen]], [instruction])[0]
        if verdict.completed_at is not None:
            verdict = replace(verdict, completed_at=min(chosen[verdict.completed_at], last))
        return judge.name, verdict

    def look(self, picture: np.ndarray, instruction: str) -> Verdict:
        """The judge's verdict on one picture (S, S, 3) uint8. Raises: as `judge`."""
        return self._open_judge().judge([picture[None]], [instruction])[0]

    def check_judge(self, picture: np.ndarray, instructions: Sequence[str]) -> JudgeAnswer | None:
        """Whether the judge answers, see `reward.check`. Raises: as `judge`."""
        return check_judge(self._open_judge(), picture, instructions)

    def watch(self, instruction: str) -> SuccessWatch | None:
        """Who says from the frames as they come when an episode has succeeded; None where nobody can, since the
        station's truth is in no frame.

        Raises: ConfigError, CheckpointError, JudgeError.
        """
        ending = station_ending(self._station.executor, self._open_judge())
        return None if isinstance(ending, str) else ending(instruction)

    def _open_judge(self) -> Judge:
        if self._judge is None:
            looking = self._acting.judge
            self._judge = looking or load_judge(self._station, self._station_file, self._answers)
        return self._judge
