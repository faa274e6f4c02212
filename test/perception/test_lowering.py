import numpy as np
import pytest

from lvad_perception.conversion.lowering import lower
from lvad_perception.conversion.lowering_half import in_half, output_products
from lvad_perception.conversion.lowering_int8 import best_range, in_int8, measure_ranges
from lvad_perception.conversion.lowering_norms import with_norms_folded
from lvad_perception.conversion.lowering_opset import in_opset_17
from lvad_perception.errors import ConfigError, EngineError, ModelFileError

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
ort = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

SIDE = 16
WIDTH = 32
FLOAT, HALF = 1, 10


def network(opset=18):
    """A small relative of the exported graph: images -> stem -> residual block -> norm -> two heads, one of them boxes.

    The names of tensors say what they are; "anchors" exceed what FP16 can hold.
    """
    h, random = onnx.helper, np.random.default_rng(0)

    def weights(*shape):
        return (random.normal(size=shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)

    axes = ["axes"] if opset >= 18 else []
    constants = {
        "mean": np.float32(114),
        "stem.w": weights(WIDTH, 3, 3, 3) / 64,
        "first.w": weights(WIDTH, WIDTH, 3, 3),
        "first.b": weights(WIDTH),
        "second.w": weights(WIDTH, WIDTH, 1, 1),
        "flat": np.int64([1, WIDTH, SIDE * SIDE]),
        "mix.w": weights(SIDE * SIDE, 8),
        "norm.w": np.ones(8, np.float32),
        "norm.b": np.zeros(8, np.float32),
        "classes.w": weights(8, 5),
        "boxes.w": weights(8, 4),
        "anchors": np.float32([0, 0, 1e5, 1e5]),
        **({"axes": np.int64([2])} if axes else {}),
    }
    nodes = [
        h.make_node("Cast", ["images"], ["pixels"], to=FLOAT),
        h.make_node("Transpose", ["pixels"], ["planes"], perm=[0, 3, 1, 2]),
        h.make_node("Sub", ["planes", "mean"], ["centred"]),
        h.make_node("Conv", ["centred", "stem.w"], ["stem"], pads=[1] * 4),
        h.make_node("Relu", ["stem"], ["stem.relu"]),
        h.make_node("Conv", ["stem.relu", "first.w", "first.b"], ["first"], pads=[1] * 4),
        h.make_node("Relu", ["first"], ["first.relu"]),
        h.make_node("Conv", ["first.relu", "second.w"], ["second"]),
        h.make_node("Add", ["second", "stem.relu"], ["block"]),
        h.make_node("Reshape", ["block", "flat"], ["tokens"]),
        h.make_node("MatMul", ["tokens", "mix.w"], ["mixed"]),
        h.make_node("LayerNormalization", ["mixed", "norm.w", "norm.b"], ["normed"]),
        h.make_node("MatMul", ["normed", "classes.w"], ["logits"]),
        h.make_node("Sigmoid", ["logits"], ["probabilities"]),
        h.make_node("ReduceMax", ["probabilities", *axes], ["scores"], keepdims=0, **({} if axes else {"axes": [2]})),
        h.make_node("MatMul", ["normed", "boxes.w"], ["deltas"]),
        h.make_node("Add", ["deltas", "anchors"], ["boxes"]),
    ]
    graph = h.make_graph(
        nodes,
        "network",
        [h.make_tensor_value_info("images", onnx.TensorProto.UINT8, [1, SIDE, SIDE, 3])],
        [
            h.make_tensor_value_info("scores", FLOAT, [1, WIDTH]),
            h.make_tensor_value_info("boxes", FLOAT, [1, WIDTH, 4]),
        ],
        [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = h.make_model(graph, opset_imports=[h.make_opsetid("", opset)], ir_version=10)
    h.set_model_props(model, {"lvad_manifest": "kept"})
    onnx.checker.check_model(model, full_check=True)
    return model


@pytest.fixture(scope="module")
def model():
    return network()


@pytest.fixture(scope="module")
def batches():
    random = np.random.default_rng(1)
    return [random.integers(0, 256, (1, SIDE, SIDE, 3), np.uint8) for _ in range(4)]


def run(model, batch):
    content = model if isinstance(model, bytes) else model.SerializeToString()
    session = ort.InferenceSession(content, providers=["CPUExecutionProvider"])
    return session.run(["scores", "boxes"], {"images": batch})


def dtypes(model):
    """Tensor name -> element type, as ONNX infers them."""
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    infos = [*inferred.input, *inferred.value_info, *inferred.output]
    return {info.name: info.type.tensor_type.elem_type for info in infos}


class TestHalf:
    def test_products_and_their_followers_are_half_and_the_rest_is_not(self, model):
        found = dtypes(in_half(model))
        half = {name for name, dtype in found.items() if dtype == HALF}
        expected = {"stem", "stem.relu", "first", "first.relu", "second", "block", "tokens", "mixed", "centred.half"}
        assert half == expected

    def test_the_last_product_before_each_output_stays(self, model):
        nodes = model.graph.node
        assert {nodes[index].output[0] for index in output_products(model.graph)} == {"logits", "deltas"}

    def test_outputs_stay_close_and_keep_their_type(self, model, batches):
        lowered = in_half(model)
        for batch in batches:
            for found, wanted in zip(run(lowered, batch), run(model, batch), strict=True):
                assert found.dtype == np.float32
                np.testing.assert_allclose(found, wanted, rtol=1e-2, atol=1e-2)

    def test_each_tensor_is_cast_once(self, model):
        casts = [node.input[0] for node in in_half(model).graph.node if node.op_type == "Cast"]
        assert sorted(casts) == ["centred", "images", "mixed"]

    def test_unused_constants_are_dropped(self, model):
        names = {tensor.name for tensor in in_half(model).graph.initializer}
        assert "first.w.half" in names
        assert "first.w" not in names
        assert "boxes.w" in names

    def test_a_product_whose_weights_exceed_half_stays(self, model):
        large = onnx.ModelProto()
        large.CopyFrom(model)
        for tensor in large.graph.initializer:
            if tensor.name == "first.w":
                array = onnx.numpy_helper.to_array(tensor) * 1e6
                tensor.CopyFrom(onnx.numpy_helper.from_array(array.astype(np.float32), "first.w"))
        assert dtypes(in_half(large))["first"] == FLOAT

    def test_a_half_tensor_that_is_an_output_leaves_as_float(self, model):
        watched = onnx.ModelProto()
        watched.CopyFrom(model)
        watched.graph.output.append(onnx.helper.make_tensor_value_info("block", FLOAT, [1, WIDTH, SIDE, SIDE]))
        lowered = in_half(watched)
        assert dtypes(lowered)["block"] == FLOAT
        onnx.checker.check_model(lowered, full_check=True)


def test_norms_after_shared_weights_are_folded_into_separate_weights():
    """The first two convolutions share weights; another node reads the third besides its norm."""
    h, random = onnx.helper, np.random.default_rng(2)
    wide = [WIDTH]
    constants = {"w": random.normal(size=(WIDTH, WIDTH, 3, 3)) / 20, "bias": random.normal(size=wide)}
    for name in "abc":
        constants |= {f"{name}.{part}": random.normal(size=wide) for part in ("scale", "shift", "mean")}
        constants[f"{name}.var"] = random.uniform(0.1, 2, wide)
    nodes, last = [], "x"
    for name, inputs in zip("abc", (["w"], ["w", "bias"], ["w"]), strict=True):
        statistics = [f"{name}.{part}" for part in ("scale", "shift", "mean", "var")]
        nodes.append(h.make_node("Conv", [last, *inputs], [f"{name}.conv"], pads=[1] * 4))
        nodes.append(h.make_node("BatchNormalization", [f"{name}.conv", *statistics], [name], epsilon=1e-3))
        last = name
    nodes.append(h.make_node("Add", ["c", "c.conv"], ["y"]))
    shape = [1, WIDTH, 6, 6]
    graph = h.make_graph(
        nodes,
        "norms",
        [h.make_tensor_value_info("x", FLOAT, shape)],
        [h.make_tensor_value_info("y", FLOAT, shape)],
        [onnx.numpy_helper.from_array(np.float32(value), name) for name, value in constants.items()],
    )
    before = h.make_model(graph, opset_imports=[h.make_opsetid("", 18)], ir_version=10)
    after = with_norms_folded(before)
    onnx.checker.check_model(after, full_check=True)
    assert [node.op_type for node in after.graph.node] == ["Conv", "Conv", "Conv", "BatchNormalization", "Add"]
    assert not {"bias", "a.mean", "b.var"} & {tensor.name for tensor in after.graph.initializer}
    x = {"x": random.normal(size=shape).astype(np.float32)}
    found, wanted = (
        ort.InferenceSession(each.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, x)[0]
        for each in (after, before)
    )
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


class TestInt8:
    def test_pairs_precede_wide_convolutions_only(self, model, batches):
        lowered = in_int8(model, batches, progress=lambda *_: None)
        convolutions = {node.output[0]: node.input for node in lowered.graph.node if node.op_type == "Conv"}
        assert list(convolutions["stem"]) == ["centred", "stem.w"]  # three channels
        assert list(convolutions["first"]) == ["stem.relu.dequantised", "first.w.dequantised", "first.b"]
        assert list(convolutions["second"]) == ["first.relu.dequantised", "second.w.dequantised"]
        assert sum(node.op_type == "QuantizeLinear" for node in lowered.graph.node) == 4

    def test_zero_points_are_zero_and_weights_have_a_scale_per_channel(self, model, batches):
        lowered = in_int8(model, batches, progress=lambda *_: None)
        constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in lowered.graph.initializer}
        for name, array in constants.items():
            if name.endswith(".zero"):
                assert array.dtype == np.int8
                assert not array.any()
        assert constants["first.w.scale"].shape == (WIDTH,)
        assert constants["stem.relu.scale"].shape == ()
        np.testing.assert_allclose(
            constants["first.w.scale"] * 127, np.abs(constants["first.w"]).max(axis=(1, 2, 3)), rtol=1e-6
        )

    def test_ranges_come_from_the_images(self, model, batches):
        bright = measure_ranges(model, ["stem.relu"], batches, lambda *_: None)["stem.relu"]
        dark = measure_ranges(model, ["stem.relu"], [batch // 8 + 100 for batch in batches], lambda *_: None)
        assert 0 < dark["stem.relu"] < bright

    def test_a_few_large_values_are_clipped_for_finer_steps(self):
        counts = np.zeros(100)
        counts[5:40] = 1e6
        counts[99] = 1
        assert 0.39 < best_range(counts, 1.0) < 0.45

    def test_evenly_spread_values_keep_their_range(self):
        assert best_range(np.ones(2048), 3.0) > 2.9

    def test_the_range_has_the_least_error_of_all(self):
        """By quantising values and trying every range."""
        values = np.abs(np.random.default_rng(0).laplace(size=20000)).astype(np.float32)
        most = float(values.max())

        def error(clip):
            step = clip / 127
            return float(((np.minimum(np.round(values / step), 127) * step - values) ** 2).mean())

        found = best_range(np.histogram(values, 2048, (0, most))[0].astype(float), most)
        assert error(found) < 1.02 * min(error(share * most) for share in np.linspace(0.2, 1, 200))
        assert error(found) < 0.95 * error(most)

    def test_a_tensor_of_zeros_has_a_range(self):
        assert best_range(np.zeros(16), 1e-6) == 1e-6

    def test_outputs_stay_close(self, model, batches):
        lowered = lower(model.SerializeToString(), precision="int8", batches=batches)
        for batch in batches:
            for found, wanted in zip(run(lowered, batch), run(model, batch), strict=True):
                np.testing.assert_allclose(found, wanted, rtol=0.05, atol=0.1)

    def test_quantised_convolutions_do_not_become_half(self, model, batches):
        lowered = onnx.load_from_string(lower(model.SerializeToString(), precision="int8", batches=batches))
        found = dtypes(lowered)
        assert found["first"] == found["second"] == FLOAT
        assert found["mixed"] == found["stem"] == HALF

    def test_progress_counts_batches(self, model, batches):
        seen = []
        in_int8(model, batches, progress=lambda share, phase: seen.append(share))
        assert seen == [0.125 * step for step in range(1, 9)]  # twice over four batches

    def test_without_images_it_is_refused(self, model):
        with pytest.raises(ConfigError, match=r"INT8 needs images .*--calibration"):
            lower(model.SerializeToString(), precision="int8")


def one_node(op, inputs, output, *, opset=18, constants=None, **given):
    """A model of one node with floats in and out; shapes by name."""
    h = onnx.helper
    constants = constants or {}
    outputs = {"y": output} if isinstance(output, list) else output
    graph = h.make_graph(
        [h.make_node(op, [*inputs, *constants], list(outputs), **given)],
        "one node",
        [h.make_tensor_value_info(name, FLOAT, shape) for name, shape in inputs.items()],
        [h.make_tensor_value_info(name, FLOAT, shape) for name, shape in outputs.items()],
        [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = h.make_model(graph, opset_imports=[h.make_opsetid("", opset)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


class TestOpset:
    def test_axes_move_back_into_attributes(self, model, batches):
        """Otherwise TensorRT 8.6 reduces over all axes."""
        lowered = in_opset_17(model)
        (reduce,) = (node for node in lowered.graph.node if node.op_type == "ReduceMax")
        assert len(reduce.input) == 1
        assert {each.name: onnx.helper.get_attribute_value(each) for each in reduce.attribute}["axes"] == [2]
        assert [each.version for each in lowered.opset_import] == [17]
        assert lowered.ir_version == 8
        for batch in batches:
            for found, wanted in zip(run(lowered, batch), run(model, batch), strict=True):
                np.testing.assert_array_equal(found, wanted)

    @pytest.mark.parametrize(
        "model",
        [
            one_node("Split", {"x": [2, 4]}, {"y": [2, 2], "z": [2, 2]}, axis=1, num_outputs=2),
            one_node(
                *("Resize", {"x": [1, 2, 4, 4]}, [1, 2, 8, 8]),
                constants={"roi": np.float32([]), "scales": np.float32([1, 1, 2, 2])},
                mode="linear",
                antialias=0,
                keep_aspect_ratio_policy="stretch",
            ),
            one_node("Pad", {"x": [2, 2]}, [4, 2], constants={"pads": np.int64([1, 0, 1, 0])}),
            one_node("ReduceMean", {"x": [2, 3]}, [1, 1]),
        ],
        ids=["Split", "Resize", "Pad", "ReduceMean"],
    )
    def test_changed_operators_mean_the_same(self, model):
        lowered = in_opset_17(model)
        onnx.checker.check_model(lowered, full_check=True)
        (given,) = model.graph.input
        x = np.random.default_rng(0).normal(size=[side.dim_value for side in given.type.tensor_type.shape.dim])
        for found, wanted in zip(*(run_all(each, x.astype(np.float32)) for each in (lowered, model)), strict=True):
            np.testing.assert_array_equal(found, wanted)

    @pytest.mark.parametrize(
        "model",
        [
            one_node("Gelu", {"x": [2]}, [2], opset=20),
            one_node("Mish", {"x": [2]}, [2]),
            one_node(
                *("Resize", {"x": [1, 2, 4, 4]}, [1, 2, 2, 2]),
                constants={"roi": np.float32([]), "scales": np.float32([1, 1, 0.5, 0.5])},
                mode="linear",
                antialias=1,
            ),
            one_node(
                *("Pad", {"x": [2, 2]}, [4, 2]),
                constants={"pads": np.int64([1, 1]), "value": np.float32(0), "axes": np.int64([0])},
            ),
        ],
        ids=["Gelu", "Mish", "Resize", "Pad"],
    )
    def test_operators_without_equivalent_are_refused(self, model):
        with pytest.raises(EngineError, match=r"-> y cannot be written in opset 17; update TensorRT to 10 or newer"):
            in_opset_17(model)

    def test_metadata_stay(self, model):
        lowered = onnx.load_from_string(lower(model.SerializeToString(), precision="fp16", opset_17=True))
        assert {each.key: each.value for each in lowered.metadata_props} == {"lvad_manifest": "kept"}

    def test_an_older_file_is_left_alone(self):
        model = network(opset=17)
        assert in_opset_17(model) is model


def run_all(model, x):
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": x})


def test_fp32_is_left_as_it_is(model):
    content = model.SerializeToString()
    assert onnx.load_from_string(lower(content, precision="fp32")) == model


def test_other_files_are_refused():
    with pytest.raises(ModelFileError, match="cannot be read as an ONNX file"):
        lower(b"\xff no protobuf", precision="fp32")
