import numpy as np

from lvad_perception.conversion.calibration import folder_images, rendered_images, to_batches


def test_they_are_spread_over_the_folder(small_split, monkeypatch):
    from lvad_perception.conversion import calibration as module

    seen = []
    right = module.read_image
    monkeypatch.setattr(module, "read_image", lambda path: seen.append(path.name) or right(path))
    images = folder_images(small_split / "images", (48, 64), 3)
    assert [image.shape for image in images] == [(48, 64, 3)] * 3
    assert seen == ["frame-000.jpg", "frame-004.jpg", "frame-007.png"]


def test_rendered_ones_are_the_same_every_time():
    np.testing.assert_array_equal(rendered_images((48, 64), 3), rendered_images((48, 64), 3))


def test_the_last_batch_is_filled_up_from_the_start():
    batches = to_batches([np.full((1, 1, 3), value, np.uint8) for value in range(3)], 2)
    assert [batch[:, 0, 0, 0].tolist() for batch in batches] == [[0, 1], [2, 0]]
