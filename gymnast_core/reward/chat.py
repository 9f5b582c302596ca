"""An OpenAI-compatible chat server. Which names of parameters it knows is found out by its refusals."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from gymnast_core.config import JudgeConfig
from gymnast_core.contents import one_line
from gymnast_core.errors import JudgeError
from gymnast_core.reward.replies import Said, Unanswered, read_first_token, read_reply
from gymnast_core.reward.scales import weigh_tokens
from gymnast_core.reward.server import Server, Taken

LISTED = (20, 5)
"""Tokens whose log-probability is asked for: as many as OpenAI and vLLM list, or fewer where that is refused."""
_FOREIGN = re.compile(r"extra|permit|unknown|unrecogni|unexpected|support", re.IGNORECASE)


@dataclass(frozen=True)
class Dialect:
    """Which of the ways to say a thing a server knows. listed: of the first token's rivals, see LISTED."""

    longest: str
    temperature: bool = True
    detail: bool = True
    listed: int = LISTED[0]


class ChatServer(Server):
    """Asks for text, or with `judge.scale` log_p_true for the log-probabilities of its first token.

    Raises: JudgeError when a setting is wrong or the client cannot be built.
    """

    def __init__(self, config: JudgeConfig, api_key: str | None, on_hold: Callable[[float], None]) -> None:
        super().__init__(config, api_key, on_hold)
        self._dialect = Dialect("max_tokens" if config.base_url else "max_completion_tokens")
        self._client = self.openai_client()

    def ask(self, content: list[dict[str, Any]], taken: Taken) -> Said:
        """The answer to one message of a user, in the server's dialect; taken: called with its tokens.

        Raises: Unanswered; JudgeError where what is asked cannot be said in any dialect.
        """
        dialect, tried = self._dialect, {self._dialect}
        while True:
            try:
                said = self.in_time(partial(self._send, self._request(content, dialect)), taken)
            except Unanswered as failure:
                if not failure.refused or (other := self._other(dialect, str(failure))) in tried:
                    raise
                dialect = other
                tried.add(other)
                continue
            self._dialect, self.has_answered = dialect, True
            return said

    def _request(self, content: list[dict[str, Any]], dialect: Dialect) -> dict[str, Any]:
        if not dialect.detail:
            content = [
                {**part, "image_url": {"url": part["image_url"]["url"]}} if "image_url" in part else part
                for part in content
            ]
        request: dict[str, Any] = {
            "model": self.config.model,
            "messages": [{"role": "user", "content": content}],
            dialect.longest: self.config.answer_tokens,
        }
        if self.config.scale == "log_p_true":
            request |= {"logprobs": True, "top_logprobs": dialect.listed}
        return {**request, "temperature": self.config.temperature} if dialect.temperature else request

    def _other(self, dialect: Dialect, words: str) -> Dialect:
        """Another way to say what the server's words name; the same where they name nothing that can be said otherwise.

        Raises: JudgeError where the server takes no temperature but its own.
        """
        if re.search(rf"\b{dialect.longest}\b", words):
            names = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}
            return dataclasses.replace(dialect, longest=names[dialect.longest])
        if dialect.temperature and re.search(r"\btemperature\b", words):
            if self.config.temperature != 1.0:
                raise JudgeError(
                    f"judge.temperature: {self.address} refuses {self.config.temperature:g} for "
                    f"'{self.config.model}' ({one_line(words)}); 1 works with every server"
                )
            return dataclasses.replace(dialect, temperature=False)
        if dialect.detail and re.search(r"\bdetail\b", words) and _FOREIGN.search(words):
            return dataclasses.replace(dialect, detail=False)
        if self.config.scale == "log_p_true" and re.search(r"\btop_?logprobs?\b", words, re.IGNORECASE):
            return dataclasses.replace(dialect, listed=LISTED[-1])
        return dialect

    def _send(self, request: dict[str, Any], taken: Taken) -> Said:
        def read(body: bytes) -> Said:
            def counted(counts: tuple[int, int]) -> None:
                taken(*counts)

            if self.config.scale != "log_p_true":
                return read_reply(body, counted, self.config.answer_tokens)
            tokens = read_first_token(body, counted)
            return tokens if isinstance(tokens, Said) else weigh_tokens(tokens)

        return self.receive(lambda: self._client.chat.completions.with_streaming_response.create(**request), read)
