#!/bin/bash
# Run the tests that need ROS 2, after `make ros-build`. Called by `make ros-test` with
#   ROS_SETUP  setup.bash of the ROS 2 installation
#   OVERLAY    local_setup.bash of the colcon build
#   VENV       virtual environment with the test dependencies
# and pytest's arguments.
set -eo pipefail
source "$ROS_SETUP"
source "$OVERLAY"
set -u
PATH="$(cd "$VENV" && pwd)/bin:$PATH"
export OMP_NUM_THREADS=1
exec python -m pytest test/system -m ros "$@"
