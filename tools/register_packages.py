"""Register the Python packages `gymnast` and `gymnast_nodes` in .venv as ROS packages, without copying them.

After it .venv is an ament prefix in which `gymnast up`, `ros2 run` and `ros2 launch` find the nodes and the launch
file, and an edited file takes effect at once: data files are links, executables are short scripts on .venv's own
Python (which has torch), and the nodes' code is found through a path file. A workspace built with colcon has copies of
its own and does not need this.
"""

from __future__ import annotations

import os
import runpy
import shutil
import sys
import sysconfig
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {"gymnast": ROOT, "gymnast_nodes": ROOT / "ros2_ws" / "src" / "gymnast_nodes"}

SCRIPT = """#!{python}
import sys

from {module} import {function}

sys.exit({function}())
"""


def setup_arguments(folder: Path) -> dict[str, Any]:
    """The keyword arguments that a package's setup.py gives to setup()."""
    with mock.patch("setuptools.setup") as setup:
        previous = Path.cwd()
        os.chdir(folder)
        try:
            runpy.run_path(str(folder / "setup.py"))
        finally:
            os.chdir(previous)
    return dict(setup.call_args.kwargs)


def link(source: Path, target: Path) -> None:
    """Make `target` a link to `source`, replacing what is there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    target.symlink_to(source)


def register(package: str, folder: Path, prefix: Path) -> None:
    """Link the package's data files below `prefix` and write its executables to `prefix/lib/<package>`."""
    arguments = setup_arguments(folder)
    share = prefix / "share" / package
    if share.is_dir():
        shutil.rmtree(share)  # links to files that are gone
    for destination, sources in arguments["data_files"]:
        for source in sources:
            link(folder / source, prefix / destination / Path(source).name)
    executables = prefix / "lib" / package
    if executables.is_dir():
        shutil.rmtree(executables)
    for line in arguments["entry_points"]["console_scripts"]:
        name, target = (part.strip() for part in line.split("="))
        module, function = target.split(":")
        executables.mkdir(parents=True, exist_ok=True)
        script = executables / name
        script.write_text(SCRIPT.format(python=prefix / "bin" / "python", module=module, function=function))
        script.chmod(0o755)


def main() -> int:
    """Register both packages in the environment of the running interpreter."""
    prefix = Path(sys.prefix)
    if prefix == Path(sys.base_prefix):
        print("register_packages: run it with .venv/bin/python, not with the system's", file=sys.stderr)
        return 1
    for package, folder in PACKAGES.items():
        register(package, folder, prefix)
    (Path(sysconfig.get_paths()["purelib"]) / "gymnast_nodes.pth").write_text(f"{PACKAGES['gymnast_nodes']}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
