import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from lvad_perception.datasets.bdd100k import open_split
from lvad_perception.errors import ImageError, LabelError
from lvad_perception.media.images import read_image
from lvad_perception.preprocess import letterbox_image
from lvad_training.data.annotation import Annotation
from lvad_training.data.torch_datasets import EvaluationSet, TrainingSet
from lvad_training.data.transforms import TrainingTransform
from lvad_training.samples import collate

NETWORK_HW = (24, 48)


@pytest.fixture
def split(tree):
    for i in range(6):
        tree.image(f"frame-{i}")
    tree.detections({f"frame-{i}": [("car", i, 2, i + 9, 9)] for i in range(5)})
    tree.mask("labels/sem_seg/masks/train/frame-5.png", np.full((24, 32), 4))
    return open_split(tree.root, "train")


@pytest.fixture
def samples(split):
    return TrainingSet(Annotation(split), TrainingTransform(network_hw=NETWORK_HW), seed=3)


def same(one, other):
    boxes = [sample.targets.boxes_xyxy for sample in (one, other)]
    equal_boxes = boxes[0] is boxes[1] is None or torch.equal(*boxes)
    return one.name == other.name and torch.equal(one.image, other.image) and equal_boxes


def test_samples_have_network_size_and_the_tasks_of_their_frame(samples):
    assert len(samples) == 6
    boxed, masked = samples[0, 0, None], samples[0, 5, None]
    assert boxed.name == "frame-0"
    assert boxed.image.shape == (3, *NETWORK_HW)
    assert boxed.image.dtype == torch.uint8
    assert boxed.targets.boxes_xyxy is not None
    assert boxed.targets.semantic is boxed.targets.drivable is None
    assert masked.targets.boxes_xyxy is masked.targets.labels is None
    assert masked.targets.semantic.shape == NETWORK_HW
    assert set(masked.targets.semantic.unique().tolist()) <= {4, 255}


def test_augmentation_depends_on_seed_epoch_and_frame_alone(split, samples):
    first = [samples[0, i, None] for i in range(6)]
    backwards = [samples[0, i, None] for i in reversed(range(6))][::-1]
    assert all(same(a, b) for a, b in zip(first, backwards, strict=True))
    assert not all(same(a, samples[1, i, None]) for i, a in enumerate(first))
    part = TrainingSet(Annotation(split), samples.transform, indices=[4, 2], seed=3)
    assert len(part) == 2
    assert same(part[0, 1, None], first[2])
    assert not same(TrainingSet(Annotation(split), samples.transform, seed=4)[0, 2, None], first[2])


def test_a_task_alone_has_the_same_image_and_no_other_targets(samples):
    everything, alone, other = samples[2, 1, None], samples[2, 1, "detection"], samples[2, 1, "semantic"]
    assert same(alone, everything)
    assert torch.equal(other.image, everything.image)
    assert other.targets.boxes_xyxy is other.targets.semantic is other.targets.drivable is None


@pytest.mark.parametrize(("context", "workers"), [("fork", 2), ("spawn", 1)])
def test_workers_give_the_same_samples(samples, context, workers):
    keys = [(1, i, None) for i in range(6)]
    here = [collate([samples[one], samples[other]]) for one, other in zip(keys[::2], keys[1::2], strict=True)]
    options = {"num_workers": workers, "collate_fn": collate, "multiprocessing_context": context}
    there = list(DataLoader(samples, sampler=keys, batch_size=2, **options))
    assert [batch.names for batch in there] == [batch.names for batch in here]
    assert all(torch.equal(a.images, b.images) for a, b in zip(there, here, strict=True))


def test_evaluation_images_are_letterboxed_as_on_the_vehicle(split):
    samples = EvaluationSet(split, NETWORK_HW, indices=[5, 1])
    assert len(samples) == 2
    sample = samples[1]
    expected, letterbox = letterbox_image(read_image(split.image_path(1)), NETWORK_HW)
    assert sample.name == "frame-1"
    np.testing.assert_array_equal(sample.image.permute(1, 2, 0).numpy(), expected)
    assert sample.letterbox == letterbox
    truth = samples.truth(1, sample.letterbox.source_hw)
    np.testing.assert_array_equal(truth.boxes.boxes_xyxy, [[1, 2, 11, 10]])
    assert samples.truth(0, (24, 32)).boxes is None


def test_indices_outside_the_split_are_an_error(split):
    with pytest.raises(IndexError, match="indices of split 'train' must lie in 0 to 5"):
        EvaluationSet(split, NETWORK_HW, indices=[6])


def test_broken_files_are_named(split, samples):
    path = split.image_path(1)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ImageError, match=r"frame-1\.jpg is a truncated image"):
        samples[0, 1, None]
    mask = split.mask_path(5, "semantic")
    cv2.imwrite(str(mask), np.zeros((12, 32), np.uint8))
    with pytest.raises(LabelError, match=r"frame-5\.png is 32x12 and its image 32x24"):
        samples[0, 5, None]
