"""The node's decoding: cv_bridge's where it agrees with the package's own, which is independent of it."""

import sys
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from lvad_perception.errors import ImageError, MessageError
from lvad_perception.media.pixels import ENCODINGS

PIXEL_BYTES = {
    **dict.fromkeys(["mono8", "8UC1"], 1),
    **dict.fromkeys(["yuv422", "uyvy", "yuv422_yuy2", "yuyv", "mono16"], 2),
    **dict.fromkeys(["rgb8", "bgr8", "8UC3"], 3),
    **dict.fromkeys(["rgba8", "bgra8", "8UC4"], 4),
    **dict.fromkeys(["rgb16", "bgr16"], 6),
    **dict.fromkeys(["rgba16", "bgra16"], 8),
    **{f"bayer_{pattern}8": 1 for pattern in ("rggb", "bggr", "gbrg", "grbg")},
    **{f"bayer_{pattern}16": 2 for pattern in ("rggb", "bggr", "gbrg", "grbg")},
}
CV_BRIDGE_CONVERTS = sorted(set(PIXEL_BYTES) - {"8UC1", "8UC3", "8UC4", "uyvy", "yuyv"})


@pytest.fixture
def decoding(ros_environment):
    """The module, asked anew about cv_bridge before and after the test."""
    from lvad_perception.node import decoding

    def forget():
        decoding.uses_cv_bridge.cache_clear()
        decoding._cv_bridge.cache_clear()

    forget()
    yield decoding
    forget()


@pytest.fixture
def bridge(ros_environment):
    """cv_bridge, as ROS users know it."""
    return pytest.importorskip("cv_bridge", reason="cv_bridge is not installed").CvBridge()


@pytest.fixture
def make_message(ros_environment):
    """A function that makes a message of random pixels."""
    from lvad_perception.messages import ros_types

    types = ros_types()

    def make(encoding, *, height=46, width=64, padding=0, big_endian=False):
        step = PIXEL_BYTES.get(encoding, 1) * width + padding
        message = types.Image(height=height, width=width, encoding=encoding, step=step, is_bigendian=int(big_endian))
        message.data = types.pack(np.random.default_rng(3).integers(0, 256, 3 * height * step, dtype=np.uint8))
        return message

    return make


@pytest.fixture
def make_compressed(ros_environment):
    from lvad_perception.messages import ros_types

    types = ros_types()

    def make(data, image_format="jpeg"):
        message = types.CompressedImage(format=image_format)
        message.data = types.pack(np.frombuffer(data, np.uint8))
        return message

    return make


def layout_of(message):
    return message.encoding, message.height, message.width, message.step, bool(message.is_bigendian)


@pytest.mark.parametrize("encoding", CV_BRIDGE_CONVERTS)
@pytest.mark.parametrize(("height", "padding"), [(46, 0), (45, 0), (46, 24)])
def test_cv_bridge_and_the_package_agree_to_the_bit(decoding, bridge, make_message, encoding, height, padding):
    from lvad_perception.messages import image_from_message

    message = make_message(encoding, height=height, padding=padding)
    expected = bridge.imgmsg_to_cv2(message, "rgb8")
    np.testing.assert_array_equal(image_from_message(message), expected)
    assert decoding.uses_cv_bridge(*layout_of(message))
    np.testing.assert_array_equal(decoding.decode(message), expected)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(
    ("width", "padding", "big_endian"), [(64, 0, False), (62, 5, False), (63, 24, False), (64, 0, True)]
)
def test_the_node_sees_what_a_replay_without_ros_sees(decoding, make_message, encoding, width, padding, big_endian):
    from lvad_perception.messages import image_from_message

    message = make_message(encoding, width=width, padding=padding, big_endian=big_endian)
    np.testing.assert_array_equal(decoding.decode(message), image_from_message(message))


@pytest.mark.parametrize(
    ("encoding", "changes"),
    [
        ("rgb8", {"padding": 5}),  # it skews the image
        ("yuv422", {"width": 63, "padding": 2}),  # it loses the chroma of the last pixel
        ("nv12", {}),  # unknown to it
        ("8UC3", {}),
    ],
)
def test_cv_bridge_is_not_used_where_it_differs(decoding, make_message, encoding, changes):
    assert not decoding.uses_cv_bridge(*layout_of(make_message(encoding, **changes)))


def test_an_image_in_rgb8_is_not_copied(decoding, bridge, make_message):
    message = make_message("rgb8")
    assert decoding.uses_cv_bridge(*layout_of(message))
    assert np.shares_memory(decoding.decode(message), np.frombuffer(message.data, np.uint8))


@pytest.mark.parametrize("error", [ImportError, AttributeError, SystemError])
def test_without_cv_bridge_the_package_decodes_and_says_so_once(decoding, make_message, monkeypatch, capfd, error):
    from lvad_perception.messages import image_from_message

    def fail(*_):
        raise error("numpy.core.multiarray failed to import\nmore")

    broken = SimpleNamespace(CvBridge=lambda: SimpleNamespace(imgmsg_to_cv2=fail))
    monkeypatch.setitem(sys.modules, "cv_bridge", broken)
    for encoding in ("rgb8", "bgr8", "nv12"):
        message = make_message(encoding)
        np.testing.assert_array_equal(decoding.decode(message), image_from_message(message))
    err = capfd.readouterr().err
    sentence = "cv_bridge cannot be loaded (numpy.core.multiarray failed to import), so the package decodes all images"
    assert err.count(sentence) == 1
    assert "Traceback" not in err


def test_a_cv_bridge_with_other_pixels_is_not_used_for_them(decoding, make_message, monkeypatch):
    from lvad_perception.messages import image_from_message

    def off_by_one(message, _):
        return image_from_message(message) ^ np.uint8(message.encoding.startswith("bayer"))

    other = SimpleNamespace(CvBridge=lambda: SimpleNamespace(imgmsg_to_cv2=off_by_one))
    monkeypatch.setitem(sys.modules, "cv_bridge", other)
    assert decoding.uses_cv_bridge(*layout_of(make_message("bgr8")))
    message = make_message("bayer_rggb8")
    assert not decoding.uses_cv_bridge(*layout_of(message))
    np.testing.assert_array_equal(decoding.decode(message), image_from_message(message))


@pytest.mark.parametrize(
    ("encoding", "changes", "sentence"),
    [
        ("bgr8", {"step": 5}, r"step 5 is shorter than a row of 64 bgr8 pixels \(192 bytes\); set step to 192"),
        ("bgr8", {"height": 480}, "a 64x480 bgr8 image with step 192 needs 92160 bytes but carries 26496; the message"),
        ("mono8", {"width": 0}, "an image of 0x46 pixels is empty; check the camera driver"),
        ("bgr8", {"encoding": "32FC1"}, "image encoding '32FC1' is not one of rgb8.*; publish rgb8, bgr8, mono8 or"),
    ],
)
def test_a_bad_message_is_one_sentence(decoding, make_message, encoding, changes, sentence):
    message = make_message(encoding)
    decoding.decode(message)  # the good one of the same layout may have been trusted to cv_bridge
    for name, value in changes.items():
        setattr(message, name, value)
    with pytest.raises(MessageError, match=sentence):
        decoding.decode(message)


def test_a_message_that_is_cut_off_is_refused_whoever_decodes_its_layout(decoding, make_message):
    message = make_message("bgr8")
    decoding.decode(message)
    message.data = message.data[:100]
    with pytest.raises(MessageError, match="needs 8832 bytes but carries 100; the message is truncated"):
        decoding.decode(message)


def test_a_corrupt_size_is_refused_before_anything_is_made_of_it(decoding, make_message, monkeypatch):
    message = make_message("bgr8")
    message.step = 4_000_000_000  # a probe of such rows would take the memory of the machine
    monkeypatch.setattr(decoding, "uses_cv_bridge", lambda *_: pytest.fail("a probe was made"))
    with pytest.raises(MessageError, match="needs 184000000000 bytes but carries 26496"):
        decoding.decode(message)


def test_rows_that_no_camera_sends_are_not_made_once_more_for_a_probe(decoding, make_message, monkeypatch):
    from lvad_perception.messages import ros_types

    monkeypatch.setattr(decoding, "_by_cv_bridge", lambda *_: pytest.fail("a probe was made"))
    message = make_message("bgr8", height=1)
    message.step = decoding._MOST_PROBED_BYTES + 1
    message.data = ros_types().pack(np.zeros(message.step, np.uint8))
    assert decoding.decode(message).shape == (1, 64, 3)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@pytest.mark.parametrize("channels", [1, 3])
def test_compressed_images(decoding, make_compressed, suffix, channels):
    image = np.random.default_rng(5).integers(0, 256, (40, 60, channels), np.uint8)
    data = cv2.imencode(suffix, image)[1].tobytes()
    expected = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]
    for image_format in (suffix[1:], "bgr8; jpeg compressed bgr8", ""):
        np.testing.assert_array_equal(decoding.decode(make_compressed(data, image_format)), expected)


def test_a_truncated_jpeg_is_refused_not_grey(decoding, make_compressed):
    data = cv2.imencode(".jpg", np.random.default_rng(5).integers(0, 256, (40, 60, 3), np.uint8))[1].tobytes()
    with pytest.raises(ImageError, match=r"compressed image \(rgb8; jpeg compressed bgr8\) is a truncated image"):
        decoding.decode(make_compressed(data[:-200], "rgb8; jpeg compressed bgr8"))
