import warnings

import pytest
import torch
from torch import nn

from lvad_training.model.torchscript import is_torchscript, read_torchscript


@pytest.fixture
def archive(tmp_path):
    """A layer's archive, with the layer's state dict."""
    layer = nn.Linear(2, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        torch.jit.script(layer).save(str(tmp_path / "archive.pt"))
    return tmp_path / "archive.pt", layer.state_dict()


def test_an_archive_is_read_without_a_warning(archive):
    path, wanted = archive
    assert is_torchscript(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = read_torchscript(path)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_other_files_are_none(archive, tmp_path):
    _, weights = archive
    torch.save(weights, tmp_path / "weights.pt")  # a zip, too
    (tmp_path / "text.pt").write_text("constants.pkl")
    assert not is_torchscript(tmp_path / "weights.pt")
    assert not is_torchscript(tmp_path / "text.pt")
