"""Comparisons, batch sizes, overlapping stages, the roofline and the drawing."""

import time
import xml.etree.ElementTree as ET
from dataclasses import replace

import numpy as np
import pytest

from lvad_perception.engines.agreement import TOLERANCES
from lvad_perception.errors import ConfigError, EngineError
from lvad_perception.perceiver import Perceiver
from lvad_perception.profiling import overlap
from lvad_perception.profiling.bench import BatchTimes, Bench, compare_outputs, network_inputs, time_batches
from lvad_perception.profiling.cost import GraphCost
from lvad_perception.profiling.drawing import draw
from lvad_perception.profiling.frames import synthetic_frames
from lvad_perception.profiling.overlap import overlapped_fps
from lvad_perception.profiling.roofline import Machine, Roofline, measure_cuda
from lvad_perception.profiling.stages import time_stages
from lvad_perception.profiling.statistics import ratio_of_medians

ROOFLINE = Roofline(
    cost=GraphCost(flop=2_000_000_000, elements=5_000_000, weights=1_000_000, by_operator={"Conv": 2_000_000_000}),
    machine=Machine(gflops=200.0, gbytes_s=10.0),
    precision="fp32",
    engine_ms=20.0,
)


class TestRatio:
    def test_pairs_that_are_slow_together_leave_no_doubt(self):
        theirs = np.random.default_rng(1).uniform(1, 9, 101)
        ratio = ratio_of_medians(theirs / 2, theirs)
        assert (ratio.value, ratio.low, ratio.high) == pytest.approx((0.5, 0.5, 0.5))
        assert ratio.to_text() == "0.50 [0.50, 0.50]"

    def test_the_interval_holds_the_ratio_and_narrows(self):
        random = np.random.default_rng(2)
        widths = []
        for count in (20, 2000):
            ratio = ratio_of_medians(random.normal(5, 1, count), random.normal(10, 1, count))
            assert ratio.low < ratio.value < ratio.high
            assert ratio.low < 0.5 < ratio.high
            widths.append(ratio.high - ratio.low)
        assert widths[1] < widths[0] / 4


class TestRoofline:
    def test_below_the_ridge_the_bandwidth_limits(self):
        assert ROOFLINE.moved_bytes == 20_000_000
        assert ROOFLINE.intensity == 100
        assert ROOFLINE.gflops == pytest.approx(100)
        assert ROOFLINE.roof_gflops == 200  # 100 FLOP/byte x 10 GB/s would be 1000
        assert ROOFLINE.limit_ms == pytest.approx(10)
        assert ROOFLINE.fraction == pytest.approx(0.5)
        slow = replace(ROOFLINE, machine=Machine(gflops=200.0, gbytes_s=1.0))
        assert slow.roof_gflops == 100
        assert slow.fraction == pytest.approx(1.0)

    def test_narrower_elements_move_less(self):
        assert replace(ROOFLINE, precision="bf16").intensity == 200
        assert replace(ROOFLINE, precision="int8").intensity == 400

    def test_text_and_json_say_the_same(self):
        text, metadata = ROOFLINE.to_text(), ROOFLINE.to_dict()
        assert "2.00 GFLOP (Conv 2.00), 1.00 M constants, 20 MB moved by products, 100 FLOP/byte" in text
        assert "100 of 200 GFLOP/s, 50 %; no run can be shorter than 10.00 ms" in text
        assert (metadata["gflop"], metadata["moved_bytes"], metadata["fraction"]) == (
            2.0,
            20_000_000,
            pytest.approx(0.5),
        )

    def test_the_machine_is_measured_in_the_runtime(self, monkeypatch):
        pytest.importorskip("onnx", reason="onnx is not installed")
        pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
        from lvad_perception.profiling import roofline

        monkeypatch.setattr(roofline, "_SIDE", 128)
        monkeypatch.setattr(roofline, "_COPIED_BYTES", 2**20)
        for precision in ("fp32", "int8"):
            machine = roofline.measure_machine(runtime="onnxruntime", precision=precision, threads=2)
            assert machine.gflops > 0
            assert machine.gbytes_s > 0


def test_the_peak_of_a_gpu_needs_one():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    if torch.cuda.is_available():
        assert measure_cuda("fp16").gflops > measure_cuda("fp32").gflops > 0
        return
    with pytest.raises(EngineError, match="torch sees no CUDA device; check the driver"):
        measure_cuda("fp16")


class TestRivals:
    @pytest.fixture
    def stages(self, fake_engine):
        """Nine frames with a rival of batch 4 whose runs all take 8 ms."""
        rival = SlowRival()
        result = time_stages(
            Perceiver(fake_engine), synthetic_frames((9, 16)), source="x", count=9, warm_up=1, rivals=[rival]
        )
        return result, rival

    def test_each_frame_has_its_rival_after_it(self, stages):
        result, rival = stages
        assert len(result.rivals_ms["yolo.onnx"]) == 9
        np.testing.assert_allclose(result.rivals_ms["yolo.onnx"], 2.0)  # 8 ms for four images
        assert rival.runs == 1 + 5  # the warm-up, then batches of two

    def test_text_and_json_name_the_ratios(self, stages):
        bench = Bench(stages[0])
        line = next(line for line in bench.to_text().splitlines() if line.startswith("yolo.onnx"))
        metadata = bench.to_dict()["rivals"]["yolo.onnx"]
        assert line.split()[1:3] == ["2.00", "2.00"]
        assert f"{metadata['engine']['ratio_of_medians']:.2f} [" in line
        assert f"{metadata['frame']['ratio_of_medians']:.2f} [" in line
        assert metadata["frame"]["ratio_of_medians"] > metadata["engine"]["ratio_of_medians"]


class SlowRival:
    """A network whose runs all take 8 ms."""

    name, batch_size = "yolo.onnx", 4

    def __init__(self):
        self.runs = 0

    def run(self):
        self.runs += 1

    def timed_ms(self):
        self.run()
        return 8.0


class TestBatches:
    def test_every_engine_runs_equally_often_in_turns(self, make_engine, make_manifest):
        engines = [(f"b{size}", make_engine(make_manifest(batch_size=size))) for size in (1, 4)]
        inputs = [network_inputs(engine, synthetic_frames((9, 16)), 1)[0] for _, engine in engines]
        assert [images.shape[0] for images in inputs] == [1, 4]
        rows = time_batches(engines, inputs, count=40)
        assert [(row.name, row.batch_size, len(row.runs_ms)) for row in rows] == [("b1", 1, 10), ("b4", 4, 10)]
        assert [len(engine.batches) for _, engine in engines] == [11, 11]

    def test_throughput(self):
        row = BatchTimes("b4", 4, np.array([100.0, 300.0]))
        assert row.images_per_s == 20
        assert row.to_dict()["median_ms"] == 200


class TestOverlap:
    def test_every_frame_runs_in_a_full_batch(self, fake_engine):
        assert overlapped_fps(Perceiver(fake_engine), synthetic_frames((9, 16)), count=40) > 0
        assert len(fake_engine.batches) == 20

    def test_few_frames_are_no_measurement(self, fake_engine):
        overlapped_fps(Perceiver(fake_engine), synthetic_frames((9, 16)), count=1)
        assert len(fake_engine.batches) == 8

    def test_stages_overlap(self, fake_engine, monkeypatch):
        monkeypatch.setattr(overlap, "publish", lambda *_: time.sleep(0.02))
        infer = fake_engine.infer
        fake_engine.infer = lambda images: time.sleep(0.04) or infer(images)
        fps = overlapped_fps(Perceiver(fake_engine), synthetic_frames((9, 16)), count=24)
        assert fps > 2 / 0.08  # two frames of a batch one after the other, each 20 ms, beside the engine's 40 ms

    def test_a_failure_is_raised(self, fake_engine):
        def fail(images):
            raise EngineError("out of memory; close something")

        fake_engine.infer = fail
        with pytest.raises(EngineError, match="out of memory"):
            overlapped_fps(Perceiver(fake_engine), synthetic_frames((9, 16)), count=8)

    def test_text_and_json_say_the_same(self, fake_engine):
        stages = time_stages(Perceiver(fake_engine), synthetic_frames((9, 16)), source="x", count=2)
        bench = Bench(stages, overlapped_fps=12.34)
        assert bench.to_text().splitlines()[-1].endswith(" 12.3 frames/s")
        assert bench.to_dict()["frames_per_second_overlapping"] == 12.34
        assert "overlapping" not in Bench(stages).to_text()


class TestReference:
    def test_equal_engines_agree(self, make_engine):
        engine, reference = make_engine(), make_engine()
        inputs = network_inputs(engine, synthetic_frames((48, 64)), 2)
        assert compare_outputs(engine, reference, inputs, TOLERANCES["fp32"]).within(TOLERANCES["fp32"])

    def test_a_reference_of_another_model(self, make_engine, make_manifest):
        with pytest.raises(
            ConfigError, match="the reference has another batch size, input size or tasks; name the file"
        ):
            compare_outputs(make_engine(), make_engine(make_manifest(batch_size=1)), [], TOLERANCES["fp32"])


class TestDrawing:
    @pytest.fixture
    def bench(self, fake_engine):
        stages = time_stages(Perceiver(fake_engine), synthetic_frames((9, 16)), source="x", count=4)
        stages = replace(stages, rivals_ms={"<other>.onnx": np.full(4, 3.0)})
        return Bench(stages, [BatchTimes("b4", 4, np.array([8.0, 8.0]))], ROOFLINE)

    def test_it_is_a_drawing_with_a_bar_for_everything(self, bench):
        root = ET.fromstring(draw(bench))
        space = "{http://www.w3.org/2000/svg}"
        texts = [element.text for element in root.iter(f"{space}text")]
        for label in ("decode", "messages", "whole frame", "engine, batch 4, an image", "<other>.onnx"):
            assert label in texts
        assert len(list(root.iter(f"{space}rect"))) == 5 + 1 + 1 + 1
        assert "100 GFLOP/s, 50 % of the roof" in texts

    def test_nothing_lies_outside(self, bench):
        root = ET.fromstring(draw(bench))
        *_, width, height = map(float, root.get("viewBox").split())
        for element in root.iter():
            for side, limit in (("x", width), ("y", height), ("cx", width), ("cy", height), ("x2", width)):
                assert 0 <= float(element.get(side, 0)) <= limit

    def test_without_a_roofline_there_are_bars_alone(self, bench):
        assert "GFLOP" not in draw(replace(bench, roofline="roofline: not known"))


def test_unknown_values_are_named(fake_engine):
    stages = time_stages(Perceiver(fake_engine), synthetic_frames((9, 16)), source="x", count=2)
    bench = Bench(stages, roofline="roofline: not known, since onnx is not installed")
    assert bench.to_text().endswith("roofline: not known, since onnx is not installed")
    assert bench.to_dict()["roofline"] is None
