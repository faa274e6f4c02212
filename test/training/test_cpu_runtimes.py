"""The shipped weights, exported, in every CPU runtime and precision: suppression, TopK, casts and all."""

from pathlib import Path

import numpy as np
import pytest
import torch

from lvad_perception.conversion.quantize import quantize
from lvad_perception.engines import open_engine
from lvad_perception.engines.agreement import TOLERANCES, agree, copied
from lvad_perception.errors import EngineError
from lvad_perception.media.images import read_image
from lvad_perception.preprocess import letterbox_image
from lvad_perception.profiling.cost import graph_cost
from lvad_training.build import build_model
from lvad_training.checkpoints import Checkpoint, save_checkpoint
from lvad_training.cli import main
from lvad_training.recipe.config import parse_recipe
from lvad_training.sample_set.write import render_sample_set

pytest.importorskip("onnxscript", reason="onnxscript is not installed")
pytestmark = pytest.mark.slow

WEIGHTS = Path(__file__).resolve().parents[2] / "lvad_training" / "weights" / "edge.pt"


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    """A folder of rendered road scenes like those that the weights were trained on."""
    root = tmp_path_factory.mktemp("rendered") / "scenes"
    render_sample_set(root, images=8, seed=5)
    return next(path for path in sorted(root.rglob("train")) if path.parent.parent.name == "images")


@pytest.fixture(scope="module")
def model_file(rendered, tmp_path_factory):
    path = tmp_path_factory.mktemp("exported") / "edge.onnx"
    assert main(["export", str(WEIGHTS), str(path), "--images", str(rendered)]) == 0
    return path


@pytest.fixture(scope="module")
def scenes(rendered, model_file):
    """Network inputs, uint8 [1, H, W, 3] each, and what ONNX Runtime says of them in FP32."""
    engine = open_engine(model_file, threads=1)
    size_hw = engine.manifest.input_hw
    inputs = [letterbox_image(read_image(path), size_hw)[0][None] for path in sorted(rendered.iterdir())[:4]]
    outputs = [copied(engine.infer(batch)) for batch in inputs]
    assert sum((output.scores > 0.3).sum() for output in outputs) >= 8  # something to be wrong about
    return inputs, outputs


def difference(engine, scenes, precision):
    inputs, wanted = scenes
    return agree([copied(engine.infer(batch)) for batch in inputs], wanted, TOLERANCES[precision])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_openvino_keeps_to_the_tolerance(model_file, scenes, precision):
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    try:
        engine = open_engine(model_file, threads=1, runtime="openvino", precision=precision)
    except EngineError as err:
        if precision == "fp32":
            raise
        pytest.skip(str(err))
    assert engine.precision == precision
    found = difference(engine, scenes, precision)
    assert found.within(TOLERANCES[precision]), found.to_text()
    assert found.boxes > 0


def test_heads_of_queries_agree_too(rendered, tmp_path):
    """RoiAlign, attention and masks from queries, with random weights: no shipped ones have these heads."""
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    recipe = parse_recipe({"preset": "tiny", "data": {"root": "unused"}}, [], source="test")
    torch.manual_seed(0)
    save_checkpoint(tmp_path / "tiny.pt", Checkpoint(recipe, 0, build_model(recipe.model).state_dict()))
    assert main(["export", str(tmp_path / "tiny.pt"), str(tmp_path / "tiny.onnx"), "--images", str(rendered)]) == 0
    wanted, engine = (
        open_engine(tmp_path / "tiny.onnx", threads=1, runtime=name) for name in ("onnxruntime", "openvino")
    )
    inputs = [letterbox_image(read_image(path), (256, 448))[0][None] for path in sorted(rendered.iterdir())[:2]]
    found = agree(*([copied(each.infer(batch)) for batch in inputs] for each in (engine, wanted)))
    assert found.within(TOLERANCES["fp32"]), found.to_text()
    assert found.boxes > 300  # of 2 x 100 in each; the last of a list are not judged


def test_auto_takes_one_that_agrees_and_says_why(model_file, scenes):
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    said = []
    engine = open_engine(model_file, threads=1, runtime="auto", log=said.append)
    assert difference(engine, scenes, "fp32").within(TOLERANCES["fp32"])
    assert said[0].startswith(f"runtime: {engine.description}; medians of 7: ONNX Runtime ")


def test_int8_keeps_to_the_tolerance_in_each_runtime(model_file, rendered, scenes, tmp_path):
    done = quantize(model_file, tmp_path / "edge.int8.onnx", rendered, calibration_images=4, check_images=2)
    engine = open_engine(done.path, threads=1)
    assert engine.precision == "int8"
    found = difference(engine, scenes, "int8")
    assert found.within(TOLERANCES["int8"]), found.to_text()
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    for precision in (None, "int8"):
        engine = open_engine(done.path, threads=1, runtime="openvino", precision=precision)
        assert engine.precision == "int8"  # asked of the compiled graph
        found = difference(engine, scenes, "int8")
        assert found.within(TOLERANCES["int8"]), found.to_text()


def test_its_work_is_counted(model_file):
    cost = graph_cost(model_file)
    assert {"Conv", "MatMul", "Gemm"} >= set(cost.by_operator)
    assert 7.5e9 < cost.flop < 8.5e9
    assert np.isclose(cost.flop, sum(cost.by_operator.values()))
