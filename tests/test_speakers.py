"""The rule of who may speak: strangers are named at once, a killed node's successor is not taken for one."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from gymnast_core.robot.speakers import RollCall, Seat, Speaker

JOINTS = Seat("/driver/joint_states", free=1)
COMMANDS = Seat("/driver/commands/joint_group", reserved=("/arm", "/watchdog"))
STATE = Seat("/arm/state", reserved=("/arm",))
ARM, WATCHDOG = Speaker("/arm", "1"), Speaker("/watchdog", "2")


def calls(seat: Seat, moments: Sequence[tuple[float, Sequence[Speaker]]]) -> list[str]:
    """What is wrong at each moment."""
    roll_call = RollCall("/arm", linger_s=6.0)
    return [roll_call.problems([seat], {seat.name: present}, now).get(seat.name, "") for now, present in moments]


def test_two_sources_are_named_at_once_with_their_places_and_one_is_not() -> None:
    driver, other = Speaker("/driver/xs_sdk", "3", "on this machine, process 7"), Speaker("/joint_state_publisher", "4")
    alone, two, gone = calls(JOINTS, [(0.0, [driver]), (0.1, [driver, other]), (0.2, [driver, driver])])
    assert not alone and not gone, "one node that publishes twice is one"
    assert "/driver/xs_sdk (on this machine, process 7) and /joint_state_publisher" in two and JOINTS.name in two
    assert calls(JOINTS, [(0.0, [driver, Speaker("/driver/xs_sdk", "5")])])[0], "two drivers of one name are two"


def test_a_stranger_beside_reserved_names_is_named_at_once() -> None:
    stranger = Speaker("/lab2/arm", "9")
    assert calls(COMMANDS, [(0.0, []), (0.1, [ARM]), (0.2, [ARM, WATCHDOG])]) == ["", "", ""]
    for present in ([stranger], [ARM, stranger], [ARM, WATCHDOG, stranger]):
        assert "/lab2/arm" in calls(COMMANDS, [(0.0, present)])[0]


def test_a_successor_of_a_killed_node_is_waited_for_but_a_second_self_is_not() -> None:
    successor = Speaker("/watchdog", "8")
    both = [ARM, WATCHDOG, successor]
    waited = [(0.0, [ARM, WATCHDOG]), (5.0, both), (9.0, both), (10.0, [ARM, successor]), (30.0, [ARM, successor])]
    assert calls(COMMANDS, waited) == [""] * 5
    alive = calls(COMMANDS, [(0.0, [ARM, WATCHDOG]), (5.0, both), (12.0, both)])
    assert alive[:2] == ["", ""] and "/watchdog is in the ROS graph 2 times" in alive[2]
    again = Speaker("/arm", "5", "on another machine")
    assert "on another machine" in calls(STATE, [(0.0, [ARM]), (0.1, [ARM, again])])[1]


@pytest.mark.parametrize("crowded", [True, False])
def test_a_name_that_comes_late_or_never_is_a_strangers_only_where_all_are_there(crowded: bool) -> None:
    nameless = Speaker("", "7")
    present = [ARM, WATCHDOG, nameless] if crowded else [ARM, nameless]
    found = calls(COMMANDS, [(0.0, present), (1.0, present), (3.0, present)])
    assert found[:2] == ["", ""] and bool(found[2]) == crowded
