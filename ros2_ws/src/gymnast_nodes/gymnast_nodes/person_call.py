"""A person called by the evaluator: by log, diagnostics and webhooks, with a page; whoever answers first ends the wait.

The ways to answer: the service evaluator/scene_is_reset (which Enter in the terminal of `gymnast trials` calls), the
page's button, the address `ready` of a call, and the answer of a webhook.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from std_srvs.srv import Trigger

from gymnast_core.errors import DataError
from gymnast_core.evaluation.person import Call, OpenCall, call_person, webhooks
from gymnast_core.serve.person_page import PersonPage
from gymnast_nodes.long_action import Goal

if TYPE_CHECKING:
    from gymnast_nodes.lifecycle import ManagedNode


class PersonCaller:
    """One for a node. Raises: ConfigError for a webhook that is no address."""

    def __init__(self, node: ManagedNode) -> None:
        self._node = node
        self._config = node.station.evaluation
        self._open = OpenCall()
        self._webhooks = webhooks()
        self._page: PersonPage | None = None
        self.waiting_for = ""
        """What a person is asked to do now; empty where nothing is."""
        node.create_service(Trigger, "evaluator/scene_is_reset", self._on_scene_is_reset)

    def __call__(self, goal: Goal[Any], call: Call, on_wait: Callable[[], None]) -> str:
        """Wait until a person has done what the call says, however long that takes; returns how that was said.

        on_wait: is called each time that the call is repeated. Raises: Cancelled.
        """
        log, page = self._node.get_logger(), self._open_page()
        service = f"{self._node.get_namespace().rstrip('/')}/evaluator/scene_is_reset"
        ticket = self._open.begin(call)
        words = f"{call.text}; then: ros2 service call {service} std_srvs/srv/Trigger"
        links = ("", "") if page is None else (page.address, page.ready_at(ticket))
        told = replace(call, text=words, page=links[0], ready=links[1])

        def say(now: Call) -> None:
            self._open.update(replace(now, text=call.text))  # the page has a button for the rest
            self.waiting_for = str(now)
            log.warning(self.waiting_for)
            on_wait()

        def ready(how: str) -> None:
            self._open.answer(how, ticket)

        try:
            call_person(
                told,
                self._webhooks,
                lambda seconds: goal.wait(self._open.came, seconds),
                self._config.person_timeout_s,
                say,
                log.warning,
                ready,
            )
            return self._open.answered_by
        finally:
            self._open.end()
            self.waiting_for = ""

    def close(self) -> None:
        """The node ends."""
        if self._page is not None:
            self._page.close()

    def _open_page(self) -> PersonPage | None:
        """The page, from the first call on; None, with a warning, where its port cannot be had."""
        if self._page is None:
            try:
                self._page = PersonPage(self._config.page, self._open)
            except DataError as error:
                self._node.get_logger().warning(f"no page for people: {error}")
        return self._page

    def _on_scene_is_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success = self._open.answer("the service")
        response.message = "thank you" if response.success else "no reset was asked for"
        return response
