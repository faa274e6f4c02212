"""What the tests of the node share: messages to send, topics to listen to, results to read; needs no ROS to import."""

import threading

import cv2
import numpy as np

TOPIC = "/camera/image_raw"


def raw_message(image, *, stamp_s=12, encoding="rgb8"):
    from lvad_perception.messages import image_to_message, make_header, ros_types

    header = make_header(stamp_s * 1_000_000_000 + 34, "camera_optical", types=ros_types())
    return image_to_message(image, header, encoding=encoding, types=ros_types())


def compressed_message(image, *, stamp_s=12, cut=None):
    from lvad_perception.messages import make_header, ros_types

    types = ros_types()
    data = cv2.imencode(".png", image[:, :, ::-1])[1][:cut]
    header = make_header(stamp_s * 1_000_000_000, "camera_optical", types=types)
    return types.CompressedImage(header=header, format="png", data=types.pack(data))


def trigger(node, transition):
    """Run a transition where ROS runs it, in the executor's thread, and return the name of its result."""
    done = threading.Event()
    future = node.executor.create_task(getattr(node, f"trigger_{transition}"))
    future.add_done_callback(lambda _: done.set())
    assert done.wait(10.0), f"{transition} did not end within 10 s"
    return future.result().name


def state_of(node):
    return node._state_machine.current_state[1]


def listen_to_all(robot, camera="camera"):
    from sensor_msgs.msg import Image
    from vision_msgs.msg import Detection2DArray

    return {
        "detections": robot.listen(f"/{camera}/detections", Detection2DArray),
        "segmentation": robot.listen(f"/{camera}/segmentation", Image),
        "segmentation/confidence": robot.listen(f"/{camera}/segmentation/confidence", Image),
        "drivable_area": robot.listen(f"/{camera}/drivable_area", Image),
        "overlay": robot.listen(f"/{camera}/overlay", Image),
    }


def mask_of(message):
    return np.frombuffer(message.data, np.uint8).reshape(message.height, message.width)
