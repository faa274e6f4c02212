"""Pseudo labels of a network: ``loop.predict`` as the teacher."""

import numpy as np
import pytest
import torch

from lvad_perception.datasets.bdd100k import open_split
from lvad_perception.postprocess import to_predictions
from lvad_perception.vocabulary import TASKS
from lvad_training.build import build_model
from lvad_training.data.torch_datasets import EvaluationSet
from lvad_training.decoding.decode import decode
from lvad_training.pseudo import Teacher, write_pseudo_labels
from lvad_training.recipe.schema import PseudoConfig
from lvad_training.training import loop

NETWORK_HW = (64, 96)


@pytest.fixture
def split(small_split):
    return open_split(small_split, "val")


def batches(split, indices, size=3):
    samples = EvaluationSet(split, NETWORK_HW, indices)
    every = [samples[i] for i in range(len(samples))]
    return [every[at : at + size] for at in range(0, len(every), size)]


def predict(net, samples):
    return list(loop.predict(model=net, samples=samples, device=torch.device("cpu"), max_detections=20))


def test_predictions_are_those_of_an_evaluation_in_source_pixels(net, split):
    samples = batches(split, range(5))
    found = predict(net, samples)
    assert [item.name for item in found] == [split.name_of(i) for i in range(5)]
    flat = [sample for batch in samples for sample in batch]
    for item, sample in zip(found, flat, strict=True):
        with torch.no_grad():
            raw = loop.to_raw(decode(net(sample.image[None]), NETWORK_HW, 20))
        wanted = to_predictions(raw, 0, sample.letterbox)
        assert item.size_hw == (72, 96)
        np.testing.assert_allclose(item.detections.scores, wanted.detections.scores, atol=1e-4)
        for mask, right in ((item.semantic, wanted.semantic), (item.drivable, wanted.drivable)):
            assert mask.shape == (72, 96)
            assert (mask == right).mean() > 0.99
        for confidence in (item.semantic_confidence, item.drivable_confidence):
            assert (confidence.shape, confidence.dtype) == ((72, 96), np.uint8)
        assert item.drivable_confidence.min() >= 255 // 3 - 1  # the winner of three has at least a third
    assert not net.training


def test_a_task_without_a_head_is_none_and_nothing_has_gradients(make_recipe, split):
    recipe = make_recipe(model={"detection": None, "semantic": None})
    torch.manual_seed(0)
    (found,) = predict(build_model(recipe.model), batches(split, [0]))
    assert (found.detections, found.semantic, found.semantic_confidence) == (None, None, None)
    assert found.drivable.shape == found.drivable_confidence.shape == (72, 96)
    assert torch.is_grad_enabled()


def test_a_network_labels_a_split(net, split, tmp_path):
    def teach(indices):
        return loop.predict(model=net, samples=batches(split, indices), device=torch.device("cpu"), max_detections=20)

    teachers = [Teacher(task=task, identity="net", predict=teach, frames=range(8), trained_on=[0, 1]) for task in TASKS]
    report = write_pseudo_labels(
        split=split,
        folder=tmp_path / "p",
        teachers=teachers,
        config=PseudoConfig(box_score=0.0, mask_confidence=0.0),
        progress=False,
    )
    labelled = open_split(tmp_path / "p", "val")
    assert all(labelled.annotated_for(task).all() for task in TASKS)
    assert report.tasks["detection"].compared == split.annotated_for("detection").sum()
    assert report.tasks["semantic"].unlabelled == 0
    (first,) = predict(net, batches(split, [0]))
    assert len(labelled.boxes(0, (72, 96))) == pytest.approx(len(first.detections), abs=1)
    assert (labelled.drivable(0, (72, 96)) == first.drivable).mean() > 0.99
