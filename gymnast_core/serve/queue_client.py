"""A queue as the verbs see it: a folder on this machine, or the address of `gymnast queue serve`."""

from __future__ import annotations

import dataclasses
import http.client
import json
import os
from typing import Any, Protocol

from gymnast_core.addresses import HTTP, check_address, check_header
from gymnast_core.contents import one_line
from gymnast_core.errors import DataError, DocumentError
from gymnast_core.plain_json import parse_json
from gymnast_core.serve.job import JobRequest
from gymnast_core.serve.job_store import JobStore
from gymnast_core.serve.job_users import Users
from gymnast_core.serve.queue_desk import QueueDesk

TOKEN_VARIABLE = "GYMNAST_QUEUE_TOKEN"
TIMEOUT_S = 30.0
MAX_REPLY = 1 << 24


class Queue(Protocol):
    """Jobs, as the JSON objects that `QueueDesk` answers. token: for a job's policy server. Every method raises
    ConfigError or DataError, one line."""

    def submit(self, request: JobRequest, token: str = "") -> dict[str, Any]: ...

    def overview(self) -> dict[str, Any]: ...

    def show(self, number: int) -> dict[str, Any]: ...

    def cancel(self, number: int) -> dict[str, Any]: ...

    def pause(self, reason: str) -> dict[str, Any]: ...

    def resume(self) -> dict[str, Any]: ...


def open_queue(where: str, config: str = "") -> Queue:
    """The queue in a folder, or at an address. config: the station file that a new one is for.

    Raises: ConfigError, DataError.
    """
    return RemoteQueue(where) if where.startswith(("http://", "https://")) else LocalQueue(where, config)


class LocalQueue:
    """A queue in a folder, used by whoever may write there: its owner."""

    def __init__(self, folder: str, config: str = "") -> None:
        store = JobStore(folder)
        self._desk, self._user = QueueDesk(store, config), Users(store).local()

    def submit(self, request: JobRequest, token: str = "") -> dict[str, Any]:
        return self._desk.submit(self._user, request, token)

    def overview(self) -> dict[str, Any]:
        return self._desk.overview(self._user)

    def show(self, number: int) -> dict[str, Any]:
        return self._desk.show(self._user, number)

    def cancel(self, number: int) -> dict[str, Any]:
        return self._desk.cancel(self._user, number)

    def pause(self, reason: str) -> dict[str, Any]:
        return self._desk.pause(self._user, reason)

    def resume(self) -> dict[str, Any]:
        return self._desk.resume(self._user)


class RemoteQueue:
    """A queue behind HTTP; the token of GYMNAST_QUEUE_TOKEN says who asks. Raises: ConfigError for a wrong address."""

    def __init__(self, address: str) -> None:
        self._parts = check_address(address, "--queue", HTTP)
        self._address = address.rstrip("/")
        token = os.environ.get(TOKEN_VARIABLE, "")
        self._headers = {"Content-Type": "application/json"}
        if token:
            self._headers["Authorization"] = f"Bearer {check_header(token, TOKEN_VARIABLE)}"

    def submit(self, request: JobRequest, token: str = "") -> dict[str, Any]:
        more = {"policy_token": token} if token else {}
        return self._ask("POST", "/jobs", {**dataclasses.asdict(request), **more})

    def overview(self) -> dict[str, Any]:
        return self._ask("GET", "/jobs")

    def show(self, number: int) -> dict[str, Any]:
        return self._ask("GET", f"/jobs/{number}")

    def cancel(self, number: int) -> dict[str, Any]:
        return self._ask("POST", f"/jobs/{number}/cancel", {})

    def pause(self, reason: str) -> dict[str, Any]:
        return self._ask("POST", "/pause", {"reason": reason})

    def resume(self) -> dict[str, Any]:
        return self._ask("POST", "/resume", {})

    def _ask(self, method: str, path: str, content: dict[str, Any] | None = None) -> dict[str, Any]:
        """Raises: DataError, with the server's own words where it gave any."""
        kind = http.client.HTTPSConnection if self._parts.scheme == "https" else http.client.HTTPConnection
        link = kind(self._parts.hostname or "", self._parts.port, timeout=TIMEOUT_S)
        where = f"{self._address}{path}"
        try:
            body = None if content is None else json.dumps(content).encode()
            link.request(method, self._parts.path.rstrip("/") + path, body, self._headers)
            answer = link.getresponse()
            reply = answer.read(MAX_REPLY + 1)
        except (OSError, http.client.HTTPException) as error:
            raise DataError(f"{where}: no queue answers ({one_line(str(error)) or type(error).__name__})") from error
        finally:
            link.close()
        try:
            found = parse_json(reply) if len(reply) <= MAX_REPLY else None
        except DocumentError:
            found = None
        if not isinstance(found, dict):
            raise DataError(f"{where}: answered {answer.status}, and no JSON object; is it `gymnast queue serve`?")
        if answer.status >= 300:
            words = found.get("detail")
            raise DataError(f"{where}: answered {answer.status}, {one_line(str(words or ''), 300)!r}")
        return found
