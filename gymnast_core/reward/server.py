"""One server of a judge: its address and key, checked before anything is sent, and what came of each request.

A request that comes to nothing says whether it may succeed when it is sent again, whether it may have been charged, and
whether every other one would fail likewise.
"""

from __future__ import annotations

import importlib
import os
import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin, urlsplit, urlunsplit

from gymnast_core.addresses import check_address, check_header, check_proxy
from gymnast_core.config import JudgeConfig
from gymnast_core.contents import one_line
from gymnast_core.errors import ConfigError, JudgeError
from gymnast_core.redaction import remember_secret
from gymnast_core.reward.replies import MAX_REPLY, WORDS, Said, Unanswered, bounded, refusal, retry_after

PATIENCE_S = 5.0
"""Beyond `judge.timeout_s`, until a request is left to itself."""
KEYS = {"vlm": "OPENAI_API_KEY", "robometer": "ROBOMETER_API_KEY"}
"""Environment variable of each kind's key; a Robometer server needs none, but what stands before it may."""
PATHS = {
    "vlm": ("/completions", "/responses", "/models", "/edits", "/generations"),
    "robometer": ("/evaluate_batch_npy", "/evaluate_batch"),
}
"""Ends of an address that are no base."""
HEADERS = ("OPENAI_ORG_ID", "OPENAI_PROJECT_ID")
SURROUNDINGS = (
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR"),
    "OPENAI_CUSTOM_HEADERS",
)
"""Environment variables that the client reads when it is built."""
_LATE = frozenset(("APITimeoutError", "ConnectTimeout", "ReadTimeout", "WriteTimeout", "PoolTimeout"))
_CUT_OFF = frozenset(
    ("APIConnectionError", "ConnectError", "ReadError", "WriteError", "CloseError", "RemoteProtocolError")
)

Taken = Callable[[int, int], None]
"""Called with the tokens (in, out) that a request took."""


@dataclass(frozen=True)
class Settings:
    """What this machine can check of a judge's server. goes_to: the machine that a request goes to first, and the
    variable that names it where it is a proxy."""

    address: str
    key: str
    goes_to: str


def check_settings(config: JudgeConfig, api_key: str | None = None, section: str = "judge") -> Settings:
    """The address, key and proxy of a judge's server; api_key: None takes the environment's. section: of the settings,
    for the errors.

    Raises: JudgeError, one line naming the setting that is wrong.
    """
    try:
        if config.base_url:
            address, what = config.base_url, f"{section}.base_url"
        elif config.kind == "robometer":
            raise ConfigError("judge.base_url: found nothing, needed the address of a Robometer server")
        else:
            address = os.environ.get("OPENAI_BASE_URL", "").strip() or "https://api.openai.com/v1"
            what = "environment variable OPENAI_BASE_URL"
        parts = check_address(address, what)
        ends = PATHS.get(config.kind, ())
        if parts.path.rstrip("/").endswith(ends):
            added = "/chat/completions" if config.kind == "vlm" else ends[0]
            raise ConfigError(f"{what}: found '{address}'; needed the address that {added} is added to")
        name = KEYS[config.kind]
        given = api_key or os.environ.get(name) or ("none" if config.base_url else "")
        if not given:
            who = "the vlm judge" if section == "judge" else f"the server of `{section}`"
            raise ConfigError(f"{who} needs the environment variable {name}, or {section}.base_url of a server")
        key = check_header(given, "the api_key of this judge" if api_key else f"environment variable {name}")
        for name in HEADERS:
            if os.environ.get(name):
                os.environ[name] = check_header(os.environ[name], f"environment variable {name}")
        return Settings(address, key, check_proxy(parts))
    except ConfigError as error:
        raise JudgeError(str(error)) from error


def in_surroundings(what: str, error: Exception) -> JudgeError:
    """What to say where a client cannot be built: the environment variables that it read may be why."""
    names = [name for name in os.environ if name.upper() in SURROUNDINGS and os.environ[name]]
    where = f"; look at the environment variables {', '.join(sorted(names))}" if names else ""
    return JudgeError(f"judge: no client for {what} ({one_line(f'{type(error).__name__}: {error}')}){where}")


def _within(error: BaseException) -> Unanswered | None:
    """The Unanswered that a client has wrapped into an error of its own."""
    chain: list[BaseException] = []
    one: BaseException | None = error
    while one is not None and one not in chain and not isinstance(one, Unanswered):
        chain.append(one)
        one = one.__cause__ or one.__context__
    return one if isinstance(one, Unanswered) else None


def _check_redirect(status: int, asked: str, location: str, section: str) -> None:
    """Raises: Unanswered unless the same request goes to the same server again, there or by https."""
    here, there = urlsplit(asked), urlsplit(urljoin(asked, location))
    ports = here.port == there.port or (here.port is None and there.port is None)
    same = here.hostname == there.hostname and ports and there.scheme in (here.scheme, "https")
    if status not in (307, 308) or not same:
        shown = one_line(urlunsplit((there.scheme, there.netloc, there.path, "", "")), WORDS)
        raise Unanswered(
            f"status {status}: it sends requests on to '{shown}'; look at {section}.base_url, which must be "
            "the address that answers by itself",
            lasting=True,
        )


class Server:
    """Sends requests to the server of `config`, each over after `timeout_s`.

    address: of the server, as it is asked. http: the client, an httpx.Client. on_hold: called with the seconds that the
    server asks everyone to wait. section: of the settings, for the errors.

    Raises: JudgeError when a setting is wrong or the client cannot be built.
    """

    longest_reply = MAX_REPLY
    """Bytes."""

    def __init__(
        self, config: JudgeConfig, api_key: str | None, on_hold: Callable[[float], None], section: str = "judge"
    ) -> None:
        import openai

        self.config = config
        self.section = section
        self.settings = check_settings(config, api_key, section)
        self.address = self.settings.address.rstrip("/")
        self._on_hold = on_hold
        remember_secret(self.settings.key)
        self._deadline = threading.local()
        self.has_answered = False
        try:
            self.http: Any = openai.DefaultHttpxClient(
                timeout=config.timeout_s, event_hooks={"response": [self._bound]}
            )
        except Exception as error:
            raise in_surroundings(self.address, error) from error

    def openai_client(self) -> Any:
        """openai's client over `http`. Raises: JudgeError."""
        import openai

        try:
            return openai.OpenAI(
                api_key=self.settings.key,
                base_url=self.address,
                timeout=self.config.timeout_s,
                max_retries=0,
                default_headers={"Accept-Encoding": "identity"},
                http_client=self.http,
            )
        except Exception as error:
            raise in_surroundings(self.address, error) from error

    def in_time(self, send: Callable[[Taken], Said], taken: Taken) -> Said:
        """`send`, given up when a server spins out even the head of its reply, which no other limit sees.

        Raises: Unanswered.
        """
        came: queue.SimpleQueue[Said | Exception] = queue.SimpleQueue()
        counts: list[tuple[int, int]] = []

        def work() -> None:
            try:
                came.put(send(lambda read, written: counts.append((read, written))))
            except Exception as error:
                came.put(error)

        threading.Thread(target=work, daemon=True).start()
        try:
            said = came.get(timeout=self.config.timeout_s + PATIENCE_S)
        except queue.Empty:
            raise Unanswered(f"no whole answer within {self.section}.timeout_s", passing=True, charged=True) from None
        for count in counts:
            taken(*count)
        if isinstance(said, Exception):
            raise said
        return said

    def receive(self, opened: Callable[[], AbstractContextManager[Any]], read: Callable[[bytes], Said]) -> Said:
        """What `read` makes of the body that comes of a request; opened: sends it and yields its response.

        Raises: Unanswered.
        """
        self._deadline.at = time.monotonic() + self.config.timeout_s
        began = False
        try:
            with opened() as response:
                began = True
                status, headers = response.status_code, response.headers
                body = b"".join(response.iter_bytes())
        except Unanswered:
            raise
        except Exception as error:
            response = getattr(error, "response", None)  # openai makes an error of each status
            if response is None:
                raise (_within(error) or self._broken(error, began)) from error
            raise self._refused(response.status_code, response.headers, response.content) from error
        if not 200 <= status < 300:
            raise self._refused(status, headers, body)
        return read(body)

    def _refused(self, status: int, headers: Any, body: bytes) -> Unanswered:
        if status == 429 or status >= 500:
            self._on_hold(retry_after(headers))
        return refusal(status, body)

    def _broken(self, error: Exception, began: bool) -> Unanswered:
        """What an error of the transport, or of this machine, means."""
        chain: list[BaseException] = [error]
        while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
            chain.append(cause)
        names = {type(one).__name__ for one in chain}
        words = one_line(f"{type(error).__name__}: {error}" + (f" ({chain[-1]})" if len(chain) > 1 else ""), WORDS)
        if not began and type(error).__name__ in _LATE:  # once it is connected, the server may answer after we left
            charged = not names & {"ConnectTimeout", "PoolTimeout"}
            return Unanswered(words, passing=True, charged=charged)
        if any(isinstance(one, ssl.SSLCertVerificationError) for one in chain):
            return Unanswered(f"its certificate is not trusted here: {words}", lasting=True)
        if any(isinstance(one, socket.gaierror) and one.errno == socket.EAI_NONAME for one in chain):
            words = f"no machine is known by the name {self.settings.goes_to}: {words}"
            return Unanswered(words, passing=self.has_answered, lasting=not self.has_answered)
        if names & {"LocalProtocolError", "UnsupportedProtocol", "InvalidURL", "ProxyError"}:
            return Unanswered(f"by way of {self.settings.goes_to}: {words}", lasting=True)
        if began:
            return Unanswered(f"broken off: {words}", passing=True, charged=True)
        if type(error).__name__ in _CUT_OFF:
            return Unanswered(words, passing=True)
        return Unanswered(f"this machine cannot send the request: {words}", lasting=True)

    def _bound(self, response: Any) -> None:
        """Let a reply's body end at MAX_REPLY bytes, unpacked, and at the request's deadline; also an error's body.

        Raises: Unanswered where the server sends the request elsewhere: what a robot saw goes to nobody else.
        """
        if response.has_redirect_location:
            _check_redirect(response.status_code, str(response.request.url), response.headers["location"], self.section)
        library = importlib.import_module(type(response).__module__.partition(".")[0])  # httpx, or httpx2
        inner, packing = response.stream, response.headers.pop("content-encoding", "")
        deadline, charged = getattr(self._deadline, "at", float("inf")), response.status_code == 200
        longest, section = self.longest_reply, self.section

        class Bounded(library.SyncByteStream):  # type: ignore[misc, name-defined]
            def __iter__(self) -> Iterator[bytes]:
                return bounded(inner, packing, deadline, charged, longest, section)

            def close(self) -> None:
                inner.close()

        response.stream = Bounded()
