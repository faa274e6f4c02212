import io
import tracemalloc
import zlib

import numpy as np
import PIL.Image
import pytest

from lvad_perception.datasets.bdd100k.labels import decode_frame, frames_of
from lvad_perception.datasets.bdd100k.masks import drivable_from_labels, folder_reading, read_mask, semantic_from_labels
from lvad_perception.errors import LabelError
from lvad_perception.vocabulary import DRIVABLE, DRIVABLE_BACKGROUND, SEMANTIC, UNLABELED

IDS = np.array([[0, 1, 2], [18, 13, 255]], np.uint8)


def save(path, pixels, *, palette=None):
    image = PIL.Image.fromarray(pixels)
    if palette is not None:
        image.putpalette(palette)
    image.save(path)
    return path


def official_palette():
    flat = [channel for color in SEMANTIC.colors for channel in color]
    return flat + [0] * (768 - len(flat))


def labels_of(things, size_hw=(10, 12)):
    import json

    return decode_frame(json.dumps({"name": "x", "labels": things}).encode(), source="x").all_labels


def square(x1, y1, x2, y2):
    return [{"vertices": [[x1, y1], [x2, y1], [x2, y2], [x1, y2]], "types": "LLLL", "closed": True}]


def test_grey_masks_hold_ids(tmp_path):
    mask = read_mask(save(tmp_path / "a.png", IDS), "semantic")
    np.testing.assert_array_equal(mask, IDS)
    assert mask.flags.writeable


def test_palette_masks_hold_ids_whose_colours_say_the_same(tmp_path):
    mask = read_mask(save(tmp_path / "a.png", IDS, palette=official_palette()), "semantic")
    np.testing.assert_array_equal(mask, IDS)


def test_palette_in_another_order_is_read_by_its_colours(tmp_path):
    road_last = [0, 0, 0, *SEMANTIC.colors[13], *SEMANTIC.colors[0]] + [0] * 759
    mask = read_mask(save(tmp_path / "a.png", np.array([[0, 1, 2]], np.uint8), palette=road_last), "semantic")
    np.testing.assert_array_equal(mask, [[UNLABELED, 13, 0]])


def test_palette_of_foreign_colours_is_read_by_its_indices(tmp_path):
    foreign = list(range(1, 256)) * 3 + [9, 9, 9]
    mask = read_mask(save(tmp_path / "a.png", IDS, palette=foreign[:768]), "semantic")
    np.testing.assert_array_equal(mask, IDS)


def test_colour_maps_are_read_by_the_colours_of_the_task(tmp_path):
    semantic = np.array([[SEMANTIC.colors[0], SEMANTIC.colors[18], (0, 0, 0)]], np.uint8)
    np.testing.assert_array_equal(read_mask(save(tmp_path / "s.png", semantic), "semantic"), [[0, 18, UNLABELED]])
    drivable = np.array([[DRIVABLE.colors[1], DRIVABLE.colors[0], (0, 0, 0)]], np.uint8)
    np.testing.assert_array_equal(read_mask(save(tmp_path / "d.png", drivable), "drivable"), [[1, 0, 2]])
    with pytest.raises(LabelError, match=r"s\.png holds the colour \(\d+, \d+, \d+\), which is no drivable class"):
        read_mask(tmp_path / "s.png", "drivable")


def test_old_drivable_ids_are_recognised_by_the_file_name(tmp_path):
    old = np.array([[0, 1, 2, 255]], np.uint8)
    mask = read_mask(save(tmp_path / "a_drivable_id.png", old), "drivable")
    np.testing.assert_array_equal(mask, [[2, 0, 1, UNLABELED]])
    np.testing.assert_array_equal(read_mask(save(tmp_path / "a.png", old), "drivable"), old)


@pytest.mark.parametrize(
    ("pixels", "task", "message"),
    [
        (np.full((2, 2), 19, np.uint8), "semantic", r"a\.png holds the id 19, which no semantic class has \(0 to 18"),
        (np.array([[3, 0, 4]], np.uint8), "drivable", "holds the ids 3, 4, which no drivable class has"),
        (np.zeros((2, 2, 4), np.uint8), "semantic", "is a RGBA bitmask of instances, not a semantic mask"),
        (np.zeros((2, 2), np.uint16), "semantic", "has pixel type I;16, not 8-bit ids"),
    ],
)
def test_images_that_are_no_mask_of_the_task_are_refused(tmp_path, pixels, task, message):
    with pytest.raises(LabelError, match=message):
        read_mask(save(tmp_path / "a.png", pixels), task)


def test_unreadable_masks_are_refused(tmp_path):
    path = save(tmp_path / "a.png", np.random.default_rng(0).integers(0, 19, (99, 99)).astype(np.uint8))
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(LabelError, match=r"a\.png cannot be read as a mask"):
        read_mask(path, "semantic")
    path.write_bytes(b"not an image")
    with pytest.raises(LabelError, match=r"a\.png is not an image"):
        read_mask(path, "semantic")
    with pytest.raises(LabelError, match=r"b\.png cannot be read as a mask"):
        read_mask(tmp_path / "b.png", "semantic")


GREY_RAMP = [channel for value in range(256) for channel in (value, value, value)]
VOC_LIKE = [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0, *range(200)]


def folder_of(tmp_path, pictures, task="semantic"):
    """Class ids of several (pixels, palette) that are saved in one folder."""
    paths = [save(tmp_path / f"{i:02d}.png", pixels, palette=palette) for i, (pixels, palette) in enumerate(pictures)]
    reading = folder_reading(paths, task)
    return reading, [read_mask(path, task, reading).tolist() for path in paths]


def row(*ids):
    return np.array([ids], np.uint8)


def grey_rgb(*ids):
    return np.repeat(row(*ids)[..., None], 3, axis=2)


@pytest.mark.parametrize("task", ["semantic", "drivable"])
@pytest.mark.parametrize("palette", [GREY_RAMP, [9, 9, 9, *GREY_RAMP[3:]], VOC_LIKE])
def test_ids_saved_with_a_palette_that_is_no_classes_are_ids_in_every_picture(tmp_path, palette, task):
    pictures = [(row(0, 0, 0), palette), (row(0, 255), palette), (row(0, 1, 2), palette), (row(2, 2), palette)]
    assert folder_of(tmp_path, pictures, task) == ("ids", [[[0, 0, 0]], [[0, 255]], [[0, 1, 2]], [[2, 2]]])


@pytest.mark.parametrize("palette", [GREY_RAMP, [0, 0, 0]])
def test_a_folder_of_road_alone_is_road(tmp_path, palette):
    assert folder_of(tmp_path, [(row(0, 0), palette)]) == ("ids", [[[0, 0]]])
    assert read_mask(tmp_path / "00.png", "semantic").tolist() == [[0, 0]]


def test_palettes_of_class_colours_are_colours_in_every_picture(tmp_path):
    car_road = [0, 0, 0, *SEMANTIC.colors[13], *SEMANTIC.colors[0]]
    pictures = [(row(0, 1, 2), car_road), (row(0, 0), [0, 0, 0]), (row(1, 2), car_road), (row(0, 0), car_road)]
    reading, found = folder_of(tmp_path, pictures)
    assert (reading, found) == ("colors", [[[UNLABELED, 13, 0]], [[UNLABELED] * 2], [[13, 0]], [[UNLABELED] * 2]])


def test_the_reading_does_not_depend_on_the_order_of_the_files(tmp_path):
    road_first = [*SEMANTIC.colors[0], 0, 0, 0]
    pictures = [(row(1, 1), GREY_RAMP), (row(0, 1), road_first), (row(0, 1), road_first)]
    for place, order in enumerate(((0, 1, 2), (2, 1, 0))):
        folder = tmp_path / str(place)
        folder.mkdir()
        assert folder_of(folder, [pictures[i] for i in order[1:]])[0] in ("ids", "colors")
    with pytest.raises(
        LabelError, match="has a palette that can only mean ids, those of its folder mean colours; save"
    ):
        folder_of(tmp_path, [(row(0, 1), [0, 0, 0, *SEMANTIC.colors[13]])] * 2 + [(row(5, 6), GREY_RAMP)])


def test_a_palette_that_contradicts_its_folder_is_refused(tmp_path):
    pictures = [(row(5, 6), GREY_RAMP)] * 3 + [(row(20, 21), [0] * 60 + [*SEMANTIC.colors[13], *SEMANTIC.colors[0]])]
    with pytest.raises(
        LabelError, match=r"03\.png has a palette that can only mean colours, those of its folder mean ids"
    ):
        folder_of(tmp_path, pictures)


def test_ids_saved_as_grey_rgb_are_ids(tmp_path):
    pictures = [(grey_rgb(0, 0), None), (grey_rgb(0, 255), None), (grey_rgb(0, 13, 10), None)]
    assert folder_of(tmp_path, pictures) == ("ids", [[[0, 0]], [[0, 255]], [[0, 13, 10]]])
    colors = np.array([[SEMANTIC.colors[13], (0, 0, 0)]], np.uint8)
    assert folder_of(tmp_path, [(grey_rgb(0, 0), None), (colors, None)]) == (
        "colors",
        [[[UNLABELED, UNLABELED]], [[13, UNLABELED]]],
    )


def test_a_large_folder_is_sampled(tmp_path):
    pictures = [(row(0, 0), GREY_RAMP)] * 30 + [(row(0, 7), GREY_RAMP)] * 30
    assert folder_of(tmp_path, pictures)[0] == "ids"
    assert folder_reading([], "semantic") is None
    assert folder_reading([save(tmp_path / "grey.png", IDS)], "semantic") is None


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_lossy_masks_are_refused(tmp_path, kind):
    PIL.Image.fromarray(np.zeros((16, 16), np.uint8)).save(tmp_path / "a.png", kind)
    with pytest.raises(
        LabelError, match=rf"a\.png holds {kind} data, whose compression changes ids; save the mask as PNG"
    ):
        read_mask(tmp_path / "a.png", "semantic")


def png_of(width, height):
    """A PNG of a few bytes that states a size and has no pixels for it."""

    def chunk(kind, data):
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x00\x00\x00\x00"
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(9))) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("width", "height"), [(13784, 13784), (65500, 65500), (2**31 - 1, 2**31 - 1)])
def test_masks_of_190_megapixels_and_bombs_are_refused_by_their_header(tmp_path, width, height):
    (tmp_path / "a.png").write_bytes(png_of(width, height))
    with pytest.raises(
        LabelError, match=rf"a\.png is a mask of {width}x{height} pixels, and more than 67 megapixels are not"
    ):
        read_mask(tmp_path / "a.png", "semantic")


def test_bombs_of_other_formats_are_refused(tmp_path):
    stream = io.BytesIO()
    PIL.Image.fromarray(np.zeros((2, 2), np.uint8)).save(stream, "BMP")
    data = bytearray(stream.getvalue())
    data[18:26] = (65500).to_bytes(4, "little") * 2
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(LabelError, match=r"a\.png is a mask of 65500x65500 pixels"):
        read_mask(tmp_path / "a.png", "semantic")


def test_a_large_mask_is_read_in_little_more_memory_than_it_has_pixels(tmp_path):
    pixels = np.zeros((6000, 8000, 3), np.uint8)
    pixels[:] = SEMANTIC.colors[10]
    path = save(tmp_path / "a.png", pixels)
    tracemalloc.start()
    try:
        assert (read_mask(path, "semantic") == 10).all()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3 * pixels.nbytes


def test_postscript_is_not_run(tmp_path):
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n")
    with pytest.raises(LabelError, match=r"a\.png is not an image"):
        read_mask(tmp_path / "a.png", "semantic")


def test_later_labels_cover_earlier_ones_and_unevaluated_ones_are_unlabelled():
    mask = semantic_from_labels(
        labels_of(
            [
                {"category": "road", "poly2d": square(0, 0, 12, 10)},
                {"category": "car", "poly2d": square(2, 2, 6, 6)},
                {"category": "ego vehicle", "poly2d": square(4, 4, 8, 8)},
                {"category": "spaceship", "poly2d": square(0, 0, 12, 10)},
                {"category": "bus", "poly2d": None, "rle": None},
            ]
        ),
        (10, 12),
        source="x",
    )
    expected = np.zeros((10, 12), np.uint8)
    expected[2:6, 2:6] = 13
    expected[4:8, 4:8] = UNLABELED
    np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize(
    ("label", "value"),
    [
        ({"category": "drivable area", "attributes": {"areaType": "direct"}}, 0),
        ({"category": "drivable area", "attributes": {"areaType": "alternative"}}, 1),
        ({"category": "drivable area"}, UNLABELED),
        ({"category": "direct"}, 0),
        ({"category": "alternative"}, 1),
        ({"category": "area/drivable"}, 0),
        ({"category": "area/alternative"}, 1),
        ({"category": "area/unknown"}, UNLABELED),
        ({"category": "lane"}, DRIVABLE_BACKGROUND),
    ],
)
def test_drivable_areas_of_every_spelling(label, value):
    mask = drivable_from_labels(labels_of([{**label, "poly2d": square(1, 1, 3, 3)}]), (10, 12), source="x")
    expected = np.full((10, 12), DRIVABLE_BACKGROUND, np.uint8)
    expected[1:3, 1:3] = value
    np.testing.assert_array_equal(mask, expected)


def test_run_lengths_of_another_size_are_refused():
    things = labels_of([{"category": "car", "rle": {"counts": [0, 12], "size": [3, 4]}}])
    assert (semantic_from_labels(things, (3, 4), source="x") == 13).all()
    with pytest.raises(LabelError, match=r"frame 7: label of 'car': 'rle' has size 3x4, the image 6x8; repair"):
        semantic_from_labels(things, (6, 8), source="frame 7")


def agreement(mask, path, background):
    """Pixels that differ from a published mask, and the share of its foreground that agrees."""
    expected = np.asarray(PIL.Image.open(path))
    inside = expected != background
    return int((mask != expected).sum()), float((mask == expected)[inside].mean())


SEGMENTATIONS = [
    # label file, mask, shapes to leave out, pixels of 921,600 that may differ
    ("seg/sem_seg_rle_dataset_7d06fefd.json", "expected/7d06fefd-f7be05a6_sem_seg_mask.png", (), 0),
    ("seg/sem_seg_poly2d_7d06fefd.json", "expected/7d06fefd-f7be05a6_sem_seg_mask.png", ("rle",), 0),
    ("seg/sem_seg_rle_9159d511.json", "seg/sem_seg_mask_9159d511.png", (), 0),
    ("seg/rle_and_poly2d_same_label.json", "seg/poly2d_with_bezier_b1c81faa_mask.png", (), 0),
    ("seg/poly2d_with_bezier_b1c81faa.json", "seg/poly2d_with_bezier_b1c81faa_mask.png", (), 30),
]


@pytest.mark.parametrize(("labels", "published", "without", "tolerated"), SEGMENTATIONS)
def test_real_shapes_give_the_published_masks(format_cases, labels, published, without, tolerated):
    (entry,) = frames_of(format_cases / labels)
    for label in entry.frame.all_labels:
        for name in without:
            setattr(label, name, decode_frame(b'{"labels": [{}]}', source="x").all_labels[0].rle)
    mask = semantic_from_labels(entry.frame.all_labels, (720, 1280), source=labels)
    wrong, inside = agreement(mask, format_cases / published, UNLABELED)
    assert wrong <= tolerated
    assert inside >= 0.9995


def test_real_drivable_polygon_of_2018_gives_the_official_mask(format_cases):
    (entry,) = frames_of(format_cases / "bdd100k_labels_images_2018_one_frame.json")
    mask = drivable_from_labels(entry.frame.all_labels, (720, 1280), source="x")
    path = format_cases / "expected" / "1cd5d614-35d63896_drivable_mask.png"
    wrong, inside = agreement(mask, path, DRIVABLE_BACKGROUND)
    assert wrong <= 20
    assert inside >= 0.9995


def test_real_label_without_shape_leaves_everything_unlabelled(format_cases):
    (entry,) = frames_of(format_cases / "seg" / "sem_seg_labels_without_rle.json")
    assert (semantic_from_labels(entry.frame.all_labels, (8, 8), source="x") == UNLABELED).all()


@pytest.mark.parametrize("name", ["overlapping_masks.json", "lane_boundary_rle_first1.json"])
def test_real_run_lengths_of_other_tasks_decode(format_cases, name):
    (entry,) = frames_of(format_cases / "seg" / name)
    assert all(label.has_shape for label in entry.frame.all_labels)
    mask = semantic_from_labels(entry.frame.all_labels, (720, 1280), source=name)
    assert set(np.unique(mask)) <= {*range(19), UNLABELED}


@pytest.mark.parametrize(
    ("name", "task", "message"),
    [
        ("seg/ins_seg_bitmask_rgba.png", "semantic", "RGBA bitmask"),
        ("seg/pan_seg_bitmask_rgba.png", "semantic", "RGBA bitmask"),
        ("seg/lane_mask_fe189115-9981a740.png", "drivable", "holds the ids 4, 6, 7"),
        ("seg/lane_mask_fe189115-adbd209a.png", "drivable", "holds the id 4"),
        ("tiny/mmseg_pseudo_colormap_8x8.png", "semantic", "holds the ids 35, 107, 142"),
    ],
)
def test_real_masks_of_other_tasks_are_refused(format_cases, name, task, message):
    with pytest.raises(LabelError, match=message):
        read_mask(format_cases / name, task)


def test_smallest_legal_mask(format_cases):
    assert (read_mask(format_cases / "tiny" / "mmseg_pseudo_mask_8x8.png", "semantic") == 8).all()


def test_real_colour_maps_equal_id_masks(shared_data):
    for task, folder in (("semantic", "sem_seg"), ("drivable", "drivable")):
        labels = shared_data / "bdd-samples" / "labels" / folder
        paths = sorted(labels.glob("masks/*/*.png"))[:4]
        assert paths
        for path in paths:
            colored = labels / "colormaps" / path.parent.name / path.name
            np.testing.assert_array_equal(read_mask(colored, task), read_mask(path, task))
