"""Fixtures of the training tests: a network small enough to train in a test, and its data sets."""

import contextlib

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from lvad_perception.datasets.bdd100k import open_split
from lvad_training.build import build_criterion, build_model
from lvad_training.model.text_encoders import TextEncoder
from lvad_training.recipe.config import parse_recipe
from lvad_training.recipe.schema import PseudoConfig
from lvad_training.reproduce.base import base_recipe
from lvad_training.samples import Batch, Targets
from lvad_training.training import runs

from .painted_teachers import FRAMES, write

SIZE_HW = (64, 96)
SMALL_HEAD = {"width": 16, "heads": 2, "feedforward": 16}
SMALL_MASKS = {**SMALL_HEAD, "queries": 12, "layers": 2, "mask_width": 16, "dropout": 0.1}

SMALL_CONVOLUTIONS = {
    "detection": {"head": "fcos", "width": 16},
    "semantic": {"head": "semantic_fpn", "width": 16},
    "drivable": {"head": "semantic_fpn", "width": 16},
}
"""Small convolutional heads, for ``small_recipe(model=...)``."""


def small_recipe(root="unused", **sections):
    content = {
        "preset": "tiny",
        "data": {"root": str(root), "val_split": "val", "train_split": "val", "workers": 0},
        "model": {
            "network_hw": list(SIZE_HW),
            "backbone": {"name": "resnet18", "options": {"channels": [8, 8, 16, 16], "stem_width": 8}},
            "neck_width": 16,
            "detection": {**SMALL_HEAD, "proposals": 20, "refinements": 2, "dynamic_width": 4, "pool_size": 3},
            "semantic": SMALL_MASKS,
            "drivable": {**SMALL_MASKS, "queries": 6},
        },
        "train": {
            "steps": 4,
            "batch_size": 2,
            "warmup_steps": 2,
            "checkpoint_every": 2,
            "learning_rate": 1e-3,
            "precision": "no",  # the same on every machine
        },
    }
    for section, changes in sections.items():
        content[section] = {**content.get(section, {}), **changes} if isinstance(changes, dict) else changes
    return parse_recipe(content, [], source="test")


@pytest.fixture
def make_recipe():
    """``small_recipe(root, train={...}, ...)``."""
    return small_recipe


@pytest.fixture
def seeded():
    """Seeds torch, so that every run of a test draws the same numbers."""
    torch.manual_seed(0)


class _Stop(Exception):
    pass


@pytest.fixture
def stop_at():
    """``with stop_at(step):`` interrupts a training, as a kill would, once it has logged the step."""

    @contextlib.contextmanager
    def stop(step):
        original = runs.log_step

        def log(report, writer, curve, bar):
            original(report, writer, curve, bar)
            if report.step == step:
                raise _Stop

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(runs, "log_step", log)
            with pytest.raises(_Stop):
                yield

    return stop


@pytest.fixture
def net():
    torch.manual_seed(0)
    return build_model(small_recipe().model)


@pytest.fixture
def criterion():
    recipe = small_recipe()
    return build_criterion(recipe.model, recipe.loss)


def make_targets(*, boxes=3, semantic=True, drivable=True, seed=0):
    """Random annotation; ``boxes`` is their number, None for an image without box annotation."""
    random = np.random.default_rng(seed)

    def mask(classes):
        coarse = random.integers(0, classes, (SIZE_HW[0] // 16, SIZE_HW[1] // 16), np.uint8)
        return torch.from_numpy(coarse.repeat(16, 0).repeat(16, 1))

    xyxy = labels = None
    if boxes is not None:
        corner = torch.from_numpy(random.uniform(0, 40, (boxes, 2)).astype(np.float32))
        side = torch.from_numpy(random.uniform(5, 20, (boxes, 2)).astype(np.float32))
        xyxy, labels = torch.cat([corner, corner + side], 1), torch.from_numpy(random.integers(0, 10, boxes))
    return Targets(xyxy, labels, mask(19) if semantic else None, mask(3) if drivable else None)


@pytest.fixture
def targets():
    """``make_targets(boxes=3, semantic=True, drivable=True, seed=0)``."""
    return make_targets


@pytest.fixture
def batch():
    """Two images; the first is annotated for all tasks, the second for drivable area only."""
    images = torch.randint(0, 256, (2, 3, *SIZE_HW), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Batch(["full", "drivable only"], images, [make_targets(), make_targets(boxes=None, semantic=False)])


@pytest.fixture(scope="session")
def images():
    """Three images of coarse squares, uint8 [64, 96, 3], to compare runtimes."""
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (3, SIZE_HW[0] // 8, SIZE_HW[1] // 8, 3), np.uint8)
    return list(coarse.repeat(8, axis=1).repeat(8, axis=2))


@pytest.fixture(scope="session")
def blobs(tmp_path_factory):
    """An easy data set: a bright car on a grey road under a blue sky, at a different position in each image."""
    import json

    root = tmp_path_factory.mktemp("blobs")
    entries = []
    for folder in ("images/100k/val", "labels/sem_seg/masks/val", "labels/drivable/masks/val", "labels/det_20"):
        (root / folder).mkdir(parents=True)
    for index in range(6):
        height, width = SIZE_HW
        x, y = 8 + 10 * index, 30
        image = np.zeros((height, width, 3), np.uint8)
        image[: height // 2], image[height // 2 :] = (230, 160, 60), (90, 90, 90)  # BGR
        image[y : y + 18, x : x + 24] = (30, 30, 230)
        semantic = np.full((height, width), 10, np.uint8)
        semantic[height // 2 :] = 0
        semantic[y : y + 18, x : x + 24] = 13
        cv2.imwrite(str(root / f"images/100k/val/blob{index}.png"), image)
        cv2.imwrite(str(root / f"labels/sem_seg/masks/val/blob{index}.png"), semantic)
        cv2.imwrite(
            str(root / f"labels/drivable/masks/val/blob{index}.png"), np.where(semantic == 0, 0, 2).astype(np.uint8)
        )
        box = {"x1": x, "y1": y, "x2": x + 23, "y2": y + 17}
        entries.append({"name": f"blob{index}.png", "labels": [{"category": "car", "box2d": box}]})
    (root / "labels/det_20/det_val.json").write_text(json.dumps(entries))
    return root


class StubEncoder(TextEncoder):
    """A frozen text encoder that averages letters; ``calls`` records (number of contexts, texts) of each call."""

    def __init__(self, width=12, token_width=6, seed=0):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.letters = nn.Embedding(128, token_width)
            self.mix = nn.Linear(token_width, width)
        self.calls = []
        self.freeze("stub", width, token_width)

    def _encode(self, contexts, texts):
        self.calls.append((0 if contexts is None else len(contexts), tuple(texts)))
        letters = [torch.tensor([ord(letter) for letter in text]) for text in texts]
        rows = torch.stack([self.letters(ids).cumsum(0).tanh().mean(0) for ids in letters])
        return self.mix((rows + (0 if contexts is None else contexts.mean(0))).tanh())


@pytest.fixture(scope="session")
def tiny_text_encoder(tmp_path_factory):
    """Folder of a Hugging Face text encoder: a BERT of 16 channels with a WordPiece vocabulary."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("bert")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "road", "car", "traffic", "light", "##s", "."]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    transformers.BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    config = transformers.BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=32,
    )
    torch.manual_seed(7)
    transformers.BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def make_png_split():
    """``write_small_split`` with lossless PNG images only, whose exact pixels fake teachers read."""
    from test.conftest import write_small_split

    return lambda *args, **options: write_small_split(*args, suffixes=(".png",), **options)


@pytest.fixture(scope="session")
def painted_split(tmp_path_factory, make_png_split):
    """A training split for the teachers of ``painted_teachers``."""
    return open_split(make_png_split(tmp_path_factory.mktemp("source"), split="train", frames=FRAMES), "train")


@pytest.fixture(scope="session")
def finished_labels(painted_split, tmp_path_factory):
    """Finished pseudo labels of ``painted_split``: folder, report, and both again with automatic thresholds."""
    folder = tmp_path_factory.mktemp("fixed") / "pseudo"
    auto = tmp_path_factory.mktemp("auto") / "pseudo"
    return folder, write(painted_split, folder), auto, write(painted_split, auto, config=PseudoConfig())


@pytest.fixture
def make_base(blobs):
    """``make_base(*overrides)``: a small base recipe of ``reproduce``."""

    def make(*overrides):
        given = ["data.train_split=val", *overrides]
        return base_recipe(recipe=None, preset=None, data=blobs, smoke=True, overrides=given)

    return make
