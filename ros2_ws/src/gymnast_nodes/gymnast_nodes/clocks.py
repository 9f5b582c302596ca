"""Which clock a node counts on: the steady one for every period and timeout, the wall clock for stamps only.

rclpy's timers run on the node's clock. Where the wall clock is set back they stand still for as long as the jump, and
with `use_sim_time` for as long as /clock is silent, and with them everything that could complain.
"""

from __future__ import annotations

from typing import Any

from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.parameter import Parameter

from gymnast_core.clocks import WallClock
from gymnast_core.errors import ConfigError

STEADY = Clock(clock_type=ClockType.STEADY_TIME)
WALL = WallClock()
"""This process's view of the wall clock: ages of stamps."""
SIM_TIME = "use_sim_time"


class SteadyNode(Node):
    """A node whose timers run on the steady clock and whose stamps are the wall clock's.

    `use_sim_time` is refused, at the start and while it runs: a clock that stands still or runs at another speed must
    not decide how old an action or a picture is. Raises: ConfigError.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.get_parameter(SIM_TIME).value is not False:
            raise ConfigError(_refusal(self))
        self.add_on_set_parameters_callback(self._keep_wall_time)

    def create_timer(
        self, timer_period_sec: float, callback: Any, callback_group: Any = None, clock: Any = None, **more: Any
    ) -> Any:
        """As rclpy's, on the steady clock."""
        return super().create_timer(timer_period_sec, callback, callback_group, clock or STEADY, **more)

    def _keep_wall_time(self, parameters: list[Parameter]) -> SetParametersResult:
        wanted = any(one.name == SIM_TIME and one.value is not False for one in parameters)
        return SetParametersResult(successful=not wanted, reason=_refusal(self) if wanted else "")


def _refusal(node: Node) -> str:
    return (
        f"node {node.get_name()}: {SIM_TIME} is set, but gymnast's nodes keep the wall clock's time: /clock may stand "
        "still, or run at another speed than the arm. Leave it out for these nodes (SetParameter in a launch file "
        "reaches only what its own GroupAction includes)"
    )
