"""Which device torch works on."""

from __future__ import annotations

import torch

from gymnast_core.errors import ConfigError


def inference_dtype(device: torch.device | str) -> torch.dtype:
    """Of large networks that are not trained: bfloat16 on a GPU, where it is many times faster, float32 elsewhere."""
    return torch.bfloat16 if str(device).startswith("cuda") else torch.float32


def choose_device(name: str) -> str:
    """What "auto" means here: a GPU where there is one. Raises: ConfigError for a device this machine lacks."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, number = name.partition(":")
    present = {"cpu": 1, "cuda": torch.cuda.device_count()}
    if kind not in present or (number and not number.isdecimal()):
        raise ConfigError(f"device: found {name!r}, allowed are auto, cpu, cuda and cuda:N")
    if int(number or 0) >= present[kind]:
        raise ConfigError(f"device: found {name!r}, but torch sees {present[kind]} of that kind; use auto or cpu")
    return name
