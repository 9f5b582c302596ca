"""Tokens of the policy servers of a queue's jobs: files that their owner alone can read, until the job has ended.

They are in no table and no answer, so nothing that shows a job can show its token.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from gymnast_core.errors import DataError
from gymnast_core.files import sync_folder

FOLDER = "tokens"


class JobTokens:
    """Those of the queue in `queue`."""

    def __init__(self, queue: Path) -> None:
        self._folder = queue / FOLDER

    def keep(self, number: int, token: str) -> None:
        """Keep a job's token; "" forgets what a job of that number left. Raises: DataError."""
        if not token:
            self.forget(number)
            return
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            file, made = tempfile.mkstemp(prefix=".new_", dir=self._folder)  # its owner alone may read it
            with os.fdopen(file, "w") as stream:
                stream.write(token)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(made, self._folder / str(number))
            sync_folder(self._folder)
        except OSError as error:
            raise DataError(f"{self._folder}: cannot keep a token: {error.strerror or error}") from error

    def of(self, number: int) -> str:
        """A job's token, "" where it has none. Raises: DataError where it cannot be read."""
        path = self._folder / str(number)
        try:
            return path.read_text(encoding="ascii")
        except FileNotFoundError:
            return ""
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error

    def numbers(self) -> list[int]:
        """Of the jobs whose token is kept."""
        return sorted(int(path.name) for path in self._folder.glob("[0-9]*") if path.name.isdigit())

    def forget(self, number: int) -> None:
        """The job has ended."""
        with contextlib.suppress(OSError):
            (self._folder / str(number)).unlink()
