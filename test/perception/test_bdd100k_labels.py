import json

import pytest

from lvad_perception.datasets.bdd100k.categories import detection_class, drivable_class, is_known, semantic_class
from lvad_perception.datasets.bdd100k.labels import decode_frame, frames_of
from lvad_perception.errors import LabelError
from lvad_perception.vocabulary import DETECTION, UNLABELED


def frame(content):
    return decode_frame(json.dumps(content).encode(), source="x")


def stems(path):
    return [entry.frame.stem for entry in frames_of(path)]


@pytest.mark.parametrize(
    ("category", "expected"),
    [
        ("person", ("pedestrian", False)),
        ("bike", ("bicycle", False)),
        ("motor", ("motorcycle", False)),
        ("caravan", ("car", False)),
        ("van", ("car", False)),
        ("other person", ("pedestrian", True)),
        ("other vehicle", ("car", True)),
        ("trailer", ("truck", True)),
        *((name, (name, False)) for name in DETECTION.names),
    ],
)
def test_detection_categories_map_as_the_official_configuration_says(category, expected):
    class_id, ignored = detection_class(category)
    assert (DETECTION.names[class_id], ignored) == expected


def test_categories_of_other_tasks_are_known_but_no_traffic_objects():
    for category in ("lane", "lane/road curb", "drivable area", "area/alternative", "sky", "ego vehicle"):
        assert detection_class(category) is None
        assert is_known(category)
    assert not is_known("spaceship")
    assert semantic_class("pedestrian") == semantic_class("person") == 11
    assert semantic_class("street light") == UNLABELED
    assert drivable_class("sky", None) is None


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("a-1.jpg", "a-1"),
        ("https://host/bucket/val/a-1.jpg", "a-1"),
        ("items/2/a-1.JPEG", "a-1"),
        ("folder\\a-1.png", "a-1"),
        ("a-1.jpg?x=1", "a-1"),
        ("a.b", "a.b"),
    ],
)
def test_frame_names_lose_folders_and_image_suffix(name, stem):
    assert frame({"name": name}).stem == stem
    assert frame({"url": name}).stem == stem


@pytest.mark.parametrize("labels", [{}, {"labels": None}, {"labels": []}])
def test_labels_missing_null_or_empty_are_no_labels(labels):
    assert frame({"name": "a", **labels}).all_labels == []


@pytest.mark.parametrize(
    ("attributes", "crowd"),
    [
        (None, False),
        ([], False),
        ({}, False),
        ({"crowd": True}, True),
        ({"crowd": False}, False),
        ({"Crowd": True}, True),
        ({"crowd": 1}, True),
        ({"crowd": "true"}, True),
        ({"crowd": "false"}, False),
        ({"Occluded": True, "Traffic Light Color": [0, "NA"]}, False),
    ],
)
def test_the_crowd_attribute_is_read_in_every_spelling(attributes, crowd):
    assert frame({"labels": [{"category": "car", "attributes": attributes}]}).all_labels[0].is_crowd is crowd


def test_frame_attributes_and_time():
    entry = frame({"attributes": {"Weather": "clear", "scene": None, "n": 3}, "timestamp": 10000})
    assert entry.attribute_texts() == {"weather": "clear", "n": "3"}
    assert entry.timestamp_ms == 10000
    assert frame({"attributes": None}).attribute_texts() == {}
    assert frame({}).timestamp_ms is None
    assert frame({"timestamp": "noon"}).timestamp_ms is None


def test_every_container_gives_the_same_frames(tmp_path):
    entries = [{"name": "a.jpg", "labels": [{"id": 7, "category": "car"}]}, {"name": "b.jpg"}]
    contents = {
        "list.json": entries,
        "dataset.json": {"frames": entries, "groups": None, "config": {"categories": []}},
    }
    for name, content in contents.items():
        path = tmp_path / name
        path.write_text("\n " + json.dumps(content, indent=2))
        found = list(frames_of(path))
        assert [entry.frame.stem for entry in found] == ["a", "b"]
        for entry, expected in zip(found, entries, strict=True):
            assert json.loads(path.read_bytes()[entry.offset : entry.offset + entry.length]) == expected
    folder = tmp_path / "folder"
    folder.mkdir()
    for entry in entries:
        (folder / f"{entry['name'][0]}.json").write_text(json.dumps(entry))
    assert stems(folder) == ["a", "b"]


def test_oldest_form_lists_objects_inside_frames(tmp_path):
    path = tmp_path / "a.json"
    box = {"x1": 1, "y1": 2, "x2": 3, "y2": 4}
    objects = [{"category": "car", "id": 0, "box2d": box}, {"category": "area/drivable", "poly2d": [[0, 0, "L"]]}]
    path.write_text(json.dumps({"name": "a", "frames": [{"timestamp": 10000, "objects": objects}], "attributes": {}}))
    (entry,) = frames_of(path)
    assert entry.frame.stem == "a"
    assert [thing.category for thing in entry.frame.all_labels] == ["car", "area/drivable"]
    assert entry.frame.timestamp_ms == 10000


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"labels\.json is empty; download it again"),
        ("[{", r"labels\.json is not valid JSON \(.*\); download or export it again"),
        ('[{"name": "a"}, {"name": "b", "labels": [{"box2d": {"x1": "one"}}]}]', r"entry 1 is not a BDD100K frame"),
        ('[{"name": "a", "labels": 3}]', "entry 0 is not a BDD100K frame"),
        ("[3]", "entry 0 is not a BDD100K frame"),
        ('[{"labels": []}]', "entry 0 has no name"),
        ('{"images": [], "annotations": []}', "neither a list of frames nor an object with 'frames'"),
        ('{"frames": 3}', "is not a BDD100K label file"),
        ('"text"', "neither a list of frames nor an object"),
    ],
)
def test_files_of_another_kind_are_refused(tmp_path, text, message):
    path = tmp_path / "labels.json"
    path.write_text(text)
    with pytest.raises(LabelError, match=message):
        list(frames_of(path))


BROKEN = json.dumps(
    [{"name": "a.jpg"}, {"name": "b.jpg", "labels": [{"category": "NaN", "box2d": {"x1": 1, "y1": float("nan")}}]}]
)


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity"])
@pytest.mark.parametrize("container", ["{}", '{{"frames": {}}}', "\ufeff{}"])
def test_numbers_that_json_does_not_have_are_named_with_their_entry(tmp_path, word, container):
    path = tmp_path / "labels.json"
    path.write_text(container.format(BROKEN.replace("NaN}", word + "}")), encoding="utf-8")
    with pytest.raises(
        LabelError, match=rf"labels\.json holds {word} in entry 1 \(b\), which JSON does not have; write"
    ):
        list(frames_of(path))


def test_a_byte_order_mark_is_read(tmp_path):
    path = tmp_path / "labels.json"
    path.write_text(json.dumps([{"name": "ä.jpg"}, {"name": "b.jpg"}]), encoding="utf-8-sig")
    found = list(frames_of(path))
    assert [entry.frame.stem for entry in found] == ["ä", "b"]
    assert json.loads(path.read_bytes()[found[1].offset :][: found[1].length]) == {"name": "b.jpg"}


@pytest.mark.parametrize(
    ("encoding", "message"),
    [
        ("utf-16", r"is UTF-16LE text; save it as UTF-8 \(iconv -f UTF-16LE -t UTF-8\)"),
        ("utf-16-le", "is UTF-16LE text"),
        ("utf-16-be", "is UTF-16BE text"),
        ("utf-32", "is UTF-32LE text"),
        ("utf-32-be", "is UTF-32BE text"),
        ("latin-1", "entry 0 is not UTF-8 .*; save the file as UTF-8"),
    ],
)
def test_other_encodings_are_named(tmp_path, encoding, message):
    path = tmp_path / "labels.json"
    path.write_text('[{"name": "é.jpg"}]', encoding=encoding)
    with pytest.raises(LabelError, match=message):
        list(frames_of(path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b" \n", "is empty; download it again"),
        (b"\x1f\x8b\x08\x00", "is gzip data; unpack it with gunzip"),
        (b"PK\x03\x04rest", "is a zip archive; unpack it"),
        (b"version https://git-lfs.github.com/spec/v1", "is Git LFS's pointer"),
        (b"<!DOCTYPE html><html></html>", "is a web page; the download went wrong"),
        (b'{"name": "a.jpg"}\n{"name": "b.jpg"}\n', r"is not one JSON but one object a line; .* jq -s \."),
        (b"[" * 100_000, "nested too deeply"),
        (b'[{"name": "a", "attributes": ' + b"[" * 100_000 + b"]" * 100_000 + b"}]", "nested too deeply"),
        (b'[{"name": "a\\ud800"}]', "is not valid JSON"),
        (b'[{"name": "' + b"a" * 256 + b'"}]', "entry 0: its name is longer than 255 bytes"),
        (b'[{"name": "a\\u0000b.jpg"}]', "entry 0: its name holds a NUL"),
    ],
)
def test_files_that_are_no_label_text_are_named_with_a_remedy(tmp_path, content, message):
    path = tmp_path / "labels.json"
    path.write_bytes(content)
    with pytest.raises(LabelError, match=message):
        list(frames_of(path))


@pytest.mark.parametrize("timestamp", [1e300, -1e300, 10**30, True, [1], {"a": 1}])
def test_impossible_times_are_ignored(timestamp):
    assert frame({"timestamp": timestamp}).timestamp_ms in (None, 1)


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(LabelError, match=r"none\.json cannot be read"):
        list(frames_of(tmp_path / "none.json"))


REAL_FRAMES = {
    "det/box_track_first2frames.json": (2, "b1c66a42-6f7d68ca-0000001", 29),
    "det/frames_without_labels_key.json": (10, "b1c66a42-6f7d68ca", 0),
    "det/ignored_categories_and_null_labels.json": (2, "00091078-875c1f73-0000166", 2),
    "det/names_are_urls_motor_category.json": (10, "c1ba5ee6-b2cb1e51", 4),
    "det/prediction_without_box2d.json": (1, "b1c66a42-6f7d68ca-0000001", 1),
    "det/predictions_first3frames.json": (3, "b1c66a42-6f7d68ca-0000001", 32),
    "det/scalabel_det_nulls_int_ids_b1c66a42.json": (1, "b1c66a42-6f7d68ca", 4),
    "bdd100k_labels_images_2018_one_frame.json": (1, "1cd5d614-35d63896", 15),
    "seg/sem_seg_poly2d_7d06fefd.json": (1, "7d06fefd-f7be05a6", 60),
}


@pytest.mark.parametrize("name", REAL_FRAMES)
def test_real_label_files(format_cases, name):
    found = list(frames_of(format_cases / name))
    assert (len(found), found[0].frame.stem, len(found[0].frame.all_labels)) == REAL_FRAMES[name]


@pytest.mark.parametrize("name", ["coco_rle.json", "scalabel_rle.json", "poly2ds.json", "poly2ds_to_polygon.json"])
def test_real_files_without_frames_are_refused(format_cases, name):
    with pytest.raises(LabelError, match=r"neither a list of frames|has no name"):
        list(frames_of(format_cases / "seg" / name))
