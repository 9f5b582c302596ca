"""Start the whole graph of one station: `ros2 launch gymnast bridge.launch.py config:=robot_configs/my_station.yaml`.

The graph itself is described in gymnast_core/graph.py, which `gymnast up` reads too; this file only translates it. With
`start_driver:=true` the vendor's `xsarm_control` starts the arm's driver in the same launch.
"""

from pathlib import Path

from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    IncludeLaunchDescription,
    OpaqueFunction,
    RegisterEventHandler,
)
from launch.event_handlers import OnProcessExit
from launch.events import Shutdown
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from gymnast_core.config import StationConfig, load_config
from gymnast_core.errors import ConfigError
from gymnast_core.graph import station_graph
from gymnast_core.station_file import ament_prefixes, find_station_file
from launch import LaunchContext, LaunchDescription

VENDOR = "interbotix_xsarm_control"


def launch_driver(context: LaunchContext) -> list:
    """The vendor's driver under the station's name. Raises: ConfigError where the arm is simulated or none of the
    vendor's, or the vendor's package is not built."""
    station = load_config(StationConfig, find_station_file(LaunchConfiguration("config").perform(context)))
    if station.simulation is not None:
        raise ConfigError(f"start_driver: station '{station.name}' is simulated and has its own; leave it out")
    if station.arm.is_direct:
        raise ConfigError(f"start_driver: arm.driver is {station.arm.driver}, whose node is in the graph; leave it out")
    if not station.arm.model.isidentifier():
        raise ConfigError(
            f"start_driver: arm.model is '{station.arm.model}', a description of your own, which the vendor does not "
            "know; leave start_driver out, and start the driver yourself"
        )
    prefixes = ament_prefixes(VENDOR)
    if not prefixes:
        raise ConfigError(f"start_driver: {VENDOR} is not in AMENT_PREFIX_PATH; source the vendor's workspace")
    source = PythonLaunchDescriptionSource(str(Path(prefixes[0]) / "share" / VENDOR / "launch/xsarm_control.launch.py"))
    arguments = {
        "robot_model": station.arm.model,
        "robot_name": station.arm.driver_name[1:],
        "use_rviz": "false",
        "load_configs": LaunchConfiguration("load_configs").perform(context),
    }
    return [IncludeLaunchDescription(source, launch_arguments=arguments.items())]


def launch_graph(context: LaunchContext) -> list:
    """One launch_ros node for every description; an essential node's end ends the launch."""
    without = [name for name in LaunchConfiguration("without").perform(context).split(",") if name]
    start_driver = LaunchConfiguration("start_driver").perform(context) == "true"
    nodes = station_graph(
        LaunchConfiguration("config").perform(context),
        LaunchConfiguration("namespace").perform(context),
        without,
        start_driver,
    )
    actions: list = launch_driver(context) if start_driver else []
    for node in nodes:
        parameters = {key: list(value) if isinstance(value, tuple) else value for key, value in node.parameters}
        action = Node(
            package=node.package,
            executable=node.executable,
            name=node.name,
            namespace=node.namespace,
            parameters=[parameters],
            remappings=list(node.remappings),
            respawn=node.respawn,
            respawn_delay=1.0,
            output="screen",
            arguments=["--ros-args", "--log-level", LaunchConfiguration("log_level").perform(context)],
        )
        actions.append(action)
        if node.essential:
            ending = EmitEvent(event=Shutdown(reason=f"{node.name} ended"))
            actions.append(RegisterEventHandler(OnProcessExit(target_action=action, on_exit=[ending])))
    return actions


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                "config",
                default_value="simulated_drawer",
                description="Station file: a path, or the name of a shipped one (robot_configs/*.yaml).",
            ),
            DeclareLaunchArgument(
                "namespace",
                default_value="",
                description="Namespace of gymnast's own nodes, topics and services; the driver keeps its own.",
            ),
            DeclareLaunchArgument(
                "without",
                default_value="",
                description="Comma-separated nodes to leave out, for example 'adapter' when another machine trains.",
            ),
            DeclareLaunchArgument(
                "start_driver",
                default_value="false",
                choices=["true", "false"],
                description="Start the vendor's driver, too. It lets go of the motors first: the arm must lie.",
            ),
            DeclareLaunchArgument(
                "load_configs",
                default_value="false",
                choices=["true", "false"],
                description="With start_driver: write the motors' configuration (EEPROM) first, as a new arm needs.",
            ),
            DeclareLaunchArgument(
                "log_level",
                default_value="info",
                choices=["debug", "info", "warn", "error"],
                description="Log level of all nodes.",
            ),
            OpaqueFunction(function=launch_graph),
        ]
    )
