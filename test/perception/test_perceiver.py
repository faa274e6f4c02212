import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from lvad_perception.engines import open_engine
from lvad_perception.engines.base import Pending
from lvad_perception.errors import ConfigError, EngineError, ImageError
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

    def test_impossible_thresholds_leave_the_previous_ones(self, fake_engine):
        perceiver = Perceiver(fake_engine, score_threshold=0.5)
        with pytest.raises(ConfigError):
            perceiver.set_thresholds(0.1, {0: 2.0})
        assert perceiver.score_threshold == 0.5
        assert len(perceiver([np.full((48, 64, 3), 100, np.uint8)])[0].detections) == 0

    def test_only_requested_tasks_are_in_the_predictions(self, make_engine):
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

    def test_an_image_of_the_network_size_is_not_copied(self, make_engine, make_manifest):
        engine = make_engine(make_manifest(batch_size=1))
        seen = []
        submit = engine.submit
        engine.submit = lambda images: seen.append(images) or submit(images)
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


class Later(Pending):
    """The result of an asynchronous engine that reads its input when its result is fetched, no earlier."""

    def __init__(self, infer):
        super().__init__(self._compute, done=lambda: self._outputs is not None)
        self._infer, self._outputs = infer, None

    def _compute(self):
        self._outputs = self._infer()
        return self._outputs


@pytest.fixture
def late_engine(fake_engine):
    """The fake engine, which reads and computes as late as an engine may."""
    fake_engine._submit = lambda slot, images: Later(lambda: fake_engine.arrays(fake_engine.infer(images)))
    return fake_engine


class TestPending:
    def test_two_batches_in_flight_each_get_their_own_result(self, late_engine, make_engine):
        images = [random_image(seed) for seed in range(12)]
        wanted = Perceiver(make_engine(), score_threshold=0.0)(images)
        perceiver = Perceiver(late_engine, score_threshold=0.0)
        found, in_flight = [], []
        for start in range(0, 12, 2):
            in_flight.append(perceiver.submit(images[start : start + 2]))
            if len(in_flight) == 2:
                found += in_flight.pop(0).result()
        found += in_flight.pop().result()
        for one, other in zip(found, wanted, strict=True):
            assert_equal(one, other)

    def test_a_third_is_refused_until_the_first_is_in_source_pixels(self, late_engine):
        perceiver = Perceiver(late_engine)
        first, _ = perceiver.submit([random_image(0)]), perceiver.submit([random_image(1)])
        for _ in range(2):
            with pytest.raises(EngineError, match="2 inferences are in flight, the most that an engine takes; fetch"):
                perceiver.submit([random_image(2)])
            first.wait()  # the engine's arrays are still to be read
        first.result()
        perceiver.submit([random_image(2)])

    def test_a_failed_batch_occupies_no_slot(self, fake_engine):
        def fail():
            raise EngineError("out of memory; close something")

        perceiver = Perceiver(fake_engine)
        fake_engine._submit = lambda slot, images: Later(fail)
        for _ in range(3):
            with pytest.raises(EngineError, match="out of memory"):
                perceiver.submit([random_image(0)]).result()
        fake_engine._submit = lambda slot, images: fail()
        for _ in range(3):
            with pytest.raises(EngineError, match="out of memory"):
                perceiver.submit([random_image(0)])
        fake_engine._submit = lambda slot, images: Later(lambda: fake_engine.arrays(fake_engine.infer(images)))
        for _ in range(3):
            perceiver.submit([random_image(0)]).result()

    def test_results_may_be_fetched_in_another_thread(self, late_engine, make_engine):
        (wanted,) = Perceiver(make_engine())([random_image(1)])
        perceiver = Perceiver(late_engine)
        with ThreadPoolExecutor(1) as other:
            for _ in range(5):
                (found,) = other.submit(perceiver.submit([random_image(1)]).result).result()
                assert_equal(found, wanted)

    def test_thresholds_are_those_at_submission(self, late_engine):
        perceiver = Perceiver(late_engine, score_threshold=0.0)
        pending = perceiver.submit([np.full((48, 64, 3), 100, np.uint8)])
        perceiver.set_thresholds(1.0)
        assert len(pending.result()[0].detections) == 4
        assert len(perceiver([np.full((48, 64, 3), 100, np.uint8)])[0].detections) == 0

    def test_only_requested_tasks_are_in_the_predictions(self, late_engine):
        (found,) = Perceiver(late_engine).submit([random_image(0)], tasks=[{"drivable"}]).result()
        assert found.detections is found.semantic is None
        assert found.drivable.shape == (90, 160)

    @pytest.mark.parametrize("count", [0, 3])
    def test_another_number_than_a_batch_has(self, fake_engine, count):
        with pytest.raises(ConfigError, match=rf"{count} images do not fit a batch of this model file; give 1 to 2 at"):
            Perceiver(fake_engine).submit([random_image(0)] * count)

    def test_timings_are_the_batchs_own(self, late_engine):
        clock = itertools.count(step=10)
        perceiver = Perceiver(late_engine, clock=lambda: next(clock))
        first, second = perceiver.submit([random_image(0)]), perceiver.submit([random_image(1)])  # 0, 10 and 20, 30
        first.result()  # there at 40, 50 to 60
        second.result()  # 70, 80 to 90
        assert first.timings == Timings(preprocess_ns=10, engine_ns=30, postprocess_ns=10)
        assert second.timings == Timings(preprocess_ns=10, engine_ns=40, postprocess_ns=10)

    def test_a_synchronous_engine_is_done_at_submission(self, fake_engine):
        clock = itertools.count(step=10)
        pending = Perceiver(fake_engine, clock=lambda: next(clock)).submit([random_image(0)])  # 0, 10, there at 20
        for _ in range(100):
            next(clock)
        pending.result()
        assert pending.timings == Timings(preprocess_ns=10, engine_ns=10, postprocess_ns=10)
