"""A person called to a station: told what to do, in the log and by webhooks, and waited for as long as it takes.

A person who does not answer pauses an evaluation and never ends it: after `timeout_s` the wait counts as a pause, which
the next call says.

    GYMNAST_CALL_WEBHOOK   an address that gets {"station", "task", "text", "reason", "paused", "picture"} by POST, as
                           JSON; picture: a PNG in base64, or null
    GYMNAST_CALL_SLACK     a webhook of Slack's, or of whoever takes its format, which gets {"text"}

Such an address is a secret of its own kind: it comes from the environment, and no message shows more than its host.
"""

from __future__ import annotations

import base64
import html
import json
import os
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
from gymnast_core.errors import ConfigError

WEBHOOK, SLACK = "GYMNAST_CALL_WEBHOOK", "GYMNAST_CALL_SLACK"
ANSWER_S = 15.0
REMIND_S = 30.0
"""The log repeats a call this often; webhooks hear it when it begins, and once for each `timeout_s` that it lasts."""
Say = Callable[[str], None]


@dataclass(frozen=True)
class Call:
    """What a person is asked for. text: what to do. reason: why the station cannot do it by itself, empty where it
    never does. picture: (H, W, 3) uint8 RGB of the scene now. paused: whether nobody has come in time."""

    station: str
    task: str
    text: str
    reason: str = ""
    picture: np.ndarray | None = None
    paused: bool = False

    def __str__(self) -> str:
        reason = f" ({one_line(self.reason, 200)})" if self.reason else ""
        return f"{'paused: nobody has come yet; ' if self.paused else ''}{self.text}{reason}"


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
        return json.dumps({**content, "paused": call.paused, "picture": picture}).encode()

    def send(self, call: Call) -> str:
        """Send it and wait for the answer; what went wrong, in words, or nothing."""
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.address, self.body(call), headers, method="POST")
        try:
            with urllib.request.urlopen(request, timeout=ANSWER_S) as answer:
                answer.read(1000)
        except (OSError, ValueError) as error:  # URLError and HTTPError are OSErrors
            status = f"answered {error.code}" if isinstance(error, urllib.error.HTTPError) else type(error).__name__
            return f"the webhook at {self.host} took no call: {status}"
        return ""


def webhooks() -> list[Webhook]:
    """Those that the environment names. Raises: ConfigError for one that is no address."""
    named = {name: os.environ[name] for name in (WEBHOOK, SLACK) if os.environ.get(name)}
    for name, address in named.items():
        if problem := address_problem(address):
            raise ConfigError(f"{name}: {problem}, needed https://host/path")
    return [Webhook(address, name == SLACK) for name, address in named.items()]


def call_person(
    call: Call, hooks: Sequence[Webhook], came: Callable[[float], bool], timeout_s: float, say: Say, warn: Say
) -> float:
    """Call a person and wait until one has come, however long it takes; returns the seconds waited.

    came: waits at most that many seconds, and says whether a person has come; what it raises ends the wait. say: is
    told what to do, again every half minute. warn: is told of a webhook that takes no call.
    """
    began = called = time.monotonic()
    _send(call, hooks, warn)
    say(str(call))
    while not came(min(REMIND_S, timeout_s)):
        if time.monotonic() - called >= timeout_s:
            call, called = replace(call, paused=True), time.monotonic()
            _send(call, hooks, warn)
        say(str(call))
    return time.monotonic() - began


def _send(call: Call, hooks: Sequence[Webhook], warn: Say) -> None:
    """To all, each in a thread of its own: a webhook that hangs must not keep a person waiting who has come."""

    def send(hook: Webhook) -> None:
        if problem := hook.send(call):
            warn(problem)

    for hook in hooks:
        threading.Thread(target=send, args=(hook,), name="call", daemon=True).start()
