"""Resets of a real-time station: the arm to its start, the scene to that of a task, and a person where nothing helps.

`evaluation` in the station file says how: by the station's reset service, by an episode of the task that undoes this
one, or by a person (`gymnast_nodes.person_call`). A person is waited for as long as it takes; every other wait has a
limit.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from gymnast_msgs.srv import ResetScene
from std_srvs.srv import Trigger

from gymnast_core.contents import one_line
from gymnast_core.data.outcome import ENDED_EARLY, OUTCOMES, SUCCESS
from gymnast_core.errors import GymnastError, StationError
from gymnast_core.evaluation.camera_check import side_by_side
from gymnast_core.evaluation.camera_view import compare_views
from gymnast_core.evaluation.person import Call
from gymnast_core.evaluation.resets import PERSON, STATION, TASK, ResetReport
from gymnast_nodes.arm_to_start import ArmToStart
from gymnast_nodes.calls import call_service
from gymnast_nodes.messages import image_to_frame
from gymnast_nodes.reset_check import check_reset

if TYPE_CHECKING:
    from gymnast_nodes.ros_bench import RosBench

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
        self._to_start = ArmToStart(bench.clients, bench.goal)
        self._report = ResetReport()
        self._views: np.ndarray | None = None
        """The reference photograph and what the camera sees, side by side, where they differ."""

    def __call__(self, task: str, seed: int) -> ResetReport:
        """A rest where one is due, then arm to its start pose and scene to the task's start. After a few vain attempts
        a person is called.

        Raises: StationError on a simulated station that resets itself, where nobody can help; Cancelled.
        """
        self._rest(seed)
        began, self._report = time.monotonic(), ResetReport(method=self._method)
        problem = self._bring(task, seed)
        while problem:
            if self._station.simulation is not None and self._config.reset == "auto":
                raise StationError(problem)
            text = f"see what is wrong, bring the scene to the start of '{task}', and step back"
            self._call_person(task, text, problem)
            problem = self._bring(task, seed, by_person=True)
        return replace(self._report, seconds=round(time.monotonic() - began, 2))

    @property
    def _method(self) -> str:
        if self._config.reset == "task":
            return TASK
        return STATION if self._bench.resets_itself else PERSON

    def _rest(self, seed: int) -> None:
        """Stand at the start with torque, or lie without, for as long as is due. An arm that can do neither goes on to
        what its reset says."""
        seconds = self._clients.rests.due
        if not seconds:
            return
        self._on_phase("rest")
        log, lies = self._node.get_logger(), self._config.rest.torque == "off" and self._lie_down()
        if not lies and (problem := self._try(lambda: self._reset_arm(seed))):
            log.warning(f"no rest: {problem}")
            return
        log.info(f"the arm rests for {seconds:g} s, its motors {'let go' if lies else 'with torque'}")
        self._goal.sleep_until(time.monotonic() + seconds)
        self._clients.rests.rested()
        self._on_phase("reset")

    def _lie_down(self) -> bool:
        """Whether the arm lies with its motors let go; the next reset wakes it. Where it cannot, it rests standing."""

        def lie() -> str:
            answer = call_service(self._clients.rest_arm, Trigger.Request(), 60.0, lambda: self._goal.cancelled)
            return "" if answer.success else str(answer.message)

        if problem := self._try(lie):
            self._node.get_logger().warning(f"the arm rests with its torque on: {problem}")
        return not problem

    def _bring(self, task: str, seed: int, by_person: bool = False) -> str:
        """What is still wrong after `evaluation.reset_attempts`, in words; empty when all is at its start.

        by_person: a person has just seen to the scene.
        """
        problem = ""
        for _ in range(self._config.reset_attempts):
            self._report = replace(self._report, attempts=self._report.attempts + 1)
            moved = ""
            try:
                problem = self._attempt(task, seed, by_person)
                moved = "" if problem else self._moved_camera()
            except StationError as error:  # a node that died may be back for the next attempt
                problem = str(error)
            if not problem and not moved:
                return ""
            failures = (*self._report.failures, one_line(problem or moved, 300))
            self._report = replace(self._report, failures=failures)
            if moved:  # which no further reset would mend
                return moved
        return f"{problem} (after {self._config.reset_attempts} attempts)"

    def _attempt(self, task: str, seed: int, by_person: bool) -> str:
        """What is wrong after one attempt, in words. Raises: StationError, Cancelled."""
        problem = self._reset_arm(seed) or ("" if by_person else self._reset_scene(task, seed))
        if problem:
            return problem
        self._goal.sleep_until(time.monotonic() + SETTLE_S)
        if not self._config.reset_check:
            return ""
        seen = check_reset(self._bench, task, self._report.method == PERSON)
        self._report = replace(self._report, check=seen.words)
        return seen.words if seen.wrong else ""

    def _try(self, step: Callable[[], str]) -> str:
        """What a step says is wrong, also where it could not be done."""
        try:
            return step()
        except StationError as error:
            return str(error)

    def _reset_arm(self, seed: int) -> str:
        scene = self._clients.scene
        offset = np.zeros(3) if scene is None else scene.arm_start.draw(np.random.default_rng([seed, 1]))
        return self._to_start(np.asarray(offset))

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
        """Whether the camera sees another place or other light than the reference photograph shows, in words."""
        reference = self._clients.reference_view
        if reference is None:
            return ""
        live = image_to_frame(self._bench.capture().image, "camera frame")
        view = compare_views(reference, live)
        problem = "; ".join(view.problems(self._config.max_view_shift, self._config.max_view_brightness))
        self._views = side_by_side(reference, live) if problem else None
        return f"camera view: {problem}; bring camera and light back, or take a new reference_view" if problem else ""

    def _call_person(self, task: str, text: str, reason: str = "") -> None:
        """Wait until a person says that it is done, however long that takes. Raises: Cancelled."""
        views, self._views = self._views, None
        try:
            picture = views if views is not None else image_to_frame(self._bench.capture().image, "camera frame")
        except GymnastError:  # a camera that is down must keep nobody from being called
            picture = None
        call = Call(self._station.name, task, text, reason, picture)
        how = self._clients.person(self._goal, call, lambda: self._on_phase("person"))
        self._report = replace(self._report, method=PERSON, confirmed_by=how)
