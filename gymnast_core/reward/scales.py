"""The scales on which a vision-language model may answer, and how its votes become one verdict.

    0-1          done or not (half a point with partial credit); the majority decides, or the share in `threshold`
    1-5          RoboReward's grades (arXiv 2601.00675); their mean is held against `threshold`
    log_p_true   log P("True") of the answer's first token (TOPReward, arXiv 2602.19313), held against `threshold`

A vote that cannot be read is never a low grade: it is left out, and without any readable vote there is no verdict.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Protocol

from gymnast_core.config import JudgeConfig
from gymnast_core.errors import DocumentError
from gymnast_core.files import is_number
from gymnast_core.plain_json import parse_json
from gymnast_core.protocols import Verdict
from gymnast_core.reward.prompts import FIVE, SUCCESS, TRUE, Prompt
from gymnast_core.reward.replies import Said
from gymnast_core.reward.scores import ONE_TO_FIVE, WITH_HALF, ZERO_OR_ONE, parse_score

FIVE_THRESHOLD = 4.5
"""The mean grade rounds to 5, which is the one that RoboReward's authors count as success."""
TRUE_THRESHOLD = math.log(0.5)
"""True is more likely than all other answers together."""
LEAST = -30.0
"""Nats; a smaller log-probability is written as this one."""
ANSWERED = 0.5
"""The probability that True and False must have together: with less, the model answers something else."""


class Scale(Protocol):
    """What is asked, how one answer is read, and what the votes of one video come to.

    tells_progress: its verdicts say how far the task has come, not only whether it is done.
    """

    prompt: Prompt
    tells_progress: bool

    def grade(self, text: str, partial: bool) -> float | None:
        """The grade in one answer; None where it holds none. partial: half a point may be given."""
        ...

    def verdict(self, votes: Sequence[Said], partial: bool) -> Verdict:
        """One verdict of all votes; an abstention where none can be read."""
        ...


def scale_of(config: JudgeConfig, template: str = "") -> Scale:
    """The scale that a judge's section asks for; template: a prompt of the lab's own instead of the shipped one."""
    if config.scale == "1-5":
        return FiveScale(config.threshold, template)
    if config.scale == "log_p_true":
        return TrueScale(config.threshold, template)
    return SuccessScale(config.threshold, template)


class SuccessScale:
    """0 or 1, and with partial credit 0.5. threshold: share of the votes that a score needs; None: the majority."""

    tells_progress = False

    def __init__(self, threshold: float | None, template: str = "") -> None:
        self.prompt = Prompt(template or SUCCESS, frames_first=False)
        self._threshold = threshold

    def grade(self, text: str, partial: bool) -> float | None:
        return parse_score(text, WITH_HALF if partial else ZERO_OR_ONE)

    def verdict(self, votes: Sequence[Said], partial: bool) -> Verdict:
        read = _read(self, votes, partial)
        if not read:
            return no_verdict(votes)
        scores = [score for score, _ in read]
        counts = {value: scores.count(value) for value in sorted(set(scores))}
        said = ", ".join(f"{count} x {value:g}" for value, count in counts.items())
        share = counts.get(1.0, 0) / len(scores)
        if self._threshold is not None:
            return self._by_share(read, len(votes), said, share)
        most = max(counts.values())
        winners = [value for value, count in counts.items() if count == most]
        if len(winners) > 1:
            return Verdict(None, 0.0, f"votes are tied: {said}")
        first = next(text for score, text in read if score == winners[0])
        return Verdict(winners[0], most / len(votes), f"{said}; {_brief(first)}", grade=share)

    def _by_share(self, read: Sequence[tuple[float, str]], n_votes: int, said: str, share: float) -> Verdict:
        threshold = self._threshold or 0.0
        marks = sorted({score for score, _ in read}, reverse=True)
        reached = (mark for mark in marks if sum(score >= mark for score, _ in read) / len(read) >= threshold)
        score = next(reached, 0.0)
        agree = sum((one >= 1.0) == (score >= 1.0) for one, _ in read)
        words = f"{said} (threshold {threshold:g} of the votes); {_brief(read[0][1])}"
        return Verdict(score, agree / n_votes, words, grade=share)


class FiveScale:
    """Grades 1 to 5, of which the mean counts. threshold: the mean grade from which the task counts as completed."""

    tells_progress = True

    def __init__(self, threshold: float | None, template: str = "") -> None:
        self.prompt = Prompt(template or FIVE, frames_first=True)
        self._threshold = FIVE_THRESHOLD if threshold is None else threshold

    def grade(self, text: str, partial: bool) -> float | None:
        return parse_score(text, ONE_TO_FIVE)

    def verdict(self, votes: Sequence[Said], partial: bool) -> Verdict:
        read = _read(self, votes, partial)
        if not read:
            return no_verdict(votes)
        grades = [grade for grade, _ in read]
        mean = sum(grades) / len(grades)
        done = mean >= self._threshold
        agree = sum((grade >= self._threshold) == done for grade in grades)
        said = ", ".join(f"{grades.count(value)} x {value:g}" for value in sorted(set(grades)))
        words = f"grade {mean:.2f} of 5 (threshold {self._threshold:g}): {said}; {_brief(read[0][1])}"
        return Verdict(float(done), agree / len(votes), words, grade=mean, progress=((mean - 1.0) / 4.0,))


class TrueScale:
    """log P("True") in nats, at most 0. threshold: from which the task counts as completed."""

    tells_progress = True

    def __init__(self, threshold: float | None, template: str = "") -> None:
        self.prompt = Prompt(template or TRUE, frames_first=True)
        self._threshold = TRUE_THRESHOLD if threshold is None else threshold

    def grade(self, text: str, partial: bool) -> float | None:
        try:
            value = parse_json(text)["log_p_true"]
        except (DocumentError, LookupError, TypeError):
            return None
        return float(value) if is_number(value) and value <= 0.0 else None

    def verdict(self, votes: Sequence[Said], partial: bool) -> Verdict:
        read = _read(self, votes, partial)
        if not read:
            return no_verdict(votes)
        grade = sum(value for value, _ in read) / len(read)
        done, likely = grade >= self._threshold, math.exp(grade)
        words = f"log P(True) = {grade:.3f} (threshold {self._threshold:.3g})"
        return Verdict(float(done), likely if done else 1.0 - likely, words, grade=grade, progress=(likely,))


def weigh_true(true: float, false: float, first: str, unseen: float = -math.inf) -> Said:
    """What an answer's first token says to True or False, as text that `TrueScale` reads.

    true, false: log-probabilities of the two in nats, -inf where they are not known. first: the likeliest token.
    unseen: log-probability that a token can have at most which is not known.
    """
    if math.exp(true) + math.exp(false) < ANSWERED:
        return Said(first[:40], f"the answer begins with {first[:40]!r}, not with True or False")
    known = unseen if true == -math.inf else true
    told = {"log_p_true": known, "log_p_false": unseen if false == -math.inf else false}
    return Said(json.dumps({name: round(min(0.0, max(LEAST, value)), 6) for name, value in told.items()}))


def weigh_tokens(tokens: Sequence[tuple[str, float]]) -> Said:
    """The same for the likeliest first tokens with their log-probabilities in nats, likeliest first."""
    weights = {"true": 0.0, "false": 0.0}
    for token, value in tokens:
        if (word := token.strip().lower()) in weights:
            weights[word] += math.exp(value)
    rest = 1.0 - sum(math.exp(value) for _, value in tokens)
    unseen = min(tokens[-1][1], math.log(max(rest, math.exp(LEAST))))
    true, false = (math.log(weight) if weight else -math.inf for weight in weights.values())
    return weigh_true(true, false, tokens[0][0], unseen)


def no_verdict(votes: Sequence[Said]) -> Verdict:
    """The abstention on a video of which no vote can be read."""
    failed = [vote for vote in votes if vote.text is None]
    shown = (failed or votes)[0]
    return Verdict(
        None,
        0.0,
        f"no readable vote among {len(votes)} ({len(failed)} requests failed, the rest gave no score): "
        f"{' '.join((shown.problem or shown.text or '').split())[:200]}",
    )


def grade_of(scale: Scale, vote: Said, partial: bool) -> float | None:
    """The grade of one vote; None where it came to nothing or was cut."""
    return None if vote.problem or vote.text is None else scale.grade(vote.text, partial)


def _read(scale: Scale, votes: Sequence[Said], partial: bool) -> list[tuple[float, str]]:
    return [(grade, vote.text or "") for vote in votes if (grade := grade_of(scale, vote, partial)) is not None]


def _brief(text: str) -> str:
    return " ".join(text.split())[:300]
