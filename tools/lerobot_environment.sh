#!/usr/bin/env bash
# An environment with LeRobot, apart from gymnast's: it wants older versions of some libraries. Prints its Python.
#
#   tools/lerobot_environment.sh [FOLDER]
#   GYMNAST_LEROBOT_PYTHON=$(tools/lerobot_environment.sh) python -m pytest tests/test_lerobot.py tests/test_lerobot_plugins.py
#
# About 3 GB of disk and some minutes. A second call finds it whole, or goes on where the first was cut.
set -euo pipefail
VERSION=0.4.4
FOLDER=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/gymnast/lerobot-$VERSION}
if [ ! -e "$FOLDER/whole" ]; then
  {
    python3 -m venv "$FOLDER"
    PIP=("$FOLDER/bin/python" -m pip install --quiet --disable-pip-version-check)
    # Builds for processors alone, where there is an index of them; elsewhere the usual ones.
    "${PIP[@]}" torch==2.7.1 torchvision==0.22.1 --index-url "${GYMNAST_TORCH_INDEX:-https://download.pytorch.org/whl/cpu}" \
      || "${PIP[@]}" torch==2.7.1 torchvision==0.22.1
    "${PIP[@]}" "lerobot==$VERSION"
    # What the plug-ins need of gymnast, beside the versions that LeRobot asks for.
    "${PIP[@]}" gymnasium "mujoco>=3.2" "pydantic>=2.7" pyyaml scipy rich "tyro>=0.9.2" stamina tokenizers
    touch "$FOLDER/whole"
  } >&2
fi
echo "$FOLDER/bin/python"
