"""The demo's page tells the story in order: base, practice in imagination, the robot's last word, other tasks, cost."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gymnast_core.config import StationConfig, parse_config
from gymnast_core.data.episode import read_episode
from gymnast_core.data.outcome import FAILURE, OUTCOMES, SUCCESS
from gymnast_core.estimates import success_rate
from gymnast_core.evaluation.canary import CanaryResult
from gymnast_core.files import finite_or_none, user_path
from gymnast_core.plain_json import parse_json
from gymnast_core.policy.adapter_state import read_evidence
from gymnast_core.reporting.media import film_strip, sheet, write_picture
from gymnast_core.reporting.report import Bar, BarTone, Figure, Section, metric_curve, write_report
from gymnast_core.robot.strain import ArmStrain

CURVES = {
    "mean_reward": "mean reward (sampled)",
    "validation_success": "success acting as on the arm",
    "usable_groups": "usable groups",
}


@dataclass(frozen=True)
class Trials:
    """What became of one set of trials.

    result: of the action evaluator/run_trials. lines: of its trials.jsonl.
    """

    title: str
    policy: str
    result: Any
    lines: tuple[dict[str, Any], ...]

    @property
    def outcomes(self) -> list[float]:
        """1, 0, or NaN where nobody could tell; one per trial."""
        return [_truth(line) for line in self.lines]

    @property
    def strain(self) -> ArmStrain:
        """What they cost the arm."""
        result, load = self.result, finite_or_none(self.result.peak_load)
        return ArmStrain(int(result.holds), int(result.refused), int(result.clipped), load)


@dataclass(frozen=True)
class DemoPage:
    """What the page shows. practice: result of the action evaluator/practise; canary: None where there was none."""

    folder: Path
    station: StationConfig
    instruction: str
    before: Trials
    practice: Any
    canary: CanaryResult | None

    def write(self, minutes: float) -> Path:
        """Write report.html into the demo's folder; returns its path. minutes: what the whole demo took."""
        sections = [
            self._summary(minutes),
            self._trials(self.before),
            self._start_frames(),
            self._practice(),
            *self._last_word(),
            Section("Where everything lies", rows=(("what", "where"), *self.places())),
        ]
        return write_report(self.folder, f"Demo: {self.instruction}", sections, f"station {self.station.name}")

    def places(self) -> list[tuple[str, str]]:
        """What lies where."""
        rows = [
            ("this report", str(self.folder / "report.html")),
            ("trials of the base policy", self.before.result.run_folder),
            ("practice (config, metrics, media, its own report)", self.practice.run_folder),
            ("episode after practising", self.practice.episode_path),
            ("its log (rosbag2, MCAP)", str(Path(self.practice.episode_path) / "log")),
            ("output of the nodes", str(self.folder / "graph.log")),
        ]
        if self.canary is not None:
            rows.insert(2, ("canary trials", self.canary.run_folder))
        if self.practice.adapter_id:
            rows.insert(2, ("adapter", str(adapter_folder(self.station, self.practice.adapter_id))))
        return rows

    @property
    def last_word(self) -> str:
        """What became of the adapter, in words."""
        if not self.practice.accepted:
            return "the gate kept the base policy"
        return self.canary.reason if self.canary is not None else "nobody: no canary trials were asked for"

    @property
    def _adaptation(self) -> Path:
        return Path(self.practice.run_folder)

    def _summary(self, minutes: float) -> Section:
        practice = self.practice
        difference = practice.success_after - practice.success_before
        facts = [
            ("instruction", self.instruction),
            ("gate", "adapter accepted" if practice.accepted else "base policy kept"),
            ("the last word", self.last_word),
        ]
        if math.isfinite(difference):
            facts.append(("imagined difference", f"{difference:+.2f} ± {practice.standard_error:.2f}"))
        facts.append(("cost to the arm before practice", self.before.strain.per_trial(len(self.before.lines))))
        spent = len(self.before.lines) + (self.canary.trials if self.canary is not None else 0)
        facts.append(("spent", f"{spent} trials of the robot, {minutes:.1f} minutes in all"))
        tone: Literal["good", "warning"] = "good" if practice.adapter_state == "confirmed" else "warning"
        return Section("What practice came to", practice.message, tone, tuple(facts), tuple(self._bars()))

    def _bars(self) -> list[Bar]:
        practice, before = self.practice, self.before.result
        rate, error = finite_or_none(before.success_rate), finite_or_none(before.standard_error)
        bars = [
            Bar("station, base policy before", rate, error, len(self.before.lines), "muted"),
            _imagined_bar("imagined, base policy", practice.success_before, self._adaptation, "muted"),
            _imagined_bar("imagined, adapted", practice.success_after, self._adaptation, "plain"),
        ]
        if self.canary is not None:
            n = self.canary.pairs
            bars.append(_counted_bar("canary trials, base policy", self.canary.base_successes, n, "muted"))
            tone: BarTone = "plain" if self.canary.state == "rolled back" else "good"
            bars.append(_counted_bar("canary trials, adapted", self.canary.adapter_successes, n, tone))
        return bars

    def _start_frames(self) -> Section:
        """The frames that practice began at, and those of the other tasks."""
        others = sorted((self._adaptation / "rehearsal").glob("*.png"))
        frames = [Path(self.practice.frame_path), *sorted(self._adaptation.glob("start_*.png"))]
        figures = [Figure(str(path), f"start frame {number}", small=True) for number, path in enumerate(frames, 1)]
        figures += [Figure(str(path), "start frame of another task", small=True) for path in others]
        text = f"The policy practised from {len(frames)} {'frames' if len(frames) > 1 else 'frame'} of the camera"
        text += ", and rehearsed the other tasks." if others else "."
        return Section("Where practice began", text, figures=tuple(figures))

    def _last_word(self) -> list[Section]:
        """What the canary trials found, where there were any."""
        found = self.canary
        if found is None:
            return []
        tone: Literal["good", "bad", "warning"] = "warning"
        tone = "good" if found.state == "confirmed" else "bad" if found.state == "rolled back" else tone
        rows = (
            ("", "base policy", "adapted policy"),
            (f"success in {found.pairs} pairs of trials", str(found.base_successes), str(found.adapter_successes)),
            ("cost to the arm", found.base_arm.per_trial(found.pairs), found.adapter_arm.per_trial(found.pairs)),
            *((f"change of success at '{task}'", "", f"{change:+.2f}") for task, change in found.others.items()),
        )
        return [Section("The robot has the last word", found.reason, tone, rows=rows)]

    def _practice(self) -> Section:
        media = self._adaptation / "media"
        imagined = [
            Figure(str(media / f"imagined_{name}.png"), f"imagined rollouts {name} practising")
            for name in ("before", "after")
            if (media / f"imagined_{name}.png").is_file()
        ]
        curve = metric_curve(self._adaptation, CURVES, "Reward", y_range=(0, 1))
        return Section("Practice in imagination", curves=(curve,), figures=tuple(imagined))

    def _trials(self, trials: Trials) -> Section:
        strips = []
        for line in trials.lines[:6]:
            episode = read_episode(line["episode_path"])
            title = f"seed {line['seed']}, {line['steps']} steps: {OUTCOMES[line['outcome']]}"
            strips.append((title, film_strip(episode.frames, 8, 112, _truth(line))))
        name = f"media/{trials.policy[:60]}_trials.png"
        write_picture(self.folder / name, sheet(strips))
        rows = [("seed", "outcome", "judge", "steps", "arm", "seconds", "episode")]
        rows += [
            (
                str(line["seed"]),
                OUTCOMES[line["outcome"]],
                "-" if line["judge_score"] is None else f"{line['judge_score']:.0f}",
                str(line["steps"]),
                str(ArmStrain(**line["strain"])),
                f"{line['seconds']:.0f}",
                line["episode_path"],
            )
            for line in trials.lines
        ]
        title = trials.title[0].upper() + trials.title[1:]
        return Section(title, figures=(Figure(name, "real episodes: first frame left, last right"),), rows=tuple(rows))


def adapter_folder(station: StationConfig, adapter: str) -> Path:
    """Where a station keeps an adapter."""
    return user_path(station.models.adapters, "models.adapters").resolve() / adapter


def canary_of(station: StationConfig, adapter: str) -> CanaryResult | None:
    """What canary trials found of an adapter; None where there were none. Raises: CheckpointError."""
    if not adapter:
        return None
    trials = read_evidence(adapter_folder(station, adapter)).trials
    return parse_config(CanaryResult, trials, f"evidence of {adapter}") if trials else None


def _truth(line: dict[str, Any]) -> float:
    return float(line["outcome"]) if line["outcome"] in (FAILURE, SUCCESS) else math.nan


def _counted_bar(label: str, successes: int, n: int, tone: BarTone) -> Bar:
    rate = success_rate([1.0] * successes + [0.0] * (n - successes))
    return Bar(label, finite_or_none(rate.mean), finite_or_none(rate.standard_error), n, tone)


def _imagined_bar(label: str, success: float, adaptation: Path, tone: Literal["plain", "muted"]) -> Bar:
    """A success rate with the standard error of as many rollouts as the practice measured."""
    try:
        n = int(parse_json((adaptation / "result.json").read_text(encoding="utf-8"))["pairs"])
    except (OSError, ValueError, KeyError, TypeError):
        return Bar(label, finite_or_none(success), None, 0, tone)
    if not math.isfinite(success):
        return Bar(label, None, None, n, tone)
    return _counted_bar(label, round(success * n), n, tone)
