"""Ages of stamps while the wall clock is moved."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from gymnast_core.clocks import WallClock

LOOK_TICKS = 5
sizes = st.floats(1.0, 1e6) | st.floats(-1e6, -1.0)


class Clocks:
    """A steady clock and a wall clock, moved by hand."""

    def __init__(self) -> None:
        self.steady = 100.0
        self.offset = 1.7e9

    @property
    def wall(self) -> float:
        return self.steady + self.offset


@given(
    jumps=st.lists(st.tuples(st.integers(LOOK_TICKS + 1, 40), sizes), max_size=6),  # seen one by one
    delays=st.lists(st.floats(0.0, 0.45), min_size=1, max_size=60),
)
def test_a_message_is_as_old_as_it_is_and_in_its_order_however_the_wall_clock_is_moved(
    jumps: list[tuple[int, float]], delays: list[float]
) -> None:
    clocks = Clocks()
    watched = WallClock(lambda: clocks.wall, lambda: clocks.steady)
    at = dict(zip(itertools.accumulate(gap for gap, _ in jumps), (size for _, size in jumps)))
    waiting: list[tuple[float, float, float]] = []  # due, taken, stamp
    placed: list[tuple[float, tuple[int, float]]] = []
    for tick in range(120):
        clocks.steady += 0.05
        if tick in at:
            clocks.offset += at[tick]
        delay = delays[tick % len(delays)]
        waiting.append((clocks.steady + delay, clocks.steady, clocks.wall))
        if tick % LOOK_TICKS == 0:
            watched.look()
        for _, taken, stamp in [one for one in waiting if one[0] <= clocks.steady]:
            assert abs(watched.age(stamp) - (clocks.steady - taken)) < 0.03
            placed.append((taken, watched.place(stamp)))
        waiting = [one for one in waiting if one[0] > clocks.steady]
    in_order = [place for _, place in sorted(placed)]
    assert in_order == sorted(in_order)
    assert watched.jumps <= len(at)


def test_a_jump_is_told_once_and_slewing_is_none() -> None:
    clocks = Clocks()
    watched = WallClock(lambda: clocks.wall, lambda: clocks.steady)
    for _ in range(1000):
        clocks.steady += 0.1
        clocks.offset += 0.01  # as fast as any time service slews
        assert watched.told() == ""
    clocks.offset -= 7200.0
    assert "-7200.0 s" in watched.told()
    assert watched.told() == "" and watched.jumps == 1
