"""`gymnast status`: what the station is doing now, and what is wrong with it, in one look."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from gymnast_core.ros_client import become_ros_client

READY, MOVING, STOPPED = "ready", "moving", "stopped"
MODES = ("unconfigured", READY, MOVING, "holding", STOPPED)
"""Of ArmState.mode, by number."""


@dataclass(frozen=True)
class StatusConfig:
    """Say what the nodes of a station and its arm are doing. Exit code 0: all nodes are active and the arm is not
    stopped; 1: something is wrong, or nobody is there."""

    namespace: str = ""
    """Namespace of gymnast's own nodes."""
    seconds: Annotated[float, Field(ge=0.5, le=60.0)] = 3.0
    """How long the graph is listened to: diagnostics come once a second."""
    json: bool = False
    """Print one JSON object."""


@dataclass(frozen=True)
class NodeNow:
    """A managed node. state: of its life cycle, or "down"."""

    name: str
    state: str
    detail: str = ""
    restarts: int = 0


@dataclass(frozen=True)
class ArmNow:
    """The arm. mode: one of `MODES`. position: (3,) of the end effector, metres, base frame. gripper: measured opening,
    0 closed, 1 open. load: the largest of the joints', as a share of what is allowed; None where it is not known."""

    mode: str
    detail: str
    position: tuple[float, float, float]
    gripper: float
    commander: str = ""
    load: float | None = None
    holds: int = 0


@dataclass(frozen=True)
class StationStatus:
    """What was heard of a station. nodes: empty where no supervisor speaks. arm: None where no arm node does, or it has
    fallen silent. stops: emergency stops latched on this machine's disk, with their reasons. problems: what
    /diagnostics warns of."""

    nodes: tuple[NodeNow, ...] = ()
    arm: ArmNow | None = None
    stops: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def well(self) -> bool:
        """Whether all nodes are active and the arm is not stopped."""
        active = bool(self.nodes) and all(node.state == "active" for node in self.nodes)
        return active and self.arm is not None and self.arm.mode != STOPPED and not self.stops

    def lines(self) -> list[str]:
        """For people, the most important first."""
        told = [f"stop     latched: {stop}; look at the arm, then run `gymnast rearm`" for stop in self.stops]
        told.append(f"arm      {_arm_line(self.arm)}")
        active = sum(node.state == "active" for node in self.nodes)
        told.append(
            f"nodes    {active} of {len(self.nodes)} active"
            if self.nodes
            else "nodes    no supervisor is heard; run `gymnast up`, or see --namespace and ROS_DOMAIN_ID"
        )
        width = max((len(node.name) for node in self.nodes), default=0)
        told += [f"         {node.name:<{width}}  {_node_line(node)}" for node in self.nodes]
        return told + [f"problem  {problem}" for problem in self.problems]


def _arm_line(arm: ArmNow | None) -> str:
    if arm is None:
        return "arm/state is silent"
    parts = [f"{arm.mode}: {arm.detail}" if arm.detail else arm.mode]
    parts.append(f"at {' '.join(f'{value:.3f}' for value in arm.position)} m, gripper {arm.gripper:.0%} open")
    parts.append(f"commanded by {arm.commander}" if arm.commander else "commanded by nobody")
    if arm.load is not None:
        parts.append(f"load {arm.load:.0%} of what is allowed")
    return "; ".join([*parts, f"{arm.holds} holds since its node started"])


def _node_line(node: NodeNow) -> str:
    restarts = f", restarts: {node.restarts}" if node.restarts else ""
    return f"{node.state}{restarts}{f': {node.detail}' if node.detail else ''}"


def status(config: StatusConfig) -> int:
    """Listen, print, and say by the exit code whether all is well. Raises: ConfigError without ROS 2."""
    become_ros_client("status_client", dataclasses.asdict(config))
