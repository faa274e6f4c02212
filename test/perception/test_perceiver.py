import itertools

import numpy as np
import pytest

from lvad_perception.engines import open_engine
from lvad_perception.errors import ConfigError, ImageError
from lvad_perception.perceiver import Perceiver, Timings


def random_image(seed, height=90, width=160):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def assert_equal(first, second):
    assert first.size_hw == second.size_hw
    for name in ("boxes_xyxy", "scores", "labels"):
        np.testing.assert_array_equal(getattr(first.detections, name), getattr(second.detections, name))
    for name in ("semantic", "drivable", "semantic_confidence"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


@pytest.fixture
def camera_manifest(make_manifest):
    """Of a model file for one camera size; the fake engine's outputs are of that size."""
    return make_manifest(network_hw=(32, 32), camera_hw=(48, 64))


class TestOneCameraSize:
    def test_images_go_in_and_results_come_out_as_they_are(self, make_engine, camera_manifest, reference):
        engine = make_engine(camera_manifest)
        images = [random_image(seed, 48, 64) for seed in range(3)]
        found = Perceiver(engine, score_threshold=0.0)(images)
        np.testing.assert_array_equal(engine.batches[0], np.stack(images[:2]))
        for image, predictions in zip(images, found, strict=True):
            raw = reference(image[None])
            assert predictions.size_hw == (48, 64)
            np.testing.assert_array_equal(predictions.semantic, raw.semantic[0])
            np.testing.assert_array_equal(predictions.detections.boxes_xyxy, raw.boxes[0])

    def test_predictions_survive_the_next_call(self, make_engine, camera_manifest):
        perceiver = Perceiver(make_engine(camera_manifest))
        (first,) = perceiver([random_image(1, 48, 64)])
        kept = first.drivable.copy()
        perceiver([random_image(2, 48, 64)])
        np.testing.assert_array_equal(first.drivable, kept)

    @pytest.mark.parametrize("batch_size", [1, 2])
    def test_an_image_of_another_size_says_how_to_export(self, make_engine, make_manifest, batch_size):
        manifest = make_manifest(network_hw=(32, 32), camera_hw=(48, 64), batch_size=batch_size)
        engine = make_engine(manifest)
        perceiver = Perceiver(engine)
        sentence = (
            "an image of 160x90 does not fit this model file, which was made for cameras of 64x48; "
            "export the model again with --camera-size 160x90, or without that option"
        )
        with pytest.raises(ImageError, match=sentence):
            perceiver([random_image(0)])
        with pytest.raises(ImageError, match=sentence):
            perceiver.check_image(random_image(0))
        assert engine.batches == []
        perceiver.check_image(random_image(0, 48, 64))

    def test_without_a_camera_size_every_image_fits(self, fake_engine):
        Perceiver(fake_engine).check_image(random_image(0))

    def test_an_onnx_file_takes_the_cameras_images(self, tmp_path, make_tiny_model, camera_manifest, reference):
        pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
        path = make_tiny_model(tmp_path / "camera.onnx", manifest=camera_manifest)
        image = random_image(4, 48, 64)
        (predictions,) = Perceiver(open_engine(path, threads=1), score_threshold=0.0)([image])
        np.testing.assert_array_equal(predictions.semantic, reference(image[None]).semantic[0])


class TestPerceiver:
    def test_masks_and_boxes_are_in_source_pixels(self, fake_engine):
        image = np.zeros((90, 160, 3), np.uint8)
        image[:, 80:] = (26, 172, 255)  # right half: semantic 2, drivable 2, bright blue
        (predictions,) = Perceiver(fake_engine)([image])
        assert predictions.size_hw == (90, 160)
        assert predictions.semantic.shape == predictions.drivable.shape == (90, 160)
        assert (predictions.semantic[:, :79] == 0).all()
        assert (predictions.semantic[:, 81:] == 2).all()
        assert (predictions.drivable[:, 81:] == 2).all()
        # The two right quarters, clipped to the image: 6 rows of padding above and below at network size.
        np.testing.assert_allclose(predictions.detections.boxes_xyxy, [[80, 0, 160, 45], [80, 45, 160, 90]])
        assert sorted(predictions.detections.labels.tolist()) == [1, 3]

    def test_any_number_of_images_of_different_sizes(self, make_engine):
        images = [random_image(seed, 40 + 10 * seed, 150 - 20 * seed) for seed in range(5)]
        engine = make_engine()
        together = Perceiver(engine, score_threshold=0.0)(images)
        assert len(engine.batches) == 3  # 2 + 2 + 1
        for image, predictions in zip(images, together, strict=True):
            (alone,) = Perceiver(make_engine(), score_threshold=0.0)([image])
            assert_equal(predictions, alone)

    def test_predictions_survive_the_next_call(self, fake_engine):
        perceiver = Perceiver(fake_engine, score_threshold=0.0)
        exact = random_image(1, 48, 64)
        (first,) = perceiver([exact])
        kept = first.semantic.copy()
        perceiver([random_image(2, 48, 64)] * 2)
        np.testing.assert_array_equal(first.semantic, kept)

    def test_no_image_is_no_prediction(self, fake_engine):
        assert Perceiver(fake_engine)([]) == []
        assert fake_engine.batches == []

    @pytest.mark.parametrize(("threshold", "expected"), [(0.0, 4), (0.5, 2), (1.0, 1), (None, 3)])
    def test_the_threshold_defaults_to_the_manifests(self, fake_engine, threshold, expected):
        image = np.zeros((48, 64, 3), np.uint8)
        for index, blue in enumerate((255, 128, 80, 10)):  # scores 1.0, 0.502, 0.31, 0.04
            row, column = divmod(index, 2)
            image[24 * row : 24 * row + 24, 32 * column : 32 * column + 32, 2] = blue
        (predictions,) = Perceiver(fake_engine, score_threshold=threshold)([image])
        assert len(predictions.detections) == expected

    @pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan")])
    def test_an_impossible_threshold(self, fake_engine, threshold):
        with pytest.raises(ConfigError, match=r"outside \[0, 1\]"):
            Perceiver(fake_engine, score_threshold=threshold)
        with pytest.raises(ConfigError, match=r"outside \[0, 1\]"):
            Perceiver(fake_engine, class_thresholds={2: threshold})

    def test_a_class_may_have_a_threshold_of_its_own(self, fake_engine):
        bright = np.full((48, 64, 3), 150, np.uint8)  # four boxes of classes 0 to 3, each scores 0.588
        perceiver = Perceiver(fake_engine, score_threshold=0.5, class_thresholds={1: 0.6, 9: 0.9})
        assert sorted(perceiver([bright])[0].detections.labels.tolist()) == [0, 2, 3]
        perceiver.set_thresholds(0.6, {2: 0.5})
        assert perceiver([bright])[0].detections.labels.tolist() == [2]
        perceiver.set_thresholds(None)
        assert perceiver.score_threshold == 0.3
        assert len(perceiver([bright])[0].detections) == 4

    def test_impossible_thresholds_leave_the_former_ones(self, fake_engine):
        perceiver = Perceiver(fake_engine, score_threshold=0.5)
        with pytest.raises(ConfigError):
            perceiver.set_thresholds(0.1, {0: 2.0})
        assert perceiver.score_threshold == 0.5
        assert len(perceiver([np.full((48, 64, 3), 100, np.uint8)])[0].detections) == 0

    def test_only_what_is_asked_for_is_made(self, make_engine):
        images = [random_image(seed) for seed in range(3)]
        everything = Perceiver(make_engine(), score_threshold=0.0)(images)
        asked = [{"detection"}, {"semantic", "drivable"}, set()]
        some = Perceiver(make_engine(), score_threshold=0.0)(images, tasks=asked)
        for tasks, full, part in zip(asked, everything, some, strict=True):
            assert part.size_hw == full.size_hw
            assert (part.detections is not None) == ("detection" in tasks)
            for task, names in (("semantic", ("semantic", "semantic_confidence")), ("drivable", ("drivable",))):
                for name in names:
                    expected = getattr(full, name) if task in tasks else None
                    np.testing.assert_array_equal(getattr(part, name), expected)

    def test_an_image_that_is_the_input_as_it_stands_is_not_copied(self, make_engine, make_manifest):
        engine = make_engine(make_manifest(batch_size=1))
        seen = []
        infer = engine.infer
        engine.infer = lambda images: seen.append(images) or infer(images)
        perceiver = Perceiver(engine, score_threshold=0.0)
        exact, wide, strided = random_image(1, 48, 64), random_image(2), random_image(3, 48, 128)[:, ::2]
        found = [perceiver([image])[0] for image in (exact, wide, strided)]
        assert [np.shares_memory(batch, image) for batch, image in zip(seen, (exact, wide, strided), strict=True)] == [
            *(True, False, False)
        ]
        (copied,) = Perceiver(make_engine(), score_threshold=0.0)([exact])
        assert_equal(found[0], copied)

    def test_an_image_of_network_size_must_be_8_bit_too(self, make_engine, make_manifest):
        perceiver = Perceiver(make_engine(make_manifest(batch_size=1)))
        with pytest.raises(ImageError, match="convert it to 8-bit RGB"):
            perceiver([np.zeros((48, 64, 3), np.float32)])

    def test_a_float_image_is_refused(self, fake_engine):
        with pytest.raises(ImageError, match="convert it to 8-bit RGB"):
            Perceiver(fake_engine)([np.zeros((4, 4, 3), np.float32)])

    def test_timings_add_up_over_chunks(self, fake_engine):
        ticks = itertools.count(step=10)
        perceiver = Perceiver(fake_engine, clock=lambda: next(ticks))
        assert perceiver.last_timings is None
        perceiver([random_image(seed) for seed in range(3)])
        assert perceiver.last_timings == Timings(preprocess_ns=20, engine_ns=20, postprocess_ns=20)

    def test_leaving_the_with_block_closes_the_engine(self, fake_engine):
        with Perceiver(fake_engine) as perceiver:
            assert perceiver.description == "fake"
        assert fake_engine.closed

    def test_onnx_runtime_and_the_fake_engine_agree(self, tiny_model_file, fake_engine):
        pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
        images = [random_image(seed) for seed in range(3)]
        real = Perceiver(open_engine(tiny_model_file, threads=1), score_threshold=0.0)(images)
        fake = Perceiver(fake_engine, score_threshold=0.0)(images)
        for first, second in zip(real, fake, strict=True):
            np.testing.assert_allclose(first.detections.scores, second.detections.scores, atol=1e-6)
            np.testing.assert_array_equal(first.semantic, second.semantic)
            np.testing.assert_array_equal(first.drivable, second.drivable)
