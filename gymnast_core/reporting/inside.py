"""What is read of a run folder for its page: only ordinary files that lie in it, and only so much.

A run folder may come from somebody else. Its files name others by absolute paths, by `..` or by links; whatever leads
out of the folder is not read, because a page is sent around.
"""

from __future__ import annotations

import base64
import os
import shutil
import stat
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from gymnast_core.errors import DataError
from gymnast_core.files import read_json_lines

EMBED_BYTES, EMBED_ALL, TEXT_BYTES, LINES_BYTES = 8_000_000, 100_000_000, 12_000_000, 100_000_000
"""The largest picture within a page, all pictures within it, the largest text and the largest log that are read."""
# By suffix: the type, and where in the file which bytes stand.
KINDS = {
    ".png": ("image/png", 0, b"\x89PNG\r\n\x1a\n"),
    ".jpg": ("image/jpeg", 0, b"\xff\xd8\xff"),
    ".jpeg": ("image/jpeg", 0, b"\xff\xd8\xff"),
    ".mp4": ("video/mp4", 4, b"ftyp"),
}


class Shown(NamedTuple):
    """A picture on a page. source: a data URL, or a path from the run folder; "" where it is not shown, and why."""

    source: str
    video: bool = False
    why: str = ""


class RunFiles:
    """The files of one run folder."""

    def __init__(self, run: str | os.PathLike[str]) -> None:
        self.run = Path(run).resolve()
        self._left = EMBED_ALL

    def find(self, name: str) -> Path:
        """The ordinary file of that name. Raises: ValueError saying why there is none."""
        try:
            path = (self.run / name).resolve(strict=True)
            ordinary = stat.S_ISREG(path.stat().st_mode)
        except (OSError, RuntimeError, ValueError):
            raise ValueError("it is not there") from None
        if not path.is_relative_to(self.run):
            raise ValueError("it lies outside of the run folder")
        if not ordinary:
            raise ValueError("it is no ordinary file")
        return path

    def has(self, name: str) -> bool:
        """Whether something of that name is in the folder."""
        return os.path.lexists(self.run / name)

    def read(self, name: str) -> str:
        """The text of a file. Raises: DataError when it cannot be read, leads out of the folder or is too large."""
        return self._readable(name, TEXT_BYTES).read_text(encoding="utf-8", errors="replace")

    def lines(self, name: str) -> list[dict[str, Any]]:
        """The objects of a JSON-lines file, none where there is no file. Raises: DataError, as `read`."""
        return read_json_lines(self._readable(name, LINES_BYTES)) if self.has(name) else []

    def show(self, name: str) -> Shown:
        """A picture or video as the page can hold it: embedded, or by its path where it is large."""
        try:
            path = self.find(name)
            mime = kind_of(path)
            size = path.stat().st_size
            if size > min(EMBED_BYTES, self._left):
                return Shown("./" + quote(path.relative_to(self.run).as_posix()), mime.startswith("video"))
            self._left -= size
            content = base64.b64encode(path.read_bytes()).decode()
        except (OSError, ValueError) as error:
            return Shown("", why=str(error))
        return Shown(f"data:{mime};base64,{content}", mime.startswith("video"))

    def bring(self, name: str) -> str:
        """The name, from the run folder, of a picture; one that lies elsewhere by an absolute path is copied to media/.

        For pages that this process makes: of a page that was read, nothing is fetched.
        """
        path = Path(name)
        if not path.is_absolute() or not path.is_file():
            return name
        if path.resolve().is_relative_to(self.run):
            return path.resolve().relative_to(self.run).as_posix()
        target, number = self.run / "media" / path.name, 1
        while target.exists() and target.read_bytes() != path.read_bytes():
            number += 1
            target = target.with_name(f"{path.stem}_{number}{path.suffix}")
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        return target.relative_to(self.run).as_posix()

    def _readable(self, name: str, limit: int) -> Path:
        try:
            path = self.find(name)
            if path.stat().st_size > limit:
                raise ValueError(f"it has more than {limit // 1_000_000} MB")
            with open(path, "rb"):
                return path
        except OSError as error:
            raise DataError(f"{self.run / name}: cannot read: {error.strerror or error}") from error
        except ValueError as error:
            raise DataError(f"{self.run / name}: cannot read: {error}; name a run folder with a report") from error


def kind_of(path: Path) -> str:
    """The type of a picture or video. Raises: ValueError when it is none, whatever its name says; OSError."""
    mime, place, sign = KINDS.get(path.suffix.lower(), ("", 0, b""))
    if not mime:
        raise ValueError(f"needed {', '.join(KINDS)}")
    with open(path, "rb") as stream:
        if stream.read(place + len(sign))[place:] != sign:
            raise ValueError(f"it is no {path.suffix.lower()} file")
    return mime
