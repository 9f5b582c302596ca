# Source this file (bash or zsh) to use gymnast from a shell: `source tools/env.sh`.
#
# It activates .venv and the interfaces that `make setup` built. With a ROS 2 sourced before, that ROS is used;
# without one, the ROS 2 wheels inside .venv are. Sourcing it twice does no harm.

if [ -n "${BASH_VERSION:-}" ]; then
  _gymnast_tools="${BASH_SOURCE[0]}"
elif [ -n "${ZSH_VERSION:-}" ]; then
  _gymnast_tools="${(%):-%x}"
else
  _gymnast_tools="tools/env.sh"
fi
_gymnast_root="$(cd "$(dirname "$_gymnast_tools")/.." && pwd)"
_gymnast_venv="$_gymnast_root/.venv"

# _gymnast_prepend VARIABLE FOLDER: put FOLDER first in a colon-separated variable, once.
_gymnast_prepend() {
  eval "_gymnast_old=\"\${$1:-}\""
  case ":$_gymnast_old:" in
    *":$2:"*) ;;
    *) eval "export $1=\"$2\${_gymnast_old:+:\$_gymnast_old}\"" ;;
  esac
}

if [ ! -x "$_gymnast_venv/bin/python" ]; then
  echo "tools/env.sh: $_gymnast_venv is missing; run \`make setup\` first" >&2
else
  export VIRTUAL_ENV="$_gymnast_venv"
  _gymnast_prepend PATH "$_gymnast_venv/bin"

  # Libraries and the ament index of the interfaces, and of the ROS 2 wheels where those are in use. The guard variable
  # saves each Python process the restart by which the wheels would set the library path themselves.
  if [ -n "$(find "$_gymnast_venv"/lib/python3*/site-packages -maxdepth 1 -name ros_wheels_bootstrapper.pth 2>/dev/null)" ]; then
    while IFS= read -r _gymnast_folder; do
      [ -z "$_gymnast_folder" ] || _gymnast_prepend LD_LIBRARY_PATH "$_gymnast_folder"
    done <<FOLDERS
$(find "$_gymnast_venv"/lib/python3*/site-packages -maxdepth 1 -type d -name 'ros_*.libs' 2>/dev/null)
FOLDERS
    export _ROS_WHEELS_BOOTSTRAP_COMPLETE=1
  fi
  _gymnast_prepend LD_LIBRARY_PATH "$_gymnast_venv/lib"
  _gymnast_prepend AMENT_PREFIX_PATH "$_gymnast_venv"
  _gymnast_prepend CMAKE_PREFIX_PATH "$_gymnast_venv"
  # ROS on Ubuntu installs Python packages below local/lib/python3.X/dist-packages of a prefix.
  while IFS= read -r _gymnast_folder; do
    [ -z "$_gymnast_folder" ] || _gymnast_prepend PYTHONPATH "$_gymnast_folder"
  done <<FOLDERS
$(find "$_gymnast_venv/local/lib" -maxdepth 2 -type d -name dist-packages 2>/dev/null)
FOLDERS
fi
unset _gymnast_tools _gymnast_root _gymnast_venv _gymnast_folder _gymnast_old
unset -f _gymnast_prepend
