"""A person called to a station: told what to do, in the log and by webhooks, and waited for as long as it takes.

A person who does not answer pauses an evaluation and never ends it: after `timeout_s` the wait counts as a pause, which
the next call says.

    GYMNAST_CALL_WEBHOOK   an address that gets {"station", "task", "text", "reason", "paused", "picture", "page",
                           "ready"} by POST, as JSON; picture: a PNG in base64, or null; page, ready: addresses, or ""
    GYMNAST_CALL_SLACK     a webhook of Slack's, or of whoever takes its format, which gets {"text"}

The scene is ready when somebody says so on the page, opens the address `ready`, or answers the first webhook with
{"ready": true}; a terminal and a service are others. The first answer counts. Slack's format names the page alone: chat
programs open the links of a message by themselves, to show what is behind them.

Such an address is a secret of its own kind: it comes from the environment, and no message shows more than its host.
"""

from __future__ import annotations

import base64
import html
import json
import os
import secrets
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

import numpy as np

from gymnast_core.addresses import address_problem
from gymnast_core.contents import one_line
from gymnast_core.data.frames import encode_image
from gymnast_core.errors import ConfigError, DocumentError
from gymnast_core.plain_json import parse_json

WEBHOOK, SLACK = "GYMNAST_CALL_WEBHOOK", "GYMNAST_CALL_SLACK"
ANSWER_S = 15.0
REMIND_S = 30.0
"""The log repeats a call this often; webhooks hear it when it begins, and once for each `timeout_s` that it lasts."""
MOST_ANSWER = 1000
"""Bytes of a webhook's answer that are read."""
Say = Callable[[str], None]


@dataclass(frozen=True)
class Call:
    """What a person is asked for. text: what to do. reason: why the station cannot do it by itself, empty where it
    never does. picture: (H, W, 3) uint8 RGB of the scene now, with the reference photograph beside it where the view
    has changed. paused: whether nobody has come in time. page, ready: addresses, of the page with the call and of the
    answer that the scene is ready; empty where there is none."""

    station: str
    task: str
    text: str
    reason: str = ""
    picture: np.ndarray | None = None
    paused: bool = False
    page: str = ""
    ready: str = ""

    def __str__(self) -> str:
        reason = f" ({one_line(self.reason, 200)})" if self.reason else ""
        page = f"; page: {self.page}" if self.page else ""
        return f"{'paused: nobody has come yet; ' if self.paused else ''}{self.text}{reason}{page}"


class OpenCall:
    """The call that a person has not answered yet, if there is one. Whoever answers first counts; any thread may.

    came: set when one has. ticket: names this call, so that an answer to an earlier one counts for nothing.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._call: Call | None = None
        self.ticket = ""
        self.came = threading.Event()
        self.answered_by = ""

    @property
    def call(self) -> Call | None:
        """The call as it stands; None while nobody is waited for."""
        return self._call

    def begin(self, call: Call) -> str:
        """Wait for a person from now on; returns the ticket."""
        with self._lock:
            self.came.clear()
            self._call, self.ticket, self.answered_by = call, secrets.token_urlsafe(9), ""
            return self.ticket

    def update(self, call: Call) -> None:
        """What is said of the same call has changed."""
        with self._lock:
            if self._call is not None:
                self._call = call

    def answer(self, how: str, ticket: str | None = None) -> bool:
        """A person has come; False where nobody is waited for, or `ticket` is of another call. how: for people."""
        with self._lock:
            named = ticket is None or secrets.compare_digest(ticket.encode(), self.ticket.encode())
            if self._call is None or not named:
                return False
            if not self.came.is_set():
                self.answered_by = how
                self.came.set()
            return True

    def end(self) -> None:
        """Nobody is waited for any more."""
        with self._lock:
            self._call, self.ticket = None, ""


@dataclass(frozen=True)
class Heard:
    """What came of a webhook. problem: in words, or nothing. ready: whether its answer says that the scene is ready."""

    problem: str = ""
    ready: bool = False


@dataclass(frozen=True)
class Webhook:
    """Where calls are sent. slack: in Slack's format, without the picture, which that format has no room for."""

    address: str
    slack: bool = False

    @property
    def host(self) -> str:
        return urlsplit(self.address).hostname or ""

    def body(self, call: Call) -> bytes:
        """What is sent, as JSON."""
        if self.slack:
            return json.dumps({"text": html.escape(f"{call.station}, {call.task}: {call}", quote=False)}).encode()
        picture = None if call.picture is None else base64.b64encode(encode_image(call.picture, ".png")).decode()
        content = {"station": call.station, "task": call.task, "text": call.text, "reason": call.reason}
        content |= {"page": call.page, "ready": call.ready}
        return json.dumps({**content, "paused": call.paused, "picture": picture}).encode()

    def send(self, call: Call) -> Heard:
        """Send it and wait for the answer."""
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.address, self.body(call), headers, method="POST")
        try:
            with urllib.request.urlopen(request, timeout=ANSWER_S) as answer:
                return Heard(ready=not self.slack and _says_ready(answer.read(MOST_ANSWER)))
        except (OSError, ValueError) as error:  # URLError and HTTPError are OSErrors
            status = f"answered {error.code}" if isinstance(error, urllib.error.HTTPError) else type(error).__name__
            return Heard(f"the webhook at {self.host} took no call: {status}")


def webhooks() -> list[Webhook]:
    """Those that the environment names. Raises: ConfigError for one that is no address."""
    named = {name: os.environ[name] for name in (WEBHOOK, SLACK) if os.environ.get(name)}
    for name, address in named.items():
        if problem := address_problem(address):
            raise ConfigError(f"{name}: {problem}, needed https://host/path")
    return [Webhook(address, name == SLACK) for name, address in named.items()]


def call_person(
    call: Call,
    hooks: Sequence[Webhook],
    came: Callable[[float], bool],
    timeout_s: float,
    say: Callable[[Call], None],
    warn: Say,
    ready: Say = lambda how: None,
) -> float:
    """Call a person and wait until one has come, however long it takes; returns the seconds waited.

    came: waits at most that many seconds, and says whether a person has come; what it raises ends the wait. say: is
    told the call as it stands, again every half minute. warn: is told of a webhook that takes no call. ready: is told
    of one whose answer says that the scene is ready, in a thread of its own.
    """
    began = called = time.monotonic()
    _send(call, hooks, warn, ready)
    say(call)
    while not came(min(REMIND_S, timeout_s)):
        if time.monotonic() - called >= timeout_s:
            call, called = replace(call, paused=True), time.monotonic()
            _send(call, hooks, warn, ready)
        say(call)
    return time.monotonic() - began


def _says_ready(answer: bytes) -> bool:
    """Whether a webhook's answer is {"ready": true}; whatever else it says is nothing to us."""
    try:
        content = parse_json(answer)
    except DocumentError:
        return False
    return isinstance(content, dict) and content.get("ready") is True


def _send(call: Call, hooks: Sequence[Webhook], warn: Say, ready: Say) -> None:
    """To all, each in a thread of its own: a webhook that hangs must not keep a person waiting who has come."""

    def send(hook: Webhook) -> None:
        heard = hook.send(call)
        if heard.problem:
            warn(heard.problem)
        if heard.ready:
            ready(f"the webhook at {hook.host}")

    for hook in hooks:
        threading.Thread(target=send, args=(hook,), name="call", daemon=True).start()
