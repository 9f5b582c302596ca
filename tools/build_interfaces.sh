#!/usr/bin/env bash
# Build gymnast_msgs and interbotix_xs_msgs into .venv, so that whoever runs .venv/bin/python can import them.
# Called by tools/setup.sh; a workspace build of one's own (`cd ros2_ws && colcon build`) does not need it.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
venv="$root/.venv"
build="$venv/interfaces_build"
mkdir -p "$build"
source "$root/tools/env.sh"

cd "$build"
# COLCON_DEFAULTS_FILE: a personal defaults file must not change what is built here.
# event_handlers: progress on the console, the compiler's output only when a package fails.
COLCON_DEFAULTS_FILE=/dev/null PYTHONWARNINGS=ignore MAKEFLAGS="-j$(nproc)" python -m colcon --log-base "$build/log" build \
  --base-paths "$root/ros2_ws/src/gymnast_msgs" "$root/ros2_ws/src/interbotix_xs_msgs" \
  --build-base "$build/build" --install-base "$venv" --merge-install \
  --event-handlers console_start_end+ console_stderr- status- \
  --cmake-args -DPython3_EXECUTABLE="$venv/bin/python" -DBUILD_TESTING=OFF -Wno-dev --no-warn-unused-cli
