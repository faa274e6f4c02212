"""One stage of a pipeline after another: a thread that finishes what the previous stage has begun."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class PipelineStage:
    """Does work in a thread of its own, in order, while the caller goes on with the next.

    At most one piece of work is under way: who hands over a second waits until the first is done, so that results
    never queue up, however slow their receivers are. Not thread-safe: one thread hands over.

    Args:
        thread_name: of the thread.
    """

    def __init__(self, thread_name: str) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=thread_name)
        self._pending: Future[None] | None = None

    def put(self, work: Callable[[], None]) -> None:
        """Wait for the previous work and have this done.

        Raises:
            Exception: what the previous work raised.
        """
        self._wait()
        self._pending = self._executor.submit(work)

    def close(self) -> None:
        """Wait for the last work and end the thread; calling it again does nothing.

        Raises:
            Exception: what the last work raised.
        """
        self._executor.shutdown()
        self._wait()

    def _wait(self) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()
