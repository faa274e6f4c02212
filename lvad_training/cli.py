"""``lvad-train``: the command line of training. Bad input ends with one sentence and exit status 2."""

import argparse
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import lvad_perception
from lvad_perception.errors import ConfigError, LvadError
from lvad_training.reproduce.command import EXIT_INTERRUPTED, add_reproduce

EXIT_BAD_INPUT = 2


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        status: int = options.run(options)
        return status
    except LvadError as err:
        print(f"lvad-train: error: {err}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        print("lvad-train: interrupted; a run continues with --resume", file=sys.stderr)
        return EXIT_INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lvad-train",
        description="Train one network for traffic objects, semantic segmentation and drivable area, and export it.",
    )
    parser.add_argument("--version", action="version", version=lvad_perception.__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_run(commands)
    _add_evaluate(commands)
    _add_export(commands)
    _add_slim(commands)
    _add_data(commands)
    _add_demo(commands)
    add_reproduce(commands)
    return parser


def _add_run(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "run",
        help="train a recipe, in one or several stages",
        description="Train a recipe and evaluate it: one training, or with a section stages teach, pseudo-label, adapt "
        "and finetune in turn. Stages that are up to date are skipped. "
        "With several GPUs: accelerate launch -m lvad_training.cli run …",
        epilog="example: lvad-train run config/train_tiny.yaml --set data.root=/data/bdd100k --set train.steps=2000",
    )
    parser.add_argument("recipe", type=Path, help="recipe file (YAML)")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="override one key of the recipe")
    parser.add_argument("--stage", metavar="NAME", help="only teach-TASK, pseudo, adapt, finetune or evaluate")
    parser.add_argument("--resume", action="store_true", help="continue the run in the output folder")
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="start again although the output folder holds a run; of several stages, those whose inputs changed",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from lvad_training import stages
    from lvad_training.config import load_recipe
    from lvad_training.runs import METRICS, MODEL

    recipe = load_recipe(options.recipe, options.set)
    folder = stages.run(
        recipe,
        resume=options.resume,
        overwrite=options.overwrite,
        only=options.stage,
        progress=not options.quiet,
    )
    stages.close()
    if not (folder / MODEL).is_file():  # pseudo labels
        print(f"written: {folder}")
        return 0
    print(f"model: {folder / MODEL}")
    metrics = json.loads((folder / METRICS).read_text(encoding="utf-8"))
    if metrics is None:
        print(f"not evaluated: {recipe.data.root} has no split {recipe.data.val_split!r}")
    else:
        _print_metrics(metrics)
    return 0


def _add_evaluate(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "evaluate", help="measure a checkpoint on a data set", description="Measure a checkpoint on a data set."
    )
    parser.add_argument("checkpoint", type=Path, help="model.pt or checkpoint.pt of a run")
    parser.add_argument("--data", type=Path, help="data set in BDD100K's layout (default: the recipe's)")
    parser.add_argument("--split", help="split to measure (default: the recipe's validation split)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the metrics as JSON")
    parser.add_argument("--workers", type=int, help="loader processes (default: the recipe's)")
    parser.set_defaults(run=_evaluate)


def _evaluate(options: argparse.Namespace) -> int:
    import msgspec

    from lvad_training.checkpoints import load_checkpoint
    from lvad_training.files import write_whole
    from lvad_training.training import evaluate_checkpoint

    checkpoint = load_checkpoint(options.checkpoint)
    data = checkpoint.recipe.data
    if options.data is not None:
        data = msgspec.structs.replace(data, root=str(options.data))
    if options.workers is not None:
        data = msgspec.structs.replace(data, workers=options.workers)
    checkpoint = replace(checkpoint, recipe=msgspec.structs.replace(checkpoint.recipe, data=data))
    metrics = evaluate_checkpoint(checkpoint, split=options.split or data.val_split, progress=sys.stderr.isatty())
    assert metrics is not None  # a missing split raised
    print(metrics.to_text())
    if options.json is not None:
        try:
            write_whole(options.json, json.dumps(metrics.to_dict(), indent=1))
        except OSError as err:
            raise ConfigError(f"--json {options.json}: cannot be written ({err.strerror}); name another file") from err
    return 0


def _add_export(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "export",
        help="turn a checkpoint into a model file",
        description="Turn a checkpoint into a model file, after comparing its runtime with torch on images: .onnx for "
        "ONNX Runtime, OpenVINO and TensorRT, .pt2 for PyTorch on a CUDA GPU.",
        epilog="example: lvad-train export runs/edge/model.pt edge.onnx --camera-size 1280x720",
    )
    parser.add_argument("checkpoint", type=Path, help="model.pt or checkpoint.pt of a run")
    parser.add_argument("output", type=Path, help="model file to write (.onnx or .pt2)")
    parser.add_argument("--batch", type=int, default=1, help="images per call, static in the file (default: 1)")
    parser.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), help="network size (default: the recipe's)")
    parser.add_argument(
        "--camera-size",
        type=_size_wh,
        metavar="WxH",
        help="take only images of this size, such as 1280x720, and resize them in the model file (default: any size, "
        "resized on the CPU)",
    )
    parser.add_argument("--images", type=Path, help="folder of images to compare on (default: the recipe's data set)")
    parser.set_defaults(run=_export)


def _export(options: argparse.Namespace) -> int:
    from lvad_training.batches import comparison_images
    from lvad_training.checkpoints import load_checkpoint
    from lvad_training.export import FORMATS, export

    if options.output.suffix not in FORMATS:
        raise ConfigError(f"{options.output}: a model file ends in {' or '.join(FORMATS)}; name it so")
    size_hw = tuple(options.size) if options.size else None
    if options.batch < 1 or (size_hw and (min(size_hw) < 32 or any(side % 32 for side in size_hw))):
        raise ConfigError("--batch must be at least 1 and --size two multiples of 32, for instance --size 384 640")
    camera_hw = options.camera_size[::-1] if options.camera_size else None
    checkpoint = load_checkpoint(options.checkpoint)
    images = comparison_images(
        checkpoint.recipe, options.images, camera_hw or size_hw or checkpoint.recipe.model.network_hw
    )
    agreement = export(
        checkpoint,
        options.output,
        images=images,
        batch_size=options.batch,
        network_hw=size_hw,
        camera_hw=camera_hw,
    )
    megabytes = options.output.stat().st_size / 1e6
    print(
        f"{options.output}: {megabytes:.1f} MB; {FORMATS[options.output.suffix].runtime} agrees with torch on "
        f"{len(images)} images: boxes within {agreement.boxes_px:.2g} px, scores within {agreement.scores:.2g}, masks "
        f"equal on {agreement.masks:.3%} of pixels"
    )
    return 0


def _size_wh(text: str) -> tuple[int, int]:
    """ "1280x720" -> (1280, 720), for argparse."""
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write it as 1280x720")
    return int(width), int(height)


def _add_slim(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "slim",
        help="shrink a checkpoint for shipping",
        description="Write a checkpoint without resume state and with half-precision weights.",
    )
    parser.add_argument("checkpoint", type=Path, help="model.pt or checkpoint.pt of a run")
    parser.add_argument("output", type=Path, help="file to write (.pt)")
    parser.set_defaults(run=_slim)


def _slim(options: argparse.Namespace) -> int:
    from lvad_training.checkpoints import load_checkpoint, save_checkpoint, slim

    save_checkpoint(options.output, slim(load_checkpoint(options.checkpoint)))
    print(f"{options.output}: {options.output.stat().st_size / 1e6:.1f} MB")
    return 0


def _add_data(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    data = commands.add_parser("data", help="check a data set, or render a small one").add_subparsers(
        required=True, metavar="COMMAND"
    )
    check = data.add_parser("check", help="count annotations and report every problem of a data set")
    check.add_argument("root", type=Path, help="data set in BDD100K's layout")
    check.add_argument("--workers", type=int, help="processes (default: one per core)")
    check.set_defaults(run=_data_check)
    lists = data.add_parser("lists", help="choose which images are annotated for which task, as a file to share")
    lists.add_argument("root", type=Path, help="data set in BDD100K's layout")
    lists.add_argument("output", type=Path, help="file to write (.json), for data.lists of a recipe")
    lists.add_argument("--setting", required=True, choices=("full", "disjoint_normal", "disjoint_balance"))
    lists.add_argument("--split", default="train", help="split to choose from (default: train)")
    lists.add_argument("--seed", type=int, default=0, help="the same seed chooses the same images (default: 0)")
    lists.add_argument(
        "--size",
        action="append",
        default=[],
        metavar="TASK=N",
        help="images of a task, or their share up to 1 (default: the paper's, or its proportions)",
    )
    lists.set_defaults(run=_data_lists)
    sample = data.add_parser("sample", help="render a small driving set in BDD100K's layout")
    sample.add_argument("output", type=Path, help="folder to write")
    sample.add_argument("--images", type=int, default=400, help="number of images, a fifth for val (default: 400)")
    sample.add_argument("--seed", type=int, default=0, help="the same seed renders the same bytes (default: 0)")
    sample.add_argument("--workers", type=int, help="processes (default: one per core)")
    sample.set_defaults(run=_data_sample)


def _data_check(options: argparse.Namespace) -> int:
    from lvad_training.data.check import check_dataset, print_report

    report = check_dataset(options.root, workers=options.workers, progress=sys.stderr.isatty())
    print_report(report)
    return 1 if report.errors else 0


def _data_lists(options: argparse.Namespace) -> int:
    from lvad_perception.bdd100k import open_split
    from lvad_training.data.settings import make_lists, write_lists

    sizes = {}
    for text in options.size:
        task, _, number = text.partition("=")
        try:
            sizes[task] = float(number)
        except ValueError as err:
            raise ConfigError(f"--size {text}: not of the form TASK=N, for instance semantic=7000") from err
    lists = make_lists(open_split(options.root, options.split), setting=options.setting, seed=options.seed, sizes=sizes)
    write_lists(lists, options.output)
    print(f"{options.output}: {lists.describe()}")
    return 0


def _data_sample(options: argparse.Namespace) -> int:
    from lvad_training.data.sample_set import render_sample_set

    render_sample_set(
        options.output,
        images=options.images,
        seed=options.seed,
        workers=options.workers or os.cpu_count() or 1,
        progress=sys.stderr.isatty(),
    )
    print(f"{options.output}: {options.images} images; look at it with lvad-train data check {options.output}")
    return 0


def _add_demo(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "demo",
        help="the whole system end to end in minutes",
        description="Render or take a data set, train, evaluate, export, convert to a bag, replay it, evaluate the "
        "bag, and write a report. Runs on a CPU.",
    )
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder to write (default: out)")
    parser.add_argument("--data", type=Path, help="data set in BDD100K's layout (default: render one)")
    parser.add_argument("--images", type=int, default=400, help="images to render (default: 400)")
    parser.add_argument("--steps", type=int, default=200, help="training steps (default: 200)")
    parser.add_argument("--seed", type=int, default=0, help="of rendering and training (default: 0)")
    parser.add_argument("--from-scratch", action="store_true", help="do not start from the shipped checkpoint")
    parser.set_defaults(run=_demo)


def _demo(options: argparse.Namespace) -> int:
    from lvad_training.demo import demo

    demo(
        options.out,
        data=options.data,
        images=options.images,
        steps=options.steps,
        seed=options.seed,
        from_scratch=options.from_scratch,
    )
    return 0


def _print_metrics(plain: dict[str, object]) -> None:
    from lvad_perception.metrics import Metrics

    print(Metrics.from_dict(plain).to_text())


if __name__ == "__main__":
    sys.exit(main())
