"""The page of a person who was called: the picture, what to do and why, and a button that says that it is done.

`ready/TICKET` says the same when it is opened, for whoever answers a call by a program; a ticket is of one call.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gymnast_core.config import PersonPageConfig
from gymnast_core.data.frames import encode_image
from gymnast_core.evaluation.person import OpenCall
from gymnast_core.serve.local_page import HTML, JSON, PNG, TEXT, Answer, LocalPage

PAGE = Path(__file__).with_name("person.html")
OVER = "this call is over; look at the page, or wait for the next one"


class PersonPage(LocalPage):
    """call: the one that is open. Raises: DataError where the port is taken."""

    def __init__(self, config: PersonPageConfig, call: OpenCall) -> None:
        self._open = call
        super().__init__("person page", config.host, config.port, config.address, "evaluation.page.port")

    def ready_at(self, ticket: str) -> str:
        """The address that says so for the call of this ticket."""
        return f"{self.address}ready/{ticket}"

    def respond(self, parts: list[str], headers: Mapping[str, str], body: dict[str, Any] | None) -> Answer:
        """The page, what it asks for, and the answer of a person."""
        if len(parts) == 2 and parts[0] == "ready":
            return self._ready(parts[1], headers, body)
        if body is not None:
            return 404, TEXT, b"there is no such thing here"
        if not parts:
            return 200, HTML, PAGE.read_bytes()
        if parts == ["call"]:
            return 200, JSON, json.dumps(self._told()).encode()
        call = self._open.call
        if len(parts) == 2 and parts[0] == "picture" and call is not None and call.picture is not None:
            return 200, PNG, encode_image(call.picture, ".png")
        return 404, TEXT, b"there is no such thing here"

    def _told(self) -> dict[str, Any]:
        """What the page shows; without a call nothing is asked for."""
        call, ticket = self._open.call, self._open.ticket
        if call is None or self._open.came.is_set():
            return {}
        told = {"station": call.station, "task": call.task, "text": call.text, "reason": call.reason}
        return {**told, "paused": call.paused, "picture": call.picture is not None, "ticket": ticket}

    def _ready(self, ticket: str, headers: Mapping[str, str], body: dict[str, Any] | None) -> Answer:
        """The scene is ready. A browser that only looks ahead has said nothing."""
        if "prefetch" in (headers.get("Sec-Purpose", "") + headers.get("Purpose", "")).lower():
            return 503, TEXT, b"open it yourself"
        if not self._open.answer("the page" if body is not None else "a link", ticket):
            return 410, TEXT, OVER.encode()
        return 200, TEXT, b"thank you; the trials go on, step back"
