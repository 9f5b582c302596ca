"""`gymnast up`: start a station's whole ROS graph without `ros2 launch`, from the same description.

Each node is a process of its own; its lines come out with its name before them. A node that dies is started again
after a second; the supervisor brings it back to active. Ctrl-C, or the end of an essential node, stops the arm node
first (it holds the arm), then the others, the driver last. They are asked by SIGTERM, which a node answers as it does
SIGINT but which also ends one that is still importing without a traceback; SIGKILL follows.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import tyro
import yaml

from gymnast_core.errors import ConfigError
from gymnast_core.graph import NodeDescription, find_executable, look, station_graph
from gymnast_core.progress import die_with_parent
from gymnast_core.robot.ros_domain import ros_domain
from gymnast_core.ros_logs import settle_log_folder

RESPAWN_DELAY_S = 1.0
MAX_RESPAWNS = 5
"""This many within `RESPAWN_WINDOW_S` and the graph gives up: something is broken that a restart does not mend."""
RESPAWN_WINDOW_S = 60.0
GRACE_S = 8.0
"""Seconds between SIGTERM and SIGKILL."""
SAME_S = 0.3
"""Requests to stop this close together are one."""
REFUSED = 2
"""Exit code of a node that refuses its configuration; starting it again would change nothing."""


@dataclass(frozen=True)
class UpConfig:
    """Start the ROS graph of one station and keep it up until Ctrl-C."""

    config: tyro.conf.Positional[str] = "simulated_drawer"
    """Station file: a path, or the name of a shipped one (robot_configs/*.yaml)."""
    namespace: str = ""
    """Namespace of gymnast's own nodes, topics and services; the driver keeps its own."""
    without: tuple[str, ...] = field(default_factory=tuple)
    """Nodes to leave out, for example "adapter" when another machine trains."""
    log_level: str = "info"
    """Log level of all nodes: debug, info, warn or error."""


def command_line(node: NodeDescription, log_level: str = "info") -> list[str]:
    """The node's command line with its ROS arguments."""
    line = [*find_executable(node), "--ros-args", "-r", f"__node:={node.name}"]
    if node.namespace:
        line += ["-r", f"__ns:={node.namespace}"]
    for source, target in node.remappings:
        line += ["-r", f"{source}:={target}"]
    for name, value in node.parameters:
        plain = list(value) if isinstance(value, tuple) else value
        shown = yaml.safe_dump(plain, default_flow_style=True, width=10**6).splitlines()[0]
        line += ["-p", f"{name}:={shown}"]
    return [*line, "--log-level", log_level]


class NodeProcess:
    """One node of the graph as a running process."""

    def __init__(self, node: NodeDescription, line: Sequence[str]) -> None:
        self.node = node
        self.line = list(line)
        self.starts: list[float] = []
        self.ended_at: float | None = None
        self.reported = False
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.starts.append(time.monotonic())
        self.ended_at = None
        self.reported = False
        self.process = subprocess.Popen(
            self.line,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches this process only, which then stops the nodes in their order
            preexec_fn=die_with_parent,  # a killed `gymnast up` leaves no nodes behind
        )
        threading.Thread(target=self._forward, args=(self.process,), daemon=True).start()

    def _forward(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            print(f"[{self.node.name}] {line.decode(errors='replace').rstrip()}", flush=True)

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def exit_code(self) -> int:
        return self.process.returncode if self.process is not None and self.process.returncode is not None else 0

    def signal(self, number: int) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)

    def recent_starts(self) -> int:
        return sum(1 for start in self.starts if start > time.monotonic() - RESPAWN_WINDOW_S)


class GraphRunner:
    """Starts, watches and stops the processes of a graph."""

    def __init__(self, nodes: Sequence[NodeDescription], log_level: str = "info") -> None:
        # Every executable is looked up before the first process starts: a missing one must not leave half a graph.
        self.processes = [NodeProcess(node, command_line(node, log_level)) for node in nodes]
        # Plain numbers: signal handlers set them, and a lock would hang where one interrupts another.
        self._asked_at: float | None = None
        self._hurry = False

    def request_stop(self) -> None:
        """Stop soon; a second call kills at once, unless it comes with the first: a dying parent signals many times."""
        if self._asked_at is None:
            self._asked_at = time.monotonic()
        elif time.monotonic() - self._asked_at > SAME_S:
            self._hurry = True

    def run(self) -> int:
        """Keep the graph up until a stop is asked for or it cannot be kept up; returns the exit code."""
        code = 0
        try:
            for process in self.processes:
                process.start()
            while self._asked_at is None:
                time.sleep(0.1)
                ended = self._watch()
                if ended is not None:
                    code = ended
                    break
        finally:
            self.stop()
        return code

    def _watch(self) -> int | None:
        """Respawn what ended; an exit code when the graph must end."""
        for process in self.processes:
            if process.running:
                continue
            now = time.monotonic()
            name, code = process.node.name, process.exit_code
            if process.ended_at is None:
                process.ended_at = now
                if process.node.essential:
                    return code if code > 0 else 1
                if not process.node.respawn:
                    if code:  # otherwise it has said why
                        _say(f"{name} ended with exit code {code}; the graph goes on without it")
                elif code == REFUSED:
                    return REFUSED
                elif process.recent_starts() > MAX_RESPAWNS:
                    _say(f"error: {name} ended {MAX_RESPAWNS} times within {RESPAWN_WINDOW_S:.0f} s, last with {code}")
                    return 1
                else:
                    _say(f"{name} ended with exit code {code}; starting it again in {RESPAWN_DELAY_S:.0f} s")
            elif process.node.respawn and now - process.ended_at >= RESPAWN_DELAY_S:
                process.start()
        return None

    def stop(self) -> None:
        """Stop all: the arm node first, so that the arm is held, the driver last, so that the hold reaches it."""
        first = [p for p in self.processes if p.node.executable in ("arm", "supervisor")]  # it would revive nodes
        driver = [p for p in self.processes if p.node.executable in ("station", "driver")]
        rest = [p for p in self.processes if p not in first and p not in driver]
        for group in (first, rest, driver):
            self._stop_group(group)

    def _stop_group(self, group: Sequence[NodeProcess]) -> None:
        for number, grace in ((signal.SIGTERM, GRACE_S), (signal.SIGKILL, 2.0)):
            for process in group:
                process.signal(number)
            end = time.monotonic() + grace
            while any(p.running for p in group) and time.monotonic() < end and not self._hurry:
                time.sleep(0.02)
            if not any(p.running for p in group):
                return
        for process in group:
            if process.process is not None:
                process.process.wait(timeout=5.0)


def up(config: UpConfig) -> int:
    """Run the graph in the foreground; returns 0 after Ctrl-C, otherwise the code of what ended it.

    Raises: ConfigError when the station file is wrong or the ROS packages are not built or sourced.
    """
    if config.log_level not in ("debug", "info", "warn", "error"):
        raise ConfigError(f"log_level: found '{config.log_level}', allowed are debug, info, warn, error")
    nodes = station_graph(config.config, config.namespace, config.without)
    if told := settle_log_folder():
        _say(told)
    runner = GraphRunner(nodes, config.log_level)
    _refuse_second(nodes)
    return _run(runner)


def _run(runner: GraphRunner) -> int:
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in previous:
        signal.signal(number, lambda *_: runner.request_stop())
    try:
        return runner.run()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _refuse_second(nodes: Sequence[NodeDescription]) -> None:
    """Two graphs of the same names, on whichever machines of one ROS domain, would fight over the arm.

    Raises: ConfigError naming the nodes that are up already. Where nobody can look, the supervisor finds out.
    """
    names = [f"{node.namespace.rstrip('/')}/{node.name}" for node in nodes if node.executable != "supervisor"]
    if found := look(names):
        raise ConfigError(
            f"{', '.join(found)}: up already in ROS domain {ros_domain()}; stop that graph, or choose another "
            "ROS_DOMAIN_ID or --namespace"
        )


def _say(text: str) -> None:
    print(f"[gymnast up] {text}", file=sys.stderr, flush=True)
