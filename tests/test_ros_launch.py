"""`bridge.launch.py` brings a station up wherever launch_ros is, with `start_driver:=true` the vendor's driver, too."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import yaml

from tests.domains import free_domain, isolate
from tests.ros_tools import ROOT, SIMULATED, Client, Process, wait_active

pytest.importorskip("launch_ros", reason="launch_ros is installed with an apt ROS 2 only")

RUN = """
import sys
from launch import LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
path, *words = sys.argv[1:]
arguments = [tuple(word.split(":=", 1)) for word in words]
source = PythonLaunchDescriptionSource(path)
service = LaunchService()
service.include_launch_description(
    LaunchDescription([IncludeLaunchDescription(source, launch_arguments=arguments)])
)
sys.exit(service.run())
"""
VENDOR = """
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, LogInfo
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node


def generate_launch_description():
    names = ("robot_model", "robot_name", "use_rviz", "load_configs")
    told = [x for name in names for x in (f"{{name}}=", LaunchConfiguration(name), " ")]
    return LaunchDescription(
        [DeclareLaunchArgument(name) for name in names]
        + [
            Node(
                package="gymnast_nodes",
                executable="station",
                name="xs_sdk",
                namespace=LaunchConfiguration("robot_name"),
                parameters=[{{"config": "{config}"}}],
                output="screen",
            ),
            LogInfo(msg=told),
        ]
    )
"""
"""Stands for the vendor's launch file: the same arguments, and the simulated driver under the name that they give."""
WITHOUT = "camera,recorder,adapter,executor,evaluator,console"


def launch(domain: int, config: Path, folder: Path, *words: str) -> Process:
    found = {**isolate(domain), "GYMNAST_STATE": str(folder / "state")}
    found["AMENT_PREFIX_PATH"] = f"{folder / 'vendor'}{os.pathsep}{found.get('AMENT_PREFIX_PATH', '')}"
    arguments = [f"config:={config}", f"without:={WITHOUT}", *words]
    return Process([sys.executable, "-c", RUN, str(ROOT / "launch" / "bridge.launch.py"), *arguments], found)


def write_vendor(folder: Path) -> None:
    share = folder / "vendor" / "share"
    index = share / "ament_index" / "resource_index" / "packages"
    index.mkdir(parents=True)
    (index / "interbotix_xsarm_control").touch()
    file = share / "interbotix_xsarm_control" / "launch" / "xsarm_control.launch.py"
    file.parent.mkdir(parents=True)
    file.write_text(VENDOR.format(config=SIMULATED), encoding="utf-8")


def test_the_launch_file_starts_the_vendors_driver_and_brings_the_arm_to_active(tmp_path: Path) -> None:
    write_vendor(tmp_path)
    content = yaml.safe_load(SIMULATED.read_text(encoding="utf-8"))
    del content["simulation"]
    real = tmp_path / "real.yaml"
    real.write_text(yaml.safe_dump(content), encoding="utf-8")
    domain = free_domain()
    process = launch(domain, real, tmp_path, "start_driver:=true")
    client = Client(domain)
    try:
        wait_active(client, process)
        assert "/wx250s/xs_sdk" in {f"{ns.rstrip('/')}/{n}" for n, ns in client.node.get_node_names_and_namespaces()}
        assert "robot_model=wx250s robot_name=wx250s use_rviz=false load_configs=false" in process.output
        assert process.interrupt() in (0, 1)
        assert "process has died" not in process.output, process.output
    finally:
        client.close()
        process.end()


def test_a_simulated_arm_has_a_driver_of_its_own(tmp_path: Path) -> None:
    process = launch(free_domain(), SIMULATED, tmp_path, "start_driver:=true")
    try:
        assert process.wait(30.0) == 1
        assert "start_driver: station 'simulated_drawer' is simulated" in process.output
    finally:
        process.end()
