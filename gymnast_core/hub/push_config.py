"""Options of `gymnast hub push`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro
from pydantic import Field

from gymnast_core.config import PathText


@dataclass(frozen=True)
class PushConfig:
    """Send a LeRobot data set, a policy, a world model or an adapter to the Hugging Face Hub, with a card of what was
    measured. The token comes from HF_TOKEN. Secrets, paths of this machine and names of people are refused."""

    folder: tyro.conf.Positional[PathText]
    """What is sent: the folder of one of these."""
    to: str
    """Where to: hf:OWNER/NAME. A repository that is missing is made, a private one."""
    license: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.+-]{1,60}$")]
    """The license you give, by the Hub's name for it, such as apache-2.0 or cc-by-4.0; `other` for one that the Hub has
    no name for."""
    base: str = ""
    """Base of an adapter or a policy, as OWNER/NAME of the Hub. Empty: what the folder says of it, without folders."""
    task: str = ""
    """The task in words. Empty: what the folder says of it."""
    measured: tuple[PathText, ...] = ()
    """Run folders that measured this policy or adapter: of `policy evaluate`, `policy imagine`, `trials`, `canary`,
    `adapt`. What was found beside the weights is on the card without them."""
    public: bool = False
    """Let everybody see it. Without this, a repository that is public already is refused."""
    dry_run: bool = False
    """Say what would be sent, show the card, and send nothing."""
