"""Quantise a model file with ONNX Runtime's own quantiser, to compare it with ``lvad-perception quantize``.

    lvad-perception quantize model.onnx --output model.int8.onnx --calibration DIR
    python -m benchmarks.quantiser model.onnx model.int8.onnx --calibration DIR --out FOLDER

Writes FOLDER/LAYERS-METHOD.onnx for each choice of layers and each calibration method. All are INT8 by pairs of
QuantizeLinear and DequantizeLinear, symmetric, with a scale per output channel of the weights and biases in FP32, as
TensorRT and OpenVINO want them; scales are measured on the same images as those of ``quantize``. The layers are "all"
operators that ONNX Runtime quantises, "conv", all convolutions and their outputs, or "same", the convolutions that are
quantised in model.int8.onnx.
"""

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from lvad_perception.conversion.calibration import folder_images, to_batches
from lvad_perception.engines import open_engine
from lvad_perception.engines.onnx import PRECISION_KEY
from lvad_perception.manifest import INPUT_NAME
from lvad_perception.types import UInt8

LAYERS = ("all", "conv", "same")
METHODS = {"minmax": "MinMax", "entropy": "Entropy", "percentile": "Percentile"}
OPTIONS = {
    "ActivationSymmetric": True,
    "WeightSymmetric": True,
    "AddQDQPairToWeight": True,
    "QuantizeBias": False,
}


class Batches(CalibrationDataReader):
    """Calibration batches, uint8 [N, H, W, 3] each."""

    def __init__(self, batches: Sequence[UInt8]) -> None:
        self._batches = batches
        self.set_range(0, len(batches))

    def __len__(self) -> int:
        return len(self._batches)

    def set_range(self, start_index: int, end_index: int) -> None:
        """Restrict the following calls of ``get_next``."""
        self._rest = iter(self._batches[start_index:end_index])

    def get_next(self) -> dict[str, UInt8] | None:
        """The inputs of the next run."""
        batch = next(self._rest, None)
        return None if batch is None else {INPUT_NAME: batch}


def quantise(model: Path, like: Path, output: Path, batches: Sequence[UInt8], *, layers: str, method: str) -> None:
    """Write a quantised copy of ``model``; ``like`` is the file from ``lvad-perception quantize``."""
    settings: dict[str, Any] = {} if layers == "all" else {"op_types_to_quantize": ["Conv"]}
    at_a_time = 1 if len(batches) % 4 else 4  # batches in memory; without this option, which every method heeds, all
    options: dict[str, Any] = {**OPTIONS, "CalibStridedMinMax": at_a_time}
    with tempfile.TemporaryDirectory() as scratch:
        prepared = Path(scratch) / "prepared.onnx"
        # Symbolic shape inference fails at the TopK of boxes; the model's shapes are static.
        quant_pre_process(str(model), str(prepared), skip_symbolic_shape=True)
        content = onnx.load(str(prepared))
        for index, node in enumerate(content.graph.node):
            node.name = f"node {index}"  # the quantiser tells nodes apart by their names
        onnx.save(content, str(prepared))
        if layers == "same":
            chosen = {
                node.output[0] for node in onnx.load(str(like)).graph.node if ".dequantised" in "".join(node.input)
            }
            settings["nodes_to_quantize"] = [node.name for node in content.graph.node if node.output[0] in chosen]
            options["OpTypesToExcludeOutputQuantization"] = ["Conv"]
        quantize_static(
            prepared,
            output,
            Batches(batches),
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod[METHODS[method]],
            extra_options=options,
            **settings,
        )
    content = onnx.load(str(output))
    content.metadata_props.add(key=PRECISION_KEY, value="int8")
    onnx.save(content, str(output))


def main(argv: Sequence[str] | None = None) -> int:
    """Write the files; a line for each."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quantiser", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", type=Path, help="FP32 model file (.onnx)")
    parser.add_argument("int8", type=Path, help="the same model from lvad-perception quantize")
    parser.add_argument("--calibration", type=Path, required=True, metavar="DIR", help="folder of images")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="folder to write into")
    parser.add_argument("--layers", nargs="+", choices=LAYERS, default=LAYERS, help="to quantise (default: each)")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS, help="of calibration (default: each)")
    arguments = parser.parse_args(argv)
    engine = open_engine(arguments.model)
    manifest = engine.manifest
    engine.close()
    found = folder_images(arguments.calibration, manifest.input_hw, 80)
    images = [image for place, image in enumerate(found) if place % 5 != 2]  # `quantize` compares on the others
    batches = to_batches(images, manifest.batch_size)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for layers in arguments.layers:
        for method in arguments.methods:
            began, path = time.perf_counter(), arguments.out / f"{layers}-{method}.onnx"
            quantise(arguments.model, arguments.int8, path, batches, layers=layers, method=method)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
            print(
                f"{path}: {path.stat().st_size / 2**20:.1f} MiB, {time.perf_counter() - began:.0f} s, "
                f"{peak:.1f} GiB at most so far",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
