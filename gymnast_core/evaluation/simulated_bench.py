"""The simulated station as a bench for sessions of trials, without ROS and without waiting for a clock."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from gymnast_core.config import StationConfig
from gymnast_core.data.outcome import ABORTED, FAILURE, SUCCESS
from gymnast_core.errors import DataError, JudgeError, StationError
from gymnast_core.evaluation.resets import SIMULATED, ResetReport
from gymnast_core.evaluation.session import EpisodeOutcome, PlannedTrial, Tell, trial_name
from gymnast_core.policy.choice import StationPolicies
from gymnast_core.progress import busy, say
from gymnast_core.protocols import Judge, Policy, Start
from gymnast_core.reward.check import check_judge
from gymnast_core.reward.factory import load_judge
from gymnast_core.rollout.ending import station_ending
from gymnast_core.rollout.look_ahead import ActingPolicies, LookAheadPolicy
from gymnast_core.rollout.trials import TrialLog, run_trials
from gymnast_core.simulation.environment import StationEnvironment
from gymnast_core.station_file import StationFile


class SimulatedBench:
    """`evaluation.session.Bench` on the simulated station.

    choose: the policy of a name ("base" or an adapter's). log: folder that episodes are written to, each named by its
    trial: one that is run again takes its own place. practise: adapts from a frame and returns an adapter's name;
    without it a plan may not ask for practice. temperature: of sampling; 0 acts greedily, as the executor does. judge:
    ends an episode where the station file says so (`executor.stop_at_success`); without one, the station's truth does.
    """

    def __init__(
        self,
        station: StationConfig,
        choose: Callable[[str], Policy],
        log: Path | None = None,
        practise: Callable[[str, np.ndarray, int], str] | None = None,
        temperature: float = 0.0,
        judge: Judge | None = None,
    ) -> None:
        self._station = station
        self._choose = choose
        self._log = log
        self._practise = practise
        self._temperature = temperature
        self._environment = StationEnvironment(station)
        self._judge = judge
        self._ending = station_ending(station.executor, judge)
        self._start: Start | None = None
        self._outcome: bool | None = None

    def check(self, tasks: Sequence[str]) -> None:
        """A judge that ends episodes answers; elsewhere the truth alone says what became of them.

        Raises: StationError naming what is wrong.
        """
        if self._judge is None:
            return
        words = [self._station.task(task).instruction for task in tasks]
        picture = self._environment.reset([Start(words[0], None, tasks[0], 0)])[0]
        try:
            answer = check_judge(self._judge, picture, words)
        except JudgeError as error:
            raise StationError(f"no trial begins, the judge does not answer: {error}") from error
        for line in (str(answer), *answer.abstained.values()) if answer is not None else ():
            say(line)

    def reset(self, task: str, seed: int) -> ResetReport:
        """Note the start; the episode's own reset brings arm and scene there."""
        self._start = Start(self._station.task(task).instruction, None, task, seed)
        self._outcome = None
        return ResetReport(attempts=1, method=SIMULATED)

    def frame(self) -> np.ndarray:
        """The scene at the start as the camera sees it, (S, S, 3) uint8."""
        return self._environment.reset([self._begun()])[0]

    def practise(self, task: str, seed: int, tell: Tell) -> str:
        """The adapter's name. Raises: StationError where this bench does not practise."""
        if self._practise is None:
            raise StationError("this bench does not practise; name a policy or an adapter")
        return self._practise(task, self.frame(), seed)

    def run(self, trial: PlannedTrial, max_steps: int, tell: Tell) -> EpisodeOutcome:
        """One episode from the start, ended as the executor ends it. As over ROS, wrong actions and a server that does
        not answer abort it."""
        start, task = self._begun(), self._station.task(trial.task)
        path = "" if self._log is None else str(self._log / trial_name(trial))
        self._outcome, steps = None, max_steps or task.max_steps
        try:
            policy = self._choose(trial.policy)
            log = self._log_of(trial, policy, path) if path else None
            (done,) = run_trials(policy, self._environment, [start], steps, self._temperature, log, ending=self._ending)
        except DataError as error:
            return EpisodeOutcome(ABORTED, message=str(error))
        self._outcome = done.success
        outcome = SUCCESS if done.success else FAILURE
        return EpisodeOutcome(outcome, done.steps, path).at_the_cost_of(done.strain)

    def truth(self, task: str) -> bool | None:
        """Whether the last episode succeeded."""
        return self._outcome

    def close(self) -> None:
        """Give the renderer back."""
        self._environment.close()

    def _log_of(self, trial: PlannedTrial, policy: Policy, path: str) -> TrialLog:
        """The log of one episode, in the folder `path`."""
        shutil.rmtree(path, ignore_errors=True)  # of the same trial, cut short before it was on record
        facts = {
            "station": self._station.name,
            "policy": trial.policy,
            "look_ahead": policy.candidates if isinstance(policy, LookAheadPolicy) else 0,
            "temperature": self._temperature,
        }
        return TrialLog(lambda number, begun: Path(path), facts)

    def _begun(self) -> Start:
        if self._start is None:
            raise StationError("the station was not reset yet")
        return self._start


@contextlib.contextmanager
def open_simulated_bench(
    opened: StationFile, policies: StationPolicies, names: Sequence[str], run: Path
) -> Iterator[SimulatedBench]:
    """A bench on which the policies of these names act, each open and asked once; episodes go below `run`.

    Raises: ConfigError, CheckpointError, DataError (a policy), JudgeError.
    """
    station = opened.config
    judge = load_judge(station, opened.path, run) if station.executor.stop_at_success else None
    with contextlib.closing(policies):
        acting = ActingPolicies(opened, policies, str(run))
        with busy("loading policies"):
            for name in names:
                acting.choose(name)
        with contextlib.closing(SimulatedBench(station, acting.choose, run / "episodes", judge=judge)) as bench:
            yield bench
