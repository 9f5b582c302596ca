"""The robot's loop at its rate: `python -m benchmarks.robot_loop --seconds 600`.

The whole graph of the simulated station runs episodes, one after the other, with the recorder on. Measured are the time
between two actions, the way of an action from the executor to the joint command, the age of the frame behind an action
without the model's time, and each node's share of a core and its memory, minute by minute.

Targets on two idle cores: no period missed in ten minutes, under 10 ms from action to joint command at the 99th
percentile, and memory that does not grow after the first minutes. The load of the machine is written beside them.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gymnast_msgs.msg import EpisodeStep, ExecutedAction

from gymnast_core.config import dump_config
from gymnast_core.files import write_bytes
from gymnast_core.reporting.tables import columns
from gymnast_core.robot.ros_domain import claim_domain
from gymnast_core.station_file import open_station
from gymnast_nodes.calls import in_executor
from gymnast_nodes.client import Station
from gymnast_nodes.demo import UP_TIMEOUT_S, Graph
from gymnast_nodes.distributions import this_host_only
from gymnast_nodes.messages import to_seconds
from gymnast_nodes.qos import LOGGED_QOS

STEPS_TOPIC = "executor/step"
SAMPLE_S = 10.0
MINUTE = 6
"""Samples."""
SETTLED_S = 120.0
"""Memory counts as grown from here on: the first minutes load what is used."""
MISSED = 2.0
"""Periods between two actions that make one missed."""
LATE = 1.25
EPISODE_STEPS = 250


@dataclasses.dataclass
class NodeUse:
    """One node's process: (time, processor seconds, resident bytes, private bytes) at each sample."""

    pid: int
    samples: list[tuple[float, float, int, int]] = dataclasses.field(default_factory=list)

    def sample(self, now: float) -> None:
        """A line more; none where the process has ended."""
        with contextlib.suppress(OSError, ValueError, IndexError):
            words = Path(f"/proc/{self.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
            seconds = (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")
            memory = dict.fromkeys(("Rss", "Private_Dirty"), 0)
            for line in Path(f"/proc/{self.pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
                name, _, rest = line.partition(":")
                if name in memory:
                    memory[name] = int(rest.split()[0]) * 1024
            self.samples.append((now, seconds, memory["Rss"], memory["Private_Dirty"]))

    def share(self) -> float:
        """Of one core, over the whole time."""
        (first, used, _, _), (last, spent, _, _) = self.samples[0], self.samples[-1]
        return (spent - used) / max(1e-9, last - first)

    def growth(self, begin: float, end: float) -> float:
        """Megabytes of private memory between two times."""
        inside = [private for at, _, _, private in self.samples if begin <= at <= end]
        return (inside[-1] - inside[0]) / 2**20 if len(inside) > 1 else 0.0


def processes(parent: int) -> dict[str, NodeUse]:
    """The nodes of a running `gymnast up`, by name."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError, ValueError, IndexError):
            words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            owner = int((entry / "stat").read_text(encoding="ascii").rpartition(")")[2].split()[1])
            names = [word.partition(":=")[2] for word in words if word.startswith("__node:=")]
            if owner == parent and names:
                found[names[0]] = NodeUse(int(entry.name))
    return found


class Loop:
    """What is heard of the running graph."""

    def __init__(self, client: Station, period: float) -> None:
        self._period = period
        self.steps: list[EpisodeStep] = []
        self.executed: dict[tuple[str, int], ExecutedAction] = {}

        def take(message: ExecutedAction) -> None:
            self.executed[message.commanded.episode_id, message.commanded.step] = message

        def listen() -> None:
            client.node.create_subscription(EpisodeStep, STEPS_TOPIC, self.steps.append, LOGGED_QOS)
            client.node.create_subscription(ExecutedAction, "arm/executed", take, LOGGED_QOS)

        in_executor(client.node, listen)

    def figures(self) -> dict[str, float]:
        """Milliseconds, and counts."""
        intervals, command, camera = [], [], []
        for before, step in zip(self.steps, self.steps[1:]):
            if before.episode_id == step.episode_id and step.step == before.step + 1:
                intervals.append(to_seconds(step.action.header.stamp) - to_seconds(before.action.header.stamp))
        for step in self.steps:
            answer = self.executed.get((step.episode_id, step.step))
            if answer is None or not answer.accepted:
                continue
            left = to_seconds(answer.header.stamp)
            command.append(left - to_seconds(step.action.header.stamp))
            if step.policy_latency > 0:
                camera.append(left - to_seconds(step.frame_stamp) - step.policy_latency)
        jitter = [abs(interval - self._period) for interval in intervals]
        return {
            "actions": len(command),
            "periods missed": sum(interval > MISSED * self._period for interval in intervals),
            "periods late by a quarter": sum(interval > LATE * self._period for interval in intervals),
            **_percentiles("jitter of the period, ms", jitter),
            **_percentiles("action to joint command, ms", command),
            **_percentiles("frame to joint command without the model, ms", camera),
        }


def _percentiles(name: str, seconds: Sequence[float]) -> dict[str, float]:
    if len(seconds) < 2:
        return {}
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    return {f"{name}: p{at}": round(cuts[at - 1] * 1000.0, 2) for at in (50, 95, 99)} | {
        f"{name}: most": round(max(seconds) * 1000.0, 2)
    }


def run_episodes(client: Station, task: str, instruction: str, ending: threading.Event) -> None:
    """Episodes of the base policy, each from the start, until `ending`."""
    number, stopped = 0, False
    while not ending.is_set():
        try:
            if stopped:
                client.rearm()  # as a person would, who has looked
                stopped = False
            client.reset_scene(task, number)
            client.reset_arm()
            episode = client.run_episode(instruction, "base", task, EPISODE_STEPS, judge=False)
            while not episode.is_complete() and not ending.wait(0.1):
                pass
            episode.cancel()
        except Exception as error:  # it is told, and the next one begins
            print(f"episode {number}: {error}", file=sys.stderr)
            stopped = "arm/rearm" in str(error)
            ending.wait(1.0)
        number += 1


def measure(config: str, seconds: float, folder: Path) -> dict[str, Any]:
    """Figures of `seconds` of work, with each node's use."""
    own = open_station(config)
    station = own.portable()
    station = dataclasses.replace(
        station,
        recorder=dataclasses.replace(station.recorder, folder=str(folder / "episodes")),
        executor=dataclasses.replace(station.executor, stop_at_success=False),
    )
    file = folder / "station.yaml"
    write_bytes(file, dump_config(station).encode())
    domain = claim_domain()
    os.environ.update(this_host_only(), ROS_DOMAIN_ID=str(domain), GYMNAST_STATE=str(folder / "state"))
    graph = Graph(file, domain, folder / "graph.log")
    client = Station(domain=domain)
    ending = threading.Event()
    try:
        client.wait_until_active(UP_TIMEOUT_S, graph.check)
        nodes = processes(graph.process.pid)
        loop = Loop(client, 1.0 / station.arm.control_hz)
        task, described = next(iter(station.tasks.items()))
        worker = threading.Thread(
            target=run_episodes, args=(client, task, described.instruction, ending), name="episodes", daemon=True
        )
        worker.start()
        began, loads = time.monotonic(), [os.getloadavg()[0]]
        while (now := time.monotonic()) - began < seconds:
            for use in nodes.values():
                use.sample(now - began)
            loads.append(os.getloadavg()[0])
            graph.check()
            time.sleep(min(SAMPLE_S, max(0.0, began + seconds - now)))
        for use in nodes.values():
            use.sample(seconds)
        ending.set()
        worker.join(20.0)
        figures = loop.figures()
    finally:
        ending.set()
        client.close()
        graph.stop()
    memory = {
        name: [round(private / 2**20, 1) for _, _, _, private in use.samples[::MINUTE]] for name, use in nodes.items()
    }
    return {
        "seconds": seconds,
        "private memory by the minute, MB": memory,
        "load": [round(min(loads), 1), round(max(loads), 1)],
        "figures": figures,
    } | {
        "nodes": {
            name: {
                "share of a core": round(use.share(), 3),
                "memory, MB": round(use.samples[-1][2] / 2**20, 1),
                "grown in the first two minutes, MB": round(use.growth(0.0, SETTLED_S), 1),
                "grown afterwards, MB": round(use.growth(SETTLED_S, seconds), 1),
                "of it in the second half, MB": round(use.growth(seconds / 2.0, seconds), 1),
            }
            for name, use in sorted(nodes.items())
            if use.samples
        }
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="simulated_drawer", help="station file of a simulated station")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--out", default="", help="file for the figures as JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="robot_loop_") as folder:
        found = measure(options.config, options.seconds, Path(folder))
    print(f"{found['seconds']:g} s, {os.cpu_count()} cores, load {found['load'][0]} to {found['load'][1]}\n")
    print(columns([("figure", "value"), *((name, f"{value:g}") for name, value in found["figures"].items())]))
    heads = ("node", *next(iter(found["nodes"].values())))
    print()
    print(columns([heads, *((name, *(f"{v:g}" for v in use.values())) for name, use in found["nodes"].items())]))
    if options.out:
        Path(options.out).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
