"""Training frames: which files of a folder are images, and how frames are extracted from videos."""

import cv2
import numpy as np
import pytest

from lvad_perception.errors import ConfigError, DatasetError, ImageError
from lvad_perception.media.images import read_image
from lvad_perception.media.video import write_video
from lvad_training.pretrain import frames as module
from lvad_training.pretrain.frames import find_frames
from lvad_training.pretrain.recipe import FramesConfig


def write_images(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(root / name), np.zeros((8, 8, 3), np.uint8))


def write_drive(path, count=50, fps=10):
    """A video of five seconds whose brightness tells the frame."""
    pytest.importorskip("av")
    write_video(path, (np.full((64, 96, 3), 5 * index, np.uint8) for index in range(count)), fps)


def names(root, keep, **settings):
    return [frame.name for frame in find_frames(FramesConfig(root=str(root), **settings), keep)]


def test_images_at_any_depth_are_frames_and_masks_and_hidden_files_are_not(tmp_path):
    write_images(tmp_path, "b.jpg", "a/c.PNG", "a/b/d.webp", "labels/sem_seg/a.png", ".cache/a.png", ".hidden.png")
    (tmp_path / "a/notes.txt").touch()
    assert names(tmp_path, tmp_path / "keep") == ["a/b/d.webp", "a/c.PNG", "b.jpg"]
    found = find_frames(FramesConfig(root=str(tmp_path)), tmp_path / "keep")
    assert [frame.sequence for frame in found] == ["a/b", "a", "."]
    assert not (tmp_path / "keep").exists()


def test_frames_are_selected_by_the_beginning_of_their_path(tmp_path):
    write_images(tmp_path, "day/a.png", "day/b.png", "night/a.png")
    assert names(tmp_path, tmp_path, only=("day",)) == ["day/a.png", "day/b.png"]
    assert names(tmp_path, tmp_path, exclude=("day/a", "night")) == ["day/b.png"]


def test_videos_give_frames_at_the_configured_rate_and_size(tmp_path):
    write_drive(tmp_path / "drives/one.mp4")
    config = FramesConfig(root=str(tmp_path / "drives"), fps=2, short_side_px=32)
    found = find_frames(config, tmp_path / "keep")
    assert [frame.name for frame in found] == [f"one.mp4@{stamp}" for stamp in range(0, 5000, 500)]
    assert {frame.sequence for frame in found} == {"one.mp4"}
    images = [read_image(frame.path) for frame in found]
    assert images[0].shape == (32, 48, 3)
    assert [round(image.mean() / 25) for image in images] == list(range(10))


def test_a_video_alone_and_beside_images(tmp_path):
    write_drive(tmp_path / "one.mp4")
    write_images(tmp_path, "z.png")
    assert names(tmp_path / "one.mp4", tmp_path / "keep", fps=0.4) == ["one.mp4@0", "one.mp4@2500"]
    write_images(tmp_path, "run/picture.png")
    config = FramesConfig(root=str(tmp_path), fps=0.4)
    found = find_frames(config, tmp_path / "elsewhere", skip=[tmp_path / "run"])  # and nothing that was kept
    assert [frame.name for frame in found] == ["one.mp4@0", "one.mp4@2500", "z.png"]


def test_frames_are_extracted_once_and_again_after_an_interruption(tmp_path, monkeypatch):
    write_drive(tmp_path / "one.mp4")
    whole = names(tmp_path / "one.mp4", tmp_path / "keep")
    decoded = []
    original = module.read_video

    def read(path, stop=99):
        decoded.append(path)
        for count, frame in enumerate(original(path)):
            if count == stop:
                raise KeyboardInterrupt
            yield frame

    monkeypatch.setattr(module, "read_video", read)
    assert names(tmp_path / "one.mp4", tmp_path / "keep") == whole
    assert decoded == []
    monkeypatch.setattr(module, "read_video", lambda path: read(path, stop=20))
    with pytest.raises(KeyboardInterrupt):
        names(tmp_path / "one.mp4", tmp_path / "other")
    monkeypatch.setattr(module, "read_video", read)
    assert names(tmp_path / "one.mp4", tmp_path / "other") == whole
    assert len(decoded) == 2
    assert len(names(tmp_path / "one.mp4", tmp_path / "other", fps=1)) == 5  # another rate is taken anew
    assert len(decoded) == 3


def test_a_folder_without_frames_and_a_broken_video_are_named(tmp_path):
    (tmp_path / "labels").mkdir()
    with pytest.raises(
        DatasetError, match=r"no image \(.*\.jpg.*\) or video \(.*\.mp4.*give another folder with --data"
    ):
        names(tmp_path, tmp_path)
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    pytest.importorskip("av")
    with pytest.raises(ImageError, match=r"broken\.mp4 is not a video that FFmpeg can read"):
        names(tmp_path, tmp_path / "keep")


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    write_drive(tmp_path / "one.mp4")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"frames cannot be kept .*choose another data\.frames"):
        names(tmp_path / "one.mp4", tmp_path / "file")
