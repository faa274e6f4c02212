"""The folder of pseudo labels: its content, and refused input."""

import json
import shutil
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from lvad_perception.datasets.bdd100k import open_split
from lvad_perception.errors import CheckpointError, ConfigError, DatasetError, ImageError, LabelError
from lvad_perception.media.images import read_image
from lvad_perception.types import Detections
from lvad_perception.vocabulary import DETECTION, TASKS, UNLABELED
from lvad_training.data.check import check_dataset
from lvad_training.pseudo import Teacher
from lvad_training.recipe.schema import PseudoConfig
from lvad_training.samples import ConfidentPredictions

from .painted_teachers import ALL, FRAMES, Stop, content, make_teachers, predict, write


class TestTheFolder:
    def test_it_is_a_data_set_of_the_same_images(self, painted_split, finished_labels):
        split = open_split(finished_labels[0], "train")
        assert [split.name_of(i) for i in range(len(split))] == [painted_split.name_of(i) for i in range(FRAMES)]
        for i in range(FRAMES):
            assert split.annotated(i) == set(TASKS)
            np.testing.assert_array_equal(read_image(split.image_path(i)), read_image(painted_split.image_path(i)))

    def test_its_labels_are_the_confident_predictions(self, painted_split, finished_labels):
        split = open_split(finished_labels[0], "train")
        kept = ignored = 0
        for i in range(FRAMES):
            predicted, truth = predict(painted_split, i), split.truth(i, (72, 96))
            smallest = np.where(predicted.detections.labels == DETECTION.index("truck"), 0.8, 0.4)
            sure = predicted.detections.scores >= smallest
            label = ~truth.boxes.crowd
            np.testing.assert_array_equal(truth.boxes.boxes_xyxy[label], predicted.detections.boxes_xyxy[sure])
            np.testing.assert_array_equal(truth.boxes.labels[label], predicted.detections.labels[sure])
            unsure = ~sure & (predicted.detections.scores >= 0.2)
            np.testing.assert_array_equal(truth.boxes.boxes_xyxy[~label], predicted.detections.boxes_xyxy[unsure])
            np.testing.assert_array_equal(truth.boxes.labels[~label], predicted.detections.labels[unsure])
            ignored += int(unsure.sum())
            sure = predicted.semantic_confidence >= 102
            np.testing.assert_array_equal(truth.semantic, np.where(sure, predicted.semantic, UNLABELED))
            sure = predicted.drivable_confidence >= np.where(predicted.drivable == 0, 179, 102)
            np.testing.assert_array_equal(truth.drivable, np.where(sure, predicted.drivable, UNLABELED))
            kept += int(label.sum())
        assert 0 < kept < kept + ignored < 4 * FRAMES

    def test_det_20_has_categories_and_scores(self, painted_split, finished_labels):
        entries = json.loads((finished_labels[0] / "labels/det_20/det_train.json").read_text())
        assert [entry["name"] for entry in entries] == [painted_split.image_path(i).name for i in range(FRAMES)]
        predicted = predict(painted_split, 0).detections
        label = entries[0]["labels"][0]
        assert label["category"] == DETECTION.names[predicted.labels[0]]
        assert label["score"] == round(float(predicted.scores[0]), 4)
        assert set(label["box2d"]) == {"x1", "y1", "x2", "y2"}

    def test_data_check_finds_no_error_in_it(self, finished_labels):
        report = check_dataset(finished_labels[0], workers=1, progress=False)
        assert report.errors == []
        assert report.splits["train"].annotated == dict.fromkeys(TASKS, FRAMES)

    def test_images_are_links_and_no_unfinished_files_remain(self, painted_split, finished_labels):
        folder = finished_labels[0]
        link = folder / "images/100k/train"
        assert link.is_symlink()
        assert link.resolve() == (painted_split.root / "images/100k/train").resolve()
        assert sorted(path.name for path in folder.iterdir()) == ["images", "labels", "pseudo.json", "pseudo.txt"]

    def test_only_the_frames_that_are_asked_for(self, painted_split, tmp_path):
        teachers = [
            *make_teachers(painted_split, frames=[4, 1], tasks=["detection"]),
            *make_teachers(painted_split, frames=[], tasks=["semantic"]),
        ]
        report = write(painted_split, tmp_path / "p", teachers=teachers)
        split = open_split(tmp_path / "p", "train")
        assert [i for i in range(FRAMES) if split.annotated(i)] == [1, 4]
        assert split.annotated(1) == {"detection"}
        assert {task: quality.frames for task, quality in report.tasks.items()} == {"detection": 2, "semantic": 0}

    def test_images_of_both_sets_are_there(self, tree, tmp_path):
        tree.image("a", image_set="100k")
        tree.image("b", image_set="10k")
        split = open_split(tree.root, "train")
        write(split, tmp_path / "p", teachers=make_teachers(split, frames=[1], tasks=["semantic"]))
        assert [open_split(tmp_path / "p", "train").annotated(i) for i in (0, 1)] == [set(), {"semantic"}]


class TestThresholds:
    def test_auto_thresholds_are_chosen_on_the_teachers_training_images(self, finished_labels, painted_split):
        chosen = {name: one.threshold for name, one in finished_labels[3].tasks["detection"].classes.items()}
        assert {name for name, threshold in chosen.items() if threshold is not None} <= set(DETECTION.names[:4])
        assert any(threshold is not None for threshold in chosen.values())
        scores = np.concatenate([predict(painted_split, i).detections.scores for i in range(FRAMES)])
        assert all(
            np.isclose(scores, threshold).any() for threshold in chosen.values() if threshold not in (None, 0.95)
        )

    def test_a_teacher_without_detections_labels_no_frame(self, painted_split, tmp_path):
        def blind(indices):
            nothing = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int32))
            for index in indices:
                yield ConfidentPredictions(painted_split.name_of(index), (72, 96), nothing, None, None, None, None)

        teacher = Teacher(task="detection", identity="blind", predict=blind, frames=ALL, trained_on=[0, 1])
        report = write(painted_split, tmp_path / "p", config=PseudoConfig(), teachers=[teacher])
        assert report.tasks["detection"].frames == 0
        assert "none" in report.to_text()
        assert not open_split(tmp_path / "p", "train").annotated_for("detection").any()


class TestBadInput:
    def test_labels_of_another_teacher_are_not_resumed(self, painted_split, finished_labels, tmp_path):
        folder = tmp_path / "p"
        shutil.copytree(finished_labels[0], folder, symlinks=True)
        with pytest.raises(ConfigError, match=r"made with other settings \(in thresholds\); start them anew"):
            write(painted_split, folder, config=PseudoConfig(box_score=0.5), resume=True)
        with pytest.raises(ConfigError, match=r"made with other settings \(in teachers\)"):
            write(painted_split, folder, teachers=make_teachers(painted_split, frames=[1]), resume=True)

    @pytest.mark.parametrize("resume", [False, True])
    def test_a_data_set_is_never_overwritten(self, painted_split, resume):
        before = content(painted_split.root)
        with pytest.raises(ConfigError, match=r"holds images/ that are no pseudo labels; choose another folder"):
            write(painted_split, painted_split.root, resume=resume)
        assert content(painted_split.root) == before

    def test_teachers(self, painted_split, tmp_path):
        twice = make_teachers(painted_split, tasks=["semantic", "semantic"])
        with pytest.raises(ConfigError, match="teachers of semantic, semantic: give one teacher per task"):
            write(painted_split, tmp_path, teachers=twice)
        with pytest.raises(ConfigError, match="teachers of no task"):
            write(painted_split, tmp_path, teachers=[])
        teacher = Teacher(task="detection", identity="x", predict=lambda _: (), frames=[0])
        with pytest.raises(ConfigError, match="box_score is auto but the teacher of detection has no annotated images"):
            write(painted_split, tmp_path, teachers=[teacher], config=PseudoConfig())
        teacher = Teacher(
            task="detection", identity="x", predict=lambda _: [predict(painted_split, 3)], frames=[0], trained_on=[3]
        )
        with pytest.raises(ConfigError, match="frame-003 is not annotated for detection"):
            write(painted_split, tmp_path, teachers=[teacher], config=PseudoConfig())
        with pytest.raises(IndexError, match="must lie in 0 to 11"):
            write(painted_split, tmp_path, teachers=make_teachers(painted_split, frames=[12]))

    @pytest.mark.parametrize("task", list(TASKS))
    def test_a_teacher_without_the_head(self, painted_split, tmp_path, task):
        def predict_without_heads(indices):
            return (predict(painted_split, index, tasks=()) for index in indices)

        teacher = Teacher(task=task, identity="x", predict=predict_without_heads, frames=[0])
        with pytest.raises(CheckpointError, match=f"the teacher of {task} has no head for it"):
            write(painted_split, tmp_path / "p", teachers=[teacher])

    @pytest.mark.parametrize("answer", [[], [1], [0, 1]])
    def test_a_teacher_that_predicts_other_frames(self, painted_split, tmp_path, answer):
        teacher = Teacher(
            task="semantic", identity="x", predict=lambda _: [predict(painted_split, i) for i in answer], frames=[0]
        )
        with pytest.raises(ValueError, match=r"zip|asked for frame-000, the teacher predicted frame-001"):
            write(painted_split, tmp_path / "p", teachers=[teacher])

    @pytest.mark.parametrize("damage", [b"\0\0\n", b'{"name": "\xff"}\n'], ids=["NUL", "UTF-8"])
    def test_a_damaged_journal(self, painted_split, tmp_path, damage):
        def stop():
            raise Stop

        with pytest.raises(Stop):
            write(painted_split, tmp_path / "p", teachers=make_teachers(painted_split, stop_after=5, stop=stop))
        journal = tmp_path / "p/unfinished/detection.0.jsonl"
        lines = journal.read_bytes().splitlines(keepends=True)
        journal.write_bytes(b"".join([lines[0], damage, *lines[1:]]))
        with pytest.raises(DatasetError, match=r"detection.0.jsonl: line 2 is damaged .*delete the file"):
            write(painted_split, tmp_path / "p", resume=True)
        journal.unlink()
        write(painted_split, tmp_path / "p", resume=True)

    @pytest.mark.parametrize("data", [b"{", b"[]", b'{"report": 3}', b'{"report": "\xff"}'])
    def test_a_damaged_report(self, painted_split, finished_labels, tmp_path, data):
        folder = tmp_path / "p"
        shutil.copytree(finished_labels[0], folder, symlinks=True)
        (folder / "pseudo.json").write_bytes(data)
        with pytest.raises(DatasetError, match=r"pseudo.json cannot be read .*; start the pseudo labels anew"):
            write(painted_split, folder, resume=True)
        assert write(painted_split, folder) == finished_labels[1]

    def test_a_folder_that_cannot_be_made(self, painted_split, tmp_path):
        (tmp_path / "file").write_text("x")
        with pytest.raises(DatasetError, match=r"file/p cannot be written \(Not a directory\)"):
            write(painted_split, tmp_path / "file/p")

    def test_no_links(self, painted_split, tmp_path, monkeypatch):
        def refuse(*_, **__):
            raise OSError(1, "Operation not permitted")

        monkeypatch.setattr(Path, "symlink_to", refuse)
        with pytest.raises(DatasetError, match=r"cannot be made a link to .*a file system that has symbolic links"):
            write(painted_split, tmp_path / "p")

    def test_a_full_disk(self, painted_split, tmp_path, monkeypatch):
        def fail(*_, **__):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(PIL.Image.Image, "save", fail)
        with pytest.raises(DatasetError, match=r"frame-000.png cannot be written \(No space left.*free space"):
            write(painted_split, tmp_path / "p", teachers=make_teachers(painted_split, tasks=["semantic"]))

    def test_bad_images_and_bad_truth_are_named(self, make_png_split, tmp_path):
        root = make_png_split(tmp_path / "source", split="train", frames=2)
        split = open_split(root, "train")
        PIL.Image.fromarray(np.zeros((5, 5), np.uint8)).save(root / "labels/sem_seg/masks/train/frame-001.png")
        with pytest.raises(LabelError, match=r"frame-001.png is 5x5 and its image 96x72"):
            write(split, tmp_path / "p", teachers=make_teachers(split, frames=[1]))
        (root / "images/100k/train/frame-000.png").write_bytes(b"")
        with pytest.raises(ImageError, match=r"frame-000.png is empty"):
            write(split, tmp_path / "q", teachers=make_teachers(split, frames=[0]))


def test_progress_is_shown_by_the_first_process_alone(painted_split, tmp_path, capsys):
    write(painted_split, tmp_path / "p", progress=True)
    shown = capsys.readouterr().err
    assert all(f"pseudo-label {task}: 100%" in shown for task in TASKS)
    assert "12/12" in shown
    write(painted_split, tmp_path / "q", progress=False)
    assert capsys.readouterr().err == ""
