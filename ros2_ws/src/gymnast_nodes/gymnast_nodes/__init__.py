"""ROS 2 nodes around gymnast_core, and a Python client of them (`gymnast_nodes.client`).

Importing the package gives this process a shared memory that camera frames fit into (fastdds.xml says why), unless a
profile of the user's own is set. It must happen before rclpy joins the graph, and holds for every way of starting.
"""

import os
from pathlib import Path

if not {"FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE"} & set(os.environ):
    os.environ["FASTRTPS_DEFAULT_PROFILES_FILE"] = str(Path(__file__).with_name("fastdds.xml"))

# Idle compute threads of torch sleep instead of spinning: the control loop shares the cores with them.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
