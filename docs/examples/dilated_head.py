"""A custom head: per-pixel classes of drivable area, from dilated convolutions on one level of the pyramid.

A network with it is built, evaluated and exported with the functions that ``lvad-train`` uses.
"""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn

from lvad_perception.engines.agreement import TOLERANCES, Agreement
from lvad_perception.manifest import Manifest
from lvad_perception.metrics import Evaluator, Metrics
from lvad_perception.types import UInt8
from lvad_perception.vocabulary import DRIVABLE
from lvad_training.build import build_criterion, build_model, task_classes
from lvad_training.checkpoints import weights_sha256
from lvad_training.data.batches import evaluation_batches
from lvad_training.export.graph import ModelFileGraph
from lvad_training.export.model_file import compare, write_onnx
from lvad_training.losses.multitask import MultiTaskCriterion
from lvad_training.losses.segmentation import PixelCriterion
from lvad_training.model.multitask import MultiTaskNet
from lvad_training.recipe.schema import Recipe
from lvad_training.samples import PixelOutputs
from lvad_training.training import loop


# --8<-- [start:head]
class DilatedHead(nn.Module):
    """Pyramid -> class logits per pixel at one level's stride.

    Args:
        classes: number of classes.
        in_width: channels of the pyramid.
        level: index of the pyramid level, 0 is the finest.
        width: channels of the head.
        dilations: of its 3x3 convolutions, in their order.
    """

    def __init__(
        self, *, classes: int, in_width: int, level: int, width: int, dilations: Sequence[int] = (1, 2, 4)
    ) -> None:
        super().__init__()
        self.level = level
        widths = [in_width, *[width] * len(dilations)]
        self.layers = nn.Sequential()
        for index, dilation in enumerate(dilations):
            before, after = widths[index : index + 2]
            convolution = nn.Conv2d(before, after, 3, padding=dilation, dilation=dilation, bias=False)
            self.layers.append(nn.Sequential(convolution, nn.BatchNorm2d(after), nn.ReLU()))
        self.classify = nn.Conv2d(width, classes, 1)

    def forward(self, pyramid: Sequence[Tensor]) -> tuple[PixelOutputs, None]:
        """Pyramid levels [B, C, H / s, W / s], finest first -> logits, and None for auxiliary logits."""
        return PixelOutputs(self.classify(self.layers(pyramid[self.level]))), None


# --8<-- [end:head]


# --8<-- [start:build]
def build(recipe: Recipe) -> tuple[MultiTaskNet, MultiTaskCriterion]:
    """The recipe's network and losses, with the head above instead of the recipe's head for drivable area."""
    plain, losses = build_model(recipe.model), build_criterion(recipe.model, recipe.loss)
    head = DilatedHead(classes=len(DRIVABLE.names), in_width=recipe.model.neck_width, level=1, width=32)
    net = MultiTaskNet(
        backbone=plain.backbone,
        neck=plain.neck,
        detection=plain.detection,
        semantic=plain.semantic,
        drivable=head,
    )
    criterion = MultiTaskCriterion(
        detection=losses.detection,
        semantic=losses.semantic,
        drivable=PixelCriterion(prefix="drivable", classes=len(DRIVABLE.names), pixel_weight=recipe.loss.pixel),
        weights=losses.weights,
    )
    return net, criterion


# --8<-- [end:build]


# --8<-- [start:measure]
def measure(recipe: Recipe, net: MultiTaskNet) -> Metrics:
    """Metrics on the recipe's validation split."""
    batches = evaluation_batches(recipe, recipe.data.val_split, optional=False)
    assert batches is not None  # a missing split raised
    device = next(net.parameters()).device
    return loop.evaluate(
        model=net,
        samples=batches,
        evaluator=Evaluator(tasks=recipe.model.tasks),
        device=device,
        max_detections=recipe.model.max_detections,
    )


# --8<-- [end:measure]


# --8<-- [start:export]
def export(recipe: Recipe, net: MultiTaskNet, path: Path, images: Sequence[UInt8]) -> Agreement:
    """Write a model file and compare ONNX Runtime with torch on letterboxed images [H, W, 3] of network size."""
    model = recipe.model
    manifest = Manifest(
        network_hw=model.network_hw,
        batch_size=1,
        max_detections=model.max_detections,
        classes=task_classes(model),
        score_threshold=model.score_threshold,
        preset="tiny with a dilated head",
        weights_sha256=weights_sha256(net.state_dict()),
        created_by="an example",
    )
    graph = ModelFileGraph(net.cpu(), model.max_detections).eval()
    write_onnx(graph, path, manifest)
    agreement = compare(graph, path, images, manifest)
    assert agreement.within(TOLERANCES["fp32"]), agreement.to_text()
    return agreement


# --8<-- [end:export]
