"""Who may look at the console, and who may press its buttons.

Whoever reaches the page may look. A button needs the token, with one exception: the emergency stop works without one
from the station's own machine. Pages of other sites cannot use a browser of that machine for it: every deed is a JSON
request from the console's own origin, under a name that is this machine's.
"""

from __future__ import annotations

import ipaddress
import os
import secrets
import socket
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from gymnast_core.addresses import check_header, is_this_machine
from gymnast_core.errors import DataError
from gymnast_core.robot.stop_latch import state_folder
from gymnast_core.serve.access import given_token, unauthorised
from gymnast_core.serve.refusal import Refusal

FILE = "console_token"
LENGTH = 24
"""Random bytes of a token that is made here."""


def token_file() -> Path:
    """Where this machine keeps the token that it made."""
    return state_folder() / FILE


def console_token(variable: str) -> str:
    """The token: that of the environment variable, else the one that this machine keeps, which is made at first.

    Raises: ConfigError for a variable whose content no header can hold; DataError where none can be kept.
    """
    if given := os.environ.get(variable, ""):
        return check_header(given, variable)
    path = token_file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            # Written whole under another name, so that a second console never reads half of it.
            made = path.with_name(f".{FILE}.{os.getpid()}.tmp")
            with open(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as stream:
                stream.write(secrets.token_urlsafe(LENGTH))
            try:
                os.link(made, path)
            except FileExistsError:  # the other one was first
                pass
            finally:
                made.unlink()
        if path.stat().st_mode & 0o077:
            raise DataError(f"{path}: others can read this token; delete the file, and a new one is made")
        return check_header(path.read_text(encoding="ascii", errors="replace"), str(path))
    except OSError as error:
        raise DataError(f"{path}: cannot keep a token: {error.strerror or error}") from error


class Access:
    """The rules of one console. token: that buttons need."""

    def __init__(self, token: str) -> None:
        self._token = token
        own = {"localhost", socket.gethostname(), socket.getfqdn()}
        self._names = {name.lower() for name in own} | {f"{name}.local".lower() for name in own}

    def check_host(self, headers: Mapping[str, str]) -> None:
        """Raises: Refusal 403 for a name that was made to lead here, by which a foreign page would read this one."""
        host = urlsplit(f"//{headers.get('host', '')}").hostname or ""
        try:
            ipaddress.ip_address(host)
        except ValueError:
            if host not in self._names:
                raise Refusal(403, "the console answers under this machine's name or address alone") from None

    def may_act(self, headers: Mapping[str, str]) -> bool:
        """Whether a request bears the token."""
        return self._bears(headers)

    def check_deed(self, headers: Mapping[str, str], peer: str, tokenless: bool = False) -> None:
        """Whether a button may be pressed by this request. peer: host that it comes from. tokenless: from this machine
        it needs no token.

        Raises: Refusal 401 without the token, 403 from another page, 415 for what a form of another page can send.
        """
        self.check_host(headers)
        origin = headers.get("origin", "")
        if origin and urlsplit(origin).netloc.lower() != headers.get("host", "").lower():
            raise Refusal(403, "another page may not press buttons of the console")
        if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise Refusal(415, "needed a JSON object, with Content-Type: application/json")
        if not (tokenless and is_this_machine(peer)) and not self._bears(headers):
            raise unauthorised("a wrong token" if headers.get("authorization") else "no token")

    def _bears(self, headers: Mapping[str, str]) -> bool:
        known = {name: value for name, value in headers.items() if name != "origin"}
        return secrets.compare_digest(given_token(known).encode(), self._token.encode())
