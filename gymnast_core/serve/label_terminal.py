"""Labelling in a terminal: a film strip in colours, and a line of input for each episode.

Where the input is no terminal but a file or a pipe, no pictures are drawn, and a line that is none ends the session:
the lines after it would label other episodes than were meant.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence

import numpy as np

from gymnast_core.data.formats import StoredEpisode
from gymnast_core.errors import DataError
from gymnast_core.evaluation.labelling import Labelling
from gymnast_core.progress import console, say

HELP = (
    "s N: success, done first in frame N   s: success   f: failure   u: cannot tell   x: take the label back   "
    "v [N [M]]: view frames N to M   n: next   b: back   q: quit"
)
LINE = re.compile(r"\s*(?:(s)(?:\s+(\d+))?|(f|u|x|n|b|q)|(v)(?:\s+(\d+)(?:\s+(\d+))?)?)\s*")
CELL = 24
"""Columns of a picture in the strip; as many pixels wide, and as many high in half as many lines."""
MOST_PICTURES = 64


def label_in_terminal(session: Labelling, again: bool = False) -> None:
    """Go through the episodes without a label, or all of them, until the person quits or the input ends.

    Raises: DataError where a line that is no terminal's cannot be understood.
    """
    number: int | None = 0 if again else session.after(-1)
    if sys.stdin.isatty():
        say(HELP)
    while number is not None:
        _show(session, number)
        stays = True
        while stays:
            sys.stderr.write("> " if sys.stdin.isatty() else "")
            sys.stderr.flush()
            text = sys.stdin.readline()
            if not text:
                return
            try:
                found = _act(session, number, text)
            except DataError as error:
                if not sys.stdin.isatty():
                    raise
                say(str(error), "yellow")
                continue
            if found == "q":
                return
            stays = not found
        last = number == len(session.episodes) - 1
        if found == "b":
            number = max(0, number - 1)
        elif again or found == "n":
            number = None if last else number + 1
        else:
            number = session.after(number)


def _act(session: Labelling, number: int, text: str) -> str:
    """Do what a line says; the letter by which another episode comes next, empty where none does. Raises: DataError."""
    line = LINE.fullmatch(text)
    if line is None:
        raise DataError(f"label: found {text.strip()[:40]!r}; allowed are {' '.join(HELP.split())}")
    success, step, letter, view, first, last = line.groups()
    if success or letter in ("f", "u"):
        done = True if success else False if letter == "f" else None
        told = session.set(number, done, None if step is None else int(step))
        label = session.labels[number]
        say(f"{session.episodes[number].name}: {label.words if label else ''}{told and '; ' + told}", "green")
        return "s"
    if view:
        source = session.episodes[number]
        start = 0 if first is None else source.number(int(first))
        end = source.count() - 1 if first is None else start if last is None else source.number(int(last))
        _draw(source, list(range(start, end + 1))[:MOST_PICTURES])
        return ""
    if letter == "x":
        session.clear(number)
        return ""
    return str(letter)


def _show(session: Labelling, number: int) -> None:
    """Which episode this is, and its film strip."""
    source, label = session.episodes[number], session.labels[number]
    count = source.count()
    about = source.describe().instruction
    say(f"\n{number + 1} of {len(session.episodes)}  {source.path}  '{about}', frames 0 to {count - 1}", "bold")
    if label is not None:
        say(f"labelled: {label.words}")
    if sys.stdin.isatty():
        pictures = max(2, console.width // (CELL + 1)) * 2
        _draw(source, np.unique(np.linspace(0, count - 1, min(pictures, count)).round().astype(int)).tolist())


def _draw(source: StoredEpisode, numbers: Sequence[int]) -> None:
    """Frames as rows of half blocks, two pixels each, their numbers above them; nothing where that is no terminal."""
    if not console.is_terminal:
        return
    width = max(1, console.width // (CELL + 1))
    for begin in range(0, len(numbers), width):
        part = list(numbers[begin : begin + width])
        frames = source.pick(part, CELL)
        lines = [" ".join(f"{number:<{CELL}}" for number in part)]
        for row in range(0, CELL, 2):
            lines.append(" ".join(_half_blocks(frame[row], frame[row + 1]) for frame in frames))
        sys.stderr.write("\n".join(lines) + "\n")


def _half_blocks(above: np.ndarray, below: np.ndarray) -> str:
    """Two rows of pixels (W, 3) uint8 as one line of W characters."""
    cells = [
        f"\x1b[38;2;{a[0]};{a[1]};{a[2]}m\x1b[48;2;{b[0]};{b[1]};{b[2]}m▀"
        for a, b in zip(above.tolist(), below.tolist(), strict=True)
    ]
    return "".join(cells) + "\x1b[0m"
