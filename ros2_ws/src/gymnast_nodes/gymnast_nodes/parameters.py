"""Declared parameters with descriptors and ranges."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.node import Node

from gymnast_core.config import StationConfig, load_config
from gymnast_core.errors import ConfigError, DataError
from gymnast_core.robot.guard import FaultWindow


def parameter(
    node: Node,
    name: str,
    default: Any,
    description: str,
    low: float | None = None,
    high: float | None = None,
    read_only: bool = True,
) -> Any:
    """Declare a parameter with its descriptor (and range for numbers) and return its value.

    Raises: ConfigError when the value given is outside [low, high] or of another type.
    """
    descriptor = ParameterDescriptor(description=description, read_only=read_only)
    if low is not None and high is not None:
        if isinstance(default, int) and not isinstance(default, bool):
            descriptor.integer_range = [IntegerRange(from_value=int(low), to_value=int(high), step=0)]
        else:
            descriptor.floating_point_range = [FloatingPointRange(from_value=low, to_value=high, step=0.0)]
    try:
        return node.declare_parameter(name, default, descriptor).value
    except Exception as error:  # rclpy raises half a dozen unrelated types here
        raise ConfigError(f"parameter {name} of node {node.get_name()}: {' '.join(str(error).split())}") from error


def fault_window(node: Node, stop: str) -> FaultWindow:
    """Declare the parameters `max_faults` and `fault_window_s`: how many faults are too many, and latch `stop`."""
    limit = parameter(node, "max_faults", 5, f"this many faults within fault_window_s latch {stop}", 1, 1000)
    return FaultWindow(limit, parameter(node, "fault_window_s", 60.0, "window of max_faults, seconds", 1.0, 86400.0))


def station_parameter(node: Node) -> tuple[Path, StationConfig]:
    """Declare the parameter `config` and read the station file it names.

    Raises: ConfigError when it is empty, missing or wrong.
    """
    path = parameter(node, "config", "", "absolute path of the station's YAML file (robot_configs/*.yaml)")
    if not path:
        raise ConfigError(f"node {node.get_name()}: parameter 'config' is empty; give the path of a station file")
    return Path(path), load_config(StationConfig, path)


def check_seconds(name: str, value: float, most: float = math.inf) -> float:
    """A request's duration, where 0 means as configured. Raises: DataError outside 0 to `most`, or not finite."""
    if not (math.isfinite(value) and 0.0 <= value <= most):
        limit = f"0 (as configured) to {most:g} s" if math.isfinite(most) else "0 (as configured) or more seconds"
        raise DataError(f"{name}: found {value:g}, allowed are {limit}")
    return value
