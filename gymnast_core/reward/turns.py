"""When a judge's server may be asked, and when asking it has no use: a refusal that will last ends the run at once.

Until the server has answered once, a single request is under way: what is wrong with the key, the model or the form of
one request then finds out, instead of every request that would go out together.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from gymnast_core.errors import JudgeError
from gymnast_core.reward.replies import Unanswered

REFUSED_AT_FIRST = 2
"""Different questions that a server may refuse before it has answered any."""
REFUSED_LATER = 16
"""Different questions in a row that a server may refuse after it has answered."""


class Turns:
    """What became of the questions to one server. who: names it in messages."""

    def __init__(self, who: str) -> None:
        self._who = who
        self._alone = threading.Lock()
        self._lock = threading.Lock()
        self._has_answered = False
        self._refused: dict[str, str] = {}
        """Words of the refusal by question, of all since the last answer."""
        self._over = ""
        """Why nothing more is asked."""
        self._last = ""

    def begin(self) -> None:
        """A new batch of questions; what ended the one before may have been mended."""
        with self._lock:
            self._over, self._last = "", ""
            if not self._has_answered:
                self._refused.clear()

    def end(self) -> None:
        """Raises: JudgeError where the server has never answered, and did not answer the batch that is over."""
        if not self._has_answered and self._last:
            raise JudgeError(f"{self._who}: {self._last}; it has answered nothing yet")

    @contextmanager
    def turn(self, question: str) -> Iterator[str]:
        """The turn of one question, alone until the server has answered; yields the words with which this question was
        refused already, or nothing. Raises: JudgeError where asking has no use any more."""
        if self._has_answered:
            yield ""
            return
        with self._alone:
            if not self._has_answered:
                with self._lock:
                    if self._over:
                        raise JudgeError(self._over)
                yield self._refused.get(question, "")
                return
        yield ""

    def answered(self) -> None:
        """The server answered."""
        with self._lock:
            self._has_answered = True
            self._refused.clear()

    def failed(self, question: str, failure: Unanswered) -> str:
        """A question came to nothing, in spite of retries; returns the words to keep.

        Raises: JudgeError where every other question will fail likewise: the server says so, has never answered, or
        refused many different ones in a row.
        """
        words = str(failure)
        with self._lock:
            self._last = words
            if not failure.passing:
                self._refused[question] = words
            count = len(self._refused)
            if self._has_answered:
                over = failure.lasting or count >= REFUSED_LATER
            else:
                over = failure.lasting or failure.passing or count >= REFUSED_AT_FIRST
            if over:
                known = "" if self._has_answered or failure.lasting else "; it has answered nothing yet"
                self._over = f"{self._who}: {words}{known}"
                raise JudgeError(self._over) from failure
        return words
