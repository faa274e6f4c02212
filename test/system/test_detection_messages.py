"""Detection messages from parts that are used again."""

import numpy as np
import pytest

from lvad_perception.types import Detections
from lvad_perception.vocabulary import DETECTION


def random_detections(count):
    random = np.random.default_rng(count)
    corners = np.sort(random.uniform(0, 700, (count, 2, 2)), axis=1).reshape(count, 4).astype(np.float32)
    scores = np.sort(random.random(count, np.float32))[::-1]
    return Detections(corners, scores, random.integers(0, 10, count, np.int32))


@pytest.fixture
def types(ros_environment):
    from lvad_perception.messages import ros_types

    return ros_types()


def test_a_reused_builder_makes_what_a_new_one_makes(types):
    from lvad_perception.messages import DetectionMessages, detections_to_message, make_header

    reused = DetectionMessages(DETECTION.names, types)
    for count in (3, 0, 7, 2, 7):
        header, detections = make_header(count * 10**9, "front", types=types), random_detections(count)
        message = reused.build(detections, header)
        assert message == detections_to_message(detections, header, types=types)
        assert len(message.detections) == count
        assert all(detection.header is header for detection in message.detections)


def test_they_survive_the_wire(types):
    from rclpy.serialization import deserialize_message, serialize_message

    from lvad_perception.messages import DetectionMessages, detections_from_message, make_header

    reused = DetectionMessages(DETECTION.names, types)
    first, second = random_detections(5), random_detections(4)
    header = make_header(1, "front", types=types)
    wires = [serialize_message(reused.build(detections, header)) for detections in (first, second)]
    for wire, detections in zip(wires, (first, second), strict=True):
        back = detections_from_message(deserialize_message(wire, types.Detection2DArray))
        np.testing.assert_allclose(back.boxes_xyxy, detections.boxes_xyxy, rtol=0, atol=1e-9)
        np.testing.assert_array_equal(back.labels, detections.labels)
        np.testing.assert_array_equal(back.scores, detections.scores)
