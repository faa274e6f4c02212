"""``lvad-perception``: the perception without ROS, on bags, videos and data sets."""

import argparse
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from lvad_perception import __version__
from lvad_perception.errors import ConfigError, LvadError

STATUS_BAD_INPUT: Final = 2
STATUS_INTERRUPTED: Final = 128 + signal.SIGINT

_EXAMPLES: Final = """\
examples:
  lvad-perception bag from-bdd100k bdd100k --split val --output val_bag
  lvad-perception replay val_bag --model model.onnx --output predicted_bag --overlay-video overlay.mp4
  lvad-perception evaluate predicted_bag
  lvad-perception evaluate --model model.onnx --data bdd100k --split val --json metrics.json
  lvad-perception report predicted_bag --output report.html
  lvad-perception bench --model model.onnx --frames 200
"""
_CACHE_HELP: Final = "folder for parsed labels (default: the user's cache folder)"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0 when done; 2 after one sentence on standard error when something given is wrong; 130 after Ctrl-C.
    """
    arguments = _parser().parse_args(argv)
    run: Callable[[argparse.Namespace], None] = arguments.run
    try:
        with _terminable():
            run(arguments)
            sys.stdout.flush()
    except LvadError as err:
        print(f"lvad-perception: error: {err}", file=sys.stderr)
        return STATUS_BAD_INPUT
    except KeyboardInterrupt:
        print("lvad-perception: interrupted; unfinished output was removed", file=sys.stderr)
        return STATUS_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output (head, less) has gone, which is no error; Python would complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _bag_from_bdd100k(arguments: argparse.Namespace) -> None:
    from lvad_perception.bags.convert import from_bdd100k

    summary = from_bdd100k(
        arguments.root,
        arguments.split,
        arguments.output,
        storage=arguments.storage,
        overwrite=arguments.overwrite,
        camera=arguments.camera,
        frame_id=arguments.frame_id,
        rate_hz=arguments.rate,
        limit=arguments.limit,
        cache_dir=arguments.cache_dir,
        progress=True,
    )
    truth = ", ".join(f"{task} {count}" for task, count in summary.truth.items())
    print(f"{arguments.output}: {summary.images} images in {summary.duration_s:.1f} s; annotated: {truth}")
    _print_skipped(summary.problems, "images or annotations")


def _bag_from_video(arguments: argparse.Namespace) -> None:
    from lvad_perception.bags.convert import from_video

    summary = from_video(
        arguments.video,
        arguments.output,
        storage=arguments.storage,
        overwrite=arguments.overwrite,
        camera=arguments.camera,
        frame_id=arguments.frame_id,
        raw=arguments.raw,
        every=arguments.every,
        progress=True,
    )
    print(f"{arguments.output}: {summary.images} images in {summary.duration_s:.1f} s")


def _replay(arguments: argparse.Namespace) -> None:
    from lvad_perception.bags.replay import replay

    with _perceiver(arguments, default_threshold=0.0) as perceiver:
        summary = replay(
            arguments.bag,
            perceiver,
            arguments.output,
            topics=arguments.topic,
            storage=arguments.storage,
            overwrite=arguments.overwrite,
            images=arguments.images,
            confidence=arguments.confidence,
            overlay_video=arguments.overlay_video,
            progress=True,
        )
    rate = summary.images / summary.seconds if summary.seconds else 0.0
    print(
        f"{arguments.output}: {summary.images} images, {summary.detections} detections; {rate:.1f} images/s, "
        f"engine {summary.engine_ms:.1f} ms"
    )
    for topic, count in summary.cameras.items():
        print(f"  {topic}: {count} processed, {summary.skipped[topic]} skipped")
    if arguments.overlay_video is not None and arguments.overlay_video.exists():
        print(f"{arguments.overlay_video}: the predictions drawn in")


def _evaluate(arguments: argparse.Namespace) -> None:
    from lvad_perception.bags.evaluate import evaluate_bag, evaluate_dataset

    needed = {"--model": arguments.model, "--data": arguments.data, "--split": arguments.split}
    if arguments.bag is not None:
        given = [option for option, value in needed.items() if value is not None]
        if given:
            raise ConfigError(f"a bag needs no {' '.join(given)}; leave it out, or leave out the bag")
        metrics = evaluate_bag(arguments.bag, progress=True)
    else:
        missing = [option for option, value in needed.items() if value is None]
        if missing:
            raise ConfigError(f"{' '.join(missing)} is missing; name a replayed bag, or --model, --data and --split")
        with _perceiver(arguments, default_threshold=0.0) as perceiver:
            metrics = evaluate_dataset(
                perceiver,
                arguments.data,
                arguments.split,
                limit=arguments.limit,
                cache_dir=arguments.cache_dir,
                progress=True,
            )
    print(metrics.to_text())
    _write_json(arguments.json, metrics.to_dict())


def _report(arguments: argparse.Namespace) -> None:
    from lvad_perception.bags.report import report_bag

    if arguments.examples < 1:
        raise ConfigError(f"--examples {arguments.examples} shows nothing; give at least 1")
    report_bag(
        arguments.bag,
        arguments.output,
        training=arguments.training,
        examples=arguments.examples,
        score_threshold=arguments.score_threshold,
        commands=tuple(arguments.command or ()),
        progress=True,
    )
    print(f"{arguments.output}: open it in a browser")


def _bench(arguments: argparse.Namespace) -> None:
    from lvad_perception.benchmark import bag_frames, folder_frames, run_benchmark, synthetic_frames

    with _perceiver(arguments, default_threshold=None) as perceiver:
        if arguments.bag is not None:
            frames, source = bag_frames(arguments.bag), str(arguments.bag)
        elif arguments.images is not None:
            frames, source = folder_frames(arguments.images), str(arguments.images)
        else:
            width, height = arguments.size
            frames, source = synthetic_frames((height, width)), "synthetic JPEG"
        result = run_benchmark(
            perceiver, frames, source=source, count=arguments.frames, warm_up=arguments.warm_up, progress=True
        )
    print(result.to_text())
    _write_json(arguments.json, result.to_dict())


def _info(arguments: argparse.Namespace) -> None:
    from lvad_perception.engines import open_engine

    engine = open_engine(arguments.model)
    facts = json.loads(engine.manifest.to_json())
    if arguments.json:
        print(json.dumps(facts, indent=2, sort_keys=True))
        return
    height, width = engine.manifest.network_hw
    print(f"{arguments.model} ({arguments.model.stat().st_size / 2**20:.1f} MiB), preset {facts['preset']}")
    print(f"  written by       {facts['created_by']}")
    print(f"  weights          sha256 {facts['weights_sha256']}")
    print(f"  input            {width}x{height}, batch {facts['batch_size']}")
    print(f"  boxes            at most {facts['max_detections']}, published from a score of {facts['score_threshold']}")
    for task, names in facts["classes"].items():
        print(f"  {task:<16} {', '.join(names)}")
    for key, value in facts["training"].items():
        print(f"  {'training ' + key:<16} {value if isinstance(value, str) else json.dumps(value)}")
    print(f"  runs here on     {engine.description}")
    engine.close()


def _perceiver(arguments: argparse.Namespace, *, default_threshold: float | None) -> Any:
    from lvad_perception.engines import open_engine
    from lvad_perception.perceiver import Perceiver

    threshold = getattr(arguments, "score_threshold", None)
    engine = open_engine(arguments.model, threads=arguments.threads)
    return Perceiver(engine, score_threshold=default_threshold if threshold is None else threshold)


def _print_skipped(count: int, what: str) -> None:
    if count:
        print(f"  {count} {what} left out")


def _write_json(path: Path | None, facts: dict[str, Any]) -> None:
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    except OSError as err:
        raise ConfigError(f"{path} cannot be written ({err.strerror}); choose another file for --json") from err


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lvad-perception",
        description="Find traffic objects, segment the scene and the drivable area in recorded images, without ROS.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"lvad-perception {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    bag = commands.add_parser("bag", help="make a rosbag2 bag from a data set or a video")
    sources = bag.add_subparsers(title="sources", required=True, metavar="SOURCE")
    command = _command(sources, "from-bdd100k", _bag_from_bdd100k, "a split in BDD100K's layout, with its annotation")
    command.add_argument("root", type=Path, metavar="ROOT", help="folder with images/ and labels/")
    command.add_argument("--split", required=True, help="name of the split, such as val")
    _add_bag_output(command)
    _add_camera(command)
    command.add_argument("--rate", type=float, default=10.0, metavar="HZ", help="images a second (default: 10)")
    command.add_argument("--limit", type=int, metavar="N", help="only the first N images by name")
    command.add_argument("--cache-dir", type=Path, metavar="DIR", help=_CACHE_HELP)
    command = _command(sources, "from-video", _bag_from_video, "a video file, with its own time line")
    command.add_argument("video", type=Path, metavar="VIDEO", help="any video that FFmpeg decodes")
    _add_bag_output(command)
    _add_camera(command)
    command.add_argument("--raw", action="store_true", help="lossless rgb8 images instead of JPEG")
    command.add_argument("--every", type=int, default=1, metavar="N", help="keep each N-th frame (default: 1)")

    command = _command(
        commands, "replay", _replay, "run a model on a bag's images and write a bag with its predictions"
    )
    command.add_argument("bag", type=Path, metavar="BAG", help="bag folder, or a .mcap or .db3 file")
    _add_model(command, required=True)
    _add_bag_output(command)
    command.add_argument(
        "--topic", action="append", default=[], help="image topic; repeat for several (default: every camera)"
    )
    command.add_argument(
        "--score-threshold",
        type=float,
        metavar="S",
        help="leave out boxes with a lower score (default: 0, which evaluation needs)",
    )
    command.add_argument("--confidence", action="store_true", help="also write the semantic confidence")
    command.add_argument(
        "--no-images", dest="images", action="store_false", help="do not copy the source images into the output"
    )
    command.add_argument(
        "--overlay-video", type=Path, metavar="FILE.mp4", help="also draw the predictions into a video"
    )

    command = _command(
        commands, "evaluate", _evaluate, "measure predictions against annotation: of a bag, or of a data set"
    )
    command.add_argument("bag", type=Path, nargs="?", metavar="BAG", help="a bag that replay wrote")
    _add_model(command, required=False)
    command.add_argument("--data", type=Path, metavar="ROOT", help="folder with images/ and labels/")
    command.add_argument("--split", help="name of the split, such as val")
    command.add_argument("--limit", type=int, metavar="N", help="only the first N images by name")
    command.add_argument("--cache-dir", type=Path, metavar="DIR", help=_CACHE_HELP)
    command.add_argument("--json", type=Path, metavar="FILE", help="also write the metrics as JSON")

    command = _command(commands, "report", _report, "show a replayed bag, and its model's training, as an HTML page")
    command.add_argument("bag", type=Path, metavar="BAG", help="what replay wrote, with annotation")
    command.add_argument("--output", type=Path, required=True, metavar="FILE.html", help="page to write")
    command.add_argument("--training", type=Path, metavar="RUN", help="folder of the training run, for its curves")
    command.add_argument("--examples", type=int, default=8, metavar="N", help="images to show (default: 8)")
    command.add_argument(
        "--score-threshold", type=float, default=0.3, metavar="S", help="draw boxes from this score on (default: 0.3)"
    )
    command.add_argument("--command", action="append", help="a command line to show as one that made the results")

    command = _command(commands, "bench", _bench, "time each stage of a frame: median and 99th percentile")
    _add_model(command, required=True)
    frames = command.add_mutually_exclusive_group()
    frames.add_argument("--bag", type=Path, help="time a bag's images")
    frames.add_argument("--images", type=Path, metavar="DIR", help="time a folder's images")
    frames.add_argument(
        "--size", type=_size, default=(1280, 720), metavar="WxH", help="time synthetic images (default: 1280x720)"
    )
    command.add_argument("--frames", type=int, default=200, metavar="N", help="frames to time (default: 200)")
    command.add_argument("--warm-up", type=int, default=5, metavar="N", help="frames before that (default: 5)")
    command.add_argument("--json", type=Path, metavar="FILE", help="also write the table as JSON")

    command = _command(commands, "info", _info, "print what a model file says of itself")
    command.add_argument("model", type=Path, metavar="MODEL", help="model file (.onnx)")
    command.add_argument("--json", action="store_true", help="print it as JSON")
    return parser


def _command(
    group: Any, name: str, run: Callable[[argparse.Namespace], None], description: str
) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = group.add_parser(
        name, help=description, description=description[0].upper() + description[1:] + "."
    )
    command.set_defaults(run=run)
    return command


def _add_model(command: argparse.ArgumentParser, *, required: bool) -> None:
    command.add_argument("--model", type=Path, required=required, metavar="FILE", help="model file (.onnx)")
    command.add_argument("--threads", type=int, metavar="N", help="CPU threads of the model (default: one per core)")


def _add_bag_output(command: argparse.ArgumentParser) -> None:
    command.add_argument("--output", "-o", type=Path, required=True, metavar="BAG", help="bag folder to create")
    command.add_argument(
        "--storage", choices=("mcap", "sqlite3"), default="mcap", help="storage of the bag (default: mcap)"
    )
    command.add_argument("--overwrite", action="store_true", help="replace an older bag of that name")


def _add_camera(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--camera", default="/camera", metavar="NAME", help="namespace of the topics (default: /camera)"
    )
    command.add_argument("--frame-id", default="camera", metavar="ID", help="frame_id of the headers (default: camera)")


def _size(text: str) -> tuple[int, int]:
    """ "1280x720" -> (1280, 720)."""
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write it as 1280x720")
    return int(width), int(height)


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends the block by an exception, as Ctrl-C does, so that unfinished output is removed on the way."""

    def stop(signum: int, _frame: object) -> None:
        raise SystemExit(128 + signum)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    sys.exit(main())
