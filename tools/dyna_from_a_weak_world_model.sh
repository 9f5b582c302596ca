#!/usr/bin/env bash
# Two rounds of `gymnast dyna` on the simulated station, from a world model that was trained too briefly on purpose.
# Some hours on two cores. What is done is not done again: start it again after an interruption.
#   tools/dyna_from_a_weak_world_model.sh [FOLDER]      FOLDER: runs/dyna_from_weak
set -euo pipefail
folder=${1:-runs/dyna_from_weak}
mkdir -p "$folder"

collect() { # name, policy, first seed, episodes
    [ -e "$folder/$1.done" ] && return
    rm -rf "${folder:?}/$1"
    gymnast data collect --config simulated_drawer --out "$folder/$1" --policy "$2" --first-seed "$3" --episodes "$4"
    touch "$folder/$1.done"
}

collect old mixed 0 20
collect logs mini/policy 1000 40
if [ ! -e "$folder/weak/result.json" ]; then # a twentieth of the shipped model's training, on a few old episodes
    gymnast world-model train --data "$folder/old" --steps 200 --run "$folder/weak"
fi
python - "$folder" <<'PYTHON'
import dataclasses, sys
from pathlib import Path
from gymnast_core.config import dump_config
from gymnast_core.station_file import open_station
folder = Path(sys.argv[1]).resolve()
station = open_station("simulated_drawer").portable()
models = dataclasses.replace(station.models, world_model=str(folder / "weak" / "model"), adapters=str(folder / "adapters"))
(folder / "station.yaml").write_text(dump_config(dataclasses.replace(station, name="weak", models=models)))
PYTHON
gymnast dyna --config "$folder/station.yaml" --logs "$folder/logs" --old-data "$folder/old" --tasks close_drawer \
    --frames 4 --rounds 2 --run "$folder/dyna" || [ $? -eq 1 ]
gymnast dyna status "$folder/dyna"
