"""Names of what lies on the Hugging Face Hub: `hf:OWNER/NAME[@REVISION]`. No network here (`hub_files` fetches)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from gymnast_core.contents import one_line
from gymnast_core.errors import ConfigError

HUB = "hf:"
FORM = "hf:OWNER/NAME or hf:OWNER/NAME@REVISION"
PART = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9])?"
_REPOSITORY = re.compile(rf"{PART}/{PART}")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,199}")


@dataclass(frozen=True)
class HubName:
    """A repository on the Hub. repository: OWNER/NAME. revision: a branch, a tag or a commit; "" is the main branch."""

    repository: str
    revision: str = ""

    def __str__(self) -> str:
        return f"{HUB}{self.repository}{'@' * bool(self.revision)}{self.revision}"


def is_hub_name(text: str) -> bool:
    """Whether a name is one of the Hub's, whatever lies in the working directory."""
    return text.startswith(HUB)


def parse_hub_name(text: str) -> HubName:
    """The repository that a name means. Raises: ConfigError where it has another form than `FORM`."""
    repository, at, revision = text.removeprefix(HUB).partition("@")
    # A revision becomes the name of a file in the cache, so it must not lead out of it.
    wrong = any(sign in part for part in (repository, revision) for sign in ("..", "--", "//"))
    if wrong or not _REPOSITORY.fullmatch(repository) or (at and not _REVISION.fullmatch(revision)):
        raise ConfigError(
            f"'{one_line(text, 120)}': no name of the Hub; needed {FORM}, of letters, digits, '-', '_' and '.'"
        )
    return HubName(repository, revision)
