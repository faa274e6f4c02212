import array
import sys

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvad_perception import messages
from lvad_perception.errors import ImageError, MessageError, MissingDependencyError, VocabularyMismatchError
from lvad_perception.types import Detections, TruthBoxes
from lvad_perception.vocabulary import DETECTION, DRIVABLE, SEMANTIC

TYPES = messages.rosbags_types()
STAMP = 1_500_000_000_123_456_789


def header(stamp=STAMP, frame_id="camera"):
    return messages.make_header(stamp, frame_id, types=TYPES)


def image_message(data, encoding, height, width, step):
    return TYPES.Image(
        header=header(),
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=0,
        step=step,
        data=np.frombuffer(bytes(data), np.uint8),
    )


def through_cdr(msg):
    store = messages.rosbags_typestore()
    return store.deserialize_cdr(store.serialize_cdr(msg, msg.__msgtype__), msg.__msgtype__)


@st.composite
def object_boxes(draw):
    count = draw(st.integers(0, 8))
    coordinate = st.floats(0, 4000, width=32)
    side = st.floats(0.125, 1000, width=32)
    starts = np.array([[draw(coordinate), draw(coordinate)] for _ in range(count)], np.float32).reshape(-1, 2)
    sizes = np.array([[draw(side), draw(side)] for _ in range(count)], np.float32).reshape(-1, 2)
    labels = np.array([draw(st.integers(0, 9)) for _ in range(count)], np.int32)
    return np.concatenate([starts, starts + sizes], axis=1), labels, draw(st.integers(0, 2**32 - 1))


class TestBoxes:
    @given(object_boxes())
    def test_detections_survive_the_wire(self, objects):
        boxes_xyxy, labels, seed = objects
        scores = np.sort(np.random.default_rng(seed).random(len(labels), np.float32))[::-1]
        msg = through_cdr(messages.detections_to_message(Detections(boxes_xyxy, scores, labels), header(), types=TYPES))
        back = messages.detections_from_message(msg)
        np.testing.assert_allclose(back.boxes_xyxy, boxes_xyxy, rtol=0, atol=1e-9)
        np.testing.assert_array_equal(back.scores, scores)
        np.testing.assert_array_equal(back.labels, labels)
        assert (back.boxes_xyxy.dtype, back.scores.dtype, back.labels.dtype) == (np.float32, np.float32, np.int32)

    @given(object_boxes())
    def test_truth_survives_the_wire_with_its_crowds(self, objects):
        boxes_xyxy, labels, seed = objects
        crowd = np.random.default_rng(seed).random(len(labels)) < 0.5
        msg = through_cdr(messages.truth_to_message(TruthBoxes(boxes_xyxy, labels, crowd), header(), types=TYPES))
        back = messages.truth_boxes_from_message(msg)
        np.testing.assert_allclose(back.boxes_xyxy, boxes_xyxy, rtol=0, atol=1e-9)
        np.testing.assert_array_equal(back.labels, labels)
        np.testing.assert_array_equal(back.crowd, crowd)

    def test_a_crowd_is_a_second_hypothesis_behind_the_class(self):
        boxes = TruthBoxes(np.float32([[0, 0, 9, 9], [0, 0, 5, 5]]), np.int32([2, 0]), np.array([True, False]))
        msg = through_cdr(messages.truth_to_message(boxes, header(), types=TYPES))
        said = [[(r.hypothesis.class_id, r.hypothesis.score) for r in box.results] for box in msg.detections]
        assert said == [[("car", 1.0), ("crowd", 1.0)], [("pedestrian", 1.0)]]
        assert [box.id for box in msg.detections] == ["", ""]  # vision_msgs' field for tracks
        # Who knows nothing of crowds and takes the best hypothesis reads the class.
        assert sorted(messages.detections_from_message(msg).labels.tolist()) == [0, 2]

    def test_crowds_of_older_bags_are_read(self):
        boxes = TruthBoxes(np.float32([[0, 0, 9, 9], [0, 0, 5, 5]]), np.int32([2, 0]), np.array([False, False]))
        msg = messages.truth_to_message(boxes, header(), types=TYPES)
        msg.detections[0].id = "crowd"  # as it was written before there was a second hypothesis
        back = messages.truth_boxes_from_message(through_cdr(msg))
        assert back.crowd.tolist() == [True, False]
        assert back.labels.tolist() == [2, 0]

    def test_a_track_is_no_crowd(self):
        boxes = TruthBoxes(np.float32([[0, 0, 9, 9]]), np.int32([2]), np.array([False]))
        msg = messages.truth_to_message(boxes, header(), types=TYPES)
        msg.detections[0].id = "17"
        assert messages.truth_boxes_from_message(through_cdr(msg)).crowd.tolist() == [False]

    def test_fields_are_what_vision_msgs_asks_for(self):
        detections = Detections(
            np.array([[10, 20, 30, 60]], np.float32), np.array([0.75], np.float32), np.array([2], np.int32)
        )
        msg = messages.detections_to_message(detections, header(), types=TYPES)
        (box,) = msg.detections
        assert messages.stamp_ns(msg.header) == messages.stamp_ns(box.header) == STAMP
        assert msg.header.frame_id == box.header.frame_id == "camera"
        assert (box.bbox.center.position.x, box.bbox.center.position.y) == (20.0, 40.0)
        assert (box.bbox.size_x, box.bbox.size_y, box.bbox.center.theta) == (20.0, 40.0, 0.0)
        assert (box.results[0].hypothesis.class_id, box.results[0].hypothesis.score) == ("car", 0.75)
        assert box.id == ""

    def test_detections_are_sorted_by_score(self):
        detections = Detections(np.eye(4, dtype=np.float32)[:2], np.float32([0.1, 0.9]), np.int32([0, 1]))
        back = messages.detections_from_message(messages.detections_to_message(detections, header(), types=TYPES))
        assert back.labels.tolist() == [1, 0]

    def test_an_unknown_class_is_named(self):
        detections = Detections(np.ones((1, 4), np.float32), np.ones(1, np.float32), np.zeros(1, np.int32))
        msg = messages.detections_to_message(detections, header(), types=TYPES)
        msg.detections[0].results[0].hypothesis.class_id = "person"
        with pytest.raises(VocabularyMismatchError, match="'person' is not one of pedestrian, rider"):
            messages.detections_from_message(msg)


def rgb_image(height=6, width=8):
    return np.random.default_rng(3).integers(0, 256, (height, width, 3), np.uint8)


def mosaic(image, pattern):
    """The one colour of each pixel that a Bayer sensor sees, with ``pattern`` naming the first two rows."""
    channel = {"r": 0, "g": 1, "b": 2}
    raw = np.empty(image.shape[:2], np.uint8)
    for index, color in enumerate(pattern):
        row, column = divmod(index, 2)
        raw[row::2, column::2] = image[row::2, column::2, channel[color]]
    return raw


class TestImages:
    @pytest.mark.parametrize(
        ("encoding", "encode"),
        [
            ("rgb8", lambda image: image),
            ("bgr8", lambda image: image[..., ::-1]),
            ("8UC3", lambda image: image[..., ::-1]),
            ("rgba8", lambda image: cv2.cvtColor(image, cv2.COLOR_RGB2RGBA)),
            ("bgra8", lambda image: cv2.cvtColor(image, cv2.COLOR_RGB2BGRA)),
        ],
    )
    @pytest.mark.parametrize("padding", [0, 5])
    def test_colour_encodings_are_exact_with_and_without_row_padding(self, encoding, encode, padding):
        image = rgb_image()
        rows = np.ascontiguousarray(encode(image)).reshape(6, -1)
        padded = np.pad(rows, ((0, 0), (0, padding)), constant_values=77)
        msg = through_cdr(image_message(padded.tobytes(), encoding, 6, 8, padded.shape[1]))
        np.testing.assert_array_equal(messages.image_from_message(msg), image)

    @pytest.mark.parametrize("encoding", ["mono8", "8UC1"])
    def test_grey_becomes_rgb(self, encoding):
        grey = rgb_image()[..., 0]
        msg = image_message(grey.tobytes(), encoding, 6, 8, 8)
        np.testing.assert_array_equal(messages.image_from_message(msg), np.stack([grey] * 3, axis=2))

    @pytest.mark.parametrize(
        ("encoding", "order"), [("yuv422", "uyvy"), ("uyvy", "uyvy"), ("yuv422_yuy2", "yuyv"), ("yuyv", "yuyv")]
    )
    def test_packed_yuv(self, encoding, order):
        # BT.601 limited range: Y = 82, U = 90, V = 240 is pure red, and chroma swaps would make it blue or green.
        values = {"y": 82, "u": 90, "v": 240}
        data = bytes(values[part] for part in order) * (4 * 6)
        image = messages.image_from_message(image_message(data, encoding, 6, 8, 16))
        assert np.abs(image.astype(int) - [255, 0, 0]).max() <= 3

    @pytest.mark.parametrize(("encoding", "chroma"), [("nv12", (90, 240)), ("nv21", (240, 90))])
    def test_semi_planar_yuv(self, encoding, chroma):
        data = bytes([82]) * (6 * 8) + bytes(chroma) * (3 * 4)
        image = messages.image_from_message(image_message(data, encoding, 6, 8, 8))
        assert image.shape == (6, 8, 3)
        assert np.abs(image.astype(int) - [255, 0, 0]).max() <= 3

    @pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
    def test_bayer_patterns(self, pattern):
        flat = np.full((8, 8, 3), (200, 100, 50), np.uint8)
        data = mosaic(flat, pattern).tobytes()
        image = messages.image_from_message(image_message(data, f"bayer_{pattern}8", 8, 8, 8))
        np.testing.assert_array_equal(image, flat)

    def test_the_byte_order_is_the_messages(self):
        msg = image_message(bytes([255, 0]) * 48, "mono16", 6, 8, 16)
        assert (messages.image_from_message(msg) == 1).all()
        msg.is_bigendian = 1
        assert (messages.image_from_message(msg) == 254).all()

    def test_ros_arrays_are_read_without_a_copy(self):
        image = rgb_image()
        msg = image_message(b"", "rgb8", 6, 8, 24)
        msg.data = array.array("B", image.tobytes())
        out = messages.image_from_message(msg)
        np.testing.assert_array_equal(out, image)
        assert np.shares_memory(out, np.frombuffer(msg.data, np.uint8))

    @pytest.mark.parametrize(
        ("encoding", "height", "width", "step", "size", "sentence"),
        [
            ("16UC1", 6, 8, 16, 96, r"image encoding '16UC1' is not one of rgb8.*publish rgb8"),
            ("32FC1", 6, 8, 32, 192, "image encoding '32FC1'"),
            ("", 6, 8, 24, 144, "image encoding ''"),
            ("rgb8", 6, 8, 8, 144, r"step 8 is shorter than a row of 8 rgb8 pixels \(24 bytes\); set step to 24"),
            ("rgb8", 480, 640, 1920, 30, "needs 921600 bytes but carries 30; the message is truncated"),
            ("rgb8", 6, 8, 0, 144, "step 0 is shorter"),
            ("rgb8", 0, 8, 24, 0, "8x0 pixels is empty"),
            ("rgb16", 6, 8, 24, 144, r"step 24 is shorter than a row of 8 rgb16 pixels \(48 bytes\)"),
            ("nv12", 6, 8, 8, 48, "needs 72 bytes but carries 48"),
            ("nv24", 6, 8, 8, 72, "needs 144 bytes but carries 72"),
            (
                "mono8",
                65500,
                65500,
                65500,
                9,
                "65500x65500 pixels has more than 67 megapixels and is not processed; publish",
            ),
            ("a\n\x1b[2J" + "b" * 99, 6, 8, 24, 144, r"image encoding 'a\\n\\x1b\[2Jb{54}…' is not one of rgb8"),
            ("yuyv", 6, 7, 14, 84, r"step 14 is shorter than a row of 7 yuyv pixels \(16 bytes\); set step to 16"),
        ],
    )
    def test_a_wrong_message_is_one_sentence_with_a_remedy(self, encoding, height, width, step, size, sentence):
        with pytest.raises(MessageError, match=sentence):
            messages.image_from_message(image_message(bytes(size), encoding, height, width, step))

    def test_an_image_message_carries_the_image(self):
        image = rgb_image()
        source = header()
        msg = messages.image_to_message(image, source, types=TYPES)
        assert (msg.encoding, msg.step, msg.height, msg.width, msg.header) == ("rgb8", 24, 6, 8, source)
        np.testing.assert_array_equal(messages.image_from_message(through_cdr(msg)), image)


class TestCompressedImages:
    def compressed(self, data, image_format="jpeg"):
        return TYPES.CompressedImage(header=header(), format=image_format, data=np.frombuffer(data, np.uint8))

    def test_png_is_exact(self):
        image = rgb_image()
        png = cv2.imencode(".png", image[..., ::-1])[1].tobytes()
        np.testing.assert_array_equal(messages.image_from_compressed(self.compressed(png, "png")), image)

    @pytest.mark.parametrize(
        ("damage", "sentence"),
        [
            (lambda jpeg: jpeg[: len(jpeg) // 2], r"compressed image \(jpeg\) is a truncated image"),
            (lambda jpeg: b"", "is empty"),
            (lambda jpeg: b"no image at all", "cannot be decoded"),
            (lambda jpeg: jpeg[:3] + b"\x00" * 40 + b"\xff\xd9", "truncated"),
        ],
    )
    def test_damage_is_an_error_not_a_grey_image(self, damage, sentence):
        jpeg = cv2.imencode(".jpg", rgb_image(64, 64))[1].tobytes()
        with pytest.raises(ImageError, match=sentence):
            messages.image_from_compressed(self.compressed(damage(jpeg)))

    @pytest.mark.parametrize(
        "image_format", ["", "png", "rgb8; png compressed bgr8", "bgr8; png compressed", "mono16; png compressed "]
    )
    def test_the_format_does_not_matter(self, image_format):
        image = rgb_image()
        png = cv2.imencode(".png", image[..., ::-1])[1].tobytes()
        np.testing.assert_array_equal(messages.image_from_compressed(self.compressed(png, image_format)), image)

    @pytest.mark.parametrize(
        "image_format",
        ["bayer_gbrg8; png compressed ", "bayer_gbrg8; jpeg compressed bayer_gbrg8", "bayer_gbrg16; png compressed"],
    )
    def test_bayer_images_that_were_compressed_as_they_were_get_their_colours(self, image_format):
        flat = np.full((8, 8, 3), (200, 100, 50), np.uint8)
        png = cv2.imencode(".png", mosaic(flat, "gbrg"))[1].tobytes()
        np.testing.assert_array_equal(messages.image_from_compressed(self.compressed(png, image_format)), flat)

    @pytest.mark.parametrize(
        "image_format", ["bayer_gbrg8; jpeg compressed bgr8", "bayer_gbrg8; jpeg compressed mono8"]
    )
    def test_bayer_images_that_were_converted_before_are_left_alone(self, image_format):
        image = rgb_image()
        png = cv2.imencode(".png", image[..., ::-1])[1].tobytes()
        np.testing.assert_array_equal(messages.image_from_compressed(self.compressed(png, image_format)), image)

    def test_a_depth_image_is_no_camera(self):
        with pytest.raises(
            MessageError, match=r"compressedDepth png\) is a depth image; subscribe to a colour or grey"
        ):
            messages.image_from_compressed(self.compressed(b"anything", "16UC1; compressedDepth png"))

    def test_what_a_message_says_of_itself_stays_on_its_line(self):
        with pytest.raises(ImageError) as caught:
            messages.image_from_compressed(self.compressed(b"x", "jpeg\n[FATAL] all is well\u202e" + "x" * 1_000_000))
        shown = r"compressed image (jpeg\n[FATAL] all is well\u202e" + "x" * 35 + "…) cannot be decoded as an image"
        assert str(caught.value).startswith(shown)
        assert len(str(caught.value)) < 200

    def test_the_limit_of_pixels_is_the_cameras(self):
        png = cv2.imencode(".png", rgb_image(20, 30))[1].tobytes()
        assert messages.image_from_compressed(self.compressed(png), most_pixels=600).shape == (20, 30, 3)
        with pytest.raises(ImageError, match=r"of 30x20 pixels, and more than 0\.000599 megapixels are not decoded"):
            messages.image_from_compressed(self.compressed(png), most_pixels=599)
        raw = image_message(bytes(144), "rgb8", 6, 8, 24)
        assert messages.image_from_message(raw, most_pixels=48).shape == (6, 8, 3)
        with pytest.raises(MessageError, match=r"an image of 8x6 pixels has more than 4\.7e-05 megapixels"):
            messages.image_from_message(raw, most_pixels=47)

    def test_a_padded_jpeg_is_fine(self):
        jpeg = cv2.imencode(".jpg", rgb_image(64, 64))[1].tobytes()
        plain = messages.image_from_compressed(self.compressed(jpeg))
        np.testing.assert_array_equal(messages.image_from_compressed(self.compressed(jpeg + b"\x00" * 100)), plain)


class TestMasks:
    def test_a_mask_is_a_plain_mono8_image(self):
        mask = np.random.default_rng(0).integers(0, 19, (5, 7), np.uint8)
        msg = through_cdr(messages.mask_to_message(mask[:, ::1], header(), types=TYPES))
        assert (msg.encoding, msg.height, msg.width, msg.step, len(msg.data)) == ("mono8", 5, 7, 7, 35)
        np.testing.assert_array_equal(messages.mask_from_message(msg), mask)

    def test_a_strided_mask_is_packed(self):
        mask = np.arange(60, dtype=np.uint8).reshape(6, 10)[::2, ::2]
        msg = messages.mask_to_message(mask, header(), types=TYPES)
        np.testing.assert_array_equal(messages.mask_from_message(msg), mask)

    def test_a_colour_image_is_no_mask(self):
        with pytest.raises(MessageError, match="'rgb8' holds no class ids"):
            messages.mask_from_message(image_message(bytes(144), "rgb8", 6, 8, 24))


class TestLabelInfo:
    @pytest.mark.parametrize("vocabulary", [SEMANTIC, DRIVABLE])
    def test_it_lists_the_classes_by_pixel_value(self, vocabulary):
        msg = through_cdr(messages.label_info_to_message(vocabulary, header(), threshold=0.5, types=TYPES))
        assert [(entry.class_id, entry.class_name) for entry in msg.class_map] == list(enumerate(vocabulary.names))
        assert msg.threshold == 0.5
        messages.check_label_info(msg, vocabulary, source="bag")

    def test_other_classes_are_refused(self):
        msg = messages.label_info_to_message(DRIVABLE, header(), types=TYPES)
        sentence = (
            r"bag: its semantic classes are not road, .*, bicycle: it lacks road, .* and has direct, .*; bags are "
        )
        with pytest.raises(VocabularyMismatchError, match=f"{sentence}measured by these classes"):
            messages.check_label_info(msg, SEMANTIC, source="bag")

    def test_other_ids_are_refused(self):
        msg = messages.label_info_to_message(DRIVABLE, header(), types=TYPES)
        for entry in msg.class_map:
            entry.class_id += 1
        with pytest.raises(VocabularyMismatchError, match="background: it numbers them differently; bags"):
            messages.check_label_info(msg, DRIVABLE, source="bag")


class TestRosFamily:
    def test_pack_gives_rclpy_an_array_of_bytes(self):
        pixels = rgb_image()
        packed = messages._pack_array(pixels)
        assert isinstance(packed, array.array)
        assert packed.typecode == "B"
        assert packed.tobytes() == pixels.tobytes()

    def test_every_builder_works_with_ros_classes(self):
        pytest.importorskip("vision_msgs.msg", reason="no ROS 2 environment is sourced")
        pytest.importorskip("sensor_msgs.msg", reason="no ROS 2 environment is sourced")
        types = messages.ros_types()
        source = messages.make_header(STAMP, "camera", types=types)
        image = rgb_image()
        msg = messages.image_to_message(image, source, types=types)
        assert isinstance(msg, types.Image)
        np.testing.assert_array_equal(messages.image_from_message(msg), image)
        boxes = TruthBoxes(np.float32([[1, 2, 3, 4]]), np.int32([DETECTION.index("bus")]), np.array([True]))
        back = messages.truth_boxes_from_message(messages.truth_to_message(boxes, source, types=types))
        np.testing.assert_array_equal(back.boxes_xyxy, boxes.boxes_xyxy)
        assert back.crowd.tolist() == [True]
        info = messages.label_info_to_message(SEMANTIC, source, types=types)
        messages.check_label_info(info, SEMANTIC, source="ROS")


class TestMissingRosbags:
    def test_it_says_what_to_install(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "rosbags.typesys", None)
        with pytest.raises(MissingDependencyError, match=r"install it with: pip install 'lvad_perception\[bags\]'"):
            messages.rosbags_typestore.__wrapped__()
