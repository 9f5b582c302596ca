"""One pass through a bag: what its topics say and when; of pictures, when alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gymnast_core.config import BagConfig
from gymnast_core.data.bag_alignment import Stream
from gymnast_core.data.bag_messages import (
    ACTIONS,
    GRIPPERS,
    POSES,
    TEXTS,
    action_in,
    check_topic,
    choose_pictures,
    opening_in,
    pose_in,
)
from gymnast_core.data.bag_reader import Bag, Message
from gymnast_core.errors import DataError


@dataclass(frozen=True)
class Recording:
    """What a bag holds of an episode; a topic that is not named is None."""

    pictures: Stream
    actions: Stream | None
    poses: Stream | None
    gripper: Stream | None
    instruction: str

    @property
    def streams(self) -> Sequence[Stream]:
        """Those that there are."""
        return [one for one in (self.pictures, self.actions, self.poses, self.gripper) if one is not None]


def read_recording(path: Path, config: BagConfig) -> Recording:
    """Read a bag by its settings. Raises: DataError naming bag, topic and message."""
    with Bag(path) as bag:
        topics = bag.topics
        try:
            camera = choose_pictures(topics, config.image)
            wanted = _wanted(config)
            for setting, (name, allowed) in wanted.items():
                check_topic(topics, name, setting, allowed)
        except DataError as error:
            raise DataError(f"{path}: {error}") from error
        streams = {setting: Stream(name) for setting, (name, _) in wanted.items()} | {"image": Stream(camera)}
        names = {stream.topic for stream in streams.values()}
        for message in bag.messages(sorted(names)):
            for setting, stream in streams.items():
                if stream.topic == message.topic:
                    where = f"{path}: topic '{message.topic}': message {len(stream.received)}"
                    stream.received.append(message.received)
                    stream.stamped.append(message.stamped)
                    stream.values.append(_value(setting, message, config, where))
    for stream in streams.values():
        if not stream.received:
            raise DataError(f"{path}: topic '{stream.topic}': found no message in it")
    told = streams.get("instruction_topic")
    return Recording(
        streams["image"],
        streams.get("actions"),
        streams.get("poses"),
        streams.get("gripper"),
        _one_text(told, path) if told else config.instruction,
    )


def _wanted(config: BagConfig) -> dict[str, tuple[str, Sequence[str]]]:
    """Topic and allowed types of each setting that names one."""
    if config.actions_from == "actions" and not config.actions:
        raise DataError(f"actions: found no topic named; needed one of {', '.join(ACTIONS)}, or `actions_from: poses`")
    named = {
        "actions": (config.actions if config.actions_from == "actions" else "", ACTIONS),
        "poses": (config.poses, POSES),
        "gripper": (config.gripper, GRIPPERS),
        "instruction_topic": (config.instruction_topic, TEXTS),
    }
    return {setting: found for setting, found in named.items() if found[0]}


def _value(setting: str, message: Message, config: BagConfig, where: str) -> object:
    if setting == "actions":
        return action_in(message, where)
    if setting == "poses":
        return pose_in(message, where)
    if setting == "gripper":
        return opening_in(message, config, where)
    return str(message.content.data) if setting == "instruction_topic" else None


def _one_text(stream: Stream, path: Path) -> str:
    texts = sorted({text.strip() for text in stream.values})
    if len(texts) > 1:
        raise DataError(f"{path}: topic '{stream.topic}': found {len(texts)} instructions, needed one for each bag")
    return texts[0]
