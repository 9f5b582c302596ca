"""What runs measured, as the rows of a card: success with its 95 % interval and the number of trials behind it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gymnast_core.config import find_model, parse_config, read_mapping
from gymnast_core.contents import one_line
from gymnast_core.errors import ConfigError
from gymnast_core.estimates import wilson_interval
from gymnast_core.evaluation.canary import CanaryResult
from gymnast_core.evaluation.comparison import ComparisonResult
from gymnast_core.evaluation.imagined_result import ImaginedResult
from gymnast_core.evaluation.session import TrialsResult
from gymnast_core.files import is_number, read_json
from gymnast_core.results import RESULT
from gymnast_core.rl.adapt_result import AdaptResult
from gymnast_core.world_model.fidelity import Fidelity

NORMAL = 1.96
"""Standard errors to either side of a 95 % interval."""
RESULTS = (AdaptResult, CanaryResult, TrialsResult, ComparisonResult, ImaginedResult)
VERBS = "`policy evaluate`, `policy imagine`, `trials`, `canary`, `adapt`"


@dataclass(frozen=True)
class Row:
    """One line of a card. what: "success of the base". where: "in imagination". value, interval: 0 to 1, differences -1
    to 1; None where it was tried and nothing could be judged. n: of what `unit` says; None where
    nothing says how many."""

    what: str
    task: str
    where: str
    value: float | None
    interval: tuple[float, float] | None
    n: int | None
    unit: str = "trials"

    def cells(self) -> tuple[str, ...]:
        """As people read it."""
        interval = "not known" if self.interval is None else f"{self.interval[0]:.2f} to {self.interval[1]:.2f}"
        value = "not judged" if self.value is None else f"{self.value:.2f}"
        count = "not known" if self.n is None else f"{self.n} {self.unit}"
        return self.what, self.task or "all tasks", self.where, value, interval, count


def counted(what: str, task: str, where: str, successes: int, n: int, unit: str = "trials") -> Row:
    """A rate of n outcomes, with Wilson's interval."""
    outcomes = [1.0] * successes + [0.0] * (n - successes)
    return Row(what, task, where, successes / n if n else None, wilson_interval(outcomes), n, unit)


def estimated(
    what: str, task: str, where: str, mean: float | None, error: float | None, n: int, unit: str, low: float = 0.0
) -> Row:
    """A mean with a standard error; its interval stays between `low` and 1."""
    if mean is None or error is None or not (math.isfinite(mean) and math.isfinite(error)):
        return Row(what, task, where, mean, None, n, unit)
    interval = max(low, mean - NORMAL * error), min(1.0, mean + NORMAL * error)
    return Row(what, task, where, mean, interval, n, unit)


@dataclass(frozen=True)
class Own:
    """What a push sends, so that the figures of another policy are not taken for its own. adapter: its name, "" for a
    policy. weights: fingerprint of a policy, "" for an adapter. folder: where it lies."""

    folder: Path
    adapter: str = ""
    weights: str = ""


def read_rows(run: Path, own: Own) -> list[Row]:
    """The rows of a run folder's result.json.

    Raises: ConfigError where it measured something else, naming what, or is another kind of run; CheckpointError for
        what is not JSON.
    """
    path = run / RESULT
    content = read_json(path)
    for kind in RESULTS:
        if _fits(kind, content):
            result = parse_config(kind, content, str(path))
            names = _refuse_other(result, own, path)
            return _rows(result, names)
    if content and all(_is_estimate(value) for value in content.values()):
        _refuse_other_policy(run, own)
        where = "on the simulated station"
        return [
            counted("success", _task(name), where, round(one["mean"] * one["n"]) if one["n"] else 0, one["n"])
            for name, one in content.items()
        ]
    raise ConfigError(f"measured: {path}: found no success of a policy; allowed are runs of {VERBS}")


def _refuse_other(result: Any, own: Own, path: Path) -> tuple[str, ...]:
    """The names under which a result has what is sent. Raises: ConfigError where it has none."""
    if isinstance(result, ImaginedResult):
        measured = {result.made_with.get("adapter") or result.made_with.get("policy weights", ""): result.policy}
    elif isinstance(result, ComparisonResult):
        measured = {result.weights.get(name, "") if own.weights else name: name for name in result.policies}
    elif isinstance(result, AdaptResult):
        measured = {result.adapter_id or result.refused_adapter: "success after"}
    else:
        name = result.adapter if isinstance(result, CanaryResult) else result.policy
        same = bool(own.weights) and Path(name).expanduser().resolve() == own.folder
        measured = {own.weights if same else name: name}
    wanted = own.adapter or own.weights
    if wanted not in measured:
        found = ", ".join(one_line(key or "unknown", 60) for key in measured)
        raise ConfigError(f"measured: {path}: found figures of {found}; needed those of {wanted}")
    return (measured[wanted],)


def _refuse_other_policy(run: Path, own: Own) -> None:
    """The same of `policy evaluate`, whose config says which policy it tried."""
    name = str(read_mapping(run / "config.yaml").get("policy", ""))
    if own.adapter or find_model(name, network=False) != own.folder:
        raise ConfigError(f"measured: {run}: found figures of '{one_line(name, 60)}'; needed those of {own.folder}")


def _fits(kind: type[Any], content: Mapping[str, Any]) -> bool:
    fields = dataclasses.fields(kind)
    needed = {
        one.name for one in fields if one.default is dataclasses.MISSING and one.default_factory is dataclasses.MISSING
    }
    return needed <= set(content) <= {one.name for one in fields}


def _is_estimate(value: object) -> bool:
    return (
        isinstance(value, dict)
        and set(value) == {"mean", "standard_error", "n"}
        and all(map(is_number, value.values()))
    )


def _rows(result: Any, names: tuple[str, ...]) -> list[Row]:
    if isinstance(result, AdaptResult):
        return _of_adapt(result)
    if isinstance(result, CanaryResult):
        return rows_of_canary(dataclasses.asdict(result))
    if isinstance(result, TrialsResult):
        n = len(result.outcomes) - result.abstentions
        return [counted("success", "", "on the station", result.successes, n)]
    if isinstance(result, ImaginedResult):
        tasks = result.tasks.items() or [("", result.overall)]
        return [
            estimated("success", task, "in imagination", one.success, one.standard_error, one.rollouts, "rollouts")
            for task, one in tasks
        ]
    where = f"on station {result.station}"
    return [
        Row(f"success of {rate.policy}", rate.task, where, rate.rate, rate.interval, rate.trials)
        for rate in result.rates
        if rate.policy in (*names, result.policies[0])
    ]


def _of_adapt(result: AdaptResult) -> list[Row]:
    task, where, n, unit = result.instruction, "in imagination", result.pairs, "pairs"
    change = None
    if result.success_before is not None and result.success_after is not None:
        change = result.success_after - result.success_before
    return [
        Row("success before", task, where, result.success_before, None, n, unit),
        Row("success after", task, where, result.success_after, None, n, unit),
        estimated("change of success", task, where, change, result.standard_error, n, unit, -1.0),
        *(
            estimated(
                "change of success", one.instruction, where, one.difference, one.standard_error, one.pairs, unit, -1.0
            )
            for one in result.others
        ),
    ]


def rows_of_canary(trials: Mapping[str, Any], station: str = "") -> list[Row]:
    """The rows of paired trials on a station, as an adapter's evidence keeps them; none where it keeps none."""
    if not _fits(CanaryResult, trials):
        return []
    result = parse_config(CanaryResult, trials, "evidence.json: trials")
    where = f"on station {station}, from the same resets" if station else "on the station, from the same resets"
    return [
        counted("success of the base", result.task, where, result.base_successes, result.pairs, "pairs"),
        counted("success of the adapter", result.task, where, result.adapter_successes, result.pairs, "pairs"),
    ]


def rows_of_fidelity(found: Fidelity) -> Iterable[Row]:
    """What was measured of a world model's outcomes."""
    for name, one in found.replay.items():
        agreed = round(one.agreement * one.episodes)
        what, where = "replayed outcome agrees with the real one", "on held-out episodes"
        yield counted(what, _task(name), where, agreed, one.episodes, "episodes")
    for name, loop in found.closed_loop.items():
        what, where = "imagined success less real success", "in closed loop"
        yield estimated(what, _task(name), where, loop.bias, loop.standard_error, loop.episodes, "episodes", -1.0)


def _task(name: str) -> str:
    """A task's name as a row has it."""
    return "" if name == "all" else name
