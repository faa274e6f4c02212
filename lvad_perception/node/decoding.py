"""Image messages -> RGB pixels, in the node."""

from lvad_perception.messages import Message, image_from_compressed, image_from_message
from lvad_perception.types import UInt8


def decode(message: Message) -> UInt8:
    """Pixels of a ``sensor_msgs/Image`` or ``sensor_msgs/CompressedImage``.

    Returns:
        uint8 [H, W, 3], RGB. It may share the message's memory: do not write to it.

    Raises:
        MessageError: the encoding is unknown, or size, step and data do not fit together.
        ImageError: compressed bytes are empty, truncated or not an image.
    """
    if hasattr(message, "encoding"):
        return image_from_message(message)
    return image_from_compressed(message)
