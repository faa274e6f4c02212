"""Random pairs of predictions and truth, for tests of the metrics."""

import numpy as np

from lvad_perception.metrics import Evaluator, Metrics
from lvad_perception.types import Detections, Predictions, Truth, TruthBoxes
from lvad_perception.vocabulary import TASKS, UNLABELED

SIZE = (180, 320)
Pairs = list[tuple[Predictions, Truth]]


def random_boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    """Boxes with sides of 4 to 160 pixels, so that small, medium and large ones occur."""
    size = np.exp(rng.uniform(np.log(4), np.log(160), (count, 2)))
    corner = rng.uniform(0, 1, (count, 2)) * (np.array(SIZE[::-1]) - size)
    return np.concatenate([corner, corner + size], axis=1).astype(np.float32)


def random_pair(rng: np.random.Generator, *, truth_boxes: int = 12, spurious: int = 20, classes: int = 10) -> tuple:
    """Truth and a partly correct prediction: shifted boxes, wrong labels, false positives, noisy masks."""
    boxes = random_boxes(rng, truth_boxes)
    labels = rng.integers(0, classes, truth_boxes).astype(np.int32)
    crowd = rng.random(truth_boxes) < 0.2
    found = np.concatenate([boxes + rng.normal(0, 2, boxes.shape), random_boxes(rng, spurious)])
    found = np.clip(found, 0, [SIZE[1], SIZE[0]] * 2).astype(np.float32)
    found[:, 2:] = np.maximum(found[:, 2:], found[:, :2] + 1)
    guessed = np.concatenate([labels, rng.integers(0, classes, spurious).astype(np.int32)])
    wrong = rng.random(len(guessed)) < 0.1
    guessed[wrong] = rng.integers(0, classes, int(wrong.sum()))
    scores = rng.random(len(guessed)).astype(np.float32)
    order = np.argsort(-scores)
    masks = []
    for task in ("semantic", "drivable"):
        count = len(TASKS[task].names)
        # Blocks rather than noise; the last class never occurs in the semantic truth but is predicted at times.
        truth = np.kron(rng.integers(0, count - (task == "semantic"), (6, 8)), np.ones((30, 40))).astype(np.uint8)
        guess = truth.copy()
        noise = rng.random(SIZE)
        guess[noise < 0.3] = rng.integers(0, count, int((noise < 0.3).sum()))
        guess[noise > 0.98] = UNLABELED
        truth[rng.random(SIZE) < 0.05] = UNLABELED
        masks.append((guess, truth))
    predictions = Predictions(SIZE, Detections(found[order], scores[order], guessed[order]), masks[0][0], masks[1][0])
    return predictions, Truth(SIZE, TruthBoxes(boxes, labels, crowd), masks[0][1], masks[1][1])


def evaluate(pairs: Pairs, tasks: tuple[str, ...] = tuple(TASKS)) -> Metrics:
    evaluator = Evaluator(tasks)
    for predictions, truth in pairs:
        evaluator.add(predictions, truth)
    return evaluator.compute()


def without_masks(pairs: Pairs) -> Pairs:
    return [(Predictions(p.size_hw, p.detections, None, None), Truth(t.size_hw, t.boxes, None, None)) for p, t in pairs]
