"""What models are asked for when frames are augmented, and how their answers are read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gymnast_core.contents import one_line
from gymnast_core.errors import DataError, DocumentError
from gymnast_core.plain_json import parse_json
from gymnast_core.policy.prompt import normalise_instruction
from gymnast_core.reward.edits import ImageEditor
from gymnast_core.reward.factory import CACHE, spent_before
from gymnast_core.reward.talk import PictureTalk
from gymnast_core.rollout.starts import check_instruction
from gymnast_core.workflows.augment_config import AskedServer

EDITS, JUDGED = "editor_answers", "judge_answers"
"""Files of raw answers, in the folder of the new starts."""
EDIT = """\
Edit this photograph of a robot's workspace. Put small everyday objects onto the bare table, where the mask allows it; \
their number is {count}. None of them may have anything to do with this task of the robot: "{instruction}". Do not \
add anything that this sentence names, nor anything that looks like it.

The new objects stand or lie on the table, as things of 3 to 10 centimetres do; the gripper's fingers are about 5 \
centimetres long. They have the light, the shadows, the sharpness and the perspective of the photograph. They stand \
apart from each other, from the robot and from the objects of its task, and not between these.

Everything else stays exactly as it is: the robot arm, its gripper and its pose, the objects of the task and their \
places, the table, the background, the camera's view, the light and the colours. No hands, no people, no text."""
CHECK = """\
The first picture shows a robot's workspace. The second one is the same picture after objects were added to the table. \
The robot's task is: "{instruction}".

Compare them. Write exactly three lines, each with yes or no, then one line with your reason:
ROBOT AND TASK OBJECTS UNCHANGED: yes or no (the arm, its gripper, and all that the task is about look the same)
TASK POSSIBLE: yes or no (nothing that was added is in the way, covers what is needed, or could be mistaken for it)
OBJECT ADDED: yes or no (something is there that was not there before, and it looks like a thing on a table)
REASON: ..."""
PAPER = (
    "move pot with grapes into the drying rack",
    "pick up the pot from the drying rack and place it outside the sink on the counter",
    "put plate on drying rack",
    "put yellow corn in red cup",
)
"""World-Gymnast's new instructions, as examples."""
PROPOSE = """\
The picture shows the workspace of a robot with one arm and a two-finger gripper. So far its instruction here is: \
"{instruction}". Propose {count} other instructions that it could follow from exactly this picture.

Each names things that can be seen and that a gripper can move, asks for one thing that one arm can do within ten \
seconds, is not yet done, and can be checked by looking at a picture afterwards. No two mean the same, and none means \
the same as the one above. Use few plain words and no full stop, as in these examples of other scenes:
{examples}

Answer with a JSON list of strings and nothing else."""
FEASIBLE = """\
The picture shows the workspace of a robot with one arm and a two-finger gripper. Somebody wants to instruct it: \
"{instruction}".

Write exactly three lines, each with yes or no, then one line with your reason:
ALL OBJECTS VISIBLE: yes or no (everything that the instruction names can be seen)
POSSIBLE: yes or no (one arm can do it from here within ten seconds)
NOT YET DONE: yes or no (what it asks for is not already so)
REASON: ..."""
CHECKED = ("ROBOT AND TASK OBJECTS UNCHANGED", "TASK POSSIBLE", "OBJECT ADDED")
FEASIBLE_LINES = ("ALL OBJECTS VISIBLE", "POSSIBLE", "NOT YET DONE")


@dataclass(frozen=True)
class Check:
    """A model's word on one frame. passed: None where its answer cannot be read. reason: its words."""

    passed: bool | None
    reason: str


def read_check(text: str, names: Sequence[str]) -> Check:
    """What an answer of lines "NAME: yes or no" comes to: all must be yes. A line that is missing leaves it unread."""
    answers: dict[str, bool] = {}
    for name in names:
        found = re.findall(rf"^\W*{name}\W*(yes|no)\b", text, re.IGNORECASE | re.MULTILINE)
        if len({word.lower() for word in found}) != 1:
            return Check(None, f"no readable answer to '{name.lower()}': {one_line(text, 160)}")
        answers[name] = found[0].lower() == "yes"
    told = re.search(r"^\W*REASON\W*(.+)$", text, re.IGNORECASE | re.MULTILINE)
    reason = one_line(told.group(1), 300) if told else ""
    refused = [name.lower() for name, yes in answers.items() if not yes]
    return Check(not refused, "; ".join(filter(None, (", ".join(f"{name}: no" for name in refused), reason))))


def read_proposals(text: str) -> list[str] | None:
    """The instructions in a JSON list, also one in a fence or behind thoughts; None where there is no list of text."""
    start, end = text.rfind("["), text.rfind("]")
    if not 0 <= start < end:
        return None
    try:
        found = parse_json(text[start : end + 1])
    except (DocumentError, ValueError, RecursionError):
        return None
    return found if isinstance(found, list) and all(isinstance(one, str) for one in found) else None


def usable_instructions(proposed: Sequence[str], known: Sequence[str]) -> list[str]:
    """Those that a policy can be given, without outer blanks and full stop, and that differ from each other and from
    those known. What is no instruction is left out."""
    seen = {normalise_instruction(text) for text in known}
    found: list[str] = []
    for text in proposed:
        try:
            plain = check_instruction(text.strip().rstrip("."))
            same = normalise_instruction(plain)
        except DataError:
            continue
        if same not in seen:
            seen.add(same)
            found.append(plain)
    return found


def open_editor(server: AskedServer, folder: Path) -> ImageEditor:
    """The image-editing model, with what it has cost this folder. Raises: JudgeError."""
    raw = str(folder / f"{EDITS}.jsonl")
    return ImageEditor(server.section(), str(CACHE), raw, spent=spent_before(folder, EDITS, 1))


def open_talk(server: AskedServer, folder: Path) -> PictureTalk:
    """The vision-language model, with what it has cost this folder. Raises: JudgeError."""
    raw = str(folder / f"{JUDGED}.jsonl")
    return PictureTalk(server.section(), str(CACHE), raw, spent=spent_before(folder, JUDGED, 1))


def ask_checks(
    talk: PictureTalk, asked: Sequence[tuple[Sequence[np.ndarray], str, str]], names: Sequence[str], attempt: int
) -> list[Check]:
    """A check of each (frames, text, instruction). names: of the lines that an answer must hold. attempt: an earlier
    one's answers do not count. Raises: JudgeError."""

    def readable(text: str) -> bool:
        return read_check(text, names).passed is not None

    questions = [talk.question(frames, text, instruction, readable) for frames, text, instruction in asked]
    return [
        Check(None, said.problem or "no answer") if said.text is None else read_check(said.text, names)
        for said in talk.answers([(question, attempt) for question in questions])
    ]
