"""Who may ask: whoever knows the token, and no web page."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping

from gymnast_core.addresses import check_header, is_this_machine
from gymnast_core.errors import ConfigError
from gymnast_core.redaction import remember_secret
from gymnast_core.serve.refusal import Refusal
from gymnast_core.serve.serve_config import ServeConfig

TOKEN_VARIABLE = "GYMNAST_SERVE_TOKEN"
SCHEMES = ("bearer", "api-key")


def choose_token(config: ServeConfig) -> str:
    """The token that clients must send; "" where none is needed.

    Raises: ConfigError for a token that no header can hold, and for a network without one.
    """
    given = config.token or os.environ.get(TOKEN_VARIABLE, "")
    token = check_header(given, "--token" if config.token else TOKEN_VARIABLE) if given else ""
    if not token and not config.insecure and not is_this_machine(config.host):
        raise ConfigError(
            f"--host: found {config.host[:60]}, which other machines reach; needed --token (or {TOKEN_VARIABLE}), or "
            "--insecure to let anyone there use the policy"
        )
    remember_secret(token)
    return token


def check_access(headers: Mapping[str, str], token: str) -> None:
    """Headers with names in any case. Raises: Refusal 401 without the token, 403 for a page in a browser."""
    given = given_token(headers)
    if token and not secrets.compare_digest(given.encode(), token.encode()):
        raise unauthorised("a wrong token" if given else "no token")


def given_token(headers: Mapping[str, str]) -> str:
    """The token that a request names, "" where it names none. Raises: Refusal 403 for a page in a browser."""
    if "origin" in headers:  # browsers name the page; programs send no such header
        raise Refusal(403, "a web page may not ask this server")
    scheme, _, given = headers.get("authorization", "").strip().partition(" ")
    return given.strip() if scheme.lower() in SCHEMES else ""


def unauthorised(found: str) -> Refusal:
    """401 for a request that has no right token. found: in words."""
    return Refusal(401, f"found {found}; needed the header Authorization: Bearer TOKEN", {"WWW-Authenticate": "Bearer"})
