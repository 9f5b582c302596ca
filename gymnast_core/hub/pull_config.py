"""Options of `gymnast hub pull`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import tyro

from gymnast_core.config import PathText


@dataclass(frozen=True)
class PullConfig:
    """Fetch a model or a data set from the Hugging Face Hub. A token, where one is needed, comes from HF_TOKEN."""

    name: tyro.conf.Positional[str]
    """hf:OWNER/NAME, or hf:OWNER/NAME@REVISION with a branch, a tag or a commit."""
    kind: Literal["auto", "model", "dataset"] = "auto"
    """What it is. auto: a model; where there is none of that name, a data set."""
    out: PathText = ""
    """Copy it to this folder. Empty: it stays in the library's cache, where `hf:OWNER/NAME` finds it; an adapter is
    copied into the folder of adapters."""
    adapters: PathText = "runs/adapters"
    """Folder of adapters."""
