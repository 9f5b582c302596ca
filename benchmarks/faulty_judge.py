"""GRPO through a judge's server that fails in 30 of 100 requests, beside the same run through a sound one.

    python -m benchmarks.faulty_judge                    the shipped mini models; resumes when started again
    python -m benchmarks.faulty_judge --updates 2 --groups 2 --horizon 10 --run /tmp/try     a quick look

The real trainer practises in the mini world model from frames of the simulated station. Its judge is the real
vision-language-model judge, over HTTP, at a server of this script's own, which answers by what the shipped learned
judge says about the very pictures it was sent. The faulty server answers some requests with status 429 or 500, with a
page that is no answer, with an answer cut short before its score, or with silence. Every verdict is compared with what
the sound server would have said: a fault may make the judge abstain, never say "failed".

Writes Markdown (table.md) and a picture (curves.png) into the run folder.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import math
import random
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import cv2
import numpy as np
import tyro
from pydantic import Field

from benchmarks.openai_server import Answer, Server, chat_answer
from gymnast_core.config import Fraction, JudgeConfig, Seed, find_model
from gymnast_core.data.frames import encode_image, resize_frame
from gymnast_core.files import read_json_lines
from gymnast_core.progress import console, interrupts, progress_bar
from gymnast_core.protocols import Start, Verdict
from gymnast_core.reward.classifier import ClassifierJudge, load_classifier
from gymnast_core.reward.vlm import IMAGE_SIDE, VLMJudge
from gymnast_core.rl.config import load_recipe
from gymnast_core.rl.trainable import open_trainable_policy, prepare_training
from gymnast_core.rl.trainer import GRPOTrainer
from gymnast_core.rollout.open import open_imagination
from gymnast_core.rollout.starts import station_starts
from gymnast_core.run_folder import RunFolder
from gymnast_core.simulation.environment import StationEnvironment
from gymnast_core.station_file import open_station

FAULTS = ("429", "500", "garbage", "half", "silence")
KINDS = ("sound", "faulty")


@dataclass(frozen=True)
class Options:
    """What to run."""

    run: str = "runs/faulty_judge"
    updates: Annotated[int, Field(ge=1)] = 12
    groups: Annotated[int, Field(ge=1)] = 4
    horizon: Annotated[int, Field(ge=1)] = 30
    votes: Annotated[int, Field(ge=1)] = 1
    """One vote: every fault that outlives the retries is an abstention."""
    faults: Fraction = 0.3
    """Share of requests the faulty server does not answer soundly."""
    timeout: float = 3.0
    """Seconds the judge waits for an answer."""
    task: Literal["open_drawer", "close_drawer"] = "open_drawer"
    seed: Seed = 0


class JudgingServer(Server):
    """Answers by a learned judge on the pictures sent; fails in a share of requests, decided by seed and content."""

    def __init__(self, judge: ClassifierJudge, instruction: str, faults: float, seed: int) -> None:
        super().__init__(self.answer)
        self.judge, self.instruction, self.faults, self.seed = judge, instruction, faults, seed
        self.told: Counter[str] = Counter()
        self._asked: Counter[str] = Counter()
        self._scores: dict[str, float] = {}
        self._judging = threading.Lock()

    def answer(self, number: int, request: dict[str, Any]) -> Answer:
        parts_ = request["messages"][0]["content"]
        images = [base64.b64decode(p["image_url"]["url"].split(",")[1]) for p in parts_ if p["type"] == "image_url"]
        text = f"The drawer is looked at closely.\nFinal Score: {self.score(images):g}"
        digest = _digest(images)
        with self.lock:
            self._asked[digest] += 1
            draw = random.Random(f"{self.seed}/{digest}/{self._asked[digest]}")
            fault = draw.choice(FAULTS) if draw.random() < self.faults else "answered"
            self.told[fault] += 1
        answers: dict[str, Answer] = {
            "429": (429, '{"error": {"message": "slow down"}}'),
            "500": (500, "boom"),
            "garbage": (200, "<html>moved</html>"),
            "half": (200, chat_answer(text.partition("Final")[0])),
            "silence": None,
        }
        return answers.get(fault, text)

    def score(self, images: Sequence[bytes]) -> float:
        """What the sound server says about encoded frames."""
        digest = _digest(images)
        with self._judging:
            if digest not in self._scores:
                decoded = [cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR) for image in images]
                video = np.stack([cv2.cvtColor(image, cv2.COLOR_BGR2RGB) for image in decoded])
                (verdict,) = self.judge.judge([video], [self.instruction])
                self._scores[digest] = float(verdict.score or 0.0)
            return self._scores[digest]


class CheckedJudge:
    """A judge whose verdicts are written down beside what the sound server says about the same frames."""

    def __init__(self, judge: VLMJudge, server: JudgingServer, path: Path) -> None:
        self.inner, self.server, self.path = judge, server, path
        self.name = judge.name

    def frame_indices(self, n_frames: int) -> list[int]:
        return self.inner.frame_indices(n_frames)

    def judge(self, videos: Sequence[np.ndarray], instructions: Sequence[str]) -> list[Verdict]:
        verdicts = self.inner.judge(videos, instructions)
        with open(self.path, "a", encoding="utf-8") as stream:
            for video, verdict in zip(videos, verdicts):
                images = [encode_image(resize_frame(frame, IMAGE_SIDE), ".jpg") for frame in video]
                stream.write(json.dumps({"said": verdict.score, "sound": self.server.score(images)}) + "\n")
        return verdicts


def practise(options: Options, kind: str) -> None:
    """One run, or what is left of it."""
    opened = open_station("simulated_drawer")
    station = opened.config
    run = RunFolder(Path(options.run) / kind, options, tensorboard=False)
    recipe = load_recipe(
        "mini", groups=options.groups, min_groups=1, horizon=options.horizon, seed=options.seed, warn_after=3
    )
    policy = open_trainable_policy(opened, recipe)
    prepare_training(policy, recipe)
    starts = station_starts(station, [options.task], options.groups, options.seed)
    frames = StationEnvironment(station, len(starts)).reset(starts)
    begun = [Start(start.instruction, frame) for start, frame in zip(starts, frames)]
    server = JudgingServer(
        load_classifier(find_model(station.judge.checkpoint, opened.path), "cpu"),
        starts[0].instruction,
        options.faults if kind == "faulty" else 0.0,
        options.seed,
    )
    config = JudgeConfig("vlm", base_url=server.url, votes=options.votes, timeout_s=options.timeout)
    vlm = VLMJudge(dataclasses.replace(config, max_dollars=1e6), raw=run.path / "judge_answers.jsonl")
    judge = CheckedJudge(vlm, server, run.path / "verdicts.jsonl")
    trainer = GRPOTrainer(policy, policy.model, open_imagination(opened), judge, begun, recipe, run)
    with progress_bar() as bar:
        task = bar.add_task(kind, total=options.updates, completed=trainer.update, note="")
        while trainer.update < options.updates:
            metrics = trainer.step()
            with open(run.path / "requests.jsonl", "a", encoding="utf-8") as stream:
                stream.write(json.dumps(server.told) + "\n")
            server.told.clear()
            bar.update(
                task, advance=1, note=f"reward {metrics['mean_reward']:.2f}, {metrics['abstentions']:.0f} abstained"
            )
    server.close()
    run.close()


def report(options: Options) -> str:
    """Table and picture of both runs."""
    folder = Path(options.run)
    curves = {kind: RunFolder(folder / kind, tensorboard=False).read_metrics()[: options.updates] for kind in KINDS}
    told: Counter[str] = Counter()
    for line in read_json_lines(folder / "faulty" / "requests.jsonl"):
        told.update(line)
    verdicts = {kind: read_json_lines(folder / kind / "verdicts.jsonl") for kind in KINDS}
    wrong = sum(v["said"] is not None and v["said"] != v["sound"] for kind in KINDS for v in verdicts[kind])
    lost = sum(v["said"] is None for v in verdicts["faulty"])
    n = len(verdicts["sound"]) / options.updates
    lines = [
        f"{options.groups} groups of 8, horizon {options.horizon}, {options.updates} updates, votes a rollout: "
        f"{options.votes}, seed {options.seed}. Requests to the faulty server: {sum(told.values())} ("
        + ", ".join(f"{name}: {told[name]}" for name in (*FAULTS, "answered"))
        + ").\n",
        "| update | sound: mean reward | faulty: mean reward | abstentions |",
        "|---|---|---|---|",
    ]
    rewards = {kind: np.array([line["mean_reward"] for line in curves[kind]], dtype=float) for kind in KINDS}
    for number in range(options.updates):
        a, b = (rewards[kind][number] for kind in KINDS)
        lines.append(f"| {number + 1} | {a:.2f} | {b:.2f} | {curves['faulty'][number]['abstentions']:.0f} |")
    error = math.sqrt(sum(float((r * (1 - r)).sum()) / n for r in rewards.values())) / options.updates
    means = {kind: float(rewards[kind].mean()) for kind in KINDS}
    lines += [
        f"| **mean** | **{means['sound']:.3f}** | **{means['faulty']:.3f}** | "
        f"**{lost} of {len(verdicts['faulty'])}** |",
        f"\nDifference {means['faulty'] - means['sound']:+.3f}, standard error {error:.3f}. Rollouts "
        f"that a fault turned into a failure or a success: {wrong}.",
    ]
    _draw(folder / "curves.png", rewards, n)
    text = "\n".join(lines) + "\n"
    (folder / "table.md").write_text(text, encoding="utf-8")
    return text


def _draw(path: Path, rewards: dict[str, np.ndarray], n: float) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3), dpi=120)
    colours = {"sound": "#2a6fdb", "faulty": "#d9622b"}
    names = {"sound": "sound server", "faulty": "30 % of requests fail"}
    for kind, values in rewards.items():
        steps = np.arange(1, len(values) + 1)
        error = np.sqrt(np.maximum(values * (1 - values), 0) / n)
        axes.plot(steps, values, color=colours[kind], label=names[kind], marker="o", markersize=3)
        axes.fill_between(steps, values - error, values + error, color=colours[kind], alpha=0.15, linewidth=0)
    axes.set(xlabel="update", ylabel="mean reward", ylim=(0, 1))
    axes.legend(frameon=False, loc="lower right")
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)


def _digest(images: Sequence[bytes]) -> str:
    digest = hashlib.sha256()
    for image in images:
        digest.update(hashlib.sha256(image).digest())
    return digest.hexdigest()


def main() -> int:
    options = tyro.cli(Options)
    try:
        with interrupts():
            for kind in KINDS:
                practise(options, kind)
    except KeyboardInterrupt:
        console.print("interrupted; the same command goes on")
        return 130
    print(report(options))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
