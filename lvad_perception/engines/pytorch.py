"""PyTorch runtime for ``.pt2`` files: compiled in half precision and run as a CUDA graph, or plain torch on the CPU."""

import logging
from collections.abc import Callable, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from lvad_perception.engines.base import Engine, Pending, on_cpu
from lvad_perception.engines.cuda import Cuda, Pipeline
from lvad_perception.engines.failures import device_failure, engine_failure
from lvad_perception.engines.graph import OUTPUT_TYPES, first_line
from lvad_perception.engines.pt2_file import load_program
from lvad_perception.errors import ConfigError, EngineError
from lvad_perception.manifest import Manifest
from lvad_perception.types import UInt8

PRECISIONS: Final = ("fp32", "fp16", "bf16")
_LOG: Final = logging.getLogger(__name__)

_Network = Callable[[Any], Sequence[Any]]
"""Tensor uint8 [N, H, W, 3] -> tensors in the order of ``Manifest.output_names``."""


class _Runner(Protocol):
    """Runs the network: ``_OnCpu`` or ``cuda.Pipeline``."""

    def submit(self, slot: int, images: UInt8) -> Pending[Sequence[npt.NDArray[Any]]]: ...

    def close(self) -> None: ...


class PyTorchEngine(Engine):
    """A program that ``torch.export`` wrote.

    On a CUDA device it is asynchronous: the program is compiled, with convolutions and matrix products in half
    precision and channels last, and recorded as one CUDA graph; the copies of one inference overlap the network of the
    other (``cuda.Pipeline``). On the CPU it is synchronous: ``submit`` returns when the result is computed.

    Boxes and scores stay in FP32 by casts in the exported graph, and so do the operators that autocast keeps there. Its
    memory is what torch reserved on the device while loading.
    """

    def __init__(
        self,
        path: Path,
        *,
        precision: str | None = None,
        device: str | None = None,
        compiled: bool | None = None,
        threads: int | None = None,
    ) -> None:
        """Load a file and run it once; on a CUDA device this compiles it, in a minute or so unless torch has it cached.

        Args:
            path: a ``.pt2`` file that ``lvad-train export`` wrote.
            precision: one of ``PRECISIONS``; None is FP16 on a CUDA device and FP32 on the CPU.
            device: "cuda" or "cpu"; None takes the CUDA device where there is one.
            compiled: whether to compile; None does on a CUDA device.
            threads: CPU threads of torch in the whole process; None is torch's default.

        Raises:
            ModelFileError: truncated, of another kind, without manifest, unsafe, or its graph differs from it.
            VocabularyMismatchError: the model has an unknown task or other drivable classes.
            EngineError: there is no CUDA device, or torch cannot read or run the program.
            MissingDependencyError: torch or torchvision is not installed.
            ConfigError: no such precision.
        """
        if precision not in (None, *PRECISIONS):
            raise ConfigError(f"{path} runs in {', '.join(PRECISIONS)}, not in {precision}; choose one of them")
        program, manifest = load_program(path)
        import torch

        cuda = Cuda() if (device or ("cuda" if torch.cuda.is_available() else "cpu")) == "cuda" else None
        if threads is not None:
            torch.set_num_threads(threads)
        reserved = torch.cuda.memory_reserved() if cuda else 0
        used = precision or ("fp16" if cuda else "fp32")
        black = np.zeros((manifest.batch_size, *manifest.input_hw, 3), np.uint8)
        where = torch.device("cuda", 0) if cuda else torch.device("cpu")
        try:
            module = _deployed(program, where, used)
            network, how = _network(module, where, used), "not compiled"
            if compiled or (compiled is None and cuda):
                # Not the function around it: torch compiles at most eight versions of code that engines share.
                faster = _network(torch.compile(module, dynamic=False, fullgraph=True), where, used)
                if _runs(faster, torch.from_numpy(black).to(where), path):
                    network, how = faster, "compiled"
            self._runner: _Runner = _OnCpu(network)
            graph = ""
            if cuda:
                self._runner, graph = _on_cuda(network, cuda, manifest)
            self._runner.submit(0, black).result()
        except RuntimeError as err:
            if (failure := device_failure(err)) is not None:
                raise failure from err
            raise EngineError(
                f"{path}: torch {torch.__version__} failed on the first image ({first_line(err)}); check the free "
                "memory, or use the .onnx model file"
            ) from err
        device_text = f"{cuda.name}, {graph}" if cuda else on_cpu(torch.get_num_threads())
        super().__init__(
            manifest=manifest,
            description=f"PyTorch {torch.__version__}, {device_text}, {used.upper()}, {how}",
            precision=used,
            device_memory_bytes=torch.cuda.memory_reserved() - reserved if cuda else None,
        )

    def _submit(self, slot: int, images: UInt8) -> Pending[Sequence[npt.NDArray[Any]]]:
        try:
            return self._runner.submit(slot, images)
        except RuntimeError as err:
            raise engine_failure("torch", err, remedy="restart the process") from err

    def _close(self) -> None:
        self._runner.close()


def _deployed(program: Any, device: Any, precision: str) -> Any:
    """The program as a module on a device: weights of products in the precision, of convolutions channels last."""
    import torch
    from torch.export.passes import move_to_device_pass

    if device.type != "cpu":
        program = move_to_device_pass(program, device)
    module = program.module()
    aten = torch.ops.aten
    for node in list(module.graph.nodes):
        # These check the types at export, which half precision changes; ``Engine.submit`` checks the shape.
        if node.target in (aten._assert_tensor_metadata.default, "_guards_fn"):
            module.graph.erase_node(node)
    module.recompile()
    uses: dict[str, set[Any]] = {}
    for node in module.graph.nodes:
        if node.op == "get_attr":
            uses.setdefault(node.target, set()).update(user.target for user in node.users)
    products = {aten.conv2d.default, aten.conv2d.padding, aten.linear.default}
    for name, users in uses.items():
        tensor = attrgetter(name)(module)
        if users <= products:  # or autocast would cast them in every call
            tensor.data = tensor.data.to(_dtype(precision))
        if tensor.dim() == 4:
            tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)
    return module.requires_grad_(False)


def _network(module: Callable[[Any], Sequence[Any]], device: Any, precision: str) -> _Network:
    """Call the module without gradients, under autocast in half precision."""
    import torch

    dtype = None if precision == "fp32" else _dtype(precision)

    def network(images: Any) -> Sequence[Any]:
        # Without autocast's cache: a CUDA graph must not reuse casts of another run.
        with torch.no_grad(), torch.autocast(device.type, dtype, enabled=dtype is not None, cache_enabled=False):
            return module(images)

    return network


def _runs(compiled: _Network, images: Any, path: Path) -> bool:
    """Compile by a first call; False if the compiler fails."""
    _LOG.info("%s: compiling, which takes a minute or so unless torch has done it before", path)
    try:
        compiled(images)
    # Errors of torch's compiler, of Triton and of a C compiler have no common base.
    except Exception as err:
        _LOG.warning("%s: runs uncompiled, which is slower, since torch.compile failed (%s)", path, first_line(err))
        return False
    return True


class _OnCpu:
    """Runs the network synchronously in the caller's thread."""

    def __init__(self, network: _Network) -> None:
        self._network: _Network | None = network

    def submit(self, slot: int, images: UInt8) -> Pending[list[npt.NDArray[Any]]]:
        import torch

        assert self._network is not None
        return Pending.finished([tensor.numpy() for tensor in self._network(torch.from_numpy(images))])

    def close(self) -> None:
        self._network = None


def _on_cuda(network: _Network, cuda: Cuda, manifest: Manifest) -> tuple[Pipeline, str]:
    """The pipeline, and "CUDA graph" or "no CUDA graph"."""
    import torch

    source = cuda.tensor((manifest.batch_size, *manifest.input_hw, 3), np.uint8)
    shapes = [tuple(tensor.shape) for tensor in network(source)]
    torch.cuda.synchronize()  # the default stream cast weights; from now on the network runs in another stream
    run, how = cuda.record(lambda: network(source))
    outputs = [(shape, OUTPUT_TYPES[name]) for name, shape in zip(manifest.output_names, shapes, strict=True)]
    return Pipeline(cuda, source, run, outputs), how


def _dtype(precision: str) -> Any:
    import torch

    return {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]
