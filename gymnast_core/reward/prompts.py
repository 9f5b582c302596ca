"""What a vision-language model is asked: one prompt for each scale it may answer on, or a lab's own text."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from gymnast_core.errors import ConfigError
from gymnast_core.files import user_path

LONGEST = 20_000
"""Bytes of a prompt file."""
_SEEN = """\
These frames, in order, show a robot arm controlled by a policy. They come from a camera, or from a video model that \
predicts what the robot's actions would do and may leave visual artefacts; judge what happens, not picture quality. \
The last frame is how the attempt ended.

Instruction to the robot: {instruction}
{question}
"""
SUCCESS = (
    _SEEN
    + """\
Score the attempt:
{rubric}

First explain in two or three sentences what you see. Then write one last line exactly like this, with the number:
Final Score: X"""
)
FIVE = (
    _SEEN
    + """\
Grade how far the attempt had come in the last frame. How long it took does not matter.
1 = nothing of what was asked has been done
2 = a beginning, far from what was asked
3 = about half of it, or something important is wrong
4 = all but one small thing
5 = all of it

Write one line exactly like this, with the grade:
ANSWER: X"""
)
TRUE = (
    _SEEN
    + """\
Statement: in the last frame the robot has done what the instruction asks for.
Is the statement True or False? Write this one word only. The answer is:"""
)


@dataclass(frozen=True)
class TaskQuestion:
    """What is asked besides the instruction, and when half a point is given; empty: nothing."""

    question: str = ""
    partial_credit_criteria: str = ""


@dataclass(frozen=True)
class Prompt:
    """A text with the places {instruction}, {question} and {rubric}, before the frames or after them."""

    template: str
    frames_first: bool

    def text(self, instruction: str, asked: TaskQuestion) -> str:
        """The text for one attempt at `instruction`."""
        half = f"0.5 = {asked.partial_credit_criteria}\n" if asked.partial_credit_criteria else ""
        values = {
            "instruction": instruction,
            "question": f"Question: {asked.question}\n" if asked.question else "",
            "rubric": f"0 = not completed\n{half}1 = completed",
        }
        return re.sub(r"\{(instruction|question|rubric)\}", lambda place: values[place[1]], self.template)


def read_prompt(name: str, config_path: str | os.PathLike[str] | None = None) -> str:
    """A lab's own prompt: a text file that holds {instruction}, as given or beside the station file.

    Raises: ConfigError naming the file and what is wrong with it.
    """
    path = user_path(name, "judge.prompt")
    beside = Path(config_path).resolve().parent / path if config_path is not None else path
    path = path if path.is_file() else beside
    try:
        with open(path, "rb") as stream:
            content = stream.read(LONGEST + 1)
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"judge.prompt: {path}: cannot read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"judge.prompt: {path}: not UTF-8 at byte {error.start}; save it as UTF-8") from error
    if len(content) > LONGEST:
        raise ConfigError(f"judge.prompt: {path}: longer than {LONGEST} bytes")
    if "{instruction}" not in text:
        raise ConfigError(f"judge.prompt: {path}: found no {{instruction}} in it, the place of the instruction")
    return text.strip()
