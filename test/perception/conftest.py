"""Fixtures that several tests of the perception use."""

import sys

import pytest

from .fake_tensorrt import make_tensorrt


@pytest.fixture
def use_tensorrt(monkeypatch):
    """``use_tensorrt(version)``: the stand-in for a version, installed until the test ends."""

    def use(version):
        module = make_tensorrt(version)
        monkeypatch.setitem(sys.modules, "tensorrt", module)
        return module

    return use
