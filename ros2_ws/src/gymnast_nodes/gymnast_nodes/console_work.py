"""What the console's buttons do on a running graph, through the project's own client."""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

from action_msgs.srv import CancelGoal
from gymnast_msgs.srv import EmergencyStop, Rearm, ResetScene

from gymnast_core.errors import DataError, GymnastError, StationError
from gymnast_core.robot.stop_latch import StopLatch, known_stop_files, stop_file
from gymnast_core.serve.console.orders import AnswerOrder, PractiseOrder, ResetOrder, RunOrder
from gymnast_core.serve.console.server import runs_of
from gymnast_core.serve.console.snapshot import Snapshot, View
from gymnast_core.station_file import StationFile
from gymnast_nodes.calls import call_service
from gymnast_nodes.client import Station, Task
from gymnast_nodes.console_link import ACTIONS, ConsoleLink

STOP_S, REARM_S, CANCEL_S = 2.0, 20.0, 5.0
"""Time for an answer; re-arming checks nine motors first."""
FOLLOW_S = 0.2
PAUSED = "paused: nobody has come yet; "


class ConsoleWork:
    """The `Robot` of a console: `gymnast_core.serve.console.snapshot`."""

    def __init__(self, station: Station, opened: StationFile) -> None:
        self._station, self._opened = station, opened
        self.link = ConsoleLink(station.node, opened)
        node = station.node
        # Whoever outlives the others answers the stop. Clients are made now: discovery takes longer than a stop may.
        self._stop = node.create_client(EmergencyStop, "arm/emergency_stop")
        self._rearm = node.create_client(Rearm, "arm/rearm")
        self._scene = node.create_client(ResetScene, "station/reset_scene")
        self._cancels = {
            kind: node.create_client(CancelGoal, f"{name}/_action/cancel_goal") for kind, (_, name) in ACTIONS.items()
        }
        latch = stop_file(opened.config)
        self._latch = StopLatch(latch) if latch in known_stop_files() else None
        """Of the arm, where it runs on this machine."""
        self._writing = ThreadPoolExecutor(1, thread_name_prefix="console latch")
        self._starting = threading.Lock()
        self._followed = 0
        """Tasks begun here that have not ended."""
        self._closing = threading.Event()

    def snapshot(self) -> Snapshot:
        return self.link.snapshot()

    def picture(self, view: View) -> tuple[int, bytes] | None:
        return self.link.picture(view)

    def stop(self, reason: str) -> str:
        """Latch the stop on this machine's disk, where the arm's processes see it, and ask whoever serves it.

        Raises: StationError where neither is known to have worked.
        """
        written = self._writing.submit(self._latch_stop, reason)
        try:
            answer = call_service(self._stop, EmergencyStop.Request(reason=reason), STOP_S)
            told = f"stopped: {answer.message}"
            good = bool(answer.success)
        except StationError as error:
            if problem := written.result(STOP_S):
                raise StationError(f"{error}; {problem}: the arm is not known to hold") from error
            told, good = f"latched on this machine's disk, but {error}: the arm is not known to hold", False
        self.link.say(f"emergency stop ({reason}): {told}", "good" if good else "bad")
        return told

    def _latch_stop(self, reason: str) -> str:
        """What is wrong with the latch; empty where the stop is latched."""
        if self._latch is None:
            return "the arm does not run on this machine, so that nothing is latched here"
        try:
            self._latch.set(reason)
        except DataError as error:
            return str(error)
        return ""

    def rearm(self) -> str:
        seen = self._latch.mark() if self._latch is not None else None
        answer = call_service(self._rearm, Rearm.Request(confirm=True), REARM_S)
        if not answer.success:
            raise StationError(answer.message)
        if self._latch is not None and seen is not None and self._latch.mark() == seen:
            self._latch.clear()
        return self._told(answer.message, "good")

    def capture(self) -> str:
        folder = runs_of(self._opened) / "captures"
        path = folder / f"{datetime.now():%Y%m%d_%H%M%S_%f}.png"
        self._station.capture_frame(path)
        return self._told(f"captured {path}", "good")

    def practise(self, order: PractiseOrder) -> str:
        instruction = self._opened.config.task(order.task).instruction
        with self._starting:
            task = self._station.practise(
                instruction,
                order.task,
                reset=order.reset,
                execute=order.execute,
                iterations=order.iterations,
                seed=order.seed,
                canary_trials=order.canary_trials,
            )
            return self._follow(task, f"practice of '{order.task}'")

    def run(self, order: RunOrder) -> str:
        task = self._opened.config.task(order.task)
        with self._starting:
            if order.trials:
                begun = self._station.run_trials(order.task, order.trials, order.policy, order.seed)
                return self._follow(begun, f"{order.trials} trials of {order.policy} at '{order.task}'")
            begun = self._station.run_episode(task.instruction, order.policy, order.task, task.max_steps, order.seed)
            return self._follow(begun, f"episode of {order.policy} at '{order.task}'")

    def reset(self, order: ResetOrder) -> str:
        if self.link.active:
            raise StationError(f"{self.link.active[0]} is under way; cancel it or wait for it")
        self._station.reset_arm()
        if not order.task:
            return self._told("the arm is at its start", "good")
        if not self._scene.service_is_ready():
            return self._told("the arm is at its start; this station does not reset its scene itself")
        self._station.reset_scene(order.task, order.seed)
        return self._told(f"arm and scene are at the start of '{order.task}'", "good")

    def cancel(self) -> str:
        active = self.link.active
        if not active:
            raise StationError("nothing is under way")
        for kind in active:  # a request that names no goal is for all of them
            answer = call_service(self._cancels[kind], CancelGoal.Request(), CANCEL_S)
            if answer.return_code not in (CancelGoal.Response.ERROR_NONE, CancelGoal.Response.ERROR_GOAL_TERMINATED):
                raise StationError(f"{kind} was not cancelled (code {answer.return_code})")
        return self._told(f"asked to end: {', '.join(active)}; the arm holds")

    def answer(self, order: AnswerOrder) -> str:
        now = self.link.question
        if not now or order.question.removeprefix(PAUSED) != now.removeprefix(PAUSED):
            raise StationError("this question is over; look at the page again")
        self._station.scene_is_reset()
        return self._told("answered: it is done", "good")

    def close(self) -> None:
        """Follow nothing more; what runs goes on."""
        self._closing.set()
        self._writing.shutdown(wait=False)

    def _told(self, text: str, tone: str = "plain") -> str:
        self.link.say(text, tone)
        return text

    def _follow(self, task: Task, what: str) -> str:
        """Say how a task ends, when it does. Called with `_starting` held."""
        self._followed += 1
        threading.Thread(target=self._await, args=(task, what), name=f"console {what}", daemon=True).start()
        return self._told(f"{what} began")

    def _await(self, task: Task, what: str) -> None:
        try:
            while not task.is_complete():
                if self._closing.wait(FOLLOW_S):
                    return
            result: Any = task.result(1.0)
            tone = "good" if task.status == "succeeded" else "bad"
            self.link.say(f"{what} {task.status}: {result.message}", tone)
        except GymnastError as error:
            self.link.say(f"{what}: {error}", "bad")
        with self._starting, contextlib.suppress(StationError):
            self._followed -= 1
            if not self._followed:
                self._station.rest()
