"""Labelling on a page of this machine alone: the film of an episode, and a key for each label.

It asks for numbers of episodes and frames, never for files.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from gymnast_core.data.frames import encode_image
from gymnast_core.errors import DataError, GymnastError
from gymnast_core.evaluation.labelling import Labelling
from gymnast_core.progress import interruptible, say
from gymnast_core.serve.local_page import HTML, JSON, PNG, Answer, LocalPage

PAGE = Path(__file__).with_name("label.html")
KEPT_EPISODES = 4
"""Episodes whose encoded frames are kept."""
POLL_S = 0.2


def serve_page(session: Labelling, port: int = 0) -> None:
    """Serve until the person ends it, on the page or by Ctrl-C. Raises: DataError where the port is taken."""
    with interruptible() as stop:
        page = LabelPage(session, port)
        say(f"label on {page.address} (it ends on the page, or by Ctrl-C)", "bold")
        try:
            while not stop and not page.ended.wait(POLL_S):
                pass
        finally:
            page.close()


class LabelPage(LocalPage):
    """ended: set once the person has ended it. Raises: DataError where the port is taken."""

    def __init__(self, session: Labelling, port: int = 0) -> None:
        self.session = session
        self.ended = threading.Event()
        self._ending = False
        self._frames = lru_cache(maxsize=KEPT_EPISODES)(self._encode)
        self._decoding = threading.Lock()
        super().__init__("label page", port=port)

    def respond(self, parts: list[str], headers: Mapping[str, str], body: dict[str, Any] | None) -> Answer:
        """The page, a frame, or what it asks for and changes."""
        try:
            if body is None and not parts:
                return 200, HTML, PAGE.read_bytes()
            if body is None and len(parts) == 3 and parts[0] == "frame":
                number = self._number(parts[1])
                frames = self._frames(number)
                return 200, PNG, frames[_index(parts[2], len(frames), "frame")]
            found = self._look(parts) if body is None else self._change(parts, body)
            return 200, JSON, json.dumps(found).encode()
        except GymnastError as error:
            return 400, JSON, json.dumps({"error": " ".join(str(error).split())}).encode()

    def answered(self) -> None:
        """An answer has been sent: only then may the process end that was asked to."""
        if self._ending:
            self.ended.set()

    def _look(self, parts: list[str]) -> dict[str, Any]:
        """What the page shows: the whole session, or one episode. Raises: DataError."""
        session = self.session
        if parts == ["session"]:
            labelled = [label is not None for label in session.labels]
            return {"labelled": labelled, "next": session.after(-1), "agreement": session.agreement()}
        if len(parts) == 2 and parts[0] == "episode":
            return self._episode(self._number(parts[1]))
        raise DataError(f"found {'/'.join(parts)[:40]!r}; there is no such thing here")

    def _change(self, parts: list[str], body: dict[str, Any]) -> dict[str, Any]:
        """Do what the person decided. Raises: DataError."""
        if parts == ["end"]:
            self._ending = True
            return {}
        if len(parts) != 2 or parts[0] not in ("label", "clear"):
            raise DataError(f"found {'/'.join(parts)[:40]!r}; there is no such thing here")
        number = self._number(parts[1])
        if parts[0] == "clear":
            self.session.clear(number)
            return self._episode(number)
        if unknown := set(body) - {"success", "step"}:
            raise DataError(f"label: found {sorted(unknown)[0][:40]!r}; allowed are success and step")
        success, step = body.get("success"), body.get("step")
        if not isinstance(success, (bool, type(None))):
            raise DataError(f"success: found {success!r:.40}, needed true, false or null")
        if step is not None and (isinstance(step, bool) or not isinstance(step, int) or step < 0):
            raise DataError(f"step: found {step!r:.40}, needed a frame's number, or null")
        self.session.set(number, success, step)
        return self._episode(number)

    def _episode(self, number: int) -> dict[str, Any]:
        """An episode as the page shows it; what others say of it once it has a label."""
        source, label = self.session.episodes[number], self.session.labels[number]
        said = self.session.said(number) if label is not None and label.success is not None else ()
        return {
            "number": number,
            "path": str(source.path),
            "instruction": source.describe().instruction,
            "frames": source.count(),
            "label": label.words if label is not None else "",
            "step": label.step if label is not None else None,
            "said": [one.beside(label) for one in said if label is not None],
        }

    def _number(self, text: str) -> int:
        return _index(text, len(self.session.episodes), "episode")

    def _encode(self, number: int) -> list[bytes]:
        """Every frame of an episode as PNG."""
        with self._decoding:
            return [encode_image(frame) for frame in self.session.episodes[number].frames()]


def _index(text: str, count: int, name: str) -> int:
    """A number in a path. Raises: DataError outside 0 to count - 1."""
    if not text.isascii() or not text.isdigit() or len(text) > 9 or int(text) >= count:
        raise DataError(f"{name}: found {text[:40]!r}, allowed are 0 to {count - 1}")
    return int(text)
