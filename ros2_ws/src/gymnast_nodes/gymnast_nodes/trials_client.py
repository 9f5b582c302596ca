"""The ROS side of `gymnast trials`: the same flow as without ROS, on the bench of a running graph."""

from __future__ import annotations

import os
import select
import sys

from gymnast_core.evaluation.trials import Trials
from gymnast_core.evaluation.trials_config import TrialsOptions
from gymnast_nodes.client import Station
from gymnast_nodes.client_verb import run_client
from gymnast_nodes.graph_bench import GraphBench

ACTIVE_S = 30.0
"""How long the graph is waited for."""


def run(options: TrialsOptions) -> int:
    """The exit code of the verb. Raises: GymnastError."""
    flow = Trials(options)
    with flow.lend(), Station(options.namespace) as station:
        station.wait_until_active(ACTIVE_S)
        flow.begin()
        return flow(GraphBench(station, enter_pressed))


def enter_pressed() -> bool:
    """Whether a line has come on standard input since the last call; never in the background of a terminal."""
    if sys.stdin is None or (sys.stdin.isatty() and os.tcgetpgrp(sys.stdin.fileno()) != os.getpgrp()):
        return False
    lines = 0
    while select.select([sys.stdin], [], [], 0.0)[0] and sys.stdin.readline():
        lines += 1
    return lines > 0


def main() -> int:
    """The exit code of `gymnast trials` over ROS."""
    return run_client(TrialsOptions, run, "interrupted")


if __name__ == "__main__":
    sys.exit(main())
