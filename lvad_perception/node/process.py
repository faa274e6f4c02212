"""What the executables share: an orderly end, and one sentence where they cannot start."""

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
_INSISTS_AFTER_S: Final = 1.0
"""A SIGINT so long after the first signal is a second Ctrl-C; sooner, ``ros2 launch`` has passed on the first."""


def run_until_signal(program: str, run: Callable[[threading.Event], int], *, status_at_once: int) -> int:
    """Run a program that ends soon after SIGINT or SIGTERM, and at once after a second Ctrl-C.

    rclpy's own signal handling raises KeyboardInterrupt wherever the main thread happens to be, a second time during
    the clean-up when a terminal and ``ros2 launch`` both pass on a Ctrl-C. Here a signal only sets an event.

    Args:
        program: its name, for messages.
        run: is handed the event; imports what needs ROS itself, which takes a second in which a signal must end the
            process as cleanly as later; returns the exit status.
        status_at_once: exit status after a second Ctrl-C, a second or more after the first signal.

    Returns:
        The exit status, ``STATUS_BAD_INPUT`` with one sentence on standard error when an import failed, OpenCV's or
        another.
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
    """Signals set ``stop`` while the block runs, and are ignored from then on.

    Python calls a handler in the main thread, between any two of its instructions: also where that thread, or the
    handler of the signal before, holds the event's own lock, for which the handler would then wait for ever. So the
    handlers do nothing. What a signal writes to the wake-up descriptor is read in a thread of its own.
    """
    reader, writer = socket.socketpair()
    writer.setblocking(False)

    def watch() -> None:
        first_s: float | None = None
        while received := reader.recv(64):  # numbers of signals; nothing when the other end is closed
            if first_s is None and set(received) & set(_SIGNALS):
                first_s = time.monotonic()
                stop.set()
            elif first_s is not None and signal.SIGINT in received and time.monotonic() - first_s >= _INSISTS_AFTER_S:
                os._exit(status_at_once)

    watching = threading.Thread(target=watch, name="signals", daemon=True)
    watching.start()
    signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    for number in _SIGNALS:
        signal.signal(number, _do_nothing)
    try:
        yield
    finally:
        # Python gives the handlers back while it ends; a second Ctrl-C then would still kill the process.
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        signal.set_wakeup_fd(-1)
        writer.close()
        watching.join()
        reader.close()


def _do_nothing(*_: object) -> None:
    """A handler that takes no lock; without one, Python writes nothing to the wake-up descriptor."""


def _init_ros(program: str, args: Sequence[str] | None) -> bool:
    """Initialise rclpy without its signal handlers; one sentence on standard error, and False, where it refuses."""
    import rclpy
    from rclpy.signals import SignalHandlerOptions

    try:
        rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    except Exception as err:  # rclpy has no public class for it
        print(
            f"{program}: ROS refuses to start ({_reason(err)}); correct the arguments after --ros-args", file=sys.stderr
        )
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
    except RuntimeError as err:  # of rclpy, as above
        print(
            f"{program}: ROS refuses the node ({_reason(err)}); correct what stands after --ros-args or, where SROS 2 "
            "is on, the enclave and its policy",
            file=sys.stderr,
        )
        rclpy.shutdown()
        return None


def _reason(err: Exception) -> str:
    """Of an error of rclpy's, without the places in ROS's sources that follow, in one line."""
    return " ".join(str(err).partition(", at ")[0].split())
