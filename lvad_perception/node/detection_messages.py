"""Detection2DArray messages from parts that are made once.

A ROS message's constructor first makes a default for every field, and so on down, which for a hundred boxes takes
longer than to publish them: covariances of 36 numbers that nobody looks at. Setting fields of parts that exist is an
order of magnitude less work.
"""

from collections.abc import Sequence
from typing import Any

from lvad_perception.messages import Message, MessageTypes, boxes_to_centers
from lvad_perception.types import Detections


class DetectionMessages:
    """Builds what ``messages.detections_to_message`` builds; for one thread at a time.

    Args:
        names: the model's classes of objects, in id order.
        types: ROS's message classes.
    """

    def __init__(self, names: Sequence[str], types: MessageTypes) -> None:
        self._names = names
        self._types = types
        self._parts: list[tuple[Any, Any, Any, Any]] = []  # detection, its box, the box's centre, its hypothesis

    def build(self, detections: Detections, header: Message) -> Message:
        """Detections as ``vision_msgs/Detection2DArray``: one hypothesis a box, its ``class_id`` the class name.

        Args:
            detections: in the pixels that the message shall have.
            header: the source image's; the array and every detection carry it as it is.

        Returns:
            A message that the next call changes; publish or serialise it before.
        """
        while len(self._parts) < len(detections):
            self._parts.append(self._make_part())
        rows = boxes_to_centers(detections.boxes_xyxy).tolist()
        parts = self._parts[: len(detections)]
        for (detection, box, center, hypothesis), row, label, score in zip(
            parts, rows, detections.labels.tolist(), detections.scores.tolist(), strict=True
        ):
            detection.header = header
            center.x, center.y, box.size_x, box.size_y = row
            hypothesis.class_id = self._names[label]
            hypothesis.score = score
        return self._types.Detection2DArray(header=header, detections=[part[0] for part in parts])

    def _make_part(self) -> tuple[Any, Any, Any, Any]:
        types = self._types
        hypothesis = types.ObjectHypothesis()
        center = types.Point2D()
        box = types.BoundingBox2D(center=types.Pose2D(position=center))
        results = [types.ObjectHypothesisWithPose(hypothesis=hypothesis, pose=types.no_pose)]
        return types.Detection2D(results=results, bbox=box), box, center, hypothesis
