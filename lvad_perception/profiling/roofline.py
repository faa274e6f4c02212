"""Roofline of an engine, from the measured peak of matrix products and bandwidth of copies."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np

from lvad_perception.engines.plain import open_plain
from lvad_perception.errors import EngineError, MissingDependencyError
from lvad_perception.profiling.cost import GraphCost

_SIDE: Final = 1536
_REPEATS: Final = 10
_COPIED_BYTES: Final = 128 * 2**20
"""Larger than the caches of most CPUs."""
_CUDA_SIDE: Final = 8192
_CUDA_COPIED_BYTES: Final = 2**29
_ELEMENT_BYTES: Final = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1}


@dataclass(frozen=True, slots=True)
class Machine:
    """Measured peak performance of a machine with a number of threads.

    Attributes:
        gflops: GFLOP/s of a large square matrix product in the engine's runtime and precision.
        gbytes_s: GB/s, reads plus writes, of a copy of large arrays.
    """

    gflops: float
    gbytes_s: float


@dataclass(frozen=True, slots=True)
class Roofline:
    """An engine's performance and its bound by peak and bandwidth (Williams et al., CACM 2009).

    Attributes:
        cost: of one run.
        machine: on which the engine runs.
        precision: of the engine, which determines the bytes of an element.
        engine_ms: median time of one run.
    """

    cost: GraphCost
    machine: Machine
    precision: str
    engine_ms: float

    @property
    def moved_bytes(self) -> int:
        """Bytes of the inputs, weights and outputs of every product, without reuse in caches."""
        return self.cost.elements * _ELEMENT_BYTES[self.precision]

    @property
    def intensity(self) -> float:
        """FLOP per byte."""
        return self.cost.flop / self.moved_bytes

    @property
    def gflops(self) -> float:
        """GFLOP/s of the engine."""
        return self.cost.flop / self.engine_ms / 1e6

    @property
    def roof_gflops(self) -> float:
        """Upper bound of GFLOP/s at this intensity on this machine."""
        return min(self.machine.gflops, self.intensity * self.machine.gbytes_s)

    @property
    def limit_ms(self) -> float:
        """Lower bound of the time of a run."""
        return self.cost.flop / self.roof_gflops / 1e6

    @property
    def fraction(self) -> float:
        """Share of the bound that the engine reaches; above 1 where caches save traffic."""
        return self.gflops / self.roof_gflops

    def to_text(self) -> str:
        """The roofline as three lines."""
        parts = ", ".join(f"{name} {flop / 1e9:.2f}" for name, flop in self.cost.by_operator.items())
        return (
            f"work of a run: {self.cost.flop / 1e9:.2f} GFLOP ({parts}), {self.cost.weights / 1e6:.2f} M constants, "
            f"{self.moved_bytes / 1e6:.0f} MB moved by products, {self.intensity:.0f} FLOP/byte\n"
            f"this machine:  {self.machine.gflops:.0f} GFLOP/s (product of matrices in {self.precision.upper()}), "
            f"{self.machine.gbytes_s:.1f} GB/s (copy)\n"
            f"roofline:      {self.gflops:.0f} of {self.roof_gflops:.0f} GFLOP/s, {100 * self.fraction:.0f} %; "
            f"no run can be shorter than {self.limit_ms:.2f} ms"
        )

    def to_dict(self) -> dict[str, Any]:
        """Dict of numbers, ready for JSON."""
        return {
            "gflop": self.cost.flop / 1e9,
            "gflop_by_operator": {name: flop / 1e9 for name, flop in self.cost.by_operator.items()},
            "constants": self.cost.weights,
            "moved_bytes": self.moved_bytes,
            "flop_per_byte": self.intensity,
            "machine_gflops": self.machine.gflops,
            "machine_gbytes_s": self.machine.gbytes_s,
            "engine_gflops": self.gflops,
            "roof_gflops": self.roof_gflops,
            "limit_ms": self.limit_ms,
            "fraction": self.fraction,
        }


def measure_machine(*, runtime: str, precision: str, threads: int) -> Machine:
    """Measure the CPU; takes about two seconds.

    Args:
        runtime: "onnxruntime" or "openvino", for the matrix product.
        precision: of the product.
        threads: CPU threads of the product and the copy.

    Raises:
        MissingDependencyError: the library onnx is not installed.
        EngineError: the CPU does not compute in that precision.
    """
    network = open_plain(_product_model(precision), runtime=runtime, threads=threads, precision=precision)
    network.run()
    best_ms = min(network.timed_ms() for _ in range(_REPEATS))
    return Machine(gflops=2 * _SIDE**3 / best_ms / 1e6, gbytes_s=_copy_gbytes_s(threads))


def measure_cuda(precision: str) -> Machine:
    """Measure the first CUDA device with torch; takes about a second.

    Raises:
        MissingDependencyError: torch is not installed.
        EngineError: it sees no CUDA device.
    """
    try:
        import torch
    except ImportError as err:
        raise MissingDependencyError("the peak of a GPU is measured with torch; install torch with CUDA") from err
    if not torch.cuda.is_available():
        raise EngineError("torch sees no CUDA device; check the driver with nvidia-smi")
    side = _CUDA_SIDE
    if precision == "int8":
        left, right = (torch.randint(-127, 128, (side, side), dtype=torch.int8, device="cuda") for _ in range(2))
        product = partial(torch._int_mm, left, right.t())  # needs a column-major second factor
    else:
        dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]
        product = partial(torch.mm, *(torch.randn(side, side, device="cuda").to(dtype) for _ in range(2)))
    source = torch.ones(_CUDA_COPIED_BYTES, dtype=torch.uint8, device="cuda")
    copy = partial(torch.empty_like(source).copy_, source)
    best_s = []
    for work in (product, copy):
        times = []
        for _ in range(_REPEATS + 3):  # the first ones initialize libraries and raise the clocks; the best counts
            torch.cuda.synchronize()
            began = time.perf_counter()
            work()
            torch.cuda.synchronize()
            times.append(time.perf_counter() - began)
        best_s.append(min(times))
    return Machine(gflops=2 * side**3 / best_s[0] / 1e9, gbytes_s=2 * _CUDA_COPIED_BYTES / best_s[1] / 1e9)


def _copy_gbytes_s(threads: int) -> float:
    """The best of several copies by threads; numpy releases the GIL while it copies."""
    source = [np.ones(_COPIED_BYTES // threads, np.uint8) for _ in range(threads)]
    target = [np.zeros_like(part) for part in source]
    best_s = float("inf")
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(_REPEATS):
            began = time.perf_counter()
            list(pool.map(np.copyto, target, source))
            best_s = min(best_s, time.perf_counter() - began)
    return 2 * _COPIED_BYTES / best_s / 1e9


def _product_model(precision: str) -> bytes:
    """ONNX file of a product with a constant matrix; "int8" has quantized inputs and outputs, as a network's layers."""
    try:
        from onnx import TensorProto, helper, numpy_helper
    except ImportError as err:
        raise MissingDependencyError(
            "the machine's peak is measured with the library onnx, which inference does not need; pip install onnx"
        ) from err
    shape, random = [_SIDE, _SIDE], np.random.default_rng(0)
    if precision == "int8":
        kind = TensorProto.UINT8
        constants = {
            "w": random.integers(-127, 128, shape).astype(np.int8),
            "scale": np.float32(0.01),
            "zero_a": np.uint8(128),
            "zero_w": np.int8(0),
            "scale_y": np.float32(4),
        }
        nodes = [
            helper.make_node("DequantizeLinear", ["a", "scale", "zero_a"], ["fa"]),
            helper.make_node("DequantizeLinear", ["w", "scale", "zero_w"], ["fw"]),
            helper.make_node("MatMul", ["fa", "fw"], ["fy"]),
            helper.make_node("QuantizeLinear", ["fy", "scale_y", "zero_a"], ["y"]),
        ]
    else:
        kind = TensorProto.FLOAT
        constants = {"w": random.random(shape).astype(np.float32)}
        nodes = [helper.make_node("MatMul", ["a", "w"], ["y"])]
    graph = helper.make_graph(
        nodes,
        "product",
        [helper.make_tensor_value_info("a", kind, shape)],
        [helper.make_tensor_value_info("y", kind, shape)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    content: bytes = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9
    ).SerializeToString()
    return content
