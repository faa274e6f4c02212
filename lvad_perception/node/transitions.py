"""Transitions of a lifecycle node that say why they fail: rclpy swallows exceptions in them."""

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
        logger: of the node; is told in one sentence why it failed.
        action: what the transition does, for that sentence.
        work: does it; may raise anything.
        undo: leaves the node as it was before; None where there is no way back.

    Returns:
        SUCCESS; FAILURE, back in the former state, when what was begun could be undone; else ERROR, which leads to
        ``on_error``.
    """
    try:
        work()
        return TransitionCallbackReturn.SUCCESS
    except Exception as err:
        _say_failure(logger, action, err)
    if undo is None:
        return TransitionCallbackReturn.ERROR
    try:
        undo()
        return TransitionCallbackReturn.FAILURE
    except Exception as err:
        _say_failure(logger, f"undo {action}", err)
        return TransitionCallbackReturn.ERROR


def _say_failure(logger: RcutilsLogger, action: str, err: Exception) -> None:
    sentence = str(err) if isinstance(err, LvadError) else f"unexpected {type(err).__name__}: {err}"
    logger.error(f"cannot {action}: {sentence}")
    if not isinstance(err, LvadError):
        logger.debug("".join(traceback.format_exception(err)))
