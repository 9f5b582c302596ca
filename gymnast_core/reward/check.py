"""Whether a judge answers: it is asked about one real picture before anything depends on its verdicts."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from gymnast_core.protocols import Judge, OutcomeJudge
from gymnast_core.reward.asking import AskingJudge


@dataclass(frozen=True)
class JudgeAnswer:
    """What a judge said about a picture. completed: whether the first task is done there; None: it abstained.
    abstained: why, by instruction. seconds: that it took. tokens, dollars: that it cost."""

    judge: str
    completed: bool | None
    seconds: float
    tokens: int = 0
    dollars: float = 0.0
    abstained: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        said = {None: "it abstained", True: "done", False: "not done"}[self.completed]
        price = f", ${self.dollars:.4f}" if self.dollars else ""
        cost = f"{self.tokens} tokens{price}" if self.tokens else "it costs nothing"
        return f"the judge ({self.judge}) answered about a picture within {self.seconds:.1f} s: {said}; {cost}"


def check_judge(judge: Judge, picture: np.ndarray, instructions: Sequence[str]) -> JudgeAnswer | None:
    """Ask about a picture (H, W, 3) uint8; None where the judge looks at no picture (the station's truth).

    A judge that asks a model is asked once, about the first instruction, and no earlier answer is taken for it; any
    other one about each instruction.

    Raises: JudgeError, one line, when it does not answer, or says what cannot be read.
    """
    if isinstance(judge, OutcomeJudge):
        return None
    began, video = time.monotonic(), picture[None]
    if isinstance(judge, AskingJudge):
        tokens, dollars = judge.spending.tokens, judge.spending.dollars
        verdict = judge.ask_anew(video, instructions[0])
        took = time.monotonic() - began
        spent = judge.spending.tokens - tokens, judge.spending.dollars - dollars
        return JudgeAnswer(judge.name, verdict.completed, took, *spent)
    verdicts = judge.judge([video] * len(instructions), list(instructions))
    abstained = {text: one.reason for text, one in zip(instructions, verdicts) if one.score is None}
    return JudgeAnswer(judge.name, verdicts[0].completed, time.monotonic() - began, abstained=abstained)
