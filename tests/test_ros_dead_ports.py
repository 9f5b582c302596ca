"""A respawned node hears everybody, also where nobody can have noticed that the one before it died."""

from __future__ import annotations

import fcntl
import mmap
import os
import re
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
from std_srvs.srv import Trigger

from gymnast_nodes.dead_ports import avoided_dead_ports, mapped_ports
from gymnast_nodes.deaf import end_process
from gymnast_nodes.lifecycle import PROCESS
from tests.domains import free_domain, isolate
from tests.machine import HANG_S
from tests.ros_tools import SIMULATED, Client, Process, wait_until

SERVER = """
import os
from rclpy.node import Node
from std_srvs.srv import Trigger
from gymnast_nodes.running import run_node

def build():
    node = Node("server")
    answer = lambda _, response: (setattr(response, "message", str(os.getpid())), response)[1]
    node.create_service(Trigger, "who", answer)
    return node

run_node(build, args=[])
"""
LISTENER = 20584
"""Bytes from a port's identity to its first listener's flags, in Fast DDS 2.14."""
IN_USE, WAITING, PROCESSING = 1, 2, 4


def kill_between_waiting_and_reading(pid: int) -> None:
    """SIGKILL, at the moment in which a reader of shared memory neither waits nor reads.

    A process is in that state for microseconds; its flags are therefore written as they would be then.
    """
    os.kill(pid, signal.SIGSTOP)
    locks = [os.readlink(file) for file in Path(f"/proc/{pid}/fd").iterdir() if "_el" in os.readlink(file)]
    ports = [match for lock in locks if (match := re.fullmatch(r"(.*/fast(?:rtps|dds)_port(\d+))_el", lock))]
    changed = 0
    for match in ports:
        with open(match[1], "r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
            # Number, listeners, two times and the capacity; then how many wait, three flags and the identity.
            at = memory.find(struct.pack("<II", int(match[2]), 1)) + 28 + LISTENER
            if 28 + LISTENER <= at < len(memory) and memory[at] & IN_USE and memory[at] < 8:
                memory[at] &= ~(WAITING | PROCESSING)
                changed += 1
    os.kill(pid, signal.SIGKILL)
    if not ports or changed < len(ports):
        pytest.skip("another version of Fast DDS, or no shared memory")


def test_a_respawned_node_answers_whoever_wrote_to_the_dead_one() -> None:
    domain = free_domain()
    client = Client(domain)
    command = [sys.executable, "-c", SERVER]
    first = Process(command, isolate(domain))
    try:
        assert client.call(Trigger, "/who", Trigger.Request()).message == str(first.process.pid)
        kill_between_waiting_and_reading(first.process.pid)
        second = Process(command, isolate(domain))
        try:
            assert client.call_respawned(Trigger, "/who", Trigger.Request()).message == str(second.process.pid)
        finally:
            second.end()
    finally:
        first.end()
        client.close()


def test_only_ports_that_nobody_reads_are_held(tmp_path: Path) -> None:
    names = [f"fastrtps_port{90_000 + os.getpid() % 1_000 * 10 + k}" for k in range(5)]
    files = [tmp_path / name for name in names]
    locks = [tmp_path / f"{name}_el" for name in names[:2]]
    writer = (
        "import mmap, sys, time\n"
        "files = [open(path, 'r+b') for path in sys.argv[1:]]\n"
        "maps = [mmap.mmap(file.fileno(), 0) for file in files]\n"
        "print('ready', flush=True); time.sleep(60)"
    )
    for file in files:
        file.write_bytes(bytes(4096))
    read, dead = (os.open(lock, os.O_RDONLY | os.O_CREAT) for lock in locks)
    process = subprocess.Popen([sys.executable, "-c", writer, *map(str, files[:4])], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        fcntl.flock(read, fcntl.LOCK_EX | fcntl.LOCK_NB)  # a reader lives at the first, one died at the second
        files[2].unlink()  # somebody made the third anew; its writer does not know
        ports = mapped_ports()
        assert [ports.get(name) for name in names] == [False, False, True, False, None]
        with avoided_dead_ports(tmp_path) as held:  # the fourth has no lock yet: its reader is about to take it
            assert [name for name in names if name in held] == names[1:3]
            with pytest.raises(BlockingIOError):
                fcntl.flock(dead, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(dead, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert locks[1].exists() and not (tmp_path / f"{names[2]}_el").exists()
    finally:
        process.kill()
        process.communicate()
        os.close(read)
        os.close(dead)


def test_a_process_that_ends_while_it_is_looked_at_costs_nothing() -> None:
    children = [subprocess.Popen(["sleep", str(0.05 * k)]) for k in range(10)]
    began = time.monotonic()
    while any(child.poll() is None for child in children) and time.monotonic() - began < 5.0:
        mapped_ports()
    wait_until(lambda: all(child.poll() is not None for child in children), 5.0, "the children's end")


HANGS = """
import ctypes
from gymnast_nodes import leaving
class Node:
    def destroy_node(self): ctypes.PyDLL(None).sleep(600)  # with Python's lock held, as Fast DDS does
leaving.HANG_S = leaving.LEAVE_S = 0.5
leaving.{0}
"""


@pytest.mark.parametrize(
    ("leave", "code", "told"),
    [("leave_graph(Node(), None)", 1, "in destroy_node"), ("leave_at_the_end(Node(), 0)", 0, ""),
     ("leave_at_the_end(Node(), 3)", 3, "")],
)  # fmt: skip
def test_a_process_that_hangs_when_it_leaves_the_graph_ends(leave: str, code: int, told: str) -> None:
    command = [sys.executable, "-c", HANGS.format(leave)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANG_S)
    assert done.returncode == code and told in done.stderr


NOISE = """
import os
from gymnast_nodes.dead_ports import keep_standard_output
keep_standard_output()
os.write(1, b"noise\\n")  # as a library of C++ does
print("word")
"""


def test_what_a_library_prints_is_not_what_a_command_answers() -> None:
    done = subprocess.run([sys.executable, "-c", NOISE], capture_output=True, text=True, timeout=HANG_S)
    assert (done.returncode, done.stdout, done.stderr) == (0, "word\n", "noise\n")


DEAF_NODE = """
import sys, time
import rclpy
from gymnast_msgs.msg import NodeStatus
from lifecycle_msgs.srv import ChangeState
from gymnast_nodes.lifecycle import HEARTBEAT_TOPIC, PROCESS
from gymnast_nodes.qos import COMMAND_QOS

rclpy.init(args=sys.argv)
node = rclpy.create_node("recorder")
node.create_service(ChangeState, "recorder/change_state", lambda _, response: response)
beat = node.create_publisher(NodeStatus, HEARTBEAT_TOPIC, COMMAND_QOS)
while True:
    beat.publish(NodeStatus(name="recorder", state="unconfigured", process=PROCESS))
    time.sleep(0.2)
"""


def test_a_node_that_speaks_and_hears_nothing_is_ended_so_that_it_is_started_again() -> None:
    environment = isolate(free_domain())
    named = ["--ros-args", "-r", "__node:=recorder"]  # as each node is started
    deaf = Process([sys.executable, "-c", DEAF_NODE, *named], environment)
    assert not end_process("camera", PROCESS) and not end_process("recorder", PROCESS), "this process is neither"
    line = [sys.executable, "-c", "from gymnast_nodes.supervisor_node import main; main()", "--ros-args"]
    line += ["-p", f"config:={SIMULATED}", "-p", "managed_nodes:=['recorder']"]
    supervisor = Process(line, environment)
    try:
        wait_until(lambda: deaf.process.poll() is not None, 60.0, "the end of a deaf process")
        assert deaf.process.returncode == -signal.SIGKILL, deaf.output
    finally:
        deaf.end()
        supervisor.end()
