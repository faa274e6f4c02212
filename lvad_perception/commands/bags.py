"""Commands on bags and data sets: bag, replay, evaluate, report."""

import argparse
from pathlib import Path
from typing import Any, Final

from lvad_perception.bags.error_log import report_to_stderr
from lvad_perception.command_line import STATUS_INCOMPLETE
from lvad_perception.commands.arguments import add_command, add_model, open_perceiver, write_json
from lvad_perception.errors import ConfigError

_ROOT_HELP: Final = "folder of BDD100K (images/ and labels/) or nuImages (samples/ and v1.0-*/)"


def add_bag_commands(commands: Any) -> None:
    """Add the commands to the command line's sub-parsers."""
    bag = commands.add_parser("bag", help="make a rosbag2 bag from a data set or a video")
    sources = bag.add_subparsers(title="sources", required=True, metavar="SOURCE")
    command = add_command(
        sources,
        "from-dataset",
        _bag_from_dataset,
        "a split of BDD100K or nuImages, with its annotation",
        aliases=("from-bdd100k",),
    )
    command.add_argument("root", type=Path, metavar="ROOT", help=_ROOT_HELP)
    _add_split(command, required=True)
    _add_bag_to_write(command)
    command.add_argument("--rate", type=float, default=10.0, metavar="HZ", help="images per second (default: 10)")
    command = add_command(sources, "from-video", _bag_from_video, "a video file, with its own time stamps")
    command.add_argument("video", type=Path, metavar="VIDEO", help="any video that FFmpeg decodes")
    _add_bag_to_write(command)
    command.add_argument("--raw", action="store_true", help="lossless rgb8 images instead of JPEG")
    command.add_argument("--every", type=int, default=1, metavar="N", help="keep every N-th frame (default: 1)")

    command = add_command(
        commands, "replay", _replay, "run a model on a bag's images and write a bag with its predictions"
    )
    command.add_argument("bag", type=Path, metavar="BAG", help="bag folder, or a .mcap or .db3 file")
    add_model(command, required=True)
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

    command = add_command(
        commands, "evaluate", _evaluate, "compute metrics of the predictions in a bag, or of a model on a data set"
    )
    command.add_argument("bag", type=Path, nargs="?", metavar="BAG", help="output of replay, with annotation")
    add_model(command, required=False)
    command.add_argument("--data", type=Path, metavar="ROOT", help=_ROOT_HELP)
    _add_split(command, required=False)
    command.add_argument("--json", type=Path, metavar="FILE", help="also write the metrics as JSON")

    command = add_command(
        commands, "report", _report, "write an HTML report of a replayed bag, and of its model's training"
    )
    command.add_argument("bag", type=Path, metavar="BAG", help="output of replay, with annotation")
    command.add_argument("--output", type=Path, required=True, metavar="FILE.html", help="page to write")
    command.add_argument("--training", type=Path, metavar="RUN", help="folder of the training run, for its curves")
    command.add_argument("--examples", type=int, default=8, metavar="N", help="images to show (default: 8)")
    command.add_argument(
        "--score-threshold",
        type=float,
        default=0.3,
        metavar="S",
        help="minimum score of the boxes drawn (default: 0.3)",
    )
    command.add_argument("--command", action="append", help="a command line to show as origin of the results")


def _bag_from_dataset(arguments: argparse.Namespace) -> int | None:
    from lvad_perception.bags.convert import from_dataset

    reporter = _Reporter()
    summary = from_dataset(
        arguments.root,
        arguments.split,
        arguments.output,
        rate_hz=arguments.rate,
        limit=arguments.limit,
        cache_dir=arguments.cache_dir,
        report=reporter,
        **_bag_to_write(arguments),
    )
    truth = ", ".join(f"{task} {count}" for task, count in summary.truth.items())
    print(f"{arguments.output}: {summary.images} images in {summary.duration_s:.1f} s; annotated: {truth}")
    if summary.problems:
        print(f"  {summary.problems} images or annotations left out")
    return reporter.status


def _bag_from_video(arguments: argparse.Namespace) -> None:
    from lvad_perception.bags.convert import from_video

    summary = from_video(
        arguments.video,
        arguments.output,
        raw=arguments.raw,
        every=arguments.every,
        **_bag_to_write(arguments),
    )
    print(f"{arguments.output}: {summary.images} images in {summary.duration_s:.1f} s")


def _replay(arguments: argparse.Namespace) -> int | None:
    from lvad_perception.bags.replay import replay

    reporter = _Reporter()
    with open_perceiver(arguments, default_threshold=0.0) as perceiver:
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
            report=reporter,
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
    return reporter.status


def _evaluate(arguments: argparse.Namespace) -> int | None:
    from lvad_perception.bags.evaluate import evaluate_bag, evaluate_dataset

    reporter = _Reporter()
    needed = {"--model": arguments.model, "--data": arguments.data, "--split": arguments.split}
    if arguments.bag is not None:
        given = [option for option, value in needed.items() if value is not None]
        if given:
            raise ConfigError(f"a bag needs no {' '.join(given)}; leave it out, or leave out the bag")
        metrics = evaluate_bag(arguments.bag, report=reporter, progress=True)
    else:
        missing = [option for option, value in needed.items() if value is None]
        if missing:
            raise ConfigError(f"{' '.join(missing)} is missing; name a replayed bag, or --model, --data and --split")
        with open_perceiver(arguments, default_threshold=0.0) as perceiver:
            metrics = evaluate_dataset(
                perceiver,
                arguments.data,
                arguments.split,
                limit=arguments.limit,
                cache_dir=arguments.cache_dir,
                report=reporter,
                progress=True,
            )
    write_json(arguments.json, metrics.to_dict())
    print(metrics.to_text())
    return reporter.status


def _report(arguments: argparse.Namespace) -> int | None:
    from lvad_perception.bags.report import report_bag

    if arguments.examples < 1:
        raise ConfigError(f"--examples {arguments.examples} shows nothing; give at least 1")
    reporter = _Reporter()
    report_bag(
        arguments.bag,
        arguments.output,
        training=arguments.training,
        examples=arguments.examples,
        score_threshold=arguments.score_threshold,
        commands=tuple(arguments.command or ()),
        report=reporter,
        progress=True,
    )
    print(f"{arguments.output}: open it in a browser")
    return reporter.status


class _Reporter:
    """Prints lines about errors on standard error, and remembers whether there were any."""

    def __init__(self) -> None:
        self._any = False

    def __call__(self, line: str) -> None:
        self._any = True
        report_to_stderr(line)

    @property
    def status(self) -> int | None:
        return STATUS_INCOMPLETE if self._any else None


def _add_split(command: argparse.ArgumentParser, *, required: bool) -> None:
    command.add_argument("--split", required=required, help="name of the split, such as val")
    command.add_argument("--limit", type=int, metavar="N", help="only the first N images by name")
    command.add_argument(
        "--cache-dir", type=Path, metavar="DIR", help="folder for parsed labels (default: the user's cache folder)"
    )


def _add_bag_output(command: argparse.ArgumentParser) -> None:
    command.add_argument("--output", "-o", type=Path, required=True, metavar="BAG", help="bag folder to create")
    command.add_argument(
        "--storage", choices=("mcap", "sqlite3"), default="mcap", help="storage of the bag (default: mcap)"
    )
    command.add_argument("--overwrite", action="store_true", help="replace an older bag of that name")


def _add_bag_to_write(command: argparse.ArgumentParser) -> None:
    """Add the options that ``_bag_to_write`` reads."""
    _add_bag_output(command)
    command.add_argument(
        "--camera", default="/camera", metavar="NAME", help="namespace of the topics (default: /camera)"
    )
    command.add_argument("--frame-id", default="camera", metavar="ID", help="frame_id of the headers (default: camera)")


def _bag_to_write(arguments: argparse.Namespace) -> dict[str, Any]:
    """Options of the bag to write, as arguments of all conversions."""
    names = ("storage", "overwrite", "camera", "frame_id")
    return {name: getattr(arguments, name) for name in names} | {"progress": True}
