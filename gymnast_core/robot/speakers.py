"""Who may speak on a topic or answer as a service, who does, and what is wrong with that.

Two sources of joint states, two commanders or two graphs of the same names make an arm jump between what each of them
says, and no message tells them apart. They are counted in the ROS graph, on every machine of the domain. This module
holds the rule; `gymnast_nodes.speakers` asks the graph.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

UNKNOWN_S = 2.0
"""A publisher is discovered before the name of its node: so long one without a name may be a restarted one of ours."""


@dataclass(frozen=True)
class Speaker:
    """One node that publishes a topic or serves a service.

    node: full name ("/wx250s/xs_sdk"), empty where it is not known yet.
    source: tells processes apart that use one name.
    place: for people, such as "on this machine, process 4711"; empty where it is not known.
    """

    node: str
    source: str
    place: str = ""

    def __str__(self) -> str:
        name = self.node or "a node without a name"
        return f"{name} ({self.place})" if self.place else name


@dataclass(frozen=True)
class Seat:
    """Who may speak on one topic, or serve one service.

    name: of the topic or service, absolute.
    free: how many nodes of any name may (None: any number).
    reserved: full names of nodes that may besides, each once.
    verb: what they do with it, for people.
    """

    name: str
    free: int | None = 0
    reserved: tuple[str, ...] = ()
    verb: str = "publish"


@dataclass
class RollCall:
    """Compares who speaks with who may, again and again.

    own: full name of the node that asks. A second node of its name is another graph; there is no waiting for it.
    linger_s: a killed node counts as there this long. A second node of a reserved name may be such a dead one's
        successor, so it is a problem only when both last longer. On free seats both count at once: there the dead one
        cannot be told from the living.
    """

    own: str
    linger_s: float
    _since: dict[tuple[str, str, str], float] = field(default_factory=dict)

    def problems(self, seats: Sequence[Seat], present: Mapping[str, Sequence[Speaker]], now: float) -> dict[str, str]:
        """What is wrong, by name of the seat, in one line each; empty where everybody may speak who does.

        present: by name of the seat, whoever is in the graph. now: seconds on a steady clock.
        """
        everybody = {seat.name: _distinct(present.get(seat.name, ())) for seat in seats}
        keys = {(name, s.node, s.source) for name, speakers in everybody.items() for s in speakers}
        self._since = {key: self._since.get(key, now) for key in keys}
        found = {seat.name: self._problem(seat, everybody[seat.name], now) for seat in seats}
        return {name: text for name, text in found.items() if text}

    def _problem(self, seat: Seat, speakers: Sequence[Speaker], now: float) -> str:
        def age(speaker: Speaker) -> float:
            return now - self._since[(seat.name, speaker.node, speaker.source)]

        strangers = [s for s in speakers if s.node not in seat.reserved]
        if seat.free == 0:  # a name may come late, or never, where the network loses it
            crowded = len(speakers) > len(seat.reserved)
            strangers = [s for s in strangers if s.node or (crowded and age(s) > UNKNOWN_S)]
        if seat.free is not None and len(strangers) > seat.free:
            return _told(seat, strangers)
        for name in seat.reserved:
            same = sorted((s for s in speakers if s.node == name), key=age)
            if len(same) > 1 and (name == self.own or age(same[0]) > self.linger_s):
                return (
                    f"{name} is in the ROS graph {len(same)} times ({_places(same)}), each to {seat.verb} {seat.name}"
                )
        return ""


def _distinct(speakers: Sequence[Speaker]) -> list[Speaker]:
    """One node that publishes twice is one speaker."""
    return list({(s.node, s.source): s for s in speakers}.values())


def _told(seat: Seat, strangers: Sequence[Speaker]) -> str:
    names = " and ".join(sorted(map(str, strangers)))
    if seat.free:
        return f"{len(strangers)} nodes {seat.verb} {seat.name}, expected is {seat.free}: {names}"
    whose = f"which is for {' and '.join(seat.reserved)} alone" if seat.reserved else "which nobody may"
    return f"{seat.name}, {whose}, has others that {seat.verb} it: {names}"


def _places(speakers: Sequence[Speaker]) -> str:
    return "; ".join(sorted(s.place or "machine unknown" for s in speakers))
