"""What is measured: the presets' networks, as trained and as deployed, synthetic batches, and model files."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.gpu.job import Job
from lvad_perception.errors import CheckpointError
from lvad_perception.manifest import Manifest
from lvad_perception.types import Size, UInt8
from lvad_training.build import boxes_per_image, build_model, task_classes
from lvad_training.checkpoints import load_checkpoint, load_weights, resolve_start
from lvad_training.export.graph import ModelFileGraph
from lvad_training.export.model_file import FORMATS
from lvad_training.model.multitask import MultiTaskNet
from lvad_training.recipe.config import parse_recipe
from lvad_training.recipe.schema import Recipe
from lvad_training.samples import Batch, Targets

SMALL_HW = (64, 96)
"""Network size where only the code is tried."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
BOXES_PER_IMAGE = 19
"""About det_20's average over the training split."""


def preset_recipe(job: Job, preset: str, *, root: str = "unused", train: dict[str, object] | None = None) -> Recipe:
    """The preset as it comes, or at a tiny network size where only the code is tried."""
    model = {"network_hw": list(SMALL_HW)} if job.small else {}
    content = {"preset": preset, "data": {"root": root}, "model": model, "train": train or {}}
    return parse_recipe(content, [], source=f"the preset {preset}")


def preset_net(recipe: Recipe) -> tuple[MultiTaskNet, str]:
    """The network and what its weights are: the shipped checkpoint's where one fits, random ones otherwise."""
    torch.manual_seed(0)
    net = build_model(recipe.model)
    try:
        path = resolve_start(f"shipped/{recipe.preset}")
        load_weights(net, load_checkpoint(path).weights, source=str(path))
    except CheckpointError:
        return net, "random"
    return net, f"shipped/{recipe.preset}"


class Deployed(nn.Module):
    """The model file's graph in one precision: convolutions and linear layers in it, the rest as autocast rules.

    Args:
        net: the network; its weights are cast in place.
        max_detections: boxes per image.
        dtype: of convolutions and matrix products; float32 leaves everything as it is.
    """

    def __init__(self, net: MultiTaskNet, max_detections: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.graph = ModelFileGraph(net, max_detections)
        self.dtype = dtype
        for module in net.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.to(dtype)
        self.eval().requires_grad_(False).to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """uint8 [N, H, W, 3] RGB -> the model file's outputs."""
        lower = self.dtype != torch.float32
        # Without its cache: a CUDA graph must not remember casts of another run.
        with torch.autocast(images.device.type, self.dtype if lower else None, enabled=lower, cache_enabled=False):
            return self.graph(images)


def road_images(count: int, size_hw: Size, *, seed: int = 0) -> UInt8:
    """uint8 [count, H, W, 3]: smooth colours with fine noise, as different from one another as photographs."""
    random = np.random.default_rng(seed)
    height, width = size_hw
    coarse = random.integers(0, 256, (count, height // 32 + 1, width // 32 + 1, 3), np.uint8)
    smooth = coarse.repeat(32, axis=1).repeat(32, axis=2)[:, :height, :width].astype(np.int16)
    return np.clip(smooth + random.integers(-12, 13, smooth.shape), 0, 255).astype(np.uint8)


def synthetic_batch(size: int, size_hw: Size, *, seed: int = 0) -> Batch:
    """A training batch that is annotated for every task, as many boxes as a BDD100K image has."""
    random = np.random.default_rng(seed)
    height, width = size_hw
    images = torch.from_numpy(road_images(size, size_hw, seed=seed)).permute(0, 3, 1, 2).contiguous()

    def mask(classes: int) -> Tensor:
        coarse = random.integers(0, classes, (height // 32, width // 32), np.uint8)
        return torch.from_numpy(coarse.repeat(32, axis=0).repeat(32, axis=1))

    targets = []
    for _ in range(size):
        corner = random.uniform(0, 0.8, (BOXES_PER_IMAGE, 2))
        side = random.uniform(0.02, 0.2, (BOXES_PER_IMAGE, 2))
        boxes = np.concatenate([corner, corner + side], axis=1) * [width, height, width, height]
        labels = torch.from_numpy(random.integers(0, 10, BOXES_PER_IMAGE))
        targets.append(Targets(torch.from_numpy(boxes.astype(np.float32)), labels, mask(19), mask(3)))
    return Batch([f"synthetic {index}" for index in range(size)], images, targets)


def model_file(job: Job, preset: str, *, suffix: str = ".onnx", batch: int = 1) -> Path:
    """The preset's model file, written when it is asked for first and shared by the parts."""
    path = Path(job.scratch) / f"{preset}-{batch}{suffix}"
    if not path.exists():
        recipe = preset_recipe(job, preset)
        net, _ = preset_net(recipe)
        classes = task_classes(recipe.model)
        manifest = Manifest(
            network_hw=recipe.model.network_hw,
            batch_size=batch,
            max_detections=boxes_per_image(recipe.model),
            classes=classes,
            score_threshold=recipe.model.score_threshold,
            preset=preset,
            weights_sha256="0" * 64,
            created_by="benchmarks.gpu",
        )
        partial = path.with_name(f"partial-{path.name}")
        FORMATS[suffix].write(ModelFileGraph(net, recipe.model.max_detections).eval(), partial, manifest)
        partial.replace(path)
    return path
