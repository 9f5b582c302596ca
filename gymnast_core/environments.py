"""Registers gymnast's environments with gymnasium: import this module, then call `gymnasium.make`.

"gymnast/Station-v0" is a simulated station (`rollout.gymnasium_environments.StationEnv`), "gymnast/Imagination-v0" the
world model of a station file (`ImaginationEnv`). Both also answer to the one line that imports and makes:
`gymnasium.make("gymnast_core.environments:gymnast/Station-v0", task="close_drawer")`. Needs the extra `gymnasium`.
"""

from __future__ import annotations

import gymnasium

STATION = "gymnast/Station-v0"
IMAGINATION = "gymnast/Imagination-v0"

for _name, _class in ((STATION, "StationEnv"), (IMAGINATION, "ImaginationEnv")):
    if _name not in gymnasium.registry:
        gymnasium.register(
            _name,
            entry_point=f"gymnast_core.rollout.gymnasium_environments:{_class}",
            order_enforce=False,  # they say it themselves, and LeRobot looks for `task_description` on what it is given
        )
