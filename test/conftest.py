"""Fixtures of all tests: a tiny model file whose outputs depend on the image, and tiny data sets."""

import json
import os
from collections import deque
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from lvad_perception.engines.base import SLOTS, Engine, Pending
from lvad_perception.manifest import MANIFEST_KEY, Manifest
from lvad_perception.types import RawOutputs
from lvad_perception.vocabulary import TASKS

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
NETWORK_HW = (48, 64)
OBJECTS = 4


@pytest.fixture(scope="session")
def shared_data():
    """Folder of real data beside the repository; skips the test without it."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"no real data at {SHARED_DATA}")
    return SHARED_DATA


def tiny_manifest(**changes):
    metadata = {
        "network_hw": NETWORK_HW,
        "batch_size": 2,
        "max_detections": OBJECTS,
        "classes": {task: vocabulary.names for task, vocabulary in TASKS.items()},
        "score_threshold": 0.3,
        "preset": "test",
        "weights_sha256": "0" * 64,
        "created_by": "lvad_perception 0.1.0",
    }
    return Manifest(**{**metadata, **changes})


def quarter_boxes():
    """The four quarters of the network input, float32 [4, 4] xyxy."""
    height, width = NETWORK_HW
    corners = [(x, y) for y in (0, height / 2) for x in (0, width / 2)]
    return np.array([(x, y, x + width / 2, y + height / 2) for x, y in corners], np.float32)


def tiny_reference(images, manifest=None):
    """The tiny model in numpy: red / 13 is the semantic class, green / 86 the drivable one, blue the confidence.

    Each quarter of the image is an object whose class is the quarter's index and whose score is its mean blue.
    """
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
    """Write the model of ``tiny_reference`` as ONNX; the options make invalid models."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    manifest = manifest or tiny_manifest()
    batch, (height, width) = manifest.batch_size, manifest.input_hw
    constants = {
        "red": np.int64(0),
        "green": np.int64(1),
        "blue": np.int64(2),
        "thirteen": np.int32(13),
        "last_semantic": np.int32(18),
        "eighty_six": np.int32(86),
        "last_drivable": np.int32(2),
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
        # In int32: ONNX Runtime 1.23, the last for Python 3.10, divides no uint8.
        helper.make_node("Cast", ["r"], ["r32"], to=TensorProto.INT32),
        helper.make_node("Cast", ["g"], ["g32"], to=TensorProto.INT32),
        helper.make_node("Div", ["r32", "thirteen"], ["r13"]),
        helper.make_node("Min", ["r13", "last_semantic"], ["semantic_ids"]),
        helper.make_node("Cast", ["semantic_ids"], ["semantic"], to=mask_type),
        helper.make_node("Div", ["g32", "eighty_six"], ["g86"]),
        helper.make_node("Min", ["g86", "last_drivable"], ["drivable_ids"]),
        helper.make_node("Cast", ["drivable_ids"], ["drivable"], to=TensorProto.UINT8),
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


class FakeEngine(Engine):
    """The tiny model without ONNX Runtime; it runs synchronously and zeroes its outputs two calls later."""

    def __init__(self, manifest=None):
        super().__init__(manifest=manifest or tiny_manifest(), description="fake", precision="fp32")
        self.batches = []
        self.closed = False
        self._outputs = deque()

    def infer(self, images):
        assert images.shape == (self.manifest.batch_size, *self.manifest.input_hw, 3)
        assert images.flags.c_contiguous
        self.batches.append(images.copy())
        if len(self._outputs) == SLOTS:
            old = self._outputs.popleft()
            for name in ("boxes", "scores", "labels", "semantic", "drivable", "semantic_confidence"):
                if (array := getattr(old, name)) is not None:
                    array.fill(0)
        self._outputs.append(tiny_reference(images, self.manifest))
        return self._outputs[-1]

    def arrays(self, outputs):
        return [getattr(outputs, name) for name in self.manifest.output_names]

    def _submit(self, slot, images):
        return Pending.finished(self.arrays(self.infer(images)))

    def _close(self):
        self.closed = True


def paint(semantic, drivable, blue):
    """An image for which the tiny model predicts these masks and scores, uint8 [H, W, 3]."""
    return np.stack([semantic * 13 + 6, drivable * 86 + 43, blue], axis=2).astype(np.uint8)


def write_small_split(root, *, split="val", frames=8, suffixes=(".jpg", ".png")):
    """Write a split in BDD100K's layout whose frames are annotated for different tasks.

    Frame i is annotated with boxes unless i % 4 == 3 (an empty list in frame 4), with a semantic mask if i % 2, with a
    drivable mask if i % 3 == 0. The tiny model's predictions are often, but not always, right.
    """
    import cv2

    random = np.random.default_rng(5)
    height, width = 72, 96
    folders = {name: root / place / split for name, place in _FOLDERS.items()}
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    entries = []
    for index in range(frames):
        name = f"frame-{index:03d}"
        semantic = np.repeat(random.integers(0, 19, (9, 12), np.uint8), 8, axis=0).repeat(8, axis=1)
        drivable = np.repeat(random.integers(0, 3, (9, 12), np.uint8), 8, axis=0).repeat(8, axis=1)
        quarters = random.integers(0, 256, (2, 2), np.uint8)
        blue = np.repeat(np.repeat(quarters, height // 2, axis=0), width // 2, axis=1)
        image = cv2.cvtColor(paint(semantic, drivable, blue), cv2.COLOR_RGB2BGR)
        suffix = suffixes[index % len(suffixes)]
        cv2.imwrite(str(folders["images"] / f"{name}{suffix}"), image)
        if index % 2:
            cv2.imwrite(str(folders["semantic"] / f"{name}.png"), semantic)
        if index % 3 == 0:
            cv2.imwrite(str(folders["drivable"] / f"{name}.png"), drivable)
        if index % 4 != 3:
            labels = [] if index == 4 else _quarter_labels(quarters, random, height, width)
            entries.append({"name": f"{name}{suffix}", "timestamp": 10000, "labels": labels})
    (root / "labels/det_20").mkdir(parents=True, exist_ok=True)
    (root / f"labels/det_20/det_{split}.json").write_text(json.dumps(entries))
    return root


_FOLDERS = {"images": "images/100k", "semantic": "labels/sem_seg/masks", "drivable": "labels/drivable/masks"}


def _quarter_labels(quarters, random, height, width):
    """A box near each bright quarter with the tiny model's class; some are crowds, dark quarters have none."""
    labels = []
    for index, blue in enumerate(quarters.ravel()):
        if blue > 60:
            row, column = divmod(index, 2)
            x1, y1 = column * width / 2 + random.uniform(0, 9), row * height / 2 + random.uniform(0, 9)
            box = {"x1": x1, "y1": y1, "x2": (column + 1) * width / 2, "y2": (row + 1) * height / 2}
            category = "other vehicle" if blue > 230 else ("pedestrian", "rider", "car", "truck")[index]
            labels.append({"id": str(index), "category": category, "box2d": box})
    return labels


@pytest.fixture(scope="session")
def small_split(tmp_path_factory):
    """Root of a BDD100K tree with the split "val"; tests must not change it."""
    return write_small_split(tmp_path_factory.mktemp("bdd"))


@pytest.fixture
def make_small_split():
    """``write_small_split``, for trees that a test changes."""
    return write_small_split


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


@pytest.fixture(scope="session")
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
    """``tiny_reference``: the outputs of the tiny model and the fake engine, in numpy."""
    return tiny_reference


@pytest.fixture
def images_like():
    """``images_like(manifest)``: random images of the engine's input shape, always the same."""

    def make(manifest, seed=0):
        return np.random.default_rng(seed).integers(0, 256, (manifest.batch_size, *manifest.input_hw, 3), np.uint8)

    return make


def _numbers(metrics, path=""):
    """Flatten nested metrics to {path: number or None}."""
    if isinstance(metrics, dict):
        return {key: value for name, part in metrics.items() for key, value in _numbers(part, f"{path}/{name}").items()}
    return {path: metrics}


@pytest.fixture
def assert_same_metrics():
    """Asserts that two ``Metrics``, or their dictionaries, hold the same numbers."""

    def check(found, wanted):
        one, other = (_numbers(each if isinstance(each, dict) else each.to_dict()) for each in (found, wanted))
        assert one.keys() == other.keys()
        for name, value in one.items():
            assert other[name] == (value if value is None else pytest.approx(value, abs=1e-6)), name

    return check


@pytest.fixture
def manifest_values():
    """A valid manifest as a dictionary, for tests to change."""
    return json.loads(tiny_manifest().to_json())


class Tree:
    """Writes a tiny data set in BDD100K's layout below ``root``, file by file."""

    def __init__(self, root):
        self.root = root

    def image(self, name, *, split="train", image_set="100k", size_hw=(24, 32), suffix=".jpg"):
        """A grey-ramp image; returns its path."""
        ramp = np.linspace(0, 255, size_hw[1], dtype=np.uint8)
        pixels = np.repeat(np.tile(ramp, (size_hw[0], 1))[..., None], 3, axis=2)
        path = self.root / "images" / image_set / split / f"{name}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(pixels).save(path)
        return path

    def mask(self, path, ids):
        """An 8-bit grey mask of ids at ``path`` below the root; returns its path."""
        path = self.root / path
        path.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(np.asarray(ids, np.uint8)).save(path)
        return path

    def json(self, path, content):
        """A JSON file at ``path`` below the root; returns its path."""
        path = self.root / path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
        return path

    def detections(self, frames, *, split="train"):
        """A det_20 file: frame name -> list of (category, x1, y1, x2, y2) with Scalabel's inclusive corners."""
        return self.json(f"labels/det_20/det_{split}.json", [det_20_entry(*item) for item in frames.items()])


def det_20_entry(name, boxes):
    labels = [
        {"id": str(i), "category": box[0], "box2d": dict(zip(("x1", "y1", "x2", "y2"), box[1:], strict=True))}
        for i, box in enumerate(boxes)
    ]
    return {"name": f"{name}.jpg", "attributes": {"weather": "clear"}, "timestamp": 10000, "labels": labels}


@pytest.fixture
def tree(tmp_path):
    """A ``Tree`` in a fresh folder."""
    return Tree(tmp_path / "bdd100k")


@pytest.fixture(autouse=True, scope="session")
def private_cache(tmp_path_factory):
    """Use a temporary cache directory for parsed labels, also in child processes."""
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["XDG_CACHE_HOME"]
    else:
        os.environ["XDG_CACHE_HOME"] = before


@pytest.fixture(scope="session")
def format_cases(shared_data):
    """Folder of label files of other tools; skips the test without it."""
    folder = shared_data / "bdd-samples" / "format-cases"
    if not folder.is_dir():
        pytest.skip(f"no label files at {folder}")
    return folder
