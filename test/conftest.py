"""Fixtures shared by all rooms: a model file small enough to write in a test, whose outputs depend on the image."""

import json
from pathlib import Path

import numpy as np
import pytest

from lvad_perception.manifest import MANIFEST_KEY, Manifest
from lvad_perception.types import RawOutputs
from lvad_perception.vocabulary import TASKS

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
NETWORK_HW = (48, 64)
OBJECTS = 4


@pytest.fixture(scope="session")
def shared_data():
    """Folder of real data beside the repository; the test is skipped where there is none."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"no real data at {SHARED_DATA}")
    return SHARED_DATA


def tiny_manifest(**changes):
    facts = {
        "network_hw": NETWORK_HW,
        "batch_size": 2,
        "max_detections": OBJECTS,
        "classes": {task: vocabulary.names for task, vocabulary in TASKS.items()},
        "score_threshold": 0.3,
        "preset": "test",
        "weights_sha256": "0" * 64,
        "created_by": "lvad_perception 0.1.0",
    }
    return Manifest(**{**facts, **changes})


def quarter_boxes():
    """The four quarters of the network input, float32 [4, 4] xyxy."""
    height, width = NETWORK_HW
    corners = [(x, y) for y in (0, height / 2) for x in (0, width / 2)]
    return np.array([(x, y, x + width / 2, y + height / 2) for x, y in corners], np.float32)


def tiny_reference(images, manifest=None):
    """What the tiny model says, in numpy: red / 13 is the semantic class, green / 86 the drivable one, blue the
    confidence; the object of each quarter of the image scores that quarter's mean blue, its class is the quarter's."""
    count, height, width, _ = images.shape
    red, green, blue = np.moveaxis(images, 3, 0)
    quarters = blue.astype(np.float32).reshape(count, 2, height // 2, 2, width // 2).mean(axis=(2, 4))
    scores = (quarters / np.float32(255)).reshape(count, OBJECTS)
    labels = np.argsort(-scores, axis=1, kind="stable").astype(np.int32)
    classes = tiny_manifest().classes if manifest is None else manifest.classes
    detects, segments, drives = (task in classes for task in ("detection", "semantic", "drivable"))
    return RawOutputs(
        boxes=quarter_boxes()[labels] if detects else None,
        scores=np.take_along_axis(scores, labels, axis=1) if detects else None,
        labels=labels if detects else None,
        semantic=np.minimum(red // 13, 18) if segments else None,
        drivable=np.minimum(green // 86, 2) if drives else None,
        semantic_confidence=blue.copy() if segments else None,
    )


def write_tiny_model(path, *, manifest=None, manifest_text=None, dynamic=False, input_name="images", float_masks=False):
    """Write the model of ``tiny_reference`` as ONNX; the options spoil it in ways that must be refused."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    manifest = manifest or tiny_manifest()
    batch, (height, width) = manifest.batch_size, manifest.network_hw
    constants = {
        "red": np.int64(0),
        "green": np.int64(1),
        "blue": np.int64(2),
        "thirteen": np.uint8(13),
        "last_semantic": np.uint8(18),
        "eighty_six": np.uint8(86),
        "last_drivable": np.uint8(2),
        "quarter_shape": np.int64([batch, 2, height // 2, 2, width // 2]),
        "quarter_axes": np.int64([2, 4]),
        "score_shape": np.int64([batch, OBJECTS]),
        "brightest": np.float32(255),
        "count": np.int64([OBJECTS]),
        "quarters": quarter_boxes(),
    }
    mask_type = TensorProto.FLOAT if float_masks else TensorProto.UINT8
    nodes = [
        helper.make_node("Gather", [input_name, "red"], ["r"], axis=3),
        helper.make_node("Gather", [input_name, "green"], ["g"], axis=3),
        helper.make_node("Gather", [input_name, "blue"], ["b"], axis=3),
        helper.make_node("Div", ["r", "thirteen"], ["r13"]),
        helper.make_node("Min", ["r13", "last_semantic"], ["semantic_ids"]),
        helper.make_node("Cast", ["semantic_ids"], ["semantic"], to=mask_type),
        helper.make_node("Div", ["g", "eighty_six"], ["g86"]),
        helper.make_node("Min", ["g86", "last_drivable"], ["drivable"]),
        helper.make_node("Identity", ["b"], ["semantic_confidence"]),
        helper.make_node("Cast", ["b"], ["bf"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["bf", "quarter_shape"], ["bq"]),
        helper.make_node("ReduceMean", ["bq", "quarter_axes"], ["mean"], keepdims=0),
        helper.make_node("Reshape", ["mean", "score_shape"], ["flat"]),
        helper.make_node("Div", ["flat", "brightest"], ["all_scores"]),
        helper.make_node("TopK", ["all_scores", "count"], ["scores", "order"], axis=1),
        helper.make_node("Cast", ["order"], ["labels"], to=TensorProto.INT32),
        helper.make_node("Gather", ["quarters", "order"], ["boxes"], axis=0),
    ]
    shapes = {
        "boxes": (TensorProto.FLOAT, [batch, OBJECTS, 4]),
        "scores": (TensorProto.FLOAT, [batch, OBJECTS]),
        "labels": (TensorProto.INT32, [batch, OBJECTS]),
        "semantic": (mask_type, [batch, height, width]),
        "drivable": (TensorProto.UINT8, [batch, height, width]),
        "semantic_confidence": (TensorProto.UINT8, [batch, height, width]),
    }
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(input_name, TensorProto.UINT8, ["n" if dynamic else batch, height, width, 3])],
        [helper.make_tensor_value_info(name, *shapes[name]) for name in manifest.output_names],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    text = manifest.to_json() if manifest_text is None else manifest_text
    if text:
        helper.set_model_props(model, {MANIFEST_KEY: text})
    onnx.save(model, str(path))
    return path


class FakeEngine:
    """The tiny model without ONNX Runtime; it wipes its outputs in the next call, as an engine may."""

    description = "fake"

    def __init__(self, manifest=None):
        self.manifest = manifest or tiny_manifest()
        self.batches = []
        self.closed = False
        self._outputs = None

    def infer(self, images):
        assert images.shape == (self.manifest.batch_size, *self.manifest.network_hw, 3)
        assert images.flags.c_contiguous
        self.batches.append(images.copy())
        if self._outputs is not None:
            for name in ("boxes", "scores", "labels", "semantic", "drivable", "semantic_confidence"):
                if (array := getattr(self._outputs, name)) is not None:
                    array.fill(0)
        self._outputs = tiny_reference(images, self.manifest)
        return self._outputs

    def close(self):
        self.closed = True


@pytest.fixture(scope="session")
def tiny_model_file(tmp_path_factory):
    """Path of a valid model file with a batch size of 2."""
    pytest.importorskip("onnx", reason="onnx is not installed")
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.onnx")


@pytest.fixture
def make_tiny_model():
    """``write_tiny_model``, for model files that differ."""
    pytest.importorskip("onnx", reason="onnx is not installed")
    return write_tiny_model


@pytest.fixture
def make_manifest():
    """``tiny_manifest(**changes)``."""
    return tiny_manifest


@pytest.fixture
def fake_engine():
    """A ``FakeEngine`` with a batch size of 2."""
    return FakeEngine()


@pytest.fixture
def make_engine():
    """The class ``FakeEngine``, for engines with another manifest."""
    return FakeEngine


@pytest.fixture
def reference():
    """``tiny_reference``: what the tiny model and the fake engine say, in numpy."""
    return tiny_reference


@pytest.fixture
def manifest_facts():
    """A valid manifest as a dictionary, to be spoilt."""
    return json.loads(tiny_manifest().to_json())
