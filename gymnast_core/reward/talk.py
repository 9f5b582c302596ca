"""A vision-language model that is shown pictures and asked anything. Whoever asks says which answers can be read."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gymnast_core.config import JudgeConfig
from gymnast_core.data.frames import encode_image, resize_frame
from gymnast_core.reward.asking import Asker, Question
from gymnast_core.reward.chat import ChatServer
from gymnast_core.reward.replies import Said

SIDE = 512
"""Rows and columns of a picture that is shown: small things on a table are to be recognised."""
PICTURE_TOKENS = 300
"""What a provider counts for such a picture, about; only for the estimate of a request not yet answered."""


@dataclass(frozen=True)
class Shown:
    """A user's message, and whether an answer to it says what was asked."""

    message: list[dict[str, Any]]
    readable: Callable[[str], bool]


class PictureTalk(Asker):
    """Questions about pictures. The arguments: see `Asker`.

    Raises: JudgeError, see `Asker`.
    """

    name = "vlm"

    def __init__(
        self,
        config: JudgeConfig,
        cache: str | None = None,
        raw: str | None = None,
        api_key: str | None = None,
        spent: tuple[int, int] = (0, 0),
    ) -> None:
        self._server = ChatServer(config, api_key, lambda seconds: self.pace.hold(seconds))
        self._decides = [self._server.address, config.model, config.temperature, config.answer_tokens]
        super().__init__(
            config, f"judge: {self._server.address} with '{config.model}'", config.model, cache, raw, spent
        )

    def question(
        self, frames: Sequence[np.ndarray], text: str, instruction: str, readable: Callable[[str], bool]
    ) -> Question:
        """What is asked about frames (H, W, 3) uint8, which are shown in this order, then the text."""
        pictures = [encode_image(resize_frame(frame, SIDE), ".jpg") for frame in frames]
        urls = ["data:image/jpeg;base64," + base64.b64encode(picture).decode() for picture in pictures]
        content: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
        digest = hashlib.sha256(json.dumps([*self._decides, text]).encode())
        for picture in pictures:
            digest.update(hashlib.sha256(picture).digest())
        tokens = len(text) // 4 + PICTURE_TOKENS * len(pictures)
        content.append({"type": "text", "text": text})
        return Question(instruction, Shown(content, readable), digest.hexdigest(), False, tokens, len(pictures))

    def say(self, question: Question, vote: int, taken: Callable[[int, int], None]) -> Said:
        """The server's answer."""
        return self._server.ask(question.content.message, taken)

    def can_read(self, question: Question, text: str) -> bool:
        """Whether the answer says what was asked."""
        return bool(question.content.readable(text))
