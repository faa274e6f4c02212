"""The ``perception`` executable: runs the node until SIGINT or SIGTERM, then ends with exit status 0.

    ros2 run lvad_perception perception [--activate] [--ros-args ...]
    lvad-perception-node [--activate] [--ros-args ...]

With ``--activate`` the node configures and activates itself, and the process ends if that fails; otherwise it waits for
a life cycle manager. A second Ctrl-C ends the process at once.

Threads: *main* only waits for ``stop``; *executor* spins the node and sets ``stop`` when it ends, whatever the reason;
*signals* (``process.py``) sets ``stop`` at a signal; *closing* frees the node once the executor's thread has ended, for
at most ``_GRACE_S``. ``failures`` and ``refused`` are written by executor and closing and read by main after both.
"""

import os
import sys
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from lvad_perception.node.process import STATUS_BAD_INPUT, open_node, run_until_signal

if TYPE_CHECKING:
    from lvad_perception.node.perception import PerceptionNode

_GRACE_S: Final = 1.5
"""Time for the current frame or callback to end and the model to be freed. A large or slow model can take longer; the
process then ends without, as a robot must stop promptly."""


def main(args: Sequence[str] | None = None) -> int:
    """Run the node in this process.

    Args:
        args: command line, ``sys.argv`` when None.

    Returns:
        The exit status: 0 after a signal; 1 after an unexpected failure or a failed ``--activate``, as the node's last
        message says; 2 when an argument or parameter is impossible or a dependency is missing.
    """
    return run_until_signal("perception", lambda stop: _run(args, stop), status_at_once=0)


def _run(args: Sequence[str] | None, stop: threading.Event) -> int:
    import rclpy
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.logging import get_logger
    from rclpy.utilities import remove_ros_args

    from lvad_perception.node.perception import PerceptionNode

    if stop.is_set():  # during the imports
        return 0
    node = open_node("perception", args, PerceptionNode)
    if node is None:
        return STATUS_BAD_INPUT
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    to_activate = "--activate" in remove_ros_args(sys.argv if args is None else args)
    failures: list[Exception] = []
    refused = threading.Event()

    def spin() -> None:
        try:
            if to_activate and not _activate(node, stop):
                refused.set()
                return
            while not stop.is_set():
                executor.spin_once()
        except Exception as err:
            failures.append(err)
        finally:
            stop.set()

    spinning = threading.Thread(target=spin, name="executor", daemon=True)
    spinning.start()
    stop.wait()
    executor.wake()

    def close() -> None:
        try:
            spinning.join()
            node.close()
            executor.shutdown()
            node.destroy_node()
            rclpy.shutdown()
        except Exception as err:
            failures.append(err)

    closing = threading.Thread(target=close, name="closing", daemon=True)
    closing.start()
    closing.join(_GRACE_S)
    if closing.is_alive():  # still computing in the model; there is no state to save
        sys.stderr.flush()
        os._exit(1 if failures or refused.is_set() else 0)
    if failures:
        get_logger("perception").fatal(f"stopped by an unexpected {type(failures[0]).__name__}: {failures[0]}")
        return 1
    return int(refused.is_set())


def _activate(node: "PerceptionNode", stop: threading.Event) -> bool:
    """Configure and activate a node, unless a signal comes first; False if a transition failed, which it has logged."""
    from rclpy.lifecycle import TransitionCallbackReturn

    return all(
        stop.is_set() or transition() == TransitionCallbackReturn.SUCCESS
        for transition in (node.trigger_configure, node.trigger_activate)
    )


if __name__ == "__main__":
    sys.exit(main())
