"""What an `hf:` name means becomes a folder on this machine: the one place that fetches from the Hugging Face Hub.

Files come into the library's own cache, each whole or not at all, and are never fetched twice. Only kinds of files that
are read here are fetched: no code, no pickles, no weights but safetensors.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from gymnast_core.errors import HubError
from gymnast_core.hub_names import HubName, parse_hub_name
from gymnast_core.hub_session import (
    BUSY,
    SECONDS,
    TRANSPORT,
    Kind,
    explained,
    hub_api,
    hub_token,
    is_offline,
    patiently,
    response_of,
)
from gymnast_core.progress import say

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling

WEIGHTS = ".safetensors"
TAKEN: dict[Kind, tuple[str, ...]] = {
    "model": (f"*{WEIGHTS}", "*.json", "*.model", "*.txt", "*.md", "*.jinja"),
    "dataset": (
        *("*.parquet", "*.mp4", "*.json", "*.jsonl", "*.npz", "*.npy", "*.png", "*.jpg", "*.jpeg", "*.txt", "*.md"),
        *("*.mcap", "*.mcap.zstd", "*.db3", "*.db3.zstd", "*.bag", "*.yaml", "*.tfrecord*"),
    ),
}
"""Names of the files that are fetched and sent; no other file is, whatever a repository or folder holds."""
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_fetched: dict[tuple[HubName, Kind], Path] = {}
"""What this process looked up: a name stays the same commit to its end."""


def is_taken(path: str, kind: Kind) -> bool:
    """Whether a file of this name is fetched and sent."""
    return any(fnmatchcase(path, pattern) for pattern in TAKEN[kind])


def fetch(text: str, kind: Kind, network: bool = True) -> Path:
    """The folder of an `hf:` name, in the library's cache; it is fetched where it is missing there.

    network: False for names from whoever may not make this machine fetch: only what the cache holds is found then.

    Raises: ConfigError for a name of another form, HubError for whatever the Hub, the network or the disk refuses.
    """
    name = parse_hub_name(text)
    if (name, kind) not in _fetched:
        with explained(name, kind):
            folder = _ask(name, kind) if network and not is_offline() else _cached(name, kind)
        if folder is None:
            why = "offline mode is on (HF_HUB_OFFLINE)" if network else "nothing is fetched for a goal, a job or a file"
            raise HubError(f"{name}: not in the cache {cache()}, and {why}; fetch it with `gymnast hub pull {name}`")
        _fetched[name, kind] = folder
    return _fetched[name, kind]


def cache() -> Path:
    """The library's cache: HF_HUB_CACHE as it is now, which the library reads when it is imported."""
    from huggingface_hub import constants

    return Path(os.environ.get("HF_HUB_CACHE") or constants.HF_HUB_CACHE).expanduser()


def _ask(name: HubName, kind: Kind) -> Path | None:
    """The newest commit of a name, fetched; the cached one, with a warning, where the Hub does not answer."""
    try:
        return _download(name, kind)
    except Exception as error:
        response = response_of(error)
        silent = type(error).__module__.startswith(TRANSPORT)
        if not (silent or (response is not None and response.status_code in BUSY)):
            raise
        if (folder := _cached(name, kind)) is None:
            raise
        why = f"answers {response.status_code}" if response is not None else "does not answer"
        say(f"warning: {name}: the Hub {why}; commit {folder.name[:12]} is used, which the cache holds", "yellow")
        return folder


def _download(name: HubName, kind: Kind) -> Path:
    from huggingface_hub import snapshot_download

    api, revision = hub_api(), name.revision or None
    found = patiently(
        lambda: api.repo_info(name.repository, revision=revision, timeout=SECONDS, repo_type=kind, files_metadata=True)
    )
    files: Sequence[RepoSibling] = getattr(found, "siblings", None) or ()
    _check_content(name, kind, [file.rfilename for file in files])
    wanted = [file for file in files if is_taken(file.rfilename, kind)]
    _make_sure_of_room(name, kind, str(found.sha), wanted)
    folder = patiently(
        lambda: snapshot_download(
            name.repository,
            repo_type=kind,
            revision=revision,
            allow_patterns=list(TAKEN[kind]),
            cache_dir=cache(),
            endpoint=api.endpoint,
            token=hub_token(),
            etag_timeout=SECONDS,
        )
    )
    return Path(folder)


def _cached(name: HubName, kind: Kind) -> Path | None:
    """The folder of a name that the cache holds whole; None where it does not."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = snapshot_download(
            name.repository,
            repo_type=kind,
            revision=name.revision or None,
            allow_patterns=list(TAKEN[kind]),
            cache_dir=cache(),
            local_files_only=True,
            token=False,
        )
    except LocalEntryNotFoundError:
        return None
    return Path(folder)


def _check_content(name: HubName, kind: Kind, paths: Iterable[str]) -> None:
    """See that a repository holds what is read here, before anything is fetched. Raises: HubError, with what it has."""
    paths = sorted(paths)
    if kind == "model" and not any(path.endswith(WEIGHTS) for path in paths):
        pickled = next((path for path in paths if path.endswith(PICKLES)), "")
        found = f"{pickled}, which may hold a pickle and run code" if pickled else _few(paths)
        raise HubError(f"{name}: found {found}; needed weights as {WEIGHTS}")
    if not any(is_taken(path, kind) for path in paths):
        raise HubError(f"{name}: found {_few(paths)}; needed one of {', '.join(TAKEN[kind])}")


def _few(paths: Sequence[str]) -> str:
    return ", ".join(paths[:3]) + (f" and {len(paths) - 3} more" if len(paths) > 3 else "") or "no file"


def _make_sure_of_room(name: HubName, kind: Kind, commit: str, files: Iterable[RepoSibling]) -> None:
    """Say what will be fetched. Raises: HubError where the disk has no room for it."""
    from huggingface_hub import try_to_load_from_cache

    missing = [
        file
        for file in files
        if not isinstance(try_to_load_from_cache(name.repository, file.rfilename, cache(), commit, kind), str)
    ]
    if not missing:
        return
    size = sum(file.size or 0 for file in missing)
    folder = cache()
    say(f"{name}: fetching {len(missing)} files, {in_bytes(size)}, commit {commit[:12]}, into {folder}")
    place = next(one for one in (folder, *folder.absolute().parents) if one.exists())
    if size > (free := shutil.disk_usage(place).free):
        raise HubError(
            f"{name}: needs {in_bytes(size)}, and {place} has {in_bytes(free)} free; free disk space, or let HF_HOME "
            "name a folder on another disk"
        )


def in_bytes(size: float) -> str:
    """A size for people, in powers of 1000."""
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def forget() -> None:
    """Look names up again, as a new process does."""
    _fetched.clear()
