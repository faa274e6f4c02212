"""Export of checkpoints to an ONNX or PT2 file, kept only if its runtime reproduces torch's outputs."""

import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

import lvad_perception
from lvad_perception.engines.agreement import TOLERANCES, Agreement, agree
from lvad_perception.errors import ExportError, MissingDependencyError
from lvad_perception.files import draft
from lvad_perception.manifest import INPUT_NAME, MANIFEST_KEY, OUTPUT_NAMES, Manifest
from lvad_perception.types import RawOutputs, Size, UInt8
from lvad_perception.vocabulary import TASKS
from lvad_training.build import boxes_per_image, task_classes
from lvad_training.checkpoints import Checkpoint, weights_sha256
from lvad_training.decoding.camera import CameraFrame
from lvad_training.export.assembly import common_size, network_from, ordered
from lvad_training.export.graph import ModelFileGraph
from lvad_training.model.assembled import AssembledNet

OPSET = 18
TOLERANCE = TOLERANCES["fp32"]
OLDEST_TORCH = (2, 14)
"""The oldest torch that can export the model; training works with older ones."""
_REMEDY = "pip install 'lvad_perception[export]'"

Runner = Callable[[UInt8], Sequence[npt.NDArray[Any]]]
"""uint8 [N, H, W, 3] -> the outputs in the order of ``Manifest.output_names``."""


@dataclass(frozen=True, slots=True)
class Format:
    """One kind of model file.

    Attributes:
        runtime: name of the runtime that the file is checked with, for messages.
        write: writes a graph and its manifest to a path.
        load: path -> runner of the file.
    """

    runtime: str
    write: Callable[[nn.Module, Path, Manifest], None]
    load: Callable[[Path], Runner]


def export(
    checkpoints: Mapping[str, Checkpoint],
    path: Path,
    *,
    images: Sequence[UInt8],
    batch_size: int = 1,
    network_hw: Size | None = None,
    camera_hw: Size | None = None,
) -> Agreement:
    """Write the model file of a checkpoint, or of several with different tasks: one graph, each task from its network.

    Args:
        checkpoints: name for messages, such as its file -> a trained model.
        path: the file to write; its suffix, one of ``FORMATS``, is the format.
        images: uint8 [H, W, 3] of the file's input size, at least two, to compare on; also compared in batches of two.
        batch_size: static N of the file.
        network_hw: network size, multiples of 32; the recipes' when None.
        camera_hw: size of the only images that the file takes; None for letterboxed images of network size.

    Returns:
        The agreement of the file's runtime with torch.

    Raises:
        ExportError: the runtime disagrees with torch, or a file cannot be written; nothing is left at ``path``.
        CheckpointError: weights do not fit their recipe.
        ConfigError: two checkpoints have a task in common, or other network sizes.
        VocabularyMismatchError: the checkpoints have the classes of other data sets.
        MissingDependencyError: a library that writes or runs the format is not installed, or torch is too old.
    """
    if torch_version() < OLDEST_TORCH:
        oldest = ".".join(map(str, OLDEST_TORCH))
        raise MissingDependencyError(f"export needs torch {oldest} or newer and this is {torch.__version__}; {_REMEDY}")
    network_hw = common_size(checkpoints, network_hw)
    checkpoints = ordered(checkpoints)
    camera = CameraFrame(camera_hw, network_hw) if camera_hw is not None else None
    boxes = next(iter(checkpoints.values())).recipe.model.max_detections  # the detector's: detection is the first task
    graph = ModelFileGraph(network_from(checkpoints), boxes, camera=camera).eval()
    manifest = _manifest(list(checkpoints.values()), graph, network_hw, batch_size, camera_hw)
    file_format = FORMATS[path.suffix]
    with _writing(path), draft(path) as own:
        outputs: list[RawOutputs] = []
        expected: list[RawOutputs] = []
        for count in sorted({1, 2, batch_size}, key=lambda count: count == batch_size):  # the file itself last
            batched = replace(manifest, batch_size=count)
            file_format.write(graph, own, batched)
            outputs += run_batches(file_format.load(own), images, batched)
            expected += run_batches(_torch_runner(graph), images, batched)
        agreement = agree(outputs, expected, TOLERANCE)
        if not agreement.within(TOLERANCE):
            raise ExportError(
                f"{path}: not written, since {file_format.runtime} differs from torch by {agreement.boxes_px:.3g} px "
                f"in boxes and {agreement.scores:.3g} in scores, and agrees on {agreement.masks:.2%} of mask pixels; "
                "try another onnxruntime or torch version and report this"
            )
    return agreement


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as err:
        raise ExportError(
            f"{path} cannot be written ({err.strerror or err}); choose a folder with space and permission"
        ) from err


def torch_version() -> tuple[int, int]:
    """torch's major and minor version."""
    major, minor = torch.__version__.split(".")[:2]
    return int(major), int(minor)


def run_batches(run: Runner, images: Sequence[UInt8], manifest: Manifest) -> list[RawOutputs]:
    """Run on all images in batches of the manifest's size; the last batch is filled up with the first images."""
    outputs = []
    for start in range(0, len(images), manifest.batch_size):
        batch = np.stack([images[(start + offset) % len(images)] for offset in range(manifest.batch_size)])
        named = dict(zip(manifest.output_names, map(np.array, run(batch)), strict=True))
        outputs.append(RawOutputs(**{name: named.get(name) for names in OUTPUT_NAMES.values() for name in names}))
    return outputs


def compare(graph: nn.Module, path: Path, images: Sequence[UInt8], manifest: Manifest) -> Agreement:
    """Run a model file and the torch graph on the same images, in batches of the manifest's size."""
    outputs = run_batches(FORMATS[path.suffix].load(path), images, manifest)
    return agree(outputs, run_batches(_torch_runner(graph), images, manifest), TOLERANCE)


def write_onnx(graph: nn.Module, path: Path, manifest: Manifest) -> None:
    """Trace the graph with the manifest's static shapes and write it with the manifest in its metadata."""
    try:
        import onnx
        import onnxscript  # noqa: F401  # used by torch's exporter, whose own error is less clear
    except ImportError as err:
        raise MissingDependencyError(f"export needs {err.name}; {_REMEDY}") from err
    logging.getLogger("onnxscript").setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            graph,
            (_example(manifest),),
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT_NAME],
            output_names=list(manifest.output_names),
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    for node in model.graph.node:  # stack traces with this machine's source paths
        del node.metadata_props[:]
    del model.graph.metadata_props[:]
    del model.graph.value_info[:]
    onnx.helper.set_model_props(model, {MANIFEST_KEY: manifest.to_json()})
    model.producer_name = "lvad_perception"
    model.producer_version = lvad_perception.__version__
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(path))


def write_pt2(graph: nn.Module, path: Path, manifest: Manifest) -> None:
    """Trace the graph with the manifest's static shapes and write it as torch's exported program with the manifest."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.export.export(graph, (_example(manifest),))
    program.example_inputs = None  # megabytes of zeros, and the only part of the file that would be a pickle
    for node in program.graph.nodes:  # stack traces with this machine's source paths
        node.meta = {"val": node.meta["val"]} if "val" in node.meta else {}
    content = io.BytesIO()  # torch's own file writer terminates the process when the disk is full
    torch.export.save(program, content, extra_files={MANIFEST_KEY: manifest.to_json()})
    path.write_bytes(content.getbuffer())


def _run_onnx(path: Path) -> Runner:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda batch: session.run(None, {INPUT_NAME: batch})


def _run_pt2(path: Path) -> Runner:
    return _torch_runner(torch.export.load(path).module())


def _torch_runner(graph: nn.Module) -> Runner:
    def run(batch: UInt8) -> list[npt.NDArray[Any]]:
        with torch.no_grad():
            return [tensor.numpy() for tensor in graph(torch.from_numpy(batch))]

    return run


def _example(manifest: Manifest) -> torch.Tensor:
    return torch.zeros((manifest.batch_size, *manifest.input_hw, 3), dtype=torch.uint8)


FORMATS = {
    ".onnx": Format("ONNX Runtime", write_onnx, _run_onnx),
    ".pt2": Format("the exported program", write_pt2, _run_pt2),
}
"""Suffix of a model file -> its format."""


def _manifest(
    checkpoints: Sequence[Checkpoint], graph: ModelFileGraph, network_hw: Size, batch_size: int, camera_hw: Size | None
) -> Manifest:
    """The manifest of checkpoints in the order of their tasks."""
    first = checkpoints[0].recipe
    classes = {task: names for each in checkpoints for task, names in task_classes(each.recipe.model).items()}
    training: dict[str, Any] = {"steps": checkpoints[0].step, "seed": first.train.seed}
    if isinstance(graph.net, AssembledNet):
        parts = zip(checkpoints, graph.net.networks, strict=True)
        training = {"networks": [_origin(checkpoint, network) for checkpoint, network in parts]}
    return Manifest(
        network_hw=(int(network_hw[0]), int(network_hw[1])),
        batch_size=batch_size,
        max_detections=boxes_per_image(first.model),
        classes={task: classes[task] for task in TASKS if task in classes},
        score_threshold=first.model.score_threshold,
        preset=" + ".join(dict.fromkeys(each.recipe.preset for each in checkpoints)),
        weights_sha256=weights_sha256(graph.net.state_dict()),
        created_by=f"lvad_perception {lvad_perception.__version__}",
        training=training,
        camera_hw=camera_hw,
    )


def _origin(checkpoint: Checkpoint, network: nn.Module) -> dict[str, Any]:
    """Entry of the manifest for one of several networks."""
    recipe = checkpoint.recipe
    return {
        "tasks": list(recipe.model.tasks),
        "preset": recipe.preset,
        "steps": checkpoint.step,
        "seed": recipe.train.seed,
        "weights_sha256": weights_sha256(network.state_dict()),
    }
