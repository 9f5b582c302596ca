"""Read a day's logs: success by task and policy, and where the failures lie.

python examples/read_a_day.py runs/episodes              # everything
python examples/read_a_day.py runs/episodes 2026-11-29   # one day, by the clock of this machine
"""

from __future__ import annotations

import sys
from collections import defaultdict
from datetime import datetime

from gymnast_core.data.episode import find_episodes, read_episode
from gymnast_core.estimates import success_rate


def main(folder: str, day: str = "") -> None:
    outcomes: dict[str, list[bool]] = defaultdict(list)
    failures = []
    for path in find_episodes(folder):
        episode = read_episode(path, frames=False)  # the pictures are read when they are wanted
        began = datetime.fromtimestamp(episode.stamps[0] / 1e9)
        if day and f"{began:%Y-%m-%d}" != day:
            continue
        name = f"{episode.metadata.get('task') or episode.instruction}, {episode.metadata.get('policy', 'unknown')}"
        if episode.success is None or not episode.complete:
            print(f"{path}: not judged, or cut short")
            continue
        outcomes[name].append(episode.success)
        if not episode.success:
            failures.append(f"{path}: {episode.length} steps from {began:%H:%M:%S}")
    for name, results in sorted(outcomes.items()):
        print(f"{name}: success {success_rate(results)}")
    print("failures:", *failures or ["none"], sep="\n  ")


if __name__ == "__main__":
    main(*sys.argv[1:])
