"""What every test relies on: it finds the process as a new one would be, and ROS in a domain of its own.

Tests depend neither on each other nor on their order: `make test ARGS="--random-order-seed=1"` shows it.
"""

from __future__ import annotations

import contextlib
import functools
import os
import random
import re
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings

from tests.domains import free_domain, isolate

IMPORTS_ROS = re.compile(
    r"^(?:from|import) (?:rclpy|rcl_interfaces|\w+_(?:msgs|srvs)|gymnast_nodes|tests\.ros_tools|tests\.test_ros_\w+)\b",
    re.MULTILINE,
)
LIGHT = (
    "test_policy_ros.py",
    "test_recorder_node.py",
    "test_ros_camera_topic.py",
    "test_ros_canary.py",
    "test_ros_dead_ports.py",
    "test_ros_demo.py",
    "test_ros_idle.py",
    "test_ros_look_ahead.py",
    "test_ros_rounds.py",
    "test_ros_trials.py",
)
"""Files over ROS that run beside another graph: what they show does not depend on how soon something happens."""
ROS = "ros"
"""All other files over ROS, as one piece of work."""
LONG = (
    "test_ros_rounds.py",
    "test_ros_canary.py",
    "test_rounds.py",
    "test_ros_trials.py",
    "test_rl_processes.py",
    "test_lab_way.py",
    "test_ros_demo.py",
    "test_policy_sft.py",
    "test_dyna.py",
    "test_transfer.py",
)
"""Files that take minutes: they begin early, so that no worker is left alone with one at the end."""
BEHIND = 2
"""Niceness of all tests but those over ROS, so that they do not keep an arm waiting that runs beside them."""
SEED = 20_261
settings.register_profile("same", derandomize=True, database=None, deadline=None)  # a busy machine is no failure
settings.register_profile("search", print_blob=True, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))  # `search` looks for new examples
os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: the models here are too small for threads


@functools.cache
def missing_ros() -> str:
    """Why tests over ROS cannot run here; empty where they can."""
    try:
        import rclpy  # noqa: F401
    except ImportError:
        return "no ROS 2 here; run `make setup` or source one"
    try:
        import gymnast_msgs.msg  # noqa: F401
    except ImportError:
        return "the ROS interfaces are not built; run `make setup`"
    return ""


@functools.cache
def needs_ros(path: Path) -> bool:
    """Whether a test file is one of those over ROS, or imports it at its top."""
    return path.name.startswith("test_ros_") or bool(IMPORTS_ROS.search(path.read_text(encoding="utf-8")))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With several workers a file's tests stay together, and so do those over ROS that measure how soon an arm is held:
    one such graph at once. What is `LIGHT` balances the workers. (pytest-xdist's own marks for groups are not read with
    pytest 9.)"""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            path = Path(nodeid.partition("::")[0])
            return ROS if needs_ros(config.rootpath / path) and path.name not in LIGHT else str(path)

        def _assign_work_unit(self, node: Any) -> None:
            for piece in (*(f"tests/{name}" for name in reversed(LONG)), ROS):  # ROS takes longest, so it begins first
                if piece in self.workqueue:
                    self.workqueue.move_to_end(piece, last=False)
            super()._assign_work_unit(node)

    return ByFile(config, log)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """With several workers, a test without ROS and whatever it starts leave the cores to the arm beside them."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        with contextlib.suppress(PermissionError):  # who may not come forward again stays behind
            os.setpriority(os.PRIO_PROCESS, 0, 0 if needs_ros(item.path) else BEHIND)


class WithoutRos(pytest.Module):
    """A test file that imports ROS, where there is none."""

    def collect(self) -> Any:
        pytest.skip(missing_ros(), allow_module_level=True)


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    """Where there is no ROS, files that import it are skipped whole, with the reason, before they are imported."""
    if needs_ros(module_path) and missing_ros():
        return WithoutRos.from_parent(parent, path=module_path)
    return None


@pytest.fixture(scope="session", autouse=True)
def own_domain() -> Iterator[None]:
    """What tests start speaks neither with a graph of this host nor with its latched stop, unless a test says so."""
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="gymnast_state_") as state:
        for name, value in isolate(free_domain()).items():
            if name.startswith("ROS_"):
                patch.setenv(name, value)
        patch.setenv("GYMNAST_STATE", state)
        yield


@pytest.fixture(autouse=True)
def clean_process() -> Iterator[None]:
    """Seeds are set before each test; environment, folder, signal handlers and torch's settings are put back after."""
    random.seed(SEED)
    np.random.seed(SEED)  # noqa: NPY002 - for libraries that use it
    environment, folder = dict(os.environ), Path.cwd()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.manual_seed(SEED)
        threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    yield
    if dict(os.environ) != environment:
        os.environ.clear()
        os.environ.update(environment)
    os.chdir(folder)
    for number, handler in handlers.items():
        if handler is not None:  # of C, which Python cannot put back
            signal.signal(number, handler)
    if torch is not None:
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic)
