"""Start and end of the executables: signals end them in order, and a failed start is one sentence on standard error.

Threads: *main* runs the program; *signals* reads the numbers of received signals from a socket pair and sets the
program's ``stop`` event, or ends the process. It shares only that event with main and ends when the socket is closed.
"""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from lvad_perception.errors import LvadError, MissingDependencyError
from lvad_perception.media.opencv import import_opencv

STATUS_BAD_INPUT: Final = 2
"""Exit status when an argument or parameter is impossible or a dependency is missing."""

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
_SECOND_AFTER_S: Final = 1.0
"""A SIGINT this long after the first signal is a second Ctrl-C; an earlier one is the first, forwarded by
``ros2 launch``."""


def run_until_signal(program: str, run: Callable[[threading.Event], int], *, status_at_once: int) -> int:
    """Run a program that ends soon after SIGINT or SIGTERM, and at once after a second Ctrl-C.

    rclpy's own signal handling raises KeyboardInterrupt at any point of the main thread, and again during the clean-up
    when a terminal and ``ros2 launch`` both forward a Ctrl-C. Here a signal only sets an event.

    Args:
        program: its name, for messages.
        run: the program; ends when its argument, the event, is set, and returns the exit status. It imports ROS itself:
            that takes a second, in which a signal must end the process just as cleanly.
        status_at_once: exit status after a second Ctrl-C, ``_SECOND_AFTER_S`` or more after the first signal.

    Returns:
        The program's exit status, or ``STATUS_BAD_INPUT`` with one sentence on standard error when an import failed.
    """
    stop = threading.Event()
    with _signals_set(stop, status_at_once):
        try:
            import_opencv()
            return run(stop)
        except MissingDependencyError as err:
            print(f"{program}: {err}", file=sys.stderr)
        except ImportError as err:
            print(
                f"{program}: {err.name} cannot be imported by {sys.executable} ({err}); source ROS 2 and activate the "
                "environment in which the package's dependencies are installed",
                file=sys.stderr,
            )
    return STATUS_BAD_INPUT


@contextmanager
def _signals_set(stop: threading.Event, status_at_once: int) -> Iterator[None]:
    """Let signals set ``stop`` while the block runs, and ignore them afterwards.

    Python runs a handler in the main thread between any two instructions, even while that thread or the handler of an
    earlier signal holds the event's lock; setting the event there could deadlock. So the handlers do nothing, and a
    thread reads the signal numbers that Python writes to the wake-up descriptor.
    """
    reader, writer = socket.socketpair()
    writer.setblocking(False)

    def watch() -> None:
        first_s: float | None = None
        while received := reader.recv(64):  # signal numbers; empty when the other end is closed
            if first_s is None and set(received) & set(_SIGNALS):
                first_s = time.monotonic()
                stop.set()
            elif first_s is not None and signal.SIGINT in received and time.monotonic() - first_s >= _SECOND_AFTER_S:
                os._exit(status_at_once)

    watching = threading.Thread(target=watch, name="signals", daemon=True)
    watching.start()
    signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    for number in _SIGNALS:
        signal.signal(number, _do_nothing)
    try:
        yield
    finally:
        # Python restores the default handlers while it ends, and a second Ctrl-C would then still kill the process.
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        signal.set_wakeup_fd(-1)
        writer.close()
        watching.join()
        reader.close()


def _do_nothing(*_: object) -> None:
    """A handler that takes no lock; without any handler Python writes nothing to the wake-up descriptor."""


def _init_ros(program: str, args: Sequence[str] | None) -> bool:
    """Initialise rclpy without its signal handlers; False, with one sentence on standard error, if that fails."""
    import rclpy
    from rclpy.signals import SignalHandlerOptions

    try:
        rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    except Exception as err:  # rclpy has no public exception class for this
        print(
            f"{program}: ROS refuses to start ({_reason(err)}); correct the arguments after --ros-args", file=sys.stderr
        )
        return False
    return True


def open_node(program: str, args: Sequence[str] | None, make: Callable[[], Any]) -> Any | None:
    """Initialise rclpy and make a node.

    Args:
        program: its name, for messages.
        args: command line, ``sys.argv`` when None.
        make: makes the node.

    Returns:
        The node, or None, after one sentence on standard error, if ROS or the node refuses.
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
    except RuntimeError as err:  # of rclpy, as above
        print(
            f"{program}: ROS refuses the node ({_reason(err)}); correct what stands after --ros-args or, where SROS 2 "
            "is on, the enclave and its policy",
            file=sys.stderr,
        )
        rclpy.shutdown()
        return None


def _reason(err: Exception) -> str:
    """The message of an rclpy error in one line, without the source locations that follow it."""
    return " ".join(str(err).partition(", at ")[0].split())
