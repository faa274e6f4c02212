"""Checkpoint -> model file, written only after ONNX Runtime reproduced torch's outputs on several images."""

import logging
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import lvad_perception
from lvad_perception.errors import ExportError, MissingDependencyError
from lvad_perception.manifest import INPUT_NAME, MANIFEST_KEY, Manifest
from lvad_perception.types import Size, UInt8
from lvad_training.build import build_model, task_classes
from lvad_training.checkpoints import Checkpoint, load_weights, weights_sha256
from lvad_training.decode import Decoded, decode
from lvad_training.model.text_encoders import TextFacts

OPSET = 18
BOX_TOLERANCE_PX = 1e-2
SCORE_TOLERANCE = 1e-4
MASK_AGREEMENT = 0.999
SCORE_TIE = 2 * SCORE_TOLERANCE


class ModelFileGraph(nn.Module):
    """The network with everything that the host must not do: layout, normalisation, decoding, casts.

    Args:
        net: the trained network.
        max_detections: K.
    """

    def __init__(self, net: nn.Module, max_detections: int) -> None:
        super().__init__()
        self.net = net
        self.max_detections = max_detections

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """uint8 [N, H, W, 3] RGB -> the outputs that the manifest names, in its order."""
        # TensorRT wants uint8 converted before any other layer.
        outputs = self.net(images.float().permute(0, 3, 1, 2))
        decoded = decode(outputs, (images.shape[1], images.shape[2]), self.max_detections)
        return tuple(tensor for tensor in in_file_order(decoded) if tensor is not None)


@dataclass(frozen=True, slots=True)
class Parity:
    """Largest disagreement between ONNX Runtime and torch over the compared images.

    Attributes:
        boxes_px: of box corners, network pixels; scores: of confidences.
        masks: smallest share of equal pixels over label maps.
    """

    boxes_px: float
    scores: float
    masks: float

    @property
    def holds(self) -> bool:
        """Whether the file may be written."""
        return self.boxes_px <= BOX_TOLERANCE_PX and self.scores <= SCORE_TOLERANCE and self.masks >= MASK_AGREEMENT


def export(
    checkpoint: Checkpoint, path: Path, *, images: Sequence[UInt8], batch_size: int = 1, network_hw: Size | None = None
) -> Parity:
    """Write the model file of a checkpoint.

    Args:
        checkpoint: a trained model.
        path: the .onnx file to write.
        images: uint8 [H, W, 3] at network size to compare on, at least two; they are also compared in batches of two.
        batch_size: static N of the file.
        network_hw: network size, multiples of 32; the recipe's when None.

    Raises:
        ExportError: ONNX Runtime disagrees with torch, or a file cannot be written; nothing is left at ``path``.
        CheckpointError: the weights do not fit their recipe.
    """
    size_hw = network_hw or checkpoint.recipe.model.network_hw
    net = build_model(checkpoint.recipe.model, facts=TextFacts.from_dict(checkpoint.text_encoder))
    load_weights(net, checkpoint.weights, source="the checkpoint")
    graph = ModelFileGraph(net, checkpoint.recipe.model.max_detections).eval()
    manifest = _manifest(checkpoint, graph, size_hw, batch_size)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as scratch:
        partial = Path(scratch) / "model.onnx"
        parities = []
        for count in sorted({1, 2, batch_size}, key=lambda count: count == batch_size):  # the file itself last
            write_onnx(graph, partial, replace(manifest, batch_size=count))
            parities.append(compare(graph, partial, images, count))
        parity = Parity(
            max(each.boxes_px for each in parities),
            max(each.scores for each in parities),
            min(each.masks for each in parities),
        )
        if not parity.holds:
            raise ExportError(
                f"{path}: not written, since ONNX Runtime differs from torch by {parity.boxes_px:.3g} px in boxes and "
                f"{parity.scores:.3g} in scores, and agrees on {parity.masks:.2%} of mask pixels; "
                "try another onnxruntime or torch version and report this"
            )
        partial.replace(path)
    return parity


def in_file_order(decoded: Decoded) -> tuple[Tensor | None, ...]:
    """The decoded tensors in the order of ``Manifest.output_names``, None for absent tasks."""
    return (
        decoded.boxes,
        decoded.scores,
        decoded.labels,
        decoded.semantic,
        decoded.semantic_confidence,
        decoded.drivable,
    )


def write_onnx(graph: nn.Module, path: Path, manifest: Manifest) -> None:
    """Trace the graph with the manifest's static shapes and write it with the manifest in its metadata."""
    try:
        import onnx
        import onnxscript  # noqa: F401  # torch's exporter needs it and says so less clearly
    except ImportError as err:
        raise MissingDependencyError(f"export needs {err.name}; pip install 'lvad_perception[train]'") from err
    example = torch.zeros((manifest.batch_size, *manifest.network_hw, 3), dtype=torch.uint8)
    logging.getLogger("onnxscript").setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            graph,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT_NAME],
            output_names=list(manifest.output_names),
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    for node in model.graph.node:  # traces of this machine's source paths are of no use to anyone
        del node.metadata_props[:]
    del model.graph.metadata_props[:]
    del model.graph.value_info[:]
    onnx.helper.set_model_props(model, {MANIFEST_KEY: manifest.to_json()})
    model.producer_name = "lvad_perception"
    model.producer_version = lvad_perception.__version__
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(path))


def compare(graph: nn.Module, path: Path, images: Sequence[UInt8], batch_size: int) -> Parity:
    """Run a model file and the torch graph on the same images.

    Boxes whose scores tie to within the tolerance may come in either order; they are compared as a set.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    boxes_px = scores = 0.0
    masks = 1.0
    for start in range(0, len(images), batch_size):
        chunk = [images[(start + offset) % len(images)] for offset in range(batch_size)]
        batch = np.stack(chunk)
        found = dict(zip(names, session.run(None, {INPUT_NAME: batch}), strict=True))
        with torch.no_grad():
            wanted = dict(zip(names, (tensor.numpy() for tensor in graph(torch.from_numpy(batch))), strict=True))
        for name in ("semantic", "drivable"):
            if name in wanted:
                masks = min(masks, float((found[name] == wanted[name]).mean()))
        if "boxes" in wanted:
            scores = max(scores, float(np.abs(found["scores"] - wanted["scores"]).max()))
            boxes_px = max(boxes_px, *(_box_distance(found, wanted, index) for index in range(batch_size)))
    return Parity(boxes_px, scores, masks)


def _box_distance(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray], image: int) -> float:
    """Largest corner distance from each found box to the nearest wanted one of equal label and nearly equal score.

    The last boxes may tie with candidates that fell off the list: those within a tie of the lowest score are left out.
    """
    scores, goal_scores = found["scores"][image], wanted["scores"][image]
    floor = goal_scores[-1] + SCORE_TIE
    worst = 0.0
    for box, label, score in zip(found["boxes"][image], found["labels"][image], scores, strict=True):
        if score <= floor:
            continue
        same = (wanted["labels"][image] == label) & (np.abs(goal_scores - score) <= SCORE_TIE)
        distances = np.abs(wanted["boxes"][image][same] - box).max(axis=1)
        worst = max(worst, float(distances.min()) if len(distances) else float("inf"))
    return worst


def _manifest(checkpoint: Checkpoint, graph: ModelFileGraph, size_hw: Size, batch_size: int) -> Manifest:
    recipe = checkpoint.recipe
    candidates = recipe.model.max_detections
    if recipe.model.detection is not None:
        candidates = min(candidates, recipe.model.detection.proposals * len(task_classes(recipe.model)["detection"]))
    return Manifest(
        network_hw=(int(size_hw[0]), int(size_hw[1])),
        batch_size=batch_size,
        max_detections=candidates,
        classes=task_classes(recipe.model),
        score_threshold=recipe.model.score_threshold,
        preset=recipe.preset,
        weights_sha256=weights_sha256(graph.net.state_dict()),
        created_by=f"lvad_perception {lvad_perception.__version__}",
        training={"steps": checkpoint.step, "seed": recipe.train.seed},
    )
