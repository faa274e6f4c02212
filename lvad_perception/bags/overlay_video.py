"""The overlay video of a replay: images of a camera with predictions, at the times of their stamps."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

from lvad_perception.bags.cameras import Camera
from lvad_perception.bags.frames import Frame
from lvad_perception.messages import stamp_ns
from lvad_perception.types import Predictions, UInt8
from lvad_perception.vocabulary import Vocabulary

LONGEST_SHOWN_NS: Final = 1_000_000_000
"""Maximum time that a frame is shown; pauses in or between recordings are cut to it."""
_UNKNOWN_STEP_NS: Final = 100_000_000


def write_overlay_video(
    path: Path,
    results: Iterator[tuple[Frame, Predictions]],
    camera: Camera,
    *,
    score_threshold: float,
    vocabularies: Mapping[str, Vocabulary],
) -> None:
    """Write a video of one camera; all ``results`` are consumed, those of other cameras too.

    Args:
        path: video file.
        results: frames and their predictions.
        camera: the camera to show.
        score_threshold: minimum score of the boxes drawn.
        vocabularies: classes by task.
    """
    from lvad_perception.media.overlay import draw_predictions
    from lvad_perception.media.video import write_video

    times: deque[int] = deque()

    def drawn() -> Iterator[UInt8]:
        clock = video_clock()
        for frame, predictions in results:
            if frame.camera is camera:
                times.append(clock(stamp_ns(frame.header) or frame.stamp_ns))
                yield draw_predictions(
                    frame.image, predictions, score_threshold=score_threshold, vocabularies=vocabularies
                )

    write_video(path, drawn(), 1e9 / _UNKNOWN_STEP_NS, times_ns=iter(times.popleft, None))
    for _ in results:  # a video writer may stop early
        pass


def video_clock() -> Callable[[int], int]:
    """A function that maps the stamps of successive frames to the times at which a video shows them.

    Times are nanoseconds from 0 on. They advance as the stamps do, except that pauses are cut to ``LONGEST_SHOWN_NS``,
    and that a frame whose stamp repeats or goes back is shown one step after the frame before it.
    """
    last_ns = time_ns = 0
    step_ns = _UNKNOWN_STEP_NS
    first = True

    def shown_at(stamp: int) -> int:
        nonlocal last_ns, time_ns, step_ns, first
        if not first:
            if stamp > last_ns:
                step_ns = min(stamp - last_ns, LONGEST_SHOWN_NS)
            time_ns += step_ns
        first, last_ns = False, stamp
        return time_ns

    return shown_at
