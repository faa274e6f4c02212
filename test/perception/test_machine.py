"""Usable cores, the identity of the CPU, and cache folders."""

import math
import os
from pathlib import Path

import pytest

from lvad_perception import machine
from lvad_perception.machine import cache_folders, cpu_identity, cpu_name, quota_cores, usable_cores

X86 = """processor	: {core}
vendor_id	: AuthenticAMD
model name	: EPYC
cpu MHz		: {mhz}
flags		: fpu {flags}

processor	: 1
model name	: another
"""
ARM = "processor\t: 0\nBogoMIPS\t: 62.50\nFeatures\t: fp asimd\nCPU implementer\t: 0x41\nCPU part\t: 0xd42\n"


def test_a_cpu_is_its_model_and_its_instruction_sets(tmp_path):
    def identity(text):
        (tmp_path / "cpuinfo").write_text(text)
        return cpu_identity(tmp_path / "cpuinfo")

    known = identity(X86.format(core=0, mhz=2400.1, flags="avx2"))
    assert known == "vendor_id: AuthenticAMD\nmodel name: EPYC\nflags: fpu avx2"
    assert identity(X86.format(core=0, mhz=1800.7, flags="avx2")) == known
    assert identity(X86.format(core=0, mhz=2400.1, flags="avx2 avx512f")) != known
    assert identity(ARM) == "CPU implementer: 0x41\nCPU part: 0xd42\nFeatures: fp asimd"


def test_a_cpu_has_a_name_for_tables(tmp_path):
    (tmp_path / "x86").write_text(X86.format(core=0, mhz=2400.1, flags=""))
    (tmp_path / "arm").write_text(ARM)
    assert cpu_name(tmp_path / "x86") == "EPYC"
    assert cpu_name(tmp_path / "arm") == cpu_name(tmp_path / "absent") == os.uname().machine


def test_without_cpuinfo_python_names_the_cpu(tmp_path):
    assert os.uname().machine in cpu_identity(tmp_path / "absent")


def test_this_machines_cpu_is_the_same_twice():
    assert cpu_identity() == cpu_identity() != ""


def test_a_user_without_a_home_has_the_temporary_folder(monkeypatch, tmp_path):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert cache_folders(None) == [tmp_path / f"lvad-{os.getuid()}"]


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
def test_a_container_may_have_a_quota_below_the_machine(tmp_path, files, granted):
    (tmp_path / "cpu").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert quota_cores(tmp_path) == granted


@pytest.mark.parametrize(("granted", "cores"), [(0.5, 1), (1.5, 2), (2.0, 2), (math.inf, 3), (64.0, 3)])
def test_usable_cores_are_limited_by_affinity_and_quota(monkeypatch, granted, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2}, raising=False)
    monkeypatch.setattr(machine, "quota_cores", lambda: granted)
    assert usable_cores() == cores


def test_the_cache_is_in_the_home_folder_that_a_tilde_names(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "~/caches")
    assert cache_folders(None)[0] == tmp_path / "caches" / "lvad"


@pytest.mark.parametrize("spoil", ["link", "writable"])
def test_a_temporary_folder_that_others_can_fill_is_no_cache(monkeypatch, tmp_path, spoil):
    monkeypatch.setenv("XDG_CACHE_HOME", "/home-of-nobody")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    place = tmp_path / f"lvad-{os.getuid()}"
    assert place in cache_folders(None)
    if spoil == "link":
        (tmp_path / "elsewhere").mkdir()
        place.symlink_to(tmp_path / "elsewhere")
    else:
        place.mkdir()
        place.chmod(0o777)
    assert cache_folders(None) == [Path("/home-of-nobody/lvad")]
