"""Who may ask: whoever knows the token, and no web page."""

from __future__ import annotations

import ipaddress
import os
import secrets
from collections.abc import Mapping

from gymnast_core.addresses import check_header
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
    if not token and not config.insecure and not _is_this_machine(config.host):
        raise ConfigError(
            f"--host: found {config.host[:60]}, which other machines reach; needed --token (or {TOKEN_VARIABLE}), or "
            "--insecure to let anyone there use the policy"
        )
    remember_secret(token)
    return token


def check_access(headers: Mapping[str, str], token: str) -> None:
    """Headers with names in any case. Raises: Refusal 401 without the token, 403 for a page in a browser."""
    if "origin" in headers:  # browsers name the page; programs send no such header
        raise Refusal(403, "a web page may not ask a policy for actions")
    if not token:
        return
    scheme, _, given = headers.get("authorization", "").strip().partition(" ")
    if scheme.lower() not in SCHEMES or not secrets.compare_digest(given.strip().encode(), token.encode()):
        told = "a wrong token" if given else "no token"
        raise Refusal(
            401, f"found {told}; needed the header Authorization: Bearer TOKEN", {"WWW-Authenticate": "Bearer"}
        )


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
