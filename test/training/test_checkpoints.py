import contextlib
import errno
import os

import pytest
import torch

from lvad_perception.errors import CheckpointError
from lvad_training import checkpoints
from lvad_training.build import build_model, network_of
from lvad_training.checkpoints import (
    Checkpoint,
    load_checkpoint,
    load_weights,
    resolve_start,
    save_checkpoint,
    slim,
    weights_sha256,
)
from lvad_training.recipe.config import parse_recipe


@pytest.fixture
def checkpoint(make_recipe, net):
    return Checkpoint(make_recipe(), 3, net.state_dict(), {"detection": None}, {"step": torch.tensor(3)})


def test_what_is_saved_is_loaded(tmp_path, checkpoint):
    save_checkpoint(tmp_path / "a" / "model.pt", checkpoint)
    found = load_checkpoint(tmp_path / "a" / "model.pt")
    assert found.recipe == checkpoint.recipe
    assert (found.step, found.metrics) == (3, {"detection": None})
    assert weights_sha256(found.weights) == weights_sha256(checkpoint.weights)
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["model.pt"]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("written", [0, 1, 20])
def test_an_error_while_torch_writes_does_not_end_the_process(tmp_path, checkpoint, monkeypatch, error, written):
    """torch's writer would call std::terminate."""
    (tmp_path / "model.pt").write_text("old")
    replacing, writes = checkpoints.replacing, []

    class Failing:
        def write(self, data):
            writes.append(len(data))
            if len(writes) > written:
                raise error

    @contextlib.contextmanager
    def failing(path):
        with replacing(path):
            yield Failing()

    monkeypatch.setattr(checkpoints, "replacing", failing)
    with pytest.raises(KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else CheckpointError):
        save_checkpoint(tmp_path / "model.pt", checkpoint)
    assert len(writes) == written + 1
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_a_slim_checkpoint_is_half_as_large_and_still_loads(tmp_path, checkpoint):
    save_checkpoint(tmp_path / "full.pt", checkpoint)
    save_checkpoint(tmp_path / "slim.pt", slim(checkpoint))
    assert (tmp_path / "slim.pt").stat().st_size < 0.75 * (tmp_path / "full.pt").stat().st_size
    net = build_model(checkpoint.recipe.model)
    load_weights(net, load_checkpoint(tmp_path / "slim.pt").weights, source="slim.pt")
    name, value = next(iter(net.state_dict().items()))
    torch.testing.assert_close(value, checkpoint.weights[name], atol=1e-3, rtol=1e-2)
    assert value.dtype == torch.float32


def test_a_slim_checkpoint_names_no_folder_of_the_machine(make_recipe, net):
    made = Checkpoint(make_recipe("/home/someone/bdd100k", output="/home/someone/runs/best"), 1, net.state_dict())
    recipe = slim(made).recipe
    assert (recipe.data.root, recipe.output) == ("bdd100k", "best")


def test_a_checkpoint_names_its_text_encoder_but_not_where_it_lay(tmp_path, net, make_recipe):
    text_encoder = {"kind": "huggingface", "name": "/home/someone/minilm", "weights": None}
    recipe = make_recipe(model={"language": {"text_encoder": text_encoder}, "network_hw": [64, 96]})
    metadata = {"name": "huggingface minilm", "sha256": "0" * 64, "width": 12, "token_width": 6}
    save_checkpoint(tmp_path / "slim.pt", slim(Checkpoint(recipe, 1, net.state_dict(), text_encoder=metadata)))
    found = load_checkpoint(tmp_path / "slim.pt")
    assert found.text_encoder == metadata
    assert found.recipe.model.language.text_encoder.name == "minilm"


def test_the_shipped_checkpoint_fits_its_preset_and_is_small():
    path = resolve_start("shipped/edge")
    found = load_checkpoint(path)
    assert path.stat().st_size <= 10e6
    assert found.recipe.model == parse_recipe({"preset": "edge", "data": {"root": "x"}}, [], source="test").model
    load_weights(build_model(found.recipe.model), found.weights, source=str(path))
    assert found.metrics["drivable"]["three_class"]["mean_iou"] > 90
    assert found.text_encoder is None


def test_the_hash_depends_on_every_value(checkpoint):
    changed = {name: value.clone() for name, value in checkpoint.weights.items()}
    changed["detection.boxes"][0, 0] += 1e-6
    assert weights_sha256(changed) != weights_sha256(checkpoint.weights)


def test_weights_of_another_model_are_refused(make_recipe, checkpoint):
    other = build_model(make_recipe(model={"network_hw": [64, 96], "neck_width": 32}).model)
    with pytest.raises(CheckpointError, match=r"do not fit the configured model \(\d+ tensors differ, first detection"):
        load_weights(other, checkpoint.weights, source="model.pt")


def test_building_the_network_of_a_checkpoint_draws_no_random_numbers(checkpoint):
    before = torch.get_rng_state()
    net = network_of(checkpoint, source="model.pt")
    assert torch.equal(torch.get_rng_state(), before)
    assert weights_sha256(net.state_dict()) == weights_sha256(checkpoint.weights)


def test_a_checkpoint_that_cannot_be_written_is_one_sentence(tmp_path, checkpoint):
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=r"model.pt: cannot be written \(File exists\); free disk"):
        save_checkpoint(tmp_path / "file" / "model.pt", checkpoint)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", None], ids=["empty", "text", "truncated"])
def test_a_broken_file_is_named(tmp_path, checkpoint, content):
    path = tmp_path / "model.pt"
    save_checkpoint(path, checkpoint)
    path.write_bytes(path.read_bytes()[:-4000] if content is None else content)
    with pytest.raises(CheckpointError, match=r"model.pt: not a readable checkpoint .*train again or copy it again"):
        load_checkpoint(path)


def test_a_foreign_file_is_named(tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match=r"other.pt: not a checkpoint of this package"):
        load_checkpoint(tmp_path / "other.pt")


def test_a_file_with_code_in_it_is_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    torch.save({"format": Trap()}, tmp_path / "trap.pt")
    with pytest.raises(CheckpointError, match="not a readable checkpoint"):
        load_checkpoint(tmp_path / "trap.pt")
    assert not (tmp_path / "sprung").exists()


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="no such checkpoint; check the path"):
        load_checkpoint(tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match="shipped/huge: no such starting checkpoint; the package ships"):
        resolve_start("shipped/huge")
