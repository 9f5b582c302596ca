"""A vision-language model as judge, behind any OpenAI-compatible server.

Frames at a stride, always with the last one, and the instruction go into n separate requests; the majority of the
parsable answers decides. A vote that failed or cannot be read is an abstention, never a zero: without any readable vote
the episode has no score. Answers are cached on disk by content, every raw answer is kept, and spending has a limit.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import os
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import stamina

from gymnast_core.config import JudgeConfig
from gymnast_core.data.frames import encode_image, resize_frame, write_bytes
from gymnast_core.errors import DataError, JudgeError
from gymnast_core.protocols import Verdict

Job = TypeVar("Job")
Result = TypeVar("Result")
IMAGE_SIDE = 256
MAX_ANSWER_TOKENS = 400
ATTEMPTS = 4
logging.getLogger("stamina").addHandler(logging.NullHandler())  # every answer and problem is kept; the console is not
# "Final Score: 1", "**Final Score:** 1", "final score = 0.5", "Final Score: **1**/1", "Final Score is 1."
_SCORE = re.compile(
    r"final[\s_]*score[\s*_`:=>\"'()\[\]]*(?:is|of)?[\s*_`:=>\"'()\[\]]*(?<![\d.])(\d+(?:[.,]\d+)?)(?![\d])(\s*/\s*\d+)?",
    re.IGNORECASE,
)

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


@dataclass
class Spending:
    """Running total of tokens and US dollars."""

    input_tokens: int = 0
    output_tokens: int = 0
    requests: int = 0
    failed_votes: int = 0
    cached_votes: int = 0
    input_price: float = 0.0
    output_price: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def dollars(self) -> float:
        return (self.input_tokens * self.input_price + self.output_tokens * self.output_price) / 1e6

    def add(self, input_tokens: int, output_tokens: int) -> None:
        with self.lock:
            self.input_tokens += input_tokens
            self.output_tokens += output_tokens


def parse_score(answer: str, partial: bool = False) -> float | None:
    """The score an answer gives: 0 or 1, with partial credit also 0.5; None where it gives none.

    The last "Final Score" counts (a model may first repeat the task). Markup around it does not matter; a value that
    is not allowed is no score, and neither is a "Final Score" without a number.
    """
    allowed = (0.0, 0.5, 1.0) if partial else (0.0, 1.0)
    found = _SCORE.findall(answer)
    if not found:
        return None
    number, scale = found[-1]
    value = float(number.replace(",", "."))
    if scale and float(scale.strip(" /")) != 1.0:
        return None
    return value if value in allowed else None


class VLMJudge:
    """Majority of `config.votes` answers of a vision-language model.

    questions: by instruction, what is asked besides. cache: folder of earlier answers. raw: JSON-lines file that every
    answer is appended to. api_key: None takes OPENAI_API_KEY.

    Raises: JudgeError when there is no key, and from `judge` when the spend limit is reached.
    """

    name = "vlm"

    def __init__(
        self,
        config: JudgeConfig,
        questions: Mapping[str, TaskQuestion] | None = None,
        cache: str | os.PathLike[str] | None = None,
        raw: str | os.PathLike[str] | None = None,
        api_key: str | None = None,
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
        self.spending = Spending(
            input_price=config.dollars_per_million_input_tokens, output_price=config.dollars_per_million_output_tokens
        )

    def frame_indices(self, n_frames: int) -> list[int]:
        """Every stride-th frame from the first, and the last one."""
        indices = list(range(0, n_frames, self.config.stride))
        if indices[-1] != n_frames - 1:
            indices.append(n_frames - 1)
        return indices

    def judge(self, videos: Sequence[np.ndarray], instructions: Sequence[str]) -> list[Verdict]:
        """One verdict a video; all votes of all videos run side by side, at most `concurrency` at once."""
        tasks = [self._messages(video, instruction) for video, instruction in zip(videos, instructions, strict=True)]
        votes = self.config.votes
        jobs = [(messages, digest, vote) for messages, digest in tasks for vote in range(votes)]
        answers = _side_by_side(lambda job: self._vote(*job), jobs, self.config.concurrency)
        return [
            self._majority(answers[i * votes : (i + 1) * votes], self._question(instruction))
            for i, instruction in enumerate(instructions)
        ]

    def _question(self, instruction: str) -> TaskQuestion:
        return self._questions.get(instruction, TaskQuestion())

    def _messages(self, video: np.ndarray, instruction: str) -> tuple[list[dict[str, Any]], str]:
        """The request's messages, and the hash of all that decides the answer."""
        question = self._question(instruction)
        rubric = "0 = not completed\n1 = completed"
        if question.partial_credit_criteria:
            rubric = f"0 = not completed\n0.5 = {question.partial_credit_criteria}\n1 = completed"
        asked = f"Question: {question.question}\n" if question.question else ""
        text = PROMPT.format(instruction=instruction, question=asked, rubric=rubric)
        images = [encode_image(resize_frame(frame, IMAGE_SIDE), ".jpg") for frame in video]
        content: list[dict[str, Any]] = [{"type": "text", "text": text}]
        for image in images:
            url = "data:image/jpeg;base64," + base64.b64encode(image).decode()
            content.append({"type": "image_url", "image_url": {"url": url, "detail": "low"}})
        digest = hashlib.sha256(f"{self.config.model}\n{self.config.base_url}\n{text}".encode())
        for image in images:
            digest.update(hashlib.sha256(image).digest())
        return [{"role": "user", "content": content}], digest.hexdigest()

    def _vote(self, messages: list[dict[str, Any]], digest: str, vote: int) -> str | None:
        """One answer's text; None when the server gave none in spite of retries."""
        cached = self._cache / digest[:2] / f"{digest}-{vote}.json" if self._cache is not None else None
        if cached is not None and cached.exists():
            try:
                text = str(json.loads(cached.read_text(encoding="utf-8"))["answer"])
            except (OSError, ValueError, KeyError, TypeError):
                cached.unlink(missing_ok=True)
            else:
                with self.spending.lock:
                    self.spending.cached_votes += 1
                return text
        problem = ""
        with self._slots:
            answer: str | None = None
            try:
                answer = self._ask(messages)
            except JudgeError:
                raise
            except Exception as error:  # network, server and decoding failures all leave this vote empty
                problem = f"{type(error).__name__}: {error}"
        if answer is None:
            with self.spending.lock:
                self.spending.failed_votes += 1
        elif cached is not None:
            try:
                write_bytes(cached, json.dumps({"model": self.config.model, "answer": answer}).encode())
            except DataError:  # a full disk costs a later request, not this run
                cached = None
        self._keep_raw({"digest": digest, "vote": vote, "answer": answer, "problem": problem[:500]})
        return answer

    def _ask(self, messages: list[dict[str, Any]]) -> str | None:
        import openai

        passing = (
            openai.APITimeoutError,
            openai.APIConnectionError,
            openai.RateLimitError,
            openai.InternalServerError,
            openai.ConflictError,
            json.JSONDecodeError,
        )
        for attempt in stamina.retry_context(
            on=passing, attempts=ATTEMPTS, timeout=4 * self.config.timeout_s, wait_initial=0.2, wait_max=20.0
        ):
            with attempt:
                if self.spending.dollars >= self.config.max_dollars:
                    raise JudgeError(
                        f"judge: the spend limit of ${self.config.max_dollars:.2f} is reached "
                        f"({self.spending.requests} requests); raise judge.max_dollars to go on"
                    )
                with self.spending.lock:
                    self.spending.requests += 1
                response = self._client.chat.completions.create(
                    model=self.config.model,
                    messages=messages,  # type: ignore[arg-type]
                    max_tokens=MAX_ANSWER_TOKENS,
                )
                usage = getattr(response, "usage", None)
                if usage is not None:
                    self.spending.add(usage.prompt_tokens or 0, usage.completion_tokens or 0)
                choices = getattr(response, "choices", None)
                return choices[0].message.content if choices else None
        return None

    def _majority(self, answers: Sequence[str | None], question: TaskQuestion) -> Verdict:
        partial = bool(question.partial_credit_criteria)
        scores = [score for answer in answers if answer and (score := parse_score(answer, partial)) is not None]
        if not scores:
            failed = sum(answer is None for answer in answers)
            return Verdict(
                None, 0.0, f"no readable vote among {len(answers)} ({failed} requests failed, the rest gave no score)"
            )
        counts = {value: scores.count(value) for value in sorted(set(scores))}
        most = max(counts.values())
        winners = [value for value, count in counts.items() if count == most]
        said = ", ".join(f"{count} x {value:g}" for value, count in counts.items())
        if len(winners) > 1:
            return Verdict(None, 0.0, f"votes are tied: {said}")
        first = next((a for a in answers if a and parse_score(a, partial) == winners[0]), "")
        return Verdict(winners[0], most / len(answers), f"{said}; {' '.join(first.split())[:300]}")

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
