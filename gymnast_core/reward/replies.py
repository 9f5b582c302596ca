"""What a server's reply means: an answer, whole or cut; a refusal, which may pass or last; a page in place of either.

A body is read up to a length and a deadline, also when it is compressed and when it comes with an error's status.
"""

from __future__ import annotations

import email.utils
import json
import math
import re
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from gymnast_core.contents import HEAD, name_content, one_line
from gymnast_core.plain_json import parse_json
from gymnast_core.redaction import redact

MAX_REPLY = 4 << 20
"""Bytes of a reply at most, unpacked."""
MOST_LISTED = 1000
"""Tokens of which a reply may list the log-probability."""
MOST_TOKENS = 10_000_000
"""Of one request that are believed."""
WORDS = 400
"""Characters of a server's words that are quoted."""
WORDS_OF_EVENT = 1 << 16
"""Bytes of a stream of events in which an error is looked for."""
LASTING_STATUS = (401, 402, 404, 405, 407, 410)
LASTING_CODES = (
    "insufficient_quota", "billing_not_active", "billing_hard_limit_reached", "account_deactivated", "invalid_api_key",
    "model_not_found",
)  # fmt: skip
PASSING_STATUS = (408, 409, 425, 429)
_UNABLE = re.compile(
    r"(?:\bnot|n['’]t|un)\W?support\w*|not implemented|mmproj|multimodal|unexpected endpoint", re.IGNORECASE
)
"""What a server says with status 500 that it will say again."""
_PASSING_WORDS = re.compile(
    r"loading|busy|overload|try again|retry|time[ds]?\W?out|temporar|rate.?limit|capacity|unavailable|internal",
    re.IGNORECASE,
)
_SPENT = re.compile(
    r"exceeded your current quota|insufficient[\s_-](?:quota|credit|balance|fund)\w*|out of credit|credit balance"
    r"|billing|\bper[\s_-]?day|\bdaily\b|\bRPD\b|\bTPD\b",
    re.IGNORECASE,
)
"""What a server says with status 429 that it will say again for hours."""
_SOON = re.compile(
    r"\bper[\s_-]?(?:second|minute)|\b(?:retry|try again) in (?:\d+(?:\.\d+)?\s?m?s\b|a moment)", re.IGNORECASE
)
_WHOLE = frozenset(
    ("", "stop", "stop_sequence", "eos", "eos_token", "end_turn", "end", "complete", "completed", "finished")
)
"""Reasons for which a whole answer ends; any other one ("length", "content_filter", ...) leaves it cut."""


class Unanswered(Exception):
    """A request that brought no answer.

    passing: it may succeed when it is sent again. lasting: so will every other one fail. charged: the server may have
    answered, and be paid for it. refused: the server said no to what was asked.
    """

    def __init__(
        self, words: str, passing: bool = False, lasting: bool = False, charged: bool = False, refused: bool = False
    ) -> None:
        super().__init__(words)
        self.passing, self.lasting, self.charged, self.refused = passing, lasting, charged, refused


@dataclass(frozen=True)
class Said:
    """What a server said: its text, and what forbids to read a verdict in it (empty: nothing)."""

    text: str | None
    problem: str = ""


def bounded(
    parts: Iterable[bytes],
    packing: str,
    deadline: float,
    charged: bool,
    longest: int = MAX_REPLY,
    section: str = "judge",
) -> Iterator[bytes]:
    """The unpacked parts of a body, of at most `longest` bytes. section: of the settings, for the errors.

    Raises: Unanswered.
    """
    packing = packing.strip().lower()
    if packing not in ("", "identity", "gzip", "x-gzip", "deflate"):
        raise Unanswered(f"the reply is packed as {one_line(packing, 40)!r}, which was not asked for", charged=charged)
    unpacker = zlib.decompressobj(wbits=47) if packing not in ("", "identity") else None
    left = longest
    for part in parts:
        try:
            whole = part if unpacker is None else unpacker.decompress(part, left + 1)
        except zlib.error as error:
            raise Unanswered(f"the reply is damaged {packing} data ({error})", passing=True, charged=charged) from error
        left -= len(whole)
        if left < 0:
            raise Unanswered(f"the reply is longer than {longest} bytes", charged=charged)
        if time.monotonic() > deadline:
            raise Unanswered(f"no whole answer within {section}.timeout_s", passing=True, charged=charged)
        yield whole


def refusal(status: int, body: bytes) -> Unanswered:
    """What an answer of another status than 200 means."""
    reply = _json(body)
    words, code, kind = _words(reply), "", ""
    if isinstance(reply, dict):
        error = reply.get("error")
        inner = error if isinstance(error, dict) else reply
        code, kind = str(inner.get("code")), str(inner.get("type"))
    return _meaning(status, words or name_content(body) or "no words", {code, kind})


def _meaning(status: int, words: str, codes: set[str]) -> Unanswered:
    told = f"status {status}: {one_line(words, WORDS)}"
    spent = status == 429 and _SPENT.search(words) and not _SOON.search(words)
    if status in LASTING_STATUS or spent or codes & set(LASTING_CODES):
        return Unanswered(told, lasting=True)
    if status in (500, 501, 505) and (status != 500 or _UNABLE.search(words)):
        return Unanswered(told, refused=True)
    passing = status in PASSING_STATUS or status >= 500
    return Unanswered(told, passing=passing, refused=not passing)


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _words(reply: Any) -> str:
    """The server's own words in the JSON of an error; empty where it holds none."""
    if isinstance(reply, str):
        return reply
    if isinstance(reply, list):
        return next((words for one in reply if (words := _words(one))), "")
    if not isinstance(reply, Mapping):
        return ""
    for name in ("error", "message", "detail", "msg", "errors", "error_message"):
        if words := _words(reply.get(name)):
            raw = reply.get("metadata")
            more = raw.get("raw") if isinstance(raw, Mapping) else None
            parameter = reply.get("param")
            named = f" ({parameter})" if isinstance(parameter, str) and parameter not in words else ""
            return words + named + (f": {more}" if isinstance(more, str) else "")
    return ""


def read_object(body: bytes) -> dict[str, Any]:
    """The JSON object in the body of a reply with status 200. Raises: Unanswered."""
    try:
        reply = parse_json(body.decode(json.detect_encoding(body)))
    except ValueError as error:
        raise _no_json(body, error) from error
    if not isinstance(reply, dict):
        raise Unanswered(f"found {type(reply).__name__} as reply, needed an object", passing=True, charged=True)
    return reply


def _no_json(body: bytes, error: ValueError) -> Unanswered:
    """What a body is in place of JSON. A page in place of an answer is not paid for."""
    head = body.lstrip()
    if re.match(rb"(?:data|event|id|retry):|:", head):
        for line in head[:WORDS_OF_EVENT].splitlines():
            event = _json(line.partition(b":")[2]) if line.startswith(b"data:") else None
            if isinstance(event, dict) and event.get("error") and (words := _words(event)):
                return _error_within(event["error"], words)
        words = "the reply is a stream of events, which was not asked for; let the server answer in one piece"
        return Unanswered(words, charged=True, refused=True)
    told = one_line(str(error)) if head[:1] in (b"{", b"[") else name_content(head[:HEAD]) or one_line(str(error))
    return Unanswered(f"the reply is no JSON: {told}", passing=True, charged=head[:1] != b"<")


def read_reply(body: bytes, taken: Callable[[tuple[int, int]], None], longest: int) -> Said:
    """The answer in the body of a chat's reply with status 200. Raises: Unanswered."""
    choice, written = _choice(read_object(body), taken)
    message = choice.get("message")
    if not isinstance(message, dict):
        raise Unanswered("no answer in the reply", charged=True)
    return _read_message(message, choice.get("finish_reason"), written == longest)


def read_first_token(body: bytes, taken: Callable[[tuple[int, int]], None]) -> list[tuple[str, float]] | Said:
    """The likeliest first tokens of an answer with their log-probabilities in nats, likeliest first; or what forbids to
    read them.

    Raises: Unanswered, lasting where the server gives none.
    """
    choice, _ = _choice(read_object(body), taken)
    told = choice.get("logprobs")
    if not isinstance(told, dict) or "content" not in told:
        words = "the server gives no log-probabilities (logprobs); take another judge.scale or server"
        raise Unanswered(words, lasting=True, charged=True)
    first = told["content"][0] if isinstance(told["content"], list) and told["content"] else None
    if first is None:
        return Said(None, "an empty answer")
    listed = first.get("top_logprobs") if isinstance(first, dict) else None
    entries = [_listed(one) for one in (first, *(listed[:MOST_LISTED] if isinstance(listed, list) else ()))]
    known = dict(one for one in reversed(entries) if one is not None)
    if None in entries or sum(map(math.exp, known.values())) > 1.01:
        return Said(None, "its log-probabilities are damaged")
    return sorted(known.items(), key=lambda one: -one[1])


def _listed(entry: Any) -> tuple[str, float] | None:
    """A token and its log-probability, which rounding may have made a little more than 0; None where it is damaged."""
    told: Mapping[str, Any] = entry if isinstance(entry, dict) else {}
    token, value = told.get("token"), told.get("logprob", "")
    if not isinstance(token, str) or type(value) not in (int, float) or not value <= 1e-3:
        return None
    return redact(token), min(0.0, float(max(value, -1e6)))


def _choice(reply: dict[str, Any], taken: Callable[[tuple[int, int]], None]) -> tuple[dict[str, Any], int]:
    """A chat's first choice, and how many tokens were written. Raises: Unanswered."""
    counts = _counts(reply.get("usage"))
    if any(counts):
        taken(counts)
    choices = reply.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    failed = reply if choice is None else choice
    if isinstance(failed, dict) and (failed.get("error") or "choices" not in reply) and (words := _words(failed)):
        raise _error_within(failed.get("error"), words)
    if not isinstance(choice, dict):
        fields = one_line(", ".join(map(str, list(reply)[:8])), 100) or "nothing"
        raise Unanswered(f"no answer in the reply: found {fields}, needed choices of a chat completion", charged=True)
    return choice, counts[1]


def _counts(usage: Any) -> tuple[int, int]:
    """Tokens in and out, 0 where they are not told."""
    if not isinstance(usage, dict):
        return 0, 0
    read, written = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if not all(type(count) is int and 0 <= count <= MOST_TOKENS for count in (read, written)):
        return 0, 0
    return read, written  # type: ignore[return-value]


def _error_within(error: Any, words: str) -> Unanswered:
    """What an error means that came with status 200: by the status it names, or by its words."""
    code = error.get("code", error.get("status")) if isinstance(error, dict) else None
    kind = str(error.get("type")) if isinstance(error, dict) else ""
    told = f"an error in place of an answer: {words}"
    if isinstance(code, int) and 400 <= code < 600:
        return _meaning(code, told, {kind})
    if {str(code), kind} & set(LASTING_CODES):
        return Unanswered(one_line(told, WORDS), lasting=True)
    passing = bool(_PASSING_WORDS.search(words)) and not _UNABLE.search(words)
    return Unanswered(one_line(told, WORDS), passing=passing, refused=not passing)


def _read_message(message: Mapping[str, Any], reason: Any, full: bool) -> Said:
    """The text of a message, which ended for a reason. full: it has as many tokens as were allowed, which tells that it
    was cut where no reason is given."""
    ended = reason.strip().lower() if isinstance(reason, str) else ""
    ran_out = (full and not ended) or ended in ("length", "max_tokens", "model_length")
    text = _text_of(message)
    if text.strip():
        if ran_out:
            return Said(redact(text), "the answer was cut: its tokens ran out; raise judge.answer_tokens")
        return Said(redact(text), "" if ended in _WHOLE else f"the answer was cut: it ended by {one_line(ended, 40)!r}")
    if ran_out:
        return Said(None, "the answer's tokens ran out before its text began; raise judge.answer_tokens")
    if refusal := message.get("refusal") or _part_of(message, "refusal"):
        return Said(None, f"refused: {one_line(str(refusal))}")
    if message.get("tool_calls") or message.get("function_call"):
        return Said(None, "it calls a tool, which nobody offered, in place of an answer")
    return Said(
        None, "an empty answer" if ended in _WHOLE else f"an empty answer, which ended by {one_line(ended, 40)!r}"
    )


def _part_of(message: Mapping[str, Any], kind: str) -> Any:
    """What the first part of a kind holds, among the parts of a message's content."""
    content = message.get("content")
    parts = [one for one in content if isinstance(one, dict)] if isinstance(content, list) else []
    return next((part.get(kind) for part in parts if part.get("type") == kind), None)


def _text_of(message: Mapping[str, Any]) -> str:
    """The content of a message, text, an object with text or a list of such parts, without thoughts in parts or fields
    of their own."""
    content = message.get("content")
    if isinstance(content, (list, dict)):
        parts = content if isinstance(content, list) else [content]
        content = "".join(map(_text_of_part, parts))
    if not isinstance(content, str):
        return ""
    for name in ("reasoning_content", "reasoning"):  # some servers send the thoughts a second time
        thought = message.get(name)
        if isinstance(thought, str) and thought.strip() and content.strip().startswith(thought.strip()):
            content = content.strip()[len(thought.strip()) :]
    return content


def _text_of_part(part: Any) -> str:
    """The text of one part of a content; empty for a part that holds something else, such as a thought."""
    if isinstance(part, dict):
        text = part.get("text") if part.get("type", "text") in ("text", "output_text") else ""
        part = text.get("value") if isinstance(text, dict) else text
    return part if isinstance(part, str) else ""


def retry_after(headers: Mapping[str, str]) -> float:
    """Seconds the server asks us to wait; 0 where it says nothing readable."""
    value = headers.get("retry-after", "")
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return 0.0
