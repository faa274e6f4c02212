"""The benchmark of a target, with a stand-in for TensorRT: its table, its refusals, its exit status."""

import json
import sys

import pytest

from benchmarks import target
from lvad_perception.engines import tensorrt

from .fake_cuda import FakeCuda

pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")


@pytest.fixture
def trt(monkeypatch, tmp_path, use_tensorrt):
    module = use_tensorrt("10.3.0")
    monkeypatch.setitem(sys.modules, "torch2trt", None)
    monkeypatch.setattr(target, "Cuda", FakeCuda)
    monkeypatch.setattr(tensorrt, "Cuda", FakeCuda)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return module


def rows_of(out):
    """The table that stands last, as lists of cells."""
    lines = [line for line in out.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_it_prints_one_table_last(trt, tiny_model_file, small_split, tmp_path, capsys):
    arguments = [
        tiny_model_file,
        "--images",
        small_split / "images",
        "--seconds",
        0,
        "--json",
        tmp_path / "target.json",
    ]
    assert target.main([str(each) for each in arguments]) == 0
    out, _ = capsys.readouterr()
    assert out.startswith("python ")
    assert "tensorrt       10.3.0" in out
    head, _, *rows = rows_of(out)
    assert [row[1:4] for row in rows] == [
        ["ONNX Runtime", "fp32", "2"],
        ["TensorRT", "fp32", "2"],
        ["TensorRT", "fp16", "2"],
        ["TensorRT", "int8", "2"],
    ]
    assert {row[head.index("outcome")] for row in rows} == {"right"}
    assert all(float(row[head.index("p50 ms")]) > 0 for row in rows)
    assert rows[1][head.index("masks")] == "100.00 %"
    metadata = json.loads((tmp_path / "target.json").read_text())
    assert metadata["gpu"] == FakeCuda().name
    assert len(metadata["rows"]) == 4


def test_what_is_missing_costs_only_its_own_rows(trt, tiny_model_file, capsys):
    status = target.main([str(tiny_model_file), "--precisions", "fp16", "int8", "--torch2trt", "--seconds", "0"])
    assert status == 1
    out, _ = capsys.readouterr()
    outcomes = {tuple(row[1:3]): row[-1] for row in rows_of(out)[2:]}
    assert outcomes["TensorRT", "fp16"] == "right"
    assert "building a .pth file needs " in outcomes["torch2trt", "fp16"]
    assert outcomes["TensorRT", "int8"] == "left out: int8 needs --images"


def test_a_build_that_fails_is_a_row(trt, tiny_model_file, capsys):
    trt.state.fail = True
    assert target.main([str(tiny_model_file), "--precisions", "fp32", "--seconds", "0"]) == 1
    assert "TensorRT 10.3.0 builds nothing" in rows_of(capsys.readouterr().out)[-1][-1]


def test_a_missing_file_is_a_row(trt, tmp_path, capsys):
    assert target.main([str(tmp_path / "none.onnx"), "--precisions", "fp32", "--seconds", "0"]) == 1
    assert {row[-1].split(";")[0] for row in rows_of(capsys.readouterr().out)[2:]} == {
        f"{tmp_path}/none.onnx does not exist",
        f"{tmp_path}/none.onnx is no .onnx model file",
    }


def test_without_a_gpu_it_says_everything_that_is_missing(tiny_model_file, monkeypatch, capsys):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert target.main([str(tiny_model_file)]) == 2
    out, err = capsys.readouterr()
    assert "torch " in out
    first, *problems = err.strip().splitlines()
    assert first == "no engine can be built here:"
    assert len(problems) == 2
    assert "sees no CUDA GPU; check nvidia-smi" in problems[0]
    assert "an engine: TensorRT cannot be imported" in problems[1]
