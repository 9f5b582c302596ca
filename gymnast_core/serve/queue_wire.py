"""A station's queue over HTTP.

    POST /jobs                      {"task", "policy"?, "trials"?, "policy_token"?, ...}       ->  201, the job
    GET  /jobs                      {"paused", "jobs"}
    GET  /jobs/N                    the job, its trials with links of videos, and its result
    POST /jobs/N/cancel             the job
    GET  /jobs/N/videos/NAME        an MP4 film
    POST /pause, /resume            the maintenance switch, for owners
    GET  /health                    {"status": "healthy"}; asks for no token

Errors are {"detail": words}. A token says who asks: `gymnast queue user` makes them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, JSONResponse, Response

from gymnast_core.config import parse_config
from gymnast_core.errors import ConfigError, DataError
from gymnast_core.serve.access import given_token, unauthorised
from gymnast_core.serve.answering import answered
from gymnast_core.serve.gate import Gate
from gymnast_core.serve.http_body import read_body, read_object
from gymnast_core.serve.http_wire import peer_of
from gymnast_core.serve.job import JobRequest
from gymnast_core.serve.job_store import JobStateError, NoSuchJobError, TooManyJobsError
from gymnast_core.serve.job_users import User, Users
from gymnast_core.serve.queue_config import ServeQueueConfig
from gymnast_core.serve.queue_desk import NotAllowedError, QueueDesk
from gymnast_core.serve.refusal import Refusal
from gymnast_core.serve.sessions import Sessions

STATUS = ((TooManyJobsError, 429), (NotAllowedError, 403), (NoSuchJobError, 404), (JobStateError, 409))
MOST_DIGITS = 18


class QueueWire:
    """The routes of a queue's server. SQLite waits for the disk: no deed is done in the event loop."""

    def __init__(self, desk: QueueDesk, users: Users, sessions: Sessions, gate: Gate, config: ServeQueueConfig) -> None:
        self._desk, self._users, self._sessions, self._gate = desk, users, sessions, gate
        self._max_body, self._seconds = int(config.max_body * 1e6), config.receive_seconds

    def add_to(self, app: FastAPI) -> None:
        """Answer these addresses in `app`."""
        for method, path, work in (
            ("POST", "/jobs", self._submit),
            ("GET", "/jobs", self._overview),
            ("GET", "/jobs/{number}", self._show),
            ("POST", "/jobs/{number}/cancel", self._cancel),
            ("GET", "/jobs/{number}/videos/{name}", self._video),
            ("POST", "/pause", self._pause),
            ("POST", "/resume", self._resume),
        ):
            app.add_api_route(path, self._route(work), methods=[method], response_model=None)
        app.add_api_route("/health", self.health, methods=["GET"])

    async def health(self) -> Response:
        """Whether the server takes requests."""
        if self._gate.closed:
            return JSONResponse({"status": "ending"}, 503)
        return JSONResponse({"status": "healthy"})

    def _route(self, work: Callable[[User, Request, dict[str, Any]], Response]) -> Callable[[Request], Any]:
        async def route(request: Request) -> Response:
            return await answered(self._gate, lambda: self._done(request, work))

        return route

    async def _done(self, request: Request, work: Callable[[User, Request, dict[str, Any]], Response]) -> Response:
        """Raises: Refusal."""
        token = given_token(request.headers)
        user = await run_in_threadpool(self._users.of_token, token)
        if user is None:
            raise unauthorised("a wrong token" if token else "no token")
        self._sessions.find(user.name, peer_of(request.client))
        body = await read_body(request, self._max_body, self._seconds)
        content = read_object(body) if request.method == "POST" else {}
        try:
            return await run_in_threadpool(work, user, request, content)
        except (ConfigError, DataError) as error:
            status = next((status for kind, status in STATUS if isinstance(error, kind)), 400)
            raise Refusal(status, str(error)) from error

    def _submit(self, user: User, request: Request, content: dict[str, Any]) -> Response:
        token = content.pop("policy_token", "")
        if not isinstance(token, str):
            raise ConfigError(f"policy_token: found {type(token).__name__}, needed text")
        job = self._desk.submit(user, parse_config(JobRequest, content, "job"), token)
        return JSONResponse(job, 201, {"Location": f"/jobs/{job['number']}"})

    def _overview(self, user: User, request: Request, content: dict[str, Any]) -> Response:
        return JSONResponse(self._desk.overview(user))

    def _show(self, user: User, request: Request, content: dict[str, Any]) -> Response:
        number = _number(request)
        return JSONResponse(self._desk.show(user, number, f"/jobs/{number}/videos/"))

    def _cancel(self, user: User, request: Request, content: dict[str, Any]) -> Response:
        return JSONResponse(self._desk.cancel(user, _number(request)))

    def _video(self, user: User, request: Request, content: dict[str, Any]) -> Response:
        try:
            path = self._desk.video(user, _number(request), str(request.path_params["name"]))
        except DataError as error:
            raise NoSuchJobError(str(error)) from error
        return FileResponse(path, media_type="video/mp4")

    def _pause(self, user: User, request: Request, content: dict[str, Any]) -> Response:
        reason = content.get("reason", "maintenance")
        if not isinstance(reason, str):
            raise ConfigError(f"reason: found {type(reason).__name__}, needed text")
        return JSONResponse(self._desk.pause(user, reason))

    def _resume(self, user: User, request: Request, content: dict[str, Any]) -> Response:
        return JSONResponse(self._desk.resume(user))


def _number(request: Request) -> int:
    """Raises: NoSuchJobError."""
    text = str(request.path_params["number"])
    if not text.isascii() or not text.isdigit() or len(text) > MOST_DIGITS:
        raise NoSuchJobError(f"job: found {text[:40]!r}, needed a number")
    return int(text)
