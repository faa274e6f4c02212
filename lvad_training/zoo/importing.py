"""Recognise a published checkpoint, rename its tensors, and build the checkpoint that rebuilds its network exactly."""

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from lvad_perception.errors import CheckpointError
from lvad_perception.vocabulary import DETECTION, DRIVABLE, SEMANTIC, TASKS, Vocabulary
from lvad_training.build import build_model
from lvad_training.checkpoints import Checkpoint, load_weights
from lvad_training.model.backbone import Normalisation
from lvad_training.model.layouts import COUNTER, find_state_dict, tensors_in
from lvad_training.model.published import fold_normalisation, read_weights
from lvad_training.recipe.config import parse_recipe
from lvad_training.zoo.layouts import LAYOUTS, Layout, restructure

PUBLISHED_HW: Final = (720, 1280)
"""Size of BDD100K's images, whose fractions the learned proposals are."""
_CAFFE: Final[Normalisation] = ((122.7717 / 255, 115.9465 / 255, 102.9801 / 255), (1 / 255, 1 / 255, 1 / 255))
_COCO: Final = {  # ours -> the row of COCO's 80 classes that is nearest
    "pedestrian": 0,
    "rider": 0,
    "car": 2,
    "truck": 7,
    "bus": 5,
    "train": 6,
    "motorcycle": 3,
    "bicycle": 1,
    "traffic light": 9,
    "traffic sign": 11,
}
_COCO_CLASSES: Final = 80
_REFUSED: Final = (
    (r"\.conv2_offset\.|\.conv_offset\.", "deformable convolutions (dconv)"),
    (r"^auxiliary_head\.", "an auxiliary head"),
    (r"^roi_head\.mask_head\.", "a head for instance masks"),
)


@dataclass(frozen=True, slots=True)
class ImportReport:
    """The result of importing a published file.

    Attributes:
        source: the file.
        layout: name of the file's layout.
        task: "detection", "semantic" or "drivable".
        tensors: how many of the network's tensors came from the file, BatchNorm's counters aside; always all.
        notes: further sentences for the user.
    """

    source: str
    layout: str
    task: str
    tensors: int
    notes: tuple[str, ...] = ()

    def to_text(self) -> str:
        """One line, and one for each note."""
        lines = [f"{self.source}: {self.layout}, task {self.task}; all {self.tensors} tensors have their place"]
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])


def import_checkpoint(path: Path, overrides: Sequence[str] = ()) -> tuple[Checkpoint, ImportReport]:
    """Read a published detection or segmentation checkpoint.

    BDD100K's model zoo trained FCOS on Caffe's ResNet; its first convolution is changed to take the images of this
    package. The features are the same everywhere but at the border, where padding is another mean colour.

    Args:
        path: a file of mmdetection's or mmsegmentation's, with or without its ``meta``, or of PeizeSun/SparseR-CNN.
        overrides: texts such as "model.network_hw=[384,640]" over the recipe that the file implies.

    Returns:
        A checkpoint of this package whose recipe rebuilds the network, and the report.

    Raises:
        CheckpointError: unreadable, of no known layout, with layers or classes that this package does not have, or a
            tensor has no place or another shape.
        ConfigError: an override is impossible.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; check the path of the published checkpoint")
    content = read_weights(path)
    tensors = tensors_in(find_state_dict(content)[0])
    layout, prefix = _recognise(tensors, path)
    tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    _refuse(tensors, layout, path)
    config = _config_text(content)
    caffe = _is_caffe(config, layout, path)
    rows = len(tensors[layout.classes])
    task, vocabulary = _task(layout, rows, path)
    try:
        section = layout.model(tensors)
    except (CheckpointError, KeyError, IndexError, ValueError) as err:
        reason = str(err) if isinstance(err, CheckpointError) else f"{type(err).__name__}: {err}"
        raise CheckpointError(f"{path}: {layout.name} with other layers than published ones ({reason})") from err
    section |= {**dict.fromkeys(TASKS), task: section.pop("TASK")}
    if caffe:
        section["backbone"]["stride_in"] = "1x1"
        tensors = _from_caffe(tensors)
    recipe = parse_recipe(
        {"preset": "r50", "data": {"root": "bdd100k"}, "model": section, "output": f"runs/{path.stem}"},
        list(overrides),
        source=str(path),
    )
    weights = restructure({layout.rename(name, task): value for name, value in tensors.items()})
    order, notes = _class_rows(vocabulary, rows, _published_classes(content, config), path)
    for name in weights:
        if ".classify." in name:
            weights[name] = weights[name][order]
    if "detection.boxes" in weights:
        weights["detection.boxes"] = _into_letterbox(weights["detection.boxes"], recipe.model.network_hw)
    network = build_model(recipe.model)
    own = network.state_dict()
    counters = {name: value for name, value in own.items() if name.endswith(COUNTER)}  # not in every file
    load_weights(network, counters | weights, source=str(path))
    checkpoint = Checkpoint(recipe=recipe, step=0, weights=dict(network.state_dict()))
    return checkpoint, ImportReport(str(path), layout.name, task, len(own) - len(counters), notes)


def _recognise(tensors: Mapping[str, Tensor], path: Path) -> tuple[Layout, str]:
    """The layout of a file, and the prefix that a wrapper such as DistributedDataParallel added to all names."""
    for layout in LAYOUTS:
        for name in tensors:
            prefix = name.removesuffix(layout.marker)
            if prefix != name and (not prefix or (prefix.endswith(".") and all(n.startswith(prefix) for n in tensors))):
                return layout, prefix
    known = ", ".join(each.name for each in LAYOUTS)
    first = f"its tensors begin with {', '.join(list(tensors)[:3])}" if tensors else "it holds no named tensors"
    raise CheckpointError(
        f"{path}: not a checkpoint that can be imported ({known}); {first}; give the weights of a backbone alone "
        "to a recipe as model.backbone.weights"
    )


def _refuse(tensors: Mapping[str, Tensor], layout: Layout, path: Path) -> None:
    for pattern, what in _REFUSED:
        found = next((name for name in tensors if re.search(pattern, name)), None)
        if found is not None:
            raise CheckpointError(
                f"{path}: {layout.name} with {what} ({found}), which this package's network does not have; "
                "import a file without"
            )


def _is_caffe(config: str, layout: Layout, path: Path) -> bool:
    """Whether the backbone is Caffe's ResNet: its stride is in the first convolution, its images are BGR."""
    style = re.search(r"style\s*=\s*['\"](\w+)['\"]", config)
    caffe = layout.caffe if style is None else style[1] == "caffe"
    if caffe and not layout.caffe:
        raise CheckpointError(
            f"{path}: {layout.name} on Caffe's ResNet was never published for BDD100K and is not known here; import a "
            "file of style 'pytorch'"
        )
    return caffe


def _from_caffe(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The first convolution for RGB images with ImageNet's mean and deviation instead of BGR ones with Caffe's mean."""
    prefix = "backbone."
    backbone = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    backbone["conv1.weight"] = backbone["conv1.weight"].flip(1)
    backbone, _ = fold_normalisation(backbone, _CAFFE)
    return {**tensors, **{prefix + name: value for name, value in backbone.items()}}


def _config_text(content: Mapping[str, Any]) -> str:
    """The text of mmdetection's or mmsegmentation's configuration, which published files carry."""
    meta = content.get("meta")
    config = meta.get("config", meta.get("cfg", "")) if isinstance(meta, Mapping) else ""
    return config if isinstance(config, str) else ""


def _published_classes(content: Mapping[str, Any], config: str) -> tuple[str, ...] | None:
    """The class names that a file states, None where it states none."""
    meta = content.get("meta")
    meta = meta if isinstance(meta, Mapping) else {}
    dataset = meta.get("dataset_meta")
    dataset = dataset if isinstance(dataset, Mapping) else {}
    stated = meta.get("CLASSES") or dataset.get("classes") or dataset.get("CLASSES")
    if stated is None and (found := re.search(r"^classes\s*=\s*(\(.*?\)|\[.*?\])", config, re.MULTILINE | re.DOTALL)):
        try:
            stated = ast.literal_eval(found[1])
        except (ValueError, SyntaxError):
            return None
    return tuple(map(str, stated)) if isinstance(stated, (list, tuple)) else None


def _task(layout: Layout, rows: int, path: Path) -> tuple[str, Vocabulary]:
    for vocabulary in layout.vocabularies:
        if rows == len(vocabulary.names) or (vocabulary is DETECTION and rows == _COCO_CLASSES):
            return vocabulary.task, vocabulary
    if DETECTION in layout.vocabularies:
        wanted = f"BDD100K's {len(DETECTION.names)} or COCO's {_COCO_CLASSES}"
    else:
        wanted = f"{len(SEMANTIC.names)} for semantic segmentation or {len(DRIVABLE.names)} for drivable area"
    raise CheckpointError(f"{path}: {layout.name} for {rows} classes, not {wanted}; import a file trained on BDD100K")


def _class_rows(
    vocabulary: Vocabulary, rows: int, stated: tuple[str, ...] | None, path: Path
) -> tuple[list[int], tuple[str, ...]]:
    """The published row of each of our classes, and notes for the report."""
    if vocabulary is DETECTION and rows == _COCO_CLASSES:
        note = "COCO has neither riders nor general traffic signs: they begin as persons and stop signs; finetune it"
        return [_COCO[name] for name in vocabulary.names], (note,)
    same = {"person": "pedestrian"} if vocabulary is DETECTION else {}
    if stated is None:
        return list(range(rows)), ()
    names = [same.get(name, name) for name in stated]
    if sorted(names) != sorted(vocabulary.names):
        other = sorted(set(names) - set(vocabulary.names)) or sorted(set(vocabulary.names) - set(names))
        raise CheckpointError(
            f"{path}: its classes are not BDD100K's ({', '.join(other[:3])}); import a file trained on BDD100K"
        )
    return [names.index(name) for name in vocabulary.names], ()


def _into_letterbox(boxes: Tensor, network_hw: tuple[int, int]) -> Tensor:
    """Proposals, cxcywh in fractions of an image of 1280 x 720, as fractions of the network's padded image."""
    height, width = PUBLISHED_HW
    scale = min(network_hw[0] / height, network_hw[1] / width)
    extent = torch.tensor([width * scale / network_hw[1], height * scale / network_hw[0]])
    offset = (1 - extent) / 2
    boxes = boxes.float()
    return torch.cat([boxes[:, :2] * extent + offset, boxes[:, 2:] * extent], dim=1)
