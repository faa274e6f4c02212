import json
from collections import OrderedDict
from dataclasses import replace

import pytest

from lvad_perception.engines.tensorrt_file import (
    MAGIC,
    METADATA_KEY,
    EngineFile,
    Target,
    read_engine_file,
    write_engine_file,
    write_torch2trt_file,
)
from lvad_perception.errors import EngineError, ModelFileError

PLAN = bytes(range(256)) * 5


@pytest.fixture
def file(make_manifest):
    target = Target("10.3.0", "Orin with 16 multiprocessors", "8.7")
    return EngineFile(
        PLAN, make_manifest(), "fp16", target, model_sha256="a" * 64, builder="tensorrt", agreement="1 box within 0 px"
    )


def same(one, other):
    return (
        bytes(one.plan) == bytes(other.plan) and replace(one, plan=b"").to_json() == replace(other, plan=b"").to_json()
    )


@pytest.mark.parametrize("name", ["model.engine", "model.plan"])
def test_what_was_written_is_read(file, tmp_path, name):
    path = tmp_path / "deep" / name
    write_engine_file(path, file)
    found = read_engine_file(path)
    assert same(found, file)
    assert found.target == file.target
    assert found.manifest == file.manifest
    assert [each.name for each in path.parent.iterdir()] == [name]  # nothing partial is left


def test_the_plan_follows_the_metadata_as_documented(file, tmp_path):
    """Other tools can extract the plan: MAGIC, four bytes of length, the metadata."""
    path = tmp_path / "model.engine"
    write_engine_file(path, file)
    data = path.read_bytes()
    assert data.startswith(MAGIC)
    length = int.from_bytes(data[8:12], "little")
    assert json.loads(data[12 : 12 + length])["precision"] == "fp16"
    assert data[12 + length :] == PLAN


@pytest.mark.parametrize("kept", [8, 11, 12, 40, 400])
def test_a_truncated_file_is_refused(file, tmp_path, kept):
    path = tmp_path / "model.engine"
    write_engine_file(path, file)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ModelFileError, match=r"model\.engine is truncated; copy it again or build it with"):
        read_engine_file(path)


def test_metadata_that_make_no_sense_are_refused(file, tmp_path):
    path = tmp_path / "model.engine"
    metadata = b'{"manifest": 1}'
    path.write_bytes(MAGIC + len(metadata).to_bytes(4, "little") + metadata + PLAN)
    with pytest.raises(ModelFileError, match="its metadata cannot be read"):
        read_engine_file(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ModelFileError, match="cannot be read"):
        read_engine_file(tmp_path / "none.engine")


class TestBarePlans:
    def test_the_manifest_may_be_beside_the_file(self, tmp_path, make_manifest):
        path = tmp_path / "model.plan"
        path.write_bytes(PLAN)
        path.with_name("model.plan.json").write_text(make_manifest().to_json())
        found = read_engine_file(path)
        assert bytes(found.plan) == PLAN
        assert found.manifest == make_manifest()
        assert found.target is found.precision is None

    def test_without_a_manifest_it_is_refused(self, tmp_path):
        path = tmp_path / "model.plan"
        path.write_bytes(PLAN)
        with pytest.raises(ModelFileError, match=r"carries no manifest.*info MODEL.onnx --json > model\.plan\.json"):
            read_engine_file(path)


class TestTorch2trt:
    @pytest.fixture
    def state(self):
        """As torch2trt's TRTModule writes it (its trt_module.py and flattener.py)."""
        schema = {"schema": [0], "size": 1}
        return OrderedDict(
            engine=bytearray(PLAN),
            input_names=["images"],
            output_names=["boxes", "scores"],
            input_flattener=schema,
            output_flattener={"schema": (0, 1), "size": 2},
        )

    @pytest.fixture(autouse=True)
    def torch(self):
        return pytest.importorskip("torch", reason="torch is not installed")

    def test_what_was_written_is_read(self, file, state, tmp_path):
        path = tmp_path / "model.pth"
        write_torch2trt_file(path, file, state)
        assert same(read_engine_file(path), file)

    def test_the_file_keeps_what_torch2trt_reads(self, file, state, tmp_path, torch):
        path = tmp_path / "model.pth"
        write_torch2trt_file(path, file, state)
        loaded = torch.load(path, weights_only=True)
        assert {key: loaded[key] for key in state} == dict(state)
        assert METADATA_KEY in loaded

    def test_a_file_of_torch2trt_alone_takes_the_manifest_beside_it(self, state, tmp_path, torch, make_manifest):
        path = tmp_path / "model.pth"
        torch.save(state, path)
        with pytest.raises(ModelFileError, match=r"carries no manifest"):
            read_engine_file(path)
        path.with_name("model.pth.json").write_text(make_manifest().to_json())
        assert bytes(read_engine_file(path).plan) == PLAN

    @pytest.mark.parametrize("content", [{"weight": 1}, [1, 2], {"engine": "text"}])
    def test_another_torch_file_is_refused(self, tmp_path, torch, content):
        path = tmp_path / "model.pth"
        torch.save(content, path)
        with pytest.raises(ModelFileError, match="holds no TensorRT engine"):
            read_engine_file(path)

    def test_code_in_a_file_is_never_run(self, tmp_path, torch):
        path = tmp_path / "model.pth"
        torch.save({"engine": bytearray(PLAN), "evil": Evil(tmp_path / "ran")}, path)
        with pytest.raises(ModelFileError, match="cannot be loaded as a torch2trt file"):
            read_engine_file(path)
        assert not (tmp_path / "ran").exists()

    def test_a_damaged_file_is_refused(self, tmp_path):
        path = tmp_path / "model.pth"
        path.write_bytes(b"PK\x03\x04 no archive")
        with pytest.raises(ModelFileError, match="cannot be loaded as a torch2trt file"):
            read_engine_file(path)


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_folder_without_space_is_named(file, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(EngineError, match="cannot be written"):
        write_engine_file(tmp_path / "file" / "model.engine", file)
