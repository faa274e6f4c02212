"""Precision of a training, its record in the run's folder, and the cost of emulated bf16."""

import json

import pytest
import torch
from accelerate.state import AcceleratorState

from lvad_perception.errors import ConfigError, DatasetError
from lvad_training.cli import main
from lvad_training.data import loader
from lvad_training.training import processes
from lvad_training.training.environment import FILE, read_environments
from lvad_training.training.processes import bf16_factor, computes_bf16, start_processes
from lvad_training.training.train import train

CPU = torch.device("cpu")


@pytest.fixture
def fresh_state():
    """No precision chosen before; accelerate keeps one for the process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    processes._warn_of_emulation.cache_clear()
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    processes._warn_of_emulation.cache_clear()


@pytest.mark.parametrize(
    ("asked", "native", "taken"),
    [
        ("auto", True, "bf16"),
        ("auto", False, "no"),
        ("no", True, "no"),
        ("bf16", True, "bf16"),
        ("bf16", False, "bf16"),
    ],
)
def test_auto_takes_bf16_only_where_the_device_computes_in_it(fresh_state, monkeypatch, asked, native, taken):
    monkeypatch.setattr(processes, "computes_bf16", lambda device: native)
    assert start_processes(asked).mixed_precision == taken


@pytest.mark.parametrize(
    ("capability", "avx512_bf16", "amx", "expected"),
    [
        ("AVX512", True, False, True),
        ("AVX512", False, True, True),
        ("AVX512", False, False, False),
        ("AVX2", True, False, False),  # ATEN_CPU_CAPABILITY=avx2
        ("AVX2", False, False, False),
        ("SVE256", True, True, False),
    ],
)
def test_a_cpu_has_bf16_as_torch_says(monkeypatch, capability, avx512_bf16, amx, expected):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx, raising=False)
    assert computes_bf16(CPU) is expected


@pytest.mark.parametrize(("capability", "expected"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_a_gpu_has_bf16_from_compute_capability_8(monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert computes_bf16(torch.device("cuda", 0)) is expected


def test_other_devices_compute_in_fp32():
    assert not computes_bf16(torch.device("mps"))


def test_emulated_bf16_is_warned_of_once_with_its_cost(fresh_state, monkeypatch, capsys):
    monkeypatch.setattr(processes, "computes_bf16", lambda device: False)
    monkeypatch.setattr(processes, "bf16_factor", lambda device: 7.31)
    start_processes("auto")
    assert capsys.readouterr().err == ""
    AcceleratorState._reset_state()
    for _ in range(2):
        start_processes("bf16")
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "this CPU only emulates: a product of matrices takes 7.3 times as long as in FP32" in said
    assert "train.precision=auto" in said


def test_trainings_of_one_python_process_may_differ_in_precision(fresh_state):
    assert [start_processes(asked).mixed_precision for asked in ("no", "bf16", "no")] == ["no", "bf16", "no"]


def test_native_bf16_is_not_warned_of(fresh_state, monkeypatch, capsys):
    monkeypatch.setattr(processes, "computes_bf16", lambda device: True)
    start_processes("bf16")
    assert capsys.readouterr().err == ""


def test_the_cost_of_bf16_is_measured():
    assert 0.01 < bf16_factor(CPU, side=64, repeats=20) < 1000


def test_a_run_records_its_hardware_and_precision(
    fresh_state, blobs, make_recipe, tmp_path, monkeypatch, stop_at, capsys
):
    recipe = make_recipe(blobs, train={"precision": "auto"}, output=str(tmp_path / "run"))
    monkeypatch.setattr(processes, "computes_bf16", lambda device: False)
    with stop_at(3):
        train(recipe, progress=False)
    (began,) = read_environments(tmp_path / "run")
    assert (began.first_step, began.precision, began.asked, began.processes) == (0, "no", "auto", 1)
    assert "cores of" in began.hardware
    assert f"torch {torch.__version__}" in began.versions

    AcceleratorState._reset_state(reset_partial_state=True)
    monkeypatch.setattr(processes, "computes_bf16", lambda device: True)
    capsys.readouterr()
    train(recipe, resume=True, progress=False)
    began, went_on = read_environments(tmp_path / "run")
    assert (went_on.first_step, went_on.precision) == (2, "bf16")
    assert (
        "began with fp32 (train.precision: auto) and goes on with bf16 (train.precision: auto)"
        in capsys.readouterr().err
    )

    assert main(["report", str(tmp_path / "run"), "--output", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text()
    assert "fp32 (train.precision: auto), then bf16 (train.precision: auto)" in page
    assert began.hardware in page

    train(recipe, overwrite=True, progress=False)
    assert [each.first_step for each in read_environments(tmp_path / "run")] == [0]


def test_a_damaged_file_of_environments_is_named(tmp_path):
    (tmp_path / FILE).write_text(json.dumps([{"first_step": 0}]))
    with pytest.raises(DatasetError, match=r"environment.json cannot be read \(TypeError\); remove it"):
        read_environments(tmp_path)
    assert read_environments(tmp_path / "elsewhere") == []


@pytest.mark.parametrize(
    ("asked", "cores", "local", "expected"),
    [
        ("auto", 1, 1, 1),
        ("auto", 2, 1, 1),
        ("auto", 4, 1, 3),
        ("auto", 64, 1, 8),
        ("auto", 64, 8, 7),
        ("auto", 8, 8, 1),
        (0, 64, 1, 0),
        (3, 1, 1, 3),
    ],
)
def test_loader_processes_follow_from_the_cores(monkeypatch, asked, cores, local, expected):
    monkeypatch.setattr(loader, "usable_cores", lambda: cores)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(local))
    assert loader.worker_count(asked) == expected


def test_torch_takes_no_more_threads_than_a_container_has_cores(fresh_state, monkeypatch):
    before = torch.get_num_threads()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(processes, "usable_cores", lambda: 1)
    try:
        start_processes("no")
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_fp16_needs_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"train\.precision: fp16 needs a CUDA GPU; use bf16 or no"):
        start_processes("fp16")
