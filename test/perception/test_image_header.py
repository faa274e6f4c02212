"""Sizes read from image headers, compared with the decoded images."""

import io
import struct

import cv2
import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lvad_perception.media.image_header import encoded_size, jpeg_scans, jpeg_segments

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 37, 3), dtype=np.uint8)


def encoded(kind, pixels=PIXELS, **options):
    stream = io.BytesIO()
    PIL.Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


JPEG = encoded("JPEG")
KINDS = {
    "jpeg": JPEG,
    "progressive": encoded("JPEG", progressive=True),
    "grey": encoded("JPEG", PIXELS[..., 0]),
    "png": encoded("PNG"),
    "16 bits": cv2.imencode(".png", PIXELS.astype(np.uint16))[1].tobytes(),
    "bmp": encoded("BMP"),
    "webp": encoded("WEBP"),
    "webp without loss": encoded("WEBP", lossless=True),
    "webp with more": encoded("WEBP", exif=b"Exif\0\0II*\0"),
}


@pytest.mark.parametrize("data", KINDS.values(), ids=KINDS)
def test_the_stated_size_is_the_decoded_size(data):
    assert encoded_size(data) == cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).shape[:2] == (24, 37)


def test_rows_of_a_bmp_from_the_top_down():
    data = bytearray(KINDS["bmp"])
    struct.pack_into("<i", data, 22, -24)
    assert encoded_size(bytes(data)) == (24, 37)


@pytest.mark.parametrize("data", [b"", b"no image", b"\0\0\0\1\x67\x42", b"II*\0" + bytes(99)])
def test_unknown_formats_have_no_size(data):
    assert encoded_size(data) is None


@given(st.sampled_from(list(KINDS.values())), st.data())
@settings(max_examples=300, deadline=None)
def test_no_image_decodes_to_more_than_its_stated_size(data, draw):
    """With header bytes changed or inserted, an image that OpenCV still decodes has the size that was read."""
    changed = bytearray(data)
    for _ in range(draw.draw(st.integers(1, 3))):
        at = draw.draw(st.integers(0, min(len(changed), 700) - 1))
        value = draw.draw(st.sampled_from([0, 1, 0xC0, 0xC4, 0xD8, 0xDA, 0xFF]) | st.integers(0, 255))
        changed[at : at + draw.draw(st.integers(0, 1))] = bytes([value])
    said = encoded_size(bytes(changed))
    if said is None or said[0] * said[1] < 1 << 22:  # larger ones take too long here
        image = cv2.imdecode(np.frombuffer(changed, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        assert image is None or said is not None
        assert image is None or image.shape[0] * image.shape[1] <= said[0] * said[1]


@given(st.binary(max_size=400), st.sampled_from([b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"BM", b"RIFF\0\0\0\0WEBP"]))
def test_any_bytes_have_a_size_or_none(data, start):
    size = encoded_size(start + data)
    assert size is None or min(size) >= 0


class TestJpeg:
    def start_of_frame(self, data=JPEG):
        return next(at for marker, at in jpeg_segments(data) if marker == 0xC0)

    def test_a_picture_inside_a_segment_does_not_count(self):
        small = encoded("JPEG", PIXELS[:8, :8])
        exif = b"\xff\xe1" + (len(small) + 2).to_bytes(2, "big") + small
        assert encoded_size(JPEG[:2] + exif + JPEG[2:]) == (24, 37)

    @pytest.mark.parametrize("filling", [b"\xff" * 9, b"stray bytes", b"\xff\0\xff\0", b"\xff\x01", b"\xff\xfe\0\0"])
    def test_fill_bytes_do_not_hide_the_size(self, filling):
        at = self.start_of_frame()
        data = JPEG[:at] + filling + JPEG[at:]
        assert encoded_size(data) == (24, 37)
        assert cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).shape == (24, 37, 3)

    def test_the_larger_of_two_sizes_is_used(self):
        at = self.start_of_frame()
        frame = JPEG[at : at + 2 + int.from_bytes(JPEG[at + 2 : at + 4], "big")]
        huge = frame[:5] + struct.pack(">HH", 65500, 65500) + frame[9:]
        for data in (JPEG[:at] + huge + JPEG[at:], JPEG[: at + len(frame)] + huge + JPEG[at + len(frame) :]):
            assert encoded_size(data) == (65500, 65500)

    def test_endless_segments_end(self):
        assert encoded_size(b"\xff\xd8" + b"\xff\xfe\0\2" * 1_000_000 + JPEG[2:]) is None

    def test_scans(self):
        assert jpeg_scans(JPEG) == 1
        assert 3 < jpeg_scans(KINDS["progressive"]) < 16
