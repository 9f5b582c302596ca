"""Practise a task in imagination, from a photograph of it.

    python examples/practise_from_a_photograph.py scene.png "close the drawer"

It takes minutes on a CPU. The shipped miniature models know only the simulated drawer. Practice from any other
photograph is refused, with the reason, unless the station file (a third argument) names models that know the scene.
"""

from __future__ import annotations

import sys
from pathlib import Path

from gymnast_core.files import read_json
from gymnast_core.rl.adapt import adapt
from gymnast_core.rl.adapt_config import AdaptConfig


def main(photograph: str, instruction: str, station: str = "simulated_drawer", run: str = "runs/photograph") -> None:
    adapt(AdaptConfig(frame=(photograph,), instruction=instruction, config=station, run=run))
    result = read_json(Path(run) / "result.json")
    print(f"imagined success: {result['success_before']} before, {result['success_after']} after practice")
    print(f"adapter: {result['adapter_id']}" if result["accepted"] else f"the base is kept: {result['message']}")
    print(f"page: {run}/report.html")


if __name__ == "__main__":
    main(*sys.argv[1:])
