"""Drive a running station in ten lines: practise a task in imagination, then do it.

gymnast up                               # in another shell: the simulated station; `gymnast up FILE` for your own
python examples/drive_the_station.py     # an instruction and the name of its task may follow
"""

from __future__ import annotations

import sys
import time

from gymnast_nodes.client import Station


def main(instruction: str = "close the drawer", task: str = "close_drawer") -> None:
    with Station() as station:
        station.wait_until_active()
        practice = station.practise(instruction, task=task, reset=True, execute=True)
        while not practice.is_complete():
            print(practice.feedback.phase if practice.feedback else "waiting", flush=True)
            time.sleep(1.0)
        result = practice.result()
        print(result.message)
        print(f"imagined success {result.success_before:.2f} -> {result.success_after:.2f}; {result.episode_path}")


if __name__ == "__main__":
    main(*sys.argv[1:])
