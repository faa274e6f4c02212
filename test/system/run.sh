#!/bin/bash
# Run the tests that need ROS 2: with ROS and the colcon-built package sourced, Python from the virtual environment.
# Needs ROS_SETUP and OVERLAY (files to source) and VENV (a folder); arguments go to pytest.
set -eo pipefail

source "$ROS_SETUP"
source "$OVERLAY"
# First on PATH, so that `ros2 launch` runs the node with it too (setup.cfg: #!/usr/bin/env python3).
PATH="$(realpath "$VENV")/bin:$PATH"
export PATH

if ! reason=$(python -c "import rclpy" 2>&1); then
    echo "ROS tests skipped: $(python --version) of $VENV cannot load rclpy of $ROS_SETUP" \
        "(${reason##*$'\n'}); rebuild it with that ROS's Python: make clean && rm -r $VENV && make setup"
    exit 0
fi

# Nobody else's nodes in these tests, nor these in anybody else's network.
if [ "$ROS_DISTRO" = humble ]; then
    export ROS_LOCALHOST_ONLY=1
else
    export ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST
fi
export ROS_DOMAIN_ID=$((1 + $$ % 100))
export OMP_NUM_THREADS=1
exec python -m pytest test/system -m ros "$@"
