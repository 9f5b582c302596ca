"""A judge that asks: every video is a question, every question is asked `votes` times, and the votes make a verdict.

A vote that failed or cannot be read is an abstention, never a zero: without any readable vote the episode has no score.
Answers are cached on disk by content, every raw answer is kept, and spending has a limit.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import stamina

from gymnast_core.config import JudgeConfig
from gymnast_core.errors import DataError, JudgeError
from gymnast_core.files import remove, write_json
from gymnast_core.plain_json import parse_json
from gymnast_core.protocols import Verdict
from gymnast_core.reward.prompts import TaskQuestion
from gymnast_core.reward.replies import Said, Unanswered
from gymnast_core.reward.scales import scale_of
from gymnast_core.reward.spending import Bill, Pace, Spending
from gymnast_core.reward.turns import Turns

Job = TypeVar("Job")
Result = TypeVar("Result")
ATTEMPTS = 5
"""Of one vote, with waits that grow to half a minute in all: what a server needs to come back."""
UNSCORED = 16
"""Different videos at first without a score for any: the run ends, since none will come."""
logging.getLogger("stamina").addHandler(logging.NullHandler())  # every answer and problem is kept; the console is not


@dataclass(frozen=True)
class Question:
    """What is asked about one video. content: in the form that its judge sends. digest: of all that decides the answer.
    partial: half a point may be given. tokens: of the request, estimated. frames: how many are shown."""

    instruction: str
    content: Any
    digest: str
    partial: bool
    tokens: int
    frames: int


class AskingJudge:
    """What judges that ask have in common; each of them says how a question is put, sent, read and decided.

    who: names in messages whom it asks. model: named beside every answer that is kept. cache: folder of earlier
    answers. raw: JSON-lines file that every answer is appended to. spent: tokens (in, out) that this run has taken
    before.

    Raises: JudgeError from `judge` when a spend limit is reached, who is asked refuses what will always be refused,
    nothing has ever been answered (see `Turns`) or scored, or the raw answers cannot be kept.
    """

    name = "asking"

    def __init__(
        self,
        config: JudgeConfig,
        who: str,
        model: str,
        cache: str | os.PathLike[str] | None = None,
        raw: str | os.PathLike[str] | None = None,
        spent: tuple[int, int] = (0, 0),
    ) -> None:
        self.config = config
        self._model = model
        self._cache = Path(cache) if cache is not None else None
        self._raw = Path(raw) if raw is not None else None
        self._raw_lock = threading.Lock()
        self._slots = threading.BoundedSemaphore(config.concurrency)
        self.pace = Pace(config.requests_per_minute)
        self._who = who
        self._turns = Turns(who)
        self.spending = Spending(config, *spent, name=f"{self.name} judge")
        self._has_scored, self._unscored = False, 0

    # --- what each of them says -------------------------------------------------------------------------------------

    def question(self, video: np.ndarray, instruction: str) -> Question:
        """What is asked about a video (n, H, W, 3) uint8."""
        raise NotImplementedError

    def say(self, question: Question, vote: int, taken: Callable[[int, int], None]) -> Said:
        """One answer; taken: called with its tokens. Raises: Unanswered, JudgeError."""
        raise NotImplementedError

    def can_read(self, question: Question, text: str) -> bool:
        """Whether a whole answer holds a grade."""
        raise NotImplementedError

    def decide(self, question: Question, votes: Sequence[Said]) -> Verdict:
        """What the votes on a question come to."""
        raise NotImplementedError

    # --- what they have in common -----------------------------------------------------------------------------------

    def frame_indices(self, n_frames: int) -> list[int]:
        """Every stride-th frame from the first, and the last one."""
        indices = list(range(0, n_frames, self.config.stride))
        if indices[-1] != n_frames - 1:
            indices.append(n_frames - 1)
        return indices

    def judge(self, videos: Sequence[np.ndarray], instructions: Sequence[str]) -> list[Verdict]:
        """One verdict per video; all votes of all videos run side by side, at most `concurrency` at once.

        Videos that are alike to the bit are asked about once. Raises: JudgeError, see the class.
        """
        questions = [self.question(video, text) for video, text in zip(videos, instructions, strict=True)]
        self._turns.begin()
        alike = {question.digest: question for question in questions}
        jobs = [(question, vote) for question in alike.values() for vote in range(self.config.votes)]
        votes = _side_by_side(lambda job: self._vote(*job), jobs, self.config.concurrency)
        self._turns.end()
        by_digest: dict[str, list[Said]] = {}
        for (question, _), vote in zip(jobs, votes):
            by_digest.setdefault(question.digest, []).append(vote)
        verdicts = {one.digest: self.decide(one, by_digest[one.digest]) for one in alike.values()}
        self._take_stock(list(verdicts.values()))
        return [verdicts[question.digest] for question in questions]

    def ask_anew(self, video: np.ndarray, instruction: str) -> Verdict:
        """The verdict of one vote on a video (n, H, W, 3) uint8, asked for now whatever was answered earlier.

        Raises: JudgeError, see the class, and where the answer holds no score.
        """
        question = self.question(video, instruction)
        self._turns.begin()
        vote = self._vote(question, 0, anew=True)
        self._turns.end()
        verdict = self.decide(question, [vote])
        if verdict.score is None:
            raise JudgeError(f"{self._who}: {verdict.reason}")
        return verdict

    def _take_stock(self, verdicts: Sequence[Verdict]) -> None:
        """Raises: JudgeError when this judge has never given a score, to however many different videos."""
        self._has_scored = self._has_scored or any(one.score is not None for one in verdicts)
        self._unscored += len(verdicts)
        if not self._has_scored and self._unscored >= UNSCORED:
            raise JudgeError(
                f"judge: no score for any of the first {self._unscored} videos; the last one: {verdicts[-1].reason}"
            )

    def _vote(self, question: Question, number: int, anew: bool = False) -> Said:
        """One answer, from the cache (not `anew`) or asked for; without text when none was given despite retries."""
        cached = self._cache / question.digest[:2] / f"{question.digest}-{number}.json" if self._cache else None
        line: dict[str, Any] = {"instruction": question.instruction, "digest": question.digest, "vote": number}
        earlier = _read_cached(cached) if cached is not None and not anew else None
        if earlier is not None and self.can_read(question, earlier):
            with self.spending.lock:
                self.spending.cached_votes += 1
            self._keep_raw({**line, "answer": earlier, "problem": "", "cached": True})
            return Said(earlier)
        vote, bill = Said(None, "stopped"), Bill()
        try:
            with self._slots:
                vote = self._ask(question, number, bill)
        except JudgeError as error:
            vote = Said(None, str(error))
            raise
        finally:  # what was spent is kept also where a limit ends the run
            tokens = {"input_tokens": bill.input_tokens, "output_tokens": bill.output_tokens}
            self._keep_raw({**line, "answer": vote.text, "problem": vote.problem[:500], "cached": False, **tokens})
        if vote.text is None:
            with self.spending.lock:
                self.spending.failed_votes += 1
        elif cached is not None and not vote.problem and self.can_read(question, vote.text):
            # An answer without a score is asked for again another time; a full disk costs a later request alone.
            with contextlib.suppress(DataError):
                write_json(cached, {"model": self._model, "answer": vote.text}, indent=None)
        return vote

    def _ask(self, question: Question, number: int, bill: Bill) -> Said:
        """Raises: JudgeError for what would go wrong for ever; any other failure is an empty vote."""
        with self._turns.turn(question.digest) as refused:
            if refused:
                return Said(None, refused)
            try:
                for attempt in stamina.retry_context(
                    on=lambda error: isinstance(error, Unanswered) and error.passing,
                    attempts=ATTEMPTS,
                    timeout=4 * self.config.timeout_s,
                    wait_initial=0.5,
                    wait_exp_base=3,
                    wait_max=30.0,
                ):
                    with attempt:
                        self.pace.wait()
                        with self.spending.request(question.tokens, bill) as taken:
                            said = self.say(question, number, taken)
            except Unanswered as failure:
                return Said(None, self._turns.failed(question.digest, failure))
            self._turns.answered()
            return said

    def _keep_raw(self, line: dict[str, Any]) -> None:
        if self._raw is None:
            return
        with self._raw_lock:
            try:
                self._raw.parent.mkdir(parents=True, exist_ok=True)
                with open(self._raw, "a", encoding="utf-8") as stream:
                    stream.write(json.dumps({"model": self._model, **line}) + "\n")
            except OSError as error:
                raise JudgeError(f"{self._raw}: cannot keep the judge's answers: {error.strerror or error}") from error


class ScaledJudge(AskingJudge):
    """An asking judge whose answers stand on one of the scales.

    questions: by instruction, what is asked besides. template: a prompt of the lab's own. The others: as for
    `AskingJudge`.
    """

    def __init__(
        self,
        config: JudgeConfig,
        who: str,
        model: str,
        questions: Mapping[str, TaskQuestion] | None,
        template: str,
        cache: str | os.PathLike[str] | None = None,
        raw: str | os.PathLike[str] | None = None,
        spent: tuple[int, int] = (0, 0),
    ) -> None:
        super().__init__(config, who, model, cache, raw, spent)
        self._questions = dict(questions or {})
        self.scale = scale_of(config, template)
        self.tells_progress = self.scale.tells_progress

    def put(self, instruction: str) -> tuple[str, bool]:
        """The text that is asked about an attempt, and whether half a point may be given."""
        asked = self._questions.get(instruction, TaskQuestion())
        return self.scale.prompt.text(instruction, asked), bool(asked.partial_credit_criteria)

    def can_read(self, question: Question, text: str) -> bool:
        """Whether a whole answer holds a grade."""
        return self.scale.grade(text, question.partial) is not None

    def decide(self, question: Question, votes: Sequence[Said]) -> Verdict:
        """The verdict on the judge's scale."""
        return self.scale.verdict(votes, question.partial)


def _read_cached(path: Path) -> str | None:
    """An earlier answer; a damaged file goes away."""
    if not path.exists():
        return None
    try:
        return str(parse_json(path.read_text(encoding="utf-8"))["answer"])
    except (OSError, ValueError, KeyError, TypeError):
        remove(path)
        return None


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
