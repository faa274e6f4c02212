"""The commands on checkpoints: evaluate, export, assemble, slim and import."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lvad_perception.command_line import size_wh
from lvad_perception.errors import ConfigError
from lvad_training.commands.arguments import DATASET_HELP, Commands, add_checkpoint


def add_checkpoint_commands(commands: Commands) -> None:
    """Add them to the command line's sub-parsers."""
    _add_evaluate(commands)
    _add_export(commands)
    _add_assemble(commands)
    _add_slim(commands)
    _add_import(commands)


def _add_evaluate(commands: Commands) -> None:
    parser = commands.add_parser(
        "evaluate", help="measure a checkpoint on a data set", description="Measure a checkpoint on a data set."
    )
    add_checkpoint(parser)
    parser.add_argument("--data", type=Path, help=f"{DATASET_HELP} (default: the recipe's)")
    parser.add_argument("--split", help="split to measure (default: the recipe's validation split)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the metrics as JSON")
    parser.add_argument(
        "--keep", action="store_true", help="also write evaluation.npz beside the checkpoint, for lvad-train report"
    )
    parser.add_argument("--workers", type=int, help="loader processes (default: the recipe's)")
    parser.set_defaults(run=_evaluate)


def _evaluate(options: argparse.Namespace) -> int:
    import msgspec

    from lvad_perception.files import write_whole
    from lvad_training.checkpoints import load_checkpoint
    from lvad_training.training.evaluation import evaluate_checkpoint, examine_checkpoint
    from lvad_training.training.processes import this_process
    from lvad_training.training.runs import EVALUATION, write_evaluation

    checkpoint = load_checkpoint(options.checkpoint)
    data = checkpoint.recipe.data
    if options.data is not None:
        data = msgspec.structs.replace(data, root=str(options.data))
    if options.workers is not None:
        data = msgspec.structs.replace(data, workers=options.workers)
    checkpoint = replace(checkpoint, recipe=msgspec.structs.replace(checkpoint.recipe, data=data))
    split, progress = options.split or data.val_split, sys.stderr.isatty()
    if options.keep:
        evaluation = examine_checkpoint(checkpoint, split=split, progress=progress)
        metrics = None if evaluation is None else evaluation.findings.metrics
    else:
        evaluation, metrics = None, evaluate_checkpoint(checkpoint, split=split, progress=progress)
    assert metrics is not None  # a missing split raised
    if not this_process().is_main_process:
        return 0
    if evaluation is not None:
        write_evaluation(options.checkpoint.parent, evaluation)
    if options.json is not None:
        try:
            write_whole(options.json, json.dumps(metrics.to_dict(), indent=1))
        except OSError as err:
            raise ConfigError(f"--json {options.json}: cannot be written ({err.strerror}); name another file") from err
    print(metrics.to_text())
    if evaluation is not None:
        print(f"{options.checkpoint.parent / EVALUATION}: for lvad-train report")
    return 0


def _add_export(commands: Commands) -> None:
    parser = commands.add_parser(
        "export",
        help="turn a checkpoint into a model file",
        description="Turn a checkpoint into a model file, if its runtime agrees with torch on images: .onnx for "
        "ONNX Runtime, OpenVINO and TensorRT, .pt2 for PyTorch on a CUDA GPU.",
        epilog="example: lvad-train export runs/edge/model.pt edge.onnx --camera-size 1280x720",
    )
    add_checkpoint(parser)
    _add_model_file(parser)
    parser.set_defaults(run=lambda options: _write_model_file([options.checkpoint], options))


def _add_assemble(commands: Commands) -> None:
    parser = commands.add_parser(
        "assemble",
        help="turn checkpoints of different tasks into one model file",
        description="Turn checkpoints of different tasks into one model file, checked as by export: one input, and "
        "each task from its own network. Backbones and necks with equal weights are computed once.",
        epilog="example: lvad-train assemble detection.pt semantic.pt drivable.pt model.onnx --images drive.mp4",
    )
    parser.add_argument("checkpoints", type=Path, nargs="+", metavar="checkpoint", help="checkpoints (.pt)")
    _add_model_file(parser)
    parser.set_defaults(run=lambda options: _write_model_file(options.checkpoints, options))


def _add_model_file(parser: argparse.ArgumentParser) -> None:
    """Add the output and the options that ``_write_model_file`` reads."""
    parser.add_argument("output", type=Path, help="model file to write (.onnx or .pt2)")
    parser.add_argument("--batch", type=int, default=1, help="images per call, static in the file (default: 1)")
    parser.add_argument("--size", type=size_wh, metavar="WxH", help="network size (default: the recipe's)")
    parser.add_argument(
        "--camera-size",
        type=size_wh,
        metavar="WxH",
        help="take only images of this size, such as 1280x720, and resize them in the model file (default: any size, "
        "resized on the CPU)",
    )
    parser.add_argument(
        "--images",
        type=Path,
        metavar="FOLDER_OR_VIDEO",
        help="images to compare on (default: the recipe's data set, of several checkpoints the first's)",
    )


def _write_model_file(paths: Sequence[Path], options: argparse.Namespace) -> int:
    from lvad_training.checkpoints import load_checkpoint
    from lvad_training.data.batches import comparison_images
    from lvad_training.export.assembly import common_size
    from lvad_training.export.model_file import FORMATS, export

    if options.output.suffix not in FORMATS:
        raise ConfigError(f"{options.output}: a model file ends in {' or '.join(FORMATS)}; name it so")
    size_hw = options.size[::-1] if options.size else None
    if options.batch < 1 or (size_hw and (min(size_hw) < 32 or any(side % 32 for side in size_hw))):
        raise ConfigError("--batch must be at least 1 and --size two multiples of 32, for instance --size 640x384")
    if twice := next((path for path in paths if paths.count(path) > 1), None):
        raise ConfigError(f"{twice} is named twice; name each checkpoint once, and the model file last")
    camera_hw = options.camera_size[::-1] if options.camera_size else None
    checkpoints = {str(path): load_checkpoint(path) for path in paths}
    recipe = checkpoints[str(paths[0])].recipe
    images = comparison_images(recipe, options.images, camera_hw or common_size(checkpoints, size_hw))
    agreement = export(
        checkpoints,
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


def _add_slim(commands: Commands) -> None:
    parser = commands.add_parser(
        "slim",
        help="shrink a checkpoint for shipping",
        description="Write a checkpoint without resume state and with half-precision weights.",
    )
    add_checkpoint(parser)
    parser.add_argument("output", type=Path, help="file to write (.pt)")
    parser.set_defaults(run=_slim)


def _slim(options: argparse.Namespace) -> int:
    from lvad_training.checkpoints import load_checkpoint, save_checkpoint, slim

    save_checkpoint(options.output, slim(load_checkpoint(options.checkpoint)))
    print(f"{options.output}: {options.output.stat().st_size / 1e6:.1f} MB")
    return 0


def _add_import(commands: Commands) -> None:
    parser = commands.add_parser(
        "import",
        help="turn a published checkpoint of another project into one of this package",
        description="Turn a published checkpoint into one of this package: Sparse R-CNN of mmdetection or of "
        "PeizeSun/SparseR-CNN, Semantic FPN of mmsegmentation, as the BDD100K model zoo has them.",
        epilog="example: lvad-train import sparse_rcnn_r50_fpn_3x_det_bdd100k.pth --output detection.pt",
    )
    parser.add_argument("file", type=Path, help="the published .pth")
    parser.add_argument("--output", type=Path, required=True, help="checkpoint to write (.pt)")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="overrides",
        metavar="KEY=VALUE",
        help="change a key of the checkpoint's recipe, such as model.network_hw=[384,640]",
    )
    parser.set_defaults(run=_import)


def _import(options: argparse.Namespace) -> int:
    from lvad_training.checkpoints import save_checkpoint
    from lvad_training.zoo.importing import import_checkpoint

    checkpoint, report = import_checkpoint(options.file, options.overrides)
    save_checkpoint(options.output, checkpoint)
    print(report.to_text())
    print(f"{options.output}: measure it with lvad-train evaluate {options.output} --data BDD100K")
    return 0
