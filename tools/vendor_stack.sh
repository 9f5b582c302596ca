#!/usr/bin/env bash
# Make the arm vendor's Python API importable from checkouts that you have (docs/how-to/vendor_stack.md):
#
#   tools/vendor_stack.sh FOLDER        # FOLDER holds interbotix_ros_toolboxes
#   source FOLDER/env.sh
#
# For a machine with the ROS 2 wheels. Where the vendor's workspace is built with colcon, source that instead.
set -euo pipefail

folder="$(cd "${1:?usage: tools/vendor_stack.sh FOLDER}" && pwd)"
toolboxes="$folder/interbotix_ros_toolboxes"
modules="$toolboxes/interbotix_xs_toolbox/interbotix_xs_modules"
common="$toolboxes/interbotix_common_toolbox/interbotix_common_modules"
for needed in "$modules/interbotix_xs_modules" "$common/interbotix_common_modules"; do
  if [ ! -d "$needed" ]; then
    echo "vendor_stack.sh: $needed is missing; clone interbotix_ros_toolboxes (branch jazzy) into $folder" >&2
    exit 2
  fi
done

site="$folder/site"
python -m pip install --quiet --no-deps --upgrade --target "$site" \
  modern-robotics urdf-parser-py xacro transforms3d

# tf_transformations is a ROS package, not on the wheels: the four functions of it that the API uses, over transforms3d,
# which puts w first in a quaternion where ROS puts it last.
cat > "$site/tf_transformations.py" <<'PYTHON'
import numpy
from transforms3d import euler as _euler


def euler_matrix(ai, aj, ak, axes="sxyz"):
    matrix = numpy.eye(4)
    matrix[:3, :3] = _euler.euler2mat(ai, aj, ak, axes)
    return matrix


def euler_from_matrix(matrix, axes="sxyz"):
    return _euler.mat2euler(numpy.asarray(matrix)[:3, :3], axes)


def quaternion_from_euler(ai, aj, ak, axes="sxyz"):
    w, x, y, z = _euler.euler2quat(ai, aj, ak, axes)
    return numpy.array([x, y, z, w])


def euler_from_quaternion(quaternion, axes="sxyz"):
    x, y, z, w = quaternion
    return _euler.quat2euler([w, x, y, z], axes)
PYTHON

cat > "$folder/env.sh" <<SHELL
export PYTHONPATH="$site:$modules:$common:\${PYTHONPATH:-}"
SHELL

PYTHONPATH="$site:$modules:$common:${PYTHONPATH:-}" python -c \
  "from interbotix_xs_modules.xs_robot.arm import InterbotixManipulatorXS; print(InterbotixManipulatorXS.__module__)"
echo "now: source $folder/env.sh"
