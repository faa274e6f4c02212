"""OpenVINO on the CPU: FP32, BF16 and FP16 where the CPU has them, INT8 for a quantised file."""

import math
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Final

from lvad_perception.engines.base import SLOTS, Engine, Pending, on_cpu
from lvad_perception.engines.graph import REMEDY, Tensors, read_manifest
from lvad_perception.engines.onnx_parts import refuse_external_data
from lvad_perception.errors import EngineError, MissingDependencyError, ModelFileError
from lvad_perception.machine import usable_cores
from lvad_perception.types import UInt8

_HINTS: Final[Mapping[str, str]] = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
"""Precision -> OpenVINO's value of the hint. INT8 has none: it is in the file."""
_NAMES: Final[Mapping[str, str]] = {"f32": "fp32", "bf16": "bf16", "f16": "fp16", "i8": "int8", "u8": "int8"}
_CONVOLUTIONS: Final = ("Convolution", "GroupConvolution", "Deconvolution")
_PRODUCTS: Final = ("MatMul", "FullyConnected")


class OpenVinoEngine(Engine):
    """A model file compiled by OpenVINO for the CPU.

    Its precision is that of most of the convolutions' work in the compiled graph. Images and outputs are not copied:
    OpenVINO reads the caller's images, and outputs are views of its memory. It is asynchronous: each slot has an
    inference request, and OpenVINO's own threads compute the second request as soon as the first is done, without
    waiting for the thread that submits and fetches.
    """

    def __init__(self, path: Path, *, threads: int | None = None, precision: str | None = None) -> None:
        """Load, check and compile a model file.

        Args:
            path: an ``.onnx`` file with a manifest in its metadata.
            threads: CPU threads for one inference; None uses one per core.
            precision: "fp32", "bf16", "fp16", or "int8" for a quantised file; None is the file's own.

        Raises:
            ModelFileError: truncated, not ONNX, in more than one file, without manifest, or its graph does not fit the
                manifest.
            VocabularyMismatchError: the model has an unknown task or other drivable classes.
            MissingDependencyError: OpenVINO is not installed.
            EngineError: the precision is not available on this CPU or for this file.
        """
        threads = threads or usable_cores()
        refuse_external_data(path)
        core, model = read_network(path)
        metadata = _metadata(model, path)
        manifest = read_manifest(metadata, tensors_of(model.inputs), tensors_of(model.outputs), path=path)
        fuse_argmax(model)
        compiled = compile_network(core, model, threads=threads, precision=precision, source=str(path))
        used = precision_used(compiled)
        if precision not in (None, used):
            remedy = (
                "quantise it with: lvad-perception quantize"
                if precision == "int8"
                else "leave the precision to the file"
            )
            raise EngineError(f"OpenVINO computes {path} in {used}, not in {precision}; {remedy}")
        rest = _name(compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name())
        description = f"OpenVINO {_version()}, {on_cpu(threads)}, {used.upper()}"
        if rest != used:
            description += f" over {rest.upper()}"
        self._requests: list[Any] = [compiled.create_infer_request() for _ in range(SLOTS)]
        super().__init__(manifest=manifest, description=description, precision=used)

    def _submit(self, slot: int, images: UInt8) -> Pending[list[Any]]:
        request = self._requests[slot]
        try:
            request.set_input_tensor(_import().Tensor(images, shared_memory=True))
            request.start_async()
        except RuntimeError as err:
            raise _failure(err) from err

        def fetch(_images: UInt8 = images) -> list[Any]:  # OpenVINO reads the images, and only this keeps them alive
            try:
                request.wait()
            except RuntimeError as err:
                raise _failure(err) from err
            return [request.get_tensor(name).data for name in self.manifest.output_names]

        return Pending(fetch, done=lambda: request.wait_for(0))

    def _close(self) -> None:
        for request in self._requests:
            with suppress(RuntimeError):  # ``result`` raises it
                request.wait()
        self._requests = []


def _last_line(err: RuntimeError) -> str:
    """The last line of OpenVINO's message; earlier lines name its source files."""
    return next((line.strip() for line in reversed(str(err).splitlines()) if line.strip()), type(err).__name__)


def _failure(err: RuntimeError) -> EngineError:
    return EngineError(f"OpenVINO failed ({_last_line(err)}); check the free memory")


def read_network(model: Path | bytes) -> tuple[Any, Any]:
    """The process's ``openvino.Core`` and an ONNX file, or its content, as an ``openvino.Model``.

    Raises:
        ModelFileError: not an ONNX file, or one with unknown operators.
        MissingDependencyError: OpenVINO is not installed.
    """
    core = _core()
    try:
        return core, core.read_model(model if isinstance(model, bytes) else str(model))
    except RuntimeError as err:
        source = "the network" if isinstance(model, bytes) else str(model)
        raise ModelFileError(
            f"{source} cannot be loaded as an ONNX model ({_last_line(err)}); it is truncated or no ONNX file: "
            f"copy it again or {REMEDY}"
        ) from err


@cache
def _core() -> Any:
    """The process's only ``openvino.Core``, which is never freed.

    A core installs an alternate stack for signal handlers in the thread that loads its CPU plugin, and removes it when
    it is freed, even if another core still uses it. The next signal, such as SIGCHLD or Ctrl-C, then has no stack and
    kills the process without a message (seen with OpenVINO 2026.4).
    """
    return _import().Core()


def fuse_argmax(model: Any) -> None:
    """Replace ArgMax and ReduceMax of the same tensor by one unstable TopK, which is faster.

    OpenVINO converts ONNX's ArgMax to a stable TopK, which returns the first of equal values and takes seven times as
    long on FP32 in channels-first layout: longer than a convolution at the finest level. Which of equal values is
    returned does not matter here.
    """
    operators = _import().opset11
    for first in [node for node in model.get_ops() if node.get_type_name() == "TopK"]:
        attributes, count = first.get_attributes(), first.input_value(1).get_node()
        if attributes["mode"] != "max" or count.get_type_name() != "Constant" or int(count.get_data()) != 1:
            continue
        values, axis = first.input_value(0), attributes["axis"]
        users = values.get_target_inputs()
        index_type = attributes["index_element_type"]
        unstable = operators.topk(values, count, axis, "max", "value", index_type, stable=False)
        for old, new in zip(first.outputs(), unstable.outputs(), strict=True):
            old.replace(new)
        for largest in (user.get_node() for user in users):
            if largest.get_type_name() == "ReduceMax" and not largest.get_attributes()["keep_dims"]:
                axes = largest.input_value(1)
                if axes.get_node().get_type_name() == "Constant" and axes.get_node().get_data().tolist() == [axis]:
                    largest.output(0).replace(operators.squeeze(unstable.output(0), axes).output(0))


def compile_network(core: Any, model: Any, *, threads: int, precision: str | None, source: str) -> Any:
    """The ``openvino.CompiledModel`` for one image batch at a time.

    Args:
        core: of ``read_network``.
        model: of ``read_network``.
        threads: CPU threads for one inference.
        precision: "fp32", "bf16" or "fp16" for the operators that are not quantised; None is FP32. "int8" chooses the
            fastest one for them: BF16 where the CPU has it, else FP32.
        source: the file, for messages.

    Raises:
        EngineError: this CPU lacks the precision, or OpenVINO cannot compile the model.
    """
    able = {name.lower() for name in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")}
    if precision == "int8":
        precision = "bf16" if "bf16" in able else "fp32"
    precision = precision or "fp32"
    if precision != "fp32" and precision not in able:
        raise EngineError(
            f"this CPU does not compute {precision} in OpenVINO, only {', '.join(sorted(able & {*_HINTS, 'int8'}))}; "
            "choose another precision"
        )
    options = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
        "INFERENCE_NUM_THREADS": str(threads),
        # The default is BF16 where the CPU has it, even for an FP32 model.
        "INFERENCE_PRECISION_HINT": _HINTS[precision],
        # With pinning, every process on the machine would use the same first cores.
        "ENABLE_CPU_PINNING": "NO",
        # Flushing denormals to zero would change the floating-point mode of the calling thread for good.
        "CPU_DENORMALS_OPTIMIZATION": "NO",
    }
    try:
        return core.compile_model(model, "CPU", options)
    except RuntimeError as err:
        raise EngineError(
            f"OpenVINO cannot compile {source} ({_last_line(err)}); use the runtime onnxruntime instead"
        ) from err


def precision_used(compiled: Any) -> str:
    """Precision of most of the convolutions' work in a compiled model; without convolutions, of its matrix products.

    It is read from the compiled graph, since the runtime may ignore the hint; without either operator it is the hint.
    The work is counted as if all kernels had the same size, since the compiled graph does not contain it.
    """
    convolutions: Counter[str] = Counter()
    products: Counter[str] = Counter()
    for node in compiled.get_runtime_model().get_ops():
        info = {key: str(getattr(value, "value", value)) for key, value in node.get_rt_info().items()}
        for kinds, used in ((_CONVOLUTIONS, convolutions), (_PRODUCTS, products)):
            if info.get("layerType") in kinds:
                work = math.prod(node.get_output_shape(0)) * node.get_input_shape(0)[1]
                used[info.get("runtimePrecision", "").lower()] += work
    hint = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    for used in (convolutions, products):
        if used.total():
            return _name(used.most_common(1)[0][0])
    return _name(hint)


def _name(element_type: str) -> str:
    return _NAMES.get(element_type, element_type)


def tensors_of(ports: Any) -> Tensors:
    """Name, element type and shape of a model's inputs or outputs."""
    return {
        port.get_any_name(): (
            port.get_element_type().to_dtype().name,
            [side.get_length() if side.is_static else "?" for side in port.get_partial_shape()],
        )
        for port in ports
    }


def _metadata(model: Any, path: Path) -> dict[str, str]:
    """The ONNX file's metadata, which OpenVINO stores under "framework". Raises ModelFileError."""
    if not model.has_rt_info("framework"):
        return {}
    info = model.get_rt_info("framework")
    try:
        return {key: str(value) for key, value in getattr(info, "value", info).items()}
    except UnicodeDecodeError as err:
        raise ModelFileError(f"{path}: its metadata is not UTF-8 ({err.reason}); {REMEDY}") from err


def _import() -> Any:
    try:
        import openvino  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ImportError as err:
        raise MissingDependencyError("OpenVINO is not installed; install it with: pip install openvino") from err
    return openvino


def _version() -> str:
    return str(_import().__version__).partition("-")[0]
