"""The vendor's simulated controller of a WidowX AI, in a process of its own on a loopback address of its own.

`python tests/trossen_arm_server.py 127.0.7.1` serves until it is ended; it needs the packages trossen-arm and
trossen-arm-sim. A line "fault" on standard input overheats a joint.
"""

from __future__ import annotations

import sys

from trossen_arm_sim.protocol import ErrorState
from trossen_arm_sim.server import TrossenArmSimServer
from trossen_arm_sim.sim import WidowXSim


def main(host: str) -> None:
    simulation = WidowXSim()
    simulation.start()
    server = TrossenArmSimServer(simulation, host=host)
    server.start()
    print("serving", flush=True)
    for line in sys.stdin:
        if line.strip() == "fault":
            server.fault(ErrorState.JOINT_OVERHEATED, "overheated by a test")
            print("faulted", flush=True)
    server.stop()
    simulation.stop()


if __name__ == "__main__":
    main(sys.argv[1])
