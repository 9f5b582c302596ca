"""The graph is described once; `gymnast up` brings it up, keeps it up, says what is wrong, and ends it cleanly."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from gymnast_msgs.action import RunEpisode
from gymnast_msgs.msg import ArmState, GraphStatus
from gymnast_msgs.srv import CaptureFrame, EmergencyStop, Rearm, ResetArm
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.srv import DescribeParameters, ListParameters
from rclpy.qos import DurabilityPolicy, ReliabilityPolicy
from sensor_msgs.msg import Image, JointState

import gymnast_nodes
from gymnast_core.config import CameraConfig
from gymnast_core.data.outcome import OUTCOMES
from gymnast_core.errors import ConfigError
from gymnast_core.graph import MANAGED, NodeDescription, find_executable, station_graph
from gymnast_core.robot.ros_domain import inhabited
from gymnast_core.station_file import find_station_file
from gymnast_nodes.frame_time import NewestFrame
from tests.domains import free_domain, isolate
from tests.machine import allowed
from tests.ros_tools import (
    ARMED,
    ROOT,
    SIMULATED,
    Client,
    Process,
    process_of,
    running_graph,
    set_faults,
    settle,
    start_graph,
    wait_active,
    wait_until,
)

WITHOUT = ("recorder", "adapter", "executor", "evaluator")  # they have tests of their own, and load models
REAL_STATION = """
name: elsewhere
arm: {driver_timeout_s: 1.0}
tasks: {wave: {instruction: wave}}
"""


@pytest.fixture(scope="module")
def shared() -> Iterator[tuple[Process, Client]]:
    with running_graph(without=WITHOUT) as (process, client):
        wait_active(client, process)
        yield process, client


@pytest.fixture
def graph(shared: tuple[Process, Client]) -> tuple[Process, Client]:
    """All nodes active and the arm at its start, whatever the test before did."""
    process, client = shared
    wait_active(client, process)
    settle(client)
    return shared


def test_graph_is_described_once_and_every_executable_is_there(tmp_path: Path) -> None:
    nodes = station_graph(SIMULATED)
    assert [node.name for node in nodes] == ["xs_sdk", "watchdog", *MANAGED, "console", "supervisor"]
    assert [node.name for node in nodes if node.lifecycle] == list(MANAGED)
    assert nodes[0].namespace == "/wx250s"
    assert dict(nodes[-1].parameters)["managed_nodes"] == MANAGED
    assert all(dict(node.parameters)["config"] == str(SIMULATED) for node in nodes)
    assert all(find_executable(node) for node in nodes)
    assert find_station_file("simulated_drawer") == SIMULATED
    with pytest.raises(ConfigError, match="simulated_drawer"):
        find_station_file("no_such_station")
    apart = station_graph(SIMULATED, namespace="lab")
    assert {node.namespace for node in apart} == {"/wx250s", "/lab"}  # the driver keeps its own
    assert dict(apart[0].remappings)["station/reset_scene"] == "/lab/station/reset_scene"
    nearby = tmp_path / "nearby.yaml"  # the simulated camera publishes where the camera node looks
    nearby.write_text(SIMULATED.read_text().replace("/camera/image_raw", "eye/image"))
    assert dict(station_graph(nearby)[0].remappings)["eye/image"] == "/eye/image"
    assert dict(station_graph(nearby, "lab")[0].remappings)["eye/image"] == "/lab/eye/image"
    with pytest.raises(ConfigError, match="driver"):
        station_graph(SIMULATED, without=["driver"])


def test_a_node_installed_by_pip_only_starts_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AMENT_PREFIX_PATH", raising=False)
    environment = isolate(free_domain())
    for name in ("recorder", "watchdog"):
        line = find_executable(NodeDescription("gymnast_nodes", name, name))
        assert line[0] == sys.executable
        node = Process([*line, "--ros-args", "-p", "config:=nowhere.yaml"], environment)
        assert node.wait(60.0) == 2 and "nowhere.yaml" in node.output
        node.end()


def test_outcomes_have_their_names_and_numbers_on_the_wire() -> None:
    constants = {name: getattr(RunEpisode.Result, name) for name in dir(RunEpisode.Result) if name[:8] == "OUTCOME_"}
    assert constants == {f"OUTCOME_{name.upper()}": n for n, name in enumerate(OUTCOMES)}


def test_real_station_starts_no_simulated_driver(tmp_path: Path) -> None:
    path = tmp_path / "real.yaml"
    path.write_text(REAL_STATION)
    assert "xs_sdk" not in [node.name for node in station_graph(path)]


def test_launch_file_starts_the_same_nodes() -> None:
    pytest.importorskip("launch_ros", reason="launch_ros is installed with an apt ROS 2 only")
    import importlib.util

    from launch_ros.actions import Node

    from launch import LaunchContext

    spec = importlib.util.spec_from_file_location("bridge_launch", ROOT / "launch" / "bridge.launch.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    description = module.generate_launch_description()
    context = LaunchContext()
    for argument in description.get_launch_arguments():
        context.launch_configurations[argument.name] = argument.default_value[0].text if argument.default_value else ""
    started = [action for action in module.launch_graph(context) if isinstance(action, Node)]
    assert len(started) == len(station_graph(SIMULATED))


def test_a_frame_that_does_not_show_what_is_there_now_is_named() -> None:
    newest = NewestFrame(CameraConfig(width=32, height=24, max_age_s=0.2), lambda stamp: 1000.0 - stamp)
    assert "no frame on" in newest.problem

    def take(stamp: float, width: int = 32, encoding: str = "bgr8") -> str:
        message = Image(width=width, height=24, step=3 * width, encoding=encoding)
        message.header.stamp.sec, message.header.stamp.nanosec = int(stamp), int(stamp % 1 * 1e9)
        newest.take(message)
        return newest.problem

    assert take(999.9) == "" and take(0.0) == "" and take(1005.0) == ""  # no stamp; a clock ahead of ours
    assert "32x24" in take(999.9, width=64) and "'16UC1'" in take(999.9 + 0.01, encoding="16UC1")
    assert "1.5 s old when they come" in take(998.5)
    assert take(999.95) == ""
    time.sleep(0.25)
    assert "no new frame" in take(999.95)  # the same again is none
    assert take(999.96) == ""


def test_ros2_launch_brings_the_nodes_to_active() -> None:
    pytest.importorskip("launch_ros", reason="launch_ros is installed with an apt ROS 2 only")
    ros2 = shutil.which("ros2")
    if ros2 is None:
        pytest.skip("there is no ros2 command here")
    domain = free_domain()
    arguments = [f"config:={SIMULATED}", f"without:={','.join(WITHOUT)}"]
    process = Process([ros2, "launch", "gymnast", "bridge.launch.py", *arguments], isolate(domain))
    client = Client(domain)
    try:
        wait_active(client, process)
        assert process.interrupt() in (0, 1, -signal.SIGINT)
        assert "process has died" not in process.output, process.output
    finally:
        client.close()
        process.end()


def test_nodes_are_active_and_topics_have_their_types_and_qos(graph: tuple[Process, Client]) -> None:
    _, client = graph
    for name in ("arm", "camera"):
        assert client.call(GetState, f"/{name}/get_state", GetState.Request()).current_state.label == "active"
    names = {f"{ns.rstrip('/')}/{name}" for name, ns in client.node.get_node_names_and_namespaces()}
    assert {"/wx250s/xs_sdk", "/watchdog", "/arm", "/camera", "/supervisor"} <= names
    reliable, volatile, latched = (
        ReliabilityPolicy.RELIABLE,
        DurabilityPolicy.VOLATILE,
        DurabilityPolicy.TRANSIENT_LOCAL,
    )
    expected = {
        "/wx250s/joint_states": ("sensor_msgs/msg/JointState", reliable, volatile),
        "/wx250s/commands/joint_group": ("interbotix_xs_msgs/msg/JointGroupCommand", reliable, volatile),
        "/wx250s/commands/joint_single": ("interbotix_xs_msgs/msg/JointSingleCommand", reliable, volatile),
        "/camera/image_raw": ("sensor_msgs/msg/Image", reliable, volatile),
        "/arm/state": ("gymnast_msgs/msg/ArmState", reliable, volatile),
        "/arm/executed": ("gymnast_msgs/msg/ExecutedAction", reliable, volatile),
        "/supervisor/status": ("gymnast_msgs/msg/GraphStatus", reliable, latched),
        "/watchdog/fault": ("std_msgs/msg/String", reliable, latched),
        "/diagnostics": ("diagnostic_msgs/msg/DiagnosticArray", reliable, volatile),
        "/station/truth": ("diagnostic_msgs/msg/DiagnosticArray", reliable, volatile),
    }
    for topic, (kind, reliability, durability) in expected.items():
        publishers = client.node.get_publishers_info_by_topic(topic)
        assert publishers, topic
        for publisher in publishers:
            found = (publisher.topic_type, publisher.qos_profile.reliability, publisher.qos_profile.durability)
            assert found == (kind, reliability, durability), topic
    listeners = client.node.get_subscriptions_info_by_topic("/camera/image_raw")
    camera = [listener for listener in listeners if listener.node_name == "camera"]
    assert camera and camera[0].qos_profile.reliability == ReliabilityPolicy.RELIABLE  # as offered
    services = dict(client.node.get_service_names_and_types())
    for service, kind in {
        "/wx250s/get_robot_info": "interbotix_xs_msgs/srv/RobotInfo",
        "/wx250s/set_operating_modes": "interbotix_xs_msgs/srv/OperatingModes",
        "/wx250s/torque_enable": "interbotix_xs_msgs/srv/TorqueEnable",
        "/wx250s/reboot_motors": "interbotix_xs_msgs/srv/Reboot",
        "/wx250s/set_motor_registers": "interbotix_xs_msgs/srv/RegisterValues",
        "/wx250s/get_motor_registers": "interbotix_xs_msgs/srv/RegisterValues",
        "/wx250s/set_motor_pid_gains": "interbotix_xs_msgs/srv/MotorGains",
        "/arm/reset": "gymnast_msgs/srv/ResetArm",
        "/arm/emergency_stop": "gymnast_msgs/srv/EmergencyStop",
        "/arm/rearm": "gymnast_msgs/srv/Rearm",
        "/arm/rest": "std_srvs/srv/Trigger",
        "/camera/capture_frame": "gymnast_msgs/srv/CaptureFrame",
        "/station/reset_scene": "gymnast_msgs/srv/ResetScene",
        "/station/scene_state": "gymnast_msgs/srv/SceneState",
        "/watchdog/hold": "std_srvs/srv/Trigger",
    }.items():
        assert services.get(service) == [kind], service


def test_parameters_of_every_node_are_described(graph: tuple[Process, Client]) -> None:
    _, client = graph
    for name in ("arm", "camera", "watchdog", "supervisor", "wx250s/xs_sdk"):
        listed = client.call(ListParameters, f"/{name}/list_parameters", ListParameters.Request()).result.names
        own = [
            p
            for p in listed
            if not p.startswith("qos_overrides") and p not in ("use_sim_time", "start_type_description_service")
        ]
        assert "config" in own
        request = DescribeParameters.Request(names=own)
        for descriptor in client.call(DescribeParameters, f"/{name}/describe_parameters", request).descriptors:
            assert descriptor.description, f"{name}: {descriptor.name}"


def test_joint_states_and_frames_keep_their_rates(graph: tuple[Process, Client]) -> None:
    _, client = graph
    joints = client.listen(JointState, "/wx250s/joint_states", 200)
    frames = client.listen(Image, "/camera/image_raw")
    wait_until(lambda: joints and frames, 5.0, "joint states and frames")
    began, first = time.monotonic(), (len(joints), len(frames))
    # On an idle machine they come at 100 and 10 Hz, on a busy one as late as it is.
    wait_until(lambda: len(joints) - first[0] > 240 and len(frames) - first[1] > 21, 3.0, "240 states and 21 frames")
    assert (len(joints) - first[0]) / (time.monotonic() - began) < 115.0
    message = joints[-1][1]
    assert list(message.name)[:7] == [
        "waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate", "gripper",
    ]  # fmt: skip
    assert list(message.name)[7:] == ["left_finger", "right_finger"]
    assert message.position[8] == -message.position[7] and len(message.velocity) == len(message.effort) == 9
    stamps = [m.header.stamp.sec + m.header.stamp.nanosec * 1e-9 for _, m in frames[-10:]]
    assert all(b > a for a, b in itertools.pairwise(stamps))
    assert abs(frames[-1][0] - time.monotonic() + time.time() - stamps[-1]) < allowed(1.0, began)


def test_capture_writes_one_fresh_frame(graph: tuple[Process, Client], tmp_path: Path) -> None:
    _, client = graph
    path = tmp_path / "frame.png"
    before = time.time()
    answer = client.call(CaptureFrame, "/camera/capture_frame", CaptureFrame.Request(path=str(path), max_age=2.0))
    assert answer.success, answer.message
    written = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    sent = np.frombuffer(answer.image.data, np.uint8).reshape(answer.image.height, answer.image.width, 3)
    assert written.shape == (480, 640, 3) and (written == sent).all() and written.std() > 5.0
    assert answer.image.header.stamp.sec + answer.image.header.stamp.nanosec * 1e-9 > before - 2.0
    for path, words in (("/proc/no/frame.png", "/proc/no/frame.png"), ("~no_such_user/a.png", "~no_such_user")):
        nowhere = client.call(CaptureFrame, "/camera/capture_frame", CaptureFrame.Request(path=path))
        assert not nowhere.success and words in nowhere.message
    for age in (-1.0, float("nan"), float("inf")):
        never = client.call(CaptureFrame, "/camera/capture_frame", CaptureFrame.Request(max_age=age))
        assert not never.success and "max_age" in never.message


def test_stopped_camera_is_named(graph: tuple[Process, Client]) -> None:
    _, client = graph
    diagnostics = client.listen(DiagnosticArray, "/diagnostics", 50)
    set_faults(client, "camera_stopped")
    try:
        time.sleep(1.2)
        answer = client.call(CaptureFrame, "/camera/capture_frame", CaptureFrame.Request())
        assert not answer.success and not answer.image.data
        assert "/camera/image_raw" in answer.message and "is the camera running" in answer.message

        def reported() -> bool:
            statuses = [status for _, array in diagnostics[-8:] for status in array.status]
            return any(s.name == "camera: camera" and s.level == DiagnosticStatus.ERROR for s in statuses)

        wait_until(reported, 5.0, "an error on /diagnostics")
    finally:
        set_faults(client)
    assert client.call(CaptureFrame, "/camera/capture_frame", CaptureFrame.Request()).success


def test_killed_camera_comes_back_and_the_supervisor_says_so(graph: tuple[Process, Client]) -> None:
    process, client = graph
    statuses = client.listen(GraphStatus, "/supervisor/status")
    first = len(statuses)
    os.kill(process_of("camera", process), signal.SIGKILL)

    def told() -> bool:  # a fast respawn speaks before the silence counts as "down": then its restart is what is told
        return any(n.state == "down" or n.restarts for _, s in statuses[first:] for n in s.nodes if n.name == "camera")

    wait_until(told, 10.0, "the supervisor says that the camera went")
    wait_until(lambda: statuses[-1][1].all_active, 20.0, "camera is active again")
    camera = next(n for n in statuses[-1][1].nodes if n.name == "camera")
    assert camera.restarts >= 1

    def servers() -> int:
        return len(client.node.get_subscriptions_info_by_topic("rq/camera/capture_frameRequest", no_mangle=True))

    # What is asked while the dead server still counts as there may go to it alone.
    wait_until(lambda: servers() == 1, 8.0, "the end of the dead server")
    assert client.call_respawned(CaptureFrame, "/camera/capture_frame", CaptureFrame.Request()).success


def test_killed_arm_node_leaves_the_arm_held_within_half_a_second(graph: tuple[Process, Client]) -> None:
    process, client = graph
    joints = client.listen(JointState, "/wx250s/joint_states", 200)
    states = client.listen(ArmState, "/arm/state")
    statuses = client.listen(GraphStatus, "/supervisor/status")
    client.start_call(ResetArm, "/arm/reset", ResetArm.Request(offset=[0.05, 0.1, 0.0]))

    def track(since: float) -> tuple[np.ndarray, np.ndarray]:
        """Stamps (n,) and arm joints (n, 6) published since then, by the driver's own clock."""
        recent = [m for _, m in joints[-300:] if m.header.stamp.sec + m.header.stamp.nanosec * 1e-9 >= since]
        stamps = np.array([m.header.stamp.sec + m.header.stamp.nanosec * 1e-9 for m in recent])
        return stamps, np.array([m.position[:6] for m in recent]).reshape(-1, 6)

    def moving() -> bool:
        _, recent = track(time.time() - 0.15)
        return len(recent) > 5 and float(np.max(np.ptp(recent, axis=0))) > 0.03

    wait_until(moving, 8.0, "the arm in motion")
    killed, killed_at = time.time(), time.monotonic()
    os.kill(process_of("arm", process), signal.SIGKILL)
    wait_until(lambda: track(killed + 1.5)[0].size > 5, 5.0, "joint states after the kill")
    stamps, path = track(killed)
    away = np.max(np.abs(path - path[-1]), axis=1) > 0.02
    held_after = float(stamps[away][-1] - killed) if away.any() else 0.0
    limit = allowed(0.5, killed_at, killed_at + held_after)
    assert held_after < limit, f"the arm was held only {held_after:.2f} s after the arm node's death"
    assert "held the arm" in process.output
    wait_until(lambda: not statuses[-1][1].all_active, 5.0, "the arm node is down")
    wait_until(lambda: statuses[-1][1].all_active, 30.0, "the arm node is active again")
    held = np.array(joints[-1][1].position[:6])
    wait_until(lambda: states[-1][1].mode in ARMED, 5.0, "the arm accepts actions")
    time.sleep(0.5)
    # Neither the new node's activation nor its profile check let go of the arm or moved it.
    assert float(np.max(np.abs(np.array(joints[-1][1].position[:6]) - held))) < 0.03


def test_a_latched_stop_outlives_the_arm_nodes_process(graph: tuple[Process, Client]) -> None:
    process, client = graph
    states = client.listen(ArmState, "/arm/state")
    statuses = client.listen(GraphStatus, "/supervisor/status")
    assert client.call(EmergencyStop, "/arm/emergency_stop", EmergencyStop.Request(reason="a hand")).success
    wait_until(lambda: states[-1][1].mode == ArmState.MODE_STOPPED, 3.0, "the stop")
    first = len(statuses)
    os.kill(process_of("arm", process), signal.SIGKILL)
    killed = time.monotonic()
    wait_until(lambda: any(not s.all_active for _, s in statuses[first:]), 10.0, "the arm node is down")
    wait_until(lambda: statuses[-1][1].all_active, 30.0, "the arm node is active again")
    wait_until(lambda: states[-1][1].mode == ArmState.MODE_STOPPED, 8.0, "the successor is stopped, too")
    assert states[-1][1].detail == "a hand"
    assert not [m for t, m in states if t > killed and m.mode == ArmState.MODE_READY], "it was ready meanwhile"
    # The middleware counts the dead process's services as there for some seconds, and would send them the request.
    wait_until(lambda: client.node.count_publishers("/arm/state") == 1, 20.0, "the dead arm node is forgotten")
    answer = client.call_respawned(Rearm, "/arm/rearm", Rearm.Request(confirm=True))
    assert answer.success, answer.message
    wait_until(lambda: states[-1][1].mode in ARMED, 5.0, "the arm accepts actions")


def test_a_node_deactivated_by_hand_is_left_alone_until_it_is_activated(graph: tuple[Process, Client]) -> None:
    _, client = graph
    statuses = client.listen(GraphStatus, "/supervisor/status")

    def change(transition: int) -> None:
        request = ChangeState.Request(transition=Transition(id=transition))
        assert client.call(ChangeState, "/camera/change_state", request).success

    def camera() -> tuple[str, str]:
        return next((n.state, n.detail) for n in statuses[-1][1].nodes if n.name == "camera")

    change(Transition.TRANSITION_DEACTIVATE)
    wait_until(lambda: camera() == ("inactive", "deactivated by hand"), 3.0, "the supervisor says so")
    time.sleep(2.5)
    assert camera()[0] == "inactive"
    change(Transition.TRANSITION_ACTIVATE)
    wait_until(lambda: statuses[-1][1].all_active, 3.0, "all active")


def test_ctrl_c_ends_every_process_and_returns_zero() -> None:
    domain = free_domain()
    process = start_graph(domain, without=WITHOUT)
    client = Client(domain)
    try:
        wait_active(client, process)
        children = [process_of(name, process) for name in ("xs_sdk", "watchdog", "arm", "camera", "supervisor")]
        assert process.interrupt() == 0
        assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]
        errors = [line for line in process.lines if "[ERROR]" in line]
        assert all("no joint states for" in line for line in errors), errors  # a busy machine stalls the simulator
        assert "Traceback" not in process.output, process.output
    finally:
        client.close()
        process.end()


def test_missing_driver_is_one_clear_line_and_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "real.yaml"
    path.write_text(REAL_STATION)
    own = shutil.copy(Path(gymnast_nodes.__file__).with_name("fastdds.xml"), tmp_path / "own.xml")
    monkeypatch.setenv("FASTDDS_DEFAULT_PROFILES_FILE", str(own))
    process = start_graph(free_domain(), path, WITHOUT)
    try:
        assert process.wait(40.0) == 1, process.output
        said = [line for line in process.said if line.startswith("[supervisor]")]
        assert len(said) == 3, process.output
        profile, waiting, told = said
        assert str(own) in profile and "real_station.md" in profile
        assert "waiting up to 1 s" in waiting and "/wx250s/get_robot_info" in waiting, process.output
        assert "/wx250s/get_robot_info" in told and "xs_sdk" in told and "/camera/image_raw" in told, process.output
        assert not [line for line in process.lines if "ERROR" in line and line != told], process.output
    finally:
        process.end()


def test_a_second_graph_of_the_same_names_is_refused_before_it_can_fight_the_first() -> None:
    domain = free_domain()
    first = start_graph(domain, SIMULATED, WITHOUT)
    try:
        wait_until(lambda: "watching" in first.output, 60.0, "the first graph")
        assert inhabited(domain)
        second = start_graph(domain, SIMULATED, WITHOUT)
        try:
            assert second.wait(30.0) == 2
            assert len(second.said) == 1 and f"up already in ROS domain {domain}" in second.output
        finally:
            second.end()
    finally:
        first.end()


def test_wrong_station_file_is_one_line_before_anything_starts(tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text("name: x\ntasks: {open: {instruction: open it}}\narm: {control_hz: -5}\n")
    process = start_graph(free_domain(), path)
    try:
        assert process.wait(30.0) == 2
        assert len(process.lines) == 1 and "arm.control_hz" in process.output and "wrong.yaml" in process.output
    finally:
        process.end()
