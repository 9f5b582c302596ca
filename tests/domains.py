"""ROS domains of the tests: each graph has one that nobody else on this host uses, and is heard on this host only."""

from __future__ import annotations

import os

from gymnast_core.robot.ros_domain import claim_domain, inhabited, ros_domain

OWN = 20
"""Domains that a test process claims before it gives one again, so that some are left for those beside it."""
_given: list[int] = []


def free_domain() -> int:
    """A ROS domain nobody on this host uses, this process and the tests beside it included.

    One that was given before is given again when `OWN` were: the one that was left longest ago.
    """
    if len(_given) < OWN:
        _given.append(claim_domain())
    else:
        domain = next(given for given in _given if str(given) != ros_domain() and not inhabited(given))
        _given.remove(domain)
        _given.append(domain)
    return _given[-1]


def isolate(domain: int) -> dict[str, str]:
    """The environment of processes in that domain that speak with this host only."""
    environment = {**os.environ, "ROS_DOMAIN_ID": str(domain), "OMP_NUM_THREADS": "1"}
    if environment.get("ROS_DISTRO") == "humble":
        environment["ROS_LOCALHOST_ONLY"] = "1"
    else:
        environment["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    return environment
