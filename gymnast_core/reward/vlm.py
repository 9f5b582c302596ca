"""A vision-language model as judge, behind any OpenAI-compatible server.

Frames at a stride, always with the last one, and the instruction go into n separate requests; the majority of the
parsable answers decides. A vote that failed or cannot be read is an abstention, never a zero: without any readable vote
the episode has no score. Answers are cached on disk by content, every raw answer is kept, and spending has a limit.
"""

from __future__ import annotations

import base64
import contextlib
import email.utils
import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import stamina

from gymnast_core.config import JudgeConfig
from gymnast_core.data.frames import encode_image, resize_frame, write_bytes
from gymnast_core.errors import DataError, JudgeError
from gymnast_core.protocols import Verdict
from gymnast_core.reward.scores import CUT, parse_score
from gymnast_core.reward.spending import Bill, Pace, Spending

Job = TypeVar("Job")
Result = TypeVar("Result")
IMAGE_SIDE = 256
ATTEMPTS = 5
"""Of one vote, with waits that grow to half a minute in all: what a server needs to come back."""
IMAGE_TOKENS = 85
"""What a provider counts for a small picture, about; only for the estimate of a request not yet answered."""
logging.getLogger("stamina").addHandler(logging.NullHandler())  # every answer and problem is kept; the console is not

PROMPT = """\
These frames, in order, show a robot arm controlled by a policy. They were drawn by a video model that predicts what \
the robot's actions would do, so there may be visual artefacts; judge what happens, not picture quality. The last \
frame is how the attempt ended.

Instruction to the robot: {instruction}
{question}
Score the attempt:
{rubric}

First explain in two or three sentences what you see. Then write one last line exactly like this, with the number:
Final Score: X"""


@dataclass(frozen=True)
class TaskQuestion:
    """What is asked besides the instruction, and when half a point is given; empty: nothing."""

    question: str = ""
    partial_credit_criteria: str = ""


@dataclass(frozen=True)
class Question:
    """What is asked about one video. content: of the user's message. digest: of all that decides the answer. partial:
    half a point may be given. tokens: of the request, estimated."""

    instruction: str
    content: list[dict[str, Any]]
    digest: str
    partial: bool
    tokens: int


@dataclass(frozen=True)
class Vote:
    """One answer's text, or None and the problem."""

    text: str | None
    problem: str = ""


class UnreadableReply(Exception):
    """The server's reply is no chat completion; asked again."""


class VLMJudge:
    """Majority of `config.votes` answers of a vision-language model.

    questions: by instruction, what is asked besides. cache: folder of earlier answers. raw: JSON-lines file that every
    answer is appended to. api_key: None takes OPENAI_API_KEY. spent: tokens (in, out) that this run has taken before.

    Raises: JudgeError when there is no key, and from `judge` when a spend limit is reached, the server refuses the key,
    the model or the account, or the raw answers cannot be kept.
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
    ) -> None:
        import openai

        key = api_key or os.environ.get("OPENAI_API_KEY") or ("none" if config.base_url else "")
        if not key:
            raise JudgeError(
                "the vlm judge needs the environment variable OPENAI_API_KEY, or judge.base_url of a server"
            )
        self.config = config
        self._questions = dict(questions or {})
        self._cache = Path(cache) if cache is not None else None
        self._raw = Path(raw) if raw is not None else None
        self._raw_lock = threading.Lock()
        self._client = openai.OpenAI(
            api_key=key, base_url=config.base_url or None, timeout=config.timeout_s, max_retries=0
        )
        self._slots = threading.BoundedSemaphore(config.concurrency)
        self._pace = Pace(config.requests_per_minute)
        self.spending = Spending(config, *spent)

    def frame_indices(self, n_frames: int) -> list[int]:
        """Every stride-th frame from the first, and the last one."""
        indices = list(range(0, n_frames, self.config.stride))
        if indices[-1] != n_frames - 1:
            indices.append(n_frames - 1)
        return indices

    def judge(self, videos: Sequence[np.ndarray], instructions: Sequence[str]) -> list[Verdict]:
        """One verdict a video; all votes of all videos run side by side, at most `concurrency` at once.

        Videos that are alike to the bit are asked about once. Raises: JudgeError, see the class.
        """
        questions = [self._question(video, text) for video, text in zip(videos, instructions, strict=True)]
        alike = {question.digest: question for question in questions}
        jobs = [(question, vote) for question in alike.values() for vote in range(self.config.votes)]
        votes = _side_by_side(lambda job: self._vote(*job), jobs, self.config.concurrency)
        by_digest: dict[str, list[Vote]] = {}
        for (question, _), vote in zip(jobs, votes):
            by_digest.setdefault(question.digest, []).append(vote)
        return [_majority(by_digest[question.digest], question.partial) for question in questions]

    def _question(self, video: np.ndarray, instruction: str) -> Question:
        asked = self._questions.get(instruction, TaskQuestion())
        partial = bool(asked.partial_credit_criteria)
        half = f"0.5 = {asked.partial_credit_criteria}\n" if partial else ""
        text = PROMPT.format(
            instruction=instruction,
            question=f"Question: {asked.question}\n" if asked.question else "",
            rubric=f"0 = not completed\n{half}1 = completed",
        )
        images = [encode_image(resize_frame(frame, IMAGE_SIDE), ".jpg") for frame in video]
        content: list[dict[str, Any]] = [{"type": "text", "text": text}]
        for image in images:
            url = "data:image/jpeg;base64," + base64.b64encode(image).decode()
            content.append({"type": "image_url", "image_url": {"url": url, "detail": "low"}})
        config = self.config
        decides = f"{config.model}\n{config.base_url}\n{config.temperature:g}\n{config.answer_tokens}\n{text}"
        digest = hashlib.sha256(decides.encode())
        for image in images:
            digest.update(hashlib.sha256(image).digest())
        tokens = len(text) // 4 + IMAGE_TOKENS * len(images)
        return Question(instruction, content, digest.hexdigest(), partial, tokens)

    def _vote(self, question: Question, number: int) -> Vote:
        """One answer, from the cache or the server; without text when the server gave none in spite of retries."""
        cached = self._cache / question.digest[:2] / f"{question.digest}-{number}.json" if self._cache else None
        line: dict[str, Any] = {"instruction": question.instruction, "digest": question.digest, "vote": number}
        if cached is not None and (earlier := _read_cached(cached)) is not None:
            with self.spending.lock:
                self.spending.cached_votes += 1
            self._keep_raw({**line, "answer": earlier, "problem": "", "cached": True})
            return Vote(earlier)
        vote, bill = Vote(None, "stopped"), Bill()
        try:
            with self._slots:
                vote = self._ask(question, bill)
        finally:  # what was spent is kept also where a limit ends the run
            tokens = {"input_tokens": bill.input_tokens, "output_tokens": bill.output_tokens}
            self._keep_raw({**line, "answer": vote.text, "problem": vote.problem[:500], "cached": False, **tokens})
        if vote.text is None:
            with self.spending.lock:
                self.spending.failed_votes += 1
        elif cached is not None and parse_score(vote.text, question.partial) is not None:
            # An answer without a score is asked for again another time; a full disk costs a later request alone.
            with contextlib.suppress(DataError):
                write_bytes(cached, json.dumps({"model": self.config.model, "answer": vote.text}).encode())
        return vote

    def _ask(self, question: Question, bill: Bill) -> Vote:
        """Raises: JudgeError for what would go wrong for ever; any other failure is an empty vote."""
        import openai

        try:
            for attempt in stamina.retry_context(
                on=_passing,
                attempts=ATTEMPTS,
                timeout=4 * self.config.timeout_s,
                wait_initial=0.5,
                wait_exp_base=3,
                wait_max=30.0,
            ):
                with attempt:
                    self._pace.wait()
                    with self.spending.request(question.tokens, bill) as taken:
                        return self._request(question.content, taken)
        except JudgeError:
            raise
        except openai.APIStatusError as error:
            problem = " ".join(f"{type(error).__name__}: {error}".split())
            if error.status_code in (401, 402, 404) or error.code == "insufficient_quota":
                at = self.config.base_url or "OpenAI"
                raise JudgeError(f"judge: {at} refuses '{self.config.model}': {problem[:300]}") from error
            return Vote(None, problem)
        except Exception as error:  # network, server and decoding failures all leave this vote empty
            return Vote(None, " ".join(f"{type(error).__name__}: {error}".split()))
        return Vote(None, "no attempt was made")

    def _request(self, content: list[dict[str, Any]], taken: Callable[[int, int], None]) -> Vote:
        """One request, over after `timeout_s` also where the server keeps sending a little."""
        import openai

        config = self.config
        # OpenAI's reasoning models know only the newer name, many other servers only the older one.
        longest = "max_tokens" if config.base_url else "max_completion_tokens"
        request: dict[str, Any] = {
            "model": config.model,
            "messages": [{"role": "user", "content": content}],
            "temperature": config.temperature,
            longest: config.answer_tokens,
        }
        deadline = time.monotonic() + config.timeout_s
        body = bytearray()
        try:
            with self._client.chat.completions.with_streaming_response.create(**request) as response:
                for part in _broken_off(response.iter_bytes()):
                    body += part
                    if time.monotonic() > deadline:
                        raise UnreadableReply(f"no whole answer within {config.timeout_s:g} s")
        except openai.RateLimitError as error:
            self._pace.hold(_retry_after(error.response.headers))
            raise
        reply = json.loads(body)
        if not isinstance(reply, dict):
            raise UnreadableReply(f"found {type(reply).__name__}, needed an object")
        usage = reply.get("usage")
        if isinstance(usage, dict):
            counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
            if all(isinstance(count, int) and count >= 0 for count in counts) and any(counts):
                taken(*counts)  # type: ignore[arg-type]
        choices = reply.get("choices")
        if not choices and "error" in reply:
            raise UnreadableReply(f"an error in place of an answer: {str(reply['error'])[:200]}")
        return (
            _read_choice(choices[0]) if isinstance(choices, list) and choices else Vote(None, "no answer in the reply")
        )

    def _keep_raw(self, line: dict[str, Any]) -> None:
        if self._raw is None:
            return
        with self._raw_lock:
            try:
                self._raw.parent.mkdir(parents=True, exist_ok=True)
                with open(self._raw, "a", encoding="utf-8") as stream:
                    stream.write(json.dumps({"model": self.config.model, **line}) + "\n")
            except OSError as error:
                raise JudgeError(f"{self._raw}: cannot keep the judge's answers: {error.strerror or error}") from error


def _majority(votes: Sequence[Vote], partial: bool) -> Verdict:
    """The score most readable votes give; an abstention where there is none or two are equally frequent."""
    read = [
        (score, vote.text) for vote in votes if vote.text and (score := parse_score(vote.text, partial)) is not None
    ]
    if not read:
        failed = [vote for vote in votes if vote.text is None]
        shown = (failed or votes)[0]
        return Verdict(
            None,
            0.0,
            f"no readable vote among {len(votes)} ({len(failed)} requests failed, the rest gave no score): "
            f"{' '.join((shown.problem or shown.text or '').split())[:200]}",
        )
    scores = [score for score, _ in read]
    counts = {value: scores.count(value) for value in sorted(set(scores))}
    most = max(counts.values())
    winners = [value for value, count in counts.items() if count == most]
    said = ", ".join(f"{count} x {value:g}" for value, count in counts.items())
    if len(winners) > 1:
        return Verdict(None, 0.0, f"votes are tied: {said}")
    first = next(text for score, text in read if score == winners[0])
    return Verdict(winners[0], most / len(votes), f"{said}; {' '.join(first.split())[:300]}")


def _read_cached(path: Path) -> str | None:
    """An earlier answer; a damaged file goes away."""
    if not path.exists():
        return None
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["answer"])
    except (OSError, ValueError, KeyError, TypeError):
        path.unlink(missing_ok=True)
        return None


def _read_choice(choice: Any) -> Vote:
    """The text of a reply's first choice, whose content may be text or a list of parts."""
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(message, dict):
        return Vote(None, "no message in the reply")
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    cut = choice.get("finish_reason") == "length"
    if isinstance(content, str) and content.strip():
        return Vote(content + CUT if cut else content)
    if cut:
        return Vote(None, "the answer's tokens ran out before its text began; raise judge.answer_tokens")
    return Vote(None, f"refused: {message['refusal']}" if message.get("refusal") else "an empty answer")


def _broken_off(parts: Iterator[bytes]) -> Iterator[bytes]:
    """The parts of a reply's body; what its transport raises in the middle of them is an unreadable reply."""
    try:
        yield from parts
    except Exception as error:
        raise UnreadableReply(f"broken off: {type(error).__name__}: {error}") from error


def _passing(error: Exception) -> bool:
    """Whether a request that failed so may succeed when it is sent again."""
    import openai

    if isinstance(error, openai.APIStatusError):
        quota = error.code == "insufficient_quota"
        return not quota and (error.status_code in (408, 409, 425, 429) or error.status_code >= 500)
    return isinstance(error, (openai.APIConnectionError, UnreadableReply, ValueError))


def _retry_after(headers: Mapping[str, str]) -> float:
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


def _side_by_side(work: Callable[[Job], Result], jobs: Sequence[Job], threads: int) -> list[Result]:
    """Results in the order of the jobs; the first error is raised and stops the rest.

    Daemon threads, so that a server that does not answer cannot hold up the end of the process.
    """
    results: dict[int, Result] = {}
    errors: list[BaseException] = []
    remaining = iter(enumerate(jobs))
    lock = threading.Lock()

    def run() -> None:
        while not errors:
            with lock:
                item = next(remaining, None)
            if item is None:
                return
            try:
                results[item[0]] = work(item[1])
            except BaseException as error:
                errors.append(error)

    workers = [threading.Thread(target=run, daemon=True) for _ in range(min(threads, len(jobs)))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if errors:
        raise errors[0]
    return [results[index] for index in range(len(jobs))]
