import json
import os
import signal
import subprocess
import sys
import time

import pytest

from lvad_perception import __version__
from lvad_perception.cli import main
from lvad_perception.commands.arguments import progress_bar

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

COMMANDS = (
    [],
    ["bag"],
    ["bag", "from-dataset"],
    ["bag", "from-video"],
    ["replay"],
    ["evaluate"],
    ["bench"],
    ["optimize"],
    ["quantize"],
    ["info"],
)


@pytest.fixture
def run(capsys):
    """Run the command line: (status, standard output, standard error)."""

    def run(*argv):
        try:
            status = main([str(argument) for argument in argv])
        except SystemExit as exit_:  # argparse
            status = exit_.code
        return (status, *capsys.readouterr())

    return run


# The command line with an engine that takes its time, so that a signal finds it at work on any machine.
SLOWLY = """
import signal, sys, time
from lvad_perception.engines.onnx import OnnxEngine
signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in a shell's background ignore it, their programs too
submit = OnnxEngine.submit
OnnxEngine.submit = lambda engine, images: time.sleep(0.2) or submit(engine, images)
from lvad_perception.cli import main
sys.exit(main())
"""


def program(*argv, slowly=False, **options):
    """Start the command line as a program of its own."""
    command = [sys.executable, *(["-c", SLOWLY] if slowly else ["-m", "lvad_perception.cli"]), *map(str, argv)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


class TestHelp:
    @pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
    def test_every_command_explains_each_of_its_arguments(self, run, command):
        status, out, _ = run(*command, "--help")
        assert status == 0
        assert out.startswith(f"usage: {' '.join(['lvad-perception', *command])}")

    def test_version(self, run):
        assert run("--version")[:2] == (0, f"lvad-perception {__version__}\n")

    def test_it_starts_without_the_heavy_libraries(self):
        code = "import sys, lvad_perception.cli; print([m for m in ('cv2', 'rosbags', 'torch') if m in sys.modules])"
        assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


class TestWholeChain:
    def test_from_files_to_the_same_metrics_both_ways(self, run, tmp_path, small_split, tiny_model_file):
        bag, predicted = tmp_path / "bag", tmp_path / "predicted"
        status, out, err = run("bag", "from-bdd100k", small_split, "--split", "val", "--output", bag)
        assert (status, err) == (0, "")
        assert out == f"{bag}: 8 images in 0.7 s; annotated: detection 6, semantic 4, drivable 3\n"

        status, out, err = run("replay", bag, "--model", tiny_model_file, "--output", predicted, "--threads", "1")
        assert (status, err) == (0, "")
        assert out.startswith(f"{predicted}: 8 images, 32 detections; ")
        assert out.endswith("  /camera/image_raw/compressed: 8 processed, 0 skipped\n")

        status, bag_table, err = run("evaluate", predicted, "--json", tmp_path / "bag.json")
        assert (status, err) == (0, "")
        assert "detection, 6 images" in bag_table
        arguments = (
            "--model",
            tiny_model_file,
            "--data",
            small_split,
            "--split",
            "val",
            "--json",
            tmp_path / "b/f.json",
        )
        status, table, err = run("evaluate", *arguments)
        assert (status, table, err) == (0, bag_table, "")
        assert json.loads((tmp_path / "bag.json").read_text()) == json.loads((tmp_path / "b/f.json").read_text())

    def test_problems_go_to_standard_error_and_the_rest_is_done(self, run, tmp_path, make_small_split, tiny_model_file):
        root = make_small_split(tmp_path / "bdd")
        (root / "images/100k/val/frame-000.jpg").write_bytes(b"\xff\xd8\xff")
        status, out, err = run("bag", "from-bdd100k", root, "--split", "val", "-o", tmp_path / "bag")
        assert status == 3
        assert "7 images" in out
        assert "1 images or annotations left out" in out
        assert "frame-000.jpg: it is a truncated image" in err

    def test_a_loss_shows_in_the_status_of_every_command(self, run, tmp_path, small_split, tiny_model_file):
        """The bag counts more messages than it holds."""
        bag, predicted = tmp_path / "bag", tmp_path / "predicted"
        run("bag", "from-bdd100k", small_split, "--split", "val", "-o", bag)

        def count_more(folder):
            text = (folder / "metadata.yaml").read_text()
            assert text.count("- message_count: 8\n") >= 1
            (folder / "metadata.yaml").write_text(text.replace("- message_count: ", "- message_count: 1"))

        count_more(bag)
        status, out, err = run("replay", bag, "--model", tiny_model_file, "-o", predicted, "--threads", "1")
        assert status == 3
        assert "  /camera/image_raw/compressed: 8 processed, 10 skipped\n" in out
        assert "/camera/image_raw/compressed 10 of 18 messages: " in err
        assert run("evaluate", predicted)[0] == 0

        count_more(predicted)
        status, out, err = run("evaluate", predicted)
        assert (status, "/camera/detections 10 of 18 messages: " in err) == (3, True)
        assert "detection, 6 images" in out
        assert run("report", predicted, "--output", tmp_path / "r.html")[0] == 3

    def test_bench(self, run, tmp_path, tiny_model_file):
        arguments = ("--size", "64x48", "--frames", "6", "--no-roofline", "--json", tmp_path / "bench.json")
        status, out, err = run("bench", "--model", tiny_model_file, *arguments)
        assert (status, err) == (0, "")
        assert [line.split()[0] for line in out.splitlines()[4:]] == [
            *("decode", "preprocess", "engine", "postprocess", "messages", "total", "beside", "stages")
        ]
        metadata = json.loads((tmp_path / "bench.json").read_text())
        assert (metadata["frames"], metadata["size_hw"], metadata["batch_size"]) == (6, [48, 64], 2)

    def test_bench_with_everything(self, run, tmp_path, make_tiny_model, make_manifest, tiny_model_file):
        single = make_tiny_model(tmp_path / "single.onnx", manifest=make_manifest(batch_size=1))
        plot = tmp_path / "plots" / "bench.svg"
        status, out, err = run(
            *("bench", "--model", tiny_model_file, "--size", "64x48", "--frames", "6", "--threads", "1"),
            *("--compare", single, "--batches", single, "--reference", tiny_model_file, "--plot", plot),
            *("--json", tmp_path / "bench.json"),
        )
        assert (status, err) == (0, "")
        metadata = json.loads((tmp_path / "bench.json").read_text())
        assert list(metadata["rivals"]) == ["single.onnx"]
        assert [row["batch_size"] for row in metadata["batches"]] == [2, 1]
        assert "roofline: not known, since the graph has no convolution and no matrix product" in out
        assert metadata["agreement"]["within"]
        assert "within its precision's tolerance" in out
        assert plot.read_text().startswith("<svg")

    def test_info(self, run, tiny_model_file):
        status, out, _ = run("info", tiny_model_file)
        assert status == 0
        assert "input            64x48, batch 2" in out
        assert "drivable         direct, alternative, background" in out
        status, out, _ = run("info", tiny_model_file, "--json")
        assert json.loads(out)["network_hw"] == [48, 64]

    def test_info_of_a_file_for_one_camera_size(self, run, tmp_path, make_tiny_model, make_manifest):
        manifest = make_manifest(network_hw=(32, 32), camera_hw=(48, 64))
        status, out, _ = run("info", make_tiny_model(tmp_path / "camera.onnx", manifest=manifest))
        assert status == 0
        assert "input            64x48, resized inside to 32x32, batch 2" in out


class TestBadInput:
    """One sentence that names the thing and the remedy, status 2, never a traceback."""

    def refused(self, run, *argv):
        status, out, err = run(*argv)
        assert (status, out) == (2, "")
        assert err.startswith("lvad-perception: error: ")
        assert err.count("\n") == 1
        return err

    @pytest.mark.parametrize(
        ("name", "sentence"),
        [
            ("gone.onnx", "does not exist; write a model file with: lvad-train export"),
            ("text.onnx", "is truncated or no ONNX file: copy it again or export the model again"),
            ("model.engine", "lvad-perception optimize"),
            ("", "is a directory; name the .onnx file in it"),
        ],
    )
    @pytest.mark.parametrize("command", ["info", "bench", "replay", "evaluate"])
    def test_a_wrong_model(self, run, tmp_path, small_split, command, name, sentence):
        (tmp_path / "text.onnx").write_text("no model")
        (tmp_path / "model.engine").touch()
        model = tmp_path / name
        arguments = {
            "info": [model],
            "bench": ["--model", model],
            "replay": [tmp_path / "bag", "--model", model, "--output", tmp_path / "out"],
            "evaluate": ["--model", model, "--data", small_split, "--split", "val"],
        }[command]
        assert sentence in self.refused(run, command, *arguments)

    def test_a_missing_bag(self, run, tmp_path, tiny_model_file):
        err = self.refused(run, "replay", tmp_path / "gone", "--model", tiny_model_file, "-o", tmp_path / "out")
        assert f"{tmp_path / 'gone'} does not exist; name a bag folder" in err
        assert "does not exist; name a bag folder" in self.refused(run, "evaluate", tmp_path / "gone")
        assert "does not exist" in self.refused(run, "bench", "--model", tiny_model_file, "--bag", tmp_path / "gone")

    def test_a_missing_data_set_and_split(self, run, tmp_path, small_split, tiny_model_file):
        arguments = ("--split", "val", "-o", tmp_path / "out")
        assert "gone" in self.refused(run, "bag", "from-bdd100k", tmp_path / "gone", *arguments)
        evaluate = ("evaluate", "--model", tiny_model_file, "--data", small_split, "--split")
        assert "night" in self.refused(run, *evaluate, "night")

    def test_a_missing_video(self, run, tmp_path):
        pytest.importorskip("lvad_perception.media.video")
        assert "gone.mp4" in self.refused(run, "bag", "from-video", tmp_path / "gone.mp4", "-o", tmp_path / "out")

    def test_half_of_the_arguments(self, run, tmp_path, tiny_model_file):
        err = self.refused(run, "evaluate", "--model", tiny_model_file)
        assert "--data --split is missing; name a replayed bag, or --model, --data and --split" in err
        err = self.refused(run, "evaluate", tmp_path / "bag", "--model", tiny_model_file)
        assert "a bag needs no --model" in err

    @pytest.mark.parametrize(
        ("option", "value", "sentence"),
        [
            ("--score-threshold", "1.5", "score threshold 1.5 is outside [0, 1]"),
            ("--threads", "0", "0 threads cannot run a model"),
            ("--precision", "bf16", "in fp32, as it was written, not in bf16; leave the precision to the file, or ask"),
            ("--topic", "/other", "no image topic /other; its image topics are /camera/image_raw/compressed"),
        ],
    )
    def test_impossible_values(self, run, tmp_path, small_split, tiny_model_file, option, value, sentence):
        run("bag", "from-bdd100k", small_split, "--split", "val", "-o", tmp_path / "bag")
        err = self.refused(
            run, "replay", tmp_path / "bag", "--model", tiny_model_file, "-o", tmp_path / "out", option, value
        )
        assert sentence in err
        assert not (tmp_path / "out").exists()

    def test_the_output_exists(self, run, tmp_path, small_split):
        arguments = ("bag", "from-bdd100k", small_split, "--split", "val", "-o", tmp_path / "bag")
        run(*arguments)
        assert "exists already; choose another name or replace it with --overwrite" in self.refused(run, *arguments)
        assert run(*arguments, "--overwrite")[0] == 0

    def test_json_that_cannot_be_written(self, run, tmp_path, tiny_model_file):
        arguments = ("--size", "64x48", "--frames", "2", "--no-roofline", "--json", "/proc/none.json")
        status, _, err = run("bench", "--model", tiny_model_file, *arguments)
        assert status == 2
        assert "/proc/none.json cannot be written" in err

    def test_a_plot_that_is_no_svg(self, run, tmp_path, tiny_model_file):
        err = self.refused(run, "bench", "--model", tiny_model_file, "--plot", tmp_path / "bench.png")
        assert "bench.png is no SVG file; name one that ends in .svg" in err

    @pytest.mark.parametrize("size", ["big", "0x10", "64x", "64x48x3"])
    def test_a_size_that_is_none(self, run, tiny_model_file, size):
        status, _, err = run("bench", "--model", tiny_model_file, "--size", size)
        assert status == 2
        assert "is no size; write it as 1280x720" in err


class TestSignals:
    @pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
    def test_an_interrupted_replay_leaves_nothing(
        self, run, tmp_path, make_small_split, tiny_model_file, number, status
    ):
        root = make_small_split(tmp_path / "bdd", frames=60)
        assert run("bag", "from-bdd100k", root, "--split", "val", "-o", tmp_path / "bag")[0] == 0
        place = tmp_path / "place"
        arguments = ("replay", tmp_path / "bag", "--model", tiny_model_file, "--output", place / "out")
        process = program(*arguments, slowly=True)
        deadline = time.monotonic() + 60
        while not place.exists() and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
        assert process.returncode == status, err
        assert "Traceback" not in err
        assert list(place.iterdir()) == []

    def test_a_closed_pipe_is_reported_and_is_the_status_of_sigpipe(self, tiny_model_file):
        read, write = os.pipe()
        os.close(read)
        with os.fdopen(write, "w") as closed:
            command = [sys.executable, "-m", "lvad_perception.cli", "info", str(tiny_model_file)]
            done = subprocess.run(command, stdout=closed, stderr=subprocess.PIPE, text=True)
        said = "lvad-perception: ended, since nobody reads its output any more; unfinished output was removed\n"
        assert (done.returncode, done.stderr) == (141, said)


def test_a_progress_bar_appears_with_the_first_report(capsys):
    with progress_bar() as show:
        assert capsys.readouterr().err == ""
        show(0.5, "building")
        assert "building:  50%" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["bag", "from-bdd100k", "~/in", "--split", "val", "--output", "~/out"],
        ["bag", "from-video", "~/in", "--output", "~/out"],
        ["replay", "~/in", "--model", "~/in", "--output", "~/out"],
        ["evaluate", "~/in"],
        ["report", "~/in", "--output", "~/out.html"],
        ["bench", "--model", "~/in"],
        ["optimize", "~/in", "--output", "~/out.engine"],
        ["quantize", "~/in", "--output", "~/out.onnx", "--calibration", "~/images"],
        ["info", "~/in"],
    ],
)
def test_a_tilde_in_an_argument_is_the_home_folder(run, monkeypatch, tmp_path, words):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    status, _, error = run(*words)
    assert status == 2
    assert f"{tmp_path}/in" in error
    assert "~" not in error
    assert list(tmp_path.iterdir()) == []
