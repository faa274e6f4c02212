"""The package's decoding of raw images against cv_bridge's, which is an independent implementation."""

import numpy as np
import pytest

from lvad_perception.messages import image_from_message, make_header


@pytest.fixture
def bridge(ros_environment):
    """cv_bridge, as ROS users know it."""
    cv_bridge = pytest.importorskip("cv_bridge", reason="cv_bridge is not installed")
    return cv_bridge.CvBridge()


@pytest.mark.parametrize(
    ("encoding", "channels"),
    [
        ("rgb8", 3),
        ("bgr8", 3),
        ("rgba8", 4),
        ("bgra8", 4),
        ("mono8", 1),
        ("yuv422", 2),
        ("yuv422_yuy2", 2),
        ("bayer_rggb8", 1),
        ("bayer_bggr8", 1),
        ("bayer_gbrg8", 1),
        ("bayer_grbg8", 1),
    ],
)
@pytest.mark.parametrize("padding", [0, 12])
def test_raw_images_are_decoded_as_cv_bridge_does(bridge, encoding, channels, padding):
    from lvad_perception.messages import ros_types

    types = ros_types()
    height, width = 46, 64
    step = width * channels + padding  # 12 is whole pixels in every encoding: with others cv_bridge skews the image
    data = np.random.default_rng(3).integers(0, 256, (height, step), dtype=np.uint8)
    message = types.Image(
        header=make_header(0, "camera", types=types),
        height=height,
        width=width,
        encoding=encoding,
        step=step,
        data=types.pack(data),
    )
    np.testing.assert_array_equal(image_from_message(message), bridge.imgmsg_to_cv2(message, "rgb8"))
