"""What is used of `peft`, which takes seconds to import: import this module in functions.

Where bitsandbytes is installed `peft` imports it, for layers of its own that are not used here (`rl.four_bit` has the
4-bit ones); that takes as long again. So `peft` is imported as if it were not there.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def _without(package: str) -> Iterator[None]:
    """Within the block `package` cannot be imported, unless it has been already."""
    hidden = sys.modules.setdefault(package, None) is None  # type: ignore[arg-type]
    try:
        yield
    finally:
        if hidden:
            del sys.modules[package]


with _without("bitsandbytes"):
    from peft import LoraConfig
    from peft.tuners.lora import Linear as LoraLinear
    from peft.tuners.tuners_utils import check_target_module_exists
    from peft.utils.other import get_pattern_key

__all__ = ["LoraConfig", "LoraLinear", "check_target_module_exists", "get_pattern_key"]
