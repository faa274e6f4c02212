"""Pytest's side of the GPU benchmark: the settings of a part, the mark ``gpu``, and the file of results.

``@pytest.mark.gpu(part, table, …)`` names the part and the table that a test belongs to; both may contain its
parameters in braces. A test passes cells to the fixture ``row``, which adds them to its parameters and writes them at
once, since the process may be killed later; a test that fails or is skipped gives a row with the reason. Its docstring
stands below the table. Other arguments of the mark:

    cases: (names, values on CUDA, values on the CPU), parameters of the outermost loop
    without: presets to leave out
    needs_s: with less time left the test is skipped
"""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from benchmarks.gpu.__main__ import Job


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--gpu-job``: the settings; without it every part on CUDA, and no file of results."""
    parser.addoption("--gpu-job", default=Job().to_json(), help="settings, from python -m benchmarks.gpu")


@pytest.hookimpl(tryfirst=True)  # so that the parameters of ordinary marks are the inner loops
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Loop over the mark's cases, and in each over the presets."""
    job, mark = _job(metafunc.config), metafunc.definition.get_closest_marker("gpu")
    if "cases" in mark.kwargs:
        names, on_cuda, on_cpu = mark.kwargs["cases"]
        metafunc.parametrize(names, on_cpu if job.small else on_cuda)
    if "preset" in metafunc.fixturenames:
        left_out = mark.kwargs.get("without", ())
        metafunc.parametrize("preset", [preset for preset in job.presets if preset not in left_out])


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the tests of the part."""
    part = _job(config).part
    chosen = [item for item in items if part in (None, _place(item)[0])]
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = chosen


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test without a GPU, or without the time that it needs."""
    job = _job(item.config)
    if job.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            pytest.skip("torch finds no CUDA GPU here; --cpu tries the code on the CPU")
    left, needs_s = job.time_left(), item.get_closest_marker("gpu").kwargs.get("needs_s", 2.0)
    if left < needs_s:
        pytest.skip(f"{max(0, left):.0f} s left, it needs about {needs_s:.0f} s")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Write the reason why a test has no result, or its docstring, which explains its rows."""
    report = yield
    if not report.passed:
        _write_row(item, {"outcome": f"{'skipped' if report.skipped else 'failed'}: {one_line(call.excinfo.value)}"})
    elif report.when == "call" and item.function.__doc__:
        _write(item, {"note": " ".join(item.function.__doc__.split())})
    return report


@pytest.fixture
def job(request: pytest.FixtureRequest) -> Job:
    """The settings."""
    return _job(request.config)


@pytest.fixture
def row(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Adds a row to the test's table."""

    def add(**cells: Any) -> None:
        _write_row(request.node, cells)
        shown = (
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in cells.items()
        )
        print(", ".join(shown), flush=True)

    return add


@pytest.fixture
def note(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Adds a sentence below the part's tables; one that is there already is not repeated."""
    return lambda text: _write(request.node, {"note": text})


@pytest.fixture
def share_s(request: pytest.FixtureRequest, job: Job) -> float:
    """Seconds for this test: the time left, divided by the number of tests left."""
    items = request.session.items
    return 0.0 if job.small else min(60.0, job.time_left() / (len(items) - items.index(request.node)))


def one_line(err: BaseException) -> str:
    """Message of a skip, otherwise class and first line of an exception's message, at most 200 characters."""
    lines = [line.strip() for line in str(err).splitlines() if line.strip()]
    name = "" if isinstance(err, pytest.skip.Exception) else type(err).__name__
    text = ": ".join(filter(None, [name, *lines[:1]]))
    return text if len(text) <= 200 else text[:199] + "…"


def _job(config: pytest.Config) -> Job:
    return Job.from_json(config.getoption("--gpu-job"))


def _write_row(item: pytest.Item, cells: dict[str, Any]) -> None:
    _, table, parameters = _place(item)
    _write(item, {"table": table, "row": {**parameters, **cells}})


def _write(item: pytest.Item, finding: dict[str, Any]) -> None:
    if (job := _job(item.config)).part is not None:
        with job.findings.open("a", encoding="utf-8") as file:
            file.write(json.dumps(finding) + "\n")


def _place(item: pytest.Item) -> tuple[str, str, dict[str, Any]]:
    """Part, table and parameters of a test, the preset first."""
    parameters = dict(item.callspec.params) if hasattr(item, "callspec") else {}
    names = {"device": _job(item.config).device, **parameters}
    part, table = (text.format(**names) for text in item.get_closest_marker("gpu").args)
    shown = {name: value for name, value in parameters.items() if isinstance(value, str | int)}
    return part, table, {name: shown[name] for name in sorted(shown, key=lambda name: name != "preset")}
