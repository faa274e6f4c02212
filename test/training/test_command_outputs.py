"""Where every command of both programs writes: on a full disk, into a read-only folder, to a reader that has gone.

The file is also the program that runs the commands, in a mount namespace of its own.
"""

import argparse
import contextlib
import io
import json
import os
import shlex
import shutil
import subprocess
import sys
import traceback
from pathlib import Path

import pytest
import yaml

from lvad_perception import cli as perception_cli
from lvad_training import cli as training_cli

COMMANDS = {
    "lvad-perception": {
        "bag from-dataset": "bag from-dataset {data} --split val -o {out}/bag",
        "bag from-video": "bag from-video {inputs}/video.mp4 -o {out}/bag",
        "replay": "replay {inputs}/bag --model {model} -o {out}/bag --overlay-video {out}/overlay.mp4",
        "evaluate": "evaluate {inputs}/predicted --json {out}/metrics.json",
        "report": "report {inputs}/predicted --output {out}/report.html",
        "bench": "bench --model {model} --size 64x48 --frames 4 --no-roofline --json {out}/b.json --plot {out}/b.svg",
        "quantize": "quantize {inputs}/convolutions.onnx -o {out}/int8.onnx --calibration {images}",
        "optimize": "optimize {model} -o {out}/model.engine --precision fp32 --cache-dir {out}/cache",
        "info": "info {model}",
    },
    "lvad-train": {
        "run": "run {inputs}/recipe.yaml --quiet --set output={out}/run",
        "demo": "demo --out {out}/demo --data {blobs} --steps 1",
        "evaluate": "evaluate {inputs}/run/model.pt --json {out}/metrics.json",
        "export": "export {inputs}/run/model.pt {out}/model.pt2",
        "assemble": "assemble {inputs}/run/model.pt {out}/assembled.pt2",
        "import": "import {inputs}/published.pth --output {out}/imported.pt",
        "slim": "slim {inputs}/run/model.pt {out}/slim.pt",
        "data lists": "data lists {blobs} {out}/lists.json --setting full --split val",
        "data sample": "data sample {out}/set --images 2 --workers 1",
        "data check": "data check {blobs} --workers 1",
        "report": "report {inputs}/run --output {out}/report.html",
        "pretrain": "pretrain --recipe {inputs}/pretrain.yaml --data {images} --out {out}/pretrained --quiet",
        "distil": "distil --teachers {inputs}/run/model.pt --data {images} --output {out}/distilled --quiet "
        "--held-out 0.2 --set model.network_hw=[64,96] --set train.steps=1 --set data.workers=0",
        "reproduce": "reproduce table4 --smoke --quiet --data {blobs} --set data.train_split=val --out {out}/table",
    },
}
BUFFERED = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
"""argparse passes over errors of the help text, which come at once without a buffer."""
REASONS = ("No space left", "Read-only", "ended with status 2", "no cache folder")
ONLY_PRINTS = {"info", "data check"}
EVERY = [(program, command) for program, commands in COMMANDS.items() for command in commands]
CONDITIONS = {
    # 0 or 24 KiB are left of 1 MiB: too little for anything, or for most
    "full": "mount -t tmpfs -o size=1m tmpfs {out} && head -c 1M /dev/zero >{out}/filler 2>/dev/null || true",
    "nearly full": "mount -t tmpfs -o size=1m tmpfs {out} && head -c 1000K /dev/zero >{out}/filler",
    "read-only": "mount -t tmpfs -o size=1m,ro tmpfs {out}",
    "no reader": "true",
}


def main(inputs, condition, results):
    """Run all commands, each in a fork of this process, and write what it did: status, standard error, files left."""
    metadata = json.loads((inputs / "facts.json").read_text())
    found = {}
    for program, command in EVERY:
        did = results.with_suffix(".one")
        child = os.fork()  # what a library does to memory after an error stays in there
        if child == 0:
            did.write_text(json.dumps(_run(program, command, condition, metadata)))
            os._exit(0)
        _, ended = os.waitpid(child, 0)
        found[f"{program} {command}"] = json.loads(did.read_text()) if ended == 0 else {"status": f"ended by {ended}"}
    results.write_text(json.dumps(found))


def _run(program, command, condition, metadata):
    out = Path(metadata["out"])
    programs = {"lvad-perception": perception_cli.main, "lvad-train": training_cli.main}
    said = io.StringIO()
    with contextlib.ExitStack() as changed:
        if command == "optimize":
            changed.enter_context(_fake_gpu())
        changed.enter_context(contextlib.redirect_stderr(said))
        printed = _gone() if condition == "no reader" else io.StringIO()
        changed.enter_context(contextlib.redirect_stdout(printed))
        words = shlex.split(COMMANDS[program][command].format(**metadata))
        try:
            status = programs[program](words)
        except BaseException:
            status = traceback.format_exc()
    left = [str(path.relative_to(out)) for path in out.rglob("*") if path.is_file() and path.name != "filler"]
    for path in () if condition == "read-only" else out.iterdir():
        if path.name != "filler":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return {"status": status, "stderr": said.getvalue(), "left": sorted(left)}


def _gone():
    read, write = os.pipe()
    os.close(read)
    return os.fdopen(write, "w")


@contextlib.contextmanager
def _fake_gpu():
    from test.perception.fake_cuda import FakeCuda
    from test.perception.fake_tensorrt import make_tensorrt

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "tensorrt", make_tensorrt("10.3.0"))
        patch.setattr("lvad_perception.conversion.optimize.Cuda", FakeCuda)
        yield


@pytest.fixture(scope="module")
def inputs(tmp_path_factory, small_split, blobs, tiny_model_file):
    """A folder of everything that the commands read."""
    pytest.importorskip("av")
    pytest.importorskip("lightly")
    import numpy as np
    import torch

    from lvad_perception.media.video import write_video
    from lvad_training.recipe.config import recipe_to_dict

    from ..perception.test_quantize import with_convolutions
    from .conftest import small_recipe
    from .test_pretrain import SMALL as PRETRAIN
    from .zoo_files import mmseg_semantic_fpn

    root = tmp_path_factory.mktemp("inputs")
    (root / "out").mkdir()
    recipe = small_recipe(blobs, output=str(root / "run"), train={"steps": 1, "checkpoint_every": 1})
    (root / "recipe.yaml").write_text(yaml.safe_dump(recipe_to_dict(recipe)))
    (root / "pretrain.yaml").write_text(yaml.safe_dump({**PRETRAIN, "method": "moco_v2"}))
    write_video(root / "video.mp4", np.zeros((4, 64, 64, 3), np.uint8), 10)
    torch.save(mmseg_semantic_fpn(), root / "published.pth")
    shutil.copy(tiny_model_file, root / "convolutions.onnx")
    with_convolutions(root / "convolutions.onnx")
    steps = [
        (training_cli.main, f"run {root}/recipe.yaml --quiet"),
        (perception_cli.main, f"bag from-dataset {small_split} --split val -o {root}/bag"),
        (perception_cli.main, f"replay {root}/bag --model {tiny_model_file} -o {root}/predicted"),
    ]
    assert [program(line.split()) for program, line in steps] == [0, 0, 0]
    metadata = {"inputs": root, "out": root / "out", "data": small_split, "blobs": blobs, "model": tiny_model_file}
    metadata["images"] = blobs / "images/100k/val"
    (root / "facts.json").write_text(json.dumps({key: str(value) for key, value in metadata.items()}))
    return root


@pytest.fixture(scope="module")
def outcome(inputs):
    """``outcome(condition)`` -> what every command did under it."""
    found = {}

    def of(condition):
        if condition not in found:
            results = inputs / f"{condition}.json"
            code = "from test.training.test_command_outputs import main; from pathlib import Path; "
            code += f"main(Path({str(inputs)!r}), {condition!r}, Path({str(results)!r}))"
            mount = CONDITIONS[condition].format(out=shlex.quote(str(inputs / "out")))
            script = f"{mount} && exec {shlex.quote(sys.executable)} -c {shlex.quote(code)}"
            unshare = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
            if subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode:
                pytest.skip("this machine gives no mount namespace, which a full disk needs")
            ended = subprocess.run(
                [*unshare, "sh", "-c", script],
                cwd=Path(__file__).resolve().parents[2],
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                capture_output=True,
                text=True,
                check=False,
            )
            assert results.is_file(), (ended.returncode, ended.stderr)
            found[condition] = json.loads(results.read_text())
        return found[condition]

    return of


@pytest.mark.slow
class TestEveryCommand:
    @pytest.mark.parametrize("condition", ["full", "nearly full", "read-only"])
    @pytest.mark.parametrize(("program", "command"), EVERY, ids=[" ".join(each) for each in EVERY])
    def test_where_nothing_can_be_written_it_says_so_in_one_sentence(self, outcome, program, command, condition):
        found = outcome(condition)[f"{program} {command}"]
        assert found["status"] in ((0,) if command in ONLY_PRINTS else (0, 2) if condition == "nearly full" else (2,))
        if found["status"] == 2:
            last = found["stderr"].splitlines()[-1]
            assert last.startswith(f"{program}: error: ")
            assert any(reason in last for reason in REASONS)
            assert "Traceback" not in found["stderr"]
        assert not [name for name in found["left"] if "partial" in name]
        if condition != "nearly full":  # where one of two files may fit
            assert found["left"] == []

    @pytest.mark.parametrize(("program", "command"), EVERY, ids=[" ".join(each) for each in EVERY])
    def test_when_nobody_reads_any_more_it_says_so(self, outcome, program, command):
        found = outcome("no reader")[f"{program} {command}"]
        assert found["status"] == 141
        last = found["stderr"].splitlines()[-1]
        assert last.startswith(f"{program}: ended, since nobody reads its output any more; ")
        assert "Traceback" not in found["stderr"]
        assert not [name for name in found["left"] if "partial" in name]


def test_no_command_is_left_out():
    """Of those that the programs know; an alias is not another command."""

    def leaves(parser, words=()):
        groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
        if not groups:
            yield " ".join(words)
        for group in groups:
            names = {id(command): name for name, command in reversed(group.choices.items())}
            for command in dict.fromkeys(group.choices.values()):
                yield from leaves(command, (*words, names[id(command)]))

    known = {"lvad-perception": perception_cli._parser(), "lvad-train": training_cli._parser()}
    assert {program: set(leaves(parser)) for program, parser in known.items()} == {
        program: set(commands) for program, commands in COMMANDS.items()
    }


@pytest.mark.parametrize("words", [["--help"], ["data", "check", "ROOT", "--workers", "1"]], ids=" ".join)
def test_the_program_ends_well_when_its_pipe_was_closed(blobs, words):
    """Python itself would complain, after the end."""
    with _gone() as closed:
        command = [sys.executable, "-m", "lvad_training.cli", *(word.replace("ROOT", str(blobs)) for word in words)]
        done = subprocess.run(command, stdout=closed, stderr=subprocess.PIPE, text=True, check=False, env=BUFFERED)
    assert done.returncode == 141
    assert done.stderr.startswith("lvad-train: ended, since nobody reads its output any more; ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("words", [["--help"], ["data", "check", "ROOT", "--workers", "1"]], ids=" ".join)
def test_standard_output_on_a_full_disk(blobs, words):
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "lvad_training.cli", *(word.replace("ROOT", str(blobs)) for word in words)]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, env=BUFFERED)
    assert done.returncode == 2
    assert done.stderr.startswith("lvad-train: error: standard output cannot be used (No space left on device); free ")
    assert done.stderr.count("\n") == 1
