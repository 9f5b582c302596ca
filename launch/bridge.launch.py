"""Start the whole graph of one station: `ros2 launch gymnast bridge.launch.py config:=robot_configs/my_station.yaml`.

The graph itself is described in gymnast_core/graph.py, which `gymnast up` reads too; this file only translates it.
"""

from launch.actions import DeclareLaunchArgument, EmitEvent, OpaqueFunction, RegisterEventHandler
from launch.event_handlers import OnProcessExit
from launch.events import Shutdown
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from gymnast_core.graph import station_graph
from launch import LaunchContext, LaunchDescription


def launch_graph(context: LaunchContext) -> list:
    """One launch_ros node for every description; an essential node's end ends the launch."""
    without = [name for name in LaunchConfiguration("without").perform(context).split(",") if name]
    nodes = station_graph(
        LaunchConfiguration("config").perform(context), LaunchConfiguration("namespace").perform(context), without
    )
    actions: list = []
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
                "log_level",
                default_value="info",
                choices=["debug", "info", "warn", "error"],
                description="Log level of all nodes.",
            ),
            OpaqueFunction(function=launch_graph),
        ]
    )
