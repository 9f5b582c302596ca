"""The ROS side of `gymnast arm check`: find the arm or start its part of the graph, run the checks, print the table."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

from gymnast_core.arm_check import ArmCheckConfig, CheckRow, table
from gymnast_core.config import StationConfig, load_config
from gymnast_core.errors import ConfigError, StationError
from gymnast_core.progress import die_with_parent
from gymnast_core.station_file import find_station_file
from gymnast_nodes.arm_check_bench import ArmBench, Broken, Skipped
from gymnast_nodes.arm_checks import CHECKS
from gymnast_nodes.client import Station
from gymnast_nodes.client_verb import run_client
from gymnast_nodes.dead_ports import keep_standard_output

HEARD_S = 3.0
"""How long a running station is listened for."""
WITHOUT = ("camera", "recorder", "adapter", "executor", "evaluator", "console")
"""Nodes that the arm's part of the graph does without."""
END_S = 20.0


@contextlib.contextmanager
def graph_of_the_arm(config: ArmCheckConfig, client: Station) -> Iterator[None]:
    """A running station, or the arm's part of one on the driver, ended afterwards.

    Raises: StationError where it does not come up.
    """
    end = time.monotonic() + HEARD_S
    while not client.states() and time.monotonic() < end:
        time.sleep(0.1)
    if client.states():
        if client.states().get("arm") != "active":
            raise StationError(f"the arm node is {client.states().get('arm', 'not running')}; see gymnast status")
        yield
        return
    words = [sys.executable, "-m", "gymnast_core.cli", "up", config.config, "--namespace", config.namespace]
    words += ["--log-level", "warn", "--without", *WITHOUT]
    graph = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=sys.stderr, preexec_fn=die_with_parent)

    def alive() -> None:
        if graph.poll() is not None:
            raise StationError("the arm's part of the graph ended; its lines above say why")

    try:
        client.wait_until_active(config.seconds, alive)
        yield
    finally:
        graph.send_signal(signal.SIGINT)
        try:
            graph.wait(END_S)
        except subprocess.TimeoutExpired:
            graph.kill()


def run_checks(bench: ArmBench, names: tuple[str, ...]) -> list[CheckRow]:
    """One row for each check. One that breaks does not end the others: the next one begins at the arm's start."""
    rows: list[CheckRow] = []
    for name in names or tuple(CHECKS):
        try:
            if not rows or rows[-1].verdict != "kept":
                bench.reset()
            rows.append(CheckRow(name, "kept", CHECKS[name](bench)))
        except Skipped as error:
            rows.append(CheckRow(name, "skipped", str(error)))
        except Broken as error:
            rows.append(CheckRow(name, "broken", str(error)))
        print(f"{name}: {rows[-1].verdict}", file=sys.stderr)
    return rows


def check(config: ArmCheckConfig) -> int:
    """0 where the contract is kept, else 1. Raises: GymnastError where nothing can be checked."""
    unknown = [name for name in config.only if name not in CHECKS]
    if unknown:
        raise ConfigError(f"only: found '{unknown[0]}', allowed are {', '.join(CHECKS)}")
    station = load_config(StationConfig, find_station_file(config.config))
    keep_standard_output()
    client = Station(config.namespace)
    try:
        with graph_of_the_arm(config, client):
            bench = ArmBench(client, station)
            try:
                rows = run_checks(bench, config.only)
            finally:
                bench.leave()
    finally:
        client.close()
    if config.json:
        kept = all(row.verdict != "broken" for row in rows)
        print(json.dumps({"kept": kept, "driver": station.arm.driver, "checks": [dataclasses.asdict(r) for r in rows]}))
    else:
        print(f"driver: {station.arm.driver}\n{table(rows)}")
    return 1 if any(row.verdict == "broken" for row in rows) else 0


def main() -> int:
    return run_client(ArmCheckConfig, check, "interrupted: the arm holds where it is")


if __name__ == "__main__":
    sys.exit(main())
