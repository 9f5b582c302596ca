"""Who may use a station's queue: users with tokens, of which only a hash is kept, and how much each may ask for.

Whoever may write the queue's folder is its owner and needs no token. Tokens are for requests over HTTP.
"""

from __future__ import annotations

import getpass
import hashlib
import re
import secrets
from dataclasses import dataclass

from gymnast_core.errors import ConfigError
from gymnast_core.serve.job import PRIORITIES, JobRequest
from gymnast_core.serve.job_store import JobStore

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}")
USUAL_JOBS = 10
"""Jobs of one user that may wait or run at once, where nobody said another number."""


@dataclass(frozen=True)
class User:
    """A user of the queue. jobs: that may wait or run at once. priority: the highest that a job may ask for. owner:
    whether others' jobs and the maintenance switch are this user's, too."""

    name: str
    jobs: int = USUAL_JOBS
    priority: int = 0
    owner: bool = False

    def check(self, request: JobRequest) -> None:
        """Raises: ConfigError for a priority that this user may not ask for."""
        if request.priority > self.priority:
            raise ConfigError(
                f"priority: found {request.priority}, allowed are {PRIORITIES[0]} to {self.priority} for {self.name}"
            )


class Users:
    """The users that a queue knows."""

    def __init__(self, store: JobStore) -> None:
        self._store = store

    def local(self) -> User:
        """Whoever runs this process: an owner, since the folder can be written."""
        try:
            login = getpass.getuser()
        except (OSError, KeyError, ImportError):
            login = "local"
        name = re.sub(r"[^A-Za-z0-9_.@-]", "_", login)[:64].lstrip("_.@-") or "local"
        known = self.find(name)
        return User(name, known.jobs if known else USUAL_JOBS, PRIORITIES[1], True)

    def find(self, name: str) -> User | None:
        """The user of that name."""
        with self._store.transaction() as database:
            return self._user(database.execute(f"{CHOSEN} name = ?", (name,)).fetchone())

    def of_token(self, token: str) -> User | None:
        """The user whose token it is."""
        with self._store.transaction() as database:
            return self._user(database.execute(f"{CHOSEN} token = ?", (_hash(token),)).fetchone()) if token else None

    def list(self) -> list[User]:
        """All, by name."""
        with self._store.transaction() as database:
            rows = database.execute(f"{CHOSEN} 1 ORDER BY name").fetchall()
        return [user for row in rows if (user := self._user(row)) is not None]

    def set(self, user: User) -> str:
        """Add a user, or change one, whose earlier token then ends; returns the new token, which is kept nowhere.

        Raises: ConfigError for a name that is none.
        """
        if not NAME.fullmatch(user.name):
            raise ConfigError(
                f"user: found {user.name[:80]!r}, needed up to 64 letters, digits and . _ @ -, a letter or digit first"
            )
        token = secrets.token_urlsafe(24)
        with self._store.transaction() as database:
            database.execute(
                "INSERT OR REPLACE INTO users (name, token, jobs, priority, owner) VALUES (?, ?, ?, ?, ?)",
                (user.name, _hash(token), user.jobs, user.priority, int(user.owner)),
            )
        return token

    def remove(self, name: str) -> None:
        """The user's token ends; jobs stay. Raises: ConfigError where there is no such user."""
        with self._store.transaction() as database:
            if not database.execute("DELETE FROM users WHERE name = ?", (name,)).rowcount:
                raise ConfigError(f"user: found {name[:80]!r}, which the queue does not know")

    def _user(self, row: tuple[str, int, int, int] | None) -> User | None:
        return User(row[0], row[1], row[2], bool(row[3])) if row else None


CHOSEN = "SELECT name, jobs, priority, owner FROM users WHERE"


def _hash(token: str) -> str:
    """Tokens are random and long: a plain hash tells nobody anything."""
    return hashlib.sha256(token.encode()).hexdigest()
