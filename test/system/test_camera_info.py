"""CameraInfo of the results: where a point of the world lands in the published image."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvad_perception.errors import MessageError
from lvad_perception.node.camera_info import camera_info_at_network_size, camera_info_of_image
from lvad_perception.preprocess import fit_letterbox

HEADER = object()


def make_info(height, width, *, binning=(0, 0), roi=(0, 0, 0, 0)):
    """A camera that is not ideal: skewed, off centre, the right one of a stereo pair."""
    x_offset, y_offset, roi_width, roi_height = roi
    return SimpleNamespace(
        header=None,
        height=height,
        width=width,
        distortion_model="plumb_bob",
        d=[0.1, -0.2, 0.0, 0.0, 0.0],
        k=np.array([500.0, 0.5, 310.0, 0, 510.0, 235.0, 0, 0, 1]),
        r=np.eye(3).ravel(),
        p=np.array([480.0, 0, 305.0, -57.0, 0, 490.0, 240.0, 0, 0, 0, 1, 0]),
        binning_x=binning[0],
        binning_y=binning[1],
        roi=SimpleNamespace(
            x_offset=x_offset, y_offset=y_offset, width=roi_width, height=roi_height, do_rectify=bool(roi_width)
        ),
    )


def project(matrix, point):
    """Continuous pixel coordinates, edge of the first pixel at 0, of a point before the camera."""
    u, v, w = np.asarray(matrix) @ point
    return np.array([u / w + 0.5, v / w + 0.5])


@given(
    network_hw=st.tuples(st.integers(1, 900), st.integers(1, 900)),
    binning=st.tuples(st.sampled_from([0, 1, 2]), st.sampled_from([0, 1, 4])),
    roi=st.sampled_from([(0, 0, 0, 0), (64, 32, 320, 240)]),
    point=st.tuples(st.floats(-2, 2), st.floats(-2, 2), st.floats(1, 50)),
)
def test_a_point_lands_in_the_network_image_where_the_letterbox_puts_it(network_hw, binning, roi, point):
    info = make_info(480, 640, binning=binning, roi=roi)
    window_hw = (roi[3] or 480, roi[2] or 640)
    binning_wh = (max(1, binning[0]), max(1, binning[1]))
    source_hw = (window_hw[0] // binning_wh[1], window_hw[1] // binning_wh[0])
    box = fit_letterbox(source_hw, network_hw)
    out = camera_info_at_network_size(info, HEADER, box)
    scale = np.array([box.resized_hw[1] / source_hw[1], box.resized_hw[0] / source_hw[0]])

    def placed(calibrated):
        in_source = (calibrated - [roi[0], roi[1]]) / binning_wh
        return in_source * scale + [box.left, box.top]

    in_camera, in_stereo = np.array(point), np.array([*point, 1.0])
    np.testing.assert_allclose(
        project(out.k.reshape(3, 3), in_camera), placed(project(info.k.reshape(3, 3), in_camera)), atol=1e-6
    )
    np.testing.assert_allclose(
        project(out.p.reshape(3, 4), in_stereo), placed(project(info.p.reshape(3, 4), in_stereo)), atol=1e-6
    )


def test_it_describes_whole_network_images_and_the_same_lens():
    info = make_info(480, 640, binning=(2, 2), roi=(64, 32, 320, 240))
    out = camera_info_at_network_size(info, HEADER, fit_letterbox((120, 160), (384, 640)))
    assert out.header is HEADER
    assert (out.height, out.width, out.binning_x, out.binning_y) == (384, 640, 0, 0)
    assert vars(out.roi) == {"x_offset": 0, "y_offset": 0, "width": 0, "height": 0, "do_rectify": False}
    assert (out.d, out.distortion_model) == (info.d, "plumb_bob")
    np.testing.assert_array_equal(out.r, info.r)
    assert (info.width, info.binning_x, info.roi.width) == (640, 2, 320)  # the camera's message is left as it was


def test_passing_through_changes_the_header_alone():
    info = make_info(480, 640, binning=(2, 0))
    out = camera_info_of_image(info, HEADER, (480, 320))
    assert out.header is HEADER
    assert info.header is None
    assert {name: value for name, value in vars(out).items() if name != "header"} == {
        name: value for name, value in vars(info).items() if name != "header"
    }


@pytest.mark.parametrize(
    "info", [make_info(720, 1280), make_info(480, 640, binning=(2, 2)), make_info(480, 640, roi=(0, 0, 320, 240))]
)
def test_another_size_is_refused(info):
    with pytest.raises(MessageError, match=r"but the image is 640x480, so it is not published; calibrate the camera"):
        camera_info_of_image(info, HEADER, (480, 640))
    with pytest.raises(MessageError, match="CameraInfo is of"):
        camera_info_at_network_size(info, HEADER, fit_letterbox((480, 640), (384, 640)))


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        (
            "k",
            np.full(9, np.nan),
            "CameraInfo holds numbers that are not finite, so it is not published; calibrate the",
        ),
        ("p", np.full(12, np.inf), "CameraInfo holds numbers that are not finite"),
        ("r", np.full(9, -np.inf), "CameraInfo holds numbers that are not finite"),
        ("d", [0.1, np.nan], "CameraInfo holds numbers that are not finite"),
        (
            "d",
            np.zeros(1_000_000),
            r"CameraInfo has 1000000 distortion coefficients of model 'plumb_bob', which is no ",
        ),
        (
            "distortion_model",
            "a\n" * 999,
            r"has 5 distortion coefficients of model '(a\\n)+…', which is no camera's, so",
        ),
        ("height", 0, "CameraInfo is of 640x0 images but the image is 640x480"),
        ("binning_x", 4_294_967_295, "CameraInfo is of 0x480 images but the image is 640x480"),
    ],
)
def test_what_is_no_calibration_is_refused(field, value, sentence):
    info = make_info(480, 640)
    setattr(info, field, value)
    with pytest.raises(MessageError, match=sentence):
        camera_info_of_image(info, HEADER, (480, 640))
    with pytest.raises(MessageError, match=sentence):
        camera_info_at_network_size(info, HEADER, fit_letterbox((480, 640), (48, 64)))


def test_an_uncalibrated_camera_is_one_too():
    info = make_info(480, 640)
    info.k, info.p, info.d, info.distortion_model = np.zeros(9), np.zeros(12), [], ""
    assert camera_info_of_image(info, HEADER, (480, 640)).height == 480
