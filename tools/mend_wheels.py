"""Mend the ROS 2 wheels of this interpreter's environment so that colcon can build interfaces against them.

The CMake files that the wheels export name include folders of the machine that built them; a build stops with
"imported target includes non-existent path". Both folders are rewritten to this interpreter's own. Running it again
changes nothing.
"""

from __future__ import annotations

import os
import re
import sys
import sysconfig
from pathlib import Path

NUMPY_INCLUDE = re.compile(r"/opt/python/cp\d+-cp\d+t?/lib/python3\.\d+t?/site-packages/numpy/_?core/include")
PYTHON_INCLUDE = re.compile(r"/opt/python/cp\d+-cp\d+t?/include/python3\.\d+t?")


def mend(share: Path, python_include: str, numpy_include: str) -> int:
    """Rewrite the builder's include folders in every CMake file below `share`; returns how many files changed."""
    changed = 0
    for path in sorted(share.rglob("*.cmake")):
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
        mended = NUMPY_INCLUDE.sub(lambda _: numpy_include, text)
        mended = PYTHON_INCLUDE.sub(lambda _: python_include, mended)
        if mended != text:
            temporary = path.with_name(path.name + ".tmp")
            temporary.write_text(mended, encoding="utf-8", errors="surrogateescape")
            os.replace(temporary, path)
            changed += 1
    return changed


def main() -> int:
    """Mend the environment of the running interpreter."""
    try:
        import numpy
    except ImportError:
        print("mend_wheels: numpy is not installed here; run `make setup`", file=sys.stderr)
        return 1
    share = Path(sys.prefix) / "share"
    python_include = sysconfig.get_paths()["include"]
    if not (Path(python_include) / "Python.h").is_file():
        print(
            f"mend_wheels: {python_include}/Python.h is missing; install the Python headers (python3-dev)",
            file=sys.stderr,
        )
        return 1
    changed = mend(share, python_include, numpy.get_include())
    print(f"mended {changed} CMake files below {share}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
