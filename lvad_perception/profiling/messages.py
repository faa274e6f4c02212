"""The messages stage: a frame's results as serialized ROS messages, as the node publishes them."""

from functools import cache

from lvad_perception.errors import MissingDependencyError
from lvad_perception.messages import (
    Message,
    detections_to_message,
    make_header,
    mask_to_message,
    rosbags_types,
    rosbags_typestore,
)
from lvad_perception.types import Predictions


@cache
def unavailable() -> str:
    """Why messages cannot be built, when rosbags is missing; empty when it is installed."""
    try:
        rosbags_types()
    except MissingDependencyError as err:
        return str(err)
    return ""


def publish(predictions: Predictions, index: int) -> None:
    """Build and serialize the messages of one frame; does nothing where they are ``unavailable``."""
    if unavailable():
        return
    types, store = rosbags_types(), rosbags_typestore()
    header = make_header(index, "camera", types=types)
    messages: list[Message] = []
    if predictions.detections is not None:
        messages.append(detections_to_message(predictions.detections, header, types=types))
    for mask in (predictions.semantic, predictions.drivable):
        if mask is not None:
            messages.append(mask_to_message(mask, header, types=types))
    for msg in messages:
        store.serialize_cdr(msg, msg.__msgtype__)
