"""``CameraFrame`` compared with the host's functions, which use OpenCV."""

import numpy as np
import pytest
import torch

from lvad_perception.postprocess import boxes_to_source, mask_to_source, network_pixels
from lvad_perception.preprocess import fit_letterbox, letterbox_image
from lvad_training.decoding.camera import CameraFrame, area_shares
from lvad_training.decoding.decode import decode
from lvad_training.samples import DetectionOutputs, MaskOutputs, Outputs

SIZES = {
    "half": ((720, 1280), (384, 640)),
    "a third": ((540, 960), (192, 320)),
    "20 to 7": ((720, 1280), (256, 448)),
    "5 to 4": ((480, 640), (384, 640)),
    "3 to 2": ((216, 384), (160, 256)),
    "nothing in common": ((361, 641), (96, 128)),
    "upright": ((100, 40), (64, 96)),
    "twice": ((48, 64), (96, 160)),
    "9 to 10": ((90, 160), (128, 178)),
    "as it is": ((64, 96), (64, 96)),
    "only a border": ((60, 96), (64, 96)),
}

pairs = pytest.mark.parametrize(("camera_hw", "network_hw"), SIZES.values(), ids=SIZES)


def random_image(size_hw):
    return np.random.default_rng(0).integers(0, 256, (*size_hw, 3), np.uint8)


def letterboxed(image, network_hw):
    frame = CameraFrame(image.shape[:2], network_hw)
    out = frame.letterbox(torch.from_numpy(image)[None].float().permute(0, 3, 1, 2))
    return out[0].permute(1, 2, 0).numpy()


@pairs
def test_letterboxing_is_the_hosts_within_one_grey_level(camera_hw, network_hw):
    image = random_image(camera_hw)
    found, wanted = letterboxed(image, network_hw), letterbox_image(image, network_hw)[0]
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() <= 1
    assert (found == wanted).mean() > 0.85
    assert (found == found.round()).all()


@pytest.mark.parametrize("name", ["half", "as it is", "only a border"])
def test_where_nothing_is_left_to_rounding_it_is_the_hosts_exactly(name):
    camera_hw, network_hw = SIZES[name]
    image = random_image(camera_hw)
    np.testing.assert_array_equal(letterboxed(image, network_hw), letterbox_image(image, network_hw)[0])


@pairs
def test_masks_come_back_as_on_the_host(camera_hw, network_hw):
    mask = np.random.default_rng(1).integers(0, 19, (2, *network_hw), np.uint8)
    box = fit_letterbox(camera_hw, network_hw)
    found = CameraFrame(camera_hw, network_hw).mask_to_camera(torch.from_numpy(mask).float())
    np.testing.assert_array_equal(found.numpy(), [mask_to_source(each, box) for each in mask])


@pairs
def test_boxes_come_back_as_on_the_host(camera_hw, network_hw):
    height, width = network_hw
    boxes = np.random.default_rng(2).uniform(-0.1, 1.1, (1, 50, 4)).astype(np.float32) * (width, height, width, height)
    box = fit_letterbox(camera_hw, network_hw)
    found = CameraFrame(camera_hw, network_hw).boxes_to_camera(torch.from_numpy(boxes).float())
    np.testing.assert_allclose(found[0].numpy(), boxes_to_source(boxes[0], box), rtol=1e-5, atol=1e-3)


def test_the_indices_reach_over_the_image_inside_the_border():
    rows, columns = network_pixels(fit_letterbox((72, 128), (64, 64)))
    assert (rows[0], rows[-1], len(rows)) == (14, 49, 72)
    assert (columns[0], columns[-1], len(columns)) == (0, 63, 128)


@pytest.mark.parametrize(("source", "resized"), [(720, 360), (720, 252), (641, 128), (5, 3), (7, 7)])
def test_every_result_is_a_mean(source, resized):
    shares = area_shares(source, resized)
    assert shares.shape[1] * resized == shares.shape[0] * source
    torch.testing.assert_close(shares.sum(1), torch.ones(len(shares)))
    torch.testing.assert_close(shares.sum(0), torch.full((shares.shape[1],), resized / source))


def test_its_buffers_are_no_weights():
    assert CameraFrame((72, 128), (64, 64)).state_dict() == {}


def test_decoding_for_a_camera_is_decoding_and_then_placing():
    torch.manual_seed(0)
    outputs = Outputs(
        DetectionOutputs(torch.randn(1, 1, 9, 10), torch.rand(1, 1, 9, 4) * 90),
        MaskOutputs(torch.randn(1, 1, 5, 20), torch.randn(1, 1, 5, 16, 24)),
        MaskOutputs(torch.randn(1, 1, 5, 4), torch.randn(1, 1, 5, 16, 24)),
    )
    frame = CameraFrame((72, 128), (64, 96))
    plain, placed = decode(outputs, (64, 96), 20), decode(outputs, (64, 96), 20, camera=frame)
    for name in ("semantic", "semantic_confidence", "drivable"):
        expected = mask_to_source(getattr(plain, name)[0].numpy(), frame.box)
        np.testing.assert_array_equal(getattr(placed, name)[0].numpy(), expected)
    assert torch.equal(placed.scores, plain.scores)
    np.testing.assert_allclose(placed.boxes[0].numpy(), boxes_to_source(plain.boxes[0].numpy(), frame.box), atol=1e-3)
