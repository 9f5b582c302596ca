"""What a judge behind an API may cost and how fast it may ask: running totals with limits, and the pace of requests."""

from __future__ import annotations

import dataclasses
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from gymnast_core.addresses import is_near
from gymnast_core.config import JudgeConfig
from gymnast_core.errors import JudgeError
from gymnast_core.protocols import Judge

GPT_4O = (2.5, 10.0)
"""US dollars per million tokens, read and written: the price of a server whose prices nobody gave."""
LONGEST_HOLD_S = 120.0
"""A server may ask us to wait so long (Retry-After); a longer wait is cut to this."""


@dataclass
class Bill:
    """Tokens of one vote, over all its attempts."""

    input_tokens: int = 0
    output_tokens: int = 0


class Spending:
    """Running total of tokens and US dollars, and their limits; safe to use from many threads.

    A request is sent only where the limits leave room for it, counted as large as the largest so far (at first: as
    estimated, with the longest answer allowed) beside those still under way. What was sent and may have been answered,
    but came without a count of tokens (a timeout, half an answer), is counted as estimated: a limit is never passed
    unnoticed.
    """

    def __init__(
        self,
        config: JudgeConfig,
        input_tokens: int = 0,
        output_tokens: int = 0,
        name: str = "vlm judge",
        section: str = "judge",
    ) -> None:
        self.config = config
        self._prices = prices(config)
        self._section = section
        self._name = name
        self.input_tokens, self.output_tokens = input_tokens, output_tokens
        self.requests = self.failed_votes = self.cached_votes = self.estimated_requests = 0
        self._under_way = Bill()
        self._largest_input = 0
        self.lock = threading.Lock()

    @property
    def tokens(self) -> int:
        return self.input_tokens + self.output_tokens

    @property
    def dollars(self) -> float:
        return self._price(self.input_tokens, self.output_tokens)

    @property
    def line(self) -> str:
        """The total in words."""
        votes = f"{self.cached_votes} votes from the cache, {self.failed_votes} failed"
        if not self._price(1, 1):
            return f"{self._name}: {self.requests} requests, {self.tokens} tokens; {votes}"
        limits = f" of at most ${self.config.max_dollars:.2f}"
        if self.config.max_total_tokens:
            limits += f" and {self.config.max_total_tokens} tokens"
        return (
            f"{self._name}: {self.requests} requests ({self.estimated_requests} of estimated cost), {self.tokens} "
            f"tokens, ${self.dollars:.2f}{limits}; {votes}"
        )

    @contextmanager
    def request(self, input_tokens: int, bill: Bill) -> Iterator[Callable[[int, int], None]]:
        """One request of about this many input tokens; call what is yielded with the tokens it really took.

        Not called: as estimated where the block ends by itself, or by an error whose `charged` is true: the server may
        have answered. Nothing where it refused, or where the request never left this machine. Raises: JudgeError when a
        limit leaves no room for it.
        """
        longest = self.config.answer_tokens
        with self.lock:
            expected = max(input_tokens, self._largest_input)
            self._check_room(expected, longest)
            self.requests += 1
            self._under_way.input_tokens += expected
            self._under_way.output_tokens += longest
        taken: list[tuple[int, int]] = []
        free = False
        try:
            yield lambda read, written: taken.append((read, written))
        except Exception as error:
            free = not getattr(error, "charged", False)
            raise
        finally:
            read, written = taken[0] if taken else (0, 0) if free else (expected, longest)
            with self.lock:
                self._under_way.input_tokens -= expected
                self._under_way.output_tokens -= longest
                self.input_tokens += read
                self.output_tokens += written
                if taken:
                    self._largest_input = max(self._largest_input, read)
                elif not free:
                    self.estimated_requests += 1
            bill.input_tokens += read
            bill.output_tokens += written

    def _check_room(self, read: int, written: int) -> None:
        config, under_way = self.config, self._under_way
        inputs = self.input_tokens + under_way.input_tokens + read
        outputs = self.output_tokens + under_way.output_tokens + written
        if self._price(inputs, outputs) > config.max_dollars:
            raise JudgeError(
                f"{self._section}: the spend limit of ${config.max_dollars:.2f} leaves no room for another request "
                f"(${self.dollars:.4f} spent, {self.requests} requests); raise {self._section}.max_dollars to go on"
            )
        if config.max_total_tokens and inputs + outputs > config.max_total_tokens:
            raise JudgeError(
                f"{self._section}: the limit of {config.max_total_tokens} tokens leaves no room for another request "
                f"({self.tokens} used, {self.requests} requests); raise {self._section}.max_total_tokens to go on"
            )

    def _price(self, read: int, written: int) -> float:
        reading, writing = self._prices
        return (read * reading + written * writing) / 1e6


def prices(config: JudgeConfig) -> tuple[float, float]:
    """US dollars per million tokens, read and written, of a judge's server."""
    address = config.base_url or os.environ.get("OPENAI_BASE_URL", "").strip()
    usual = (0.0, 0.0) if is_near(address) else GPT_4O
    given = config.dollars_per_million_input_tokens, config.dollars_per_million_output_tokens
    return (
        usual[0] if given[0] is None else given[0],
        usual[1] if given[1] is None else given[1],
    )


def without_prices(config: JudgeConfig) -> JudgeConfig:
    """The section of a judge that is paid for by nobody."""
    return dataclasses.replace(config, dollars_per_million_input_tokens=0.0, dollars_per_million_output_tokens=0.0)


def spent_by(judge: Judge) -> str:
    """What a judge has cost in this process, in words; empty for a judge that costs nothing."""
    spending = getattr(judge, "spending", None)
    return spending.line if isinstance(spending, Spending) else ""


class Pace:
    """When the next request may go out: at most `per_minute` a minute (0: any number), and none while it is held."""

    def __init__(self, per_minute: float) -> None:
        self._gap = 60.0 / per_minute if per_minute else 0.0
        self._next = 0.0
        self._lock = threading.Lock()

    def wait(self) -> None:
        """Until it is this request's turn."""
        with self._lock:
            now = time.monotonic()
            turn = max(now, self._next)
            self._next = turn + self._gap
        time.sleep(turn - now)

    def hold(self, seconds: float) -> None:
        """Let nobody go out for so long: the server asked for it."""
        with self._lock:
            self._next = max(self._next, time.monotonic() + min(seconds, LONGEST_HOLD_S))
