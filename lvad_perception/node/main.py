"""The ``perception`` executable: runs the node until SIGINT or SIGTERM, then ends with exit status 0.

rclpy's own signal handling raises KeyboardInterrupt wherever the main thread happens to be, a second time during the
clean-up when a terminal and ``ros2 launch`` both pass on a Ctrl-C. Here a signal only sets an event that the main
thread waits for; the executor has a thread of its own.
"""

import os
import signal
import sys
import threading
from collections.abc import Sequence
from typing import Final

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
_GRACE_S: Final = 1.5
"""Time for the frame or callback in work to end and the model to be freed. A large model or a slow one can take longer,
and whoever stops a robot does not wait."""


def main(args: Sequence[str] | None = None) -> int:
    """Run the node in this process.

    Args:
        args: command line, ``sys.argv`` when None.

    Returns:
        The exit status: 0 after a signal, 2 when an argument or parameter is impossible or a dependency is missing,
        1 after an unexpected failure.
    """
    stop = threading.Event()
    for number in _SIGNALS:
        signal.signal(number, lambda *_: stop.set())
    try:
        status = _run(args, stop)
    except ImportError as err:
        print(
            f"perception: {err.name} cannot be imported by {sys.executable} ({err}); source ROS 2 and activate the "
            "environment in which the package's dependencies are installed",
            file=sys.stderr,
        )
        status = 2
    # Python gives the handlers back while it ends; a second Ctrl-C then would still kill the process.
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    return status


def _run(args: Sequence[str] | None, stop: threading.Event) -> int:
    # Imported now: this takes a second, and a signal in it must end the process as cleanly as later.
    import rclpy
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.logging import get_logger
    from rclpy.signals import SignalHandlerOptions

    from lvad_perception.errors import LvadError
    from lvad_perception.node.perception import PerceptionNode

    try:
        rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    except Exception as err:  # rclpy has no public class for it
        reason = str(err).partition(", at ")[0]
        print(f"perception: ROS refuses to start ({reason}); correct the arguments after --ros-args", file=sys.stderr)
        return 2
    try:
        node = PerceptionNode()
    except LvadError as err:
        get_logger("perception").fatal(str(err))
        rclpy.shutdown()
        return 2
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    failures: list[Exception] = []

    def spin() -> None:
        try:
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
    if closing.is_alive():  # deep in the model; there is nothing to save
        sys.stderr.flush()
        os._exit(1 if failures else 0)
    if failures:
        get_logger("perception").fatal(f"stopped by an unexpected {type(failures[0]).__name__}: {failures[0]}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
