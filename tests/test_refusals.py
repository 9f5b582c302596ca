"""What the operating system refuses is one line that names the setting or path, and costs no episode."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from gymnast_core.config import find_model
from gymnast_core.errors import ConfigError, DataError
from gymnast_core.files import append_line, user_path, writable_folder, write_bytes
from gymnast_core.ros_logs import settle_log_folder
from gymnast_core.station_file import find_station_file
from tests.machine import HANG_S

POOR_SHARE = """
#include <errno.h>
int flock(int file, int how) { errno = ENOLCK; return -1; }
int fsync(int file) { errno = EINVAL; return -1; }
"""
RECORD = """
import sys, threading, time
from pathlib import Path
import numpy as np
from gymnast_core.config import SimulationConfig
from gymnast_core.data.episode import EpisodeWriter, read_episode
from gymnast_core.data.mcap_log import McapLog
from gymnast_core.data.mcap_read import is_being_written
from gymnast_core.run_folder import RunFolder

root = Path(sys.argv[1])
with EpisodeWriter(root / "episode", "open it", {}) as writer:
    log = McapLog(root / "episode" / "log", "none")
    frame = np.zeros((16, 16, 3), np.uint8)
    writer.add_observation(frame)
    writer.add_step(np.zeros(7, np.float32), np.zeros(7, np.float32))
    writer.add_observation(frame)
    ended = threading.Event()
    def go_on():
        while not ended.wait(0.02):
            with open(log.path, "ab") as stream:
                stream.write(b"0")
    thread = threading.Thread(target=go_on)
    thread.start()
    assert is_being_written(log.path)
    ended.set()
    thread.join()
    assert not is_being_written(log.path)
    log.close()
    writer.finish(success=True)
assert read_episode(root / "episode").length == 1
RunFolder(root / "run", SimulationConfig(), tensorboard=False).report_progress("begun")
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler here to build a file system without locks with")
def test_a_share_without_locks_and_without_fsync_costs_no_episode_and_no_run(tmp_path: Path) -> None:
    (tmp_path / "poor_share.c").write_text(POOR_SHARE)
    library = tmp_path / "poor_share.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, tmp_path / "poor_share.c"], check=True)
    environment = {**os.environ, "LD_PRELOAD": str(library)}
    command = [sys.executable, "-c", RECORD, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=HANG_S)
    assert done.returncode == 0, done.stderr


def test_a_folder_that_cannot_be_written_is_named_with_its_setting(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/none"), tmp_path / ("n" * 300)):
        with pytest.raises(ConfigError, match=r"^recorder.folder: nothing can be written into .*: [A-Z]"):
            writable_folder(folder, "recorder.folder")
        with pytest.raises(DataError, match="cannot write"):
            write_bytes(folder / "x", b"")
    with pytest.raises(DataError, match="cannot write: Is a directory"):
        append_line(tmp_path, "x")
    assert writable_folder(tmp_path / "new" / "one", "recorder.folder").is_dir()
    assert list((tmp_path / "new" / "one").iterdir()) == []


def test_a_home_that_nobody_has_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for read in (user_path, find_model, find_station_file):
        with pytest.raises(ConfigError, match=r"'~nobody_of_that_name/x': .*write the whole path"):
            read("~nobody_of_that_name/x")
    with pytest.raises(ConfigError, match=r"^recorder.folder: "):
        user_path("a\0b", "recorder.folder")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert user_path("~/x") == Path("/home/somebody/x")


def test_ros_logs_go_elsewhere_where_their_folder_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for environment in (
        {},
        {"HOME": "/dev/null"},
        {"HOME": str(tmp_path), "ROS_LOG_DIR": "/proc/x"},
        {"ROS_HOME": "/proc"},
    ):
        told = settle_log_folder(environment)
        assert "ROS_LOG_DIR names another folder" in told and "\n" not in told
        assert Path(environment["ROS_LOG_DIR"]).is_dir()
        assert settle_log_folder(environment) == ""
    home = {"HOME": str(tmp_path)}
    assert settle_log_folder(home) == "" and home == {"HOME": str(tmp_path)} and (tmp_path / ".ros" / "log").is_dir()
    monkeypatch.setattr(tempfile, "tempdir", "/proc/none")
    with pytest.raises(ConfigError, match="ROS_LOG_DIR: no home"):
        settle_log_folder({})


def test_a_node_without_a_home_says_so_in_one_line_and_goes_on() -> None:
    pytest.importorskip("rclpy", reason="no ROS 2 here; run `make setup` or source one")
    environment = {**os.environ, "HOME": "/dev/null"}
    environment.pop("ROS_LOG_DIR", None)
    environment.pop("ROS_HOME", None)
    code = "import sys; from gymnast_nodes.watchdog_node import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=HANG_S)
    lines = done.stderr.splitlines()
    assert done.returncode == 2 and len(lines) == 2, done.stderr
    assert "ROS cannot keep its logs" in lines[0] and "parameter 'config' is empty" in lines[1]
