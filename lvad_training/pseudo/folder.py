"""The folder of pseudo labels: a data set in BDD100K's layout, unfinished or finished.

``images`` holds links to the source's images, ``labels`` the labels, ``pseudo.json`` and ``pseudo.txt`` the report.
A folder ``unfinished`` holds journals and settings while labels are written; ``pseudo.json`` is written last.
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
    """The files of one split's pseudo labels.

    Args:
        path: the folder.
        split: the images that are labelled.
        settings: teachers, frames and thresholds as plain values; a folder never mixes labels of different settings.
    """

    def __init__(self, path: Path, split: Split, settings: Mapping[str, Any]) -> None:
        self.path = path
        self.split = split
        self.settings: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(settings))  # as it is read back
        self._unsynced: list[Path] = []

    @property
    def unfinished(self) -> Path:
        """Folder of the files that are needed only until the labels are finished."""
        return self.path / UNFINISHED

    def prepare(self, *, resume: bool) -> None:
        """Prepare the folder for all processes to write to.

        Args:
            resume: keep labels of the same settings; False removes existing labels.

        Raises:
            ConfigError: the folder holds labels of other settings (``resume``) or something else than pseudo labels.
            DatasetError: it cannot be written to, or cannot hold links.
        """
        markers = (self.path / REPORT, self.unfinished / _SETTINGS)
        if not any(marker.exists() for marker in markers):
            other = next((name for name in ("images", "labels") if (self.path / name).exists()), None)
            if other is not None:
                raise ConfigError(
                    f"{self.path} holds {other}/ that are no pseudo labels; choose another folder for pseudo labels"
                )
        found = self._existing_settings() if resume else None
        if found and found != self.settings:
            changed = ", ".join(key for key in self.settings if found.get(key) != self.settings[key])
            raise ConfigError(
                f"{self.path} holds pseudo labels made with other settings (in {changed}); "
                "start them anew or choose another folder"
            )
        with _write_errors(self.path):
            if not found:
                self._clear()
                write_whole(self.unfinished / _SETTINGS, msgspec.json.encode(self.settings))
            self._link_images()

    def finished(self) -> PseudoReport | None:
        """The report of finished labels; None while they are unfinished. Raises DatasetError when it is damaged."""
        try:
            data = (self.path / REPORT).read_bytes()
            return msgspec.json.decode(data, type=_Finished).report
        except FileNotFoundError:
            return None
        except (OSError, *JSON_ERRORS) as err:
            raise DatasetError(f"{self.path / REPORT} cannot be read ({err}); start the pseudo labels anew") from err

    def write_mask(self, task: str, frame: str, mask: UInt8) -> None:
        """Write the mask of "semantic" or "drivable", uint8 [H, W], atomically; ``sync_masks`` makes it durable."""
        path = self.path / _MASKS[task] / self.split.name / f"{frame}.png"
        with _write_errors(path), replacing(path, scratch=self.unfinished, durable=False) as file:
            Image.fromarray(mask).save(file, format="png")
        self._unsynced.append(path)

    def sync_masks(self) -> None:
        """Flush all masks that this process wrote to disk. Raises OSError."""
        sync([*self._unsynced, *{path.parent for path in self._unsynced}])
        self._unsynced.clear()

    def write_detections(self, entries: Mapping[str, bytes]) -> None:
        """Write one det_20 file; ``entries``: frame name -> entry of ``detection_entry``."""
        path = self.path / "labels/det_20" / f"det_{self.split.name}.json"
        body = b",\n".join(entries[frame] for frame in sorted(entries))
        with _write_errors(path):
            write_whole(path, b"[\n" + body + b"\n]\n")

    def finish(self, report: PseudoReport) -> None:
        """Write the report, then remove the folder ``unfinished``."""
        with _write_errors(self.path):
            write_whole(self.path / TABLE, report.to_text() + "\n")
            sync(Path(folder) for folder, _, _ in os.walk(self.path))  # does not follow the links to images
            data = msgspec.json.encode(_Finished(self.settings, report))
            write_whole(self.path / REPORT, msgspec.json.format(data, indent=1))
            sync([self.path])  # the report must be durable before the journals are removed
            self.clean()

    def clean(self) -> None:
        """Remove the folder ``unfinished``."""
        shutil.rmtree(self.unfinished, ignore_errors=True)

    def _existing_settings(self) -> dict[str, Any] | None:
        """The settings of existing labels; None without labels, {} when their removal was interrupted."""
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
        """Remove existing labels; meanwhile empty settings, which match no others, mark the folder as ours."""
        write_whole(self.unfinished / _SETTINGS, b"{}")
        for name in (REPORT, TABLE):
            (self.path / name).unlink(missing_ok=True)
        for name in ("labels", "images", "seg"):  # rmtree removes the links in images/, not their targets
            if (self.path / name).exists():
                shutil.rmtree(self.path / name)
        for path in self.unfinished.iterdir():
            if path.name != _SETTINGS:
                path.unlink()

    def _link_images(self) -> None:
        """Link every image folder of the split, at the same relative path as in the source."""
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


def mark_incomplete(path: Path) -> None:
    """Mark a folder as pseudo labels that lost their report, so that they are made anew. Raises DatasetError."""
    with _write_errors(path):
        write_whole(path / UNFINISHED / _SETTINGS, b"{}")


def detection_entry(image: str, boxes: Detections, ignored: Detections) -> bytes:
    """One frame's det_20 entry as JSON, with scores; corners rounded to 1/100 pixel, scores to four digits.

    Args:
        image: file name of the image.
        boxes: the labels, in continuous pixels; boxes without area after rounding are left out.
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
def _write_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as err:
        raise DatasetError(
            f"{path} cannot be written ({err.strerror or err}); free space or correct its permissions, then go on"
        ) from err
