"""One way to ask the Hugging Face Hub: its address, the token, patience with a busy Hub, and one line when it fails.

The library is `huggingface_hub`, with its own settings: HF_ENDPOINT, HF_HOME or HF_HUB_CACHE, HF_HUB_OFFLINE. A token
comes from HF_TOKEN alone, never from a file of another program, and no error shows it.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from gymnast_core.contents import one_line
from gymnast_core.errors import ConfigError, GymnastError, HubError
from gymnast_core.redaction import remember_secret

if TYPE_CHECKING:
    from huggingface_hub import HfApi

Kind = Literal["model", "dataset"]
TOKEN = "HF_TOKEN"
SECONDS = 30.0
"""After which a Hub that says nothing is taken for one that does not answer."""
BUSY = (429, 500, 502, 503, 504)
"""Answers after which the same request may succeed."""
TRANSPORT = ("httpx", "httpcore")
"""How the names of the modules begin whose errors say that the Hub was not reached."""
ATTEMPTS = 5
LONGEST_WAIT_S = 300.0
"""A Hub that asks for a longer wait than this ends the command, which says how long it asked for."""
Answer = TypeVar("Answer")


def hub_token() -> str | Literal[False]:
    """The token in HF_TOKEN; False where there is none. Raises: ConfigError where it cannot be sent."""
    token = os.environ.get(TOKEN, "").strip()
    if not token:
        return False
    remember_secret(token)
    if not (token.isascii() and token.isprintable() and " " not in token):
        raise ConfigError(f"{TOKEN}: holds a character that no token has; copy it anew")
    return token


def endpoint() -> str:
    """The Hub's address: HF_ENDPOINT as it is now, which the library reads when it is imported."""
    from huggingface_hub import constants

    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or constants.ENDPOINT


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE (or TRANSFORMERS_OFFLINE) keeps this process from the network."""
    from huggingface_hub import constants

    return constants.is_offline_mode()


def hub_api() -> HfApi:
    """The library's interface to the Hub. Raises: ConfigError for a token that cannot be sent."""
    from huggingface_hub import HfApi

    return HfApi(endpoint=endpoint(), token=hub_token(), library_name="gymnast")


def patiently(ask: Callable[[], Answer]) -> Answer:
    """What `ask` returns; asked again where the Hub is busy, after the time that it asks for (Retry-After)."""
    import stamina  # here, so that verbs that ask no Hub start sooner

    logging.getLogger("stamina").addHandler(logging.NullHandler())
    for attempt in stamina.retry_context(on=_wait, attempts=ATTEMPTS, timeout=None, wait_initial=1.0, wait_max=20.0):
        with attempt:
            return ask()
    raise AssertionError("stamina returns or raises")


def _wait(error: Exception) -> bool | float:
    """Whether to ask again, or after how many seconds."""
    response = response_of(error)
    if response is None or response.status_code not in BUSY:
        return False
    wanted = retry_after(response)
    return True if wanted is None else wanted if wanted <= LONGEST_WAIT_S else False


def response_of(error: BaseException | None) -> Any:
    """The Hub's answer behind an error; None where it gave none."""
    while error is not None:
        if (response := getattr(error, "response", None)) is not None and hasattr(response, "status_code"):
            return response
        error = error.__cause__ or error.__context__
    return None


def retry_after(response: Any) -> float | None:
    """The seconds that the Hub wants to be left alone for; None where it names none."""
    text = str(response.headers.get("Retry-After", "")).strip()
    return float(text) if text.isdigit() and len(text) < 9 else None


@contextmanager
def explained(name: object, kind: Kind, token: bool = False) -> Iterator[None]:
    """Within the block whatever the Hub, the network or the disk says becomes one line about `name`.

    token: whether the block needs a token whatever the repository. Raises: HubError.
    """
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        yield
    except GymnastError:  # said in one line already
        raise
    except Exception as error:
        if (response := response_of(error)) is not None:
            words = _refused(response, kind, token)
        elif isinstance(error, OfflineModeIsEnabled):
            words = "offline mode is on (HF_HUB_OFFLINE); unset it to ask the Hub"
        elif isinstance(error, LocalEntryNotFoundError):
            words = f"cannot reach {endpoint()}, and the cache does not hold it; {AGAIN}"
        elif isinstance(error, HFValidationError):
            words = one_line(str(error))
        elif isinstance(error, (TimeoutError, ConnectionError)) or type(error).__module__.startswith(TRANSPORT):
            words = f"cannot reach {endpoint()} ({one_line(str(error)) or type(error).__name__}); {AGAIN}"
        elif isinstance(error, OSError):
            words = _disk(error)
        else:
            raise
        raise HubError(f"{name}: {words}") from error


AGAIN = "run the same command again (what is whole is neither sent nor fetched twice)"


def _refused(response: Any, kind: Kind, needs_token: bool) -> str:
    """What an answer of the Hub means, and what to do."""
    status, code = response.status_code, response.headers.get("X-Error-Code", "")
    said = one_line(str(response.headers.get("X-Error-Message", "")))
    said = f": {said}" if said else ""
    thing = "model" if kind == "model" else "data set"
    if status == 401 and (hub_token() or needs_token):
        return f"the Hub refuses {TOKEN} (401{said}); make a token at {endpoint()}/settings/tokens"
    if status == 401:
        return f"the Hub shows it to nobody without a token (401{said}); is the name right? if so, set {TOKEN}"
    if status == 403 or code == "GatedRepo":
        return f"the Hub refuses access ({status}{said}); ask its owner, with the account of {TOKEN}"
    if code == "RevisionNotFound":
        return "the Hub has no such branch, tag or commit (404)"
    if status == 404:
        return f"the Hub has no such {thing} (404), or none that {TOKEN} may see; is the name right?"
    if status == 429:
        wanted = retry_after(response)
        wait = "later" if wanted is None else f"in {wanted:.0f} s"
        return f"the Hub has had too many requests (429) and asks to come back {wait}; then {AGAIN}"
    if status in BUSY:
        return f"the Hub fails ({status}{said}); {AGAIN}"
    return f"the Hub answers {status}{said}"


def _disk(error: OSError) -> str:
    """Of what went wrong while files were written, or came in."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        where = f" {error.filename}" if error.filename else ""
        return f"cannot write{where}: {error.strerror}; free disk space, then {AGAIN}"
    if error.errno is None and "onsistency check" in str(error):
        return f"a file came in part or with another size ({one_line(str(error))}); {AGAIN}"
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{one_line(error.strerror or str(error))}"
