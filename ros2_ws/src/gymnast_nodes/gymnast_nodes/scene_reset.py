"""Resets of a real-time station: the arm to its start, the scene to that of a task, and a person where nothing helps.

`evaluation` in the station file says how: by the station's reset service, by an episode of the task that undoes this
one, or by a person, who answers by the service evaluator/scene_is_reset. A person is waited for as long as it takes;
every other wait has a limit.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from gymnast_msgs.srv import Rearm, ResetArm, ResetScene

from gymnast_core.data.outcome import ENDED_EARLY, OUTCOMES, SUCCESS
from gymnast_core.errors import GymnastError, StationError
from gymnast_core.evaluation.camera_view import compare_views
from gymnast_core.evaluation.person import Call, call_person
from gymnast_nodes.calls import call_service
from gymnast_nodes.commander import commander_name
from gymnast_nodes.messages import image_to_frame

if TYPE_CHECKING:
    from gymnast_nodes.ros_bench import RosBench

FAULT_LATCH = re.compile(r"\b\d+ faults\b")
"""How arm node and watchdog say that repeated faults, not a person, have latched the stop."""
SETTLE_S = 0.5
"""Between a reset and the first frame of what comes next: the camera must show the new scene."""


class SceneReset:
    """Resets for one goal of the evaluator. on_phase: is told "person" while one is waited for, "rest" in a rest."""

    def __init__(self, bench: RosBench, on_phase: Callable[[str], None]) -> None:
        self._bench = bench
        self._clients, self._goal = bench.clients, bench.goal
        self._node, self._station = bench.clients.node, bench.clients.station
        self._config = self._station.evaluation
        self._on_phase = on_phase

    def __call__(self, task: str, seed: int) -> None:
        """Arm to its start pose, scene to the task's start, and a rest where one is due. After a few vain attempts a
        person is called.

        Raises: StationError on a simulated station that resets itself, where nobody can help; Cancelled.
        """
        problem = self._bring(task, seed)
        while problem:
            if self._station.simulation is not None and self._config.reset == "auto":
                raise StationError(problem)
            text = f"see what is wrong, bring the scene to the start of '{task}', and step back"
            self._call_person(task, text, problem)
            problem = self._bring(task, seed, by_person=True)
        if seconds := self._clients.rests.due:
            self._node.get_logger().info(f"the arm rests for {seconds:g} s")
            self._on_phase("rest")
            self._goal.sleep_until(time.monotonic() + seconds)
            self._clients.rests.rested()

    def _bring(self, task: str, seed: int, by_person: bool = False) -> str:
        """What is still wrong after `evaluation.reset_attempts`, in words; empty when all is at its start.

        by_person: a person has just seen to the scene.
        """
        problem = ""
        for _ in range(self._config.reset_attempts):
            try:
                problem = self._reset_arm(seed) or ("" if by_person else self._reset_scene(task, seed))
                if not problem:
                    self._goal.sleep_until(time.monotonic() + SETTLE_S)
                    return self._moved_camera()
            except StationError as error:  # a node that died may be back for the next attempt
                problem = str(error)
        return f"{problem} (after {self._config.reset_attempts} attempts)"

    def _reset_arm(self, seed: int) -> str:
        request = ResetArm.Request(commander=commander_name(self._node))
        if self._clients.scene is not None:
            request.offset = self._clients.scene.arm_start.draw(np.random.default_rng([seed, 1])).astype(np.float32)
        answer = call_service(self._clients.reset_arm, request, 60.0, lambda: self._goal.cancelled)
        if answer.success:
            return ""
        self._rearm_simulated(answer.message)
        self._goal.sleep_until(time.monotonic() + 1.0)
        return f"arm reset: {answer.message}"

    def _reset_scene(self, task: str, seed: int) -> str:
        if self._config.reset == "task":
            return self._undo(task, seed)
        if not self._bench.resets_itself:
            self._call_person(task, f"bring the scene to the start of '{task}', and step back")
            return ""
        request = ResetScene.Request(task=task, seed=seed)
        answer = call_service(self._clients.reset_scene, request, 30.0, lambda: self._goal.cancelled)
        return "" if answer.success else f"scene reset: {answer.message}"

    def _undo(self, task: str, seed: int) -> str:
        """An episode of the task that undoes this one, unless the station knows that it is undone already."""
        settings = self._station.task(task)
        undo = self._station.task(settings.reset_task)
        if self._bench.truth(settings.reset_task):
            return ""
        episode = self._bench.execute(
            undo.instruction, settings.reset_task, settings.reset_policy, undo.max_steps, seed, lambda _: None
        )
        told = f"reset by '{settings.reset_task}' ({settings.reset_policy})"
        if episode.outcome in ENDED_EARLY:
            return f"{told}: {episode.message}"
        known = self._bench.truth(settings.reset_task)
        done = episode.outcome == SUCCESS if known is None else known
        return self._reset_arm(seed) if done else f"{told}: {OUTCOMES[episode.outcome] if known is None else 'failure'}"

    def _moved_camera(self) -> str:
        """Whether the camera sees the scene from elsewhere than in the reference photograph, in words."""
        reference = self._clients.reference_view
        if reference is None:
            return ""
        view = compare_views(reference, image_to_frame(self._bench.capture().image, "camera frame"))
        return "" if view.same_place else f"camera view: {view}; bring the camera back, or take a new reference_view"

    def _rearm_simulated(self, why: str) -> None:
        """A simulated arm that repeated faults have stopped is armed again; a real one, and an emergency stop, wait
        for a person."""
        if self._station.simulation is None or not FAULT_LATCH.search(why):
            return
        self._node.get_logger().warning(f"simulated arm re-armed: {why}")
        call_service(self._clients.rearm, Rearm.Request(confirm=True), 10.0, lambda: self._goal.cancelled)

    def _call_person(self, task: str, text: str, reason: str = "") -> None:
        """Wait until a person says that it is done, however long that takes. Raises: Cancelled."""
        clients, log = self._clients, self._node.get_logger()
        clients.scene_is_reset.clear()
        service = f"{self._node.get_namespace().rstrip('/')}/evaluator/scene_is_reset"
        told = f"{text}; then: ros2 service call {service} std_srvs/srv/Trigger"
        try:
            picture = image_to_frame(self._bench.capture().image, "camera frame")
        except GymnastError:  # a camera that is down must keep nobody from being called
            picture = None

        def say(words: str) -> None:
            clients.waiting_for = words
            log.warning(words)
            self._on_phase("person")

        try:
            clients.waiting_for = told
            call_person(
                Call(self._station.name, task, told, reason, picture),
                clients.webhooks,
                lambda seconds: self._goal.wait(clients.scene_is_reset, seconds),
                self._config.person_timeout_s,
                say,
                log.warning,
            )
        finally:
            clients.waiting_for = ""
