"""Picture of a simulated station; with a photograph of the real one, the two beside each other.

    python tools/station_picture.py --out docs/pictures/station.png
    python tools/station_picture.py --config robot_configs/simulated_sink.yaml --out docs/pictures/sink.jpg
    python tools/station_picture.py --photograph "../shared/data/autoeval_station/close the drawer.png" --out both.png

The gripper hangs where it does in AutoEval's photographs. Photographs are somebody else's: only our picture is kept.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from gymnast_core.config import StationConfig, load_config
from gymnast_core.data.frames import read_image, resize_frame, write_image
from gymnast_core.robot.controller import BridgeController
from gymnast_core.simulation.simulator import SimulatedStation

SIDE = 480
GRIPPER = (0.27, -0.02, 0.17)
"""About where the photographs show it, metres, base frame."""


def main() -> None:
    """Render both tasks' starts and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="robot_configs/simulated_drawer.yaml")
    parser.add_argument("--photograph", action="append", default=[], help="image to put left of ours; may be repeated")
    parser.add_argument("--out", required=True)
    options = parser.parse_args()

    config = load_config(StationConfig, options.config)
    station = SimulatedStation(config)
    station.place_arm(BridgeController(config).move_to(GRIPPER))
    camera = station.renderer(config.camera.width, config.camera.height)
    pictures = [resize_frame(read_image(path), SIDE) for path in options.photograph]
    for task in sorted(config.tasks):
        station.reset(task, 0)
        pictures.append(resize_frame(camera.render(station.snapshot()), SIDE))
    camera.close()
    Path(options.out).parent.mkdir(parents=True, exist_ok=True)
    write_image(options.out, np.concatenate(pictures, axis=1))


if __name__ == "__main__":
    main()
