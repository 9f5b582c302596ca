"""Tokens of policy servers: each is for one address, and goes to no other.

A command that has a token lends it for as long as it runs (`lend_token`). Whoever opens the policy of that address on
this machine, for the same user, takes it (`lent_token`): the executor of a graph as well as this process. So a token
is in no goal, no job and no log. It lies in a file that its user alone can read, and counts no more when the command
has ended, however that ended.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from gymnast_core.addresses import check_header, policy_server_problem
from gymnast_core.errors import ConfigError, DataError, DocumentError
from gymnast_core.locks import try_lock
from gymnast_core.plain_json import parse_json
from gymnast_core.redaction import redact, remember_secret
from gymnast_core.robot.stop_latch import state_folder

VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")


def check_server(address: str, what: str) -> str:
    """A policy server's address without a slash at its end: the form in which addresses are compared.

    Raises: ConfigError naming `what`.
    """
    if wrong := policy_server_problem(address):
        raise ConfigError(f"{what}: found {redact(repr(address))[:120]}; {wrong}")
    return address.rstrip("/")


def token_in(variable: str, what: str) -> str:
    """The token that an environment variable holds. Raises: ConfigError naming `what`, where there is none."""
    if not VARIABLE.fullmatch(variable):
        raise ConfigError(f"{what}: found {variable[:60]!r}, needed the name of an environment variable")
    if not (found := os.environ.get(variable, "")):
        raise ConfigError(f"{what}: the environment variable {variable} is not set; set it to the token")
    return keep_secret(found, f"{what}: {variable}")


def keep_secret(token: str, what: str) -> str:
    """A token as it goes into a header; it is hidden in whatever this process shows from now on.

    Raises: ConfigError naming `what`, never holding the token.
    """
    checked = check_header(token, what)
    remember_secret(checked)
    return checked


def read_tokens(given: Sequence[str], servers: Sequence[str], what: str) -> dict[str, str]:
    """Tokens by address, of "ADDRESS=VARIABLE" each. servers: those that act; a token for another one is a mistake.

    Raises: ConfigError naming `what`.
    """
    known = {check_server(server, what) for server in servers}
    found: dict[str, str] = {}
    for entry in given:
        address, equals, variable = entry.rpartition("=")
        if not equals:
            raise ConfigError(f"{what}: found {entry[:100]!r}, needed ADDRESS=VARIABLE")
        address = check_server(address, what)
        if address not in known:
            told = ", ".join(sorted(known)) or "none"
            raise ConfigError(f"{what}: found {address[:100]}, which no policy here has; policy servers: {told}")
        if address in found:
            raise ConfigError(f"{what}: found {address[:100]} twice; name each once")
        found[address] = token_in(variable, what)
    return found


@contextlib.contextmanager
def lend_tokens(tokens: Mapping[str, str]) -> Iterator[None]:
    """Let whoever opens the policies of these addresses for this user send them these tokens, in the block.

    Raises: DataError where they cannot be kept.
    """
    with contextlib.ExitStack() as lent:
        for address, token in tokens.items():
            lent.enter_context(_lent(address.rstrip("/"), token))
        yield


@contextlib.contextmanager
def _lent(address: str, token: str) -> Iterator[None]:
    folder = _folder()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        number, made = tempfile.mkstemp(prefix=".new_", dir=folder)  # its user alone may read it
    except OSError as error:
        raise DataError(f"{folder}: cannot keep a token: {error.strerror or error}") from error
    path = Path(made)
    try:
        try_lock(number)
        os.write(number, json.dumps({"address": address, "token": token}).encode())
        path = path.rename(folder / f"{_hash(address)}.{path.name.removeprefix('.new_')}")
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(number)


def lent_token(address: str) -> str:
    """The token that a running command of this user lends for exactly this address; "" where none does."""
    address = address.rstrip("/")
    for path in sorted(_folder().glob(f"{_hash(address)}.*")):
        if token := _read(path, address):
            remember_secret(token)
            return token
    return ""


def _read(path: Path, address: str) -> str:
    """The token; "" of a command that has ended, and of a file that others may read or have written."""
    try:
        number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return ""
    with os.fdopen(number, "rb") as file:
        facts = os.fstat(number)
        if facts.st_uid != os.geteuid() or facts.st_mode & 0o077:
            return ""
        if try_lock(number, shared=True):  # nobody holds it: its command was killed
            path.unlink(missing_ok=True)
            return ""
        try:
            content = parse_json(file.read(1 << 16))
        except DocumentError:
            return ""
    if not isinstance(content, dict) or content.get("address") != address:
        return ""
    try:
        return check_header(str(content.get("token", "")), "token")
    except ConfigError:
        return ""


def _folder() -> Path:
    return state_folder() / "policy_tokens"


def _hash(address: str) -> str:
    return hashlib.sha256(address.encode()).hexdigest()[:32]
