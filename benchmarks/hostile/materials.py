"""Valid files of every kind: a data set, bags, a checkpoint, a model file."""

from pathlib import Path
from typing import Any, Final

import numpy as np

IMAGES: Final = 6
"""Images of the validation split, and so of each bag."""
SIZE_HW: Final = (72, 96)
RECIPE: Final = """\
# A network that is cheap to build thousands of times.
preset: tiny
data: {root: data, train_split: val, val_split: val, workers: 0}
model:
  network_hw: [64, 96]
  backbone: {name: resnet18, options: {channels: [8, 8, 16, 16], stem_width: 8}}
  neck_width: 16
  detection: {head: fcos, width: 16}
  semantic: {head: semantic_fpn, width: 16}
  drivable: {head: semantic_fpn, width: 16}
train: {steps: 4, batch_size: 2, learning_rate: 1.0e-3, precision: "no"}
output: run
"""


def make_materials(folder: Path) -> None:
    """Write ``data``, ``recipe.yaml``, ``model.pt``, ``model.onnx`` and the bags ``mcap`` and ``sqlite3``."""
    from lvad_perception.bags.convert import from_dataset
    from lvad_perception.bags.replay import replay
    from lvad_training.build import build_model
    from lvad_training.checkpoints import Checkpoint, save_checkpoint
    from lvad_training.export.model_file import export
    from lvad_training.recipe.config import load_recipe
    from lvad_training.sample_set import render_sample_set

    render_sample_set(folder / "data", images=5 * IMAGES, seed=0, size_hw=SIZE_HW)
    (folder / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    recipe = load_recipe(folder / "recipe.yaml")
    checkpoint = Checkpoint(recipe=recipe, step=4, weights=build_model(recipe.model).state_dict())
    save_checkpoint(folder / "model.pt", checkpoint)
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, (*recipe.model.network_hw, 3), np.uint8) for _ in range(2)]
    export({"model.pt": checkpoint}, folder / "model.onnx", images=images)
    perceiver = open_perceiver(folder)
    for storage in ("mcap", "sqlite3"):
        plain = folder / f"{storage}_plain"
        from_dataset(folder / "data", "val", plain, storage=storage, cache_dir=folder / "cache", report=ignore)
        replay(plain, perceiver, folder / storage, storage=storage, report=ignore)


def open_perceiver(folder: Path) -> Any:
    """The model file in ONNX Runtime, on one thread."""
    from lvad_perception.engines import open_engine
    from lvad_perception.perceiver import Perceiver

    return Perceiver(open_engine(folder / "model.onnx", threads=1), score_threshold=0.0)


def ignore(_line: str) -> None:
    """A ``report`` that does nothing."""
