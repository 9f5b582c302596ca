"""The bench of a real-time station: resets, episodes, practice and truth over ROS, for one goal of the evaluator.

On a station without a reset service a person brings the scene to its start: the node says so, and waits for the
service evaluator/scene_is_reset. So it does where a real station's reset fails again and again. A person is waited for
as long as it takes; every other wait has a limit, and nothing here moves the arm itself.
"""

from __future__ import annotations

import math
import re
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from gymnast_msgs.action import Adapt, RunEpisode
from gymnast_msgs.srv import CaptureFrame, Rearm, ResetArm, ResetScene, SceneState
from rclpy.action import ActionClient
from std_srvs.srv import Trigger

from gymnast_core.config import StationConfig
from gymnast_core.errors import GymnastError, StationError
from gymnast_core.evaluation.person import Call, call_person, webhooks
from gymnast_core.evaluation.rest import Rests
from gymnast_core.evaluation.session import EpisodeOutcome, PlannedTrial, Tell
from gymnast_core.robot.strain import read_strain
from gymnast_core.seeds import derive_seed
from gymnast_core.simulation.scene import load_scene
from gymnast_nodes.arm_actions import measured_position
from gymnast_nodes.calls import call_service, run_goal
from gymnast_nodes.commander import commander_name
from gymnast_nodes.lifecycle import ManagedNode
from gymnast_nodes.liveness import Liveness
from gymnast_nodes.long_action import Goal
from gymnast_nodes.messages import image_to_frame
from gymnast_nodes.start_frames import StartViews, View

VISIT_M = 0.03
"""Poses that an arm visits for start frames lie this far from its start along each axis, at most."""
SEEDS = 2**31
"""Seeds of resets lie below this."""
FAULT_LATCH = re.compile(r"\b\d+ faults\b")
"""How arm node and watchdog say that repeated faults, not a person, have latched the stop."""
SETTLE_S = 0.5
"""Between a reset and the first frame of what comes next: the camera must show the new scene."""


class StationClients:
    """What the evaluator asks of the station's other nodes, and whom it asks to reset the scene."""

    def __init__(self, node: ManagedNode) -> None:
        self.node = node
        self.station: StationConfig = node.station
        self.liveness = Liveness(node)
        self.reset_arm = node.create_client(ResetArm, "arm/reset")
        self.reset_scene = node.create_client(ResetScene, "station/reset_scene")
        self.scene_state = node.create_client(SceneState, "station/scene_state")
        self.capture = node.create_client(CaptureFrame, "camera/capture_frame")
        self.run_episode = ActionClient(node, RunEpisode, "executor/run_episode")
        self.adapt = ActionClient(node, Adapt, "adapter/adapt")
        self.rearm = node.create_client(Rearm, "arm/rearm")
        simulation = self.station.simulation
        self.scene = load_scene(simulation.scene)[0] if simulation is not None else None
        self.rests = Rests(self.station.evaluation.rest)
        self.webhooks = webhooks()
        self.waiting_for = ""
        """What a person is asked to do now; empty where nothing is."""
        self.scene_is_reset = threading.Event()
        node.create_service(Trigger, "evaluator/scene_is_reset", self._on_scene_is_reset)

    def _on_scene_is_reset(self, request: Trigger.Request, response: Trigger.Response) -> Any:
        response.success = bool(self.waiting_for)
        response.message = "thank you" if self.waiting_for else "no reset was asked for"
        self.scene_is_reset.set()
        return response


class RosBench:
    """`evaluation.session.Bench` over ROS, for one goal; a cancel of it ends every wait.

    on_phase: is told that a person is waited for ("person"), or that the arm rests ("rest").
    """

    def __init__(
        self, clients: StationClients, goal: Goal[Any], on_phase: Callable[[str], None] = lambda phase: None
    ) -> None:
        self._clients = clients
        self._on_phase = on_phase
        self._node = clients.node
        self._station = clients.station
        self.goal = goal

    def practise(self, task: str, seed: int, tell: Tell) -> str:
        """Adapt from the scene as it is; the adapter's name, or "base"."""
        instruction = self._station.task(task).instruction
        tell("capture", None)
        adapted = self.adapt(instruction, StartViews((self.capture(),)), 0, 0.0, seed, tell)
        return adapted.adapter_id or "base"

    def run(self, trial: PlannedTrial, max_steps: int, tell: Tell) -> EpisodeOutcome:
        """One episode through the executor."""
        task, began = self._station.task(trial.task), time.monotonic()
        episode = self.execute(
            task.instruction, trial.task, trial.policy, max_steps or task.max_steps, trial.seed,
            lambda nested: tell("run", nested),
        )  # fmt: skip
        self._clients.rests.work(time.monotonic() - began)
        score = float(episode.judge_score) if math.isfinite(episode.judge_score) else None
        outcome = EpisodeOutcome(int(episode.outcome), int(episode.steps), episode.episode_path, score, episode.message)
        return outcome.at_the_cost_of(read_strain(episode.episode_path)) if episode.episode_path else outcome

    def truth(self, task: str) -> bool | None:
        """The station's own truth, None where it has none."""
        if self._station.simulation is None and not self._clients.scene_state.service_is_ready():
            return None
        answer = call_service(
            self._clients.scene_state, SceneState.Request(task=task), 10.0, lambda: self.goal.cancelled
        )
        return bool(answer.success) if answer.known else None

    @property
    def resets_itself(self) -> bool:
        """Whether the station brings its scene to a start without a person."""
        if self._station.evaluation.reset == "person":
            return False
        return self._station.simulation is not None or bool(self._clients.reset_scene.service_is_ready())

    def capture(self) -> View:
        """The scene now, and where the arm is. Raises: StationError, Cancelled."""
        answer = call_service(self._clients.capture, CaptureFrame.Request(), 15.0, lambda: self.goal.cancelled)
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
        """Bring the arm near its start, inside the workspace; None: to the start itself. Raises: StationError."""
        offset = np.zeros(3)
        if seed is not None:
            start = np.array(self._station.arm.start_position)
            safety = self._station.safety
            wanted = start + np.random.default_rng(seed).uniform(-VISIT_M, VISIT_M, 3)
            offset = np.clip(wanted, safety.workspace_min, safety.workspace_max) - start
        request = ResetArm.Request(commander=commander_name(self._node), offset=offset.astype(np.float32))
        answer = call_service(self._clients.reset_arm, request, 60.0, lambda: self.goal.cancelled)
        if not answer.success:
            raise StationError(f"arm reset: {answer.message}")
        self.goal.sleep_until(time.monotonic() + SETTLE_S)

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
            self._clients.adapt,
            "adapter/adapt",
            request,
            limit,
            lambda nested: tell(nested.phase, nested),
            lambda: self.goal.cancelled,
            self._clients.liveness.watch("adapter"),
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
    ) -> Any:
        """One episode through the executor, within a limit of wall-clock time."""
        request = RunEpisode.Goal(instruction=instruction, task=task, policy=policy, seed=seed, judge=True)
        request.max_steps = max_steps
        limit = 3.0 * (max_steps or 40) / self._station.arm.control_hz + 120.0
        judging = self._station.judge.timeout_s if self._station.judge.asks else 0.0
        _, episode = run_goal(
            self._node,
            self._clients.run_episode,
            "executor/run_episode",
            request,
            limit + 3.0 * judging,
            on_feedback,
            lambda: self.goal.cancelled,
            self._clients.liveness.watch("executor"),
        )
        return episode

    def reset(self, task: str, seed: int) -> None:
        """Arm to its start pose, scene to the task's start; after a few vain attempts a person is called to a real one.

        Raises: StationError where nothing helps on a simulated station; Cancelled.
        """
        problem = self._try_to_reset(task, seed)
        while problem:
            reason = f"{problem} (after {self._station.evaluation.reset_attempts} attempts)"
            if self._station.simulation is not None:
                raise StationError(reason)
            self._call_person(task, f"look why the station cannot be brought to the start of '{task}'", reason)
            problem = self._try_to_reset(task, seed)
        if seconds := self._clients.rests.due:
            self._node.get_logger().info(f"the arm rests for {seconds:g} s")
            self._on_phase("rest")
            self.goal.sleep_until(time.monotonic() + seconds)
            self._clients.rests.rested()

    def _try_to_reset(self, task: str, seed: int) -> str:
        """What is still wrong after `evaluation.reset_attempts`, in words; empty when all is at its start."""
        problem = ""
        for _ in range(self._station.evaluation.reset_attempts):
            arm = ResetArm.Request(commander=commander_name(self._node))
            if self._clients.scene is not None:
                arm.offset = self._clients.scene.arm_start.draw(np.random.default_rng([seed, 1])).astype(np.float32)
            answer = call_service(self._clients.reset_arm, arm, 60.0, lambda: self.goal.cancelled)
            problem = "" if answer.success else f"arm reset: {answer.message}"
            if problem:
                self._rearm_simulated(answer.message)
                self.goal.sleep_until(time.monotonic() + 1.0)
                continue
            if self.resets_itself:
                request = ResetScene.Request(task=task, seed=seed)
                answer = call_service(self._clients.reset_scene, request, 30.0, lambda: self.goal.cancelled)
                problem = "" if answer.success else f"scene reset: {answer.message}"
            else:
                self._call_person(task, f"bring the scene to the start of '{task}', and step back")
            if not problem:
                self.goal.sleep_until(time.monotonic() + SETTLE_S)
                return ""
        return problem

    def _rearm_simulated(self, why: str) -> None:
        """A simulated arm that repeated faults have stopped is armed again; a real one, and an emergency stop, wait
        for a person."""
        if self._station.simulation is None or not FAULT_LATCH.search(why):
            return
        self._node.get_logger().warning(f"simulated arm re-armed: {why}")
        call_service(self._clients.rearm, Rearm.Request(confirm=True), 10.0, lambda: self.goal.cancelled)

    def _call_person(self, task: str, text: str, reason: str = "") -> None:
        """Wait until a person says that it is done, however long that takes. Raises: Cancelled."""
        clients, log = self._clients, self._node.get_logger()
        clients.scene_is_reset.clear()
        service = f"{self._node.get_namespace().rstrip('/')}/evaluator/scene_is_reset"
        told = f"{text}; then: ros2 service call {service} std_srvs/srv/Trigger"
        try:
            picture = image_to_frame(self.capture().image, "camera frame")
        except GymnastError:  # a camera that is down must keep nobody from being called
            picture = None
        call = Call(self._station.name, task, told, reason, picture)

        def say(words: str) -> None:
            clients.waiting_for = words
            log.warning(words)
            self._on_phase("person")

        try:
            clients.waiting_for = told
            call_person(
                call,
                clients.webhooks,
                lambda seconds: self.goal.wait(clients.scene_is_reset, seconds),
                self._station.evaluation.person_timeout_s,
                say,
                log.warning,
            )
        finally:
            clients.waiting_for = ""
