"""Copies and networks of two inferences overlap on the device, and no order of execution mixes up their images.

The engines' own code runs on a fake device that executes queued work in random order (``fake_cuda``), restricted by the
waits in ``engines.cuda``; one test disables these waits, one at a time, and finds the images mixed up.
"""

import random
import sys
from collections import deque
from pathlib import Path

import numpy as np
import pytest

from lvad_perception.conversion.tensorrt_build import BuildOptions, build_plan
from lvad_perception.engines import pytorch
from lvad_perception.engines.tensorrt import TensorRtEngine
from lvad_perception.engines.tensorrt_file import EngineFile, write_engine_file
from lvad_perception.errors import EngineError

from .fake_cuda import FakeCuda, FakeNetwork, FakeTorch

pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

SEEDS = 150
INFERENCES = 8


@pytest.fixture(params=["PyTorch", "TensorRT"])
def open_on(request, monkeypatch, tmp_path, tiny_model_file, make_manifest, reference, use_tensorrt):
    """A function that opens the tiny model on a fake device with the given arguments."""

    def open_program(seed, **options):
        torch = FakeTorch(seed, **options)
        network = FakeNetwork(torch, lambda images: [getattr(reference(images), name) for name in names])
        names = make_manifest().output_names
        monkeypatch.setitem(sys.modules, "torch", torch)
        monkeypatch.setattr(pytorch, "load_program", lambda path: (None, make_manifest()))
        monkeypatch.setattr(pytorch, "_deployed", lambda *_: network)
        return pytorch.PyTorchEngine(Path("model.pt2"))

    if request.param == "PyTorch":
        return open_program
    use_tensorrt("10.3.0")
    path = tmp_path / "model.engine"
    plan = build_plan(tiny_model_file.read_bytes(), "fp32", BuildOptions(), progress=lambda *_: None)
    write_engine_file(path, EngineFile(plan, make_manifest(), "fp32", None))
    return lambda seed, **options: TensorRtEngine(path, device=FakeCuda(seed, **options))


@pytest.fixture
def mixed_up(reference):
    """A function that runs many images through an engine, two at a time, and counts the results of other images.

    A result is compared when it is fetched and again before the second ``submit`` after its own, while it is valid.
    """

    def same(found, images):
        wanted = reference(images)
        return (
            all(np.array_equal(getattr(found, name), getattr(wanted, name)) for name in ("semantic", "labels", "boxes"))
            and np.allclose(found.scores, wanted.scores, atol=1e-6)
            and np.array_equal(found.semantic_confidence, wanted.semantic_confidence)
        )

    def count(engine, seed):
        chance, in_flight, fetched, wrong = random.Random(seed), deque(), deque(), 0
        for number in range(INFERENCES):
            images = np.random.default_rng([seed, number]).integers(0, 256, (2, 48, 64, 3), np.uint8)
            while len(in_flight) == 2 or (in_flight and chance.random() < 0.3):
                pending, source = in_flight.popleft()
                fetched.append((pending.result(), source.copy()))
                wrong += not same(*fetched[-1])
                source[:] = chance.randrange(256)  # the caller may change it from now on
            while len(fetched) + len(in_flight) == 2:
                wrong += not same(*fetched.popleft())
            in_flight.append((engine.submit(images), images))
        wrong += sum(not same(pending.result(), source) for pending, source in in_flight)
        engine.close()
        return wrong

    return count


@pytest.mark.parametrize("records", [True, False], ids=["graph", "no graph"])
def test_every_result_is_of_its_image_whatever_the_device_does_first(open_on, mixed_up, records):
    for seed in range(SEEDS):
        engine = open_on(seed, records=records)
        assert ("no CUDA graph" in engine.description) == (not records)
        assert mixed_up(engine, seed) == 0, f"seed {seed}"


@pytest.mark.parametrize("forgotten", ["compute", "download", "host"])
@pytest.mark.parametrize("records", [True, False], ids=["graph", "no graph"])
def test_without_any_one_of_the_waits_results_are_mixed_up(open_on, mixed_up, records, forgotten):
    def waits(seed):
        device = open_on(seed, records=records)
        (device._cuda.fake if hasattr(device, "_cuda") else sys.modules["torch"]).forget = {forgotten}
        return mixed_up(device, seed)

    assert any(waits(seed) for seed in range(20))


def test_a_copy_to_the_device_overlaps_the_network_of_another_image(open_on, images_like):
    """In some order of execution the second input is on the device before the first network has ended."""

    def overlapped(seed):
        engine = open_on(seed)
        pipeline = engine._pipeline if hasattr(engine, "_pipeline") else engine._runner
        first, second = (engine.submit(images_like(engine.manifest, number)) for number in range(2))
        uploaded, computed = pipeline._slots[1].uploaded, pipeline._slots[0].computed
        early = uploaded.query() and not computed.query()
        first.result(), second.result()
        return early

    assert any(overlapped(seed) for seed in range(50))


class TestSlots:
    def test_a_third_is_refused_until_the_first_was_fetched(self, open_on, images_like, reference):
        engine = open_on(0)
        images = [images_like(engine.manifest, seed) for seed in range(3)]
        first, second = engine.submit(images[0]), engine.submit(images[1])
        for _ in range(2):
            with pytest.raises(EngineError, match="2 inferences are in flight, the most that an engine takes; fetch"):
                engine.submit(images[2])
        np.testing.assert_array_equal(first.result().semantic, reference(images[0]).semantic)
        third = engine.submit(images[2])
        for pending, image in ((second, images[1]), (third, images[2])):
            np.testing.assert_array_equal(pending.result().semantic, reference(image).semantic)
            assert pending.done

    def test_a_second_fetch_releases_no_other_slot(self, open_on, images_like):
        engine = open_on(0)
        images = images_like(engine.manifest)
        first = engine.submit(images)
        first.result()
        engine.infer(images)
        engine.submit(images), engine.submit(images)
        first.result()  # its slot is in use by another inference
        with pytest.raises(EngineError, match="2 inferences are in flight"):
            engine.submit(images)

    def test_closing_waits_for_inferences_in_flight(self, open_on, images_like, reference):
        engine = open_on(3)
        images = images_like(engine.manifest)
        pending = engine.submit(images)
        engine.close()
        assert pending.done
        np.testing.assert_array_equal(pending.result().semantic, reference(images).semantic)
