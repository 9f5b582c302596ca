"""ROS 2 nodes around gymnast_core, and a Python client of them (`gymnast_nodes.client`).

Importing the package gives this process a shared memory that camera frames fit into (fastdds.xml says why), unless a
profile of the user's own is set. It must happen before rclpy joins the graph, and holds for every way of starting.
"""

import os
from pathlib import Path

_PROFILE = str(Path(__file__).with_name("fastdds.xml"))
_given = {os.environ.get(name, "") for name in ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")}
FOREIGN_PROFILE = ", ".join(sorted(_given - {"", _PROFILE}))
"""A Fast DDS profile of the user's own, which is left in charge; empty where ours is used."""
if not FOREIGN_PROFILE:
    os.environ["FASTRTPS_DEFAULT_PROFILES_FILE"] = _PROFILE

# Idle compute threads of torch sleep instead of spinning: the control loop shares the cores with them.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
