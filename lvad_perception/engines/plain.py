"""Timing of any ONNX network on random input in one of the CPU runtimes."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from lvad_perception.engines.base import Engine
from lvad_perception.engines.graph import first_line
from lvad_perception.engines.onnx import OnnxEngine, create_session, element_type
from lvad_perception.engines.openvino import (
    OpenVinoEngine,
    compile_network,
    precision_used,
    read_network,
    tensors_of,
)
from lvad_perception.errors import ConfigError, EngineError

_INTEGERS: Final = ("int8", "int16", "int32", "int64", "uint16", "uint32", "uint64")


@dataclass(frozen=True, slots=True)
class PlainNetwork:
    """A network and its input, ready to run.

    Attributes:
        name: for tables.
        precision: of its convolutions in OpenVINO; always "fp32" in ONNX Runtime, which runs the file as it is.
        batch_size: first dimension of its first input.
        run: runs it once, synchronously.
    """

    name: str
    precision: str
    batch_size: int
    run: Callable[[], Any]

    def timed_ms(self) -> float:
        """Run it once; milliseconds."""
        began = time.perf_counter()
        self.run()
        return 1e3 * (time.perf_counter() - began)


def runtime_of(engine: Engine) -> str | None:
    """The name of an engine's CPU runtime, for ``open_plain``; None for engines on other devices."""
    if isinstance(engine, OpenVinoEngine):
        return "openvino"
    return "onnxruntime" if isinstance(engine, OnnxEngine) and ", CPU, " in engine.description else None


def open_plain(
    model: Path | bytes, *, runtime: str, threads: int, precision: str, name: str | None = None
) -> PlainNetwork:
    """Load any ONNX network and create random input of its types and shapes.

    Args:
        model: an ONNX file, or its content.
        runtime: "onnxruntime" or "openvino".
        threads: CPU threads for one inference.
        precision: as for ``compile_network``; ONNX Runtime ignores it.
        name: for tables; the file's name when None.

    Raises:
        ModelFileError: not an ONNX file, or an operator is unknown.
        ConfigError: an input has a dynamic side other than the first, or a type that is not numeric.
        EngineError: the CPU lacks the precision, or the network cannot run on random input.
        MissingDependencyError: the runtime is not installed.
    """
    name = name or (model.name if isinstance(model, Path) else "network")
    load = _in_openvino if runtime == "openvino" else _in_onnxruntime
    inputs, used, run = load(name, model, threads, precision)
    try:
        run()
    except Exception as err:  # the runtimes' exceptions have no common class
        raise _unfit(name, err) from err
    first = next(iter(inputs.values()), np.zeros(1))
    return PlainNetwork(name, used, first.shape[0] if first.ndim else 1, run)


_Loaded = tuple[dict[str, Any], str, Callable[[], Any]]
"""Inputs by name, the precision, and the function that runs the network."""


def _in_onnxruntime(name: str, model: Path | bytes, threads: int, _precision: str) -> _Loaded:
    session = create_session(model, threads=threads)
    inputs = {
        tensor.name: _random(name, tensor.name, element_type(tensor.type), tensor.shape)
        for tensor in session.get_inputs()
    }
    return inputs, "fp32", lambda: session.run(None, inputs)


def _in_openvino(name: str, model: Path | bytes, threads: int, precision: str) -> _Loaded:
    core, network = read_network(model)
    inputs = {
        key: _random(name, key, dtype, [side if isinstance(side, int) else None for side in shape])
        for key, (dtype, shape) in tensors_of(network.inputs).items()
    }
    try:
        network.reshape({key: list(array.shape) for key, array in inputs.items()})
    except RuntimeError as err:
        raise _unfit(name, err) from err
    compiled = compile_network(core, network, threads=threads, precision=precision, source=name)
    request = compiled.create_infer_request()
    for key, array in inputs.items():
        request.get_tensor(key).data[:] = array
    return inputs, precision_used(compiled), request.infer


def _unfit(name: str, err: Exception) -> EngineError:
    return EngineError(f"{name} cannot run on random input ({first_line(err)}); it cannot be compared")


def _random(network: str, name: str, dtype: str, shape: Sequence[Any]) -> Any:
    """Random input: floats in [0, 1), bytes of all values, other integers 0 or 1, which are valid as most indices."""
    sides = [side if isinstance(side, int) else None for side in shape]
    if None in sides[1:]:
        raise ConfigError(
            f"{network}: its input {name} has the shape {list(shape)}, where only the first side may be left open; "
            "export it with a fixed size"
        )
    fixed = [side or 1 for side in sides]
    random = np.random.default_rng(0)
    if dtype.startswith("float"):
        return random.random(fixed).astype(dtype)
    if dtype == "uint8":
        return random.integers(0, 256, fixed, np.uint8)
    if dtype == "bool" or dtype in _INTEGERS:
        return random.integers(0, 2, fixed).astype(dtype)
    raise ConfigError(f"{network}: its input {name} of type {dtype} cannot be filled; compare a network of numbers")
