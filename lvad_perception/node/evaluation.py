"""The ``evaluation`` executable: prints and writes the metrics of a played bag when it ends.

The main thread spins the node; the *signals* thread of ``process.py`` sets ``stop``.
"""

import json
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from lvad_perception.command_line import STATUS_INTERRUPTED
from lvad_perception.errors import ConfigError, LvadError
from lvad_perception.files import write_whole
from lvad_perception.node.process import STATUS_BAD_INPUT, open_node, run_until_signal

if TYPE_CHECKING:
    from lvad_perception.metrics import Metrics

STATUS_NOTHING: Final = 1
"""Exit status when there is nothing to measure."""


def main(args: Sequence[str] | None = None) -> int:
    """Evaluate until the bag ends, or until SIGINT or SIGTERM; print the table and write the JSON.

    Args:
        args: command line, ``sys.argv`` when None.

    Returns:
        The exit status: 0 with metrics, 1 when nothing could be paired, 2 when an argument is impossible or a
        dependency is missing, 130 (without metrics) after a second Ctrl-C.
    """
    return run_until_signal("evaluation", lambda stop: _run(args, stop), status_at_once=STATUS_INTERRUPTED)


def _run(args: Sequence[str] | None, stop: threading.Event) -> int:
    import rclpy
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.logging import get_logger

    from lvad_perception.node.evaluation_node import EvaluationNode

    node = open_node("evaluation", args, EvaluationNode)
    if node is None:
        return STATUS_BAD_INPUT
    logger = get_logger("evaluation")
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        while not (stop.is_set() or node.done):
            executor.spin_once(timeout_sec=0.1)
        metrics = node.finish()
        if not node.done:
            logger.warning("ended before the bag; these are the numbers so far")
        print(metrics.to_text(), flush=True)
        _write_json(node.json_file, metrics)
    except LvadError as err:
        logger.fatal(str(err))
        return STATUS_BAD_INPUT if isinstance(err, ConfigError) else STATUS_NOTHING
    finally:
        executor.shutdown()
        node.destroy_node()
        rclpy.shutdown()
    return 0


def _write_json(name: str, metrics: "Metrics") -> None:
    if not name:
        return
    path = Path(name).expanduser()
    try:
        write_whole(path, json.dumps(metrics.to_dict(), indent=2) + "\n")
    except OSError as err:
        raise ConfigError(f"{path} cannot be written ({err.strerror}); choose another file for json") from err


if __name__ == "__main__":
    sys.exit(main())
