import io

import numpy as np
import PIL.Image
import pytest

from lvad_perception.errors import DatasetError
from lvad_training.data.check import check_dataset, print_report


def check(root, workers=1):
    return check_dataset(root, workers=workers, progress=False)


def text_of(report):
    stream = io.StringIO()
    print_report(report, stream)
    return stream.getvalue()


def found(report):
    """(severity, file name, message) of every problem."""
    return [(problem.severity, problem.file.rsplit("/", 1)[-1], problem.message) for problem in report.problems]


@pytest.fixture
def sound(tree):
    """Three frames, two of them with boxes and one with masks."""
    for name in "abc":
        tree.image(name)
    tree.detections({"a": [("car", 1, 2, 5, 6), ("trailer", 1, 1, 9, 9)], "b": []})
    semantic = np.zeros((24, 32))
    semantic[:6] = 255
    tree.mask("labels/sem_seg/masks/train/c.png", semantic)
    tree.mask("labels/drivable/masks/train/c.png", np.full((24, 32), 2))
    return tree


def test_a_sound_data_set_is_counted(sound):
    report = check(sound.root)
    assert found(report) == []
    counts = report.splits["train"]
    assert counts.images == 3
    assert counts.annotated == {"detection": 2, "semantic": 1, "drivable": 1}
    assert counts.boxes.tolist() == [0, 0, 1, 0, 0, 0, 0, 0, 0, 0]
    assert counts.crowds == 1
    assert counts.semantic_pixels[[0, -1]].tolist() == [18 * 32, 6 * 32]
    assert counts.drivable_pixels.tolist() == [0, 0, 24 * 32, 0]
    text = text_of(report)
    assert "0 errors, 0 warnings: training can use this data set" in text
    assert [line.split()[-1] for line in text.splitlines() if line.startswith("road")] == ["75.00"]


def test_parallel_and_serial_reports_are_equal(sound):
    for i in range(40):
        sound.image(f"more-{i:02d}", split="val")
    sound.detections({f"more-{i:02d}": [("bus", 1, 2, 99, 6)] for i in range(40)}, split="val")
    serial, parallel = check(sound.root), check(sound.root, workers=2)
    assert text_of(serial) == text_of(parallel)
    assert len(serial.problems) == 40


def test_files_that_stop_training_are_errors(sound):
    image = sound.image("d")
    image.write_bytes(image.read_bytes()[:-30])
    sound.detections({"a": [("car", 1, 2, 5, 6)], "d": []})
    sound.mask("labels/sem_seg/masks/train/a.png", np.full((24, 32), 77))
    sound.mask("labels/sem_seg/masks/train/b.png", np.zeros((12, 16)))
    sound.mask("labels/drivable/masks/train/b.png", np.zeros((24, 32))).write_bytes(b"not a mask")
    report = check(sound.root)
    assert sorted(file for _, file, _ in found(report)) == ["a.png", "b.png", "b.png", "d.jpg"]
    assert report.errors == report.problems
    text = text_of(report)
    assert "a.png: holds the id 77, which no semantic class has" in text
    assert "b.png: is 16x12 and its image 32x24" in text
    assert "b.png: is not an image" in text
    assert "d.jpg: is a truncated image" in text
    assert "4 errors, 0 warnings: training would fail" in text


def test_what_is_tolerated_is_a_warning(sound):
    sound.image("bare")
    sound.mask("labels/sem_seg/masks/train/ghost.png", np.zeros((24, 32)))
    sound.mask("labels/sem_seg/masks/train/a.png", np.full((24, 32), 255))
    sound.mask("labels/sem_seg/masks/elsewhere/a.png", np.zeros((24, 32)))
    sound.json("labels/det_20/det_elsewhere.json", [])
    sound.detections(
        {
            "a": [("car", -9, 2, 5, 6), ("car", 40, 2, 50, 6), ("spaceship", 1, 1, 2, 2), ("bus", 9, 9, 3, 9)],
            "spirit": [],
        }
    )
    sound.image("a", split="val")
    warnings = {(file, message) for severity, file, message in found(check(sound.root)) if severity == "warning"}
    assert warnings == {
        ("train", "2 images without annotation: b, bare; not trained on"),
        ("train", "1 mask without image: ghost; not used"),
        ("a.png", "only 0.0 % of its pixels are labelled; is it a semantic mask, not one of lanes?"),
        ("elsewhere", "not used: its name fits no split of the images; rename it or the image folder"),
        ("det_elsewhere.json", "not used: its name fits no split of the images; rename it or the image folder"),
        ("det_train.json", "1 entry without image: spirit; not used"),
        ("det_train.json", "unknown category 'spaceship' of 1 label; skipped"),
        ("det_train.json", "entry a: 1 without area among its boxes; skipped"),
        (
            "a.jpg",
            "2 of 2 boxes leave the image (32x24) by up to 19.0 px; clipped, 1 left out as nothing of them is inside",
        ),
        ("bdd100k", "1 frame in both 'train' and 'val': a; scores on the one flatter when the other was trained on"),
        (
            "val",
            "1 image without annotation: a; not trained on, and a model that has split 'val' as data.val_split is "
            "trained but not evaluated; bring the split's labels or name another split",
        ),
    }
    assert check(sound.root).errors == []


def test_repeated_and_shapeless_entries_are_warnings(sound):
    entry = {"name": "a.jpg", "labels": [{"category": "car"}]}
    sound.json("labels/det_20/det_train.json", [entry, entry])
    messages = [message for _, _, message in found(check(sound.root))]
    assert "listed more than once: a; the first entry counts" in messages
    assert "1 label without box or shape; skipped" in messages


def test_an_unreadable_image_that_training_never_opens_is_a_warning(sound):
    sound.image("bare").write_bytes(b"no image")
    assert ("warning", "bare.jpg", "cannot be decoded as an image; replace it or leave it out") in found(
        check(sound.root)
    )


def test_damaged_jpeg_data_are_a_warning(sound):
    pytest.importorskip("simplejpeg", reason="simplejpeg is not installed")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    import cv2

    data = bytearray(cv2.imencode(".jpg", noise)[1].tobytes())
    middle = len(data) // 2
    data[middle : middle + 100] = bytes(100)
    path = sound.image("a")
    path.write_bytes(data)
    (problem,) = (problem for problem in check(sound.root).problems if "damaged" in problem.message)
    assert problem.severity == "warning"
    assert problem.file == str(path)


def test_unreadable_label_file_is_an_error(sound):
    sound.detections({}).write_text("[{")
    report = check(sound.root)
    assert [severity for severity, _, _ in found(report)] == ["error"]
    assert "split 'train' cannot be opened: " in report.problems[0].message
    assert "det_train.json is not valid JSON" in text_of(report)


def test_without_any_label_there_is_nothing_to_check(tree, tmp_path):
    tree.image("a")
    with pytest.raises(DatasetError, match="has images but no labels for them; unpack BDD100K's labels under"):
        check(tree.root)
    with pytest.raises(DatasetError, match="nowhere is not a folder"):
        check(tmp_path / "nowhere")


def test_labels_that_fit_no_image_are_an_error(tree):
    tree.image("a")
    tree.detections({"ghost": [("car", 1, 2, 5, 6)]})
    report = check(tree.root)
    assert [problem.message for problem in report.errors] == [
        "no image is annotated, so training has nothing to learn; bring labels of the same frames"
    ]


def test_real_sets_are_sound(shared_data):
    camvid = check(shared_data / "camvid-bdd", workers=2)
    assert camvid.problems == []
    assert [counts.images for counts in camvid.splits.values()] == [367, 101]
    assert int(camvid.splits["train"].boxes.sum()) == 4697
    samples = check(shared_data / "bdd-samples", workers=2)
    assert samples.errors == []
    assert [message.split(":")[0] for _, _, message in found(samples)] == [
        "7 images without annotation",
        "10 images without annotation",
        "7 images without annotation",
    ]


def test_names_in_another_unicode_form_are_reported_as_that(tree):
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    tree.image(decomposed)
    tree.detections({composed: [("car", 1, 2, 5, 6)], "ghost": []})
    tree.mask(f"labels/drivable/masks/train/{composed}.png", np.full((24, 32), 2))
    messages = [(file, message) for _, file, message in found(check(tree.root))]
    remedy = "bring names to one form, as convmv -r -f utf8 -t utf8 --nfc --notest does"
    form = f"in another Unicode form (NFC or NFD) than the image's file name: {composed}; not used: {remedy}"
    assert ("det_train.json", f"1 entry {form}") in messages
    assert ("train", f"1 mask {form}") in messages
    assert ("det_train.json", "1 entry without image: ghost; not used") in messages


def test_label_files_that_are_passed_over_are_warnings(sound):
    sound.json("labels/det_20/det_train-orig.json", [{"name": "c.jpg", "labels": []}])
    sound.json("labels/det_20/det_train_coco.json", {"images": [], "annotations": []})
    sound.json("labels/det_20/annotations.xml", [])
    sound.image("a", suffix=".png")
    warnings = found(check(sound.root))
    assert ("warning", "det_train_coco.json", "COCO's format, no label file of BDD100K; not used") in warnings
    copied = "a copy by its name; det_train.json counts, so it is not used"
    assert ("warning", "det_train-orig.json", copied) in warnings
    odd = "1 file of an ending that is not read here: annotations.xml; not used"
    assert ("warning", "det_20", odd) in warnings
    assert ("warning", "train", "several images of one name: a.png not used") in warnings
    assert len(warnings) == 4


def test_labels_of_another_format_alone_are_not_reported_as_absent(tree):
    tree.image("a")
    tree.json("labels/det_20/det_train_coco.json", {"images": [], "annotations": []})
    assert [severity for severity, _, _ in found(check(tree.root))] == ["error", "warning", "warning"]
    (tree.root / "labels/det_20/det_train_coco.json").unlink()
    with pytest.raises(DatasetError, match="has images but no labels for them"):
        check(tree.root)


def test_an_exif_orientation_is_named(sound):
    path = sound.image("a", size_hw=(24, 32))
    exif = PIL.Image.Exif()
    exif[0x0112] = 8
    PIL.Image.open(path).save(path, exif=exif)
    (warning,) = found(check(sound.root))
    assert warning[:2] == ("warning", "a.jpg")
    assert warning[2].startswith(
        "its EXIF orientation 8 is not applied, so labels have to be for the stored 32x24 pixels;"
    )


def test_odd_masks_are_reported(sound):
    sound.mask("labels/sem_seg/masks/train/b.jpg", np.zeros((24, 32)))
    jpeg = (sound.root / "labels/sem_seg/masks/train/b.jpg").read_bytes()
    (sound.root / "labels/sem_seg/masks/train/a.png").write_bytes(jpeg)
    sound.mask("labels/sem_seg/masks/train/c.PNG", np.zeros((24, 32)))
    problems = found(check(sound.root))
    assert (
        "error",
        "a.png",
        "holds JPEG data, whose compression changes ids; save the mask as PNG, from its origin",
    ) in problems
    assert ("warning", "train", "masks of both .png and .PNG: c; .png counts") in problems
    assert ("warning", "train", "1 file of an ending that is not read here: b.jpg; not used") in problems
