#!/usr/bin/env bash
# Everything that `make demo` and `make test` need, on a fresh machine: system packages, .venv, torch, ROS 2 (the
# sourced one, or wheels), the interfaces. Each step is skipped when its result is there; when all are, this takes
# well under a second. Run it through `make setup`.
set -uo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$root" || exit 1
venv="$root/.venv"
python="$venv/bin/python"
stamp="$venv/setup.stamp"
torch_index="https://download.pytorch.org/whl/cpu"
steps=6
step=0
started=$SECONDS

say() { printf '\033[1m[setup %d/%d, %d:%02d]\033[0m %s\n' "$step" "$steps" $(((SECONDS - started) / 60)) $(((SECONDS - started) % 60)) "$1"; }
begin() {
  step=$((step + 1))
  say "$1"
}
# fail WHAT REMEDY: one line, and out.
fail() {
  printf '\033[31msetup failed:\033[0m %s; %s\n' "$1" "$2" >&2
  exit 1
}
# pip's own lines are the progress, shortened; those about what is there already, or needed by what is needed, are noise.
pip_install() {
  "$python" -m pip install --disable-pip-version-check "$@" 2>&1 |
    sed -u -E -e '/^(Requirement already|Looking in|Obtaining|  Preparing|  Checking if|  Building editable|  Created wheel|  Stored in|\[notice\]|WARNING: Location)/d' \
      -e '/^(Collecting|Processing) .*->/d' -e '/^ *Using cached/d' -e 's/^(.{150}).+/\1.../'
  return "${PIPESTATUS[0]}"
}
# Read once: a pipe into `grep -q` would end with ldconfig's broken pipe, which pipefail takes for "not found".
libraries="$(PATH="$PATH:/sbin:/usr/sbin" ldconfig -p 2>/dev/null)"
have_library() { [[ "$libraries" == *"	$1 "* ]]; }

# --- which ROS 2 ---------------------------------------------------------------------------------------------------
ros="wheels"
if [ -n "${ROS_DISTRO:-}" ] && [ "${GYMNAST_ROS:-}" != wheels ]; then
  ros="$ROS_DISTRO"
  case "$ros" in
    humble | jazzy) ;;
    *) echo "ROS 2 $ros is sourced: untested (Humble and Jazzy are what this is written for)" >&2 ;;
  esac
fi

# --- nothing to do? ------------------------------------------------------------------------------------------------
hash_of() { cat "$@" 2>/dev/null | sha256sum | cut -c1-16; }
interface_files=$(find ros2_ws/src/gymnast_msgs ros2_ws/src/interbotix_xs_msgs -type f | LC_ALL=C sort)
# shellcheck disable=SC2086 # one word a file, no spaces in their names
interface_hash="$(hash_of $interface_files)-$ros"
shared_files="$(ls launch robot_configs | sha256sum | cut -c1-8)" # linked into .venv one by one
package_hash="$(hash_of setup.py pyproject.toml tools/ros_wheels.txt tools/build_tools.txt tools/setup.sh tools/*.py ros2_ws/src/gymnast_nodes/setup.py)-$shared_files-$ros-$root"
if [ -x "$python" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$package_hash $interface_hash" ]; then
  exit 0
fi
echo "Setting up in $venv (ROS 2: $ros). The first time takes 5 to 15 minutes, most of it downloads."

# --- 1 system packages ---------------------------------------------------------------------------------------------
begin "system packages"
missing=()
command -v cmake >/dev/null || missing+=(cmake)
command -v g++ >/dev/null || missing+=(g++)
command -v make >/dev/null || missing+=(make)
have_library libGL.so.1 || missing+=(libgl1) # opencv-python
have_library libglib-2.0.so.0 || missing+=(libglib2.0-0)
have_library libEGL.so.1 || missing+=(libegl1) # rendering without a screen
have_library libEGL_mesa.so.0 || missing+=(libegl-mesa0)
have_library libOSMesa.so.8 || missing+=(libosmesa6)

in_range='import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))'
host_python=""
if [ "$ros" != wheels ]; then
  python3 -c 'import rclpy' 2>/dev/null || fail "ROS 2 $ros is sourced but python3 cannot import rclpy" "source it in a clean shell, or run with GYMNAST_ROS=wheels to use the wheels"
  host_python="$(python3 -c 'import sys; print(sys.executable)')"
else
  for candidate in python3 python3.12 python3.11 python3.13 python3.10; do
    if command -v "$candidate" >/dev/null && "$candidate" -c "$in_range" 2>/dev/null; then
      host_python="$("$candidate" -c 'import sys; print(sys.executable)')"
      break
    fi
  done
  [ -n "$host_python" ] || missing+=(python3)
fi
if [ -z "$host_python" ]; then
  missing+=(python3-venv python3-dev)
else
  version="$("$host_python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')"
  "$host_python" -c 'import ensurepip, venv' 2>/dev/null || missing+=("python$version-venv")
  "$host_python" -c 'import os, sys, sysconfig; sys.exit(not os.path.isfile(os.path.join(sysconfig.get_paths()["include"], "Python.h")))' || missing+=("python$version-dev")
fi
if [ ${#missing[@]} -gt 0 ]; then
  echo "missing: ${missing[*]}"
  sudo=""
  [ "$(id -u)" = 0 ] || sudo="sudo"
  command -v apt-get >/dev/null || fail "these are missing and this is no Debian or Ubuntu: ${missing[*]}" "install them with this system's package manager and run again"
  if [ -n "$sudo" ]; then
    command -v sudo >/dev/null || fail "these are missing and there is no sudo here: ${missing[*]}" "ask an administrator for \`apt-get install ${missing[*]}\`"
    echo "installing them needs administrator rights; sudo may ask for your password"
  fi
  $sudo apt-get update -qq || echo "apt-get update failed, going on with the package lists that are there" >&2
  # Newer releases renamed or dropped a few of these; what apt does not know is left out and checked by gymnast doctor.
  known=()
  for package in "${missing[@]}"; do
    if apt-cache show "$package" >/dev/null 2>&1; then
      known+=("$package")
    elif apt-cache show "${package}t64" >/dev/null 2>&1; then
      known+=("${package}t64")
    else
      echo "$package is not in this release's package lists, going on without it" >&2
    fi
  done
  if [ ${#known[@]} -gt 0 ]; then
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${known[@]}" ||
      fail "apt-get could not install ${known[*]}" "install them by hand and run again"
  fi
fi
if [ -z "$host_python" ]; then
  host_python="$(command -v python3)" || fail "no python3 after installing it" "install Python 3.10 to 3.13"
  "$host_python" -c "$in_range" || fail "$("$host_python" --version) is outside 3.10 to 3.13" "install one of these and run again"
fi
if [ "$ros" = wheels ] && [ "$(uname -m)" != x86_64 ]; then
  fail "there are ROS 2 wheels for x86-64 only, this machine is $(uname -m)" "install ROS 2 Humble or Jazzy and source its setup.bash first"
fi
for other in /opt/ros/jazzy /opt/ros/humble; do
  [ "$ros" = wheels ] && [ -d "$other" ] && echo "note: $other is installed but not sourced; the wheels are used. To use it: source $other/setup.bash, then run again"
done

# --- 2 virtual environment -----------------------------------------------------------------------------------------
begin "virtual environment ($("$host_python" --version))"
kind="$("$host_python" -c 'import sys; print("%d.%d" % sys.version_info[:2])') $ros"
if [ -x "$python" ] && ! "$python" -c '' 2>/dev/null; then
  fail "$venv/bin/python does not start (its Python was removed, or the folder was moved)" "remove $venv and run again"
fi
if [ -f "$venv/setup.kind" ] && [ "$(cat "$venv/setup.kind")" != "$kind" ]; then
  fail "$venv was made for Python and ROS '$(cat "$venv/setup.kind")', this shell has '$kind'" "use the shell it was made in, or remove $venv and run again"
fi
if [ ! -x "$python" ]; then
  options=()
  [ "$ros" = wheels ] || options=(--system-site-packages)
  "$host_python" -m venv "${options[@]}" "$venv" || fail "could not create $venv" "check the disk space and the rights of $root"
fi
echo "$kind" >"$venv/setup.kind"
# --report, used below, came with pip 22.2.
"$python" -c 'import pip, sys; sys.exit(tuple(map(int, pip.__version__.split(".")[:2])) < (22, 2))' ||
  pip_install -q --upgrade 'pip>=23.1' || fail "pip could not be updated" "check the connection to the package index"
available=$(df -Pk "$venv" | awk 'NR == 2 { print $4 }')
if ! "$python" -c 'import torch' 2>/dev/null && [ "${available:-99999999}" -lt 5000000 ]; then
  fail "only $((available / 1000)) MB free on the disk of $venv" "free 5 GB and run again"
fi

# --- 3 torch -------------------------------------------------------------------------------------------------------
begin "torch"
torch="torch==2.13.*"
if ! "$python" - "$torch" <<'PYTHON'
import sys
from importlib.metadata import PackageNotFoundError, version

try:
    sys.exit(not version("torch").startswith("2."))
except PackageNotFoundError:
    sys.exit(1)
PYTHON
then
  # Without an NVIDIA GPU the default build would bring gigabytes of CUDA libraries. Ask pip what it would take; only
  # where that is a CUDA build, add the public index of CPU builds, and only if it answers.
  extra=()
  if ! command -v nvidia-smi >/dev/null; then
    report="$venv/torch.json"
    if "$python" -m pip install --disable-pip-version-check -q --dry-run --no-deps --ignore-installed --report "$report" "$torch" >/dev/null 2>&1; then
      if "$python" - "$report" <<'PYTHON'
import json
import sys

(item,) = json.load(open(sys.argv[1], encoding="utf-8"))["install"]
needs = " ".join(item["metadata"].get("requires_dist", [])).lower()
sys.exit(0 if any(word in needs for word in ("nvidia-", "cuda-", "triton")) else 1)
PYTHON
      then
        want_cpu=1
      else
        want_cpu=0
      fi
    else
      want_cpu=1
    fi
    rm -f "$report"
    if [ "$want_cpu" = 1 ]; then
      if "$python" -c 'import sys, urllib.request; urllib.request.urlopen(sys.argv[1], timeout=15).read(1)' "$torch_index/torch/" 2>/dev/null; then
        extra=(--extra-index-url "$torch_index")
      else
        echo "the index of CPU builds ($torch_index) does not answer; taking the default build, several GB" >&2
      fi
    fi
  fi
  pip_install "${extra[@]}" "$torch" || fail "torch could not be installed" "check the connection to the package index, or install torch 2.x into $venv by hand and run again"
fi

# --- 4 Python packages ---------------------------------------------------------------------------------------------
begin "gymnast and its libraries"
requirements=(-r tools/build_tools.txt)
if [ "$ros" = wheels ]; then
  requirements+=(-r tools/ros_wheels.txt)
else
  # The apt message packages are compiled against NumPy 1; its arrays must stay the ones they know.
  requirements+=('numpy<2')
fi
pip_install "${requirements[@]}" || fail "the ROS and build packages could not be installed" "read pip's message above; a connection problem: run again"
# Editable and without isolation: the environment's own setuptools is the pinned one.
constraint=()
[ "$ros" = wheels ] || constraint=('numpy<2')
pip_install --no-build-isolation -e ".[full,dev]" "${constraint[@]}" ||
  fail "gymnast's libraries could not be installed" "read pip's message above; a connection problem: run again"
"$python" tools/register_packages.py || fail "the ROS packages could not be registered in $venv" "remove $venv and run again"

# --- 5 interfaces --------------------------------------------------------------------------------------------------
begin "ROS interfaces"
if [ "$(cat "$venv/interfaces.stamp" 2>/dev/null)" != "$interface_hash" ] || [ ! -d "$venv/share/gymnast_msgs" ]; then
  if [ "$ros" = wheels ]; then
    "$python" tools/mend_wheels.py || fail "the ROS wheels could not be mended for building" "remove $venv and run again"
  fi
  echo "building gymnast_msgs and interbotix_xs_msgs, once, 1 to 3 minutes"
  bash tools/build_interfaces.sh || fail "the ROS interfaces did not build" "see $venv/interfaces_build/log/latest_build for the compiler's messages"
  echo "$interface_hash" >"$venv/interfaces.stamp"
fi

# --- 6 check -------------------------------------------------------------------------------------------------------
begin "check"
# shellcheck source=tools/env.sh
source tools/env.sh
python -c 'import cv2, mujoco, torch, rclpy; import gymnast_core, gymnast_nodes; import gymnast_msgs.action, interbotix_xs_msgs.srv' ||
  fail "something installed above cannot be imported" "run \`gymnast doctor\`; if it stays, remove $venv and run again"
echo "$package_hash $interface_hash" >"$stamp"
say "done"
