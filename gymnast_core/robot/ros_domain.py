"""ROS domains of this host: the one that processes join, and one that nobody else has.

Ports are those of DDSI-RTPS, section 9.6.1.1: a domain has 250 of them, two for each participant.
"""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Iterable

from gymnast_core.errors import StationError

DOMAINS = range(1, 100)
"""Higher ones reach into the ports that the kernel gives to clients."""
PARTICIPANTS = 119
"""Participants of a domain on one host, at most, so that the claim's port is not one of theirs."""
_claims: dict[int, socket.socket] = {}


def ros_domain() -> str:
    """The ROS domain that processes started from here join."""
    return os.environ.get("ROS_DOMAIN_ID", "") or "0"


def claim_domain(domains: Iterable[int] = DOMAINS) -> int:
    """A ROS domain, by chance, that nobody on this host is in or has claimed; it is this process's until it ends.

    The claim is a port of the domain that no participant takes: whoever looks for participants alone would miss a graph
    that is just being started. Raises: StationError when there is none.
    """
    candidates = [domain for domain in domains if str(domain) != ros_domain()]
    random.SystemRandom().shuffle(candidates)
    for domain in candidates:
        if domain in _claims or inhabited(domain):
            continue
        claim = _bound(_first_port(domain) + 249)
        if claim is not None:
            _claims[domain] = claim
            return domain
    raise StationError("no free ROS domain (1 to 99) on this host; stop other ROS graphs first")


def inhabited(domain: int) -> bool:
    """Whether a process on this host is in that domain.

    A participant that speaks with this host only is not at the port of the domain's multicast.
    """
    first = _first_port(domain)
    for port in (first, *(first + 10 + 2 * number for number in range(PARTICIPANTS))):
        probe = _bound(port)
        if probe is None:
            return True
        probe.close()
    return False


def _first_port(domain: int) -> int:
    return 7400 + 250 * domain


def _bound(port: int) -> socket.socket | None:
    """A socket at a port of this host, None where somebody has it."""
    bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        bound.bind(("", port))
    except OSError:
        bound.close()
        return None
    return bound
