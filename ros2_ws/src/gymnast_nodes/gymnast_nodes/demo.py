"""The demo, a client of the graph and nothing else: whatever it shows went through the station's nodes.

It starts `gymnast up` in a ROS domain of its own and then only listens and asks: station up, a frame from the camera,
trials of the base policy, practising from one frame, trials of the adapted policy on the same seeds, a report. When a
node that it needs dies and does not come back, the demo ends with one line; Ctrl-C cancels what runs (the arm holds)
and stops every process it started.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.progress import Progress, TaskID
from rich.table import Table

from gymnast_core.config import StationConfig, dump_config, load_config, parse_config
from gymnast_core.data.episode import read_episode
from gymnast_core.data.frames import write_bytes
from gymnast_core.demo import DemoConfig
from gymnast_core.errors import GymnastError, StationError
from gymnast_core.graph import find_station_file
from gymnast_core.progress import console, die_with_parent, interrupts, progress_bar
from gymnast_core.reporting.media import film_strip, sheet, write_picture
from gymnast_core.reporting.report import Bar, Figure, Section, metric_curve, write_report
from gymnast_core.reporting.statistics import paired_difference, success_rate
from gymnast_core.run_folder import read_json_lines
from gymnast_nodes.client import Station, Task

UP_TIMEOUT_S = 180.0
STOP_GRACE_S = 20.0
PHASES = {
    "reset": "resetting arm and scene",
    "capture": "capturing the test frame",
    "load": "loading policy, world model and judge",
    "before": "base policy in imagination",
    "train": "practising in imagination",
    "after": "adapted policy in imagination",
    "gate": "the gate",
    "execute": "acting on the station",
    "log": "logging",
}
FIRST_SEED = 700_000
"""Seeds from here on were not used to collect any training data."""
OUTCOMES = ("failure", "success", "unjudged", "aborted", "cancelled")


@dataclass(frozen=True)
class Trials:
    """What became of one set of trials."""

    title: str
    policy: str
    result: Any
    lines: tuple[dict[str, Any], ...]

    @property
    def outcomes(self) -> list[float]:
        """1, 0, or NaN where nobody could tell, one a trial."""
        return [float(line["outcome"]) if line["outcome"] in (0, 1) else math.nan for line in self.lines]


class Graph:
    """`gymnast up` as a child process, its output in a file."""

    def __init__(self, station: Path, domain: int, log: Path) -> None:
        self.log = log
        environment = {**os.environ, "ROS_DOMAIN_ID": str(domain)}
        with open(log, "wb") as stream:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gymnast_core.cli", "up", str(station)],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,  # Ctrl-C comes to the demo alone, which stops the graph in its order
                preexec_fn=die_with_parent,
            )

    def check(self) -> None:
        """Raises: StationError with the graph's last words when it has ended."""
        code = self.process.poll()
        if code is not None:
            raise StationError(f"the graph ended with exit code {code}: {self.last_words()} (all of it: {self.log})")

    def last_words(self) -> str:
        """The last line that tells of an error, or the last line."""
        lines = [line.strip() for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        errors = [line for line in lines if "[ERROR]" in line or "error:" in line]
        return (errors or lines or ["it said nothing"])[-1][:300]

    def stop(self) -> None:
        """Stop all nodes, the arm held first."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(STOP_GRACE_S)
            except subprocess.TimeoutExpired:
                self.process.send_signal(signal.SIGINT)  # the second one hurries
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.process.wait(5.0)
                if self.process.poll() is None:
                    os.killpg(self.process.pid, signal.SIGKILL)


class Demo:
    """One run of the demo."""

    def __init__(self, config: DemoConfig) -> None:
        self.config = config
        self.station_file = find_station_file(config.config)
        self.station_config = load_config(StationConfig, self.station_file)
        self.task = self.station_config.task(config.task)
        folder = config.run or f"runs/demo/{datetime.now():%Y%m%d_%H%M%S}"
        self.run_folder = Path(folder).expanduser().resolve()
        (self.run_folder / "media").mkdir(parents=True, exist_ok=True)
        write_bytes(self.run_folder / "config.yaml", dump_config(config).encode())
        self.began = time.monotonic()
        self.graph: Graph | None = None
        self.station: Station | None = None
        self.current: Task | None = None

    def run(self) -> None:
        """All steps in order. Raises: GymnastError, KeyboardInterrupt."""
        self._bring_up()
        self._capture()
        before = self._try("base policy on the station", "base")
        practice = self._practise()
        after = None
        if practice.accepted:
            after = self._try("adapted policy on the station", practice.adapter_id)
        else:
            say("the gate kept the base policy: there is no adapted policy to try on the station")
        report = self._report(before, practice, after)
        self._conclude(before, practice, after, report)

    def stop(self) -> None:
        """Cancel what runs, so that the arm holds, leave the graph and stop it."""
        if self.current is not None and self.graph is not None and self.graph.process.poll() is None:
            with contextlib.suppress(Exception):
                self.current.cancel(2.0)
        if self.station is not None:
            with contextlib.suppress(Exception):
                self.station.close()
        if self.graph is not None:
            self.graph.stop()

    # The steps

    def _bring_up(self) -> None:
        domain = free_domain()
        os.environ["ROS_DOMAIN_ID"] = str(domain)
        if os.environ.get("ROS_DISTRO") == "humble":
            os.environ["ROS_LOCALHOST_ONLY"] = "1"
        else:
            os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
        self.graph = Graph(self.station_file, domain, self.run_folder / "graph.log")
        self.station = Station(domain=domain)
        with console.status(f"starting station '{self.station_config.name}' (ROS domain {domain})"):
            self.station.wait_until_active(UP_TIMEOUT_S, self.graph.check)
        names = ", ".join(self.station.states())
        say(f"station '{self.station_config.name}' is up in ROS domain {domain}: {names} are active")

    def _capture(self) -> None:
        assert self.station is not None
        path = self.run_folder / "media" / "camera.png"
        frame = self.station.capture_frame(path)
        say(f"frame captured from {self.station_config.camera.topic}: {frame.shape[1]}x{frame.shape[0]}, {path}")

    def _try(self, title: str, policy: str) -> Trials:
        assert self.station is not None
        config = self.config
        with progress_bar() as bar:
            row = bar.add_task(title, total=config.trials, note="")

            def show(feedback: Any) -> None:
                note = f"{feedback.successes} succeeded; trial {feedback.trial + 1}: {feedback.phase}"
                if feedback.phase == "run":
                    note += f" step {feedback.step}"
                bar.update(row, completed=feedback.trial, note=note)

            first = FIRST_SEED + config.seed + 1
            self.current = self.station.run_trials(config.task, config.trials, policy, first, 0, show)
            result = self._wait(self.current)
            bar.update(row, completed=len(result.outcomes), note=f"{result.successes} succeeded")
        if not result.success:
            raise StationError(f"{title}: {result.message}")
        lines = tuple(read_json_lines(Path(result.run_folder) / "trials.jsonl"))
        say(f"{title}: {result.successes} of {len(lines)} succeeded ({_percent(result)})")
        return Trials(title, policy, result, lines)

    def _practise(self) -> Any:
        assert self.station is not None
        config = self.config
        with progress_bar() as bar:
            show = _PracticeBar(bar, self.run_folder)
            self.current = self.station.practise(
                self.task.instruction,
                config.task,
                reset=True,
                execute=True,
                iterations=config.iterations,
                seconds=config.seconds,
                seed=FIRST_SEED + config.seed,
                on_feedback=show,
            )
            result = self._wait(self.current)
            show.finish()
        if not result.success:
            raise StationError(f"practising failed: {result.message}")
        say(result.message)
        return result

    def _wait(self, task: Task) -> Any:
        assert self.graph is not None
        while not task.is_complete():
            self.graph.check()
            time.sleep(0.1)
        self.current = None
        return task.result()

    # The end

    def _report(self, before: Trials, practice: Any, after: Trials | None) -> Path:
        adaptation = Path(practice.run_folder)
        sets = [before, *([after] if after else [])]
        bars = [
            _imagined_bar("imagined, base policy", practice.success_before, adaptation, "muted"),
            _imagined_bar("imagined, adapted", practice.success_after, adaptation, "plain"),
            *(
                Bar(
                    f"station, {'base' if trials is before else 'adapted'} policy",
                    _number(trials.result.success_rate),
                    _number(trials.result.standard_error),
                    len(trials.lines),
                    "muted" if trials is before else "good",
                )
                for trials in sets
            ),
        ]
        facts = [
            ("instruction", self.task.instruction),
            (
                "gate",
                "adapter accepted" if practice.accepted else "base policy kept",
            ),
            (
                "imagined difference",
                f"{practice.success_after - practice.success_before:+.2f} ± {practice.standard_error:.2f}",
            ),
        ]
        if after is not None:
            paired = paired_difference(before.outcomes, after.outcomes)
            facts.append(("difference on the station, same seeds", f"{paired.mean:+.2f} ± {paired.standard_error:.2f}"))
        facts.append(("whole demo", f"{(time.monotonic() - self.began) / 60:.1f} minutes"))
        imagined = [
            Figure(str(adaptation / "media" / f"imagined_{name}.png"), f"imagined rollouts {name} practising")
            for name in ("before", "after")
            if (adaptation / "media" / f"imagined_{name}.png").is_file()
        ]
        sections = [
            Section(
                "Before and after",
                practice.message,
                "good" if practice.accepted else "warning",
                tuple(facts),
                tuple(bars),
            ),
            Section(
                "The test frame",
                "What the policy practised from: one frame of the camera.",
                figures=(Figure(practice.frame_path, "captured before practising"),),
            ),
            Section(
                "Practice in imagination",
                curves=(
                    metric_curve(
                        adaptation,
                        {
                            "mean_reward": "mean reward (sampled)",
                            "validation_success": "success acting as on the arm",
                            "usable_groups": "usable groups",
                        },
                        "Reward",
                        y_range=(0, 1),
                    ),
                ),
                figures=tuple(imagined),
            ),
            *(self._trial_section(trials) for trials in sets),
            Section("Where everything lies", rows=self._places(before, practice, after)),
        ]  # fmt: skip
        title = f"Demo: {self.task.instruction}"
        return write_report(self.run_folder, title, sections, f"station {self.station_config.name}")

    def _trial_section(self, trials: Trials) -> Section:
        strips = []
        for line in trials.lines[:6]:
            episode = read_episode(line["episode_path"])
            outcome = line["outcome"] if line["outcome"] in (0, 1) else math.nan
            title = f"seed {line['seed']}, {line['steps']} steps: {OUTCOMES[line['outcome']]}"
            strips.append((title, film_strip(episode.frames, 8, 112, outcome)))
        name = f"media/{trials.policy[:60]}_trials.png"
        write_picture(self.run_folder / name, sheet(strips))
        rows = [("seed", "outcome", "judge", "steps", "seconds", "episode")]
        rows += [
            (
                str(line["seed"]),
                OUTCOMES[line["outcome"]],
                "-" if line["judge_score"] is None else f"{line['judge_score']:.0f}",
                str(line["steps"]),
                f"{line['seconds']:.0f}",
                line["episode_path"],
            )
            for line in trials.lines
        ]
        title = trials.title[0].upper() + trials.title[1:]
        return Section(title, figures=(Figure(name, "real episodes: first frame left, last right"),), rows=tuple(rows))

    def _places(self, before: Trials, practice: Any, after: Trials | None) -> tuple[tuple[str, ...], ...]:
        rows = [
            ("what", "where"),
            ("this report", str(self.run_folder / "report.html")),
            ("trials of the base policy", before.result.run_folder),
            ("practice (config, metrics, media, its own report)", practice.run_folder),
            ("episode after practising", practice.episode_path),
            ("its log (rosbag2, MCAP)", str(Path(practice.episode_path) / "log")),
            ("output of the nodes", str(self.run_folder / "graph.log")),
        ]
        if after is not None:
            rows.insert(3, ("trials of the adapted policy", after.result.run_folder))
            store = Path(self.station_config.models.adapters).expanduser().resolve()
            rows.insert(4, ("adapter", str(store / practice.adapter_id)))
        return tuple(rows)

    def _conclude(self, before: Trials, practice: Any, after: Trials | None, report: Path) -> None:
        table = Table("", "base policy", "adapted policy")
        table.add_row("in imagination", f"{practice.success_before:.0%}", f"{practice.success_after:.0%}")
        adapted = _percent(after.result) if after else "base policy kept"
        table.add_row("on the station", _percent(before.result), adapted)
        console.print(table)
        result = {
            "accepted": bool(practice.accepted),
            "adapter_id": practice.adapter_id,
            "imagined_before": _number(practice.success_before),
            "imagined_after": _number(practice.success_after),
            "station_before": _number(before.result.success_rate),
            "station_after": _number(after.result.success_rate) if after else None,
            "minutes": round((time.monotonic() - self.began) / 60, 2),
        }
        write_bytes(self.run_folder / "result.json", json.dumps(result, indent=1).encode())
        for what, where in self._places(before, practice, after)[1:]:
            say(f"{what}: {where}")
        say(f"done in {result['minutes']:.1f} minutes; open {report}")


class _PracticeBar:
    """Shows the feedback of a practice: one bar for the iterations, its title says the phase."""

    def __init__(self, bar: Progress, run_folder: Path) -> None:
        self._bar = bar
        self._row: TaskID = bar.add_task("practising", total=None, note="")
        self._preview = run_folder / "media" / "preview.jpg"
        self._total: int | None = None
        self._done = 0

    def __call__(self, feedback: Any) -> None:
        title = PHASES.get(feedback.phase, feedback.phase)
        note = ""
        if feedback.phase == "train" and feedback.iteration:
            note = (
                f"reward {feedback.mean_reward:.2f}, usable groups {feedback.usable_groups:.0%}, "
                f"{feedback.seconds_left:.0f} s left"
            )
        elif feedback.phase == "execute":
            note = f"step {feedback.step}"
        if feedback.iterations:
            self._total, self._done = feedback.iterations, feedback.iteration
        self._bar.update(self._row, description=title, total=self._total, completed=self._done, note=note)
        if len(feedback.preview.data):
            write_bytes(self._preview, bytes(feedback.preview.data))

    def finish(self) -> None:
        """The last title."""
        self._bar.update(self._row, description="practised", note="")


def free_domain() -> int:
    """A ROS domain nobody on this host uses: its discovery port is free. Raises: StationError when there is none."""
    for domain in np.random.default_rng().permutation(np.arange(1, 100)):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind(("", 7400 + 250 * int(domain)))
            except OSError:
                continue
            return int(domain)
    raise StationError("no free ROS domain (1 to 99) on this host; stop other ROS graphs first")


def say(text: str) -> None:
    """One line for people."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _percent(result: Any) -> str:
    return f"{result.success_rate:.0%} ± {result.standard_error:.0%}"


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _imagined_bar(label: str, success: float, adaptation: Path, tone: Literal["plain", "muted"]) -> Bar:
    """A success rate with the standard error of as many rollouts as the practice measured."""
    try:
        n = int(json.loads((adaptation / "result.json").read_text(encoding="utf-8"))["pairs"])
    except (OSError, ValueError, KeyError, TypeError):
        return Bar(label, _number(success), None, 0, tone)
    if not math.isfinite(success):
        return Bar(label, None, None, n, tone)
    successes = round(success * n)
    rate = success_rate([1.0] * successes + [0.0] * (n - successes))
    return Bar(label, rate.mean, rate.standard_error, n, tone)


def _shielded(work: Callable[[], None]) -> None:
    """Run to the end whatever signals come: a half-stopped graph is worse than a second's wait."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    work()


def main(arguments: list[str] | None = None) -> int:
    """Run the demo with the options `gymnast demo` hands over as JSON; returns the exit code."""
    words = sys.argv[1:] if arguments is None else arguments
    demo: Demo | None = None
    try:
        with interrupts():
            demo = Demo(parse_config(DemoConfig, json.loads(words[0]) if words else {}, "demo options"))
            demo.run()
            code = 0
    except GymnastError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("interrupted: what ran was cancelled, the arm holds; all nodes are being stopped", file=sys.stderr)
        code = 130
    finally:
        if demo is not None:
            _shielded(demo.stop)
    return code


if __name__ == "__main__":
    sys.exit(main())
