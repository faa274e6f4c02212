"""OpenCV that cannot be imported is one sentence, in every program."""

import os
import subprocess
import sys

import numpy as np
import pytest

from lvad_perception.errors import MissingDependencyError
from lvad_perception.media.opencv import import_opencv

PROGRAMS = {
    "lvad-perception: error: ": ["lvad_perception.cli", "info", "m.onnx"],
    "lvad-train: error: ": ["lvad_training.cli", "data", "check", "nowhere"],
    "perception: ": ["lvad_perception.node.main"],
    "evaluation: ": ["lvad_perception.node.evaluation"],
}
OTHER_NUMPY = """
import sys
sys.stderr.write("A module that was compiled using NumPy 1.x cannot be run in\\nNumPy 2\\n\\nTraceback ...")
raise ImportError("numpy.core.multiarray failed to import")
"""


def run(program, folder, arguments=None):
    module, *usual = PROGRAMS[program]
    words = [sys.executable, "-m", module, *(usual if arguments is None else arguments)]
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(words, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("program", PROGRAMS)
def test_an_opencv_for_another_numpy_is_one_sentence_and_status_2(tmp_path, program):
    (tmp_path / "cv2.py").write_text(OTHER_NUMPY)
    result = run(program, tmp_path)
    assert result.returncode == 2
    built_for, remedy = ("numpy 1", "'numpy<2'") if np.__version__[0] >= "2" else ("a newer one", "--upgrade numpy")
    assert result.stderr == (
        f"{program}OpenCV cannot be imported with numpy {np.__version__}, since it was built for {built_for}; into the "
        f"environment of {sys.executable}, pip install {remedy}\n"
    )


@pytest.mark.parametrize(
    ("failure", "sentence"),
    [
        (
            "ModuleNotFoundError(name='cv2')",
            r"OpenCV is not installed for .*; .*sudo apt install python3-opencv, or wi",
        ),
        ("ModuleNotFoundError(name='numpy')", r"OpenCV needs numpy, which is not installed for .*; pip install numpy"),
        (
            "ImportError('libGL.so.1: cannot open shared object file: No such file or directory')",
            r"OpenCV cannot be imported \(libGL\.so\.1: .*\); install that library, or .*'opencv-python-headless<5'",
        ),
        ("ImportError('bad luck')", r"OpenCV cannot be imported \(bad luck\); pip install --force-reinstall 'opencv"),
    ],
)
def test_every_cause_has_its_remedy(tmp_path, monkeypatch, failure, sentence):
    (tmp_path / "cv2.py").write_text(f"raise {failure}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "cv2", raising=False)
    with pytest.raises(MissingDependencyError, match=sentence):
        import_opencv()


def test_opencvs_own_warnings_are_printed(tmp_path, monkeypatch, capsys):
    (tmp_path / "cv2.py").write_text("import sys\nprint('a word of warning', file=sys.stderr)\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "cv2", raising=False)
    import_opencv()
    assert capsys.readouterr().err == "a word of warning\n"


def test_training_without_torch_is_one_sentence(tmp_path):
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')\n")
    result = run("lvad-train: error: ", tmp_path, ["evaluate", "model.pt"])
    assert result.returncode == 2
    assert result.stderr == "lvad-train: error: training needs torch; pip install 'lvad_perception[train]'\n"
