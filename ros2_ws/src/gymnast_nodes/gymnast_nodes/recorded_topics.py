"""The topics of an episode's log, subscribed to as their publishers offer, as serialised bytes with deep queues.

Between episodes messages wake nobody: they wait in their readers and are taken, and mostly dropped, twice a second.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from gymnast_msgs.msg import ArmState, BridgeAction, EpisodeStep, ExecutedAction
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from sensor_msgs.msg import CameraInfo, JointState

from gymnast_core.data.mcap_log import Topic
from gymnast_core.errors import ConfigError
from gymnast_nodes.camera_topic import common_reliability
from gymnast_nodes.distributions import raw_callback
from gymnast_nodes.lifecycle import ManagedNode
from gymnast_nodes.message_text import message_definition
from gymnast_nodes.messages import picture_type
from gymnast_nodes.reading import HEADER_BYTES, GatedGroup, take_waiting
from gymnast_nodes.step_assembler import ACTION, EXECUTED, IMAGE, JOINTS, STATE, STEP, TRUTH
from gymnast_nodes.truth import TRUTH_TOPIC

QUEUE_DEPTH = 2000
"""Messages DDS keeps for the recorder: 20 s of joint states."""
IMAGE_QUEUE_DEPTH = 120
ENCAPSULATION_BYTES = 4
"""Every serialised message is longer."""
MATCH_PERIOD_S = 0.5

Take = Callable[[str, bytes, "dict[str, Any] | None"], None]
"""Called with a topic's key, a serialised message and what the middleware says of it."""


class RecordedTopics:
    """Hands every message of the topics to `take`: at once while `recording()`, twice a second otherwise."""

    def __init__(self, node: ManagedNode, take: Take, recording: Callable[[], bool]) -> None:
        self._node = node
        self._take = take
        self._recording = recording
        driver, camera = node.station.arm.driver_name, node.station.camera
        topics: dict[str, tuple[Any, str, str]] = {
            IMAGE: (picture_type(camera), f"sensor_msgs/msg/{camera.message}", camera.topic),
            JOINTS: (JointState, "sensor_msgs/msg/JointState", f"{driver}/joint_states"),
            ACTION: (BridgeAction, "gymnast_msgs/msg/BridgeAction", "arm/action"),
            EXECUTED: (ExecutedAction, "gymnast_msgs/msg/ExecutedAction", "arm/executed"),
            STATE: (ArmState, "gymnast_msgs/msg/ArmState", "arm/state"),
            STEP: (EpisodeStep, "gymnast_msgs/msg/EpisodeStep", "executor/step"),
            TRUTH: (DiagnosticArray, "diagnostic_msgs/msg/DiagnosticArray", TRUTH_TOPIC),
        }
        self.names = {key: node.resolve_topic_name(name) for key, (_, _, name) in topics.items()}
        """Full name of each topic, by key; that of a further topic is its key."""
        self._further = _further_topics(node, frozenset(self.names.values()))
        self._info = node.resolve_topic_name(camera.info)
        if self._info not in self._further:
            topics[self._info] = (CameraInfo, "sensor_msgs/msg/CameraInfo", camera.info)
            self.names[self._info] = self._info
        topics.update({name: (kind, kind_name, name) for name, (kind, kind_name) in self._further.items()})
        self.names.update({name: name for name in self._further})
        self._kinds = {key: kind for key, (kind, _, _) in topics.items()}
        self._type_names = {key: type_name for key, (_, type_name, _) in topics.items()}
        self._subscriptions: dict[str, Subscription] = {}
        self._listening = False
        self._gate = GatedGroup(recording)
        self._stuck: set[str] = set()
        self._renew_timer = node.create_timer(0.02, self._renew_stuck)
        self._renew_timer.cancel()
        self._match_timer = node.create_timer(MATCH_PERIOD_S, self._while_idle)

    def check_definitions(self) -> None:
        """Raises: DataError when a message's definition, which the log holds, is not to be found."""
        for type_name in self._type_names.values():
            message_definition(type_name)

    def open(self) -> None:
        """Listen from now on."""
        self._listening = True
        self._match_offers()

    def close(self) -> None:
        """Listen no more."""
        self._listening = False
        for subscription in self._subscriptions.values():
            self._node.destroy_subscription(subscription)
        self._subscriptions.clear()

    def camera_is_there(self) -> bool:
        """Whether the camera's topic is subscribed to: it is as soon as somebody publishes it."""
        if IMAGE not in self._subscriptions:
            self._match_offers()
        return IMAGE in self._subscriptions

    def silent(self) -> list[str]:
        """Further topics that nobody publishes."""
        return [name for name in self._further if name not in self._subscriptions]

    def log_topics(self) -> list[Topic]:
        """How the log declares them."""
        return [self._log_topic(key) for key in self.names]

    def take_waiting(self) -> None:
        """Take what came since the last look, while nothing is recorded."""
        if self._recording():
            return
        for key, subscription in self._subscriptions.items():
            for data, info in take_waiting(subscription):
                self._receive(key, data, info)

    def _log_topic(self, key: str) -> Topic:
        subscription = self._subscriptions.get(key)
        best_effort = subscription is not None and (
            subscription.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT
        )
        type_name = self._type_names[key]
        return Topic(
            self.names[key], type_name, message_definition(type_name), "best_effort" if best_effort else "reliable"
        )

    def _while_idle(self) -> None:
        self._match_offers()
        self.take_waiting()

    def _match_offers(self) -> None:
        """Subscribe with the reliability that each publisher offers, anew when that changes."""
        if not self._listening:
            return
        for key, name in self.names.items():
            offers = [info.qos_profile for info in self._node.get_publishers_info_by_topic(name)]
            present = self._subscriptions.get(key)
            if present is not None and (self._recording() or not offers):
                continue
            if (key in (IMAGE, self._info) or key in self._further) and not offers:
                continue  # what a foreign driver offers is not known beforehand
            reliability = common_reliability(offers) if offers else ReliabilityPolicy.RELIABLE
            if present is not None:
                if present.qos_profile.reliability == reliability:
                    continue
                self._node.destroy_subscription(present)
            depth = IMAGE_QUEUE_DEPTH if self._type_names[key].endswith("Image") else QUEUE_DEPTH
            self._subscribe(key, QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=depth, reliability=reliability))

    def _subscribe(self, key: str, qos: QoSProfile) -> None:
        def receive(data: bytes, info: dict[str, Any] | None) -> None:
            self._receive(key, data, info)

        self._subscriptions[key] = self._node.create_subscription(
            self._kinds[key], self.names[key], raw_callback(receive), qos, callback_group=self._gate, raw=True
        )

    def _receive(self, key: str, data: bytes, info: dict[str, Any] | None) -> None:
        if len(data) >= HEADER_BYTES or (key in self._further and len(data) > ENCAPSULATION_BYTES):
            self._take(key, data, info)
        elif key not in self._stuck:
            self._stuck.add(key)
            self._renew_timer.reset()

    def _renew_stuck(self) -> None:
        """A reader of the middleware was seen to hand out empty messages for ever: a new one takes its place."""
        self._renew_timer.cancel()
        for key in sorted(self._stuck):
            found = self._subscriptions.get(key)
            if found is not None:
                self._node.get_logger().warning(f"{self.names[key]}: empty messages; subscribing anew")
                self._node.destroy_subscription(found)
                self._subscribe(key, found.qos_profile)
        self._stuck.clear()


def _further_topics(node: ManagedNode, known: frozenset[str]) -> dict[str, tuple[Any, str]]:
    """(type, its name) of the station's further topics, by full name.

    Raises: ConfigError naming one that is recorded anyway, or whose type this ROS environment has not.
    """
    found: dict[str, tuple[Any, str]] = {}
    for name, type_name in node.station.recorder.topics.items():
        full = node.resolve_topic_name(name)
        if full in known or full in found:
            raise ConfigError(f"recorder.topics: {name} is recorded already; leave it out")
        package, _, kind = type_name.split("/")
        try:
            found[full] = getattr(importlib.import_module(f"{package}.msg"), kind), type_name
        except (ImportError, AttributeError) as error:
            raise ConfigError(
                f"recorder.topics: {name} is of {type_name}, which is not installed; source its ROS setup"
            ) from error
    return found
