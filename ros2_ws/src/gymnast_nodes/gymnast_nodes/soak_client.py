"""The ROS side of `gymnast soak`: bring the station up, inject one fault after the other, count what becomes of it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import random
import shutil
import sys
import time
from datetime import datetime
from pathlib import Path

from gymnast_msgs.msg import ArmState

from gymnast_core.config import StationConfig, dump_config, user_path
from gymnast_core.errors import StationError
from gymnast_core.files import write_bytes
from gymnast_core.results import write_result
from gymnast_core.robot.ros_domain import claim_domain
from gymnast_core.simulation.faults import KINDS, FaultKind
from gymnast_core.simulation.motors import ARM_JOINTS, MOTOR_IDS
from gymnast_core.soak import KindRow, SoakConfig, SoakResult, table
from gymnast_core.soak_page import write_soak_page
from gymnast_core.station_file import open_station
from gymnast_nodes.arm_check_bench import ArmBench, Broken
from gymnast_nodes.calls import in_executor
from gymnast_nodes.client import Station
from gymnast_nodes.client_verb import run_client
from gymnast_nodes.demo import UP_TIMEOUT_S, Graph
from gymnast_nodes.distributions import this_host_only
from gymnast_nodes.soak_watch import AT_WORK, HELD_AFTER_S, LONG, POLL_S, SHORT, SoakWatch
from gymnast_nodes.soak_work import Actions, Episodes, Work

WORKS_S = 30.0
RECOVER_S = 60.0
CALM_S = (0.5, 2.5)
CAMERA_NODE = "executor"
EPISODES_KEPT = 5


class Soak:
    """One soak in a run folder."""

    def __init__(self, config: SoakConfig) -> None:
        self._config = config
        own = open_station(config.config)
        folder = config.run or f"runs/soak/{datetime.now():%Y%m%d_%H%M%S}"
        self.folder = user_path(folder).resolve()
        (self.folder / "episodes").mkdir(parents=True, exist_ok=True)
        self.station = _soaked(own.portable(), self.folder / "episodes")
        self._file = self.folder / "station.yaml"
        write_bytes(self._file, dump_config(self.station).encode())
        write_bytes(self.folder / "config.yaml", dump_config(config).encode())
        self._random = random.Random(config.seed)
        self._rows = {kind: KindRow(kind) for kind in self._kinds()}
        self.problems: list[str] = []
        self._began, self._load = time.monotonic(), [os.getloadavg()[0]]
        self._graph: Graph | None = None
        self._client: Station | None = None
        self._domain = self._actions = 0
        self.interrupted = False

    def _kinds(self) -> list[str]:
        driven = CAMERA_NODE in self._config.without  # nobody looks at the camera
        kinds = [k for k in KINDS.values() if not (driven and k.where == "camera")]
        return [k.name for k in kinds if not self._config.kinds or k.name in self._config.kinds]

    # The station

    def bring_up(self) -> None:
        """Raises: StationError where the station does not come up."""
        if not self._domain:
            self._domain = claim_domain()
            os.environ["ROS_DOMAIN_ID"] = str(self._domain)
            os.environ.update(this_host_only())
            os.environ["GYMNAST_STATE"] = str(self.folder / "state")
        self._graph = Graph(self._file, self._domain, self.folder / "graph.log", self._config.without)
        self._client = Station(domain=self._domain)
        self._client.wait_until_active(UP_TIMEOUT_S, self._graph.check)
        episodes = CAMERA_NODE not in self._config.without
        self._bench = ArmBench(self._client, self.station, commands=not episodes)
        self._work: Work = Episodes(self._client, self.station) if episodes else Actions(self._bench)
        self._watch = in_executor(self._client.node, lambda: SoakWatch(self._bench, self._work))

    def stop(self) -> None:
        """End the work and the station."""
        with contextlib.suppress(Exception):
            self._work.end()
        if self._client is not None:
            with contextlib.suppress(Exception):
                self._client.close()
        if self._graph is not None:
            self._graph.stop()

    def _restart(self) -> None:
        """After a fault from which the station did not come back."""
        self.stop()
        self.bring_up()

    # The loop

    def run(self) -> None:
        """Until the time is up; each kind once where no time is given. Raises: StationError, KeyboardInterrupt."""
        seconds = 3600.0 * self._config.hours + 60.0 * self._config.minutes
        deck: list[str] = []
        rounds = 0
        self._start_work()
        while time.monotonic() - self._began < seconds or (not seconds and (deck or not rounds)):
            if not deck:
                deck, rounds = list(self._rows), rounds + 1
                self._random.shuffle(deck)
            self._one(KINDS[deck.pop()])
            self._forget()

    def _one(self, kind: FaultKind) -> None:
        """Inject one fault, and see the station through it."""
        motor = self._motor(kind)
        name = f"{kind.name}:{motor}" if motor else kind.name
        self._calm(self._random.uniform(*CALM_S))
        lasting = self._random.uniform(SHORT, LONG)
        since = time.monotonic()
        self._bench.set_faults([name])
        noticed, how = self._watch.wait_noticed(kind, since)
        took = time.monotonic() - since
        if not noticed and self._watch.idle(kind, since):
            self._recover(kind)
            self._say(f"{name}: not counted, nothing was asked of the arm")
            return
        time.sleep(max(0.0, since + lasting - time.monotonic(), HELD_AFTER_S))
        held = self._watch.held(kind, since + took)
        recovered, rearmed, after = self._recover(kind)
        row = self._rows[kind.name]
        self._rows[kind.name] = dataclasses.replace(
            row,
            injected=row.injected + 1,
            noticed=row.noticed + noticed,
            held=row.held + held,
            recovered=row.recovered + recovered,
            rearmed=row.rearmed + (recovered and rearmed),
            lost=row.lost + (not recovered),
            seconds=(*row.seconds, round(took, 3)) if noticed and kind.answer != "go on" else row.seconds,
        )
        told = f"noticed after {took:.2f} s ({how})" if noticed else f"not noticed ({how})"
        told += f", {'held' if held else 'not held'}, {after}"
        self._say(f"{name}: {told}")
        if not (noticed and held and recovered):
            self.problems.append(f"{name}: {told}")
        if not recovered:
            self._restart()
            self._start_work()

    def _say(self, text: str) -> None:
        print(f"{(time.monotonic() - self._began) / 60:6.1f} min  {text}", file=sys.stderr, flush=True)

    def _motor(self, kind: FaultKind) -> str:
        choices = {
            "": ("",),
            "joint": ARM_JOINTS[:3] if kind.name == "stalled" else ARM_JOINTS,  # the others hardly move in the work
            "arm motor": tuple(name for name in MOTOR_IDS if name != "gripper"),
            "motor": tuple(MOTOR_IDS),
        }
        return self._random.choice(choices[kind.of])

    def _calm(self, seconds: float) -> None:
        """Work for a while, and until nothing is wrong; what ended or stands is begun anew.

        Raises: StationError where no work begins.
        """
        end = time.monotonic() + seconds
        while True:
            stands = self._bench.state.mode != ArmState.MODE_READY
            if self._work.over or (stands and time.monotonic() > end):
                self._recover_work()
            elif time.monotonic() > end:
                return
            time.sleep(POLL_S)

    # Coming back

    def _recover(self, kind: FaultKind) -> tuple[bool, bool, str]:
        """Mend the fault, and see that the station works again. Returns whether it does, whether a person had to
        re-arm, and both for people."""
        began = time.monotonic()
        with contextlib.suppress(StationError):  # a killed driver knows its faults no more
            self._bench.set_faults([""])
        try:
            if kind.answer == "go on" and not self._work.over:
                return True, False, "went on"
            rearmed = self._recover_work()
        except StationError as error:
            return False, False, f"lost: {error}"
        return True, rearmed, f"works again after {time.monotonic() - began:.1f} s{' (re-armed)' if rearmed else ''}"

    def _recover_work(self) -> bool:
        """Whether a person had to re-arm. Raises: StationError where the station does not work again in time."""
        end, rearmed, told = time.monotonic() + RECOVER_S, False, ""
        self._work.end()
        while time.monotonic() < end:
            assert self._graph is not None
            self._graph.check()
            try:
                if self._bench.state.mode == ArmState.MODE_STOPPED:
                    self._bench.rearm()
                    rearmed = True
                self._start_work()
                return rearmed
            except (Broken, StationError) as error:
                told = str(error)
                self._work.end()
                time.sleep(0.5)
        raise StationError(told)

    def _start_work(self) -> None:
        """From the arm's start. Raises: StationError where no action is executed."""
        self._bench.reset()
        first = len(self._bench.executed)
        self._work.begin()
        end = time.monotonic() + WORKS_S
        while sum(message.accepted for _, message in self._bench.executed[first:]) < AT_WORK:
            if time.monotonic() > end or self._work.over:
                raise StationError(f"no action is executed: {self._bench.state.detail or 'the work ended'}")
            time.sleep(POLL_S)

    def _forget(self) -> None:
        """Nothing grows for hours: neither what was heard nor the log, of which the last episodes are kept."""
        self._actions += self._watch.forget()
        for folder in sorted((self.folder / "episodes").glob("*/"))[:-EPISODES_KEPT]:
            shutil.rmtree(folder, ignore_errors=True)

    def result(self) -> SoakResult:
        """As far as it came."""
        return SoakResult(
            station=self.station.name,
            minutes=round((time.monotonic() - self._began) / 60.0, 2),
            episodes=self._work.done,
            actions=self._actions + sum(message.accepted for _, message in self._bench.executed),
            seed=self._config.seed,
            kinds=tuple(self._rows.values()),
            problems=tuple(self.problems),
            load=(*self._load, os.getloadavg()[0]),
            interrupted=self.interrupted,
        )


def _soaked(station: StationConfig, episodes: Path) -> StationConfig:
    """The station with its log in the run folder, and episodes that no success ends."""
    recorder = dataclasses.replace(station.recorder, folder=str(episodes))
    executor = dataclasses.replace(station.executor, stop_at_success=False)
    return dataclasses.replace(station, recorder=recorder, executor=executor)


def soak(config: SoakConfig) -> int:
    """Raises: GymnastError where the station cannot be soaked at all."""
    one = Soak(config)
    try:
        one.bring_up()
        try:
            one.run()
        except KeyboardInterrupt:
            one.interrupted = True
        except StationError as error:
            one.problems.append(f"the station was lost: {error}")
        result = one.result()
    finally:
        one.stop()
    write_result(one.folder, result)
    page = write_soak_page(one.folder, result)
    if config.json:
        print(json.dumps(dataclasses.asdict(result)))
    else:
        print(table(result))
    for problem in result.problems:
        print(f"problem: {problem}", file=sys.stderr)
    print(f"report: {page}", file=sys.stderr)
    return 0 if result.passed else 1


def main() -> int:
    return run_client(SoakConfig, soak, "interrupted")


if __name__ == "__main__":
    sys.exit(main())
