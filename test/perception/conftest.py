"""Fixtures of several perception tests."""

import sys

import pytest

from .fake_tensorrt import make_tensorrt


@pytest.fixture
def use_tensorrt(monkeypatch):
    """``use_tensorrt(version)``: installs the fake TensorRT of a version until the test ends."""

    def use(version):
        module = make_tensorrt(version)
        monkeypatch.setitem(sys.modules, "tensorrt", module)
        return module

    return use
