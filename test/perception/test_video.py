import logging
import struct
from pathlib import Path

import numpy as np
import pytest

from lvad_perception.errors import ConfigError, ImageError
from lvad_perception.media.video import read_video, write_video

av = pytest.importorskip("av")


def moving_scene(count, size_hw=(64, 96)):
    height, width = size_hw
    for place in range(count):
        frame = np.zeros((height, width, 3), np.uint8)
        frame[..., 1] = 60
        frame[: height // 2, :, 2] = 200
        frame[10:30, 8 * place : 8 * place + 20] = (220, 40, 30)
        yield frame


@pytest.mark.parametrize("size_hw", [(64, 96), (63, 97), (37, 41), (2, 2)])
def test_round_trip_keeps_frames_colours_and_time(tmp_path, size_hw):
    path = tmp_path / "drive.mp4"
    frames = list(moving_scene(8, size_hw))
    assert write_video(path, iter(frames), 10) == 8

    seen = list(read_video(path))

    assert [stamp for stamp, _ in seen] == [100_000_000 * place for place in range(8)]
    height, width = size_hw
    for (_, image), frame in zip(seen, frames, strict=True):
        assert image.shape == (height + height % 2, width + width % 2, 3)
        assert image.dtype == np.uint8
        if height > 30:
            assert np.abs(image[:height, :width].astype(int) - frame).mean() < 6


def test_frames_are_shown_at_their_times(tmp_path):
    times = [0, 33_000_000, 500_000_000, 533_000_000]
    assert write_video(tmp_path / "drive.mp4", moving_scene(4), 30, times_ns=times) == 4
    seen = [stamp for stamp, _ in read_video(tmp_path / "drive.mp4")]
    np.testing.assert_allclose(seen, times, atol=1e9 / 90_000)


def test_colours_survive_exactly_enough_on_flat_frames(tmp_path):
    path = tmp_path / "flat.mp4"
    for color in ((255, 0, 0), (0, 255, 0), (0, 0, 255), (128, 64, 128), (250, 250, 250)):
        write_video(path, [np.full((64, 64, 3), color, np.uint8)] * 2, 5)
        (_, image), *_ = read_video(path)
        assert np.abs(image.reshape(-1, 3).mean(0) - color).max() < 5, color


def noisy_scene(count):
    rng = np.random.default_rng(0)
    for _ in range(count):
        yield rng.integers(0, 256, (64, 96, 3), dtype=np.uint8)


def test_frames_are_taken_one_at_a_time(tmp_path):
    """A generator of more frames than would be wise to keep is never ahead of the encoder."""
    alive = []

    def frames():
        for frame in moving_scene(40):
            alive.append(1)
            yield frame
            alive.pop()
            assert not alive

    assert write_video(tmp_path / "drive.mp4", frames(), 25) == 40


def test_reading_is_lazy(tmp_path):
    write_video(tmp_path / "drive.mp4", moving_scene(20), 25)
    frames = read_video(tmp_path / "drive.mp4")
    stamp_ns, image = next(frames)
    assert stamp_ns == 0
    assert image.shape == (64, 96, 3)
    frames.close()


def test_fractional_rates_keep_their_time_line(tmp_path):
    write_video(tmp_path / "ntsc.mp4", moving_scene(5), 30000 / 1001)
    stamps = [stamp for stamp, _ in read_video(tmp_path / "ntsc.mp4")]
    assert stamps == pytest.approx([place * 1001 / 30000 * 1e9 for place in range(5)], abs=1e5)


def test_frames_of_another_size_are_fitted_into_the_first_one(tmp_path):
    frames = [np.full((64, 96, 3), 200, np.uint8), np.full((32, 96, 3), 200, np.uint8)]
    write_video(tmp_path / "mixed.mp4", frames, 5)
    _, (_, second) = read_video(tmp_path / "mixed.mp4")
    assert second.shape == (64, 96, 3)
    assert abs(int(second[32, 48, 0]) - 200) < 6
    assert abs(int(second[4, 48, 0]) - 114) < 8


def test_no_frames_write_no_file(tmp_path):
    assert write_video(tmp_path / "none.mp4", [], 10) == 0
    assert list(tmp_path.iterdir()) == []


def test_an_error_while_drawing_leaves_no_file(tmp_path):
    def frames():
        yield next(moving_scene(1))
        raise RuntimeError("drawing failed")

    with pytest.raises(RuntimeError, match="drawing failed"):
        write_video(tmp_path / "drive.mp4", frames(), 10)
    assert list(tmp_path.iterdir()) == []


def test_wrong_output_is_one_clear_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ImageError, match=r"cannot be written .* choose a writable folder"):
        write_video(tmp_path / "file" / "drive.mp4", moving_scene(2), 10)
    with pytest.raises(ConfigError, match="0 frames a second"):
        write_video(tmp_path / "drive.mp4", moving_scene(2), 0)
    with pytest.raises(ImageError, match="is not uint8 RGB"):
        write_video(tmp_path / "drive.mp4", [np.zeros((64, 64), np.uint8)], 10)


def test_wrong_input_is_one_clear_sentence(tmp_path):
    with pytest.raises(ImageError, match="is not a file; give the path of a video"):
        next(read_video(tmp_path / "none.mp4"))
    with pytest.raises(ImageError, match="is not a file"):
        next(read_video(tmp_path))
    (tmp_path / "text.mp4").write_text("not a video at all\n" * 50)
    with pytest.raises(ImageError, match="is not a video that FFmpeg can read"):
        next(read_video(tmp_path / "text.mp4"))
    (tmp_path / "empty.mp4").write_bytes(b"")
    with pytest.raises(ImageError, match="is not a video"):
        next(read_video(tmp_path / "empty.mp4"))


def test_a_truncated_file_gives_what_is_left(tmp_path):
    write_video(tmp_path / "drive.mp4", noisy_scene(12), 25)
    data = (tmp_path / "drive.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) * 3 // 4])
    assert 0 < len(list(read_video(tmp_path / "cut.mp4"))) < 12
    (tmp_path / "stub.mp4").write_bytes(data[:200])
    with pytest.raises(ImageError, match="has no video stream; give a file with pictures"):
        next(read_video(tmp_path / "stub.mp4"))


def test_errors_of_the_frames_are_not_blamed_on_the_file(tmp_path):
    def frames():
        yield from moving_scene(2)
        raise OSError("the camera is gone")

    with pytest.raises(OSError, match="the camera is gone"):
        write_video(tmp_path / "drive.mp4", frames(), 10)


def test_damaged_packets_are_skipped_with_a_warning(tmp_path, caplog):
    write_video(tmp_path / "drive.mp4", noisy_scene(12), 25)
    data = bytearray((tmp_path / "drive.mp4").read_bytes())
    middle = len(data) * 2 // 3
    data[middle : middle + 4000] = bytes(4000)
    (tmp_path / "damaged.mp4").write_bytes(data)
    with caplog.at_level(logging.WARNING):
        seen = list(read_video(tmp_path / "damaged.mp4"))
    assert 0 < len(seen) < 12
    assert "damaged packets skipped: " in caplog.text


@pytest.mark.parametrize("name", ["drive 12:30.mp4", "http:drive.mp4", "concat:a|b.mp4", "a%d?x=1#.mp4"])
def test_a_colon_in_a_name_is_no_protocol(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    for path in (tmp_path / name, Path(name)):
        assert write_video(path, moving_scene(3), 10) == 3
        assert len(list(read_video(path))) == 3
    assert [path.name for path in tmp_path.iterdir()] == [name]


def with_lengths(path, factor):
    """Multiply the lengths in the headers of an MP4's movie, track and media."""
    data = bytearray(path.read_bytes())
    for kind, place in ((b"mvhd", 20), (b"tkhd", 24), (b"mdhd", 20)):
        at = data.index(kind) + place
        length = int.from_bytes(data[at : at + 4], "big")
        data[at : at + 4] = round(length * factor).to_bytes(4, "big")
    path.write_bytes(data)


@pytest.mark.parametrize("factor", [50, 0.02, 0])
def test_a_length_in_headers_that_is_a_lie_loses_nothing(tmp_path, factor):
    path = tmp_path / "drive.mp4"
    write_video(path, moving_scene(20), 10)
    with_lengths(path, factor)
    assert [stamp for stamp, _ in read_video(path)] == [100_000_000 * place for place in range(20)]


@pytest.mark.parametrize(("length_s", "warned"), [(100.0, True), (2.0, False), (0.5, False)])
def test_an_end_before_the_stated_length_is_warned_of(tmp_path, caplog, length_s, warned):
    path = tmp_path / "drive.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", 10)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for frame in moving_scene(20):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    data = bytearray(path.read_bytes())
    at = data.index(b"\x44\x89\x88") + 3  # Matroska's element of the length, a double in ms
    data[at : at + 8] = struct.pack(">d", length_s * 1000)
    path.write_bytes(data)
    with caplog.at_level(logging.WARNING):
        assert len(list(read_video(path))) == 20
    assert [record.getMessage() for record in caplog.records if record.name.startswith("lvad")] == (
        [f"{path}: it states 100.0 s and 2.0 s could be read; if something is missing, copy it again"] if warned else []
    )


def test_a_playlist_called_video_opens_nothing_else(tmp_path):
    write_video(tmp_path / "other.mp4", moving_scene(3), 10)
    path = tmp_path / "list.mp4"
    path.write_text(f"ffconcat version 1.0\nfile 'http://127.0.0.1:9/x.mp4'\nfile '{tmp_path}/other.mp4'\n")
    with pytest.raises(ImageError, match=r"list\.mp4"):
        list(read_video(path))
