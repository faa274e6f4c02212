"""nuImages through the commands on data sets and bags: the same numbers from its files and from its bag."""

import numpy as np
import pytest

from lvad_perception.bags.convert import from_dataset
from lvad_perception.bags.evaluate import evaluate_bag, evaluate_dataset
from lvad_perception.bags.reader import open_bag
from lvad_perception.bags.replay import replay
from lvad_perception.bags.report import examine_bag
from lvad_perception.cli import main
from lvad_perception.datasets.nuimages import open_split
from lvad_perception.errors import DatasetError, VocabularyMismatchError
from lvad_perception.messages import check_label_info, truth_boxes_from_message
from lvad_perception.perceiver import Perceiver
from lvad_perception.vocabulary import VOCABULARIES
from lvad_training.sample_set import render_sample_set

NUIMAGES = VOCABULARIES["nuimages"]
SIZE_HW = (90, 160)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets") / "nuimages"
    render_sample_set(folder, images=8, seed=3, size_hw=SIZE_HW, layout="nuimages")
    return folder


@pytest.fixture
def perceiver(make_engine, make_manifest):
    """The tiny model with nuImages' classes."""

    class Engine(make_engine):
        def infer(self, images):
            outputs = super().infer(images)
            np.minimum(outputs.semantic, len(NUIMAGES["semantic"].names) - 1, out=outputs.semantic)
            return outputs

    classes = {task: vocabulary.names for task, vocabulary in NUIMAGES.items()}
    return Perceiver(Engine(make_manifest(classes=classes)), score_threshold=0.0)


def messages(bag):
    """Topic -> messages."""
    found = {}
    with open_bag(bag) as reader:
        for connection, _, raw in reader.messages(reader.connections):
            found.setdefault(connection.topic, []).append(reader.deserialize(raw, connection))
        return found, reader.custom_data


def test_a_bag_holds_the_splits_images_and_annotation(root, tmp_path):
    summary = from_dataset(root, "train", tmp_path / "bag")
    assert (summary.images, summary.truth) == (6, {"detection": 6, "semantic": 6, "drivable": 0})
    found, origin = messages(tmp_path / "bag")
    assert origin["lvad_source"] == "nuimages"
    split = open_split(root, "train")
    assert [msg.data for msg in found["/camera/name"]] == [split.name_of(i) for i in range(6)]
    assert '"camera": "CAM_FRONT"' in found["/camera/attributes"][0].data
    for task, topic in (("detection", "detections"), ("semantic", "segmentation")):
        (info,) = found[f"/camera/truth/{topic}/label_info"]
        check_label_info(info, NUIMAGES[task], source="bag")
    for i, msg in enumerate(found["/camera/truth/detections"]):
        boxes, wanted = truth_boxes_from_message(msg, names=NUIMAGES["detection"].names), split.boxes(i, SIZE_HW)
        np.testing.assert_array_equal(boxes.boxes_xyxy, wanted.boxes_xyxy)
        np.testing.assert_array_equal(boxes.labels, wanted.labels)


def test_a_replayed_bag_and_the_files_give_the_same_numbers(root, perceiver, tmp_path, assert_same_metrics):
    of_files = evaluate_dataset(perceiver, root, "train")
    assert (of_files.detection.images, of_files.semantic.images, of_files.drivable) == (6, 6, None)
    assert tuple(of_files.detection.per_class) == NUIMAGES["detection"].names
    assert tuple(of_files.semantic.scores.iou) == NUIMAGES["semantic"].names
    assert 0 < of_files.semantic.scores.pixel_accuracy < 100
    from_dataset(root, "train", tmp_path / "in")
    replay(tmp_path / "in", perceiver, tmp_path / "out")
    assert_same_metrics(evaluate_bag(tmp_path / "out"), of_files)
    shown = examine_bag(tmp_path / "out", worst=2, score_threshold=0.3)
    assert_same_metrics(shown.findings.metrics, of_files)
    assert shown.findings.classes["detection"] == NUIMAGES["detection"].names
    kept = {frame.name: frame for frame in shown.kept}
    split = open_split(root, "train")
    for i in range(len(split)):
        if (frame := kept.get(split.name_of(i))) is not None:
            np.testing.assert_array_equal(frame.truth.boxes.labels, split.boxes(i, SIZE_HW).labels)


def test_a_model_of_other_classes_is_refused_with_the_remedy(root, make_engine, tmp_path):
    perceiver = Perceiver(make_engine(), score_threshold=0.0)
    sentence = r"an evaluation on nuImages' annotation in .* this one lacks trailer, .* and has rider, .*; take a model"
    with pytest.raises(VocabularyMismatchError, match=sentence):
        evaluate_dataset(perceiver, root, "val")
    from_dataset(root, "val", tmp_path / "in")
    replay(tmp_path / "in", perceiver, tmp_path / "out")
    sentence = r"/camera/detections/label_info .* its detection classes are not car, truck, .*: it lacks trailer, .*; "
    with pytest.raises(VocabularyMismatchError, match=f"{sentence}bags are measured by these classes, so take a model"):
        evaluate_bag(tmp_path / "out")


def test_a_folder_above_nuimages_is_refused_with_the_folder_to_give(root, perceiver, tmp_path):
    for use in (lambda: evaluate_dataset(perceiver, root.parent, "val"), lambda: from_dataset(root.parent, "val", "b")):
        with pytest.raises(DatasetError, match=rf"did you mean {root}\?"):
            use()


@pytest.mark.parametrize("name", ["from-dataset", "from-bdd100k"])
def test_the_commands_take_it(root, perceiver, tmp_path, capsys, monkeypatch, name):
    assert main(["bag", name, str(root), "--split", "val", "-o", str(tmp_path / "in")]) == 0
    assert "2 images" in capsys.readouterr().out
    replay(tmp_path / "in", perceiver, tmp_path / "out")
    assert main(["evaluate", str(tmp_path / "out")]) == 0
    of_bag = capsys.readouterr().out
    assert "driveable_surface" in of_bag
    monkeypatch.setattr("lvad_perception.commands.bags.open_perceiver", lambda *_, **__: perceiver)
    assert main(["evaluate", "--model", "model.onnx", "--data", str(root), "--split", "val"]) == 0
    assert capsys.readouterr().out == of_bag
