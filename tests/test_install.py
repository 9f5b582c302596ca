"""Installation: what colcon finds, what pip is told, what the wheel carries, what a bare machine is told."""

from __future__ import annotations

import ast
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from gymnast_core.doctor import check_package
from gymnast_core.doctor_fix import MAKE_SETUP, install, plan
from tests.machine import HANG_S

ROOT = Path(__file__).resolve().parent.parent
NODES = ROOT / "ros2_ws" / "src" / "gymnast_nodes"
PACKAGES = ["gymnast", "gymnast_msgs", "gymnast_nodes", "interbotix_xs_msgs"]
register = runpy.run_path(str(ROOT / "tools" / "register_packages.py"))

APART = ("full", "dev", "view", "trossen", "trossen-sim")
"""Extras that are not part of `full`: large, or for one arm alone."""


def setup_arguments(folder: Path) -> dict[str, Any]:
    return register["setup_arguments"](folder)


def listed_by_colcon(folder: Path, *options: str) -> list[str]:
    result = subprocess.run(
        [sys.executable, "-m", "colcon", "--log-base", os.devnull, "list", "--names-only", *options],
        cwd=folder,
        env={**os.environ, "COLCON_DEFAULTS_FILE": os.devnull},
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=True,
    )
    return sorted(result.stdout.split())


def test_colcon_finds_every_package_once_in_the_own_workspace_and_in_a_lab_s(tmp_path: Path) -> None:
    pytest.importorskip("colcon_core")
    assert listed_by_colcon(ROOT / "ros2_ws") == PACKAGES

    # A lab's workspace: the option it needs is the one the README tells it.
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "gymnast").symlink_to(ROOT, target_is_directory=True)
    told = re.search(r"colcon build (--base-paths [^`\n#]+)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert told, "README.md does not say with which option a workspace of one's own is built"
    assert listed_by_colcon(tmp_path, *told.group(1).split()) == PACKAGES


def test_declared_ranges_cover_what_is_installed_and_agree_with_each_other() -> None:
    arguments = setup_arguments(ROOT)
    assert all(f"3.{minor}" in SpecifierSet(arguments["python_requires"]) for minor in (10, 11, 12, 13))
    assert {"3.9", "3.14"}.isdisjoint(SpecifierSet(arguments["python_requires"]).filter(["3.9", "3.14"]))

    extras = arguments["extras_require"]
    heavy = {line for name, lines in extras.items() if name not in APART for line in lines}
    assert set(extras["full"]) == heavy

    for line in [*arguments["install_requires"], *extras["full"], *extras["dev"]]:
        requirement = Requirement(line)
        assert requirement.specifier, f"{requirement.name} has no range"
        try:
            installed = version(requirement.name)
        except PackageNotFoundError:
            continue  # a base install without this extra
        assert requirement.specifier.contains(installed, prereleases=True), f"{line} excludes the installed {installed}"

    # What the lab's own code is promised by name.
    names = {canonicalize_name(Requirement(line).name) for line in [*arguments["install_requires"], *extras["full"]]}
    assert {"torch", "peft", "transformers", "diffusers", "openai", "opencv-python", "numpy", "pyyaml"} <= names
    ros = {element.text for element in ElementTree.parse(ROOT / "package.xml").iter("exec_depend")}
    assert {"rclpy", "launch_ros", "gymnast_msgs", "gymnast_nodes", "interbotix_xs_modules"} <= ros


def imports_of(folder: Path) -> dict[str, Path]:
    """Top-level names imported anywhere below a folder, each with one file that does."""
    names: dict[str, Path] = {}
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names.update({alias.name.split(".")[0]: path for alias in node.names})
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                names[node.module.split(".")[0]] = path
    return names


def test_every_import_is_a_declared_dependency_and_the_core_imports_no_ros() -> None:
    arguments = setup_arguments(ROOT)
    extras = arguments["extras_require"]
    declared = {
        canonicalize_name(Requirement(line).name)
        for line in [
            *arguments["install_requires"],
            *(line for name, lines in extras.items() if name != "dev" for line in lines),
        ]
    }
    ros = {element.text for element in ElementTree.parse(NODES / "package.xml").iter("exec_depend")}
    distributions = {"rerun": ["rerun-sdk"], **packages_distributions()}  # that extra is in no other

    def is_declared(name: str) -> bool:
        return not declared.isdisjoint(canonicalize_name(d) for d in distributions.get(name, [name]))

    own = {"gymnast_core", "gymnast_nodes"}
    core = imports_of(ROOT / "gymnast_core")
    undeclared = {
        name: str(path)
        for name, path in core.items()
        if name not in sys.stdlib_module_names and name not in own and not is_declared(name)
    }
    assert not undeclared, f"gymnast_core imports what setup.py does not declare: {undeclared}"
    assert "rclpy" not in core and not any(name.endswith("_msgs") for name in core)

    nodes = imports_of(NODES / "gymnast_nodes")
    undeclared = {
        name: str(path)
        for name, path in nodes.items()
        if name not in sys.stdlib_module_names and name not in own and name not in ros and not is_declared(name)
    }
    assert not undeclared, f"gymnast_nodes imports what neither package.xml nor setup.py declares: {undeclared}"


def environment_without(names: set[str], folder: Path) -> dict[str, str]:
    """Environment variables with which every interpreter refuses to import `names`."""
    (folder / "sitecustomize.py").write_text(
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.split('.')[0] in {sorted(names)!r}:\n"
        "            raise ModuleNotFoundError(f\"No module named '{name}'\", name=name)\n"
        "sys.meta_path.insert(0, Absent())\n"
    )
    return {"PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}


def test_the_base_install_is_enough_for_adapting_and_training(tmp_path: Path) -> None:
    extras = setup_arguments(ROOT)["extras_require"]["full"]
    # torch looks the compression libraries up by itself and does without them, but not against this refusal.
    absent = {Requirement(line).name.replace("-", "_") for line in extras} - {"lz4", "zstandard"}
    absent = {"mcap_ros2" if name == "mcap_ros2_support" else name for name in absent} | {"rclpy"}
    code = (
        "import importlib\n"
        "from gymnast_core.verbs import VERBS\n"
        "station = ('demo', 'stop', 'rearm', 'policy evaluate', 'adapter evaluate', 'data collect')\n"
        "station += ('data recover', 'benchmark transfer', 'practise', 'serve', 'queue serve')\n"
        "for name, verb in VERBS.items():\n"
        "    for target in () if name in station else (verb.options, verb.run):\n"
        "        module, _, attribute = target.partition(':')\n"
        "        assert callable(getattr(importlib.import_module(module), attribute)), name\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment_without(absent, tmp_path)},
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:]


def test_every_node_of_the_graph_is_an_executable_with_its_module() -> None:
    from gymnast_core.graph import NODE_PACKAGE, station_graph

    lines = setup_arguments(NODES)["entry_points"]["console_scripts"]
    executables = {name.strip(): target.strip() for name, target in (line.split("=") for line in lines)}
    for target in executables.values():
        assert (NODES / (target.split(":")[0].replace(".", "/") + ".py")).is_file(), target
    for config in sorted((ROOT / "robot_configs").glob("*.yaml")):
        started = {node.executable for node in station_graph(config) if node.package == NODE_PACKAGE}
        assert started and started <= set(executables)


def test_the_wheel_carries_recipes_scenes_weights_and_launch_files(tmp_path: Path) -> None:
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("not a git checkout: which files belong to it is unknown")
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    files = [name for name in listing.decode().split("\0") if name and (ROOT / name).is_file()]
    for name in files:
        target = tmp_path / "checkout" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, target)
    options = ["-q", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(tmp_path)]
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", *options, "."],
        cwd=tmp_path / "checkout",
        check=True,
        timeout=HANG_S,
    )
    (wheel,) = tmp_path.glob("gymnast-*.whl")
    packed = set(zipfile.ZipFile(wheel).namelist())
    expected = {name for name in files if name.startswith("gymnast_core/")}
    assert expected and expected <= packed, sorted(expected - packed)[:5]
    for folder in ("launch", "robot_configs"):
        for name in files:
            if name.startswith(f"{folder}/") and name.endswith((".launch.py", ".yaml")):
                assert any(entry.endswith(f"share/gymnast/{name}") for entry in packed), name
    # Nothing else at the top: a stray `tests` or `tools` package would shadow other people's.
    assert {entry.split("/")[0].split("-")[0] for entry in packed} == {"gymnast_core", "gymnast"}


def run_doctor(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if key != "OPENAI_API_KEY"}
    return subprocess.run(
        [sys.executable, "-m", "gymnast_core.cli", "doctor", *words],
        cwd=ROOT,
        env={**clean, **environment},
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
    )


def test_doctor_names_what_is_missing_with_its_remedy_and_exits_1(tmp_path: Path) -> None:
    absent = {"torch", "cv2", "mujoco", "rclpy", "gymnast_msgs", "gymnast_nodes"}
    result = run_doctor(**environment_without(absent, tmp_path), AMENT_PREFIX_PATH="", ROS_DISTRO="")
    assert result.returncode == 1, result.stderr
    assert "Traceback" not in result.stdout + result.stderr
    lines = result.stdout.splitlines()
    for name in ("torch", "OpenCV", "MuJoCo", "ROS 2", "ROS interfaces", "ROS nodes"):
        (index,) = [i for i, line in enumerate(lines) if re.match(rf"MISSING\s+{name}\s\s", line)]
        assert lines[index + 1].strip().startswith("-> "), f"no remedy for {name}"
    assert re.match(r"ok\s+Python ", lines[0])
    assert lines[-1].startswith("missing: ") and "torch" in lines[-1]


def test_doctor_checks_what_a_station_file_asks_for(tmp_path: Path) -> None:
    result = run_doctor("--config", "bridge_widowx", "--core")
    assert result.returncode == 1
    assert "OPENAI_API_KEY is not set" in result.stdout
    text = (ROOT / "robot_configs" / "simulated_drawer.yaml").read_text()
    text = text.replace("kind: classifier", "kind: vlm\n  model: own\n  base_url: http://localhost:1")
    (tmp_path / "own.yaml").write_text(text.replace("gate_judge: mini/gate_judge", "gate_judge: mini/no_judge"))
    own = run_doctor("--config", str(tmp_path / "own.yaml"), "--core")
    assert "OPENAI_API_KEY" not in own.stdout  # a server of one's own needs no key
    assert re.search(r"MISSING\s+judge .*nobody answers at http://localhost:1: ", own.stdout)
    assert own.returncode == 1 and re.search(r"MISSING\s+models .*gate_judge: .*mini/no_judge", own.stdout)
    (tmp_path / "far.yaml").write_text(text.replace("policy: mini/policy", "policy: ws://localhost:1"))
    far = json.loads(run_doctor("--config", str(tmp_path / "far.yaml"), "--core", "--json").stdout)["findings"]
    models = next(finding for finding in far if finding["name"] == "models")
    assert "policy: nobody answers at ws://localhost:1" in models["detail"]
    wrong = run_doctor("--config", "no_such_station")
    assert wrong.returncode == 2 and len(wrong.stderr.strip().splitlines()) == 1 and "no_such_station" in wrong.stderr


def test_a_fix_is_run_once_and_setup_does_what_single_installs_would() -> None:
    vlm, serve = install("vlm"), install("serve")
    assert vlm[-1] == f"{ROOT}[vlm]" and plan([vlm, (), serve, vlm]) == [vlm, serve]
    assert plan([vlm, MAKE_SETUP, serve, MAKE_SETUP]) == [MAKE_SETUP]
    assert plan([(), ()]) == [], "what only a person can do is no command"
    absent = check_package("no-such-package-anywhere", "a test")
    assert absent.status == "optional" and absent.fix == install("full")


def test_setup_on_a_machine_without_compiler_and_apt_fails_in_one_line_with_the_remedy(tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    shutil.copytree(ROOT / "tools", checkout / "tools")
    programs = tmp_path / "bin"
    programs.mkdir()
    for program in ("bash", "cat", "sha256sum", "cut", "find", "sort", "ls", "dirname", "grep", "id", "uname", "env"):
        found = shutil.which(program)
        assert found
        (programs / program).symlink_to(found)
    result = subprocess.run(
        [str(programs / "bash"), str(checkout / "tools" / "setup.sh")],
        env={"PATH": str(programs), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
    )
    assert result.returncode == 1
    last = result.stderr.strip().splitlines()[-1]
    assert "setup failed:" in last and "cmake" in last and "g++" in last and "install" in last
    assert not (checkout / ".venv").exists(), "nothing half-made is left behind"


def test_mending_rewrites_the_builder_s_folders_once(tmp_path: Path) -> None:
    mend = runpy.run_path(str(ROOT / "tools" / "mend_wheels.py"))["mend"]
    file = tmp_path / "a" / "export.cmake"
    file.parent.mkdir()
    file.write_text(
        'set(x "/opt/python/cp312-cp312/include/python3.12;'
        '/opt/python/cp312-cp312/lib/python3.12/site-packages/numpy/_core/include;/opt/other")'
    )
    assert mend(tmp_path, "/usr/include/python3.12", "/venv/numpy/include") == 1
    assert file.read_text() == 'set(x "/usr/include/python3.12;/venv/numpy/include;/opt/other")'
    assert mend(tmp_path, "/usr/include/python3.12", "/venv/numpy/include") == 0
