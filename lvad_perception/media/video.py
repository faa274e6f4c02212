"""Reads and writes video files frame by frame with PyAV (FFmpeg)."""

import contextlib
import logging
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import numpy as np

from lvad_perception.errors import ConfigError, ImageError, MissingDependencyError
from lvad_perception.files import draft
from lvad_perception.media.image_header import MOST_PIXELS
from lvad_perception.preprocess import letterbox_image
from lvad_perception.types import Size, UInt8

_LOG: Final = logging.getLogger(__name__)
_QUALITY: Final = {"crf": "21", "preset": "veryfast"}
_CLOCK_HZ: Final = 90_000  # time base of frames with explicit times, as in MPEG
_LENGTH_SHARE: Final = 0.95
_LENGTH_SLACK_S: Final = 1.0
"""A warning is logged where less than this share of the stated length minus the slack could be read: stated lengths are
rounded, and audio tracks may be longer."""
_LARGEST_DENOMINATOR: Final = 100_000  # of frame rates such as 30000/1001


def write_video(path: Path, frames: Iterable[UInt8], fps: float, *, times_ns: Iterable[int] | None = None) -> int:
    """Encode frames as H.264 (yuv420p, MP4), which browsers and players open, one by one.

    The first frame sets the size; frames of another size are letterboxed into it. Odd sides are padded by one pixel,
    since yuv420p subsamples chroma by two. The file appears under its name only when it is complete.

    Args:
        path: file to write, ending in .mp4; its folder is created.
        frames: uint8 [H, W, 3], RGB.
        fps: frames per second, > 0.
        times_ns: time of each frame in nanoseconds, ascending from 0; each is read after its frame. None for a constant
            rate of ``fps``.

    Returns:
        The number of frames written; without frames, no file is written.

    Raises:
        ConfigError: the frame rate is not positive.
        ImageError: the file cannot be written, or a frame is not uint8 RGB.
        MissingDependencyError: PyAV is not installed.
    """
    av = _pyav()
    if not fps > 0:
        raise ConfigError(f"a video of {fps} frames a second cannot be written; give a rate above 0")
    times = None if times_ns is None else iter(times_ns)
    with contextlib.ExitStack() as files:
        with _writing(av, path):
            temporary = files.enter_context(draft(path))
            container = av.open(_url(temporary), "w", format="mp4", options={"movflags": "faststart"})
        count = 0
        try:
            stream: Any = None
            for frame in frames:
                picture = _encodable(av, frame, None if stream is None else (stream.height, stream.width))
                if times is not None:
                    picture.pts, picture.time_base = round(next(times) * _CLOCK_HZ / 1e9), Fraction(1, _CLOCK_HZ)
                with _writing(av, path):
                    if stream is None:
                        stream = _add_stream(av, container, picture, fps, timed=times is not None)
                    container.mux(stream.encode(picture))
                count += 1
            with _writing(av, path):
                if stream is not None:
                    container.mux(stream.encode())
                container.close()
                if not count:
                    temporary.unlink(missing_ok=True)
                files.close()
        finally:
            with contextlib.suppress(OSError, av.error.FFmpegError):
                container.close()
    return count


def read_video(path: Path) -> Iterator[tuple[int, UInt8]]:
    """Decode a video of any format that FFmpeg reads, in constant memory.

    Damaged packets are skipped, and a warning states how many. A warning is also logged where the video ends before its
    stated length, which is not used otherwise. Frames are rotated as the file states. No other file or URL is opened.

    Yields:
        (stamp_ns, frame): time since the first frame in ns, as the file states it, and uint8 RGB [H, W, 3].

    Raises:
        ImageError: the file is missing or not a video. Raised with the first frame.
        MissingDependencyError: PyAV is not installed.
    """
    av = _pyav()
    if not path.is_file():
        raise ImageError(f"{path} is not a file; give the path of a video")
    try:
        container = av.open(_url(path), options={"protocol_whitelist": "file"})
    except (OSError, av.error.FFmpegError) as err:
        raise ImageError(
            f"{path} is not a video that FFmpeg can read ({err}); convert it to MP4 or replace it"
        ) from err
    with container:
        if not container.streams.video:
            raise ImageError(f"{path} has no video stream; give a file with pictures")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        stream.codec_context.options = {"max_pixels": str(MOST_PIXELS)}
        stated_s = _stated_length_s(container, stream)
        step_ns = round(1e9 / (stream.average_rate or 25))
        first_ns = last_ns = None
        for frame in _decoded(av, container, stream, path):
            stamp_ns = None if frame.pts is None else int(Fraction(frame.pts) * frame.time_base * 1_000_000_000)
            if stamp_ns is None or (last_ns is not None and stamp_ns <= last_ns):
                stamp_ns = 0 if last_ns is None else last_ns + step_ns  # missing or broken in some files
            first_ns = stamp_ns if first_ns is None else first_ns
            last_ns = stamp_ns
            image = frame.to_ndarray(format="rgb24")
            quarter_turns = round(getattr(frame, "rotation", 0) / 90) % 4
            yield stamp_ns - first_ns, np.ascontiguousarray(np.rot90(image, quarter_turns))
        read_s = 0.0 if first_ns is None or last_ns is None else (last_ns - first_ns + step_ns) / 1e9
        if stated_s is not None and read_s < _LENGTH_SHARE * stated_s - _LENGTH_SLACK_S:
            _LOG.warning(
                "%s: it states %.1f s and %.1f s could be read; if something is missing, copy it again",
                path,
                stated_s,
                read_s,
            )


def _url(path: Path) -> str:
    """A path as a URL for FFmpeg, which would take the part before a colon ("drive 12:30.mp4") for a protocol."""
    return f"file:{path}"


def _stated_length_s(container: Any, stream: Any) -> float | None:
    """The stated length of a video; None where it states none."""
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    return None if container.duration is None else container.duration / 1e6  # microseconds


def _decoded(av: Any, container: Any, stream: Any, path: Path) -> Iterator[Any]:
    """Frames of a stream; packets that cannot be decoded are skipped."""
    damaged = 0
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
            if packet is None:
                break
            frames = packet.decode()
        except av.error.FFmpegError:
            damaged += 1
            if damaged > 10_000:  # hardly a video
                break
            continue
        yield from frames
    if damaged:
        _LOG.warning("%s: damaged packets skipped: %d", path, damaged)


@contextlib.contextmanager
def _writing(av: Any, path: Path) -> Iterator[None]:
    """Translate errors of writing to ImageError; never wrapped around the caller's iterator of frames."""
    try:
        yield
    except (OSError, av.error.FFmpegError) as err:
        raise ImageError(
            f"{path} cannot be written ({err.strerror or err}); choose a writable folder with space and a name in .mp4"
        ) from err


def _add_stream(av: Any, container: Any, picture: Any, fps: float, *, timed: bool) -> Any:
    """An H.264 stream of the picture's size; ``timed`` frames have explicit times, others a constant rate."""
    stream = container.add_stream("libx264", Fraction(fps).limit_denominator(_LARGEST_DENOMINATOR), options=_QUALITY)
    stream.width, stream.height, stream.pix_fmt = picture.width, picture.height, picture.format.name
    if timed:
        stream.codec_context.time_base = Fraction(1, _CLOCK_HZ)
    # Otherwise players guess the colour matrix from the size.
    stream.codec_context.colorspace = av.video.reformatter.Colorspace.ITU709
    stream.codec_context.color_range = av.video.reformatter.ColorRange.MPEG
    return stream


def _encodable(av: Any, frame: UInt8, size_hw: Size | None) -> Any:
    """A frame as yuv420p of the given size; None keeps its own size, padded to even sides."""
    if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8 or frame.size == 0:
        raise ImageError(f"a frame of shape {frame.shape} and type {frame.dtype} is not uint8 RGB; convert it first")
    even_hw = (frame.shape[0] + frame.shape[0] % 2, frame.shape[1] + frame.shape[1] % 2)
    if size_hw is not None and even_hw != size_hw:
        frame, _ = letterbox_image(frame, size_hw)
    elif frame.shape[:2] != even_hw:
        frame = np.pad(frame, ((0, frame.shape[0] % 2), (0, frame.shape[1] % 2), (0, 0)), mode="edge")
    picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
    return picture.reformat(format="yuv420p", dst_colorspace="ITU709")


def _pyav() -> Any:
    try:
        import av
    except ImportError as err:
        raise MissingDependencyError("videos need PyAV; install it with pip install 'lvad_perception[video]'") from err
    return av
