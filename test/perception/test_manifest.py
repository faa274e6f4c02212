import json

import pytest

from lvad_perception.errors import ModelFileError, VocabularyMismatchError
from lvad_perception.manifest import Manifest
from lvad_perception.vocabulary import DETECTION, NUIMAGES_DETECTION, SEMANTIC, TASKS


def read(metadata):
    return Manifest.from_json(json.dumps(metadata), source="model.onnx")


def test_it_reads_what_it_writes(make_manifest):
    manifest = make_manifest(training={"steps": 914, "data": "sample set"})
    assert Manifest.from_json(manifest.to_json(), source="x") == manifest


def test_outputs_follow_the_tasks(make_manifest):
    assert make_manifest().output_names == (
        *("boxes", "scores", "labels"),
        *("semantic", "semantic_confidence"),
        "drivable",
    )
    assert make_manifest(classes={"detection": DETECTION.names}).output_names == ("boxes", "scores", "labels")


def test_keys_of_later_versions_are_ignored(manifest_values):
    assert read({**manifest_values, "colour": "blue"}) == read(manifest_values)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"text"', "{}"])
def test_text_that_is_no_manifest(text):
    with pytest.raises(ModelFileError, match=r"model\.onnx: its manifest cannot be read .*; export the model again"):
        Manifest.from_json(text, source="model.onnx")


@pytest.mark.parametrize("key", ["network_hw", "batch_size", "classes", "score_threshold", "weights_sha256"])
def test_a_missing_key(manifest_values, key):
    del manifest_values[key]
    with pytest.raises(ModelFileError, match="its manifest cannot be read"):
        read(manifest_values)


def test_another_version_names_the_package_that_wrote_it(manifest_values):
    manifest_values["manifest_version"] = 3
    with pytest.raises(ModelFileError, match=r"manifest version 3 is not 1 or 2; install the lvad_perception that"):
        read(manifest_values)


@pytest.mark.parametrize(
    "change",
    [
        {"network_hw": [0, 64]},
        {"camera_hw": [720, -1]},
        {"batch_size": 0},
        {"max_detections": -1},
        {"score_threshold": 1.5},
    ],
    ids=lambda change: next(iter(change)),
)
def test_impossible_values(manifest_values, change):
    with pytest.raises(ModelFileError, match="its manifest has impossible sizes; export the model again"):
        read({**manifest_values, **change})


def test_a_graph_takes_and_gives_network_size_unless_made_for_a_camera(make_manifest):
    plain, fixed = make_manifest(), make_manifest(camera_hw=(72, 128))
    assert plain.input_hw == plain.output_hw == plain.network_hw
    assert fixed.input_hw == fixed.output_hw == (72, 128)
    assert Manifest.from_json(fixed.to_json(), source="x") == fixed


def test_only_files_for_a_camera_have_the_newer_version(make_manifest):
    """Packages without camera sizes would feed such a file with images of network size."""
    plain = json.loads(make_manifest().to_json())
    assert plain["manifest_version"] == 1
    assert "camera_hw" not in plain
    assert json.loads(make_manifest(camera_hw=(72, 128)).to_json())["manifest_version"] == 2


@pytest.mark.parametrize("size", [None, 5, [5], "wide", [1, 2, 3], ["a", "b"]])
def test_values_that_are_no_size(manifest_values, size):
    with pytest.raises(ModelFileError, match="its manifest cannot be read"):
        read({**manifest_values, "network_hw": size})
    if size is not None:
        with pytest.raises(ModelFileError, match="its manifest cannot be read"):
            read({**manifest_values, "camera_hw": size})


def test_no_task(manifest_values):
    with pytest.raises(ModelFileError, match="its manifest names no task"):
        read({**manifest_values, "classes": {}})


@pytest.mark.parametrize(
    ("classes", "sentence"),
    [
        (
            {"drivable": ["direct", "background", "alternative"]},
            r"\[direct, background, alternative\] but this package has",
        ),
        (
            {"lane": ["solid"]},
            r"lane classes are \[solid\] but this package only knows \[detection, semantic, drivable\]",
        ),
    ],
)
def test_unsupported_classes_are_named(manifest_values, classes, sentence):
    with pytest.raises(VocabularyMismatchError, match=sentence):
        read({**manifest_values, "classes": classes})


@pytest.mark.parametrize("names", [[], [""], ["car", "car"], [str(number) for number in range(256)]], ids=len)
def test_values_that_are_no_list_of_classes(manifest_values, names):
    with pytest.raises(ModelFileError, match="lists no, nameless, repeated or more than 255 semantic classes"):
        read({**manifest_values, "classes": {"semantic": names}})


def test_the_classes_are_those_that_the_model_was_trained_on(manifest_values):
    known = read({**manifest_values, "classes": {"detection": NUIMAGES_DETECTION.names}})
    assert known.vocabularies == {"detection": NUIMAGES_DETECTION}
    own = read({**manifest_values, "classes": {"semantic": ["lane", "kerb", "other"]}}).vocabularies["semantic"]
    assert own.names == ("lane", "kerb", "other")
    assert len(set(own.colors)) == 3


def test_the_message_names_the_classes_that_differ(make_manifest):
    names = tuple("trailer" if name == "train" else name for name in DETECTION.names if name != "rider")
    model = make_manifest(classes={"detection": names, "semantic": SEMANTIC.names})
    sentence = (
        r"an evaluation takes models of the detection classes pedestrian, .*, and this one lacks rider, train and has "
    )
    with pytest.raises(VocabularyMismatchError, match=f"{sentence}trailer; take a model that was trained on them"):
        model.require(TASKS, by="an evaluation")
    swapped = make_manifest(classes={"semantic": SEMANTIC.names[::-1]})
    with pytest.raises(VocabularyMismatchError, match="and this one has them in another order"):
        swapped.require(TASKS, by="an evaluation")
    model.require({"semantic": SEMANTIC}, by="a user of masks")
    make_manifest().require(TASKS, by="an evaluation")


@pytest.mark.parametrize(
    "change",
    [
        {"batch_size": "2"},
        {"batch_size": 1.5},
        {"batch_size": True},
        {"max_detections": None},
        {"network_hw": [float("inf"), 64]},
        {"network_hw": 64},
        {"score_threshold": "0.3"},
        {"preset": {"name": "edge"}},
        {"weights_sha256": 7},
        {"classes": {"detection": [1, 2]}},
        {"classes": {"detection": 3}},
        {"classes": ["detection"]},
        {"training": []},
    ],
    ids=str,
)
def test_a_value_of_another_type(manifest_values, change):
    with pytest.raises(ModelFileError, match=r"model\.onnx: its manifest cannot be read .*; export the model again"):
        read({**manifest_values, **change})


@pytest.mark.parametrize(
    "change",
    [
        {"network_hw": [1_000_000, 1_000_000]},
        {"camera_hw": [65_500, 65_500]},
        {"batch_size": 1_000_000},
        {"max_detections": 10**12},
    ],
    ids=str,
)
def test_sizes_that_would_fill_the_memory(manifest_values, change):
    with pytest.raises(ModelFileError, match=r"model\.onnx: its manifest has impossible sizes; export the model again"):
        read({**manifest_values, **change})


def test_a_manifest_of_megabytes(manifest_values):
    text = json.dumps({**manifest_values, "training": {"notes": "x" * 3_000_000}})
    with pytest.raises(
        ModelFileError, match="its manifest has 3 million characters, of which a model needs some thous"
    ):
        Manifest.from_json(text, source="model.onnx")


def test_a_manifest_nested_without_end():
    with pytest.raises(ModelFileError, match=r"its manifest cannot be read .*; export the model again"):
        Manifest.from_json("[" * 500_000, source="model.onnx")
