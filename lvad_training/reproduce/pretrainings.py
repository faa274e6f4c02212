"""Published backbones that rows start from: their file names, and loading them from a folder.

``docs/backbones.md`` lists their sources, tensor names and licences.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from lvad_perception.errors import ConfigError
from lvad_training.model.backbone import timm_backbone
from lvad_training.model.published import load_published
from lvad_training.recipe.schema import BackboneConfig

ENDINGS: Final = (".pth.tar", ".pth", ".pt", ".safetensors", ".torch", ".ckpt")


@dataclass(frozen=True, slots=True)
class Pretraining:
    """A published backbone.

    Attributes:
        key: its name in rows; a file of this name with one of ``ENDINGS`` takes precedence over ``files``.
        title: as printed.
        files: published file names, the paper's most likely choice first.
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

    @property
    def expected(self) -> str:
        """File names to look for, for messages."""
        return " or ".join((f"{self.key}.pth", *self.files))


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


def load_backbones(
    keys: Iterable[str], folder: Path, base: BackboneConfig, *, log: Callable[[str], None] = lambda _: None
) -> dict[str, BackboneConfig]:
    """Backbones by key, of those whose file is in a folder.

    Every file is loaded once, so that a file that does not fit is reported before any training starts.

    Args:
        keys: of ``PRETRAININGS``.
        folder: folder of the files, see ``Pretraining.find``.
        base: the base recipe's backbone, whose architecture they take; CLIP's is ``resnet50_clip`` unless this is one
            of CLIP's already.
        log: called with one line per key: what was loaded, or that the file is absent.

    Raises:
        ConfigError: there is no such folder, or it has none of the files.
        CheckpointError: a file cannot be read or does not fit the architecture.
    """
    if not folder.is_dir():
        raise ConfigError(f"--weights-dir {folder}: is not a folder; give one with the published files")
    pretrainings = [PRETRAININGS[key] for key in keys]
    found: dict[str, BackboneConfig] = {}
    for each in pretrainings:
        path = each.find(folder)
        if path is None:
            log(f"{each.title}: absent, {each.expected} is not in {folder}")
            continue
        config = _architecture(each, base, path)
        backbone = timm_backbone(config.name, config.options, stride_in=config.stride_in)
        log(f"{each.title}: {load_published(backbone, path).to_text()}")
        found[each.key] = config
    if not found:
        expected = "; ".join(f"{each.title}: {each.expected}" for each in pretrainings)
        raise ConfigError(
            f"--weights-dir {folder}: has none of the published files ({expected}); docs/backbones.md says where they "
            "are"
        )
    return found


def _architecture(pretraining: Pretraining, base: BackboneConfig, path: Path) -> BackboneConfig:
    if pretraining.clip and not base.name.endswith("_clip"):
        return BackboneConfig(name="resnet50_clip", weights=str(path))
    return replace(base, weights=str(path))
