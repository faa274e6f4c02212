"""``lvad-train data check`` on nuImages: what is there, and each thing that can be wrong with its sentence."""

import io
import json

import cv2
import numpy as np
import pytest

from lvad_training.cli import main
from lvad_training.data.check import check_dataset, print_report

from .nuimages_tree import NuTree, area, street, token

pytest.importorskip("pycocotools", reason="pycocotools, which makes the masks, is not installed")


def check(root, workers=1):
    return check_dataset(root, workers=workers, progress=False)


def found(report):
    """(severity, file name, message) of every problem."""
    return [(problem.severity, problem.file.rsplit("/", 1)[-1], problem.message) for problem in report.problems]


def test_a_sound_tree_is_counted(tmp_path, capsys):
    street(tmp_path, images=4).write()
    street(tmp_path, "v1.0-mini", images=1).write()
    report = check(tmp_path, workers=2)
    assert found(report) == []
    counts = report.splits["train"]
    assert (counts.images, counts.annotated) == (4, {"detection": 4, "semantic": 4, "drivable": 0})
    assert counts.boxes.tolist() == [4, 0, 0, 0, 0, 4, 0, 0, 0, 0]
    stream = io.StringIO()
    print_report(report, stream)
    text = stream.getvalue()
    shares = {line.split()[0]: line.split()[-1] for line in text.splitlines() if line.split()}
    assert shares["(unlabelled)"] == "8.33"  # the ego vehicle, five of sixty rows
    assert "driveable_surface" in text
    assert "drivable" not in text
    assert text.endswith("0 errors, 0 warnings: training can use this data set\n")
    assert main(["data", "check", str(tmp_path), "--workers", "1"]) == 0
    assert "construction_vehicle" in capsys.readouterr().out


def test_missing_images_are_reported_once(tmp_path):
    root = street(tmp_path, images=8).write()
    names = [path.name for path in sorted(root.glob("samples/CAM_FRONT/*.jpg"))]
    for path in root.glob("samples/*/*.jpg"):
        path.unlink()
    ((severity, file, message),) = found(check(root))
    assert (severity, file) == ("error", "samples")
    assert message.startswith("8 images of 8 in split 'train' not there: n003-")
    assert message.endswith("and 3 more; unpack nuimages-v1.0-all-samples.tgz (or -mini.tgz) there")
    assert names
    assert main(["data", "check", str(root)]) == 1


def test_what_stops_training_is_an_error(tmp_path):
    tree = street(tmp_path)
    bad = tree.tables["object_ann"][0]
    bad["mask"]["counts"] = "***"
    root = tree.write()
    resized, broken = (path for path in sorted(root.glob("samples/*/*.jpg")) if "__1000" not in path.name)
    cv2.imwrite(str(resized), np.zeros((30, 40, 3), np.uint8))
    broken.write_bytes(b"no image")
    report = check(root)
    assert len(report.errors) == len(report.problems) == 3
    messages = [message for _, _, message in found(report)]
    assert any(f"{bad['token']} of n003" in message and "no run lengths in base64" in message for message in messages)
    assert any("is 40x30 and sample_data states 80x60" in message for message in messages)
    assert main(["data", "check", str(root)]) == 1


def test_a_missing_table_is_an_error(tmp_path):
    root = street(tmp_path).write()
    (root / "v1.0-train/calibrated_sensor.json").unlink()
    (problem,) = check(root).errors
    assert "split 'train' cannot be opened" in problem.message
    assert "lacks calibrated_sensor.json; unpack nuimages-v1.0-all-metadata.tgz" in problem.message


def test_what_is_tolerated_is_a_warning(tmp_path):
    tree = NuTree(tmp_path)
    image = tree.image(1)
    tree.thing(image, "vehicle.car", area(0, 0, 9, 9))
    lost = [tree.thing(token("nowhere"), "vehicle.car", area(0, 0, 9, 9))["token"] for _ in range(7)]
    vague = tree.thing(image, "vehicle.spaceship", area(20, 20, 30, 30))["token"]
    flat = tree.thing(image, "vehicle.truck", area(0, 0, 5, 5), bbox=[7, 5, 7, 15])["token"]
    tree.tables["category"].append({"token": token("category", "vehicle.tram"), "name": "vehicle.tram"})
    tree.surface(image, "vehicle.tram", area(40, 40, 50, 50))
    tree.tables["sample"][0]["log_token"] = token("no log")
    tree.tables["sample_data"][0]["calibrated_sensor_token"] = token("no sensor")
    report = check(tree.write())
    assert report.errors == []
    assert sorted(found(report)) == [
        (
            "warning",
            "category.json",
            "unknown category 'vehicle.tram' of 1 annotation; skipped, their pixels unlabelled",
        ),
        (
            "warning",
            "object_ann.json",
            f"1 box without area: {flat}; skipped",
        ),
        (
            "warning",
            "object_ann.json",
            f"1 object whose category_token leads to no category: {vague}; no object, and their pixels unlabelled",
        ),
        (
            "warning",
            "object_ann.json",
            f"7 objects whose sample_data_token leads to no key frame of a camera: {', '.join(lost[:5])} and 2 more; "
            "not used",
        ),
        (
            "warning",
            "sample.json",
            f"1 sample whose log_token leads to no log: {tree.tables['sample'][0]['token']}; their place is unknown",
        ),
        (
            "warning",
            "sample_data.json",
            f"1 image whose calibrated_sensor_token leads to no sensor: {image}; data.cameras does not find them",
        ),
    ]


def test_a_frame_in_two_splits_is_reported_except_for_the_mini_version(tmp_path):
    for version in ("v1.0-train", "v1.0-val", "v1.0-mini"):
        street(tmp_path, version, images=1).write()
    ((severity, _, message),) = found(check(tmp_path))
    assert severity == "warning"
    assert message.startswith("1 frame in both 'train' and 'val': n003-")


def test_the_test_version_alone_is_nothing_to_learn_from(tmp_path):
    tree = NuTree(tmp_path, "v1.0-test")
    tree.image(1)
    (problem,) = check(tree.write()).errors
    assert problem.message.startswith("no image is annotated")
    assert json.loads((tmp_path / "v1.0-test/object_ann.json").read_text()) == []
