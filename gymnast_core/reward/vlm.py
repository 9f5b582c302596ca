"""A vision-language model as judge, behind any OpenAI-compatible server, on any of the scales."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from gymnast_core.config import JudgeConfig
from gymnast_core.data.frames import encode_image, resize_frame
from gymnast_core.reward.asking import Question, ScaledJudge
from gymnast_core.reward.chat import ChatServer
from gymnast_core.reward.prompts import TaskQuestion
from gymnast_core.reward.replies import Said

IMAGE_SIDE = 256
READING = 2
"""Of the rules by which answers are read: verdicts that other rules found in thoughts are not taken from the cache."""
IMAGE_TOKENS = 85
"""What a provider counts for a small picture, about; only for the estimate of a request not yet answered."""


class VLMJudge(ScaledJudge):
    """`config.votes` answers of a vision-language model, on `config.scale`.

    Frames at a stride, always with the last one, and the instruction go into one request for each vote.

    api_key: None takes OPENAI_API_KEY. The others: see `ScaledJudge`.

    Raises: JudgeError when the key, the address or a proxy cannot be right, and from `judge`, see `AskingJudge`.
    """

    name = "vlm"

    def __init__(
        self,
        config: JudgeConfig,
        questions: Mapping[str, TaskQuestion] | None = None,
        cache: str | os.PathLike[str] | None = None,
        raw: str | os.PathLike[str] | None = None,
        api_key: str | None = None,
        spent: tuple[int, int] = (0, 0),
        template: str = "",
    ) -> None:
        if config.scale == "log_p_true":  # one token, whose probabilities chance does not change
            config = dataclasses.replace(config, votes=1, temperature=1.0, answer_tokens=1)
        self._server = ChatServer(config, api_key, lambda seconds: self.pace.hold(seconds))
        who = f"judge: {self._server.address} with '{config.model}'"
        super().__init__(config, who, config.model, questions, template, cache, raw, spent)

    def question(self, video: np.ndarray, instruction: str) -> Question:
        """Text and pictures of a user's message."""
        config = self.config
        text, partial = self.put(instruction)
        images = [encode_image(resize_frame(frame, IMAGE_SIDE), ".jpg") for frame in video]
        shown = _as_video(images) if config.frames_as == "video" else _as_pictures(images)
        content: list[dict[str, Any]] = [{"type": "text", "text": text}]
        content = [*shown, *content] if self.scale.prompt.frames_first else [*content, *shown]
        decides = [READING, self._server.address, config.model, config.temperature, config.answer_tokens, text]
        decides += [config.scale] if config.scale != "0-1" else []
        decides += [config.frames_as] if config.frames_as != "images" else []
        digest = hashlib.sha256(json.dumps(decides).encode())
        for image in images:
            digest.update(hashlib.sha256(image).digest())
        tokens = len(text) // 4 + IMAGE_TOKENS * len(images)
        return Question(instruction, content, digest.hexdigest(), partial, tokens, len(images))

    def say(self, question: Question, vote: int, taken: Callable[[int, int], None]) -> Said:
        """The server's answer."""
        return self._server.ask(question.content, taken)


def _as_pictures(images: Sequence[bytes]) -> list[dict[str, Any]]:
    """Each frame as a picture of its own."""
    urls = ["data:image/jpeg;base64," + base64.b64encode(image).decode() for image in images]
    return [{"type": "image_url", "image_url": {"url": url, "detail": "low"}} for url in urls]


def _as_video(images: Sequence[bytes]) -> list[dict[str, Any]]:
    """All frames as one film, in the form that vLLM reads frames which are cut already: JPEG after JPEG."""
    frames = ",".join(base64.b64encode(image).decode() for image in images)
    return [{"type": "video_url", "video_url": {"url": f"data:video/jpeg;base64,{frames}"}}]
