"""The paper's figures, to print beside ours.

Liang et al., "Effective Adaptation in Multi-Task Co-Training for Unified Autonomous Driving", NeurIPS 2022 (arXiv
2209.08953), as its slides give them; BDD100K's validation split, percent. Table -> row -> column -> figure; the rows
are those of ``tables.py``, the columns those of ``results.py``.
"""

from typing import Final

Figures = dict[str, float]


def _five(semantic: float, drivable: float, ap: float, ap50: float, ap75: float) -> Figures:
    return {"semantic_miou": semantic, "drivable_miou": drivable, "ap": ap, "ap50": ap50, "ap75": ap75}


def _seven(
    semantic: float, semantic_accuracy: float, drivable: float, drivable_accuracy: float, *boxes: float
) -> Figures:
    found = _five(semantic, drivable, *boxes)
    return {**found, "semantic_accuracy": semantic_accuracy, "drivable_accuracy": drivable_accuracy}


def _three(semantic: float, drivable: float, ap: float) -> Figures:
    return {"semantic_miou": semantic, "drivable_miou": drivable, "ap": ap}


def _masks(semantic: float, drivable: float) -> Figures:
    return {"semantic_miou": semantic, "drivable_miou": drivable}


FIGURES: Final[dict[str, dict[str, Figures]]] = {
    "table1": {
        "zeroing": _five(59.4, 83.3, 23.0, 46.0, 19.8),
        "uniform": _five(59.9, 83.2, 24.3, 47.0, 21.8),
        "weighted": _five(59.8, 83.2, 24.2, 46.9, 21.4),
        "round_robin": _five(60.7, 83.1, 24.2, 47.0, 21.5),
        "self_training": _five(60.3, 83.1, 24.9, 48.1, 22.2),
        "lv_adapter": _five(62.2, 83.7, 26.4, 50.5, 23.7),
    },
    "table2": {  # the slides' AP75 of DetCo, PAF and DenseCL, PF may be exchanged
        "moco_v1-pf": _seven(17.8, 48.6, 70.8, 92.0, 25.8, 49.5, 23.1),
        "moco_v1-paf": _seven(59.2, 93.2, 83.6, 96.9, 25.9, 50.0, 23.0),
        "moco_v2-pf": _seven(10.3, 19.8, 73.4, 93.5, 26.0, 50.1, 23.2),
        "moco_v2-paf": _seven(61.2, 93.4, 83.8, 96.9, 26.1, 50.4, 23.4),
        "simclr-pf": _seven(60.3, 93.3, 83.5, 96.8, 25.4, 48.9, 22.5),
        "simclr-paf": _seven(60.1, 93.2, 83.5, 96.8, 25.2, 48.9, 22.3),
        "swav-pf": _seven(45.9, 71.1, 82.0, 96.5, 25.6, 49.1, 23.0),
        "swav-paf": _seven(61.1, 93.3, 83.1, 96.7, 25.6, 49.3, 23.1),
        "byol-pf": _seven(59.2, 90.2, 75.6, 93.9, 25.9, 49.8, 23.4),
        "byol-paf": _seven(61.7, 93.4, 83.5, 96.8, 25.7, 49.4, 23.1),
        "detco-pf": _seven(38.1, 58.5, 83.2, 96.7, 25.9, 49.7, 22.9),
        "detco-paf": _seven(61.0, 93.4, 83.7, 96.9, 26.2, 50.3, 23.3),
        "densecl-pf": _seven(20.0, 40.0, 73.7, 93.7, 26.1, 50.3, 23.5),
        "densecl-paf": _seven(60.7, 93.3, 83.9, 96.9, 26.3, 50.3, 23.7),
        "clip-pf": _seven(54.5, 91.1, 74.1, 93.1, 26.5, 50.7, 23.8),
        "clip-paf": _seven(61.0, 93.2, 83.4, 96.8, 26.3, 50.5, 23.5),
    },
    "table3": {
        "full-single_task": _five(57.1, 83.9, 29.4, 55.8, 26.4),
        "full-self_training": _five(61.8, 84.4, 30.1, 56.6, 27.6),
        "full-lv_adapter": _five(63.1, 84.9, 31.1, 58.2, 28.4),
        "disjoint_balance-single_task": _five(57.1, 78.1, 18.6, 37.8, 15.6),
        "disjoint_balance-self_training": _five(59.4, 80.3, 22.4, 44.1, 19.6),
        "disjoint_balance-lv_adapter": _five(61.8, 80.6, 24.6, 47.4, 21.9),
        "disjoint_normal-single_task": _five(57.1, 82.0, 20.9, 41.9, 17.8),
        "disjoint_normal-self_training": _five(60.3, 83.1, 24.9, 48.1, 22.2),
        "disjoint_normal-lv_adapter": _five(62.2, 83.7, 26.4, 50.5, 23.7),
    },
    "table4": {
        "pf": _masks(54.5, 74.1),
        "paf": _masks(61.5, 83.5),
        "prompt": _masks(61.8, 83.5),
        "v2l": _masks(61.3, 83.6),
        "l2v": _masks(62.2, 83.7),
    },
    "table5": {
        "12+24": _three(59.5, 82.9, 25.8),
        "6+30": _three(61.0, 83.4, 26.3),
        "1+35": _three(61.5, 83.5, 26.4),
        "6+35": _three(61.3, 83.5, 26.5),
        "12+35": _three(61.9, 83.5, 26.6),
    },
    "table6": {
        "engineering": _five(61.4, 83.3, 26.1, 50.1, 23.4),
        "ensembling": _five(61.7, 83.3, 26.3, 50.4, 23.5),
        "learned": _five(62.2, 83.7, 26.4, 50.5, 23.7),
    },
    "table8": {
        "simclr-pf": _three(58.3, 83.2, 24.0),
        "simclr-paf": _three(58.3, 83.3, 24.6),
        "detco-pf": _three(59.6, 83.3, 24.1),
        "detco-paf": _three(59.7, 83.4, 24.8),
    },
    "table10": {
        "single_task": _three(57.1, 78.1, 18.6),
        "single_task-lv_adapter": _three(61.3, 81.6, 22.4),
    },
    "table11": {  # nuImages' validation split
        "sparse_rcnn": {"ap": 46.6, "ap50": 72.8, "ap75": 49.4},
        "maskformer": {"semantic_miou": 55.8},
        "multi_task": {"ap": 47.1, "ap50": 73.5, "ap75": 49.9, "semantic_miou": 53.3},
        "lv_adapter": {"ap": 50.3, "ap50": 76.8, "ap75": 54.3, "semantic_miou": 56.0},
    },
}
