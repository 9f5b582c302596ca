"""The demo, a client of the graph and nothing else: whatever it shows went through the station's nodes.

It starts `gymnast up` in a ROS domain of its own and then only listens and asks: station up, a frame from the camera,
trials of the base policy, practising from several frames, canary trials of the adapter, a report. When a node that it
needs dies and does not come back, the demo ends with one line; Ctrl-C cancels what runs (the arm holds) and stops every
process it started.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.progress import Progress, TaskID
from rich.table import Table

from gymnast_core.config import StationConfig, dump_config, load_config, parse_config
from gymnast_core.demo import DemoConfig
from gymnast_core.errors import GymnastError, StationError
from gymnast_core.files import finite_or_none, read_json_lines, user_path, write_bytes
from gymnast_core.progress import busy, console, die_with_parent, interrupts, progress_bar
from gymnast_core.results import RESULT, write_result
from gymnast_core.robot.ros_domain import claim_domain
from gymnast_core.station_file import find_station_file
from gymnast_nodes.client import Station, Task
from gymnast_nodes.demo_page import DemoPage, Trials, canary_of
from gymnast_nodes.distributions import this_host_only

UP_TIMEOUT_S = 180.0
STOP_GRACE_S = 20.0
SAY_S = 15.0
"""How often a line is printed where the output is no terminal."""
PHASES = {
    "reset": "resetting arm and scene",
    "capture": "capturing the test frame",
    "load": "loading policy, world model and judge",
    "before": "base policy in imagination",
    "train": "practising in imagination",
    "after": "adapted policy in imagination",
    "gate": "the gate",
    "canary": "canary trials: base against adapter",
    "measure": "trials of the base policy, to measure what is learned",
    "learn": "world model and judges learn from the trials",
    "execute": "acting on the station",
    "log": "logging",
}
FIRST_SEED = 700_000
"""Seeds from here on were not used to collect any training data."""


class Graph:
    """`gymnast up` as a child process, its output in a file."""

    def __init__(self, station: Path, domain: int, log: Path, without: Sequence[str] = ()) -> None:
        self.log = log
        words = ["--without", *without] if without else []
        environment = {**os.environ, "ROS_DOMAIN_ID": str(domain)}
        with open(log, "wb") as stream:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gymnast_core.cli", "up", str(station), *words],
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
        self.run_folder = user_path(folder).resolve()
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
        if not practice.accepted:
            say("the gate kept the base policy: there is no adapted policy to try on the station")
        canary = canary_of(self.station_config, practice.adapter_id)
        page = DemoPage(self.run_folder, self.station_config, self.task.instruction, before, practice, canary)
        self._conclude(page)

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
        domain = claim_domain()
        os.environ["ROS_DOMAIN_ID"] = str(domain)
        os.environ.update(this_host_only())
        self.graph = Graph(self.station_file, domain, self.run_folder / "graph.log")
        self.station = Station(domain=domain)
        with busy(f"starting station '{self.station_config.name}' (ROS domain {domain})"):
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
        with progress_bar(lines=False) as bar:
            row = bar.add_task(title, total=config.trials, note="")

            def show(feedback: Any) -> None:
                note = f"{feedback.successes} succeeded; trial {feedback.trial + 1}: {feedback.phase}"
                if feedback.phase == "run":
                    note += f" step {feedback.step}"
                bar.update(row, completed=feedback.trial, note=note)

            first = FIRST_SEED + config.seed + 1
            self.current = self.station.run_trials(config.task, config.trials, policy, first, 0, show)
            result = self._wait(self.current, lambda: f"{title}: {bar.tasks[row].fields['note']}")
            bar.update(row, completed=len(result.outcomes), note=f"{result.successes} succeeded")
        if not result.success:
            raise StationError(f"{title}: {result.message}")
        lines = tuple(read_json_lines(Path(result.run_folder) / "trials.jsonl"))
        say(f"{title}: {result.successes} of {len(lines)} succeeded ({_percent(result)})")
        return Trials(title, policy, result, lines)

    def _practise(self) -> Any:
        assert self.station is not None
        config = self.config
        with progress_bar(lines=False) as bar:
            show = _PracticeBar(bar, self.run_folder)
            self.current = self.station.practise(
                self.task.instruction,
                config.task,
                reset=True,
                execute=True,
                iterations=config.iterations,
                seconds=config.seconds,
                seed=FIRST_SEED + config.seed,
                frames=config.frames,
                canary_trials=config.canary_trials,
                on_feedback=show,
            )
            result = self._wait(self.current, lambda: show.line)
            show.finish()
        if not result.success:
            raise StationError(f"practising failed: {result.message}")
        say(result.message)
        return result

    def _wait(self, task: Task, line: Callable[[], str]) -> Any:
        """The task's result. line: what it is at, said now and then where no bar can be drawn."""
        assert self.graph is not None
        said = time.monotonic()
        while not task.is_complete():
            self.graph.check()
            time.sleep(0.1)
            if not console.is_terminal and time.monotonic() - said > SAY_S:
                said = time.monotonic()
                say(f"{(said - self.began) / 60:.1f} min: {line()}")
        self.current = None
        return task.result()

    def _conclude(self, page: DemoPage) -> None:
        minutes = (time.monotonic() - self.began) / 60
        report = page.write(minutes)
        before, practice, canary = page.before.result, page.practice, page.canary
        table = Table("", "base policy", "adapted policy")
        table.add_row("in imagination", f"{practice.success_before:.0%}", f"{practice.success_after:.0%}")
        table.add_row("on the station, before practice", _percent(before), "")
        if canary is not None:
            pairs = canary.pairs
            table.add_row(
                f"on the station, {pairs} pairs",
                f"{canary.base_successes} of {pairs}",
                f"{canary.adapter_successes} of {pairs}",
            )
            for task, change in canary.others.items():
                table.add_row(f"change at {task}", "", f"{change:+.0%}")
        console.print(table)
        say(f"the last word: {page.last_word}")
        result = {
            "accepted": bool(practice.accepted),
            "adapter_id": practice.adapter_id,
            "adapter_state": practice.adapter_state,
            "canary_verdict": practice.canary_verdict,
            "imagined_before": finite_or_none(practice.success_before),
            "imagined_after": finite_or_none(practice.success_after),
            "station_before": finite_or_none(before.success_rate),
            "canary": dataclasses.asdict(canary) if canary is not None else None,
            "minutes": round(minutes, 2),
        }
        write_result(self.run_folder, result)
        for what, where in page.places():
            say(f"{what}: {where}")
        say(f"done in {minutes:.1f} minutes; open {report}")


class _PracticeBar:
    """Shows the feedback of a practice: one bar for the iterations, its title says the phase."""

    def __init__(self, bar: Progress, run_folder: Path) -> None:
        self._bar = bar
        self._row: TaskID = bar.add_task("practising", total=None, note="")
        self._preview = run_folder / "media" / "preview.jpg"
        self._total: int | None = None
        self._done = 0
        self.line = "practising"
        """What it is at, in words."""

    def __call__(self, feedback: Any) -> None:
        title = PHASES.get(feedback.phase, feedback.phase)
        note = ""
        if feedback.phase == "train" and feedback.iteration:
            note = (
                f"reward {feedback.mean_reward:.2f}, usable groups {feedback.usable_groups:.0%}, "
                f"{feedback.seconds_left:.0f} s left"
            )
        elif feedback.phase in ("execute", "canary"):
            note = f"step {feedback.step}"
        if feedback.iterations:
            self._total, self._done = feedback.iterations, feedback.iteration
        self._bar.update(self._row, description=title, total=self._total, completed=self._done, note=note)
        updates = f" update {self._done} of {self._total}," if feedback.phase == "train" and self._total else ""
        self.line = f"{title}{':' if updates or note else ''}{updates} {note}".strip()
        if len(feedback.preview.data):
            write_bytes(self._preview, bytes(feedback.preview.data))

    def finish(self) -> None:
        """The last title."""
        self._bar.update(self._row, description="practised", note="")


def say(text: str) -> None:
    """One line for people."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _share(value: float) -> str:
    return f"{value:.0%}" if math.isfinite(value) else "-"


def _percent(result: Any) -> str:
    return f"{result.success_rate:.0%} ± {result.standard_error:.0%}"


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
            config = parse_config(DemoConfig, json.loads(words[0]) if words else {}, "demo options")
            with contextlib.redirect_stdout(sys.stderr) if config.json else contextlib.nullcontext():
                demo = Demo(config)
                demo.run()
            if config.json:
                print((demo.run_folder / RESULT).read_text(encoding="utf-8"))
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
