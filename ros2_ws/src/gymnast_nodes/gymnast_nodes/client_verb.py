"""What every client has in common that takes the place of a verb: options from JSON, and an exit code."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import TypeVar

from gymnast_core.config import parse_config
from gymnast_core.errors import GymnastError
from gymnast_core.redaction import redact

Options = TypeVar("Options")


def run_client(options: type[Options], run: Callable[[Options], int], interrupted: str) -> int:
    """The exit code of `run`; 2 for an error, which is one line, 130 for Ctrl-C, with `interrupted`."""
    try:
        return run(parse_config(options, json.loads(sys.argv[1]), "options"))
    except GymnastError as error:
        print(f"error: {redact(' '.join(str(error).split()))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        return 130
