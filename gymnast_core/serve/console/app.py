"""The console over HTTP: a page, what it shows, and its buttons.

    GET  /                     the page; /runs is that of what happened before
    GET  /api/station          what the station file says
    GET  /api/state            what nodes, arm and long actions do now
    GET  /api/records          what practice, canary, trials and queue have written so far
    GET  /api/picture/VIEW     the newest picture of "camera" or "policy", JPEG; 204 before the first
    GET  /api/reference        the reference photograph, JPEG
    GET  /api/film/RUN/NAME    a film of the practice that is shown: a strip of frames, JPEG
    GET  /api/runs             every run and episode below the folder of the station's runs (`runs_wire.py`)
    POST /api/BUTTON           a JSON object, see `orders.py`; answered {"message": words}

Errors are {"detail": words}. Looking is for whoever reaches the page; the buttons need the token (`tokens.py`).
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, get_args

from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response

from gymnast_core.errors import GymnastError, StationError
from gymnast_core.files import finite_or_none
from gymnast_core.redaction import redact
from gymnast_core.serve.answering import answered
from gymnast_core.serve.console.buttons import STOP, Buttons
from gymnast_core.serve.console.records import Records
from gymnast_core.serve.console.runs_wire import RunsWire
from gymnast_core.serve.console.snapshot import Robot, View
from gymnast_core.serve.console.station_facts import adapters_of, reference_picture, station_facts
from gymnast_core.serve.console.tokens import Access
from gymnast_core.serve.gate import Gate
from gymnast_core.serve.http_body import read_body, read_object
from gymnast_core.serve.refusal import Refusal
from gymnast_core.station_file import StationFile

PAGE = Path(__file__).parent
FILES = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/runs": ("runs.html", "text/html; charset=utf-8"),
    "/console.css": ("console.css", "text/css; charset=utf-8"),
    "/console.js": ("console.js", "text/javascript; charset=utf-8"),
    "/runs.js": ("runs.js", "text/javascript; charset=utf-8"),
    "/charts.js": ("charts.js", "text/javascript; charset=utf-8"),
}
"""What the pages are made of; nothing comes from elsewhere."""
POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' blob: data:; media-src 'self'; "
    "connect-src 'self'; frame-src 'self'; frame-ancestors 'self'; base-uri 'none'; form-action 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
MAX_BODY, RECEIVE_S = 4096, 10.0
JPEG = "image/jpeg"


class Console:
    """The routes of one station's console."""

    def __init__(self, robot: Robot, opened: StationFile, root: Path, token: str, gate: Gate) -> None:
        self._robot, self._opened, self._gate = robot, opened, gate
        self._access = Access(token)
        self._buttons = Buttons(robot, opened.config)
        self._records = Records(root, opened.config.canary)
        self._runs = RunsWire(root)
        self._facts = station_facts(opened)
        # The emergency stop waits for no other request: it has threads of its own.
        self._stopping = ThreadPoolExecutor(2, thread_name_prefix="console stop")

    def add_to(self, app: FastAPI) -> None:
        """Answer the console's addresses in `app`."""
        for path, (name, kind) in FILES.items():
            app.add_api_route(path, self._file(name, kind), methods=["GET"])
        for path, look in (
            ("/api/station", self._station),
            ("/api/state", self._state),
            ("/api/records", self._recorded),
            ("/api/picture/{view}", self._picture),
            ("/api/reference", self._reference),
            ("/api/film/{run}/{name}", self._film),
            *self._runs.routes(),
        ):
            app.add_api_route(path, self._look(look), methods=["GET"], response_model=None)
        for name in self._buttons.names:
            app.add_api_route(f"/api/{name}", self._deed(name), methods=["POST"], response_model=None)

    # What everybody may see

    def _file(self, name: str, kind: str) -> Callable[[Request], Awaitable[Response]]:
        content = (PAGE / name).read_bytes()
        tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'

        async def file(request: Request) -> Response:
            self._access.check_host(request.headers)
            headers = {**HEADERS, "ETag": tag, "Cache-Control": "no-cache"}
            if request.headers.get("if-none-match") == tag:
                return Response(status_code=304, headers=headers)
            return Response(content, 200, headers, kind)

        async def route(request: Request) -> Response:
            return await answered(self._gate, lambda: file(request))

        return route

    def _look(self, work: Callable[[Request], Response]) -> Callable[[Request], Awaitable[Response]]:
        async def look(request: Request) -> Response:
            self._access.check_host(request.headers)
            try:
                answer = await run_in_threadpool(work, request)
            except Refusal:
                raise
            except GymnastError as error:
                raise Refusal(404, redact(str(error))) from error
            for name, value in HEADERS.items():
                answer.headers.setdefault(name, value)
            return answer

        async def route(request: Request) -> Response:
            return await answered(self._gate, lambda: look(request))

        return route

    def _station(self, request: Request) -> Response:
        return JSONResponse({**self._facts, "adapters": adapters_of(self._opened)})

    def _state(self, request: Request) -> Response:
        snapshot = self._robot.snapshot()
        content = dataclasses.asdict(snapshot)
        content["status"]["well"] = snapshot.status.well
        content["may_act"] = self._access.may_act(request.headers)
        return JSONResponse(plain(content))

    def _recorded(self, request: Request) -> Response:
        version, content = self._records.look()
        tag = f'"{version}"'
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers={"ETag": tag})
        return JSONResponse(plain(content), headers={"ETag": tag})

    def _picture(self, request: Request) -> Response:
        view: Any = str(request.path_params["view"])
        if view not in get_args(View):
            raise Refusal(404, f"picture: found {view[:20]!r}, allowed are {', '.join(get_args(View))}")
        found = self._robot.picture(view)
        if found is None:
            return Response(status_code=204)
        number, content = found
        tag = f'"{view}{number}"'
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers={"ETag": tag})
        return Response(content, 200, {"ETag": tag}, JPEG)

    def _reference(self, request: Request) -> Response:
        content = reference_picture(self._opened)
        if content is None:
            raise Refusal(404, "the station file names no reference photograph (evaluation.reference_view)")
        return Response(content, 200, {"Cache-Control": "private, max-age=60"}, JPEG)

    def _film(self, request: Request) -> Response:
        path = self._records.film(str(request.path_params["run"]), str(request.path_params["name"]))
        if path is None:
            raise Refusal(404, "there is no such film")
        return Response(path.read_bytes(), 200, {"Cache-Control": "private, max-age=600"}, JPEG)

    # What the token allows

    def _deed(self, name: str) -> Callable[[Request], Awaitable[Response]]:
        async def deed(request: Request) -> Response:
            peer = request.client.host if request.client else ""
            self._access.check_deed(request.headers, peer, tokenless=name == STOP)
            content = read_object(await read_body(request, MAX_BODY, RECEIVE_S))
            pool = self._stopping if name == STOP else None
            try:
                done = await asyncio.get_running_loop().run_in_executor(
                    pool, lambda: self._buttons.press(name, content)
                )
            except StationError as error:
                raise Refusal(409, redact(str(error))) from error
            except GymnastError as error:
                raise Refusal(400, redact(str(error))) from error
            return JSONResponse(done, headers=HEADERS)

        async def route(request: Request) -> Response:
            return await answered(self._gate, lambda: deed(request))

        return route

    def close(self) -> None:
        """No button is pressed any more."""
        self._stopping.shutdown(wait=False)


def plain(value: Any) -> Any:
    """JSON knows neither NaN nor infinity: they become null."""
    if isinstance(value, float):
        return finite_or_none(value)
    if isinstance(value, dict):
        return {name: plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    return value
