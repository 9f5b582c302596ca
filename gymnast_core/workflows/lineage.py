"""What was made from what: every world model, judge and adapter of `gymnast dyna`, with its parents, in lineage.json.

A model is named by a hash of its weights, so that a model that two runs share has one name, and the tree goes on from
one run to the next. An adapter keeps its own name.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gymnast_core.config import StationConfig, find_model
from gymnast_core.files import files_of_folders, write_json
from gymnast_core.results import read_record
from gymnast_core.station_file import StationFile
from gymnast_core.workflows.learn_result import ALL, Learned
from gymnast_core.workflows.learned_station import GATE_JUDGE, JUDGE, SECOND, WORLD_MODEL
from gymnast_core.workflows.rounds import RoundRecord
from gymnast_core.world_model.fidelity import fingerprint

LINEAGE = "lineage.json"
POLICY, ADAPTER = "policy", "adapter"
DIGITS = 12
BESIDE = frozenset(("familiarity.safetensors",))
"""Tensors beside the weights that are no part of a model."""


@dataclass(frozen=True)
class Artefact:
    """Something that was made, or that a run began with.

    name: the kind with 12 digits of the weights' hash, or an adapter's name. kind: "world_model", "second_world_model",
    "judge", "gate_judge", "policy" or "adapter". path: where it lies; of an adapter its name. parents: names; the first
    is what it was trained from. state: "given" (by the station file), "used", "refused" (not better), or what became of
    an adapter. round: None for what was given. figures: by name, in words. why: it is not used, in words.
    """

    name: str
    kind: str
    path: str
    state: str
    parents: tuple[str, ...] = ()
    round: int | None = None
    figures: dict[str, str] = field(default_factory=dict)
    why: str = ""

    def __str__(self) -> str:
        where = "" if self.round is None else f", round {self.round}"
        figures = "; ".join(f"{name} {value}" for name, value in self.figures.items())
        return ": ".join(filter(None, (f"{self.name} ({self.state}{where})", figures, self.why)))


@dataclass(frozen=True)
class Lineage:
    """Content of lineage.json. run: the folder."""

    station: str
    run: str
    artefacts: tuple[Artefact, ...]


def given_by(station: StationFile) -> tuple[Artefact, ...]:
    """The models of a station file. Raises: ConfigError, CheckpointError where one is not there."""
    return tuple(Artefact(name_of(kind, path), kind, str(path), "given") for kind, path in models_of(station).items())


def models_of(station: StationFile) -> dict[str, Path]:
    """The folders of a station's models by kind; judges that learn nothing are left out. Raises: ConfigError."""
    config: StationConfig = station.config
    found = {POLICY: station.policy_folder, WORLD_MODEL: station.world_model_folder}
    if config.models.second_world_model:
        found[SECOND] = station.second_world_model_folder
    if config.judge.kind == "classifier":
        found[JUDGE] = find_model(config.judge.checkpoint, station.path)
    gate = config.adaptation.gate_judge
    name = gate if isinstance(gate, str) else gate.checkpoint if gate.kind == "classifier" else ""
    if name:
        found[GATE_JUDGE] = find_model(name, station.path)
    return found


def learned_in(number: int, folder: Path, learned: Learned, parents: Mapping[str, str]) -> tuple[Artefact, ...]:
    """What a round taught. folder: of the learning. parents: names of the round's models as they were, by kind."""
    found: dict[str, Artefact] = {}
    for kind in (WORLD_MODEL, SECOND, JUDGE, GATE_JUDGE):
        path = folder / kind / "model"
        if not path.is_dir() or not (kind in learned.models or kind in learned.refused):
            continue
        teachers = [found[WORLD_MODEL].name] if kind in (JUDGE, GATE_JUDGE) and WORLD_MODEL in found else []
        found[kind] = Artefact(
            name=name_of(kind, path),
            kind=kind,
            path=str(path),
            state="used" if kind in learned.models else "refused",
            parents=tuple(filter(None, (parents.get(kind, ""), *teachers))),
            round=number,
            figures=_figures(kind, learned),
            why=learned.refused.get(kind, ""),
        )
    return tuple(found.values())


def _figures(kind: str, learned: Learned) -> dict[str, str]:
    """A model's figures on the episodes that measure, before and after."""
    if kind in (JUDGE, GATE_JUDGE):
        return {"held-out": f"{learned.judges_before.get(kind, '-')} -> {learned.judges_after.get(kind, '-')}"}
    if kind != WORLD_MODEL:
        return {}
    pictures = [learned.pictures[when] for when in ("before", "after") if when in learned.pictures]
    found = {"pictures": " -> ".join(f"{one.mean:.1f} dB" for one in pictures)} if pictures else {}
    gates = [figures[ALL] for figures in (learned.before, learned.tried) if ALL in figures]
    return {**found, "gate": " -> ".join(map(str, gates))} if gates else found


def adapter_of(record: RoundRecord, parents: Mapping[str, str]) -> Artefact:
    """What a practice left. parents: names of the round's models, by kind."""
    figures = {}
    if record.imagined_before is not None and record.imagined_after is not None:
        figures["imagined"] = f"{record.imagined_before:.2f} -> {record.imagined_after:.2f}"
    if (canary := record.canary) is not None:
        figures["station"] = f"{canary.base_successes} -> {canary.adapter_successes} of {canary.pairs}"
    kinds = (POLICY, WORLD_MODEL, JUDGE)
    names = tuple(parents[kind] for kind in kinds if kind in parents)
    return Artefact(record.adapter, ADAPTER, record.adapter, record.state, names, record.number, figures)


def name_of(kind: str, path: Path) -> str:
    """A model's name. Raises: CheckpointError when its weights cannot be read."""
    files = [path] if path.is_file() else sorted(one for one in path.glob("*.safetensors") if one.name not in BESIDE)
    digest = hashlib.sha256("".join(map(fingerprint, files)).encode())
    return f"{kind}_{digest.hexdigest()[:DIGITS]}"


def write_lineage(folder: Path, lineage: Lineage) -> Path:
    """Write lineage.json into a run folder. Raises: DataError."""
    path = folder / LINEAGE
    write_json(path, dataclasses.asdict(lineage))
    return path


def read_lineages(folders: Sequence[Path]) -> list[Lineage]:
    """Every lineage.json at and below the folders, by path. Raises: CheckpointError for a damaged one."""
    paths = {
        (folder / LINEAGE).resolve() for root in folders for folder, names in files_of_folders(root) if LINEAGE in names
    }
    return [read_record(Lineage, path) for path in sorted(paths)]


def merged(lineages: Sequence[Lineage]) -> dict[str, Artefact]:
    """Artefacts by name: one that a run began with and another one made is what the latter says."""
    found: dict[str, Artefact] = {}
    for artefact in (one for lineage in lineages for one in lineage.artefacts):
        if artefact.name not in found or found[artefact.name].state == "given":
            found[artefact.name] = artefact
    return found


def tree(artefacts: Mapping[str, Artefact]) -> Iterator[str]:
    """The tree in lines, each artefact below its first parent; its other parents are named in brackets."""
    children: dict[str, list[Artefact]] = {}
    for one in artefacts.values():
        known = [name for name in one.parents if name in artefacts and name != one.name]
        children.setdefault(known[0] if known else "", []).append(one)
    shown: set[str] = set()

    def lines(one: Artefact, before: str, last: bool, root: bool) -> Iterator[str]:
        shown.add(one.name)
        others = f" [with {', '.join(one.parents[1:])}]" if len(one.parents) > 1 else ""
        yield f"{before}{'' if root else '└─ ' if last else '├─ '}{one}{others}"
        below = [child for child in children.get(one.name, ()) if child.name not in shown]
        shown.update(child.name for child in below)
        for number, child in enumerate(below):
            deeper = before if root else before + ("   " if last else "│  ")
            yield from lines(child, deeper, number == len(below) - 1, False)

    for one in (*children.get("", ()), *artefacts.values()):  # the latter where a file says that two made each other
        if one.name not in shown:
            yield from lines(one, "", True, True)
