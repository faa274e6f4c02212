"""The paper's tables as data: their rows, and how each row's training differs from the base recipe.

A new row takes a line here and its figures in ``paper.py``. ``docs/method.md`` explains which choices are our reading
of the paper.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

from lvad_perception.vocabulary import TASKS
from lvad_training.recipe.schema import BackboneConfig
from lvad_training.reproduce.pretrainings import PRETRAININGS, load_backbones

Setting = Literal["full", "disjoint_normal", "disjoint_balance"]
Vocabulary = Literal["bdd100k", "nuimages"]


@dataclass(frozen=True, slots=True, eq=False)
class Method:
    """One training.

    Attributes:
        name: of its folder; rows with the same method, setting, seed and budget share one training.
        sampler: ``data.sampler`` of the recipe.
        self_training: teachers label the unannotated images.
        adapt: a stage with frozen backbone precedes finetuning.
        epochs: Table 5's pair of adapt and finetune, in 36ths of the budget; None for the base recipe's.
        language: changes of the base recipe's ``model.language``; None for a network without text.
        task: the task of a single-task network; None for all tasks.
        teacher: with ``task``, the teacher for self-training with the same setting and seed.
        pretraining: key of ``PRETRAININGS``, the published backbone to start from; None for the base recipe's. Teachers
            always have the base recipe's, so that all such rows learn from the same labels.
        backbone: file and architecture of ``pretraining``, set by ``with_files``.
        convolutional: the preset's convolutional heads instead of query-based ones, for its teachers too.
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
        key: unique in its table; the row's key in ``paper.py`` and in the JSON output.
        title: as printed.
        setting: which images are annotated for which task.
        methods: the trainings; a row of single-task networks has one per task.
        absent: why the row cannot be trained; None when it can.
    """

    key: str
    title: str
    setting: Setting
    methods: tuple[Method, ...]
    absent: str | None = None

    @property
    def folder(self) -> str:
        """Folder of lists, teachers and pseudo labels, shared by rows of the same setting and kind of heads."""
        other_heads = any(method.convolutional for method in self.methods)
        return f"{self.setting}-convolutional" if other_heads else self.setting


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """One of the paper's tables.

    Attributes:
        name: on the command line, such as "table1".
        caption: as printed.
        columns: keys of ``results.COLUMNS`` to print: the paper's, and the official drivable mIoU.
        rows: in the paper's order.
        vocabulary: key of ``vocabulary.VOCABULARIES``: the classes of the data set and of every network.
    """

    name: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    vocabulary: Vocabulary = "bdd100k"

    @property
    def pretrainings(self) -> tuple[str, ...]:
        """Keys of the published backbones that rows start from, each once."""
        keys = (method.pretraining for row in self.rows for method in row.methods)
        return tuple(dict.fromkeys(key for key in keys if key is not None))


def with_files(
    table: Table, folder: Path, base: BackboneConfig, *, log: Callable[[str], None] = lambda _: None
) -> Table:
    """A table whose methods have their published backbones; rows whose file is not in the folder are marked absent.

    Arguments and errors are those of ``load_backbones``.
    """
    backbones = load_backbones(table.pretrainings, folder, base, log=log)

    def located(row: Row) -> Row:
        for key in (method.pretraining for method in row.methods):
            if key is not None and key not in backbones:
                return replace(row, absent=f"{PRETRAININGS[key].expected} is not in {folder}")
        methods = (
            method if method.pretraining is None else replace(method, backbone=backbones[method.pretraining])
            for method in row.methods
        )
        return replace(row, methods=tuple(methods))

    return replace(table, rows=tuple(map(located, table.rows)))


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


def _paradigms(pretraining: str, *, convolutional: bool = False) -> tuple[Row, Row]:
    """Self-training from a published backbone: pretrain-finetune and pretrain-adapt-finetune."""
    title = PRETRAININGS[pretraining].title

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
"""Rows that ``--adapt`` adds to Table 1: its first five methods with the adapt stage, without figures of the paper."""

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
            tuple(row for key in PRETRAININGS for row in _paradigms(key)),
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
            (*_paradigms("simclr", convolutional=True), *_paradigms("detco", convolutional=True)),
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
