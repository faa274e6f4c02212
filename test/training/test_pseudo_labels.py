import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from lvad_perception.bdd100k import open_split, read_image
from lvad_perception.errors import CheckpointError, ConfigError, DatasetError, ImageError, LabelError
from lvad_perception.types import Detections
from lvad_perception.vocabulary import DETECTION, TASKS, UNLABELED
from lvad_training.data.check import check_dataset
from lvad_training.pseudo import Teacher, write_pseudo_labels
from lvad_training.recipe import PseudoConfig
from lvad_training.samples import ConfidentPredictions

FRAMES = 12
CONFIG = PseudoConfig(
    box_score=0.4,
    box_scores={"truck": 0.8},
    ignored_score=0.2,
    mask_confidence=0.4,
    mask_confidences={"direct": 0.7},
)
ALL = tuple(range(FRAMES))


@pytest.fixture(scope="module")
def source(tmp_path_factory, make_split):
    return open_split(make_split(tmp_path_factory.mktemp("source"), split="train", frames=FRAMES), "train")


@pytest.fixture(scope="module")
def make_split():
    from test.conftest import write_small_split

    return lambda *args, **options: write_small_split(*args, suffixes=(".png",), **options)


def say(split, frame, tasks=tuple(TASKS)):
    """What a teacher reads from a painted image: red is the semantic class, green the drivable one, blue how sure."""
    image = read_image(split.image_path(frame))
    height, width = size_hw = image.shape[:2]
    red, green, blue = np.moveaxis(image, 2, 0)
    scores = blue.reshape(2, height // 2, 2, width // 2).mean(axis=(1, 3)).ravel().astype(np.float32) / 255
    order = np.argsort(-scores, kind="stable")
    x, y = np.array([0, 1, 0, 1]) * width / 2, np.array([0, 0, 1, 1]) * height / 2
    boxes = np.stack([x, y, x + width / 2, y + height / 2], axis=1).astype(np.float32)
    masks = "semantic" in tasks, "drivable" in tasks
    return ConfidentPredictions(
        split.name_of(frame),
        size_hw,
        Detections(boxes[order], scores[order], order.astype(np.int32)) if "detection" in tasks else None,
        np.minimum(red // 13, 18) if masks[0] else None,
        blue.copy() if masks[0] else None,
        np.minimum(green // 86, 2) if masks[1] else None,
        blue.copy() if masks[1] else None,
    )


class Stop(Exception):
    """Something that ends a run from outside."""


def make_teachers(split, *, frames=ALL, tasks=tuple(TASKS), stop_after=None, stop=None, asked=None):
    """Teachers of all tasks; together they answer ``stop_after`` times, then ``stop`` is called."""
    answered = 0

    def predict(indices):
        nonlocal answered
        for index in indices:
            if answered == stop_after:
                stop()
            answered += 1
            if asked is not None:
                asked.append(index)
            yield say(split, index)

    trained_on = [i for i in range(len(split)) if "detection" in split.annotated(i)]
    return [
        Teacher(task=task, identity="fake", predict=predict, frames=frames, trained_on=trained_on) for task in tasks
    ]


def write(split, folder, *, config=CONFIG, teachers=None, progress=False, **options):
    teachers = make_teachers(split) if teachers is None else teachers
    return write_pseudo_labels(
        split=split, folder=folder, teachers=teachers, config=config, progress=progress, **options
    )


def content(folder):
    """Every file of a folder that is no image of the source, by its path."""
    files = (path for path in folder.rglob("*") if path.is_file() and "images" not in path.parts)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def uninterrupted(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "pseudo"
    auto = tmp_path_factory.mktemp("auto") / "pseudo"
    return folder, write(source, folder), auto, write(source, auto, config=PseudoConfig())


class TestTheFolder:
    def test_it_is_a_data_set_of_the_same_images(self, source, uninterrupted):
        split = open_split(uninterrupted[0], "train")
        assert [split.name_of(i) for i in range(len(split))] == [source.name_of(i) for i in range(FRAMES)]
        for i in range(FRAMES):
            assert split.annotated(i) == set(TASKS)
            np.testing.assert_array_equal(read_image(split.image_path(i)), read_image(source.image_path(i)))

    def test_its_labels_are_what_the_teacher_is_sure_of(self, source, uninterrupted):
        split = open_split(uninterrupted[0], "train")
        kept = ignored = 0
        for i in range(FRAMES):
            said, truth = say(source, i), split.truth(i, (72, 96))
            smallest = np.where(said.detections.labels == DETECTION.index("truck"), 0.8, 0.4)
            sure = said.detections.scores >= smallest
            label = ~truth.boxes.crowd
            np.testing.assert_array_equal(truth.boxes.boxes_xyxy[label], said.detections.boxes_xyxy[sure])
            np.testing.assert_array_equal(truth.boxes.labels[label], said.detections.labels[sure])
            unsure = ~sure & (said.detections.scores >= 0.2)
            np.testing.assert_array_equal(truth.boxes.boxes_xyxy[~label], said.detections.boxes_xyxy[unsure])
            np.testing.assert_array_equal(truth.boxes.labels[~label], said.detections.labels[unsure])
            ignored += int(unsure.sum())
            sure = said.semantic_confidence >= 102
            np.testing.assert_array_equal(truth.semantic, np.where(sure, said.semantic, UNLABELED))
            sure = said.drivable_confidence >= np.where(said.drivable == 0, 179, 102)
            np.testing.assert_array_equal(truth.drivable, np.where(sure, said.drivable, UNLABELED))
            kept += int(label.sum())
        assert 0 < kept < kept + ignored < 4 * FRAMES

    def test_det_20_has_categories_and_scores(self, source, uninterrupted):
        entries = json.loads((uninterrupted[0] / "labels/det_20/det_train.json").read_text())
        assert [entry["name"] for entry in entries] == [source.image_path(i).name for i in range(FRAMES)]
        said = say(source, 0).detections
        label = entries[0]["labels"][0]
        assert label["category"] == DETECTION.names[said.labels[0]]
        assert label["score"] == round(float(said.scores[0]), 4)
        assert set(label["box2d"]) == {"x1", "y1", "x2", "y2"}

    def test_data_check_finds_no_error_in_it(self, uninterrupted):
        report = check_dataset(uninterrupted[0], workers=1, progress=False)
        assert report.errors == []
        assert report.splits["train"].annotated == dict.fromkeys(TASKS, FRAMES)

    def test_images_are_links_and_nothing_unfinished_stays(self, source, uninterrupted):
        folder = uninterrupted[0]
        link = folder / "images/100k/train"
        assert link.is_symlink()
        assert link.resolve() == (source.root / "images/100k/train").resolve()
        assert sorted(path.name for path in folder.iterdir()) == ["images", "labels", "pseudo.json", "pseudo.txt"]

    def test_only_the_frames_that_are_asked_for(self, source, tmp_path):
        teachers = [
            *make_teachers(source, frames=[4, 1], tasks=["detection"]),
            *make_teachers(source, frames=[], tasks=["semantic"]),
        ]
        report = write(source, tmp_path / "p", teachers=teachers)
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


class TestInterruption:
    def test_any_number_of_processes_gives_the_same_bytes(self, source, uninterrupted, tmp_path):
        reports = run_processes(source, tmp_path / "p", 3, config=PseudoConfig())
        assert reports == [uninterrupted[3]] * 3
        assert content(tmp_path / "p") == content(uninterrupted[2])

    @pytest.mark.parametrize("after", [0, 3, 20, 44])
    def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(self, source, uninterrupted, tmp_path, after):
        def stop():
            raise Stop

        folder = tmp_path / "p"
        with pytest.raises(Stop):
            write(source, folder, config=PseudoConfig(), teachers=make_teachers(source, stop_after=after, stop=stop))
        assert not (folder / "pseudo.json").exists()
        for path in (folder / "unfinished").glob("*.jsonl"):
            path.write_bytes(path.read_bytes() + b'{"frame":"frame-0')  # as if a line was cut off
        asked = []
        teachers = make_teachers(source, asked=asked)
        report = write(source, folder, config=PseudoConfig(), teachers=teachers, resume=True)
        total = sum(len(teacher.frames) for teacher in teachers) + len(teachers[0].trained_on)
        assert len(asked) == total - after
        assert report == uninterrupted[3]
        assert content(folder) == content(uninterrupted[2])

    def test_other_processes_go_on_with_what_was_stopped(self, source, uninterrupted, tmp_path):
        def stop():
            raise Stop

        with pytest.raises(Stop):
            write(source, tmp_path / "p", teachers=make_teachers(source, stop_after=15, stop=stop))
        run_processes(source, tmp_path / "p", 2, config=CONFIG, resume=True)
        assert content(tmp_path / "p") == content(uninterrupted[0])

    def test_a_process_that_was_killed(self, source, uninterrupted, tmp_path):
        code = (
            "import os, signal, sys\n"
            "from pathlib import Path\n"
            "from lvad_perception.bdd100k import open_split\n"
            "from test.training import test_pseudo_labels as here\n"
            "split = open_split(Path(sys.argv[1]), 'train')\n"
            "kill = lambda: os.kill(os.getpid(), signal.SIGKILL)\n"
            "here.write(split, Path(sys.argv[2]), teachers=here.make_teachers(split, stop_after=17, stop=kill))\n"
        )
        root = Path(__file__).resolve().parents[2]
        command = [sys.executable, "-c", code, str(source.root), str(tmp_path / "p")]
        environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
        killed = subprocess.run(command, cwd=root, env=environment, capture_output=True, timeout=200, check=False)
        assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
        asked = []
        write(source, tmp_path / "p", teachers=make_teachers(source, asked=asked), resume=True)
        assert len(asked) == 3 * FRAMES - 17
        assert content(tmp_path / "p") == content(uninterrupted[0])

    def test_what_is_finished_is_not_done_again(self, source, uninterrupted, tmp_path):
        folder = tmp_path / "p"
        shutil.copytree(uninterrupted[0], folder, symlinks=True)
        (folder / "unfinished").mkdir()  # killed while this was removed
        before = content(folder)
        asked = []
        assert write(source, folder, teachers=make_teachers(source, asked=asked), resume=True) == uninterrupted[1]
        assert asked == []
        assert content(folder) == before
        assert not (folder / "unfinished").exists()

    def test_without_resume_nothing_old_stays(self, source, uninterrupted, tmp_path):
        folder = tmp_path / "p"
        shutil.copytree(uninterrupted[0], folder, symlinks=True)
        (folder / "stage.json").write_text("{}")
        write(source, folder, teachers=make_teachers(source, frames=[2], tasks=["semantic"]))
        masks = [path.name for path in folder.rglob("*.png") if "images" not in path.parts]
        assert masks == ["frame-002.png"]
        assert not (folder / "labels/det_20").exists()
        assert (folder / "stage.json").read_text() == "{}"
        assert len(list(source.root.glob("images/100k/train/*.png"))) == FRAMES

    def test_a_removal_that_was_interrupted_is_done_again(self, source, uninterrupted, tmp_path):
        folder = tmp_path / "p"
        shutil.copytree(uninterrupted[0], folder, symlinks=True)
        (folder / "unfinished").mkdir()
        (folder / "unfinished/settings.json").write_text("{}")
        write(source, folder, teachers=make_teachers(source, frames=[2], tasks=["semantic"]), resume=True)
        assert not (folder / "labels/det_20").exists()


def run_processes(split, folder, count, **options):
    """Write with ``count`` threads in the place of processes."""
    barrier = threading.Barrier(count, timeout=60)
    reports = [None] * count

    def work(index):
        reports[index] = write(split, folder, process=index, processes=count, wait=barrier.wait, **options)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return reports


class TestThresholds:
    def test_auto_looks_at_the_images_that_the_teacher_learned(self, uninterrupted, source):
        chosen = {name: one.threshold for name, one in uninterrupted[3].tasks["detection"].classes.items()}
        assert {name for name, threshold in chosen.items() if threshold is not None} <= set(DETECTION.names[:4])
        assert any(threshold is not None for threshold in chosen.values())
        scores = np.concatenate([say(source, i).detections.scores for i in range(FRAMES)])
        assert all(
            np.isclose(scores, threshold).any() for threshold in chosen.values() if threshold not in (None, 0.95)
        )

    def test_a_teacher_that_knows_no_class_labels_no_frame(self, source, tmp_path):
        def blind(indices):
            nothing = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int32))
            for index in indices:
                yield ConfidentPredictions(source.name_of(index), (72, 96), nothing, None, None, None, None)

        teacher = Teacher(task="detection", identity="blind", predict=blind, frames=ALL, trained_on=[0, 1])
        report = write(source, tmp_path / "p", config=PseudoConfig(), teachers=[teacher])
        assert report.tasks["detection"].frames == 0
        assert "none" in report.to_text()
        assert not open_split(tmp_path / "p", "train").annotated_for("detection").any()


class TestBadInput:
    def test_labels_of_another_teacher_are_not_continued(self, source, uninterrupted, tmp_path):
        folder = tmp_path / "p"
        shutil.copytree(uninterrupted[0], folder, symlinks=True)
        with pytest.raises(ConfigError, match=r"made with other settings \(in thresholds\); start them anew"):
            write(source, folder, config=PseudoConfig(box_score=0.5), resume=True)
        with pytest.raises(ConfigError, match=r"made with other settings \(in teachers\)"):
            write(source, folder, teachers=make_teachers(source, frames=[1]), resume=True)

    @pytest.mark.parametrize("resume", [False, True])
    def test_a_data_set_is_never_overwritten(self, source, resume):
        before = content(source.root)
        with pytest.raises(ConfigError, match=r"holds images/ that are no pseudo labels; choose another folder"):
            write(source, source.root, resume=resume)
        assert content(source.root) == before

    def test_teachers(self, source, tmp_path):
        twice = make_teachers(source, tasks=["semantic", "semantic"])
        with pytest.raises(ConfigError, match="teachers of semantic, semantic: give one for each"):
            write(source, tmp_path, teachers=twice)
        with pytest.raises(ConfigError, match="teachers of no task"):
            write(source, tmp_path, teachers=[])
        teacher = Teacher(task="detection", identity="x", predict=lambda _: (), frames=[0])
        with pytest.raises(ConfigError, match="box_score is auto but the teacher of detection has no training images"):
            write(source, tmp_path, teachers=[teacher], config=PseudoConfig())
        teacher = Teacher(
            task="detection", identity="x", predict=lambda _: [say(source, 3)], frames=[0], trained_on=[3]
        )
        with pytest.raises(ConfigError, match="frame-003 is not annotated for detection"):
            write(source, tmp_path, teachers=[teacher], config=PseudoConfig())
        with pytest.raises(IndexError, match="must lie in 0 to 11"):
            write(source, tmp_path, teachers=make_teachers(source, frames=[12]))

    @pytest.mark.parametrize("task", list(TASKS))
    def test_a_teacher_without_the_head(self, source, tmp_path, task):
        def predict(indices):
            return (say(source, index, tasks=()) for index in indices)

        teacher = Teacher(task=task, identity="x", predict=predict, frames=[0])
        with pytest.raises(CheckpointError, match=f"the teacher of {task} has no head for it"):
            write(source, tmp_path / "p", teachers=[teacher])

    @pytest.mark.parametrize("answer", [[], [1], [0, 1]])
    def test_a_teacher_that_answers_something_else(self, source, tmp_path, answer):
        teacher = Teacher(task="semantic", identity="x", predict=lambda _: [say(source, i) for i in answer], frames=[0])
        with pytest.raises(ValueError, match=r"zip|asked for frame-000, the teacher predicted frame-001"):
            write(source, tmp_path / "p", teachers=[teacher])

    def test_a_damaged_journal(self, source, tmp_path):
        def stop():
            raise Stop

        with pytest.raises(Stop):
            write(source, tmp_path / "p", teachers=make_teachers(source, stop_after=5, stop=stop))
        journal = tmp_path / "p/unfinished/detection.0.jsonl"
        lines = journal.read_bytes().splitlines(keepends=True)
        journal.write_bytes(b"".join([lines[0], b"\0\0\n", *lines[1:]]))
        with pytest.raises(DatasetError, match=r"detection.0.jsonl: line 2 is damaged .*delete the file"):
            write(source, tmp_path / "p", resume=True)
        journal.unlink()
        write(source, tmp_path / "p", resume=True)

    @pytest.mark.parametrize("text", ["{", "[]", '{"report": 3}'])
    def test_a_damaged_report(self, source, uninterrupted, tmp_path, text):
        folder = tmp_path / "p"
        shutil.copytree(uninterrupted[0], folder, symlinks=True)
        (folder / "pseudo.json").write_text(text)
        with pytest.raises(DatasetError, match=r"pseudo.json cannot be read .*; start the pseudo labels anew"):
            write(source, folder, resume=True)
        assert write(source, folder) == uninterrupted[1]

    def test_a_folder_that_cannot_be_made(self, source, tmp_path):
        (tmp_path / "file").write_text("x")
        with pytest.raises(DatasetError, match=r"file/p cannot be written \(Not a directory\)"):
            write(source, tmp_path / "file/p")

    def test_no_links(self, source, tmp_path, monkeypatch):
        def refuse(*_, **__):
            raise OSError(1, "Operation not permitted")

        monkeypatch.setattr(Path, "symlink_to", refuse)
        with pytest.raises(DatasetError, match=r"cannot be made a link to .*a file system that has symbolic links"):
            write(source, tmp_path / "p")

    def test_a_full_disk(self, source, tmp_path, monkeypatch):
        def fail(*_, **__):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(PIL.Image.Image, "save", fail)
        with pytest.raises(DatasetError, match=r"frame-000.png cannot be written \(No space left.*free space"):
            write(source, tmp_path / "p", teachers=make_teachers(source, tasks=["semantic"]))

    def test_bad_images_and_bad_truth_are_named(self, make_split, tmp_path):
        root = make_split(tmp_path / "source", split="train", frames=2)
        split = open_split(root, "train")
        PIL.Image.fromarray(np.zeros((5, 5), np.uint8)).save(root / "labels/sem_seg/masks/train/frame-001.png")
        with pytest.raises(LabelError, match=r"frame-001.png is 5x5 and its image 96x72"):
            write(split, tmp_path / "p", teachers=make_teachers(split, frames=[1]))
        (root / "images/100k/train/frame-000.png").write_bytes(b"")
        with pytest.raises(ImageError, match=r"frame-000.png is empty"):
            write(split, tmp_path / "q", teachers=make_teachers(split, frames=[0]))


def test_progress_is_shown_by_the_first_process_alone(source, tmp_path, capsys):
    write(source, tmp_path / "p", progress=True)
    shown = capsys.readouterr().err
    assert all(f"pseudo-label {task}: 100%" in shown for task in TASKS)
    assert "12/12" in shown
    write(source, tmp_path / "q", progress=False)
    assert capsys.readouterr().err == ""
