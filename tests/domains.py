"""ROS domains of the tests: each graph has one that nobody else on this host uses, and is heard on this host only."""

from __future__ import annotations

import os
import random
import socket

WORKERS = 4
"""Test processes side by side (pytest-xdist) that choose from domains of their own: one that was chosen and is not yet
in use has no port that would tell."""
_given: list[int] = []


def free_domain() -> int:
    """A ROS domain nobody on this host uses, this process and the tests beside it included: its discovery port is free.

    One that was given before is given again only when there is no other.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % WORKERS
    mine = [domain for domain in range(1, 100) if domain % WORKERS == worker]
    random.SystemRandom().shuffle(mine)
    for domain in sorted(mine, key=_given.count):
        if str(domain) == os.environ.get("ROS_DOMAIN_ID"):
            continue
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind(("", 7400 + 250 * domain))
            except OSError:
                continue
            _given.append(domain)
            return domain
    raise RuntimeError("no free ROS domain on this host")


def isolate(domain: int) -> dict[str, str]:
    """The environment of processes in that domain that speak with this host only."""
    environment = {**os.environ, "ROS_DOMAIN_ID": str(domain), "OMP_NUM_THREADS": "1"}
    if environment.get("ROS_DISTRO") == "humble":
        environment["ROS_LOCALHOST_ONLY"] = "1"
    else:
        environment["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    return environment
