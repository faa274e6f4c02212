"""Encoded frames to time: synthetic ones, images of a folder, or images of a bag."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from lvad_perception.bags.error_log import ErrorLog
from lvad_perception.errors import BagError, DatasetError, ImageError, MessageError
from lvad_perception.media.images import decode_image, image_files
from lvad_perception.types import Size, UInt8

Decode = Callable[[], UInt8]
"""An encoded frame; calling it decodes to uint8 [H, W, 3] RGB."""


def synthetic_frames(size_hw: Size = (720, 1280)) -> Iterator[Decode]:
    """Endless JPEGs of coloured patches with noise, which decode about as slowly as road scenes."""
    random = np.random.default_rng(0)
    encoded = []
    for _ in range(8):
        coarse = random.integers(0, 256, (size_hw[0] // 40 + 1, size_hw[1] // 40 + 1, 3), np.uint8)
        image = cv2.resize(coarse, (size_hw[1], size_hw[0]), interpolation=cv2.INTER_CUBIC)
        image = cv2.add(image, random.integers(0, 12, image.shape, np.uint8))
        encoded.append(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes())
    return cycle([_decoder(data, "synthetic frame") for data in encoded])


def folder_frames(folder: Path) -> Iterator[Decode]:
    """The JPEG and PNG files of a folder, repeated endlessly. Raises DatasetError when there is none."""
    paths = image_files(folder)
    if not paths:
        raise DatasetError(f"{folder} has no .jpg or .png file; name a folder of images or a bag")

    def frames() -> Iterator[Decode]:
        for path in cycle(paths):
            try:
                yield _decoder(path.read_bytes(), str(path))
            except OSError as err:
                raise ImageError(f"{path} cannot be read ({err.strerror}); check its permissions") from err

    return frames()


def bag_frames(bag: Path) -> Iterator[Decode]:
    """The images of a bag's cameras, repeated endlessly; malformed ones are reported and left out. Raises BagError."""
    from lvad_perception.bags.cameras import find_cameras
    from lvad_perception.bags.frames import decode_frame
    from lvad_perception.bags.reader import open_bag

    errors: ErrorLog | None = ErrorLog()
    while True:
        usable = 0
        with open_bag(bag) as reader:
            cameras = {camera.topic: camera for camera in find_cameras(reader.connections, source=str(bag))}
            connections = [camera.connection for camera in cameras.values()]
            for connection, stamp_ns, raw in reader.messages(connections, errors=errors):
                camera = cameras[connection.topic]
                try:
                    decode_frame(reader, camera, stamp_ns, raw)
                except (BagError, MessageError, ImageError) as err:
                    if errors is not None:
                        errors.add(camera.topic, f"image stamped {stamp_ns} ns", err)
                    continue
                usable += 1
                yield partial(_image_of, decode_frame, reader, camera, stamp_ns, raw)
        errors = None  # the first pass has reported them
        if not usable:
            raise BagError(f"{bag} has no image that can be decoded; name another bag")


def _decoder(data: bytes, source: str) -> Decode:
    return partial(decode_image, data, source=source)


def _image_of(decode: Callable[..., Any], *message: Any) -> UInt8:
    image: UInt8 = decode(*message).image
    return image
