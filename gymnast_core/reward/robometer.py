"""A Robometer server as judge: for every frame how far the task has come, and how likely it is done.

    POST /evaluate_batch_npy   multipart: `sample_0` (JSON), `sample_0_trajectory_frames` (uint8 (n, H, W, 3) as .npy)
    ->  {"outputs_progress": {"progress_pred": [[p, ...]]}, "outputs_success": {"success_probs": [[s, ...]]}}

Source of the form: the authors' evaluation server and client (github.com/robometer/robometer). A server that looks at
fewer frames than it was sent answers with fewer values; each of them then counts for the frames it stands for.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from gymnast_core.config import JudgeConfig
from gymnast_core.data.frames import resize_frame
from gymnast_core.errors import DocumentError
from gymnast_core.files import is_number
from gymnast_core.plain_json import parse_json
from gymnast_core.protocols import Verdict
from gymnast_core.reward.asking import AskingJudge, Question
from gymnast_core.reward.classifier import judge_frames
from gymnast_core.reward.replies import Said, Unanswered, read_object
from gymnast_core.reward.scales import no_verdict
from gymnast_core.reward.server import Server, Taken
from gymnast_core.reward.spending import without_prices
from gymnast_core.reward.vlm import IMAGE_SIDE

THRESHOLD = 0.5
CONSECUTIVE = 2
"""Frames in a row that must be likely done: one mistaken frame is no success."""
PATH = "/evaluate_batch_npy"
TOLERANCE = 0.05
"""By which a regressed progress may leave [0, 1]; it is cut to it."""


class RobometerServer(Server):
    """Sends one video a request."""

    def ask(self, frames: np.ndarray, instruction: str, taken: Taken) -> Said:
        """What the server says to frames (n, H, W, 3), as text that `read_frames` reads. Raises: Unanswered."""
        said = self.in_time(partial(self._send, frames, instruction), taken)
        self.has_answered = True
        return said

    def _send(self, frames: np.ndarray, instruction: str, taken: Taken) -> Said:
        file = io.BytesIO()
        np.save(file, frames, allow_pickle=False)
        key = "sample_0_trajectory_frames"
        trajectory = {
            "frames": {"__numpy_file__": key},
            "frames_shape": list(frames.shape),
            "task": instruction,
            "id": "0",
            "metadata": {"subsequence_length": len(frames)},
        }
        sample = json.dumps({"sample_type": "progress", "trajectory": trajectory})
        headers = {"Accept-Encoding": "identity"}
        if self.settings.key != "none":
            headers["Authorization"] = f"Bearer {self.settings.key}"

        def opened() -> Any:
            return self.http.stream(
                "POST",
                self.address + PATH,
                data={"sample_0": sample, "use_frame_steps": "false"},
                files={key: (f"{key}.npy", file.getvalue(), "application/octet-stream")},
                headers=headers,
            )

        return self.receive(opened, partial(_read, len(frames), taken))


def _read(count: int, taken: Taken, body: bytes) -> Said:
    """The values in a reply for `count` frames. Raises: Unanswered."""
    reply = read_object(body)
    taken(0, 0)
    values: dict[str, Any] = {}
    for name, group, field in (
        ("progress", "outputs_progress", "progress_pred"),
        ("success", "outputs_success", "success_probs"),
    ):
        found = reply.get(group)
        if not isinstance(found, dict) or field not in found:
            words = f"found no {group}.{field} in the reply; needed a Robometer server with both heads"
            raise Unanswered(words, lasting=True)
        rows = found[field]
        row = rows[0] if isinstance(rows, list) and len(rows) == 1 else None
        if not isinstance(row, list) or not 1 <= len(row) <= count:
            told = f"{len(row)} values" if isinstance(row, list) else "no list of one row"
            return Said(None, f"{group}.{field}: found {told}, needed one for each of {count} frames at most")
        slack = TOLERANCE if name == "progress" else 1e-6
        if not all(is_number(value) and -slack <= value <= 1 + slack for value in row):
            return Said(None, f"{group}.{field}: found a value that is no number from 0 to 1")
        values[name] = [round(min(1.0, max(0.0, float(value))), 6) for value in row]
    return Said(json.dumps(values))


def read_frames(text: str, count: int) -> tuple[np.ndarray, np.ndarray] | None:
    """(progress, success), each (count,) float64 in [0, 1], of what `RobometerServer.ask` said; None where damaged."""
    try:
        told = parse_json(text)
        rows = [np.array(told[name], dtype=np.float64) for name in ("progress", "success")]
    except (DocumentError, LookupError, TypeError, ValueError):
        return None
    if any(row.ndim != 1 or not 1 <= len(row) <= count or not ((row >= 0) & (row <= 1)).all() for row in rows):
        return None
    progress, success = (row[np.arange(count) * len(row) // count] for row in rows)
    return progress, success


class RobometerJudge(AskingJudge):
    """Completed when two frames in a row are likely done beyond `config.threshold`; progress for every frame.

    api_key: for what stands before the server; None takes ROBOMETER_API_KEY, which may be missing. The others: see
    `AskingJudge`.

    Raises: JudgeError when the address, the key or a proxy cannot be right, and from `judge`, see `AskingJudge`.
    """

    name = "robometer"
    tells_progress = True

    def __init__(
        self,
        config: JudgeConfig,
        cache: str | os.PathLike[str] | None = None,
        raw: str | os.PathLike[str] | None = None,
        api_key: str | None = None,
    ) -> None:
        # It draws nothing by chance, and counts no tokens.
        config = dataclasses.replace(without_prices(config), votes=1, max_total_tokens=0)
        self._threshold = THRESHOLD if config.threshold is None else config.threshold
        self._server = RobometerServer(config, api_key, lambda seconds: self.pace.hold(seconds))
        super().__init__(config, f"judge: {self._server.address}", "robometer", cache, raw)

    def question(self, video: np.ndarray, instruction: str) -> Question:
        """The frames as they are sent, (n, 256, 256, 3)."""
        frames = np.stack([resize_frame(frame, IMAGE_SIDE) for frame in video])
        digest = hashlib.sha256(json.dumps([self._server.address, instruction, frames.shape]).encode())
        digest.update(frames.tobytes())
        return Question(instruction, frames, digest.hexdigest(), False, 0, len(frames))

    def say(self, question: Question, vote: int, taken: Callable[[int, int], None]) -> Said:
        """The server's answer."""
        return self._server.ask(question.content, question.instruction, taken)

    def can_read(self, question: Question, text: str) -> bool:
        """Whether an answer holds the values of every frame."""
        return read_frames(text, question.frames) is not None

    def decide(self, question: Question, votes: Sequence[Said]) -> Verdict:
        """The verdict on the frames' success, with their progress."""
        vote = votes[0]
        read = None if vote.problem or vote.text is None else read_frames(vote.text, question.frames)
        if read is None:
            return no_verdict(votes)
        progress, success = read
        verdict = judge_frames(success, CONSECUTIVE, self._threshold)
        return dataclasses.replace(verdict, progress=tuple(progress.tolist()))
