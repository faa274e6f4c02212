"""The published backbones that rows start from: how their files are called, and which of them a folder has.

``docs/backbones.md`` says where each is published, under what names its tensors are and under which licence.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from lvad_perception.errors import ConfigError
from lvad_training.model.backbone import timm_backbone
from lvad_training.model.published import load_published
from lvad_training.recipe.schema import BackboneConfig
from lvad_training.reproduce.tables import Method, Row, Table

ENDINGS: Final = (".pth.tar", ".pth", ".pt", ".safetensors", ".torch", ".ckpt")


@dataclass(frozen=True, slots=True)
class Pretraining:
    """A backbone as its authors, or who converted it, publish it.

    Attributes:
        key: what rows call it; a file of this name with one of ``ENDINGS`` is taken before any other.
        title: as printed.
        files: names under which it is published, the paper's most likely choice first.
        clip: whether it has CLIP's architecture instead of the usual ResNet's.
    """

    key: str
    title: str
    files: tuple[str, ...]
    clip: bool = False

    def find(self, folder: Path) -> Path | None:
        """Its file in a folder, or None."""
        names = (*(self.key + ending for ending in ENDINGS), *self.files)
        return next((folder / name for name in names if (folder / name).is_file()), None)


PRETRAININGS: Final = {
    each.key: each
    for each in (
        Pretraining("moco_v1", "MoCo v1", ("moco_v1_200ep_pretrain.pth.tar",)),
        Pretraining("moco_v2", "MoCo v2", ("moco_v2_800ep_pretrain.pth.tar", "moco_v2_200ep_pretrain.pth.tar")),
        Pretraining("simclr", "SimCLR", ("resnet50-1x.pth",)),
        Pretraining("swav", "SwAV", ("swav_800ep_pretrain.pth.tar", "swav_400ep_pretrain.pth.tar")),
        Pretraining("byol", "BYOL", ("resnet50_byol_imagenet2012.pth.tar", "pretrain_res50x1.pth")),
        Pretraining("detco", "DetCo", ("detco_200ep.pth", "detco_200ep_AA.pth")),
        Pretraining("densecl", "DenseCL", ("densecl_r50_imagenet_200ep.pth",)),
        Pretraining("clip", "CLIP", ("RN50.pt",), clip=True),
    )
}


def needs_files(table: Table) -> bool:
    """Whether rows of a table start from published files."""
    return any(method.pretraining is not None for row in table.rows for method in row.methods)


def with_files(
    table: Table, folder: Path, base: BackboneConfig, *, log: Callable[[str], None] = lambda _: None
) -> Table:
    """A table whose rows have their files; a row whose file is not in the folder is marked absent.

    Every file is loaded once, so that one that does not fit is found before anything is trained.

    Args:
        table: its rows name pretrainings.
        folder: where the files are, see ``Pretraining.find``.
        base: the base recipe's backbone, whose architecture the rows take; CLIP's is ``resnet50_clip`` unless this is
            one of CLIP's already.
        log: is told of each file what was loaded and what is missing.

    Raises:
        ConfigError: there is no such folder, or it has none of the files.
        CheckpointError: a file cannot be read or does not fit the architecture.
    """
    if not folder.is_dir():
        raise ConfigError(f"--weights-dir {folder}: is not a folder; give one with the published files")
    keys = dict.fromkeys(str(m.pretraining) for row in table.rows for m in row.methods if m.pretraining is not None)
    found: dict[str, BackboneConfig] = {}
    for key in keys:
        pretraining = PRETRAININGS[key]
        path = pretraining.find(folder)
        if path is None:
            log(f"{pretraining.title}: absent, {_wanted(pretraining)} is not in {folder}")
            continue
        config = _architecture(pretraining, base, path)
        backbone = timm_backbone(config.name, config.options, stride_in=config.stride_in)
        log(f"{pretraining.title}: {load_published(backbone, path).to_text()}")
        found[key] = config
    if not found:
        wanted = "; ".join(f"{PRETRAININGS[key].title}: {_wanted(PRETRAININGS[key])}" for key in keys)
        raise ConfigError(
            f"--weights-dir {folder}: has none of the published files ({wanted}); docs/backbones.md says where they are"
        )
    return dataclasses.replace(table, rows=tuple(_row(row, found, folder) for row in table.rows))


def _architecture(pretraining: Pretraining, base: BackboneConfig, path: Path) -> BackboneConfig:
    if pretraining.clip and not base.name.endswith("_clip"):
        return BackboneConfig(name="resnet50_clip", weights=str(path))
    return replace(base, weights=str(path))


def _row(row: Row, found: dict[str, BackboneConfig], folder: Path) -> Row:
    missing = [str(m.pretraining) for m in row.methods if m.pretraining is not None and m.pretraining not in found]
    if missing:
        return dataclasses.replace(row, absent=f"{_wanted(PRETRAININGS[missing[0]])} is not in {folder}")
    return dataclasses.replace(row, methods=tuple(_method(method, found) for method in row.methods))


def _method(method: Method, found: dict[str, BackboneConfig]) -> Method:
    if method.pretraining is None:
        return method
    return dataclasses.replace(method, backbone=found[method.pretraining])


def _wanted(pretraining: Pretraining) -> str:
    return " or ".join((f"{pretraining.key}.pth", *pretraining.files))
