#!/bin/bash
# Run the tests that need ROS 2, after `make ros-build`. Called by `make ros-test` with
#   ROS_SETUP         setup.bash of the ROS 2 installation
#   OVERLAY           local_setup.bash of the colcon build
#   VENV              virtual environment with the test dependencies
#   LVAD_REQUIRE_ROS  set, and not 0: what cannot run is an error
# and pytest's arguments.
set -eo pipefail
built_for=$(basename "$(dirname "$ROS_SETUP")"/lib/python3.*)
python=$("$VENV/bin/python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
if [[ "$built_for" == python3.[0-9]* && "$built_for" != "$python" ]]; then
  reason="$ROS_SETUP is of $built_for and $VENV of $python; make ros-test PYTHON=$built_for VENV=.venv-ros"
  if [[ "${LVAD_REQUIRE_ROS:-0}" != 0 ]]; then
    echo "LVAD_REQUIRE_ROS is set, but $reason" >&2
    exit 2
  fi
  echo "ROS tests skipped: $reason"
  exit 0
fi
source "$ROS_SETUP"
source "$OVERLAY"
set -u
PATH="$(cd "$VENV" && pwd)/bin:$PATH"
export OMP_NUM_THREADS=1
exec python -m pytest test/system -m ros "$@"
