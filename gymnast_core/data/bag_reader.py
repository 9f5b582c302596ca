"""Messages of a bag that others recorded: rosbag2 folders (MCAP or SQLite) and single `.mcap` or `.db3` files.

No ROS is needed: message definitions come from the bag itself, or, where it holds none, from those of ROS 2 Humble.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from gymnast_core.contents import one_line
from gymnast_core.errors import ConfigError, DataError
from gymnast_core.progress import check_stop


@dataclass(frozen=True)
class Message:
    """One message. type: "package/msg/Name". received: nanoseconds, when it was recorded. content: its fields."""

    topic: str
    type: str
    received: int
    content: Any

    @property
    def stamped(self) -> int | None:
        """The stamp in its header, nanoseconds; None where its type has no header."""
        stamp = getattr(getattr(self.content, "header", None), "stamp", None)
        return None if stamp is None else int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


class Bag:
    """An open bag; a context manager. Whatever is wrong in it is a DataError that names it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            from rosbags.highlevel import AnyReader
            from rosbags.typesys import Stores, get_typestore
        except ImportError as error:
            raise ConfigError("bags need the package rosbags; pip install 'gymnast[log]'") from error
        with self._told():
            self._reader: Any = AnyReader([path], default_typestore=get_typestore(Stores.ROS2_HUMBLE))

    def __enter__(self) -> Bag:
        with self._told():
            self._reader.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reader.close()

    @property
    def topics(self) -> dict[str, tuple[str, int]]:
        """Type and number of messages of each topic, by name. Raises: DataError where one has two types."""
        found: dict[str, tuple[str, int]] = {}
        for connection in sorted(self._reader.connections, key=lambda one: one.topic):
            kind, count = found.get(connection.topic, (connection.msgtype, 0))
            if kind != connection.msgtype:
                raise DataError(f"{self.path}: topic '{connection.topic}': found types {kind} and {connection.msgtype}")
            found[connection.topic] = (kind, count + connection.msgcount)
        return found

    @property
    def seconds(self) -> float:
        """From its first message to its last."""
        return float(self._reader.duration) / 1e9

    def messages(self, topics: Sequence[str], first: int | None = None, last: int | None = None) -> Iterator[Message]:
        """Messages of these topics in the order of receipt. first, last: those received then and between alone."""
        wanted = [connection for connection in self._reader.connections if connection.topic in topics]
        if not wanted:
            return
        until = None if last is None else last + 1
        with self._told():
            for connection, time, raw in self._reader.messages(wanted, start=first, stop=until):
                check_stop()
                with self._told(f"topic '{connection.topic}': "):
                    content = self._reader.deserialize(raw, connection.msgtype)
                yield Message(connection.topic, connection.msgtype, time, content)

    @contextmanager
    def _told(self, where: str = "") -> Iterator[None]:
        try:
            yield
        except (ConfigError, DataError, GeneratorExit):
            raise
        except Exception as error:  # the libraries raise many kinds on damaged or foreign files
            words = one_line(str(error)) or type(error).__name__
            raise DataError(f"{self.path}: {where}cannot read the bag ({words})") from error
