"""From nuImages to a model file: two steps of training, its metrics by nuImages' names, and a file that says so."""

import numpy as np
import pytest

from lvad_perception.engines import open_engine
from lvad_perception.vocabulary import VOCABULARIES
from lvad_training.checkpoints import load_checkpoint
from lvad_training.data.batches import comparison_images
from lvad_training.export.model_file import export
from lvad_training.training.evaluation import evaluate_checkpoint
from lvad_training.training.train import train

from .nuimages_tree import write_street

NUIMAGES = VOCABULARIES["nuimages"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_street(tmp_path_factory.mktemp("nuimages"), images=4)


def test_a_model_of_nuimages_is_trained_measured_and_exported(root, tmp_path, make_recipe):
    pytest.importorskip("onnxscript", reason="onnxscript, which export needs, is not installed")
    recipe = make_recipe(
        root,
        data={"train_split": "train"},
        model={"vocabulary": "nuimages", "drivable": None},
        train={"steps": 2, "learning_rate": 1e-3},
        output=str(tmp_path / "run"),
    )
    checkpoint = load_checkpoint(train(recipe, progress=False))
    metrics = evaluate_checkpoint(checkpoint)
    assert tuple(metrics.detection.per_class) == NUIMAGES["detection"].names
    assert metrics.detection.per_class["car"].truth == metrics.detection.per_class["pedestrian"].truth == 2
    assert tuple(metrics.semantic.scores.iou) == NUIMAGES["semantic"].names
    assert metrics.semantic.scores.iou["driveable_surface"] is not None
    assert metrics.drivable is None
    assert metrics.to_dict() == checkpoint.metrics

    path = tmp_path / "model.onnx"
    export({"test": checkpoint}, path, images=comparison_images(recipe, None, recipe.model.network_hw))
    engine = open_engine(path)
    assert engine.manifest.vocabularies == NUIMAGES
    said = engine.infer(np.zeros((1, *engine.manifest.input_hw, 3), np.uint8))
    assert said.drivable is None
    assert said.semantic.max() < len(NUIMAGES["semantic"].names)
    engine.close()
