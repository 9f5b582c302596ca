"""The one description of a station's ROS graph: which nodes run, with which names, parameters and duties.

Data only. `launch/bridge.launch.py` turns it into launch_ros nodes and `gymnast up` into processes; the supervisor
node learns here which nodes it manages and in which order. It is said nowhere else.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from gymnast_core.config import StationConfig, load_config
from gymnast_core.errors import ConfigError
from gymnast_core.progress import die_with_parent
from gymnast_core.station_file import ament_prefixes, find_station_file

ParameterValue = str | bool | int | float | tuple[str, ...]
NODE_PACKAGE = "gymnast_nodes"
LOOKED = "(looked)"
"""The last line of `gymnast_nodes.look`."""


@dataclass(frozen=True)
class NodeDescription:
    """One process of the graph.

    namespace: absolute ("/wx250s") or empty for the root.
    parameters: (name, value) pairs.
    remappings: (from, to) pairs.
    lifecycle: the supervisor configures and activates it, in the order of the description.
    respawn: started again when it ends by itself; the graph goes on without one that is not.
    essential: when it ends, the whole graph ends, with its exit code.
    """

    package: str
    executable: str
    name: str
    namespace: str = ""
    parameters: tuple[tuple[str, ParameterValue], ...] = ()
    remappings: tuple[tuple[str, str], ...] = ()
    lifecycle: bool = False
    respawn: bool = True
    essential: bool = False


CONSOLE = "console"
# Managed nodes in the order they are brought up: the hands and eyes first, what uses them after.
MANAGED = ("camera", "arm", "recorder", "adapter", "executor", "evaluator")
OPTIONAL = ("watchdog", *MANAGED, CONSOLE, "supervisor")


def station_graph(
    config_path: str | os.PathLike[str], namespace: str = "", without: Sequence[str] = (), driver_starts: bool = False
) -> tuple[NodeDescription, ...]:
    """The nodes of the station file at `config_path`, in start order.

    namespace: put before the names of gymnast's own nodes (the driver keeps `arm.namespace` of the file).
    without: names of nodes to leave out (of `OPTIONAL`), for example the adapter where another machine trains.
    driver_starts: the real arm's driver starts together with the graph, which gives it its time.

    Raises: ConfigError when the station file is wrong, `namespace` is no ROS name, or `without` names no node.
    """
    path = find_station_file(config_path)
    station = load_config(StationConfig, path)
    unknown = sorted(set(without) - set(OPTIONAL))
    if unknown:
        raise ConfigError(f"cannot leave out '{unknown[0]}'; nodes that can be left out: {', '.join(OPTIONAL)}")
    if namespace := namespace.strip("/"):
        if not re.fullmatch(r"[A-Za-z_]\w*(/[A-Za-z_]\w*)*", namespace, re.ASCII):
            raise ConfigError(f"namespace: found {namespace!r}, needed letters, digits and _ only, e.g. /lab/arm_1")
        namespace = f"/{namespace}"
    config = ("config", str(path))
    driver_namespace = station.arm.driver_name
    nodes = []
    if station.simulation is not None:
        # The driver lives in its own namespace, scene and camera with gymnast's other names.
        names = ["station/reset_scene", "station/scene_state", "station/truth"]
        names += [] if station.camera.topic.startswith("/") else [station.camera.topic]
        remapped = tuple((name, f"{namespace}/{name}") for name in names)
        nodes.append(NodeDescription(NODE_PACKAGE, "station", "xs_sdk", driver_namespace, (config,), remapped))
    elif station.arm.is_direct:
        driver_starts = True
        nodes.append(NodeDescription(NODE_PACKAGE, "driver", "driver", driver_namespace, (config,)))
    if "watchdog" not in without:
        nodes.append(NodeDescription(NODE_PACKAGE, "watchdog", "watchdog", namespace, (config,)))
    managed = tuple(name for name in MANAGED if name not in without)
    nodes += [NodeDescription(NODE_PACKAGE, name, name, namespace, (config,), lifecycle=True) for name in managed]
    if station.console.enabled and CONSOLE not in without:
        nodes.append(NodeDescription(NODE_PACKAGE, CONSOLE, CONSOLE, namespace, (config,), respawn=False))
    if "supervisor" not in without:
        parameters = (config, ("managed_nodes", managed), ("driver_starts", driver_starts))
        nodes.append(
            NodeDescription(
                NODE_PACKAGE, "supervisor", "supervisor", namespace, parameters, respawn=False, essential=True
            )
        )
    return tuple(nodes)


def find_executable(node: NodeDescription) -> list[str]:
    """How to start the node: `<prefix>/lib/<package>/<executable>`, as launch_ros finds it; where gymnast's own nodes
    are installed by pip only (which knows no such folder), this interpreter with the node's entry point.

    Raises: ConfigError when the package is not built or sourced, or has no such executable.
    """
    prefixes = ament_prefixes(node.package)
    for prefix in prefixes:
        executable = prefix / "lib" / node.package / node.executable
        if os.access(executable, os.X_OK):
            return [str(executable)]
    module = f"{NODE_PACKAGE}.{node.executable}_node"
    if node.package == NODE_PACKAGE and importlib.util.find_spec(NODE_PACKAGE) and importlib.util.find_spec(module):
        return [sys.executable, "-c", f"import sys; from {module} import main; sys.exit(main())"]
    if prefixes:
        raise ConfigError(
            f"package '{node.package}' in {prefixes[0]} has no executable '{node.executable}'; build it anew"
        )
    raise ConfigError(
        f"ROS package '{node.package}' is neither in AMENT_PREFIX_PATH nor importable; run `make setup` and "
        "`source tools/env.sh`, or build it (cd ros2_ws && colcon build) and source ros2_ws/install/setup.bash"
    )


def look(arguments: Sequence[str]) -> list[str] | None:
    """What `gymnast_nodes.look` finds in the ROS graph, line by line; None where there is no ROS for this Python."""
    looking = subprocess.Popen(
        [sys.executable, "-m", "gymnast_nodes.look", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        preexec_fn=die_with_parent,
    )
    lines = looking.communicate()[0].splitlines()
    return lines[:-1] if lines[-1:] == [LOOKED] else None
