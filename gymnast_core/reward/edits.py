"""An OpenAI-compatible server that edits images, and what is asked of it: a frame with things added to it.

It is asked as judges are asked: with the same key, limits, cache, retries, and an end where refusals last.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import cv2
import numpy as np

from gymnast_core.config import JudgeConfig
from gymnast_core.contents import name_content, one_line
from gymnast_core.data.frames import encode_image
from gymnast_core.data.pictures import decode_image
from gymnast_core.errors import DataError
from gymnast_core.reward.asking import Asker, Question
from gymnast_core.reward.replies import Said, Unanswered, read_object
from gymnast_core.reward.server import Server, Taken

SIDE = 1024
"""Rows and columns of the picture that is sent; every known server edits squares of this size."""
SHAPE_TOLERANCE = 0.02
"""A picture whose width is its height, but for this share, is the square that was asked for."""
SMALLEST = 64
LONGEST_REPLY = 48 << 20
"""Bytes; a picture of 2048 x 2048 pixels as PNG takes 12 MB, as text a third more."""
PICTURE_TOKENS = 6000
"""What a provider counts for one picture in and one out, about; only for the estimate of a request not yet answered."""
_FORMAT = re.compile(r"response_?format", re.IGNORECASE)
_SIZE = re.compile(r"\bsize\b", re.IGNORECASE)


class EditServer(Server):
    """Asks `/images/edits`. Which optional fields the server knows is found out by its refusals.

    Raises: JudgeError when a setting is wrong or the client cannot be built.
    """

    longest_reply = LONGEST_REPLY

    def __init__(self, config: JudgeConfig, api_key: str | None, on_hold: Callable[[float], None]) -> None:
        super().__init__(config, api_key, on_hold, "editor")
        self._client = self.openai_client()
        # OpenAI's newer models always send the picture itself and refuse to be asked for it.
        self._optional = {"size": f"{SIDE}x{SIDE}"}
        if not config.model.startswith("gpt-image"):
            self._optional["response_format"] = "b64_json"

    def ask(self, content: dict[str, Any], taken: Taken) -> Said:
        """The edited picture as base64. content: image, mask (PNG files) and prompt. Raises: Unanswered."""
        while True:
            optional = dict(self._optional)
            try:
                said = self.in_time(partial(self._send, content, optional), taken)
            except Unanswered as failure:
                words = str(failure)
                foreign = [
                    name
                    for name, sign in (("response_format", _FORMAT), ("size", _SIZE))
                    if name in optional and sign.search(words)
                ]
                if not failure.refused or not foreign:
                    raise
                self._optional = {name: value for name, value in optional.items() if name != foreign[0]}
                continue
            self.has_answered = True
            return said

    def _send(self, content: dict[str, Any], optional: dict[str, str], taken: Taken) -> Said:
        request = {
            "model": self.config.model,
            "prompt": content["prompt"],
            "image": ("frame.png", content["image"], "image/png"),
            "mask": ("mask.png", content["mask"], "image/png"),
            "n": 1,
            **optional,
        }
        return self.receive(
            lambda: self._client.images.with_streaming_response.edit(**request), lambda body: read_edit(body, taken)
        )


def read_edit(body: bytes, taken: Taken) -> Said:
    """The picture in the body of an edit's reply with status 200, as base64. Raises: Unanswered."""
    reply = read_object(body)
    usage = reply.get("usage")
    if isinstance(usage, dict):
        counts = usage.get("input_tokens"), usage.get("output_tokens")
        if all(type(count) is int and 0 <= count < 10_000_000 for count in counts):
            taken(*counts)  # type: ignore[arg-type]
    data = reply.get("data")
    first = data[0] if isinstance(data, list) and data else None
    text = first.get("b64_json") if isinstance(first, dict) else None
    if isinstance(text, str) and text:
        picture = decode_edit(text)
        if isinstance(picture, str):
            raise Unanswered(picture, passing=True, charged=True)
        return Said(text)
    if isinstance(first, dict) and first.get("url"):
        words = "the server sends a link in place of the picture (b64_json), which is not followed"
        raise Unanswered(words, lasting=True, charged=True)
    error = reply.get("error")
    words = one_line(json.dumps(error)) if error else "no picture in the reply"
    raise Unanswered(words, charged=not error)


def decode_edit(text: str) -> np.ndarray | str:
    """The picture (h, w, 3) uint8 in base64, or in words why it is none: no picture, cut short, or not square."""
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return "the picture is no base64"
    if not (content.startswith((b"\x89PNG", b"\xff\xd8\xff")) or content[8:12] == b"WEBP"):
        return f"found {name_content(content) or 'something else'} in place of a PNG, JPEG or WebP picture"
    try:
        picture = decode_image(content, "the picture")
    except DataError as error:
        return str(error)
    height, width = picture.shape[:2]
    if abs(width / height - 1.0) > SHAPE_TOLERANCE or width < SMALLEST:
        return f"found a picture of {width}x{height} pixels, needed a square, {SIDE}x{SIDE} at best"
    return picture


class ImageEditor(Asker):
    """Frames, edited by a model behind a server.

    config: its model, address and limits (kind vlm). The others: see `Asker`. Raises: JudgeError, see `Asker`.
    """

    name = "editor"

    def __init__(
        self,
        config: JudgeConfig,
        cache: str | None = None,
        raw: str | None = None,
        api_key: str | None = None,
        spent: tuple[int, int] = (0, 0),
    ) -> None:
        self._server = EditServer(config, api_key, lambda seconds: self.pace.hold(seconds))
        who = f"editor: {self._server.address} with '{config.model}'"
        super().__init__(config, who, config.model, cache, raw, spent, section="editor")

    def question(self, frame: np.ndarray, free: np.ndarray, prompt: str, instruction: str) -> Question:
        """What is asked about a frame (H, W, 3) uint8, which may change where `free` (H, W) bool is true."""
        square = cv2.resize(frame, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
        change = cv2.resize(free.astype(np.uint8), (SIDE, SIDE), interpolation=cv2.INTER_NEAREST) > 0
        opaque = np.where(change, 0, 255).astype(np.uint8)  # the model paints where the mask is transparent
        ok, mask = cv2.imencode(".png", np.dstack([cv2.cvtColor(square, cv2.COLOR_RGB2BGR), opaque]))
        assert ok
        image, hole = encode_image(square), mask.tobytes()
        digest = hashlib.sha256(json.dumps([self._server.address, self.config.model, prompt]).encode())
        digest.update(hashlib.sha256(image).digest() + hashlib.sha256(hole).digest())
        content = {"image": image, "mask": hole, "prompt": prompt}
        return Question(instruction, content, digest.hexdigest(), False, len(prompt) // 4 + PICTURE_TOKENS, 1)

    def say(self, question: Question, vote: int, taken: Callable[[int, int], None]) -> Said:
        """The server's picture, as base64."""
        return self._server.ask(question.content, taken)

    def can_read(self, question: Question, text: str) -> bool:
        """Whether it is a whole square picture."""
        return not isinstance(decode_edit(text), str)

    def shown(self, text: str) -> str:
        """Its length and digest: pictures would swamp the raw answers."""
        return f"picture of {len(text)} characters, sha256 {hashlib.sha256(text.encode()).hexdigest()[:16]}"

    def picture(self, said: Said, rows: int, columns: int) -> np.ndarray | str:
        """The edit, squashed to (rows, columns, 3) uint8 as the frame was; in words why there is none."""
        if said.text is None:
            return said.problem or "no answer"
        found = decode_edit(said.text)
        if isinstance(found, str):
            return found
        smaller = rows <= len(found) and columns <= found.shape[1]
        return cv2.resize(found, (columns, rows), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC)
