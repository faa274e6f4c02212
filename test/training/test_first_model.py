"""The page on a first model: its commands work in this order, on files with the published names and tensor names."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch

from lvad_perception.bags.reader import open_bag
from lvad_perception.cli import main as perception
from lvad_perception.engines import open_engine
from lvad_perception.media.video import read_video, write_video
from lvad_perception.vocabulary import TASKS
from lvad_training.cli import main as training

from .zoo_files import mmdet_sparse_rcnn, mmseg_semantic_fpn

pytest.importorskip("onnxscript", reason="the extra export is not installed")
pytest.importorskip("av", reason="the extra video is not installed")

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "first-model.md").read_text(encoding="utf-8")
PROGRAMS = {"lvad-train": training, "lvad-perception": perception}
PUBLISHED = {
    "sparse_rcnn_r50_fpn_3x_det_bdd100k.pth": mmdet_sparse_rcnn,
    "fpn_r50_gn_512x1024_80k_sem_seg_bdd100k.pth": mmseg_semantic_fpn,
    "fpn_r50_gn_512x1024_80k_drivable_bdd100k.pth": lambda: mmseg_semantic_fpn(3),
}


def commands():
    """The command lines of our programs in the page's code blocks, in their order."""
    blocks = re.findall(r"^```bash\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    return [shlex.split(line) for line in lines if line.startswith(tuple(PROGRAMS))]


def test_the_downloads_are_the_files_that_are_imported():
    downloaded = re.findall(r"^curl -fLO \$zoo/(?:det|sem_seg|drivable)/models/(\S+)$", PAGE, flags=re.MULTILINE)
    imported = [words[2] for words in commands() if words[1] == "import"]
    assert downloaded == imported == list(PUBLISHED)
    assert all(
        f"bdd100k/{place}/models/{name})" in PAGE
        for place, name in zip(("det", "sem_seg", "drivable"), PUBLISHED, strict=True)
    )


@pytest.mark.slow
def test_the_commands_lead_to_boxes_and_masks_on_a_video(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, make in PUBLISHED.items():
        torch.save({"meta": {}, "state_dict": make(), "optimizer": {}}, name)
    coarse = np.random.default_rng(0).integers(0, 256, (25, 9, 16, 3), np.uint8)
    write_video(Path("drive.mp4"), coarse.repeat(10, axis=1).repeat(10, axis=2), 25)
    for program, command, *words in commands():
        if command == "distil":  # trains for hours; test_distil.py runs it small
            continue
        small = ["--set", "model.network_hw=[64,128]"] if command == "import" else []
        assert PROGRAMS[program]([command, *words, *small]) == 0, shlex.join([program, command, *words])
    said = capsys.readouterr().out
    assert re.findall(r"task (\w+); all \d+ tensors have their place", said) == ["detection", "semantic", "drivable"]
    assert "model.onnx: " in said
    assert "ONNX Runtime agrees with torch on 3 images" in said
    assert set(open_engine(Path("model.onnx"), threads=1).manifest.classes) == set(TASKS)
    frames = [frame for _, frame in read_video(Path("overlay.mp4"))]
    assert [frame.shape for frame in frames] == 25 * [(90, 160, 3)]
    with open_bag(Path("predicted")) as bag:
        topics = {connection.topic for connection in bag.connections}
    assert {"/camera/detections", "/camera/segmentation", "/camera/drivable_area"} <= topics
