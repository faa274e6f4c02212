"""Helpers of the node's tests: messages to send, topics to listen to, results to read; importable without ROS."""

import struct
import threading
import zlib

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
    """Run a transition in the executor's thread, as ROS does; returns the name of its result."""
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


def bomb_png(width=65_500, height=65_500):
    """A PNG of some kilobytes that declares 4.3 gigapixels."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(10_000_000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def bomb_jpeg(width=65_500, height=65_500):
    """A small JPEG that declares 4.3 gigapixels."""
    jpeg = cv2.imencode(".jpg", np.zeros((16, 16, 3), np.uint8))[1].tobytes()
    at = jpeg.index(b"\xff\xc0")
    return jpeg[: at + 5] + struct.pack(">HH", height, width) + jpeg[at + 9 :]


HOSTILE_COMPRESSED = {
    "a PNG bomb": ("png", bomb_png(), "compressed image (png) is an image of 65500x65500 pixels, and more than 67 meg"),
    "a JPEG bomb": ("jpeg", bomb_jpeg(), "compressed image (jpeg) is an image of 65500x65500 pixels, and more than 67"),
    "a bomb that OpenCV takes": ("png", bomb_png(32_000, 32_000), "is an image of 32000x32000 pixels, and more than"),
    "H.264": ("h264", b"\0\0\0\1\x67\x42\0\x1e" + bytes(500), "compressed image (h264) is a packet of a video"),
    "H.264 that is called a JPEG": (
        "jpeg",
        b"\0\0\0\1\x67\x42\0\x1e" + bytes(500),
        "compressed image (jpeg) is a packet of a video",
    ),
    "nothing": ("jpeg", b"", "compressed image (jpeg) is empty"),
    "half of a PNG": ("png", bomb_png(64, 64)[:60], "compressed image (png) is a truncated image"),
    "a TIFF": ("tiff", b"II*\0" + bytes(999), "compressed image (tiff) cannot be decoded as an image"),
    "depth": ("16UC1; compressedDepth png", bomb_png(), "(16UC1; compressedDepth png) is a depth image"),
    "another line for the log": ("a\n[FATAL] b\x1b[2J", b"x", r"compressed image (a\n[FATAL] b\x1b[2J) cannot be"),
    "a megabyte of a format": ("x" * 1_000_000, b"x", f"compressed image ({'x' * 60}…) cannot be decoded"),
}
"""Hostile ``CompressedImage`` messages: format, bytes, and the part of the error message that names the cause."""

HOSTILE_RAW = {
    "absurd width": ({"width": 4_294_967_295, "step": 4_294_967_295}, "an image of 4294967295x90 pixels has more than"),
    "absurd height": ({"height": 4_294_967_295}, "an image of 160x4294967295 pixels has more than 67 megapixels"),
    "absurd step": ({"step": 4_294_967_295}, "needs 386547056550 bytes but carries 43200; the message is truncated"),
    "no width": ({"width": 0}, "an image of 0x90 pixels is empty"),
    "no step": ({"step": 0}, "step 0 is shorter than a row of 160 rgb8 pixels"),
    "no data": ({"data": []}, "a 160x90 rgb8 image with step 480 needs 43200 bytes but carries 0"),
    "floats": ({"encoding": "32FC3", "step": 1920}, "image encoding '32FC3' is not one of rgb8"),
    "depth": ({"encoding": "16UC1", "step": 320}, "image encoding '16UC1' is not one of rgb8"),
    "16 bits that are 8": ({"encoding": "rgb16"}, "step 480 is shorter than a row of 160 rgb16 pixels (960 bytes)"),
    "half of the chroma": ({"encoding": "nv24", "step": 160, "height": 180}, "needs 86400 bytes but carries 43200"),
    "another line for the log": ({"encoding": "rgb8\n[FATAL]"}, r"image encoding 'rgb8\n[FATAL]' is not one of rgb8"),
    "a megabyte of an encoding": ({"encoding": "y" * 1_000_000}, f"image encoding '{'y' * 60}…' is not one of rgb8"),
}
"""Hostile changes of a 160x90 rgb8 ``Image``: fields, and the part of the error message that names the cause."""
