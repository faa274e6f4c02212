"""The paper's figures, printed beside ours.

Liang et al., "Effective Adaptation in Multi-Task Co-Training for Unified Autonomous Driving", NeurIPS 2022 (arXiv
2209.08953), as its slides give them; BDD100K's validation split, percent.
"""

from typing import Final

from lvad_training.reproduce.tables import TABLES

_FIGURES: Final[dict[str, dict[str, tuple[float | None, ...]]]] = {
    "table1": {  # semantic mIoU, drivable mIoU, AP, AP50, AP75
        "zeroing": (59.4, 83.3, 23.0, 46.0, 19.8),
        "uniform": (59.9, 83.2, 24.3, 47.0, 21.8),
        "weighted": (59.8, 83.2, 24.2, 46.9, 21.4),
        "round_robin": (60.7, 83.1, 24.2, 47.0, 21.5),
        "self_training": (60.3, 83.1, 24.9, 48.1, 22.2),
        "lv_adapter": (62.2, 83.7, 26.4, 50.5, 23.7),
    },
    "table2": {  # semantic mIoU and accuracy, drivable mIoU and accuracy, AP, AP50, AP75
        # The slides' AP75 of DetCo, PAF and DenseCL, PF may be exchanged.
        "moco_v1-pf": (17.8, 48.6, 70.8, 92.0, 25.8, 49.5, 23.1),
        "moco_v1-paf": (59.2, 93.2, 83.6, 96.9, 25.9, 50.0, 23.0),
        "moco_v2-pf": (10.3, 19.8, 73.4, 93.5, 26.0, 50.1, 23.2),
        "moco_v2-paf": (61.2, 93.4, 83.8, 96.9, 26.1, 50.4, 23.4),
        "simclr-pf": (60.3, 93.3, 83.5, 96.8, 25.4, 48.9, 22.5),
        "simclr-paf": (60.1, 93.2, 83.5, 96.8, 25.2, 48.9, 22.3),
        "swav-pf": (45.9, 71.1, 82.0, 96.5, 25.6, 49.1, 23.0),
        "swav-paf": (61.1, 93.3, 83.1, 96.7, 25.6, 49.3, 23.1),
        "byol-pf": (59.2, 90.2, 75.6, 93.9, 25.9, 49.8, 23.4),
        "byol-paf": (61.7, 93.4, 83.5, 96.8, 25.7, 49.4, 23.1),
        "detco-pf": (38.1, 58.5, 83.2, 96.7, 25.9, 49.7, 22.9),
        "detco-paf": (61.0, 93.4, 83.7, 96.9, 26.2, 50.3, 23.3),
        "densecl-pf": (20.0, 40.0, 73.7, 93.7, 26.1, 50.3, 23.5),
        "densecl-paf": (60.7, 93.3, 83.9, 96.9, 26.3, 50.3, 23.7),
        "clip-pf": (54.5, 91.1, 74.1, 93.1, 26.5, 50.7, 23.8),
        "clip-paf": (61.0, 93.2, 83.4, 96.8, 26.3, 50.5, 23.5),
    },
    "table3": {  # semantic mIoU, drivable mIoU, AP, AP50, AP75
        "full-single_task": (57.1, 83.9, 29.4, 55.8, 26.4),
        "full-self_training": (61.8, 84.4, 30.1, 56.6, 27.6),
        "full-lv_adapter": (63.1, 84.9, 31.1, 58.2, 28.4),
        "disjoint_balance-single_task": (57.1, 78.1, 18.6, 37.8, 15.6),
        "disjoint_balance-self_training": (59.4, 80.3, 22.4, 44.1, 19.6),
        "disjoint_balance-lv_adapter": (61.8, 80.6, 24.6, 47.4, 21.9),
        "disjoint_normal-single_task": (57.1, 82.0, 20.9, 41.9, 17.8),
        "disjoint_normal-self_training": (60.3, 83.1, 24.9, 48.1, 22.2),
        "disjoint_normal-lv_adapter": (62.2, 83.7, 26.4, 50.5, 23.7),
    },
    "table4": {  # semantic mIoU, drivable mIoU
        "pf": (54.5, 74.1),
        "paf": (61.5, 83.5),
        "prompt": (61.8, 83.5),
        "v2l": (61.3, 83.6),
        "l2v": (62.2, 83.7),
    },
    "table5": {  # semantic mIoU, drivable mIoU, AP
        "12+24": (59.5, 82.9, 25.8),
        "6+30": (61.0, 83.4, 26.3),
        "1+35": (61.5, 83.5, 26.4),
        "6+35": (61.3, 83.5, 26.5),
        "12+35": (61.9, 83.5, 26.6),
    },
    "table6": {  # semantic mIoU, drivable mIoU, AP, AP50, AP75
        "engineering": (61.4, 83.3, 26.1, 50.1, 23.4),
        "ensembling": (61.7, 83.3, 26.3, 50.4, 23.5),
        "learned": (62.2, 83.7, 26.4, 50.5, 23.7),
    },
    "table8": {  # semantic mIoU, drivable mIoU, AP
        "simclr-pf": (58.3, 83.2, 24.0),
        "simclr-paf": (58.3, 83.3, 24.6),
        "detco-pf": (59.6, 83.3, 24.1),
        "detco-paf": (59.7, 83.4, 24.8),
    },
    "table10": {  # semantic mIoU, drivable mIoU, AP
        "single_task": (57.1, 78.1, 18.6),
        "single_task-lv_adapter": (61.3, 81.6, 22.4),
    },
    "table11": {  # AP, AP50, AP75, semantic mIoU; nuImages' validation split
        "sparse_rcnn": (46.6, 72.8, 49.4, None),
        "maskformer": (None, None, None, 55.8),
        "multi_task": (47.1, 73.5, 49.9, 53.3),
        "lv_adapter": (50.3, 76.8, 54.3, 56.0),
    },
}
"""Table -> row -> figures in the order of the table's columns, without the official drivable mIoU."""


def _by_column(name: str, figures: tuple[float | None, ...]) -> dict[str, float]:
    columns = [column for column in TABLES[name].columns if column != "drivable_official"]
    return {column: figure for column, figure in zip(columns, figures, strict=True) if figure is not None}


FIGURES: Final = {
    name: {row: _by_column(name, figures) for row, figures in rows.items()} for name, rows in _FIGURES.items()
}
"""Table -> row -> column -> figure, keys as in ``tables.py``; without the figures that the paper does not give."""
