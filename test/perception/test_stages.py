import cv2
import numpy as np
import pytest

from lvad_perception.bags.writer import create_bag
from lvad_perception.errors import BagError, ConfigError, DatasetError, MissingDependencyError
from lvad_perception.messages import image_to_message, make_header, rosbags_types
from lvad_perception.perceiver import Perceiver
from lvad_perception.profiling import messages
from lvad_perception.profiling.bench import Bench
from lvad_perception.profiling.drawing import draw
from lvad_perception.profiling.frames import bag_frames, folder_frames, synthetic_frames
from lvad_perception.profiling.stages import STAGES, time_stages

TYPES = rosbags_types()


@pytest.fixture
def perceiver(fake_engine):
    return Perceiver(fake_engine)


class TestTable:
    @pytest.fixture
    def result(self, perceiver):
        return time_stages(perceiver, synthetic_frames((90, 160)), source="synthetic JPEG", count=9, warm_up=2)

    def test_each_stage_has_a_sample_per_frame(self, result):
        assert {stage: len(samples) for stage, samples in result.samples_ms.items()} == dict.fromkeys(STAGES, 9)
        assert all((samples > 0).all() for samples in result.samples_ms.values())
        np.testing.assert_allclose(result.total_ms, result.overhead_ms + result.samples_ms["engine"])

    def test_text_and_json_say_the_same(self, result):
        metadata = result.to_dict()
        lines = result.to_text().splitlines()
        assert lines[0] == "9 frames of synthetic JPEG, 160x90 pixels"
        assert lines[1] == "fake; input 64x48, batch 2"
        rows = {line.split()[0]: line.split()[1:3] for line in lines[4:]}
        for stage in (*STAGES, "total"):
            times = metadata["stages_ms"][stage]
            assert rows[stage] == [f"{times['median']:.2f}", f"{times['p99']:.2f}"]
            assert times["median"] <= times["p99"]
        assert sum(float(line.split()[3].rstrip("%")) for line in lines[4:9]) == pytest.approx(100, abs=0.5)

    def test_without_rosbags_everything_but_messages_is_timed(self, perceiver, monkeypatch):
        def absent():
            raise MissingDependencyError("the rosbags package is not installed")

        monkeypatch.setattr(messages, "rosbags_types", absent)
        messages.unavailable.cache_clear()
        try:
            result = time_stages(perceiver, synthetic_frames((9, 16)), source="x", count=4, warm_up=1)
        finally:
            messages.unavailable.cache_clear()
        assert list(result.samples_ms) == ["decode", "preprocess", "engine", "postprocess"]
        np.testing.assert_allclose(result.total_ms, result.overhead_ms + result.samples_ms["engine"])
        assert result.to_text().endswith("\nmessages were not timed: the rosbags package is not installed")
        assert result.to_dict()["messages_unknown"] == "the rosbags package is not installed"
        assert ">messages<" not in draw(Bench(result))

    def test_the_warm_up_is_not_timed(self, fake_engine):
        time_stages(Perceiver(fake_engine), synthetic_frames((9, 16)), source="x", count=4, warm_up=3)
        assert len(fake_engine.batches) == 3 + 2

    @pytest.mark.parametrize(("count", "warm_up"), [(0, 5), (5, -1)])
    def test_impossible_counts(self, perceiver, count, warm_up):
        with pytest.raises(ConfigError, match="cannot be timed; give --frames 1 or more"):
            time_stages(perceiver, synthetic_frames((9, 16)), source="x", count=count, warm_up=warm_up)


class TestSources:
    def test_a_folder_goes_round(self, tmp_path, perceiver):
        for name in ("a.jpg", "b.png"):
            cv2.imwrite(str(tmp_path / name), np.zeros((20, 30, 3), np.uint8))
        (tmp_path / "notes.txt").write_text("x")
        result = time_stages(perceiver, folder_frames(tmp_path), source="x", count=7)
        assert (len(result.total_ms), result.size_hw) == (7, (20, 30))

    @pytest.mark.parametrize("name", ["", "gone"])
    def test_a_folder_without_images(self, tmp_path, name):
        with pytest.raises(DatasetError, match=r"has no \.jpg or \.png file"):
            folder_frames(tmp_path / name)

    def test_a_bag_goes_round_its_good_images(self, tmp_path, perceiver):
        with create_bag(tmp_path / "bag") as bag:
            for index in range(3):
                header = make_header(index, "c", types=TYPES)
                msg = image_to_message(np.zeros((20, 30, 3), np.uint8), header, types=TYPES)
                msg.encoding = "mono16" if index == 1 else "rgb8"
                bag.write("/c/image_raw", msg, index)
        assert len(time_stages(perceiver, bag_frames(tmp_path / "bag"), source="x", count=9).total_ms) == 9

    def test_a_bag_without_a_good_image(self, tmp_path, perceiver):
        with create_bag(tmp_path / "bag") as bag:
            msg = image_to_message(np.zeros((20, 30, 3), np.uint8), make_header(0, "c", types=TYPES), types=TYPES)
            msg.data = msg.data[:5]
            bag.write("/c/image_raw", msg, 0)
        with pytest.raises(BagError, match="has no image that can be decoded"):
            time_stages(perceiver, bag_frames(tmp_path / "bag"), source="x")
