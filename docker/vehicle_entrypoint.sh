#!/bin/bash
# Run a command with ROS and the package sourced; the virtual environment is already on PATH.
set -e
source "/opt/ros/$ROS_DISTRO/setup.bash" --
source /opt/lvad/local_setup.bash --
exec "$@"
