"""The bench of a real-time station: resets, episodes, practice and truth over ROS, for one goal of the evaluator.

Nothing here moves the arm itself, and every wait has a limit but the one for a person (`SceneReset`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gymnast_msgs.action import Adapt, RunEpisode
from gymnast_msgs.srv import CaptureFrame, Rearm, ResetArm, ResetScene, SceneState
from rclpy.action import ActionClient
from std_srvs.srv import Trigger

from gymnast_core.config import StationConfig
from gymnast_core.data.outcome import ABORTED
from gymnast_core.data.pictures import read_image
from gymnast_core.errors import StationError
from gymnast_core.evaluation.resets import ResetReport
from gymnast_core.evaluation.rest import Rests
from gymnast_core.evaluation.session import EpisodeOutcome, PlannedTrial, Tell
from gymnast_core.files import user_path
from gymnast_core.robot.strain import read_strain
from gymnast_core.seeds import derive_seed
from gymnast_core.simulation.scene import load_scene
from gymnast_nodes.arm_actions import measured_position
from gymnast_nodes.arm_to_start import ArmToStart
from gymnast_nodes.calls import call_service, run_goal
from gymnast_nodes.cleared_look import judge_cleared
from gymnast_nodes.lifecycle import ManagedNode
from gymnast_nodes.liveness import Liveness
from gymnast_nodes.long_action import Goal
from gymnast_nodes.person_call import PersonCaller
from gymnast_nodes.scene_reset import SETTLE_S, SceneReset
from gymnast_nodes.start_frames import StartViews, View
from gymnast_nodes.station_judge import StationJudge

VISIT_M = 0.03
"""Poses that an arm visits for start frames lie this far from its start along each axis, at most."""
SEEDS = 2**31
"""Seeds of resets lie below this."""


class StationClients:
    """What the evaluator asks of the station's other nodes, and whom it asks to reset the scene."""

    def __init__(self, node: ManagedNode) -> None:
        self.node = node
        self.station: StationConfig = node.station
        self.liveness = Liveness(node)
        self.reset_arm = node.create_client(ResetArm, "arm/reset")
        self.rest_arm = node.create_client(Trigger, "arm/rest")
        self.reset_scene = node.create_client(ResetScene, "station/reset_scene")
        self.scene_state = node.create_client(SceneState, "station/scene_state")
        self.capture = node.create_client(CaptureFrame, "camera/capture_frame")
        self.run_episode = ActionClient(node, RunEpisode, "executor/run_episode")
        self.adapt = ActionClient(node, Adapt, "adapter/adapt")
        self.rearm = node.create_client(Rearm, "arm/rearm")
        simulation = self.station.simulation
        self.scene = load_scene(simulation.scene)[0] if simulation is not None else None
        self.reference_view = _reference_view(node)
        self.judge = StationJudge(node)
        self.rests = Rests(self.station.evaluation.rest)
        self.person = PersonCaller(node)


def _reference_view(node: ManagedNode) -> np.ndarray | None:
    """The photograph that `evaluation.reference_view` names. Raises: DataError when it cannot be read."""
    name = node.station.evaluation.reference_view
    return read_image(Path(node.config_path).parent / user_path(name, "evaluation.reference_view")) if name else None


class RosBench:
    """`evaluation.session.Bench` over ROS, for one goal; a cancel of it ends every wait.

    on_phase: is told that a person is waited for ("person"), or that the arm rests ("rest").
    """

    def __init__(
        self, clients: StationClients, goal: Goal[Any], on_phase: Callable[[str], None] = lambda phase: None
    ) -> None:
        self.clients = clients
        self._node = clients.node
        self._station = clients.station
        self.goal = goal
        self._to_start = ArmToStart(clients, goal)
        self._reset = SceneReset(self, on_phase)

    def check(self, tasks: Sequence[str]) -> None:
        """The station's judge answers, see `StationJudge`. Raises: StationError, Cancelled."""
        self.clients.judge.check(self, tasks)

    def practise(self, task: str, seed: int, tell: Tell) -> str:
        """Adapt from the scene as it is; the adapter's name, or "base"."""
        instruction = self._station.task(task).instruction
        tell("capture", None)
        adapted = self.adapt(instruction, StartViews((self.capture(),)), 0, 0.0, seed, tell)
        return adapted.adapter_id or "base"

    def run(self, trial: PlannedTrial, max_steps: int, tell: Tell) -> EpisodeOutcome:
        """One episode through the executor; one whose node dies is aborted. Raises: Cancelled."""
        task, began = self._station.task(trial.task), time.monotonic()
        try:
            episode = self.execute(
                task.instruction, trial.task, trial.policy, max_steps or task.max_steps, trial.seed,
                lambda nested: tell("run", nested), judge=not self._looks_later,
            )  # fmt: skip
        except StationError as error:
            return EpisodeOutcome(ABORTED, message=str(error))
        self.clients.rests.work(time.monotonic() - began)
        score = float(episode.judge_score) if math.isfinite(episode.judge_score) else None
        outcome = EpisodeOutcome(int(episode.outcome), int(episode.steps), episode.episode_path, score, episode.message)
        if self._looks_later:
            tell("judge", None)
            outcome = judge_cleared(self, task.instruction, outcome)
        elif score is not None:
            self.clients.judge.answered()
        return outcome.at_the_cost_of(read_strain(episode.episode_path)) if episode.episode_path else outcome

    def truth(self, task: str) -> bool | None:
        """The station's own truth, None where it has none."""
        if self._station.simulation is None and not self.clients.scene_state.service_is_ready():
            return None
        answer = call_service(
            self.clients.scene_state, SceneState.Request(task=task), 10.0, lambda: self.goal.cancelled
        )
        return bool(answer.success) if answer.known else None

    @property
    def _looks_later(self) -> bool:
        """Whether episodes are judged after the arm has cleared the scene."""
        return self._station.evaluation.look_cleared

    @property
    def resets_itself(self) -> bool:
        """Whether the station brings its scene to a start without a person."""
        if self._station.evaluation.reset != "auto":
            return False
        return self._station.simulation is not None or bool(self.clients.reset_scene.service_is_ready())

    def capture(self) -> View:
        """The scene now, and where the arm is. Raises: StationError, Cancelled."""
        answer = call_service(self.clients.capture, CaptureFrame.Request(), 15.0, lambda: self.goal.cancelled)
        if not answer.success:
            raise StationError(answer.message)
        return View(answer.image, measured_position(self._node))

    def look_at_starts(self, task: str, reset: bool, frames: int, seed: int, tell: Tell) -> StartViews:
        """Views to practise from: the scene as it is, or after a reset, and `frames` - 1 further ones.

        Where the station resets itself and `reset` is true, each is of another reset, and other tasks are looked at as
        well, as `adaptation.rehearsal` has it; scene and arm are then brought back to the first start. Elsewhere the
        arm alone visits other poses near its start, and returns.

        Raises: StationError, Cancelled.
        """
        own = self._station.adaptation
        renewed = reset and self.resets_itself
        tell("capture", None)
        views = [self.capture()]
        for number in range(1, frames):
            tell("capture", None)
            if renewed:
                self.reset(task, derive_seed(seed, "start", number) % SEEDS)
            else:
                self.visit(derive_seed(seed, "pose", number))
            views.append(self.capture())
        others: dict[str, tuple[View, ...]] = {}
        if renewed and own.rehearsal == "auto":
            for name in sorted(set(self._station.tasks) - {task}):
                tell("capture", None)
                words = self._station.task(name).instruction
                others[words] = tuple(self._view_of(name, seed, number) for number in range(own.rehearsal_frames))
        if renewed and (frames > 1 or others):
            self.reset(task, seed)
        elif frames > 1:
            self.visit(None)
        return StartViews(tuple(views), {words: found for words, found in others.items() if found})

    def _view_of(self, task: str, seed: int, number: int) -> View:
        self.reset(task, derive_seed(seed, "other", task, number) % SEEDS)
        return self.capture()

    def visit(self, seed: int | None) -> None:
        """Bring the arm near its start, inside the workspace; None: to the start itself. What hinders it may pass, so
        it is tried `evaluation.reset_attempts` times. Raises: StationError."""
        offset = np.zeros(3)
        if seed is not None:
            start = np.array(self._station.arm.start_position)
            safety = self._station.safety
            wanted = start + np.random.default_rng(seed).uniform(-VISIT_M, VISIT_M, 3)
            offset = np.clip(wanted, safety.workspace_min, safety.workspace_max) - start
        for _ in range(self._station.evaluation.reset_attempts):
            problem = self._to_start(offset)
            if not problem:
                self.goal.sleep_until(time.monotonic() + SETTLE_S)
                return
        raise StationError(problem)

    def adapt(
        self,
        instruction: str,
        views: StartViews,
        iterations: int,
        seconds: float,
        seed: int,
        tell: Tell,
        station_file: str = "",
    ) -> Any:
        """Adapt from these views: the result, whose run folder holds them. station_file: of a round, "" the station's
        own. Raises: StationError, Cancelled."""
        request = Adapt.Goal(instruction=instruction, iterations=iterations, seed=seed, station_file=station_file)
        request.seconds = seconds
        views.fill(request)
        limit = 3.0 * (seconds or self._station.adaptation.seconds) + 1500.0
        status, adapted = run_goal(
            self._node,
            self.clients.adapt,
            "adapter/adapt",
            request,
            limit,
            lambda nested: tell(nested.phase, nested),
            lambda: self.goal.cancelled,
            self.clients.liveness.watch("adapter"),
        )
        if status != "succeeded" or not adapted.success:
            raise StationError(f"adaptation failed: {adapted.message or status}")
        return adapted

    def execute(
        self,
        instruction: str,
        task: str,
        policy: str,
        max_steps: int,
        seed: int,
        on_feedback: Callable[[Any], None],
        judge: bool = True,
    ) -> Any:
        """One episode through the executor, within a limit of wall-clock time."""
        request = RunEpisode.Goal(instruction=instruction, task=task, policy=policy, seed=seed, judge=judge)
        request.max_steps = max_steps
        limit = 3.0 * (max_steps or 40) / self._station.arm.control_hz + 120.0
        judging = self._station.judge.timeout_s if self._station.judge.asks else 0.0
        _, episode = run_goal(
            self._node,
            self.clients.run_episode,
            "executor/run_episode",
            request,
            limit + 3.0 * judging,
            on_feedback,
            lambda: self.goal.cancelled,
            self.clients.liveness.watch("executor"),
        )
        return episode

    def reset(self, task: str, seed: int) -> ResetReport:
        """Arm and scene to the task's start, see `SceneReset`. Raises: StationError, Cancelled."""
        return self._reset(task, seed)
