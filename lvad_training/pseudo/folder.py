"""The folder of pseudo labels, a data set in BDD100K's layout, while it is made and when it is done.

``images`` links to the source's images, ``labels`` holds the labels, ``pseudo.json`` and ``pseudo.txt`` the report.
While labels are made there is a folder ``unfinished``; ``pseudo.json`` appears last, when everything else is whole.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
from PIL import Image

from lvad_perception.datasets.bdd100k.tree import find_sources
from lvad_perception.datasets.formats import JSON_ERRORS
from lvad_perception.datasets.split import Split
from lvad_perception.errors import ConfigError, DatasetError
from lvad_perception.files import replacing, sync, write_whole
from lvad_perception.types import Detections, UInt8
from lvad_perception.vocabulary import DETECTION
from lvad_training.pseudo.quality import PseudoReport

REPORT, TABLE, UNFINISHED = "pseudo.json", "pseudo.txt", "unfinished"
_SETTINGS: Final = "settings.json"
_MASKS: Final = {"semantic": "labels/sem_seg/masks", "drivable": "labels/drivable/masks"}


class _Finished(msgspec.Struct):
    settings: dict[str, Any]
    report: PseudoReport


class LabelFolder:
    """Where the labels of one split go.

    Args:
        path: the folder.
        split: whose images are labelled.
        settings: what the labels are made from and how, plain values; labels of other settings are not mixed in.
    """

    def __init__(self, path: Path, split: Split, settings: Mapping[str, Any]) -> None:
        self.path = path
        self.split = split
        self.settings: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(settings))  # as it is read back
        self._not_kept: list[Path] = []

    @property
    def unfinished(self) -> Path:
        """What is needed only until everything is done."""
        return self.path / UNFINISHED

    def prepare(self, *, resume: bool) -> None:
        """Make the folder ready to be written to by all processes.

        Args:
            resume: keep what is there, when it has the same settings; otherwise it is removed.

        Raises:
            ConfigError: the folder holds labels of other settings (``resume``) or something else than pseudo labels.
            DatasetError: it cannot be written to, or cannot hold links.
        """
        markers = (self.path / REPORT, self.unfinished / _SETTINGS)
        if not any(marker.exists() for marker in markers):
            taken = next((name for name in ("images", "labels") if (self.path / name).exists()), None)
            if taken is not None:
                raise ConfigError(
                    f"{self.path} holds {taken}/ that are no pseudo labels; choose another folder for pseudo labels"
                )
        found = self._settings_found() if resume else None
        if found and found != self.settings:
            changed = ", ".join(key for key in self.settings if found.get(key) != self.settings[key])
            raise ConfigError(
                f"{self.path} holds pseudo labels made with other settings (in {changed}); "
                "start them anew or choose another folder"
            )
        with _explained(self.path):
            if not found:
                self._clear()
                write_whole(self.unfinished / _SETTINGS, msgspec.json.encode(self.settings))
            self._link_images()

    def finished(self) -> PseudoReport | None:
        """The report when all labels are there, None while they are not. Raises DatasetError when it is damaged."""
        try:
            data = (self.path / REPORT).read_bytes()
            return msgspec.json.decode(data, type=_Finished).report
        except FileNotFoundError:
            return None
        except (OSError, *JSON_ERRORS) as err:
            raise DatasetError(f"{self.path / REPORT} cannot be read ({err}); start the pseudo labels anew") from err

    def write_mask(self, task: str, frame: str, mask: UInt8) -> None:
        """Write the mask of "semantic" or "drivable", uint8 [H, W]; after a kill it is there whole or not at all."""
        path = self.path / _MASKS[task] / self.split.name / f"{frame}.png"
        with _explained(path), replacing(path, scratch=self.unfinished, durable=False) as file:
            Image.fromarray(mask).save(file, format="png")
        self._not_kept.append(path)

    def keep_masks(self) -> None:
        """Return once all masks that this process wrote are on the disk. Raises OSError."""
        sync([*self._not_kept, *{path.parent for path in self._not_kept}])
        self._not_kept.clear()

    def write_detections(self, entries: Mapping[str, bytes]) -> None:
        """Write the entries of all frames, by name, as one det_20 file."""
        path = self.path / "labels/det_20" / f"det_{self.split.name}.json"
        body = b",\n".join(entries[frame] for frame in sorted(entries))
        with _explained(path):
            write_whole(path, b"[\n" + body + b"\n]\n")

    def finish(self, report: PseudoReport) -> None:
        """Write the report and remove what was needed only until here."""
        with _explained(self.path):
            write_whole(self.path / TABLE, report.to_text() + "\n")
            sync(Path(folder) for folder, _, _ in os.walk(self.path))  # follows no link to images
            data = msgspec.json.encode(_Finished(self.settings, report))
            write_whole(self.path / REPORT, msgspec.json.format(data, indent=1))
            sync([self.path])  # before the journals go
            self.clean()

    def clean(self) -> None:
        """Remove what was needed only until the end."""
        shutil.rmtree(self.unfinished, ignore_errors=True)

    def _settings_found(self) -> dict[str, Any] | None:
        """Of the labels that are there; None without any, empty when a kill interrupted their removal."""
        for path, key in ((self.unfinished / _SETTINGS, None), (self.path / REPORT, "settings")):
            try:
                content = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
                found: dict[str, Any] = content if key is None else content[key]
                return found
            except FileNotFoundError:
                continue
            except (OSError, *JSON_ERRORS, KeyError) as err:
                raise DatasetError(f"{path} cannot be read ({err}); start the pseudo labels anew") from err
        return None

    def _clear(self) -> None:
        """Remove labels that are there; settings that fit nothing mark the folder as ours until that is done."""
        write_whole(self.unfinished / _SETTINGS, b"{}")
        for name in (REPORT, TABLE):
            (self.path / name).unlink(missing_ok=True)
        for name in ("labels", "images", "seg"):  # of images the links, not what they point to
            if (self.path / name).exists():
                shutil.rmtree(self.path / name)
        for path in self.unfinished.iterdir():
            if path.name != _SETTINGS:
                path.unlink()

    def _link_images(self) -> None:
        """Link every image folder of the split at the place where the source has it."""
        for folder in find_sources(self.split.root, self.split.name).images:
            link = self.path / Path(folder.path).relative_to(self.split.root)
            target = Path(folder.path).resolve()
            if link.is_symlink() and link.resolve() == target:
                continue
            link.parent.mkdir(parents=True, exist_ok=True)
            link.unlink(missing_ok=True)
            try:
                link.symlink_to(target, target_is_directory=True)
            except (OSError, NotImplementedError) as err:
                raise DatasetError(
                    f"{link} cannot be made a link to {target} ({err}); "
                    "write pseudo labels to a file system that has symbolic links"
                ) from err


def claim(path: Path) -> None:
    """Say that a folder is one of pseudo labels, whose report was removed. Raises DatasetError."""
    with _explained(path):
        write_whole(path / UNFINISHED / _SETTINGS, b"{}")


def detection_entry(image: str, boxes: Detections, ignored: Detections) -> bytes:
    """One frame's det_20 entry as JSON, boxes with their scores; corners to 1/100 pixel, scores to four digits.

    Args:
        image: file name of the image.
        boxes: in continuous pixels; what has no area after rounding is left out.
        ignored: boxes that are neither labels nor background, likewise; they get the attribute "crowd".
    """
    labels: list[dict[str, Any]] = []
    for found, attributes in ((boxes, {}), (ignored, {"attributes": {"crowd": True}})):
        for (x1, y1, x2, y2), score, label in zip(
            found.boxes_xyxy.astype(float).round(2).tolist(), found.scores.tolist(), found.labels.tolist(), strict=True
        ):
            if x2 > x1 and y2 > y1:
                # det_20 names the last pixel inside the box.
                corners = {"x1": x1, "y1": y1, "x2": round(x2 - 1, 2), "y2": round(y2 - 1, 2)}
                metadata = {
                    "category": DETECTION.names[label],
                    "score": round(score, 4),
                    "box2d": corners,
                    **attributes,
                }
                labels.append({"id": str(len(labels)), **metadata})
    return msgspec.json.encode({"name": image, "labels": labels})


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as err:
        raise DatasetError(
            f"{path} cannot be written ({err.strerror or err}); free space or correct its permissions, then go on"
        ) from err
