"""OpenVINO on the CPU: FP32, BF16 and FP16 where the CPU has them, INT8 for a quantised file."""

import math
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Final

from lvad_perception.engines.base import SLOTS, Engine, Pending
from lvad_perception.engines.graph import REMEDY, Tensors, check_graph
from lvad_perception.engines.onnx_parts import refuse_external_data
from lvad_perception.errors import EngineError, MissingDependencyError, ModelFileError
from lvad_perception.machine import usable_cores
from lvad_perception.manifest import MANIFEST_KEY, Manifest
from lvad_perception.types import UInt8

_HINTS: Final[Mapping[str, str]] = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
"""Precision -> OpenVINO's name of it as an inference precision. INT8 is no such hint: it is in the file."""
_NAMES: Final[Mapping[str, str]] = {"f32": "fp32", "bf16": "bf16", "f16": "fp16", "i8": "int8", "u8": "int8"}
_CONVOLUTIONS: Final = ("Convolution", "GroupConvolution", "Deconvolution")
_PRODUCTS: Final = ("MatMul", "FullyConnected")


class OpenVinoEngine(Engine):
    """A model file compiled by OpenVINO for the CPU.

    Its precision is what most of the work of its convolutions is really done in. Images are read where they lie and
    outputs are views of OpenVINO's own memory: nothing is copied. Two requests take turns; of two that are under way
    the second computes when the first has, so that the cores never wait for the thread that begins and fetches.
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
            EngineError: this CPU or this file does not compute in that precision.
        """
        threads = threads or usable_cores()
        refuse_external_data(path)
        core, model = read_network(path)
        text = _metadata(model, path).get(MANIFEST_KEY)
        if text is None:
            raise ModelFileError(f"{path} carries no {MANIFEST_KEY} in its metadata; {REMEDY}")
        manifest = Manifest.from_json(text, source=str(path))
        check_graph(tensors_of(model.inputs), tensors_of(model.outputs), manifest, source=str(path))
        choose_at_once(model)
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
        description = f"OpenVINO {_version()}, CPU, {threads} thread{'s'[: threads != 1]}, {used.upper()}"
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
            with suppress(RuntimeError):  # that is for whoever fetches its result
                request.wait()
        self._requests = []


def _said(err: RuntimeError) -> str:
    """The last line of OpenVINO's message; those before it name places in its own source."""
    return next((line.strip() for line in reversed(str(err).splitlines()) if line.strip()), type(err).__name__)


def _failure(err: RuntimeError) -> EngineError:
    return EngineError(f"OpenVINO failed ({_said(err)}); check the free memory")


def read_network(model: Path | bytes) -> tuple[Any, Any]:
    """The process's ``openvino.Core`` and an ONNX file, or its content, as an ``openvino.Model``.

    Raises:
        ModelFileError: not an ONNX file, or with operators that OpenVINO does not know.
        MissingDependencyError: OpenVINO is not installed.
    """
    core = _core()
    try:
        return core, core.read_model(model if isinstance(model, bytes) else str(model))
    except RuntimeError as err:
        source = "the network" if isinstance(model, bytes) else str(model)
        raise ModelFileError(
            f"{source} cannot be loaded as an ONNX model ({_said(err)}); it is truncated or no ONNX file: "
            f"copy it again or {REMEDY}"
        ) from err


@cache
def _core() -> Any:
    """One for all models, and never freed.

    Each core gives the thread that loads its CPU plugin a stack for signal handlers and takes it away when it is freed,
    in the belief that it was the last to do so. With two of them the next signal that Python handles, a child that ends
    or Ctrl-C, then finds no memory and ends the process without a word (seen with OpenVINO 2026.4).
    """
    return _import().Core()


def choose_at_once(model: Any) -> None:
    """Have the largest value and its index found by one fast operator instead of two.

    OpenVINO turns ONNX's ArgMax into a search that gives the first of equal values, which takes seven times as long
    where FP32 lies channel by channel in memory, more than a convolution of the finest level. Of equal values any is
    as good here.
    """
    operators = _import().opset11
    for first in [node for node in model.get_ops() if node.get_type_name() == "TopK"]:
        facts, count = first.get_attributes(), first.input_value(1).get_node()
        if facts["mode"] != "max" or count.get_type_name() != "Constant" or int(count.get_data()) != 1:
            continue
        values, axis = first.input_value(0), facts["axis"]
        users = values.get_target_inputs()
        any_of = operators.topk(values, count, axis, "max", "value", facts["index_element_type"], stable=False)
        for old, new in zip(first.outputs(), any_of.outputs(), strict=True):
            old.replace(new)
        for largest in (user.get_node() for user in users):
            if largest.get_type_name() == "ReduceMax" and not largest.get_attributes()["keep_dims"]:
                axes = largest.input_value(1)
                if axes.get_node().get_type_name() == "Constant" and axes.get_node().get_data().tolist() == [axis]:
                    largest.output(0).replace(operators.squeeze(any_of.output(0), axes).output(0))


def compile_network(core: Any, model: Any, *, threads: int, precision: str | None, source: str) -> Any:
    """The ``openvino.CompiledModel`` for one image batch at a time.

    Args:
        core: of ``read_network``; ``model``: likewise.
        threads: CPU threads for one inference.
        precision: "fp32", "bf16" or "fp16" for what is not quantised; None is FP32. "int8" is what is fastest beside
            INT8: BF16 where the CPU has it, else FP32.
        source: the file, for messages.

    Raises:
        EngineError: this CPU does not compute in that precision, or OpenVINO cannot compile the model.
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
        # Left to itself it takes BF16 where the CPU has it, also for a model that was asked in FP32.
        "INFERENCE_PRECISION_HINT": _HINTS[precision],
        # Pinned, every process of the machine would hold the same first cores.
        "ENABLE_CPU_PINNING": "NO",
        # Denormal numbers stay: to take them for zero changes the arithmetic of the calling thread for good.
        "CPU_DENORMALS_OPTIMIZATION": "NO",
    }
    try:
        return core.compile_model(model, "CPU", options)
    except RuntimeError as err:
        raise EngineError(
            f"OpenVINO cannot compile {source} ({_said(err)}); use the runtime onnxruntime instead"
        ) from err


def precision_used(compiled: Any) -> str:
    """What most of the work of a compiled model's convolutions is really done in; of one without, its matrix products.

    Asked of the compiled graph: a hint is a wish. A graph without either answers with the hint. The work is counted as
    if all kernels had one size, which the graph does not tell.
    """
    convolutions: Counter[str] = Counter()
    products: Counter[str] = Counter()
    for node in compiled.get_runtime_model().get_ops():
        facts = {key: str(getattr(value, "value", value)) for key, value in node.get_rt_info().items()}
        for kinds, used in ((_CONVOLUTIONS, convolutions), (_PRODUCTS, products)):
            if facts.get("layerType") in kinds:
                work = math.prod(node.get_output_shape(0)) * node.get_input_shape(0)[1]
                used[facts.get("runtimePrecision", "").lower()] += work
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
    """The ONNX file's metadata, which OpenVINO keeps as facts about the framework. Raises ModelFileError."""
    if not model.has_rt_info("framework"):
        return {}
    facts = model.get_rt_info("framework")
    try:
        return {key: str(value) for key, value in getattr(facts, "value", facts).items()}
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
