"""Past runs and episodes over HTTP: their list, pictures, reports, and comparisons.

    GET /api/runs                        {"folder", "runs": entries as `gymnast runs --json` has them}
    GET /api/runs/picture?path=PATH      the picture of an entry
    GET /api/runs/report?path=PATH       its report
    GET /api/runs/compare?path=A&path=B  the page of two to six entries side by side

A path is one of the list; nothing else is read. Reports come in a sandbox: they may be somebody else's.
"""

from __future__ import annotations

import dataclasses
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from fastapi import Request
from fastapi.responses import JSONResponse, Response

from gymnast_core.evaluation.run_compare import compare_folders
from gymnast_core.evaluation.run_index import RunEntry, entries_below
from gymnast_core.reporting.inside import RunFiles, kind_of
from gymnast_core.serve.refusal import Refusal

LIST_S = 5.0
"""The folder is searched no more often than this."""
SANDBOX = (
    "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; media-src data:; frame-ancestors 'self'"
)
HTML = "text/html; charset=utf-8"
MOST = 6
Route = tuple[str, Callable[[Request], Response]]


class RunsWire:
    """The routes of the runs below `root`."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lock = threading.Lock()
        self._comparing = threading.Lock()
        self._listed = -1e9
        self._entries: dict[str, RunEntry] = {}

    def routes(self) -> tuple[Route, ...]:
        """Path and what answers it."""
        return (
            ("/api/runs", self._list),
            ("/api/runs/picture", self._picture),
            ("/api/runs/report", self._report),
            ("/api/runs/compare", self._compare),
        )

    def _list(self, request: Request) -> Response:
        content = [dataclasses.asdict(entry) for entry in self._known().values()]
        return JSONResponse({"folder": str(self._root), "runs": content})

    def _picture(self, request: Request) -> Response:
        entry = self._entry(request.query_params.get("path", ""))
        files = RunFiles(self._root / entry.path)
        try:
            path = files.find(entry.picture) if entry.picture else None
            if path is not None:
                return Response(path.read_bytes(), 200, {"Cache-Control": "private, max-age=600"}, kind_of(path))
        except (OSError, ValueError):
            pass
        raise Refusal(404, f"{entry.path}: has no picture")

    def _report(self, request: Request) -> Response:
        entry = self._entry(request.query_params.get("path", ""))
        if not entry.report:
            raise Refusal(404, f"{entry.path}: has no report")
        text = RunFiles(self._root / entry.path).read(entry.report)
        return Response(text, 200, {"Content-Security-Policy": SANDBOX}, HTML)

    def _compare(self, request: Request) -> Response:
        asked = list(dict.fromkeys(request.query_params.getlist("path")))
        if not 2 <= len(asked) <= MOST:
            raise Refusal(400, f"path: found {len(asked)} of them, allowed are 2 to {MOST}")
        entries = [self._entry(path) for path in asked]
        folders = [self._root / entry.path for entry in entries]
        with self._comparing, tempfile.TemporaryDirectory(prefix="gymnast_compare_") as made:
            text = compare_folders(Path(made), folders, entries).read_text(encoding="utf-8")
        return Response(text, 200, {"Content-Security-Policy": SANDBOX}, HTML)

    def _known(self) -> dict[str, RunEntry]:
        with self._lock:
            if time.monotonic() - self._listed > LIST_S:
                found = entries_below(self._root) if self._root.is_dir() else []
                self._entries = {entry.path: entry for entry in found}
                self._listed = time.monotonic()
            return self._entries

    def _entry(self, path: str) -> RunEntry:
        """Raises: Refusal 404 for what is not in the list."""
        found = self._known().get(path)
        if found is None:
            raise Refusal(404, "path: found none that the list of runs has")
        return found
