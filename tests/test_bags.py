"""Bags that others recorded become episodes by written rules: no picture is later than its action, no topic a guess."""

from __future__ import annotations

import io
import json
import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from scipy.spatial.transform import Rotation

from gymnast_core.cli import main
from gymnast_core.config import BagConfig, dump_config
from gymnast_core.data.bag_alignment import OLDEST, check_rate, even_times, latest, seen_at, steps_seen
from gymnast_core.data.formats import StoredEpisode, find_all
from gymnast_core.data.mcap_log import McapLog, Topic
from gymnast_core.errors import ConfigError, DataError

STORE = get_typestore(Stores.ROS2_JAZZY)
ROOT = Path(__file__).resolve().parent.parent
START, PERIOD = 1_700_000_000_000_000_000, 200_000_000
CAMERA, ACTIONS, POSES, GRIPPER = "/camera/color/image_raw", "/policy/action", "/tool", "/joints"
STEPS, SIDE = 8, 32
BRIDGE = """std_msgs/Header header
string episode_id
uint32 step
float32[3] translation
float32[3] rotation
float32 gripper
string commander
"""


def made(kind: str, **fields: Any) -> Any:
    return STORE.types[kind](**fields)


def header(time: int | None) -> Any:
    sec, nanosec = divmod(time or 0, 1_000_000_000)
    return made(
        "std_msgs/msg/Header", stamp=made("builtin_interfaces/msg/Time", sec=sec, nanosec=nanosec), frame_id="base"
    )


def shade(number: int) -> np.ndarray:
    return np.full((SIDE, SIDE, 3), (10 * number % 250, 0, 255 - number), np.uint8)


def raw(number: int, time: int | None, encoding: str = "rgb8") -> Any:
    pixels = shade(number)[:, :, ::-1] if encoding == "bgr8" else shade(number)
    padded = np.zeros((SIDE, 3 * SIDE + 4), np.uint8)
    padded[:, : 3 * SIDE] = pixels.reshape(SIDE, -1)
    step = padded.shape[1]
    fields = {"header": header(time), "height": SIDE, "width": SIDE, "encoding": encoding, "is_bigendian": 0}
    return made("sensor_msgs/msg/Image", step=step, data=padded.ravel(), **fields)


def packed(number: int, time: int | None, kind: str = "PNG", named: str = "png") -> Any:
    stream = io.BytesIO()
    picture = Image.fromarray(shade(number))
    (picture.convert("I;16") if kind == "16" else picture).save(stream, "PNG" if kind == "16" else kind)
    data = np.frombuffer(stream.getvalue(), np.uint8)
    return made("sensor_msgs/msg/CompressedImage", header=header(time), format=named, data=data)


def array(values: Any, kind: str = "Float32") -> Any:
    layout = made("std_msgs/msg/MultiArrayLayout", dim=[], data_offset=0)
    return made(f"std_msgs/msg/{kind}MultiArray", layout=layout, data=np.asarray(values, kind.lower()))


def bridge(values: np.ndarray, time: int) -> Any:
    fields = {"translation": values[:3], "rotation": values[3:6], "gripper": float(values[6])}
    return made("gymnast_msgs/msg/BridgeAction", header=header(time), episode_id="", step=0, commander="", **fields)


def pose(place: Any, turn: Rotation, time: int | None) -> Any:
    x, y, z, w = turn.as_quat()
    inner = made(
        "geometry_msgs/msg/Pose",
        position=made("geometry_msgs/msg/Point", x=place[0], y=place[1], z=place[2]),
        orientation=made("geometry_msgs/msg/Quaternion", x=x, y=y, z=z, w=w),
    )
    return made("geometry_msgs/msg/PoseStamped", header=header(time), pose=inner)


def joints(value: float, time: int) -> Any:
    names, empty = ["waist", "left_finger"], np.zeros(0)
    return made(
        "sensor_msgs/msg/JointState",
        header=header(time),
        name=names,
        position=np.array([0.3, value]),
        velocity=empty,
        effort=empty,
    )


def text(words: str) -> Any:
    return made("std_msgs/msg/String", data=words)


@dataclass
class Recorded:
    """What goes into a bag: (topic, time of receipt, message)."""

    messages: list[tuple[str, int, Any]] = field(default_factory=list)

    def put(self, topic: str, time: int, message: Any) -> Recorded:
        self.messages.append((topic, time, message))
        return self

    def without(self, topic: str) -> Recorded:
        return Recorded([one for one in self.messages if one[0] != topic])

    def write(self, folder: Path, storage: str = "mcap") -> Path:
        folder.parent.mkdir(parents=True, exist_ok=True)
        plugin = StoragePlugin.MCAP if storage == "mcap" else StoragePlugin.SQLITE3
        with Writer(folder, version=9, storage_plugin=plugin) as writer:
            channels: dict[str, Any] = {}
            for topic, time, message in sorted(self.messages, key=lambda one: one[1]):
                kind = message.__msgtype__
                if (topic, kind) not in channels:
                    channels[topic, kind] = writer.add_connection(topic, kind, typestore=STORE)
                writer.write(channels[topic, kind], time, STORE.serialize_cdr(message, kind))
        return folder

    def write_in_chunks(self, folder: Path) -> Path:
        """As rosbag2 does, with checksums, which rosbags leaves out."""
        log = McapLog(folder, "lz4")
        for topic, time, message in sorted(self.messages, key=lambda one: one[1]):
            kind = message.__msgtype__
            log.add_topic(Topic(topic, kind, STORE.generate_msgdef(kind, ros_version=2)[0]))
            log.write(topic, bytes(STORE.serialize_cdr(message, kind)), time)
        log.close()
        return folder


STORE.register(get_types_from_msg(BRIDGE, "gymnast_msgs/msg/BridgeAction"))
SETTINGS = BagConfig(actions=ACTIONS)


def action(number: int) -> np.ndarray:
    return np.array([0.01 * (number % 3), -0.02, 0.005, 0.1, 0, -0.1, number % 2], np.float32)


def recorded(hz: int = 15, delay: int = 40_000_000) -> Recorded:
    """A camera at `hz`, received late, and an action every 0.2 s; picture k was taken at k / hz."""
    found = Recorded()
    for k in range(STEPS * hz // 5 + hz // 5 + 1):
        taken = START + k * 1_000_000_000 // hz
        found.put(CAMERA, taken + delay, raw(k, taken))
    for k in range(STEPS):
        found.put(ACTIONS, START + 90_000_000 + k * PERIOD, array(action(k)))
    return found


def settle(folder: Path, config: BagConfig = SETTINGS) -> None:
    (folder / "bags.yaml").write_text(dump_config(config))


def only(folder: Path) -> StoredEpisode:
    (found,) = find_all(folder)
    return found


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_a_bag_is_an_episode_in_either_storage(tmp_path: Path, storage: str) -> None:
    folder = tmp_path / "Aufnahmen von Jörg" / "lauf ü 1"
    recorded().put("/other", START, text("x")).write(folder, storage)
    (folder / "description.json").write_text('{"instruction": "öffne die Tür", "success": true}')
    settle(folder.parent)
    source = only(tmp_path)
    assert (source.path, source.name) == (folder, "lauf ü 1")
    episode = source.read()
    assert episode.length == STEPS and source.count() == STEPS + 1
    np.testing.assert_allclose(episode.actions, [action(k) for k in range(STEPS)])
    # Action k came 0.09 s behind picture 3 k: the picture 3 k + 1, of 0.067 s, is the latest that was taken by then.
    for k in range(STEPS + 1):
        np.testing.assert_array_equal(episode.frames[k], shade(3 * k + 1))
        np.testing.assert_array_equal(source.frame(k), shade(3 * k + 1))
    assert (np.diff(episode.stamps) == PERIOD).all() and episode.stamps[0] == START + 90_000_000
    assert np.isnan(episode.states).all() and np.array_equal(episode.executed, episode.actions)
    assert (episode.instruction, episode.success) == ("öffne die Tür", True)
    (bare,) = (path for path in folder.iterdir() if path.suffix in (".mcap", ".db3"))
    (folder / "metadata.yaml").unlink()  # as a recorder leaves it that was killed
    alone = only(tmp_path)
    assert alone.path == bare and np.array_equal(alone.read().frames, episode.frames)
    assert alone.files() == (bare, folder.parent / "bags.yaml")


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 3000), min_size=1, max_size=60).map(sorted),
    st.lists(st.integers(100, 300), min_size=1, max_size=12),
    st.integers(0, 600),
)
def test_a_frame_is_the_latest_picture_before_its_action(taken: list[int], between: list[int], begin: int) -> None:
    pictures = np.array(taken, np.int64) * 1_000_000
    times = (begin + np.cumsum(between)) * 1_000_000
    try:
        first, kept = steps_seen(times, pictures, 0.2, "/a")
        end = times[kept] if kept < len(times) else times[-1] + PERIOD
        at = np.append(times[first:kept], end)
        rows = seen_at(pictures, at, 0.2, "/c")
    except DataError:
        return
    for time, row in zip(at, rows):
        assert pictures[row] <= time and not ((pictures > pictures[row]) & (pictures <= time)).any()
        assert time - pictures[row] <= OLDEST * PERIOD
    assert pictures[rows[-1]] > times[kept - 1] and len(at) == kept - first + 1 >= 2


def test_even_times_end_where_the_recording_does() -> None:
    times = even_times(5, 5 + 1_000_000_000, 0.2)
    assert times.tolist() == [5 + k * PERIOD for k in range(6)] and len(even_times(5, 4, 0.2)) == 0
    assert latest(times, np.array([4, 5, 6])).tolist() == [-1, 0, 0]
    check_rate(times, 0.2, "/a")


def test_pictures_may_be_compressed_or_bgr_and_actions_may_be_ours(tmp_path: Path) -> None:
    plain = recorded()
    pictures = [one for one in plain.messages if one[0] == CAMERA]
    ours = Recorded()
    for k in range(STEPS):
        time = START + 90_000_000 + k * PERIOD
        ours.put(ACTIONS, time + 5_000_000, bridge(action(k), time))
    for k, (_, time, message) in enumerate(pictures):
        taken = message.header.stamp.sec * 1_000_000_000 + message.header.stamp.nanosec
        ours.put("/left/compressed", time, packed(k, taken))
        ours.put("/right", time, raw(k, taken, "bgr8"))
        ours.put("/depth", time, raw(k, taken, "16UC1"))
        ours.put("/depth/compressedDepth", time, packed(k, taken, "16", "16UC1; compressedDepth png"))
        ours.put("/depth/png", time, packed(k, taken, "16"))
    ours.put("/task", START, text(" close the drawer "))
    ours.write(tmp_path / "b", "sqlite3")
    settle(tmp_path, replace(SETTINGS, image="/left/compressed", instruction_topic="/task"))
    source = only(tmp_path)
    frames = source.read().frames
    np.testing.assert_array_equal(frames, [shade(3 * k + 1) for k in range(STEPS + 1)])
    for name in ("/right", "right"):
        np.testing.assert_array_equal(source.seen_by(name).frame(4), frames[4])
    assert source.describe().instruction == "close the drawer"
    np.testing.assert_allclose(source.steps().actions, [action(k) for k in range(STEPS)])
    for camera, told in (
        ("/depth", r"encoding '16UC1' \(depth or bare numbers, no picture\), allowed are rgb8, bgr8"),
        ("/depth/compressedDepth", "format '16UC1; compressedDepth png', allowed are JPEG and PNG"),
        ("/depth/png", "found uint16 pixels or deeper, needed 8 bits"),
    ):
        with pytest.raises(DataError, match=f"topic '{camera}': frame 0: {told}"):
            source.seen_by(camera).frame(0)
    with pytest.raises(DataError, match=r"image: topic '/task': found std_msgs/msg/String, allowed are sensor_msgs"):
        source.seen_by("/task").frame(0)
    settle(tmp_path)
    listed = "/depth, /depth/compressedDepth, /depth/png, /left/compressed, /right"
    with pytest.raises(DataError, match=f"b: image: found {listed}; needed one camera; name its topic"):
        only(tmp_path).steps()


def test_differences_of_measured_poses_are_actions_where_the_settings_say_so(tmp_path: Path) -> None:
    down = Rotation.from_euler("xyz", [0, np.pi / 2, 0])
    turns = [Rotation.from_euler("xyz", [0.02 * k, -0.01 * k, 0.05 * k]) for k in range(40)]
    found = recorded(hz=10, delay=0).without(ACTIONS)
    for k in range(40):  # 20 Hz; measured until 1.95 s
        time = START + k * 50_000_000
        found.put(POSES, time, pose([0.2 + 0.004 * k, 0.0, 0.1 - 0.002 * k], turns[k] * down, time))
        found.put(GRIPPER, time, joints(0.037 if k < 20 else 0.0145, time))
    found.write(tmp_path / "b")
    config = BagConfig(
        poses=POSES, actions_from="poses", gripper=GRIPPER, gripper_joint="left_finger", gripper_closed=0.015,
        gripper_open=0.037, instruction="push",
    )  # fmt: skip
    settle(tmp_path, config)
    episode = only(tmp_path).read()
    assert episode.length == 9 and episode.instruction == "push"
    np.testing.assert_allclose(episode.states[:, 0], 0.2 + 0.016 * np.arange(10), atol=1e-6)
    np.testing.assert_allclose(episode.states[:, 3:6], [turns[4 * k].as_euler("xyz") for k in range(10)], atol=1e-5)
    np.testing.assert_allclose(episode.states[:, 6], [1] * 5 + [0] * 5)
    np.testing.assert_allclose(episode.actions[:, :3], [[0.016, 0, -0.008]] * 9, atol=1e-6)
    for k in range(9):
        there = Rotation.from_euler("xyz", episode.actions[k, 3:6]) * turns[4 * k]
        assert (there.inv() * turns[4 * k + 4]).magnitude() < 1e-5
    np.testing.assert_allclose(episode.actions[:, 6], episode.states[1:, 6])
    settle(tmp_path, replace(config, tool_axis="z"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # this tool's angles are singular, since it points sideways
        turned = only(tmp_path).steps()
    np.testing.assert_allclose(turned.actions, episode.actions, atol=1e-6)  # a step does not depend on the tool's frame
    settle(tmp_path, replace(SETTINGS, actions=POSES))
    with pytest.raises(DataError, match=r"actions: topic '/tool': found .*PoseStamped \(places; `actions_from: poses`"):
        only(tmp_path).steps()
    settle(tmp_path, replace(SETTINGS, actions=GRIPPER))
    with pytest.raises(DataError, match=r"actions: topic '/joints': found .*JointState \(joint angles\), allowed are"):
        only(tmp_path).steps()
    settle(tmp_path, replace(config, gripper_joint="claw"))
    with pytest.raises(DataError, match="'/joints': message 0: gripper_joint: found no 'claw'; it has waist, left_f"):
        only(tmp_path).steps()
    settle(tmp_path, replace(config, gripper_closed=0.03))
    with pytest.raises(DataError, match=r"message 20: found a gripper at 0\.0145, allowed are 0\.03 .* to 0\.037"):
        only(tmp_path).steps()


def spoiled(kind: str) -> tuple[Recorded, BagConfig]:
    """A bag with one fault, and the settings it is read by."""
    found = recorded()
    settled = SETTINGS
    if kind == "rate":
        settled = replace(SETTINGS, rate_hz=10)
    elif kind == "gap":
        found.messages = [one for one in found.messages if one[:2] != (ACTIONS, START + 90_000_000 + 3 * PERIOD)]
    elif kind == "camera gap":
        found.messages = [one for one in found.messages if one[0] != CAMERA or not 0.5e9 < one[1] - START < 1.3e9]
    elif kind == "camera ends":
        found = recorded()
        for k in range(STEPS, 20):
            found.put(ACTIONS, START + 90_000_000 + k * PERIOD, array(action(k)))
    elif kind == "no stamp":
        found.put(CAMERA, START + 500_000_000, raw(1, None))
    elif kind == "clock":
        found = recorded(delay=37_500_000_000)
    elif kind == "short":
        found.put(ACTIONS, START + 90_000_000 + STEPS * PERIOD, array([0.0] * 6))
    elif kind == "places":
        found = recorded().without(ACTIONS)
        for k in range(STEPS):
            found.put(ACTIONS, START + 90_000_000 + k * PERIOD, array([0.3, 0, 0.2, 0, 0, 0, 1], "Float64"))
    elif kind == "not named":
        settled = BagConfig()
    elif kind == "absent":
        settled = replace(SETTINGS, actions="/act")
    elif kind == "two instructions":
        found.put("/task", START, text("a")).put("/task", START + 1, text("b"))
        settled = replace(SETTINGS, instruction_topic="/task")
    return found, settled


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("rate", r"topic '/policy/action': found 5 Hz, needed 10 Hz \(rate_hz\)"),
        ("gap", r"topic '/policy/action': message 3 came 0\.4 s after the one before, allowed are 0\.1 to 0\.3 s at 5"),
        (
            "camera gap",
            r"topic '/camera/color/image_raw': found no message within 0\.3 s before step 4 \(the latest is",
        ),
        ("camera ends", "topic '/policy/action': found 11 actions after the last picture; at most a second"),
        ("no stamp", r"image_raw': message \d+ has no stamp in its header; `stamps: received` goes by"),
        (
            "clock",
            r"topic '/camera/color/image_raw': its stamps are 37\.5 s off the times of receipt, by which '/policy",
        ),
        ("short", r"topic '/policy/action': message 8: found 6 numbers, needed 7 \(Bridge actions\)"),
        (
            "places",
            r"topic '/policy/action': column 0 \(x\): half of its steps are 0\.3 or more, .* places instead",
        ),
        ("not named", "actions: found no topic named; needed one of std_msgs/msg/Float32MultiArray"),
        ("absent", "actions: found no topic '/act'; the bag has /camera/color/image_raw, /policy/action"),
        ("two instructions", "topic '/task': found 2 instructions, needed one for each bag"),
    ],
)
def test_what_cannot_be_aligned_is_refused_by_its_topic(tmp_path: Path, kind: str, told: str) -> None:
    found, settled = spoiled(kind)
    found.write(tmp_path / "b")
    settle(tmp_path, settled)
    with pytest.raises(DataError, match=f"/b: {'.*' if kind in ('short', 'no stamp') else ''}{told}"):
        only(tmp_path).steps()


def test_actions_at_the_edges_without_a_picture_are_left_out_and_counted(tmp_path: Path) -> None:
    found = recorded()
    late = START + 90_000_000 + 2 * PERIOD
    found.messages = [one for one in found.messages if one[0] != CAMERA or late < one[1] < late + 5 * PERIOD]
    found.write(tmp_path / "b")
    settle(tmp_path)
    episode = only(tmp_path).read()
    first = round(float(episode.stamps[0] - START - 90_000_000) / PERIOD)
    np.testing.assert_allclose(episode.actions, [action(k) for k in range(first, first + episode.length)])
    assert episode.metadata["actions_left_out"] == STEPS - episode.length and 0 < episode.length < STEPS


def test_damage_in_a_bag_is_named(tmp_path: Path) -> None:
    for storage in ("mcap", "sqlite3"):
        folder = recorded().write(tmp_path / storage / "b", storage)
        settle(folder.parent)
        (file,) = (path for path in folder.iterdir() if path.suffix in (".mcap", ".db3"))
        whole = file.read_bytes()
        for content in (whole[: len(whole) // 2], b"", b"rubbish" * 100):
            file.write_bytes(content)
            with pytest.raises(DataError, match="/b: "):
                only(folder.parent).read()
    folder = recorded().write_in_chunks(tmp_path / "chunks" / "b")
    settle(folder.parent)
    source = only(folder.parent)
    np.testing.assert_array_equal(source.frame(5), shade(16))
    file = folder / "b_0.mcap"
    whole = file.read_bytes()
    file.write_bytes(whole[:900] + bytes([whole[900] ^ 1]) + whole[901:])
    with pytest.raises(DataError, match=r"/b: cannot read the bag \("):
        source.read()


def test_topics_are_named_on_the_command_line_or_in_a_station_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "a b"
    recorded().write(data / "1")
    recorded().write(data / "2", "sqlite3")
    recorded().without(CAMERA).write(data / "3")
    assert main(["data", "topics", str(data)]) == 0
    told = capsys.readouterr()
    lines = told.out + told.err
    assert "/policy/action  std_msgs/msg/Float32MultiArray  8 messages" in lines and "name the topics" in lines
    assert main(["data", "topics", str(data), "--json"]) == 0
    bags = json.loads(capsys.readouterr().out)["bags"]
    assert len(bags) == 3 and not any(bag["error"] for bag in bags)
    action = {"name": "/policy/action", "type": "std_msgs/msg/Float32MultiArray", "messages": 8}
    assert any(action.items() <= topic.items() for topic in bags[0]["topics"])
    with pytest.raises(DataError, match=r"no episode below it; needed .*, X\.mcap or X\.db3, with bags\.yaml there"):
        find_all(data)
    assert main(["data", "topics", str(data), "--bags.actions", "/nothing"]) == 2
    assert "found no topic '/nothing'" in capsys.readouterr().err and not (data / "bags.yaml").exists()
    station = tmp_path / "station.yaml"
    station.write_text(
        "name: other\ntasks: {open: {instruction: open the drawer}}\n"
        f"bags: {{actions: {ACTIONS}, instruction: open the drawer, rate_hz: 10}}\n"
    )
    words = ["data", "topics", str(data), "--config", str(station), "--bags.stamps", "received"]
    assert main(words) == 2 and "found 5 Hz, needed 10 Hz" in capsys.readouterr().err
    station.write_text(station.read_text().replace("rate_hz: 10", "rate_hz: 5"))
    assert main(words) == 0
    told = capsys.readouterr()
    assert "8 steps of 0.2 s, frames from /camera" in " ".join((told.out + told.err).split())
    assert "3: image: found no topic of pictures" in told.out + told.err
    assert [source.name for source in find_all(data)] == ["1", "2", "3"]
    assert find_all(data)[1].read().instruction == "open the drawer"
    recorded().write(data / "x" / "y" / "deep")
    (data / "damaged.mcap").write_bytes(b"rubbish")
    assert main(words) == 0
    told = capsys.readouterr()
    lines = " ".join((told.out + told.err).split())
    assert "y/deep: lies too deep below" in lines and "damaged.mcap: cannot read the bag (" in lines
    assert main([*words, "--bags.rate-hz", "4.9"]) == 2
    assert "bags.yaml: holds other settings" in capsys.readouterr().err
    (data / "bags.yaml").write_text("image: [1]\n")
    with pytest.raises(ConfigError, match=r"bags\.yaml: image: found \[1\]"):
        find_all(data)[0].steps()


def test_bags_become_a_data_set_of_another_format(tmp_path: Path) -> None:
    data = tmp_path / "a ü"
    for name in ("1", "2"):
        recorded().write(data / name)
    settle(data, replace(SETTINGS, instruction="push"))
    words = [
        "data",
        "convert",
        str(data),
        "--to",
        "rlds",
        "--frames",
        "pictures",
        "--workers",
        "1",
        "--out",
        str(tmp_path / "out"),
    ]
    assert main(words) == 0
    for bag, copy in zip(find_all(data), find_all(tmp_path / "out"), strict=True):
        one, other = bag.read(), copy.read()
        for name in ("frames", "actions", "executed", "states", "stamps"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name), name)
        assert (one.instruction, one.metadata) == (other.instruction, other.metadata)


def test_the_log_of_our_own_episode_is_no_bag_of_others(tmp_path: Path) -> None:
    recorded().write(tmp_path / "e" / "log")
    (tmp_path / "e" / "episode.json").write_text("{}")
    settle(tmp_path)
    assert [type(source).__name__ for source in find_all(tmp_path)] == ["GymnastEpisode"]
