import json

import pytest

from lvad_perception.errors import ModelFileError, VocabularyMismatchError
from lvad_perception.manifest import Manifest
from lvad_perception.vocabulary import DETECTION


def read(facts):
    return Manifest.from_json(json.dumps(facts), source="model.onnx")


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


def test_facts_of_later_versions_are_passed_over(manifest_facts):
    assert read({**manifest_facts, "colour": "blue"}) == read(manifest_facts)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"text"', "{}"])
def test_what_is_no_manifest(text):
    with pytest.raises(ModelFileError, match=r"model\.onnx: its manifest cannot be read .*; export the model again"):
        Manifest.from_json(text, source="model.onnx")


@pytest.mark.parametrize("key", ["network_hw", "batch_size", "classes", "score_threshold", "weights_sha256"])
def test_a_missing_fact(manifest_facts, key):
    del manifest_facts[key]
    with pytest.raises(ModelFileError, match="its manifest cannot be read"):
        read(manifest_facts)


def test_another_version_names_who_wrote_it(manifest_facts):
    manifest_facts["manifest_version"] = 2
    with pytest.raises(ModelFileError, match=r"manifest version 2 is not 1; install the lvad_perception that wrote it"):
        read(manifest_facts)


@pytest.mark.parametrize(
    "change",
    [{"network_hw": [0, 64]}, {"batch_size": 0}, {"max_detections": -1}, {"score_threshold": 1.5}],
    ids=lambda change: next(iter(change)),
)
def test_impossible_values(manifest_facts, change):
    with pytest.raises(ModelFileError, match="its manifest has impossible sizes; export the model again"):
        read({**manifest_facts, **change})


def test_no_task(manifest_facts):
    with pytest.raises(ModelFileError, match="its manifest names no task"):
        read({**manifest_facts, "classes": {}})


@pytest.mark.parametrize(
    ("classes", "sentence"),
    [
        (
            {"drivable": ["direct", "background", "alternative"]},
            r"\[direct, background, alternative\] but this package has",
        ),
        ({"detection": ["vehicle"]}, r"detection classes are \[vehicle\] but this package has \[pedestrian, rider"),
        (
            {"lane": ["solid"]},
            r"lane classes are \[solid\] but this package only knows \[detection, semantic, drivable\]",
        ),
    ],
)
def test_other_classes_are_named(manifest_facts, classes, sentence):
    with pytest.raises(VocabularyMismatchError, match=sentence):
        read({**manifest_facts, "classes": classes})
