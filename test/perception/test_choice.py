"""Which runtime "auto" takes, with runtimes and a clock that are made up."""

import numpy as np
import pytest

from lvad_perception.engines import choice
from lvad_perception.errors import EngineError, ModelFileError


class Clock:
    """Advances only when an engine works."""

    def __init__(self):
        self.now_s = 0.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def offer(monkeypatch, make_engine, tmp_path):
    """``offer(openvino=…)`` replaces both runtimes and returns a function that chooses between them."""

    def offer(
        *, openvino_s=0.5, reference_precision="fp32", rival_precision="fp32", spoil=None, broken=None, there=True
    ):
        clock, said, engines = Clock(), [], {}

        class Timed(make_engine):
            cost_s = 1.0

            def infer(self, images):
                clock.now_s += self.cost_s
                return super().infer(images)

        def onnx(path, *, threads):
            engine = engines["onnxruntime"] = Timed()
            engine.description, engine.precision = "ONNX Runtime", reference_precision
            return engine

        def openvino(path, *, threads, precision):
            if broken:
                raise broken
            engine = engines["openvino"] = Timed()
            engine.description, engine.precision, engine.cost_s = "OpenVINO", rival_precision, openvino_s
            if spoil:
                right = engine.infer
                engine.infer = lambda images: spoil(right(images))
            return engine

        monkeypatch.setattr(choice, "OnnxEngine", onnx)
        monkeypatch.setattr(choice, "OpenVinoEngine", openvino)
        monkeypatch.setattr(choice, "find_spec", lambda name: object() if there else None)

        def choose(precision=None):
            path = tmp_path / "m.onnx"
            engine = choice.fastest(path, threads=1, precision=precision, say=said.append, clock=clock)
            others = [other for other in engines.values() if other is not engine]
            assert not engine.closed
            assert all(other.closed for other in others)
            return engine.description, said

        choose.engines = engines
        return choose

    return offer


def spoilt(outputs):
    """Masks of which a tenth is wrong."""
    outputs.semantic.reshape(-1)[::10] += 1
    return outputs


def test_the_faster_one_is_taken_and_the_reason_told(offer):
    name, said = offer(openvino_s=0.5)()
    assert name == "OpenVINO"
    assert said[0].startswith("runtime: OpenVINO; medians of 7: ONNX Runtime 1000.0 ms, OpenVINO 500.0 ms, ")
    assert said[0].endswith("confidence within 0/255")


@pytest.mark.parametrize("openvino_s", [0.96, 1.0, 2.0])
def test_a_near_tie_is_onnx_runtimes(offer, openvino_s):
    assert offer(openvino_s=openvino_s)()[0] == "ONNX Runtime"


def test_one_that_differs_is_not_taken_however_fast(offer):
    name, said = offer(openvino_s=0.01, spoil=spoilt)()
    assert name == "ONNX Runtime"
    assert "since OpenVINO differs from ONNX Runtime (" in said[0]
    assert "89.990 % of mask pixels" in said[0]


def test_one_that_does_not_load_is_told_and_left(offer):
    name, said = offer(broken=ModelFileError("m.onnx cannot be loaded"))()
    assert name == "ONNX Runtime"
    assert said == ["runtime: ONNX Runtime, since OpenVINO does not run it: m.onnx cannot be loaded"]


def test_where_there_is_no_choice_nothing_is_tried(offer):
    choose = offer(there=False)
    assert choose() == ("ONNX Runtime", [])
    assert choose.engines["onnxruntime"].batches == []


class TestLowerPrecision:
    def test_it_leaves_the_runtime_that_computes_in_it(self, offer):
        name, said = offer(openvino_s=5.0, rival_precision="bf16")("bf16")
        assert name == "OpenVINO"
        assert said[0].startswith("runtime: OpenVINO, which alone computes in bf16 (")

    def test_beyond_its_tolerance_it_is_refused(self, offer):
        choose = offer(rival_precision="bf16", spoil=spoilt)
        with pytest.raises(EngineError, match=r"OpenVINO differs .*, more than bf16 may; choose the runtime openvino"):
            choose("bf16")
        assert all(engine.closed for engine in choose.engines.values())

    def test_without_openvino_there_is_none(self, offer):
        choose = offer(there=False)
        with pytest.raises(EngineError, match=r"no runtime here computes .*m\.onnx in bf16; pip install openvino, or"):
            choose("bf16")
        assert choose.engines["onnxruntime"].closed

    def test_a_quantised_file_is_chosen_for_like_any_other(self, offer):
        assert offer(reference_precision="int8", rival_precision="int8")("int8")[0] == "OpenVINO"


def test_trial_images_are_smooth_and_always_the_same(make_manifest):
    first, second = (choice.trial_images(make_manifest(network_hw=(100, 130)), 2) for _ in range(2))
    assert [image.shape for image in first] == [(2, 100, 130, 3)] * 2
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first[0], first[1])
    assert np.abs(np.diff(first[0].astype(int), axis=1)).max() <= 8
    assert first[0].std() > 30
