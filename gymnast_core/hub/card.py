"""The card of what is pushed (README.md): what it is, what was measured of it and what was not, how to load it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from gymnast_core.contents import one_line
from gymnast_core.data.formats import find_all
from gymnast_core.data.lerobot_dataset import INFO_FILE
from gymnast_core.hub.measured import Row, rows_of_canary, rows_of_fidelity
from gymnast_core.hub.parcel import VERSION, WORDS, Parcel
from gymnast_core.hub_names import HubName
from gymnast_core.policy.adapter_state import read_evidence
from gymnast_core.policy.adapters import AdapterStore
from gymnast_core.policy.checkpoint import fingerprint
from gymnast_core.policy.lora_files import CONFIG
from gymnast_core.results import read_record
from gymnast_core.world_model.fidelity import Fidelity
from gymnast_core.world_model.fidelity import fingerprint as world_model_fingerprint

HEAD = ("what", "task", "where", "value", "95 % interval", "n")


@dataclass
class Facts:
    """What a card says. about: lines of its first table. rows: measured. missing: what was not measured, in words.
    load: shell lines. tags: of the Hub, besides everybody's."""

    about: dict[str, str] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    load: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)


def write_card(
    parcel: Parcel, name: HubName, license_name: str, base: str = "", task: str = "", rows: Sequence[Row] = ()
) -> str:
    """README.md of a parcel. rows: what runs measured. Raises: GymnastError where the folder cannot be read."""
    facts = READERS[parcel.thing](parcel, HubName(name.repository), task)
    if base:
        facts.about = {"base": base} | {key: value for key, value in facts.about.items() if key != "base"}
    facts.rows += rows
    if parcel.thing in ("policy", "adapter"):
        facts.missing = [*_missing_success(facts.rows), *facts.missing]
    title = name.repository.split("/")[1]
    parts = [
        f"---\n{_front(parcel, license_name, base, facts)}---",
        f"# {title}",
        f"A {WORDS[parcel.thing]} for `gymnast`, sent by `gymnast hub push`.",
        _table(("", ""), facts.about.items()),
        "## Measured",
        _table(HEAD, [row.cells() for row in facts.rows]) if facts.rows else "Nothing was measured.",
        "Intervals of counts are Wilson's; the others are 1.96 standard errors to either side." if facts.rows else "",
        "\n".join(f"- {words}" for words in facts.missing),
        "## Load it",
        "```\n" + "\n".join(facts.load) + "\n```",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _missing_success(rows: Sequence[Row]) -> list[str]:
    """What of a policy's success was not measured."""
    where = [row.where for row in rows if "success" in row.what and row.value is not None]
    if not where:
        return ["Success was not measured."]
    if not any("station" in place for place in where):
        return ["Success on a station, simulated or real, was not measured."]
    return []


def _front(parcel: Parcel, license_name: str, base: str, facts: Facts) -> str:
    """What the Hub reads of a card."""
    content: dict[str, Any] = {"license": license_name, "tags": ["robotics", "gymnast", *facts.tags]}
    if parcel.thing == "dataset":
        content |= {
            "task_categories": ["robotics"],
            "configs": [{"config_name": "default", "data_files": "data/*/*.parquet"}],
        }
    else:
        content |= {"library_name": "gymnast", "pipeline_tag": "robotics"}
        if base:
            content["base_model"] = base
            content |= {"base_model_relation": "adapter"} if parcel.thing == "adapter" else {}
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    """Foreign words within a table of Markdown."""
    plain = one_line(str(text), 300)
    for sign in ("\\", "|", "<", "[", "`"):
        plain = plain.replace(sign, f"\\{sign}")
    return plain


def _of_adapter(parcel: Parcel, name: HubName, task: str) -> Facts:
    record = AdapterStore(parcel.folder.parent).read(parcel.folder.name)
    evidence = read_evidence(parcel.folder)
    facts = Facts(tags=["lora"])
    own = parcel.read(CONFIG).get("base_model_name_or_path")
    facts.about = {
        "base": str(own or "not said"),
        "weights of the base": record.base or "not known: other code wrote the adapter",
        "task": task or record.task or "not said",
        "station": record.station or "not said",
        "state": evidence.words,
        "rank, alpha": f"{record.rank}, {record.alpha:g}",
        "made": record.created or "not said",
    }
    about = task or record.task
    for key, value in record.metrics.items():
        what = key.replace("_", " ")
        facts.rows.append(Row(what, about, "in imagination, when it was made", value, None, None))
    facts.rows += rows_of_canary(evidence.trials, record.station)
    facts.missing.append("Success on other robots, cameras and tasks was not measured.")
    facts.load = [
        f"gymnast hub pull {name}",
        f"gymnast adapter evaluate --adapter {parcel.folder.name}",
    ]
    return facts


def _of_policy(parcel: Parcel, name: HubName, task: str) -> Facts:
    content, made = parcel.read("config.json"), parcel.read("gymnast.json")
    facts = Facts(tags=[one_line(str(content.get("model_type")), 40)])
    facts.about = {
        "base": str(made.get("base") or "not said"),
        "task": task or "not said",
        "made by": str(made.get("command") or "not said"),
        "weights": fingerprint(parcel.folder),
        "statistics of actions": ", ".join(map(str, content.get("norm_stats") or {})) or "none",
    }
    facts.load = [f"gymnast policy evaluate --policy {name}", f"gymnast serve --policy {name}"]
    return facts


def _of_world_model(parcel: Parcel, name: HubName, task: str) -> Facts:
    content = parcel.read("config.json")
    made = content.get("made_by")
    facts = Facts(tags=["world-model"])
    facts.about = {
        "task": task or "any that its training data show",
        "made by": str(made.get("command", "not said")) if isinstance(made, Mapping) else "not said",
        "frames": f"{content.get('image_size', 'not said')} pixels",
        "weights": world_model_fingerprint(parcel.folder),
    }
    gate = parcel.folder / "gate.json"
    if gate.exists():
        found = read_record(Fidelity, gate, "measure it again, or remove the file")
        if found.weights == facts.about["weights"]:
            facts.about |= {"measured": found.measured, "sampling": found.sampling, "horizon": f"{found.horizon} steps"}
            facts.rows += rows_of_fidelity(found)
        else:
            facts.missing.append("Its outcomes were measured with other weights (gate.json), so not here.")
    if not facts.rows:
        facts.missing.append("How far its outcomes agree with real ones was not measured.")
    facts.missing.append("Frames of other cameras, robots and scenes than those of its training were not measured.")
    facts.load = [
        f"gymnast world-model evaluate --model {name} --data EPISODES --config YOUR_STATION.yaml",
        f"gymnast adapt --world-model {name} --frame FRAME.png --instruction WORDS",
    ]
    return facts


def _of_dataset(parcel: Parcel, name: HubName, task: str) -> Facts:
    info = parcel.read(INFO_FILE)
    episodes = find_all(parcel.folder)
    outcomes = [episode.outcome() for episode in episodes]
    tasks = Counter(episode.describe().instruction or "no instruction" for episode in episodes)
    facts = Facts(tags=["LeRobot"])
    facts.about = {
        "format": f"LeRobot {VERSION}",
        "robot": str(info.get("robot_type") or "not said"),
        "episodes": str(len(episodes)),
        "frames": f"{info.get('total_frames')} at {info.get('fps')} per second",
        "task": task or f"{len(tasks)}: {'; '.join(f'{words} ({count})' for words, count in tasks.most_common(10))}",
    }
    known = [one for one in outcomes if one.success is not None]
    by = Counter(one.by or "the log" for one in known)
    if known:
        said = ", ".join(f"{who} {count}" for who, count in sorted(by.items()))
        successes = sum(bool(one.success) for one in known)
        facts.about["outcomes"] = f"{successes} successes of {len(known)}, said by: {said}"
    if len(known) < len(outcomes):
        facts.missing.append(f"Of {len(outcomes) - len(known)} episodes nobody said whether they succeeded.")
    facts.missing.append("No policy was trained on it for this card.")
    facts.load = [
        f"gymnast sft --data {name}",
        f"python -c \"from lerobot.datasets.lerobot_dataset import LeRobotDataset as D; D('{name.repository}')\"",
    ]
    return facts


READERS = {
    "adapter": _of_adapter,
    "policy": _of_policy,
    "world_model": _of_world_model,
    "dataset": _of_dataset,
}
