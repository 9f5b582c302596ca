"""What a client asks, read from either wire and checked: a picture, an instruction, and a few optional fields.

    AutoEval's JSON       image, instruction, proprio
    openpi's msgpack      observation/image, prompt, observation/state

Optional on both: "chunk" (true: the whole chunk; false: its next action) and "session" (a name for the client); where
the server lets clients practise, "capture" (true: practice may begin from this picture) and "adapter" (the name of the
adapter that acts). Other fields are ignored, as these interfaces do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gymnast_core.contents import name_content
from gymnast_core.data.frames import check_frame
from gymnast_core.errors import DataError, DocumentError
from gymnast_core.plain_json import parse_json
from gymnast_core.policy.prompt import normalise_instruction
from gymnast_core.policy.wire_arrays import NOT_AN_ARRAY, decode_json_numpy, name_value
from gymnast_core.policy.wire_msgpack import unpack
from gymnast_core.serve.refusal import Refusal

MAX_STATE = 64
MAX_SESSION = 64
MAX_ADAPTER = 100


@dataclass(frozen=True)
class Observation:
    """A request for actions.

    frame: (H, W, 3) uint8 RGB, sides 16 to 8192 pixels. instruction: as policies take it, lower case. whole: the chunk
    is wanted, not its next action. session: the client's own name, "" where it gives none. capture: the frame is one
    to practise from. adapter: the one that acts, "" for the server's own.
    """

    frame: np.ndarray
    instruction: str
    whole: bool
    session: str
    capture: bool = False
    adapter: str = ""


@dataclass(frozen=True)
class Command:
    """A message that asks for no action. what: "reset", "practise", "progress" or "cancel". content: all its fields but
    `endpoint` and `session`."""

    what: str
    session: str
    content: Mapping[str, Any]


COMMANDS = ("reset", "practise", "progress", "cancel")


def read_request(body: bytes) -> tuple[Observation, bool]:
    """A body of POST /act, and whether it was encoded twice, as {"encoded": text}. Raises: Refusal 400."""
    content = _parse(body)
    twice = isinstance(content, dict) and set(content) == {"encoded"}
    if twice:
        if not isinstance(content["encoded"], str):
            raise Refusal(400, f"encoded: found {name_value(content['encoded'])}, needed JSON as text")
        content = _parse(content["encoded"].encode())
    if not isinstance(content, dict):
        raise Refusal(400, f"found {name_value(content)}, needed a JSON object with image and instruction")
    return _observation(content, ("image", "instruction", "proprio"), False), twice


def read_message(message: bytes) -> Observation | Command:
    """A message over the WebSocket. Raises: Refusal 400."""
    try:
        content = unpack(message, "message")
    except DataError as error:
        raise Refusal(400, str(error)) from error
    endpoint = content.get("endpoint", "infer")
    if isinstance(endpoint, str) and endpoint in COMMANDS:
        rest = {str(name): value for name, value in content.items() if name not in ("endpoint", "session")}
        return Command(endpoint, read_session(content), rest)
    if endpoint != "infer":
        raise Refusal(400, f"endpoint: found {str(endpoint)[:40]!r}, allowed are infer, {', '.join(COMMANDS)}")
    return _observation(content, ("observation/image", "prompt", "observation/state"), True)


def read_command(body: bytes, what: str) -> Command:
    """A body over HTTP that asks for no action; nothing is an empty one. Raises: Refusal 400."""
    content = _parse(body) if body.strip() else {}
    if not isinstance(content, dict):
        raise Refusal(400, f"found {name_value(content)}, needed a JSON object")
    return Command(what, read_session(content), {name: content[name] for name in content if name != "session"})


def read_session(content: Mapping[Any, Any]) -> str:
    """The client's name for itself. Raises: Refusal 400."""
    name = content.get("session", "")
    if not isinstance(name, str) or len(name) > MAX_SESSION or not name.isprintable():
        raise Refusal(
            400, f"session: found {name_value(name)}, needed a printable name of up to {MAX_SESSION} characters"
        )
    return name


def _parse(body: bytes) -> Any:
    try:
        return parse_json(body)
    except DocumentError as error:
        told = "" if body.lstrip()[:1] in (b"{", b"[") else name_content(body[:512])
        raise Refusal(400, f"no JSON: {told or error}") from error


def _observation(content: Mapping[Any, Any], names: tuple[str, str, str], whole: bool) -> Observation:
    """names: of picture, instruction and state. Raises: Refusal 400."""
    picture, text, state = names
    if missing := [name for name in (picture, text) if content.get(name) is None]:
        raise Refusal(400, f"{missing[0]}: missing; a request holds {picture} and {text}")
    chunk, capture = (_switch(content, name, usual) for name, usual in (("chunk", whole), ("capture", False)))
    adapter = content.get("adapter", "")
    if not isinstance(adapter, str) or len(adapter) > MAX_ADAPTER:
        raise Refusal(400, f"adapter: found {name_value(adapter)}, needed an adapter's name")
    if content.get(state) is not None:
        _check_state(content[state], state)
    try:
        frame = check_frame(_array(content[picture], picture), picture)
        instruction = normalise_instruction(content[text])
    except DataError as error:
        raise Refusal(400, str(error)) from error
    return Observation(frame, instruction, chunk, read_session(content), capture, adapter)


def _switch(content: Mapping[Any, Any], name: str, usual: bool) -> bool:
    """Raises: Refusal 400."""
    value = content.get(name, usual)
    if not isinstance(value, bool):
        raise Refusal(400, f"{name}: found {name_value(value)}, needed true or false")
    return value


def _array(value: Any, name: str) -> np.ndarray:
    """Raises: Refusal 400."""
    if isinstance(value, np.ndarray):
        return value
    if not isinstance(value, Mapping) or "__numpy__" not in value:
        raise Refusal(400, f"{name}: found {name_value(value)}, needed a NumPy array in json_numpy's or openpi's form")
    try:
        return decode_json_numpy(value)
    except NOT_AN_ARRAY as error:
        raise Refusal(400, f"{name}: not an array ({error})") from error


def _check_state(value: Any, name: str) -> None:
    """The arm's state: no policy here uses it, but what is sent must be numbers. Raises: Refusal 400."""
    if isinstance(value, list):
        if not all(type(one) in (int, float) for one in value[: MAX_STATE + 1]):
            raise Refusal(400, f"{name}: found a list with something else than numbers in it")
        numbers = np.asarray(value[: MAX_STATE + 1], np.float64)
    else:
        numbers = _array(value, name)
    if numbers.size > MAX_STATE or numbers.ndim > 2:
        raise Refusal(400, f"{name}: found shape {numbers.shape}, needed up to {MAX_STATE} numbers")
    if not np.isfinite(numbers).all():
        raise Refusal(400, f"{name}: found a value that is not finite")
