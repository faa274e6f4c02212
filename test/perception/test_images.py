import io
import tracemalloc
import zlib

import cv2
import numpy as np
import PIL.features
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lvad_perception.errors import ImageError
from lvad_perception.image_header import encoded_size
from lvad_perception.images import decode_image, read_image

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)


def encoded(pixels, kind="PNG", **options):
    stream = io.BytesIO()
    PIL.Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


JPEG = encoded(PIXELS, "JPEG", quality=90)


def test_png_decodes_to_rgb_in_order():
    decoded = decode_image(encoded(PIXELS), source="x")
    np.testing.assert_array_equal(decoded, PIXELS)
    assert decoded.flags.c_contiguous


def test_grey_and_transparent_images_become_rgb():
    grey = decode_image(encoded(PIXELS[..., 0]), source="x")
    np.testing.assert_array_equal(grey, np.repeat(PIXELS[..., :1], 3, axis=2))
    alpha = np.dstack([PIXELS, np.full(PIXELS.shape[:2], 7, np.uint8)])
    np.testing.assert_array_equal(decode_image(encoded(alpha), source="x"), PIXELS)


def test_sixteen_bit_samples_become_eight_bit():
    data = cv2.imencode(".png", np.full((2, 3), 0x7FFF, np.uint16))[1].tobytes()
    assert decode_image(data, source="x").dtype == np.uint8
    assert abs(int(decode_image(data, source="x")[0, 0, 0]) - 127) <= 1


def test_exif_orientation_is_ignored_because_labels_refer_to_the_stored_raster():
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees
    assert decode_image(encoded(PIXELS, "JPEG", exif=exif), source="x").shape == (24, 32, 3)


@given(st.integers(0, len(JPEG) - 1))
@settings(max_examples=60, deadline=None)
def test_every_truncated_jpeg_is_refused(length):
    with pytest.raises(ImageError, match=r"camera 3 (is empty|is a truncated image|cannot be decoded)"):
        decode_image(JPEG[:length], source="camera 3")


def test_thumbnail_inside_the_header_does_not_hide_a_truncation():
    exif = b"\xff\xe1" + (len(JPEG) + 2).to_bytes(2, "big") + JPEG  # a segment that holds a whole JPEG with its end
    whole = JPEG[:2] + exif + JPEG[2:]
    assert decode_image(whole, source="x").shape == (24, 32, 3)
    with pytest.raises(ImageError, match="truncated"):
        decode_image(whole[:-100], source="x")


def test_bytes_after_the_end_are_tolerated():
    np.testing.assert_array_equal(decode_image(JPEG + b"\0" * 500, source="x"), decode_image(JPEG, source="x"))


def test_truncated_png_is_refused():
    with pytest.raises(ImageError, match=r"a\.png is a truncated image; copy it again"):
        decode_image(encoded(PIXELS)[:-60], source="a.png")


def test_what_is_no_image_is_refused(tmp_path):
    with pytest.raises(ImageError, match="x cannot be decoded as an image"):
        decode_image(b"no image at all", source="x")
    with pytest.raises(ImageError, match=r"none\.jpg cannot be read \(No such file"):
        read_image(tmp_path / "none.jpg")
    with pytest.raises(ImageError, match=r"cannot be read \(Is a directory"):
        read_image(tmp_path)


def test_real_images_decode_as_by_another_decoder(shared_data):
    paths = sorted((shared_data / "bdd-samples" / "images" / "10k" / "val").glob("*.jpg"))[:3]
    assert paths
    for path in paths:
        with PIL.Image.open(path) as image:
            expected = np.asarray(image.convert("RGB"))
        difference = np.abs(read_image(path).astype(int) - expected)
        assert difference.max() <= 2  # decoders may round differently


def test_smallest_legal_image(format_cases):
    assert read_image(format_cases / "tiny" / "mmseg_pseudo_image_8x8.jpg").shape == (8, 8, 3)


KINDS = {
    "JPEG": {},
    "progressive JPEG": {"progressive": True},
    "PNG": {},
    "BMP": {},
    "GIF": {},
    "WEBP": {},
    "lossless WEBP": {"lossless": True},
    "TIFF": {},
    "big TIFF": {"big_tiff": True},
    "JPEG2000": {},
    "PPM": {},
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_size_of_every_format_is_in_its_header(kind):
    if kind == "JPEG2000" and not PIL.features.check("jpg_2000"):
        pytest.skip("Pillow without JPEG 2000")
    data = encoded(PIXELS, kind.rpartition(" ")[2], **KINDS[kind])
    assert encoded_size(data) == (24, 32)
    assert decode_image(data, source="x").shape == (24, 32, 3)


@given(st.sampled_from(sorted(KINDS)), st.binary(max_size=40), st.integers(0, 60))
@settings(max_examples=200, deadline=None)
def test_no_header_raises(kind, noise, place):
    if kind != "JPEG2000":
        data = encoded(PIXELS[:2, :3], kind.rpartition(" ")[2], **KINDS[kind])
        encoded_size(data[:place] + noise + data[place + len(noise) :])
        encoded_size(data[:4] + noise)


def bomb(kind, side):
    """A small file that states so many pixels a side."""
    data = bytearray(encoded(PIXELS, kind))
    if kind == "PNG":
        data[16:24] = side.to_bytes(4, "big") * 2
        data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    elif kind == "JPEG":
        at = data.index(b"\xff\xc0")
        data[at + 5 : at + 9] = side.to_bytes(2, "big") * 2
    else:
        data[18:26] = side.to_bytes(4, "little") * 2
    return bytes(data)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP"])
def test_a_bomb_is_refused_by_its_header_in_little_memory(kind):
    data = bomb(kind, 65500)
    tracemalloc.start()
    try:
        with pytest.raises(
            ImageError, match=r"x states 65500x65500 pixels, more than the 89,478,485 that are decoded; sc"
        ):
            decode_image(data, source="x")
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_size_hidden_behind_bytes_that_decoders_skip_is_found():
    data = bomb("JPEG", 65500)
    at = data.index(b"\xff\xc0")
    hidden = data[:at] + b"\xff\x00" + (len(data)).to_bytes(2, "big") + data[at:]  # FF 00 is no segment with a length
    assert encoded_size(hidden) == (65500, 65500)
