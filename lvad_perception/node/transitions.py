"""Lifecycle transitions that log why they fail; rclpy alone swallows their exceptions."""

import traceback
from collections.abc import Callable

from rclpy.impl.rcutils_logger import RcutilsLogger
from rclpy.lifecycle import TransitionCallbackReturn

from lvad_perception.errors import LvadError


def attempt(
    logger: RcutilsLogger, action: str, work: Callable[[], None], *, undo: Callable[[], None] | None = None
) -> TransitionCallbackReturn:
    """Run a transition.

    Args:
        logger: of the node; gets one sentence with the reason of a failure.
        action: verb of the transition for that sentence, such as "configure".
        work: does the transition; may raise anything.
        undo: restores the state before ``work``; None where that is impossible.

    Returns:
        SUCCESS; FAILURE if ``work`` failed and was undone, so that the node stays in its previous state; else ERROR,
        after which rclpy calls ``on_error``.
    """
    try:
        work()
        return TransitionCallbackReturn.SUCCESS
    except Exception as err:
        _log_failure(logger, action, err)
    if undo is None:
        return TransitionCallbackReturn.ERROR
    try:
        undo()
        return TransitionCallbackReturn.FAILURE
    except Exception as err:
        _log_failure(logger, f"undo {action}", err)
        return TransitionCallbackReturn.ERROR


def _log_failure(logger: RcutilsLogger, action: str, err: Exception) -> None:
    sentence = str(err) if isinstance(err, LvadError) else f"unexpected {type(err).__name__}: {err}"
    logger.error(f"cannot {action}: {sentence}")
    if not isinstance(err, LvadError):
        logger.debug("".join(traceback.format_exception(err)))
