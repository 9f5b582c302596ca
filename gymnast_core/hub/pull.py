"""`gymnast hub pull`: a model or a data set of the Hugging Face Hub comes to this machine, whole or not at all."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from gymnast_core.commands import gymnast, name_next
from gymnast_core.errors import ConfigError, HubError
from gymnast_core.files import put_in_place, read_json, user_path
from gymnast_core.hub.pull_config import PullConfig
from gymnast_core.hub_files import fetch
from gymnast_core.hub_names import HubName, parse_hub_name
from gymnast_core.hub_session import Kind, explained, response_of
from gymnast_core.policy.adapter_state import EVIDENCE, Evidence, read_evidence, write_evidence
from gymnast_core.policy.adapters import NAME, RECORD
from gymnast_core.policy.lora_files import CONFIG
from gymnast_core.progress import say

FORBIDDEN = (401, 404)
"""Answers of a Hub that has no model of a name, or shows none."""


def pull(config: PullConfig) -> int:
    """Fetch, and copy where that is asked for; prints the folder. Raises: ConfigError, HubError, CheckpointError."""
    name = parse_hub_name(config.name)
    out = user_path(config.out, "out") if config.out else None
    if out is not None:
        _check_free(out)
    folder, kind = _fetch(name, config.kind)
    if (folder / CONFIG).exists() and not (folder / "config.json").exists():
        out = out or user_path(config.adapters, "adapters") / _adapter_name(name, folder)
        _check_free(out)
        _copy(folder, out, name)
        name_next(gymnast("adapter list", adapters=out.parent))
    elif out is not None:
        _copy(folder, out, name)
    found = out or folder
    print(found)
    if kind == "dataset" and out is None:
        say(f"`--data {name}` names it from now on; --out makes a copy of your own")
    return 0


def _fetch(name: HubName, kind: str) -> tuple[Path, Kind]:
    """The folder in the cache, and what it is. Raises: HubError; of the model where there is neither."""
    if kind != "auto":
        chosen: Kind = "model" if kind == "model" else "dataset"
        return fetch(str(name), chosen), chosen
    try:
        return fetch(str(name), "model"), "model"
    except HubError as error:
        response = response_of(error)
        if response is not None and response.status_code not in FORBIDDEN:
            raise
        try:
            return fetch(str(name), "dataset"), "dataset"
        except HubError as other:
            response = response_of(other)
            raise error if response is None or response.status_code in FORBIDDEN else other from other


def _check_free(out: Path) -> None:
    """Raises: ConfigError where something lies there."""
    if os.path.lexists(out) and not (out.is_dir() and not any(out.iterdir())):
        raise ConfigError(f"out: {out} holds something already; choose another folder, or remove it")


def _copy(folder: Path, out: Path, name: HubName) -> None:
    """The folder's files as files of their own, whole or not at all. Raises: HubError for a full disk."""
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        with explained(name, "model"):
            out.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
            for path in sorted(path for path in folder.rglob("*") if path.is_file()):
                target = temporary / path.relative_to(folder)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)
            _lower_evidence(temporary, name)
            put_in_place(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _lower_evidence(folder: Path, name: HubName) -> None:
    """What another robot confirmed, this one has not: only a roll-back holds everywhere."""
    if not (folder / EVIDENCE).exists():
        return
    evidence = read_evidence(folder)
    if evidence.state == "rolled back":
        return
    there = f"{evidence.words}, {evidence.reason}" if evidence.reason else evidence.words
    lowered = Evidence("imagined", gated=False, reason=f"from {name}; there: {there}", trials=evidence.trials)
    (folder / EVIDENCE).unlink()
    write_evidence(folder, lowered)


def _adapter_name(name: HubName, folder: Path) -> str:
    """The name that an adapter had where it was made; the repository's where it says none that is allowed."""
    own = str(read_json(folder / RECORD).get("name", "")) if (folder / RECORD).exists() else ""
    plain = re.sub(r"[^A-Za-z0-9_-]", "_", name.repository.split("/")[1])[:100]
    return own if NAME.fullmatch(own) else plain
