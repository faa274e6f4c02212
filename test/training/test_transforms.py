import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lvad_perception.errors import ConfigError
from lvad_perception.preprocess import PAD_VALUE, fit_letterbox, letterbox_image
from lvad_perception.types import Truth, TruthBoxes
from lvad_perception.vocabulary import UNLABELED
from lvad_training.data.transforms import MIN_SIDE_PX, TrainingTransform

BACKGROUND, OBJECT = (20, 40, 60), (220, 200, 240)


def rectangle_scene(size_hw, box_xyxy, *, crowd=False):
    """One bright rectangle, known to image, mask and box alike."""
    x1, y1, x2, y2 = box_xyxy
    image = np.full((*size_hw, 3), BACKGROUND, np.uint8)
    mask = np.zeros(size_hw, np.uint8)
    image[y1:y2, x1:x2], mask[y1:y2, x1:x2] = OBJECT, 13
    boxes = TruthBoxes(np.array([box_xyxy], np.float32), np.array([2], np.int32), np.array([crowd]))
    return image, Truth(size_hw, boxes, mask, np.where(mask == 13, 2, 0).astype(np.uint8))


def random_scene(size_hw, rng, count=12):
    image = rng.integers(0, 256, (*size_hw, 3), dtype=np.uint8)
    corner = rng.uniform(0, 0.7, (count, 2)) * size_hw[::-1]
    side = rng.uniform(0.05, 0.3, (count, 2)) * size_hw[::-1]
    boxes = np.hstack([corner, corner + side]).astype(np.float32)
    truth = TruthBoxes(boxes, rng.integers(0, 10, count).astype(np.int32), np.zeros(count, bool))
    masks = rng.integers(0, 3, (2, *size_hw), dtype=np.uint8)
    return image, Truth(size_hw, truth, masks[0], masks[1])


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    source_hw=st.tuples(st.integers(60, 300), st.integers(60, 300)),
    network_hw=st.tuples(st.integers(32, 160), st.integers(32, 160)),
)
def test_image_masks_and_boxes_stay_on_the_same_pixels(seed, source_hw, network_hw):
    rng = np.random.default_rng(seed)
    height, width = source_hw
    box = (width // 4, height // 5, width // 4 + width // 3, height // 5 + height // 2)
    image, truth = rectangle_scene(source_hw, box)
    transform = TrainingTransform(network_hw=network_hw, flip=0.5, scale=(0.5, 2.0), crop=True, color=0.0)

    out, targets = transform(image, truth, rng)

    assert out.shape == (3, *network_hw)
    assert targets.semantic.shape == targets.drivable.shape == network_hw
    padded = targets.semantic == UNLABELED
    assert torch.equal(padded, targets.drivable == UNLABELED)
    assert torch.all(out[:, padded] == PAD_VALUE)
    painted = targets.semantic == 13
    assert torch.equal(painted, (targets.drivable == 2))
    for x1, y1, x2, y2 in targets.boxes_xyxy.tolist():
        assert 0 <= x1 < x2 <= network_hw[1]
        assert 0 <= y1 < y2 <= network_hw[0]
        rows, columns = np.nonzero(painted.numpy())
        extent = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert np.allclose((x1, y1, x2, y2), extent, atol=1.01)
        # Enlarging blurs the rectangle's edge by half a source pixel.
        inner = out[:, rows.min() + 4 : rows.max() - 3, columns.min() + 4 : columns.max() - 3]
        assert torch.equal(inner, torch.tensor(OBJECT, dtype=torch.uint8)[:, None, None].expand_as(inner))


@pytest.mark.parametrize("source_hw", [(360, 480), (720, 1280), (100, 30), (48, 64)])
def test_without_augmentation_equals_the_letterbox(source_hw):
    rng = np.random.default_rng(3)
    image, truth = random_scene(source_hw, rng)
    expected, box = letterbox_image(image, (96, 160))

    out, targets = TrainingTransform.without_augmentation((96, 160))(image, truth, rng)

    assert np.array_equal(out.permute(1, 2, 0).numpy(), expected)
    inside = targets.semantic[box.top : box.top + box.resized_hw[0], box.left : box.left + box.resized_hw[1]]
    assert (inside != UNLABELED).all()
    assert (targets.semantic != UNLABELED).sum() == inside.numel()
    scale = box.resized_hw[1] / source_hw[1], box.resized_hw[0] / source_hw[0]
    expected_boxes = truth.boxes.boxes_xyxy * np.tile(scale, 2) + np.tile([box.left, box.top], 2)
    sides = expected_boxes[:, 2:] - expected_boxes[:, :2]
    assert np.allclose(targets.boxes_xyxy, expected_boxes[sides.min(1) >= MIN_SIDE_PX], atol=1e-3)


def test_without_augmentation_draws_nothing():
    rng = np.random.default_rng(0)
    before = rng.bit_generator.state
    TrainingTransform.without_augmentation((64, 64))(*random_scene((50, 70), np.random.default_rng(1)), rng)
    assert rng.bit_generator.state == before


def test_the_same_random_state_repeats_and_another_differs():
    image, truth = random_scene((120, 200), np.random.default_rng(1))
    transform = TrainingTransform(network_hw=(64, 96))
    first, again, other = (transform(image, truth, np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1].boxes_xyxy, again[1].boxes_xyxy)
    assert torch.equal(first[1].semantic, again[1].semantic)
    assert not torch.equal(first[0], other[0])


def test_the_sources_are_left_untouched():
    image, truth = random_scene((90, 120), np.random.default_rng(1))
    kept = image.copy(), truth.boxes.boxes_xyxy.copy(), truth.semantic.copy()
    transform = TrainingTransform(network_hw=(90, 120), scale=(1.0, 1.0), flip=1.0)
    out, targets = transform(image, truth, np.random.default_rng(2))
    out.zero_(), targets.semantic.zero_(), targets.boxes_xyxy.zero_()
    assert np.array_equal(image, kept[0])
    assert np.array_equal(truth.boxes.boxes_xyxy, kept[1])
    assert np.array_equal(truth.semantic, kept[2])


def test_flip_always_mirrors():
    image, truth = random_scene((64, 96), np.random.default_rng(1))
    settings_ = {"network_hw": (64, 96), "scale": (1.0, 1.0), "crop": False, "color": 0.0}
    plain, targets = TrainingTransform(flip=0.0, **settings_)(image, truth, np.random.default_rng(0))
    mirrored, mirrored_targets = TrainingTransform(flip=1.0, **settings_)(image, truth, np.random.default_rng(0))
    assert torch.equal(mirrored, plain.flip(-1))
    assert torch.equal(mirrored_targets.drivable, targets.drivable.flip(-1))
    expected = targets.boxes_xyxy.clone()
    expected[:, [0, 2]] = 96 - targets.boxes_xyxy[:, [2, 0]]
    assert torch.allclose(mirrored_targets.boxes_xyxy, expected)


def test_a_task_without_annotation_stays_none():
    image, truth = random_scene((60, 80), np.random.default_rng(1))
    transform = TrainingTransform(network_hw=(48, 48))
    _, targets = transform(image, Truth((60, 80), None, truth.semantic, None), np.random.default_rng(0))
    assert targets.boxes_xyxy is None
    assert targets.labels is None
    assert targets.drivable is None
    assert targets.semantic is not None


def test_annotated_and_empty_stays_empty():
    image, _ = random_scene((60, 80), np.random.default_rng(1))
    none = TruthBoxes(np.zeros((0, 4), np.float32), np.zeros(0, np.int32), np.zeros(0, bool))
    for seed in range(5):
        transform = TrainingTransform(network_hw=(48, 64))
        _, targets = transform(image, Truth((60, 80), none, None, None), np.random.default_rng(seed))
        assert targets.boxes_xyxy.shape == (0, 4)
        assert targets.boxes_xyxy.dtype == torch.float32
        assert targets.labels.shape == (0,)
        assert targets.labels.dtype == torch.int64


def test_crowds_are_no_targets():
    image, truth = rectangle_scene((60, 80), (10, 10, 50, 40), crowd=True)
    _, targets = TrainingTransform.without_augmentation((60, 80))(image, truth, np.random.default_rng(0))
    assert targets.boxes_xyxy.shape == (0, 4)
    assert (targets.semantic == 13).any()
    torch.testing.assert_close(targets.ignored_xyxy, torch.tensor([[10.0, 10.0, 50.0, 40.0]]))
    assert targets.ignored_labels.tolist() == [2]


def test_crowds_move_with_the_image():
    image, truth = rectangle_scene((60, 80), (10, 10, 50, 40), crowd=True)
    _, same = rectangle_scene((60, 80), (10, 10, 50, 40))
    transform = TrainingTransform(network_hw=(96, 128), flip=0.5, scale=(0.7, 1.5), crop=True, color=0)
    for seed in range(8):
        _, targets = transform(image, truth, np.random.default_rng(seed))
        _, wanted = transform(image, same, np.random.default_rng(seed))
        torch.testing.assert_close(targets.ignored_xyxy, wanted.boxes_xyxy)
        assert wanted.ignored_xyxy is None
        assert wanted.ignored_labels is None


def test_a_box_that_the_crop_leaves_too_little_of_is_dropped():
    # At twice the letterbox scale a centred crop shows the middle half of each side.
    transform = TrainingTransform(network_hw=(100, 100), flip=0, scale=(2.0, 2.0), crop=False, color=0)
    for box, kept in [((20, 40, 35, 60), True), ((5, 40, 27, 60), False), ((40, 40, 60, 60), True)]:
        image, truth = rectangle_scene((100, 100), box)
        _, targets = transform(image, truth, np.random.default_rng(0))
        assert len(targets.boxes_xyxy) == len(targets.labels) == int(kept), box
    # A sliver: fully visible, but one pixel wide in the network input.
    image, truth = rectangle_scene((100, 100), (50, 40, 51, 60))
    _, targets = TrainingTransform.without_augmentation((100, 100))(image, truth, np.random.default_rng(0))
    assert len(targets.boxes_xyxy) == 0


def test_color_changes_the_image_but_not_the_padding_or_the_masks():
    image, truth = random_scene((50, 100), np.random.default_rng(1))
    plain = TrainingTransform(network_hw=(100, 100), flip=0, scale=(1.0, 1.0), crop=False, color=0.0)
    colored = TrainingTransform(network_hw=(100, 100), flip=0, scale=(1.0, 1.0), crop=False, color=0.4)
    before, targets = plain(image, truth, np.random.default_rng(4))
    after, colored_targets = colored(image, truth, np.random.default_rng(4))
    assert not torch.equal(before, after)
    assert torch.equal(targets.semantic, colored_targets.semantic)
    top = fit_letterbox((50, 100), (100, 100)).top
    assert (after[:, :top] == PAD_VALUE).all()


@pytest.mark.parametrize("strength", [0.1, 0.4, 0.9])
def test_color_keeps_grey_images_grey(strength):
    image = np.repeat(np.random.default_rng(0).integers(60, 160, (32, 32, 1), dtype=np.uint8), 3, axis=2)
    transform = TrainingTransform(network_hw=(32, 32), color=strength)
    for seed in range(10):
        out, _ = transform(image, Truth((32, 32), None, None, None), np.random.default_rng(seed))
        spread = out.amax(0).int() - out.amin(0).int()
        assert spread.max() <= 1


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"network_hw": (0, 64)}, "network size .* at least 1"),
        ({"flip": 1.5}, "flip is 1.5; give a probability"),
        ({"scale": (2.0, 0.5)}, "scale is .* smallest <= largest"),
        ({"scale": (0.0, 1.0)}, "scale is .* 0 < smallest"),
        ({"color": 1.0}, "color is 1.0; give a strength"),
    ],
)
def test_impossible_settings_are_refused(wrong, message):
    with pytest.raises(ConfigError, match=message):
        TrainingTransform(**({"network_hw": (64, 64)} | wrong))
