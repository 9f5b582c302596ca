"""`gymnast hub push`: a data set, a policy, a world model or an adapter goes to the Hugging Face Hub, in one commit.

Large files are sent first, each once; the commit comes last and names all of them. Whatever ends a push before that
leaves the repository as it was, and the same command sends only what is missing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gymnast_core.errors import ConfigError, DataError, HubError
from gymnast_core.files import user_path
from gymnast_core.hub.card import write_card
from gymnast_core.hub.leaks import find_leaks
from gymnast_core.hub.measured import Own, Row, read_rows
from gymnast_core.hub.parcel import VERSION, WORDS, Parcel, pack, was_sent
from gymnast_core.hub.push_config import PushConfig
from gymnast_core.hub_files import in_bytes
from gymnast_core.hub_names import FORM, HUB, PART, HubName, parse_hub_name
from gymnast_core.hub_session import SECONDS, TOKEN, explained, hub_api, hub_token, is_offline, patiently
from gymnast_core.policy.checkpoint import fingerprint
from gymnast_core.progress import say

if TYPE_CHECKING:
    from huggingface_hub import HfApi

CARD = "README.md"


def push(config: PushConfig) -> int:
    """Send it, or say what would be sent; prints the commit's name, for `hf:OWNER/NAME@COMMIT`.

    Raises: ConfigError, CheckpointError, DataError for what cannot be sent, HubError for what the Hub refuses.
    """
    name = _target(config.to)
    if config.base and not re.fullmatch(rf"{PART}/{PART}", config.base.removeprefix(HUB)):
        raise ConfigError(f"base: found '{config.base}', needed OWNER/NAME of the Hub")
    base = config.base.removeprefix(HUB)
    folder = user_path(config.folder, "folder").resolve()
    parcel = pack(folder, base)
    rows = _measured(parcel, config.measured)
    card = write_card(parcel, name, config.license, base, config.task, rows)
    if leak := next(find_leaks(CARD, card.encode()), ""):
        raise DataError(f"{folder}: nothing was sent: {leak}")
    _describe(parcel, name, config)
    if config.dry_run:
        print(card)
        return 0
    if not hub_token():
        raise ConfigError(f"{TOKEN}: found none; make a token that may write, and put it into this variable")
    if is_offline():
        raise HubError(f"{name}: offline mode is on (HF_HUB_OFFLINE), so nothing can be sent")
    with explained(name, parcel.kind, token=True):
        commit = _send(hub_api(), parcel, name, card, config.public)
    print(f"{name}@{commit}")
    return 0


def _target(text: str) -> HubName:
    """Raises: ConfigError for what is no name of the Hub, or names a revision."""
    name = parse_hub_name(text)
    if name.revision:
        raise ConfigError(f"to: found '{text}', needed {FORM.split(' or ')[0]}: a push makes a new commit on main")
    return name


def _measured(parcel: Parcel, runs: Sequence[str]) -> list[Row]:
    """What runs found of what is sent. Raises: ConfigError where they found it of something else."""
    if not runs:
        return []
    if parcel.thing == "adapter":
        own = Own(parcel.folder, adapter=parcel.folder.name)
    elif parcel.thing == "policy":
        own = Own(parcel.folder, weights=fingerprint(parcel.folder))
    else:
        raise ConfigError(
            f"measured: found {', '.join(runs)} for a {WORDS[parcel.thing]}; allowed for a policy or an adapter (the "
            "figures of a world model lie beside its weights, and are on the card without it)"
        )
    return [row for run in runs for row in read_rows(user_path(run, "measured"), own)]


def _describe(parcel: Parcel, name: HubName, config: PushConfig) -> None:
    """Say what goes where."""
    verb = "would send" if config.dry_run else "sending"
    seen = "everybody may see it" if config.public else "only who the owner lets in may see it"
    say(f"{verb} {len(parcel.files) + 1} files, {in_bytes(parcel.size)}, a {WORDS[parcel.thing]}, to {name}; {seen}")
    if config.dry_run:
        for path in sorted([*parcel.files, CARD]):
            say(f"  {path}")
    for words in parcel.changed:
        say(f"note: {words}")
    if parcel.left_out:
        shown = ", ".join(parcel.left_out[:5]) + (" ..." if len(parcel.left_out) > 5 else "")
        say(f"note: {len(parcel.left_out)} other files stay here: {shown}")


def _send(api: HfApi, parcel: Parcel, name: HubName, card: str, public: bool) -> str:
    """The commit's name. Raises: HubError where the repository is public and should not be; what the library raises."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    there = _prepare(api, parcel, name, public)
    new = {**parcel.files, CARD: card.encode()}
    files: list[CommitOperationAdd | CommitOperationDelete] = [
        CommitOperationAdd(path, str(content) if isinstance(content, Path) else content)
        for path, content in new.items()
    ]
    gone = [path for path in there if path not in new and was_sent(parcel.thing, path)]
    files += [CommitOperationDelete(path) for path in gone]
    if gone:
        say(f"note: {len(gone)} files of an earlier push go: {', '.join(gone[:3])}{' ...' * (len(gone) > 3)}")
    done = patiently(
        lambda: api.create_commit(
            name.repository,
            files,
            commit_message=f"A {WORDS[parcel.thing]}, with its card",
            repo_type=parcel.kind,
        )
    )
    if parcel.thing == "dataset":
        _tag(api, name, done.oid)
    return done.oid


def _prepare(api: HfApi, parcel: Parcel, name: HubName, public: bool) -> list[str]:
    """The files of the repository, which is made where it is missing."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        found = patiently(
            lambda: api.repo_info(name.repository, repo_type=parcel.kind, timeout=SECONDS, files_metadata=False)
        )
    except RepositoryNotFoundError as error:
        if error.response.status_code == 401:
            raise
        patiently(lambda: api.create_repo(name.repository, repo_type=parcel.kind, private=not public, exist_ok=True))
        return []
    if not public and not getattr(found, "private", False):
        raise HubError(f"{name}: everybody sees this repository; --public sends there all the same")
    return [file.rfilename for file in getattr(found, "siblings", None) or ()]


def _tag(api: HfApi, name: HubName, commit: str) -> None:
    """Let the tag that LeRobot looks for name the new commit."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        patiently(lambda: api.delete_tag(name.repository, tag=VERSION, repo_type="dataset"))
    except HfHubHTTPError as error:
        if error.response.status_code != 404:
            raise
    patiently(lambda: api.create_tag(name.repository, tag=VERSION, revision=commit, repo_type="dataset", exist_ok=True))
