"""The paper's tables as data: which rows, and how each row's training differs from the base recipe.

A table can be extended by a line here and its figures in ``paper.py``. What is our reading rather than the paper's is
explained in ``docs/method.md``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from lvad_perception.vocabulary import TASKS
from lvad_training.recipe.schema import BackboneConfig

Setting = Literal["full", "disjoint_normal", "disjoint_balance"]
Vocabulary = Literal["bdd100k", "nuimages"]


@dataclass(frozen=True, slots=True, eq=False)
class Method:
    """One training.

    Attributes:
        name: of its folder; two rows of the same method, setting, seed and budget share one training.
        sampler: ``data.sampler`` of the recipe.
        self_training: teachers label what is not annotated.
        adapt: a stage with frozen backbone comes before finetuning.
        epochs: Table 5's pair of adapt and finetune, in 36ths of the budget; None for the base recipe's.
        language: changes of the base recipe's ``model.language``; None for a network without text.
        task: the one task of a single-task network; None for all.
        teacher: with ``task``, the teacher that self-training of the same setting and seed learns from.
        pretraining: key of ``pretrainings.PRETRAININGS``, the published backbone to start from; None for the base
            recipe's. Teachers have the base recipe's in any case, so that such rows learn from the same labels.
        backbone: the file of ``pretraining`` and its architecture, once it was found.
        convolutional: the preset's convolutional heads instead of those of queries, for its teachers too.
    """

    name: str
    sampler: Literal["shuffle", "uniform", "weighted", "round_robin"] = "shuffle"
    self_training: bool = False
    adapt: bool = False
    epochs: tuple[int, int] | None = None
    language: Mapping[str, Any] | None = None
    task: str | None = None
    teacher: bool = False
    pretraining: str | None = None
    backbone: BackboneConfig | None = None
    convolutional: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One line of a table.

    Attributes:
        key: names the row in its table, in ``paper.py`` and in the JSON that is written.
        title: as printed.
        setting: which images are annotated for what.
        methods: what to train; a row of single-task networks has one for each task.
        absent: why the row cannot be trained; None when it can.
    """

    key: str
    title: str
    setting: Setting
    methods: tuple[Method, ...]
    absent: str | None = None

    @property
    def folder(self) -> str:
        """Of the lists, teachers and pseudo labels that it shares with others; those of other heads are others."""
        other_heads = any(method.convolutional for method in self.methods)
        return f"{self.setting}-convolutional" if other_heads else self.setting


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """One of the paper's tables.

    Attributes:
        name: what the command line calls it, "table1".
        caption: what it compares.
        columns: keys of ``results.COLUMNS`` to print, those of the paper and the official drivable mIoU.
        rows: in the paper's order.
        vocabulary: key of ``vocabulary.VOCABULARIES``: the classes of the data set and of every network.
    """

    name: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    vocabulary: Vocabulary = "bdd100k"


_LEARNED: Final = {"prompts": "learned", "l2v": True, "v2l": False}
_SWITCHES: Final = {"prompts": "learned", "l2v": False, "v2l": False, "score_map": False}

ZEROING: Final = Method("zeroing")
UNIFORM: Final = Method("uniform", sampler="uniform")
WEIGHTED: Final = Method("weighted", sampler="weighted")
ROUND_ROBIN: Final = Method("round_robin", sampler="round_robin")
SELF_TRAINING: Final = Method("self_training", self_training=True)
ADAPTED: Final = Method("self_training-adapt", self_training=True, adapt=True)
LV_ADAPTER: Final = Method("lv_adapter", self_training=True, adapt=True, language=_LEARNED)
PROMPT: Final = Method("lv_prompt", self_training=True, adapt=True, language={**_SWITCHES, "score_map": True})
V2L: Final = Method("lv_v2l", self_training=True, adapt=True, language={**_SWITCHES, "score_map": True, "v2l": True})
TEACHERS: Final = tuple(Method(f"teach-{task}", task=task, teacher=True) for task in TASKS)
SINGLE_LV: Final = tuple(
    Method(f"single_{task}-lv_adapter", task=task, adapt=True, language=_LEARNED) for task in TASKS
)

_FIVE: Final = ("semantic_miou", "drivable_miou", "drivable_official", "ap", "ap50", "ap75")
_SEVEN: Final = (
    *("semantic_miou", "semantic_accuracy", "drivable_miou", "drivable_official", "drivable_accuracy"),
    *("ap", "ap50", "ap75"),
)
_THREE: Final = ("semantic_miou", "drivable_miou", "drivable_official", "ap")
_MASKS: Final = ("semantic_miou", "drivable_miou", "drivable_official")

_SETTINGS: Final[dict[Setting, str]] = {
    "full": "Full",
    "disjoint_balance": "Disjoint-balance",
    "disjoint_normal": "Disjoint-normal",
}


def _with_adapt(method: Method, title: str) -> Row:
    adapted = Method(f"{method.name}-adapt", sampler=method.sampler, self_training=method.self_training, adapt=True)
    return Row(adapted.name, f"{title}, with adapt", "disjoint_normal", (adapted,))


def _with_prompts(kind: str) -> Method:
    if kind == "learned":
        return LV_ADAPTER
    return Method(f"lv_{kind}", self_training=True, adapt=True, language={**_LEARNED, "prompts": kind})


def _with_epochs(adapt: int, finetune: int) -> Row:
    method = Method(ADAPTED.name, self_training=True, adapt=True, epochs=(adapt, finetune))
    return Row(f"{adapt}+{finetune}", f"{adapt} + {finetune} epochs", "disjoint_normal", (method,))


def _paradigms(pretraining: str, title: str, *, convolutional: bool = False) -> tuple[Row, Row]:
    """Self-training from a published backbone: pretrain-finetune and pretrain-adapt-finetune."""

    def row(key: str, method: Method, *, adapt: bool) -> Row:
        trained = Method(
            f"{method.name}-{pretraining}",
            self_training=True,
            adapt=adapt,
            pretraining=pretraining,
            convolutional=convolutional,
        )
        return Row(f"{pretraining}-{key}", f"{title}, {key.upper()}", "disjoint_normal", (trained,))

    return row("pf", SELF_TRAINING, adapt=False), row("paf", ADAPTED, adapt=True)


_ONE_STAGE: Final = (
    (ZEROING, "Zeroing loss"),
    (UNIFORM, "Uniform sampler"),
    (WEIGHTED, "Weighted sampler"),
    (ROUND_ROBIN, "Round-robin"),
    (SELF_TRAINING, "Self-training"),
)

ADAPTED_ROWS: Final = tuple(_with_adapt(method, title) for method, title in _ONE_STAGE)
"""Rows that ``--adapt`` adds to Table 1: its first five methods with the adapt stage; the paper gives no figures."""

TABLES: Final = {
    table.name: table
    for table in (
        Table(
            "table1",
            "Multi-task methods, disjoint-normal",
            _FIVE,
            (
                *(Row(method.name, title, "disjoint_normal", (method,)) for method, title in _ONE_STAGE),
                Row("lv_adapter", "LV-Adapter", "disjoint_normal", (LV_ADAPTER,)),
            ),
        ),
        Table(
            "table2",
            "Pretrainings and paradigms (PF: pretrain-finetune, PAF: pretrain-adapt-finetune), disjoint-normal",
            _SEVEN,
            (
                *_paradigms("moco_v1", "MoCo v1"),
                *_paradigms("moco_v2", "MoCo v2"),
                *_paradigms("simclr", "SimCLR"),
                *_paradigms("swav", "SwAV"),
                *_paradigms("byol", "BYOL"),
                *_paradigms("detco", "DetCo"),
                *_paradigms("densecl", "DenseCL"),
                *_paradigms("clip", "CLIP"),
            ),
        ),
        Table(
            "table3",
            "Single-task and multi-task networks in three settings",
            _FIVE,
            tuple(
                Row(f"{setting}-{key}", f"{name}: {title}", setting, methods)
                for setting, name in _SETTINGS.items()
                for key, title, methods in (
                    ("single_task", "single task", TEACHERS),
                    ("self_training", "self-training", (SELF_TRAINING,)),
                    ("lv_adapter", "LV-Adapter", (LV_ADAPTER,)),
                )
            ),
        ),
        Table(
            "table4",
            "Components of LV-Adapter, disjoint-normal",
            _MASKS,
            (
                Row("pf", "pretrain-finetune", "disjoint_normal", (SELF_TRAINING,)),
                Row("paf", "pretrain-adapt-finetune", "disjoint_normal", (ADAPTED,)),
                Row("prompt", "+ prompts", "disjoint_normal", (PROMPT,)),
                Row("v2l", "+ prompts, V2L", "disjoint_normal", (V2L,)),
                Row("l2v", "+ prompts, L2V", "disjoint_normal", (LV_ADAPTER,)),
            ),
        ),
        Table(
            "table5",
            "Epochs of adapt + finetune, disjoint-normal",
            _THREE,
            tuple(_with_epochs(*pair) for pair in ((12, 24), (6, 30), (1, 35), (6, 35), (12, 35))),
        ),
        Table(
            "table6",
            "Prompts of LV-Adapter, disjoint-normal",
            _FIVE,
            tuple(
                Row(kind, title, "disjoint_normal", (_with_prompts(kind),))
                for kind, title in (
                    ("engineering", "Prompt engineering"),
                    ("ensembling", "Prompt ensembling"),
                    ("learned", "Learned prompts"),
                )
            ),
        ),
        Table(
            "table8",
            "Convolutional heads: FCOS and Semantic FPN, disjoint-normal",
            _THREE,
            (
                *_paradigms("simclr", "SimCLR", convolutional=True),
                *_paradigms("detco", "DetCo", convolutional=True),
            ),
        ),
        Table(
            "table10",
            "LV-Adapter on single-task networks, disjoint-balance",
            _THREE,
            (
                Row("single_task", "Single task", "disjoint_balance", TEACHERS),
                Row("single_task-lv_adapter", "Single task + LV-Adapter", "disjoint_balance", SINGLE_LV),
            ),
        ),
        Table(
            "table11",
            "nuImages: detection and semantic segmentation, every image annotated for both",
            ("ap", "ap50", "ap75", "semantic_miou"),
            (
                Row("sparse_rcnn", "Sparse R-CNN alone", "full", (Method("single_detection", task="detection"),)),
                Row("maskformer", "MaskFormer alone", "full", (Method("single_semantic", task="semantic"),)),
                Row("multi_task", "Multi-task", "full", (Method("multi_task"),)),
                Row(
                    "lv_adapter",
                    "LV-Adapter",
                    "full",
                    (Method("multi_task-lv_adapter", adapt=True, language=_LEARNED),),
                ),
            ),
            vocabulary="nuimages",
        ),
    )
}
