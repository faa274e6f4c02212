"""The CPU benchmark's code, for a moment."""

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    """The folder ``benchmarks`` belongs to no installed package."""
    monkeypatch.syspath_prepend(str(ROOT))


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_every_way_to_run_a_model_is_a_row(tiny_model_file, tmp_path, capsys):
    from benchmarks.cpu import OPTIONS, main

    out = tmp_path / "cpu.json"
    status = main([str(tiny_model_file), "--rounds", "3", "--threads", "1", "2", "--options", "--json", str(out)])
    lines = capsys.readouterr().out.splitlines()
    assert status == 0
    assert cells(lines[0])[1:6] == ["threads", "median ms", "p99 ms", "CPU ms", "ratio"]
    rows = [cells(line) for line in lines[2:]]
    assert len(rows) == 2 * (3 + len(OPTIONS) - 1 + 1)  # the options but the chosen ones, and bound outputs
    first = rows[0]
    assert first[:2] == ["ONNX Runtime FP32", "1"]
    assert float(first[2]) <= float(first[3])
    assert first[5:] == ["1", "yes: " + first[6].removeprefix("yes: ")]
    assert [row[5] for row in rows].count("1") == 2  # one first row for each number of threads
    metadata = json.loads(out.read_text())
    assert [row["name"] for row in metadata] == [row[0] for row in rows]
    assert {len(row["wall_ms"]) for row in metadata if not row["reason"]} == {3}


def test_several_quantised_files_are_rows_of_their_own(tiny_model_file, tmp_path, capsys):
    from benchmarks.cpu import main

    files = [tmp_path / "a.onnx", tmp_path / "b.onnx"]
    for file in files:
        file.write_bytes(tiny_model_file.read_bytes())
    options = [part for file in files for part in ("--int8", str(file))]
    assert main([str(tiny_model_file), *options, "--rounds", "2", "--threads", "1"]) == 0
    names = [cells(line)[0] for line in capsys.readouterr().out.splitlines()[2:]]
    assert names[0] == "ONNX Runtime FP32"
    assert [name for name in names if name.startswith("ONNX Runtime")][1:] == [f"ONNX Runtime {f.name}" for f in files]


def test_what_is_not_there_is_a_row_with_the_reason(tiny_model_file, tmp_path, monkeypatch, capsys):
    import sys

    from benchmarks.cpu import main

    monkeypatch.setitem(sys.modules, "openvino", None)
    assert main([str(tiny_model_file), "--rounds", "2", "--threads", "1"]) == 0
    rows = [cells(line) for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[0] for row in rows] == ["ONNX Runtime FP32", "OpenVINO FP32", "OpenVINO BF16"]
    assert rows[1][6] == "not run: OpenVINO is not installed; install it with: pip install openvino"


def test_rounds_are_in_turns_and_every_second_one_backwards():
    from benchmarks.cpu import Row, measure

    ran = []
    rows = [Row(name, 1, lambda images, name=name: ran.append(name)) for name in "ab"]
    measure(rows, [np.zeros(1, np.uint8)], rounds=2)
    assert "".join(ran) == "ba" + "ab" + "ba"  # the first is not counted
    assert [len(row.wall_ms) for row in rows] == [2, 2]


def test_a_wrong_file_is_one_sentence(tmp_path, capsys):
    from benchmarks.cpu import main

    assert main([str(tmp_path / "gone.onnx")]) == 2
    assert "gone.onnx does not exist; write a model file with" in capsys.readouterr().err


def test_onnx_runtimes_quantiser_writes_a_model_file_for_each_choice(make_tiny_model, tmp_path, capsys):
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    import cv2

    from benchmarks.quantiser import main
    from lvad_perception.conversion.quantize import quantize
    from lvad_perception.engines import open_engine

    from ..perception.test_quantize import with_convolutions

    model, images = with_convolutions(make_tiny_model(tmp_path / "model.onnx")), tmp_path / "images"
    images.mkdir()
    for index in range(8):
        cv2.imwrite(str(images / f"{index}.png"), np.random.default_rng(index).integers(0, 256, (48, 64, 3), np.uint8))
    quantize(model, tmp_path / "ours.onnx", images)
    choices = ["--layers", "conv", "same", "--methods", "minmax", "percentile"]
    files = [str(model), str(tmp_path / "ours.onnx"), "--calibration", str(images), "--out", str(tmp_path / "theirs")]
    assert main([*files, *choices]) == 0
    assert len(capsys.readouterr().out.splitlines()) >= 4

    def quantised(path):
        return [node.op_type for node in onnx.load(str(path)).graph.node].count("QuantizeLinear")

    ours = open_engine(tmp_path / "ours.onnx")
    for layers in ("conv", "same"):
        for method in ("minmax", "percentile"):
            path = tmp_path / "theirs" / f"{layers}-{method}.onnx"
            engine = open_engine(path)
            assert (engine.precision, engine.manifest) == ("int8", ours.manifest)
            same = quantised(path) == quantised(tmp_path / "ours.onnx")
            assert same == (layers == "same")
