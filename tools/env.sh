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

  # The wheels put their libraries into .venv/lib; with these variables set they need not restart the interpreter.
  if [ -n "$(find "$_gymnast_venv"/lib/python3*/site-packages -maxdepth 1 -name ros_wheels_bootstrapper.pth 2>/dev/null)" ]; then
    while IFS= read -r _gymnast_folder; do
      [ -z "$_gymnast_folder" ] || _gymnast_prepend LD_LIBRARY_PATH "$_gymnast_folder"
    done <<FOLDERS
$(find "$_gymnast_venv"/lib/python3*/site-packages -maxdepth 1 -type d -name 'ros_*.libs' 2>/dev/null)
FOLDERS
    _gymnast_prepend LD_LIBRARY_PATH "$_gymnast_venv/lib"
    _gymnast_prepend AMENT_PREFIX_PATH "$_gymnast_venv"
    _gymnast_prepend CMAKE_PREFIX_PATH "$_gymnast_venv"
    export _ROS_WHEELS_BOOTSTRAP_COMPLETE=1
  fi

  _gymnast_interfaces="$_gymnast_venv/interfaces"
  if [ -d "$_gymnast_interfaces/lib" ]; then
    _gymnast_prepend AMENT_PREFIX_PATH "$_gymnast_interfaces"
    _gymnast_prepend CMAKE_PREFIX_PATH "$_gymnast_interfaces"
    _gymnast_prepend LD_LIBRARY_PATH "$_gymnast_interfaces/lib"
    # ROS on Ubuntu installs Python code below local/lib/…/dist-packages, everything else below lib/…/site-packages.
    while IFS= read -r _gymnast_folder; do
      [ -z "$_gymnast_folder" ] || _gymnast_prepend PYTHONPATH "$_gymnast_folder"
    done <<FOLDERS
$(find "$_gymnast_interfaces" -maxdepth 4 -type d \( -name site-packages -o -name dist-packages \) 2>/dev/null)
FOLDERS
  else
    echo "tools/env.sh: the ROS interfaces are not built; run \`make setup\`" >&2
  fi
fi
unset _gymnast_tools _gymnast_root _gymnast_venv _gymnast_interfaces _gymnast_folder _gymnast_old
unset -f _gymnast_prepend
