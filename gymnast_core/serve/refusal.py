"""Why a client gets no action, with the HTTP status that says so."""

from __future__ import annotations

from gymnast_core.contents import one_line
from gymnast_core.errors import GymnastError


class Refusal(GymnastError):
    """A request that is answered by one line instead of an action.

    status: 400 bad input, 401 no token, 403 a web page, 408 too slow, 413 too large, 429 too often, 500 the policy
    failed, 502 the policy server behind this one failed, 503 full or ending. headers: sent along.
    """

    def __init__(self, status: int, words: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(one_line(words, 300))
        self.status = status
        self.headers = headers or {}
