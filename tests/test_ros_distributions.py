"""Humble, Jazzy and what comes after: one file knows the differences, and what is declared is what exists.

Nothing here runs on another distribution than this machine's.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import gymnast_nodes
from gymnast_nodes import distributions
from tools.rosdep_keys import DISTRIBUTIONS, ROOT, VENDOR, dependencies, missing

NODES = Path(gymnast_nodes.__file__).parent
SYSTEM = {"python3-numpy": "numpy", "python3-yaml": "pyyaml", "python3-opencv": "opencv"}
"""rosdep's keys, and conda-forge's names."""


def test_one_file_knows_the_differences() -> None:
    """Nobody else looks which distribution it is, tries an import of rclpy, or reaches into it."""
    for path in NODES.glob("*.py"):
        if path.name == "distributions.py":
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        words = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
        assert "ROS_DISTRO" not in words, path
        modules = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        inside = {name for name in modules if name.startswith(("rclpy.impl", "rclpy.qos_event", "rclpy.event_handler"))}
        assert not inside, f"{path}: {inside}"
        tried = [node for node in ast.walk(tree) if isinstance(node, ast.Try)]
        rclpy = [
            one
            for block in tried
            for one in ast.walk(block)
            if isinstance(one, ast.ImportFrom) and (one.module or "").startswith("rclpy")
        ]
        assert not rclpy, path


@pytest.mark.parametrize(("distribution", "name"), [("humble", "ROS_LOCALHOST_ONLY"), ("jazzy", "ROS_AUTOMATIC")])
def test_each_is_kept_on_this_machine_by_its_own_variable(
    distribution: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROS_DISTRO", distribution)
    assert [key.startswith(name) for key in distributions.this_host_only()] == [True]


def test_pixi_installs_what_the_packages_declare() -> None:
    """Each environment has every key of every package.xml, under the names that RoboStack gives them."""
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    content = tomllib.loads((ROOT / "pixi.toml").read_text(encoding="utf-8"))
    wanted = dependencies().keys() - VENDOR
    assert content["feature"].keys() <= DISTRIBUTIONS.keys()
    for name, feature in content["feature"].items():
        assert [name] in content["environments"].values() and feature["channels"] == [f"robostack-{name}"]
        named = {SYSTEM.get(key, f"ros-{name}-{key.replace('_', '-')}") for key in wanted}
        lacking = named - feature["dependencies"].keys() - content["dependencies"].keys()
        assert not lacking, f"{name}: {lacking}"
        strange = {
            key for key in feature["dependencies"] if key.startswith("ros-") and not key.startswith(f"ros-{name}-")
        }
        assert not strange, strange


def test_a_key_that_an_index_lacks_is_named(tmp_path: Path) -> None:
    """On an index that has all but one: a package that was not released counts as absent, a system key as there."""
    ros = sorted(dependencies().keys() - VENDOR - SYSTEM.keys())
    for distribution in DISTRIBUTIONS:
        repositories: dict[str, dict] = {"one": {"release": {"version": "1.0.0-1", "packages": ros[1:]}}}
        repositories[ros[0]] = {"release": {"version": "1.0.0-1"} if distribution != "lyrical" else {}}
        (tmp_path / distribution).mkdir()
        text = yaml.safe_dump({"repositories": repositories})
        (tmp_path / distribution / "distribution.yaml").write_text(text, encoding="utf-8")
    (tmp_path / "rosdep").mkdir()
    (tmp_path / "rosdep" / "base.yaml").write_text("{}", encoding="utf-8")
    rules = {key: {"ubuntu": [key]} for key in SYSTEM}
    rules["python3-yaml"] = {"ubuntu": {"*": ["python3-yaml"], "jammy": None}}
    (tmp_path / "rosdep" / "python.yaml").write_text(yaml.safe_dump(rules), encoding="utf-8")
    assert missing(tmp_path) == {"humble": ["python3-yaml"], "jazzy": [], "lyrical": [ros[0]]}
    words = [sys.executable, "-m", "tools.rosdep_keys", str(tmp_path)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and f"  {ros[0]} (" in done.stdout and "Traceback" not in done.stderr
    done = subprocess.run([*words[:-1], str(tmp_path / "away")], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "is this a checkout of rosdistro?" in done.stderr
