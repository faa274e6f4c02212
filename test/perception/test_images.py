import io
import struct
import subprocess
import sys
import zlib

import cv2
import numpy as np
import PIL.features
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lvad_perception.errors import ImageError
from lvad_perception.media import images
from lvad_perception.media.image_header import encoded_size
from lvad_perception.media.images import decode_image, image_files, read_image

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


def test_other_files_than_images_are_refused(tmp_path):
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


def png_of(width, height, *, depth=8):
    """A PNG of one colour: a few hundred kilobytes, whatever its size."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    squeeze, row = zlib.compressobj(1), bytes(1 + width * 3 * depth // 8)
    body = b"".join(squeeze.compress(row) for _ in range(min(height, 200))) + squeeze.flush()
    header = struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def jpeg_of(width, height, jpeg=JPEG):
    """A JPEG whose header says another size."""
    at = jpeg.index(b"\xff\xc0")
    return jpeg[: at + 5] + struct.pack(">HH", height, width) + jpeg[at + 9 :]


def bmp_of(width, height):
    data = bytearray(encoded(PIXELS, "BMP"))
    struct.pack_into("<ii", data, 18, width, -height)
    return bytes(data)


def webp_of(width, height):
    data = bytearray(encoded(PIXELS, "WEBP", exif=b"Exif\0\0II*\0"))
    data[24:30] = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return bytes(data)


class TestBombs:
    """A few kilobytes that would fill the memory, and are refused by their header."""

    @pytest.fixture
    def nothing_is_decoded(self, monkeypatch):
        monkeypatch.setattr(images.cv2, "imdecode", lambda *_: pytest.fail("it was decoded"))

    @pytest.mark.parametrize("make", [png_of, jpeg_of, bmp_of, webp_of])
    @pytest.mark.parametrize(("width", "height"), [(65500, 65500), (8192, 8192), (65500, 1100)])
    def test_they_are_refused_before_they_are_decoded(self, nothing_is_decoded, make, width, height):
        sentence = (
            f"rear is an image of {width}x{height} pixels, and more than 67 megapixels are not decoded; "
            "replace it by a smaller one or leave it out"
        )
        with pytest.raises(ImageError) as caught:
            decode_image(make(width, height), source="rear")
        assert str(caught.value) == sentence

    def test_a_smaller_limit(self, nothing_is_decoded):
        with pytest.raises(ImageError, match=r"of 32x24 pixels, and more than 0\.0005 megapixels are not decoded"):
            decode_image(JPEG, source="x", most_pixels=500)

    def test_a_jpeg_of_thousands_of_scans_takes_no_minutes(self, nothing_is_decoded):
        progressive = encoded(PIXELS, "JPEG", progressive=True)
        at = progressive.rindex(b"\xff\xda")
        at_size = progressive.index(b"\xff\xc2") + 5
        data = progressive[:at_size] + struct.pack(">HH", 4000, 4000) + progressive[at_size + 4 :]
        data = data[:-2] + data[at:-2] * 3000 + data[-2:]
        with pytest.raises(
            ImageError, match=r"x is a JPEG of 4000x4000 pixels in 30\d\d scans, which would take minutes; "
        ):
            decode_image(data, source="x")

    def test_what_a_camera_sends_is_decoded(self):
        image = np.zeros((3000, 4000, 3), np.uint8)  # 12 megapixels, of phones and photo cameras
        image[::7, ::5] = 200
        progressive = encoded(image, "JPEG", progressive=True)
        assert decode_image(progressive, source="x").shape == image.shape

    def test_memory_stays_where_it_is(self, tmp_path):
        """Also for sizes that OpenCV itself would take: 1.02 gigapixels, 3 GB."""
        for name, data in (("a.png", png_of(32000, 32000)), ("b.jpg", jpeg_of(32000, 32000))):
            (tmp_path / name).write_bytes(data)
        code = (
            "import resource, sys, pathlib\n"
            "from lvad_perception.media.images import ImageError, read_image\n"
            "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024\n"
            "before = peak()\n"
            "for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):\n"
            "    try: read_image(path)\n"
            "    except ImageError as err: print(err)\n"
            "print(round(peak() - before))\n"
        )
        said = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True).stdout
        *sentences, grown_mb = said.splitlines()
        assert ["of 32000x32000 pixels, and more than 67 megapixels are not decoded" in one for one in sentences] == [
            True
        ] * 2
        assert int(grown_mb) < 20


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


def test_the_tiles_of_a_tiff_count_as_well():
    entries = [(256, 24), (257, 24), (322, 65536), (323, 4096)]
    data = (
        b"II*\0"
        + struct.pack("<IH", 8, len(entries))
        + b"".join(struct.pack("<HHII", tag, 4, 1, v) for tag, v in entries)
    )
    assert encoded_size(data) == (4096, 65536)


def test_a_size_hidden_behind_bytes_that_decoders_skip_is_found():
    data = jpeg_of(65500, 65500)
    at = data.index(b"\xff\xc0")
    hidden = data[:at] + b"\xff\x00" + (len(data)).to_bytes(2, "big") + data[at:]  # FF 00 is no segment with a length
    assert encoded_size(hidden) == (65500, 65500)


def test_image_files_of_a_folder_are_sorted_without_hidden_ones(tmp_path):
    for name in ("b.JPG", "a.png", "._a.png", ".jpg", "notes.txt", "inner/c.jpeg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert image_files(tmp_path) == [tmp_path / "a.png", tmp_path / "b.JPG"]
    assert image_files(tmp_path, recursive=True) == [tmp_path / "a.png", tmp_path / "b.JPG", tmp_path / "inner/c.jpeg"]
    assert image_files(tmp_path / "missing") == []
