"""How much of the machine there is."""

import math
import os

import pytest

from lvad_perception import machine
from lvad_perception.machine import granted_cores, usable_cores


@pytest.mark.parametrize(
    ("files", "granted"),
    [
        ({}, math.inf),
        ({"cpu.max": "max 100000\n"}, math.inf),
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, math.inf),
        ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4.0),
        ({"cpu.max": "nonsense"}, math.inf),
    ],
)
def test_a_container_may_be_given_less_than_the_machine(tmp_path, files, granted):
    (tmp_path / "cpu").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert granted_cores(tmp_path) == granted


@pytest.mark.parametrize(("granted", "cores"), [(0.5, 1), (1.5, 2), (2.0, 2), (math.inf, 3), (64.0, 3)])
def test_usable_are_the_bound_cores_or_the_granted_ones(monkeypatch, granted, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2}, raising=False)
    monkeypatch.setattr(machine, "granted_cores", lambda: granted)
    assert usable_cores() == cores
