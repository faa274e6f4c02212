"""Runs every documented install line in a fresh virtual environment, then the documented commands.

``make test-installs`` runs this. It downloads gigabytes, so ``make test`` only checks that every line has a case
(``test_lines.py``). ``cases.NOT_TRIED`` lists the untested lines with the reason.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import pytest

from .cases import HUMBLE, INSTALLATIONS, System
from .lines import ROOT, documented

PIP_ARGS = shlex.split(os.environ.get("PIP_ARGS", ""))
PROBE = "import numpy, cv2; print(numpy.__version__, cv2.__file__)"


@dataclass(frozen=True)
class Environment:
    """A virtual environment, and a folder of Python packages that stand for apt's."""

    folder: Path
    apt: Path
    home: Path

    def run(self, line: str, *, status: int | None = 0, cwd: Path | None = None) -> str:
        """Run a command line; returns both output streams. The status must match, and no traceback may appear."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        path = os.pathsep.join([str(self.folder / "bin"), os.environ["PATH"]])
        result = subprocess.run(
            ["bash", "-c", line],
            env={**kept, "PATH": path, "XDG_CACHE_HOME": str(self.home), "VIRTUAL_ENV": str(self.folder)},
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert status in (None, result.returncode), f"{line}\nended with status {result.returncode}:\n{result.stdout}"
        assert status is None or "Traceback" not in result.stdout, f"{line}\n{result.stdout}"
        return result.stdout

    def install(self, line: str, cwd: Path | None = None) -> None:
        """Run a ``pip install`` line with the arguments of PIP_ARGS and the user's pip cache."""
        self.run(f"unset XDG_CACHE_HOME; {line} -q {shlex.join(PIP_ARGS)}", cwd=cwd)


def python_of(system: System) -> str:
    """The system's Python interpreter, or its stand-in; skips the test where neither is installed."""
    if system.python is None:
        return sys.executable
    for version in filter(None, (system.python, system.stand_in)):
        pyenv = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python{version}"))
        for path in filter(None, (shutil.which(f"python{version}"), *map(str, pyenv))):
            if subprocess.run([path, "-c", "import venv, ensurepip"], check=False, capture_output=True).returncode == 0:
                if version != system.python:
                    warnings.warn(
                        f"Python {version} stands in for {system.python}, which is not installed", stacklevel=2
                    )
                return path
    pytest.skip(f"{system.name}: python{system.python} with venv is not installed")


@pytest.fixture(scope="session")
def checkout(tmp_path_factory):
    """A copy of the tracked files, so that pip does not build in the repository."""
    folder = tmp_path_factory.mktemp("checkout")
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, names.split("\0")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture
def make_environment(tmp_path):
    """``make_environment(system)``: a fresh environment, removed after the test to save space."""
    made = []

    def make(system):
        python, folder, apt = python_of(system), tmp_path / "venv", tmp_path / "apt"
        subprocess.run([python, "-m", "venv", folder], check=True)
        environment = Environment(folder, apt, tmp_path / "home")
        made.append(environment)
        if system.packages:
            environment.install(f"pip install --no-deps --target {apt} {shlex.join(system.packages)}")
            for metadata in apt.glob("opencv*.dist-info"):  # pip does not see apt's OpenCV, which has no metadata
                shutil.rmtree(metadata)
            (site,) = folder.glob("lib/python3*/site-packages")
            (site / "apt.pth").write_text(f"{apt}\n")  # searched last, as with --system-site-packages
        return environment

    yield make
    for environment in made:
        shutil.rmtree(environment.folder)


CASES = [
    pytest.param(installation, system, id=f"{installation} ({system.name})")
    for installation in INSTALLATIONS
    for system in installation.systems
]


@pytest.mark.parametrize(("installation", "system"), CASES)
def test_the_page_keeps_its_promise(
    installation, system, make_environment, checkout, tiny_model_file, small_split, tmp_path
):
    environment = make_environment(system)
    before = [f"pip install {shlex.join(installation.before)}"] if installation.before else []
    for line in [*before, documented()[installation.line]]:
        environment.install(line.replace("<this repository>", str(checkout)), cwd=checkout)
    if installation.ros:
        environment.install(f"pip install --no-deps {checkout}")
    numpy, cv2 = environment.run(f"python -c '{PROBE}'").split()
    if system.packages:
        wanted = next(each for each in system.packages if each.startswith("numpy==")).removeprefix("numpy==")
        assert numpy.split(".")[0] == wanted.split(".")[0]
        assert Path(cv2).is_relative_to(environment.apt) == installation.ros
    given = {"model": tiny_model_file, "data": small_split, "work": tmp_path}
    for command in installation.commands:
        output = environment.run(command.line.format(**given), status=command.status, cwd=checkout)
        assert re.search(command.output, output), f"{command.line}\n{output}"


def test_what_the_sentence_on_numpy_says_helps(make_environment, checkout, tiny_model_file):
    """apt's OpenCV of Humble beside the numpy 2 that pip brings without being told otherwise."""
    environment = make_environment(HUMBLE)
    environment.install("pip install 'numpy>=2' onnxruntime")
    environment.install(f"pip install --no-deps {checkout}")
    bench = f"lvad-perception bench --model {tiny_model_file} --frames 3"
    output = environment.run(bench, status=2)
    found = re.fullmatch(r"lvad-perception: error: OpenCV cannot be imported with numpy 2.*(pip install .*)\n", output)
    assert found, output
    environment.install(found[1])
    environment.run(bench)
