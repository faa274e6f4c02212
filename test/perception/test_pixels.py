"""The pixel encodings against decoders that are written here from the definitions, without OpenCV."""

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lvad_perception.errors import MessageError
from lvad_perception.media.pixels import ENCODINGS, demosaic, to_rgb

PATTERNS = ("rggb", "bggr", "gbrg", "grbg")
YUV_TOLERANCE = 2  # OpenCV computes in fixed point


def random_bytes(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def yuv_to_rgb(luma, u, v):
    """BT.601, limited range, in floating point: arrays of one shape -> float [..., 3]; blacker than black is black."""
    y, u, v = 1.164383 * np.maximum(luma.astype(float) - 16, 0), u.astype(float) - 128, v.astype(float) - 128
    rgb = np.stack([y + 1.596027 * v, y - 0.391762 * u - 0.812968 * v, y + 2.017232 * u], axis=-1)
    return np.clip(rgb, 0, 255)


def assert_close(found, expected):
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= YUV_TOLERANCE


def mosaic(image, pattern):
    """What a sensor behind a Bayer filter sees of an image."""
    height, width = image.shape[:2]
    places = ["rgb".index(color) for color in pattern]
    rows, columns = np.indices((height, width)) % 2
    return np.take_along_axis(image, np.choose(2 * rows + columns, places)[..., None], axis=2)[..., 0]


class TestSixteenBits:
    @pytest.mark.parametrize("big_endian", [False, True])
    def test_every_value_is_scaled_from_the_whole_range(self, big_endian):
        values = np.arange(65536).reshape(256, 256)
        data = values.astype(">u2" if big_endian else "<u2").view(np.uint8).ravel()
        image = to_rgb(data, encoding="mono16", height=256, width=256, step=512, big_endian=big_endian)
        np.testing.assert_array_equal(image, np.repeat(((values + 128) // 257)[..., None], 3, axis=2))

    @pytest.mark.parametrize(
        ("encoding", "order"),
        [("rgb16", (0, 1, 2)), ("bgr16", (2, 1, 0)), ("rgba16", (0, 1, 2)), ("bgra16", (2, 1, 0))],
    )
    @pytest.mark.parametrize("big_endian", [False, True])
    @pytest.mark.parametrize("padding", [0, 7])
    def test_colours(self, encoding, order, big_endian, padding):
        channels = 4 if "a" in encoding else 3
        samples = np.random.default_rng(1).integers(0, 65536, (5, 7, channels))
        rows = samples.astype(">u2" if big_endian else "<u2").view(np.uint8).reshape(5, -1)
        padded = np.pad(rows, ((0, 0), (0, padding)), constant_values=99)
        step = padded.shape[1]
        image = to_rgb(padded.ravel(), encoding=encoding, height=5, width=7, step=step, big_endian=big_endian)
        np.testing.assert_array_equal(image, ((samples + 128) // 257)[..., order])

    @pytest.mark.parametrize("pattern", PATTERNS)
    @pytest.mark.parametrize("big_endian", [False, True])
    def test_bayer(self, pattern, big_endian):
        flat = np.full((7, 9, 3), (200 * 257, 100 * 257, 50 * 257))
        data = mosaic(flat, pattern).astype(">u2" if big_endian else "<u2").view(np.uint8).ravel()
        image = to_rgb(data, encoding=f"bayer_{pattern}16", height=7, width=9, step=18, big_endian=big_endian)
        np.testing.assert_array_equal(image, flat // 257)


class TestYuv:
    @pytest.mark.parametrize("encoding", ["yuv422", "uyvy", "yuv422_yuy2", "yuyv"])
    @pytest.mark.parametrize(("width", "step"), [(8, 16), (8, 21), (7, 16), (7, 19), (1, 4)])
    def test_packed_pairs(self, encoding, width, step):
        pairs = (width + 1) // 2
        rows = random_bytes(5, step)
        quads = rows[:, : 4 * pairs].reshape(5, pairs, 4)
        first, u, second, v = (1, 0, 3, 2) if encoding in ("yuv422", "uyvy") else (0, 1, 2, 3)
        luma = quads[:, :, [first, second]].reshape(5, 2 * pairs)[:, :width]
        chroma = [quads[:, :, place].repeat(2, axis=1)[:, :width] for place in (u, v)]
        image = to_rgb(rows.ravel(), encoding=encoding, height=5, width=width, step=step)
        assert_close(image, yuv_to_rgb(luma, *chroma))

    @pytest.mark.parametrize("encoding", ["nv12", "nv21"])
    @pytest.mark.parametrize(("height", "width"), [(6, 8), (5, 8), (6, 7), (5, 7), (1, 1)])
    @pytest.mark.parametrize("padding", [0, 5])
    def test_half_chroma_planes(self, encoding, height, width, padding):
        half_height, half_width = (height + 1) // 2, (width + 1) // 2
        rows = random_bytes(height + half_height, 2 * half_width + padding)
        luma = rows[:height, :width]
        chroma = rows[height:, : 2 * half_width].reshape(half_height, half_width, 2)
        chroma = chroma.repeat(2, axis=0).repeat(2, axis=1)[:height, :width]
        u, v = (0, 1) if encoding == "nv12" else (1, 0)
        image = to_rgb(rows.ravel(), encoding=encoding, height=height, width=width, step=rows.shape[1])
        assert_close(image, yuv_to_rgb(luma, chroma[..., u], chroma[..., v]))

    @pytest.mark.parametrize("encoding", ["nv24", "nv42"])
    @pytest.mark.parametrize("padding", [0, 3])
    def test_full_chroma_planes(self, encoding, padding):
        height, width = 5, 7
        step = width + padding
        data = random_bytes(3 * height * step)
        luma = data[: height * step].reshape(height, step)[:, :width]
        chroma = data[height * step :].reshape(height, 2 * step)[:, : 2 * width].reshape(height, width, 2)
        u, v = (0, 1) if encoding == "nv24" else (1, 0)
        image = to_rgb(data, encoding=encoding, height=height, width=width, step=step)
        assert_close(image, yuv_to_rgb(luma, chroma[..., u], chroma[..., v]))


class TestBayer:
    @pytest.mark.parametrize("pattern", PATTERNS)
    @pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 9)])
    def test_every_sample_stays_where_it_was_measured(self, pattern, height, width):
        image = random_bytes(height, width, 3)
        seen = mosaic(image, pattern)
        out = to_rgb(seen.ravel(), encoding=f"bayer_{pattern}8", height=height, width=width, step=width)
        inner = np.s_[1:-1, 1:-1]  # at the edge OpenCV repeats the neighbours
        np.testing.assert_array_equal(mosaic(out, pattern)[inner], seen[inner])
        np.testing.assert_array_equal(demosaic(seen, f"bayer_{pattern}16"), out)

    @pytest.mark.parametrize(("height", "width"), [(2, 9), (9, 1)])
    def test_too_small_an_image_is_refused(self, height, width):
        with pytest.raises(MessageError, match=f"{width}x{height} pixels is too small for bayer_rggb8; publish rgb8"):
            to_rgb(random_bytes(18), encoding="bayer_rggb8", height=height, width=width, step=width)


class TestLayouts:
    @settings(deadline=None, max_examples=300)
    @given(
        encoding=st.sampled_from([*ENCODINGS, "32FC1", "16UC1", "RGB8", ""]),
        height=st.integers(0, 9),
        width=st.integers(0, 9),
        step=st.integers(0, 80),
        size=st.integers(0, 900),
        big_endian=st.booleans(),
    )
    def test_whatever_a_message_says_it_is_an_image_or_a_message_error(
        self, encoding, height, width, step, size, big_endian
    ):
        try:
            image = to_rgb(
                random_bytes(size), encoding=encoding, height=height, width=width, step=step, big_endian=big_endian
            )
        except MessageError:
            return
        assert (image.shape, image.dtype) == ((height, width, 3), np.uint8)


def test_the_page_on_bags_lists_every_encoding():
    page = (Path(__file__).resolve().parents[2] / "docs" / "bags.md").read_text(encoding="utf-8")
    assert set(ENCODINGS) <= set(re.findall(r"\w+", page[page.index("Encodings:") :]))
