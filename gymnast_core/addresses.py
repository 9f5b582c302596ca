"""Addresses, keys and proxies of servers: what this machine can see to be wrong is said before anything is sent."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import urllib.request
from urllib.parse import SplitResult, urlsplit

from gymnast_core.errors import ConfigError
from gymnast_core.redaction import redact

HTTP = ("http", "https")
WEBSOCKET = ("ws", "wss")


def check_address(address: str, what: str, schemes: tuple[str, str] = HTTP) -> SplitResult:
    """The parts of the address of a server: one of two schemes, a host, perhaps a port and a path.

    Raises: ConfigError naming `what`, the address and what is wrong with it.
    """
    if wrong := address_problem(address, schemes):
        raise ConfigError(f"{what}: found {redact(repr(address))[:120]}; {wrong}, needed {schemes[0]}://host:port/path")
    return urlsplit(address)


def address_problem(address: str, schemes: tuple[str, str] = HTTP) -> str:
    """What is wrong with the address of a server; empty: nothing that this machine can see."""
    odd = re.search(r"[^\x21-\x7e]", address)
    if odd and (odd[0].isspace() or not odd[0].isprintable() or odd[0] in "“”‘’"):
        return f"{_character(odd[0])} in it"
    try:
        parts = urlsplit(address)
        port, host = parts.port, parts.hostname
    except ValueError as error:
        return str(error)
    if parts.scheme not in schemes:
        return (
            f"no {schemes[0]}:// or {schemes[1]}:// in front"
            if "://" not in address
            else f"'{parts.scheme}' is not spoken"
        )
    if not host or port == 0 or parts.netloc.endswith(":"):
        return "no host in it" if not host else "no port behind its colon"
    if parts.username is not None or parts.password is not None:
        return "a name or password in it, which would reach files"
    if parts.query or parts.fragment or "?" in address or "#" in address:
        return "a query or fragment in it"
    if "://" in address.partition("://")[2] or host in schemes:
        return f"{schemes[0]}:// twice"
    try:
        named = host if ":" in host else host.encode("idna").decode()
    except UnicodeError:
        return f"'{host}' is no name of a machine"
    if not re.fullmatch(r"[\w.-]+|[0-9a-f:.]+(?:%\w+)?", named) or named.startswith(("-", ".")) or ".." in named:
        return f"'{host}' is no name of a machine"
    if re.fullmatch(r"[\d.]+", named) and not re.fullmatch(r"(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)(?:\.(?!$)|$)){4}", named):
        return f"'{host}' is no address of a machine"
    return ""


def policy_server_problem(address: str) -> str:
    """What is wrong with a policy server's address, and what is needed; empty: nothing that this machine can see."""
    wrong = address_problem(address, WEBSOCKET if address.startswith("ws") else HTTP)
    return f"{wrong}, needed http://host:port/path or ws://host:port/path" if wrong else ""


def check_header(value: str, what: str) -> str:
    """A key that travels in a header: printable ASCII without spaces and quotation marks; white space at the ends is
    taken off. The message never holds the key.

    Raises: ConfigError naming `what` and the character that cannot stand there.
    """
    stripped = value.strip(" \t\r\n\f\v\ufeff\u200b")
    if not stripped:
        raise ConfigError(f"{what}: holds only white space; set it to the key, or unset it")
    odd = re.search(r"[^\x21-\x7e]|[\"'`]", stripped)
    if odd:
        raise ConfigError(
            f"{what}: holds {_character(odd[0])} as character {odd.start() + 1}; needed the key alone: printable ASCII "
            "without spaces and quotation marks"
        )
    return stripped


def check_proxy(parts: SplitResult) -> str:
    """The host, and perhaps port, that requests to an address go to first: the proxy that the environment names for it,
    or the address itself.

    Raises: ConfigError naming the variable when its value is no address.
    """
    direct = parts.hostname or ""
    proxies = urllib.request.getproxies_environment()
    proxy = next((proxies[scheme] for scheme in (parts.scheme, "all") if proxies.get(scheme)), "")
    scheme = parts.scheme if proxies.get(parts.scheme) else "all"
    if not proxy or urllib.request.proxy_bypass(direct):
        return direct
    name = next(name for name in os.environ if name.lower() == f"{scheme}_proxy" and os.environ[name])
    found = f"environment variable {name}: found {redact(repr(proxy))[:120]}"
    bare = re.sub(r"://[^/@]*@", "://", proxy if "://" in proxy else f"http://{proxy}")
    needed = "needed http://host:port, or unset it"
    if "://" not in proxy and not re.search(r":\d+/?$", proxy):
        raise ConfigError(f"{found}; {needed}")
    wrong = address_problem(re.sub(r"^socks5h?://", "http://", bare))
    if wrong:
        raise ConfigError(f"{found}; {wrong}, {needed}")
    return f"{urlsplit(bare).hostname} ({name})"


def _character(one: str) -> str:
    names = {"\n": "a line break", "\r": "a line break", "\t": "a tab", " ": "a space"}
    quotes = "a quotation mark" if one in "\"'`“”‘’" else ""
    return names.get(one) or f"{quotes or 'a character that is not ASCII'} (U+{ord(one):04X})"


def is_near(address: str) -> bool:
    """Whether a server's address is on this machine or in the local network: a private address, or a name without a
    dot, with `.local` or with `.lan`."""
    host = urlsplit(address).hostname or ""
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return bool(host) and ("." not in host or host.endswith((".local", ".lan")))


PORTS = {"http": 80, "ws": 80, "https": 443, "wss": 443}


def why_silent(address: str, seconds: float = 3.0) -> str:
    """Why nobody can be reached at a server's address, such as "Connection refused"; empty where something listens."""
    parts = urlsplit(address)
    try:
        with socket.create_connection((parts.hostname or "", parts.port or PORTS[parts.scheme]), seconds):
            return ""
    except OSError as error:
        return error.strerror or str(error)


def is_this_machine(host: str) -> bool:
    """Whether only this machine reaches what listens there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
