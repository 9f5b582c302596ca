"""What the name of a policy says, wherever a person writes one: in a command, a goal over ROS, a job of a queue.

    base                      the policy of the station file
    NAME                      an adapter on it
    a/path, ./motion.npz      another checkpoint folder, recorded actions
    http://..., ws://...      a policy server
    look-ahead:NAME           the base, an adapter or a checkpoint folder, which looks ahead
    look-ahead-16:NAME        the same with 16 candidates

Nothing is loaded here: options and queues read names too.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from gymnast_core.errors import ConfigError

BASE = "base"
"""The policy of the station file."""
HTTP = ("http://", "https://")
WEBSOCKET = ("ws://", "wss://")
REMOTE = (*HTTP, *WEBSOCKET)
USUAL_CANDIDATES = 8
"""Of a look-ahead that names no number, on a station whose `look_ahead.rollouts` is 0."""
MOST_CANDIDATES = 1024
ADAPTER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
"""An adapter's name."""
LOOKS_AHEAD = re.compile(r"look-ahead(?:-([0-9]{1,9}))?:(.+)", re.DOTALL)


class PolicyName(NamedTuple):
    """A name taken apart. looks_ahead: whether its look-ahead is asked for by name. acts: the policy that proposes and
    acts, itself no look-ahead. candidates: how many were asked for; 0: no number was."""

    looks_ahead: bool
    acts: str
    candidates: int


def read_name(name: str) -> PolicyName:
    """Take a policy's name apart. Raises: ConfigError for a look-ahead that there cannot be."""
    found = LOOKS_AHEAD.fullmatch(name)
    if found is None:
        if name.startswith("look-ahead:") or re.match(r"look-ahead-[^:/]*:", name):
            raise ConfigError(f"policy: found {name[:60]!r}; needed look-ahead:NAME, or look-ahead-16:NAME")
        return PolicyName(False, name, 0)
    count, acts = found.groups()
    if count is not None and not 1 <= int(count) <= MOST_CANDIDATES:
        raise ConfigError(f"policy: found {count} candidates in {name[:60]!r}, allowed are 1 to {MOST_CANDIDATES}")
    if acts.startswith(REMOTE) or acts.endswith(".npz"):
        kind = "a policy server" if acts.startswith(REMOTE) else "a recorded motion"
        raise ConfigError(f"policy: found {name[:60]!r}, but {kind} cannot sample candidates to look ahead with")
    if LOOKS_AHEAD.fullmatch(acts) or acts == "practise":
        raise ConfigError(f"policy: found {name[:60]!r}; behind look-ahead: stands '{BASE}', an adapter or a folder")
    return PolicyName(True, acts, int(count or 0))


def names_another(name: str) -> bool:
    """Whether this names a policy of its own: a server's address, a path with a slash, or a script (`.npz`). Any other
    name is the station's own policy ("base") or an adapter on it."""
    return name.startswith(REMOTE) or "/" in name or name.endswith(".npz")
