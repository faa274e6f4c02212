"""What the executables share: an orderly end, and one sentence where they cannot start."""

import signal
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final

from lvad_perception.errors import LvadError, MissingDependencyError
from lvad_perception.opencv import import_opencv

STATUS_BAD_INPUT: Final = 2
"""Exit status when an argument or parameter is impossible or a dependency is missing."""

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


def run_until_signal(program: str, run: Callable[[threading.Event], int]) -> int:
    """Run a program that ends soon after SIGINT or SIGTERM.

    rclpy's own signal handling raises KeyboardInterrupt wherever the main thread happens to be, a second time during
    the clean-up when a terminal and ``ros2 launch`` both pass on a Ctrl-C. Here a signal only sets an event.

    Args:
        program: its name, for messages.
        run: is handed the event; imports what needs ROS itself, which takes a second in which a signal must end the
            process as cleanly as later; returns the exit status.

    Returns:
        The exit status, ``STATUS_BAD_INPUT`` with one sentence on standard error when an import failed, OpenCV's or
        another.
    """
    stop = threading.Event()
    for number in _SIGNALS:
        signal.signal(number, lambda *_: stop.set())
    try:
        import_opencv()
        status = run(stop)
    except MissingDependencyError as err:
        print(f"{program}: {err}", file=sys.stderr)
        status = STATUS_BAD_INPUT
    except ImportError as err:
        print(
            f"{program}: {err.name} cannot be imported by {sys.executable} ({err}); source ROS 2 and activate the "
            "environment in which the package's dependencies are installed",
            file=sys.stderr,
        )
        status = STATUS_BAD_INPUT
    # Python gives the handlers back while it ends; a second Ctrl-C then would still kill the process.
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    return status


def _init_ros(program: str, args: Sequence[str] | None) -> bool:
    """Initialise rclpy without its signal handlers; one sentence on standard error, and False, where it refuses."""
    import rclpy
    from rclpy.signals import SignalHandlerOptions

    try:
        rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    except Exception as err:  # rclpy has no public class for it
        reason = str(err).partition(", at ")[0]
        print(f"{program}: ROS refuses to start ({reason}); correct the arguments after --ros-args", file=sys.stderr)
        return False
    return True


def open_node(program: str, args: Sequence[str] | None, make: Callable[[], Any]) -> Any | None:
    """Initialise rclpy and make a node; None, with one sentence for people, where either is refused.

    Args:
        program: its name, for messages.
        args: command line, ``sys.argv`` when None.
        make: makes the node.
    """
    import rclpy
    from rclpy.logging import get_logger

    if not _init_ros(program, args):
        return None
    try:
        return make()
    except LvadError as err:
        get_logger(program).fatal(str(err))
        rclpy.shutdown()
        return None
