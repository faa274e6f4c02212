"""Images of a bag as decoded frames."""

from dataclasses import dataclass

from lvad_perception.bags.cameras import Camera
from lvad_perception.bags.reader import BagReader
from lvad_perception.errors import ImageError
from lvad_perception.media.images import jpeg_damage
from lvad_perception.messages import Message, image_from_compressed, image_from_message
from lvad_perception.types import UInt8


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One image of a bag.

    Attributes:
        camera: its camera.
        header: header of its message.
        stamp_ns: the bag's time stamp of the message.
        image: uint8 [H, W, 3], RGB, read-only.
    """

    camera: Camera
    header: Message
    stamp_ns: int
    image: UInt8


def decode_frame(reader: BagReader, camera: Camera, bag_stamp_ns: int, raw: bytes) -> Frame:
    """Decode an image message. Raises BagError, MessageError or ImageError when it is malformed."""
    msg = reader.deserialize(raw, camera.connection)
    return Frame(camera, msg.header, bag_stamp_ns, decode_message(msg, compressed=camera.compressed))


def decode_message(msg: Message, *, compressed: bool) -> UInt8:
    """Pixels of an undamaged image message, uint8 [H, W, 3], RGB.

    Raises:
        MessageError: as ``image_from_message`` and ``image_from_compressed``.
        ImageError: as ``image_from_compressed``, and for a JPEG with damaged data.
    """
    if not compressed:
        return image_from_message(msg)
    image = image_from_compressed(msg)
    damage = jpeg_damage(bytes(msg.data))
    if damage is not None:
        raise ImageError(f"compressed image ({msg.format or 'no format given'}) is damaged: {damage}; record it again")
    return image
