"""A model that was trained on other classes than BDD100K's: every message, picture and number names its own."""

import numpy as np
import pytest

from lvad_perception.bags.convert import from_dataset
from lvad_perception.bags.evaluate import evaluate_bag, evaluate_dataset
from lvad_perception.bags.reader import open_bag
from lvad_perception.bags.replay import replay
from lvad_perception.bags.writer import create_bag
from lvad_perception.errors import VocabularyMismatchError
from lvad_perception.media.overlay import draw_predictions, draw_truth
from lvad_perception.metrics import Evaluator
from lvad_perception.perceiver import Perceiver
from lvad_perception.types import Detections, Predictions, Truth, TruthBoxes
from lvad_perception.vocabulary import NUIMAGES_DETECTION, NUIMAGES_SEMANTIC, VOCABULARIES, difference, vocabulary_of

NUIMAGES = VOCABULARIES["nuimages"]
BARRIER, SURFACE, NOTHING = (NUIMAGES_SEMANTIC.index(name) for name in ("barrier", "driveable_surface", "background"))


@pytest.fixture
def perceiver(make_engine, make_manifest):
    classes = {task: vocabulary.names for task, vocabulary in NUIMAGES.items()}
    return Perceiver(make_engine(make_manifest(classes=classes)), score_threshold=0.0)


def test_known_classes_have_their_colours_and_others_distinct_ones():
    assert vocabulary_of("detection", list(NUIMAGES_DETECTION.names)) is NUIMAGES_DETECTION
    own = vocabulary_of("semantic", [f"class {number}" for number in range(40)])
    assert len(set(own.colors)) == 40


def test_objects_have_the_same_ids_in_both_tasks():
    assert NUIMAGES_SEMANTIC.names[:10] == NUIMAGES_DETECTION.names
    assert len(set(NUIMAGES_SEMANTIC.colors)) == len(NUIMAGES_SEMANTIC.names) == 12


@pytest.mark.parametrize(
    ("found", "said"),
    [("ab", ""), ("a", "lacks b"), ("abc", "has c"), ("ac", "lacks b and has c"), ("ba", "has them in another order")],
)
def test_differences_in_words(found, said):
    assert difference(list(found), ["a", "b"]) == said


def test_a_replay_names_the_models_classes(perceiver, small_split, tmp_path):
    from_dataset(small_split, "val", tmp_path / "in", limit=3)
    replay(tmp_path / "in", perceiver, tmp_path / "out", overlay_video=tmp_path / "seen.mp4")
    with open_bag(tmp_path / "out") as reader:
        messages = {}
        for connection, _, raw in reader.messages(reader.connections):
            messages.setdefault(connection.topic, []).append(reader.deserialize(raw, connection))
    for topic, names in (("detections", NUIMAGES_DETECTION.names), ("segmentation", NUIMAGES_SEMANTIC.names)):
        (info,) = messages[f"/camera/{topic}/label_info"]
        assert tuple(entry.class_name for entry in info.class_map) == names
    named = {box.results[0].hypothesis.class_id for array in messages["/camera/detections"] for box in array.detections}
    assert named == set(NUIMAGES_DETECTION.names[:4])  # one for each quarter of the image
    assert (tmp_path / "seen.mp4").stat().st_size > 0


def test_bdd100ks_annotation_does_not_judge_it(perceiver, small_split, tmp_path):
    with pytest.raises(VocabularyMismatchError, match=r"BDD100K's annotation in .* this one lacks rider, train"):
        evaluate_dataset(perceiver, small_split, "val")
    from_dataset(small_split, "val", tmp_path / "in")
    replay(tmp_path / "in", perceiver, tmp_path / "out")
    sentence = (
        r"/camera/detections/label_info .* its detection classes are not pedestrian, .*: it lacks rider, train, .*; "
    )
    with pytest.raises(VocabularyMismatchError, match=f"{sentence}bags are measured by these classes, so take a model"):
        evaluate_bag(tmp_path / "out")


def test_a_model_that_finds_only_known_classes_is_not_judged_by_half_of_its_own(
    make_engine, make_manifest, small_split, tmp_path
):
    """Each box has a name of BDD100K's, but the list of classes says that others could have come."""
    names = ("pedestrian", "rider", "car", "truck", "tram")
    perceiver = Perceiver(make_engine(make_manifest(classes={"detection": names})), score_threshold=0.0)
    from_dataset(small_split, "val", tmp_path / "in")
    replay(tmp_path / "in", perceiver, tmp_path / "out")
    with pytest.raises(VocabularyMismatchError, match=r"it lacks bus, .* and has tram"):
        evaluate_bag(tmp_path / "out")


def test_bags_from_before_the_crowds_moved_are_measured_alike(make_engine, small_split, tmp_path, assert_same_metrics):
    """As they were written: no list of the objects' classes, and crowds in the id of a detection."""
    from_dataset(small_split, "val", tmp_path / "in")
    replay(tmp_path / "in", Perceiver(make_engine(), score_threshold=0.0), tmp_path / "new")
    crowds = 0
    with open_bag(tmp_path / "new") as reader, create_bag(tmp_path / "old") as writer:
        for connection, stamp, raw in reader.messages(reader.connections):
            if connection.topic.endswith("detections/label_info"):
                continue
            msg = reader.deserialize(raw, connection)
            for box in getattr(msg, "detections", ()):
                if len(box.results) > 1:
                    box.results, box.id = box.results[:1], "crowd"
                    crowds += 1
            writer.write(connection.topic, msg, stamp, latched=connection.topic.endswith("label_info"))
    assert crowds > 0
    assert_same_metrics(evaluate_bag(tmp_path / "old"), evaluate_bag(tmp_path / "new"))


def test_metrics_are_by_the_given_names():
    box, label = np.float32([[10, 10, 30, 30]]), np.int32([BARRIER])
    mask = np.full((40, 40), NOTHING, np.uint8)
    mask[20:] = SURFACE
    truth = Truth((40, 40), TruthBoxes(box, label, np.zeros(1, bool)), mask, None)
    said = Predictions((40, 40), Detections(box, np.float32([0.9]), label), np.full_like(mask, SURFACE), None)
    evaluator = Evaluator(["detection", "semantic"], vocabularies=NUIMAGES)
    evaluator.add(said, truth, frame="a")
    findings = evaluator.findings()
    assert findings.metrics.detection.per_class["barrier"].ap == pytest.approx(100)
    assert tuple(findings.metrics.semantic.scores.iou) == NUIMAGES_SEMANTIC.names
    assert findings.metrics.semantic.scores.iou["driveable_surface"] == pytest.approx(50)
    assert findings.confusions["detection"][BARRIER, BARRIER] == 1
    assert findings.confusions["semantic"].shape == (12, 13)
    assert "driveable_surface" in findings.metrics.to_text()


def test_pictures_have_its_colours_and_leave_the_background():
    grey = np.full((60, 90, 3), 100, np.uint8)
    semantic = np.full((60, 90), NOTHING, np.uint8)
    semantic[40:] = SURFACE
    drawn = draw_predictions(grey, Predictions((60, 90), None, semantic, None), alpha=1.0, vocabularies=NUIMAGES)
    assert (drawn[:40] == 100).all()
    assert (drawn[40:] == NUIMAGES_SEMANTIC.colors[SURFACE]).all()
    boxes = TruthBoxes(np.float32([[20, 20, 50, 50]]), np.int32([BARRIER]), np.zeros(1, bool))
    outlined = draw_truth(grey, Truth((60, 90), boxes, None, None), vocabularies=NUIMAGES)
    assert (outlined[20, 35] == NUIMAGES_DETECTION.colors[BARRIER]).all()
