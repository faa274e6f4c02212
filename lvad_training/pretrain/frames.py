"""Training frames of a pretraining: images of a folder, and frames extracted once from videos."""

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from tqdm import tqdm

from lvad_perception.errors import ConfigError, DatasetError
from lvad_perception.files import write_whole
from lvad_perception.media.images import IMAGE_SUFFIXES
from lvad_perception.media.video import read_video
from lvad_perception.types import UInt8
from lvad_training.pretrain.recipe import FramesConfig
from lvad_training.training.processes import complete

IMAGES: Final = frozenset({*IMAGE_SUFFIXES, ".bmp", ".webp"})
VIDEOS: Final = frozenset({".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v"})
LABELS: Final = "labels"
"""Name of folders that hold masks in BDD100K's layout, and are skipped."""
_DONE: Final = "frames.json"
_JPEG_QUALITY: Final = 92


@dataclass(frozen=True, slots=True)
class Frame:
    """One training image.

    Attributes:
        name: path inside the data folder; of a video's frame, the video's path and the time in ms.
        path: the image file.
        sequence: its folder or video, to recognise frames of the same scene.
    """

    name: str
    path: Path
    sequence: str


def find_frames(
    config: FramesConfig,
    keep: Path,
    *,
    skip: Collection[Path] = (),
    process: int = 0,
    processes: int = 1,
    complete: Callable[[Iterable[object]], None] = complete,
    progress: bool = False,
) -> list[Frame]:
    """All frames, in the order of their names. Extracts the frames of videos that were not extracted before.

    Args:
        config: folder and selection of frames.
        keep: folder for the frames of videos; files in it, and in other such folders, are not taken as images.
        skip: further folders to skip, such as that of the run.
        process: index of this process; all processes call this function, with the same other arguments.
        processes: number of processes, which share the videos.
        complete: runs this process's share, one step per frame, and returns once all processes have run theirs.
        progress: show a progress bar.

    Raises:
        DatasetError: there are no frames.
        ImageError: a video cannot be decoded.
        ConfigError: frames of videos cannot be written.
    """
    root = Path(config.root)
    files = sorted(_files(root, config, skip={keep.resolve(), *(folder.resolve() for folder in skip)}))
    videos = [path for path in files if path.suffix.lower() in VIDEOS]
    part = tqdm(videos[process::processes], "frames of videos", unit="video", disable=not progress or not videos)
    complete(step for path in part for step in _extract(path, _folder(keep, path, config), config))
    frames = []
    for path in files:
        name = path.relative_to(root).as_posix() if path != root else path.name
        if path.suffix.lower() in IMAGES:
            frames.append(Frame(name, path, str(Path(name).parent)))
        else:
            folder = _folder(keep, path, config)
            stamps = json.loads((folder / _DONE).read_text(encoding="utf-8"))
            frames += [Frame(f"{name}@{stamp}", folder / _file(stamp), name) for stamp in stamps]
    if not frames:
        raise DatasetError(
            f"{root}: no image ({', '.join(sorted(IMAGES))}) or video ({', '.join(sorted(VIDEOS))}) "
            "is selected by data.only and data.exclude; give another folder with --data"
        )
    return frames


def _files(root: Path, config: FramesConfig, *, skip: set[Path]) -> Iterator[Path]:
    if root.is_file():
        if root.suffix.lower() not in VIDEOS:
            raise DatasetError(f"{root}: neither a folder nor a video; give a folder of images or videos with --data")
        yield root
        return
    if not root.is_dir():
        raise DatasetError(f"{root}: no such folder; give a folder of images or videos with --data")
    every = list(root.rglob("*"))
    skip = skip | {path.parent.resolve() for path in every if path.name == _DONE}
    skip = {folder for folder in skip if root.resolve() in folder.parents}  # the given folder itself is never skipped
    for path in every:
        inside = path.relative_to(root)
        hidden = any(part.startswith(".") or part == LABELS for part in inside.parts)
        if hidden or path.suffix.lower() not in IMAGES | VIDEOS or not path.is_file():
            continue
        if not skip.isdisjoint(path.resolve().parents):
            continue
        name = inside.as_posix()
        if not (config.exclude and name.startswith(config.exclude)) and (
            not config.only or name.startswith(config.only)
        ):
            yield path


def _folder(keep: Path, video: Path, config: FramesConfig) -> Path:
    """Folder of a video's frames; a changed file, rate or size has another folder."""
    status = video.stat()
    key = f"{video.resolve()} {status.st_size} {status.st_mtime_ns} {config.fps} {config.short_side_px}"
    return keep / f"{video.stem}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"


def _file(stamp_ms: int) -> str:
    return f"{stamp_ms:010d}.jpg"


def _extract(video: Path, folder: Path, config: FramesConfig) -> Iterator[None]:
    """Extract frames at the configured rate; yields for each frame of the video.

    The list of their times is written last; without it the extraction starts anew.
    """
    if (folder / _DONE).is_file():
        return
    stamps: list[int] = []
    next_ns = 0.0
    try:
        for stamp_ns, image in read_video(video):
            yield
            if stamp_ns < next_ns:
                continue
            next_ns = max(next_ns + 1e9 / config.fps, stamp_ns)
            stamps.append(stamp_ns // 1_000_000)
            write_whole(folder / _file(stamps[-1]), _encode(image, config.short_side_px))
        write_whole(folder / _DONE, json.dumps(stamps))
    except OSError as err:
        raise ConfigError(f"{folder}: frames cannot be kept ({err.strerror}); choose another data.frames") from err


def _encode(image: UInt8, short_side_px: int) -> bytes:
    height, width = image.shape[:2]
    scale = short_side_px / min(height, width)
    if scale < 1:
        size_wh = (max(1, round(width * scale)), max(1, round(height * scale)))
        image = np.asarray(cv2.resize(image, size_wh, interpolation=cv2.INTER_AREA), np.uint8)
    _, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    return data.tobytes()
