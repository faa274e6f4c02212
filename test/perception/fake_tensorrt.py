"""A fake TensorRT for machines without a GPU: its "plan" is the ONNX file, which ONNX Runtime executes.

It tests our own logic, not TensorRT: which calls we make, in which order, with which addresses. It has exactly the
names that a version's Python bindings define (``test/data/tensorrt_interface.json``, read from their sources); any
other name is an AttributeError, as in the real module.
"""

import ctypes
import enum
import json
import types
from pathlib import Path

import numpy as np

from .fake_cuda import STREAMS, Step

INTERFACE = json.loads((Path(__file__).resolve().parents[1] / "data/tensorrt_interface.json").read_text())
VERSIONS = tuple(name for name in INTERFACE if name != "source")
MAGIC = b"fake plan\n"
_LAYERS = {"Conv": "CONVOLUTION", "QuantizeLinear": "QUANTIZE", "DequantizeLinear": "DEQUANTIZE", "Cast": "CAST"}
_TYPES = {1: "FLOAT", 10: "HALF", 2: "UINT8", 3: "INT8", 6: "INT32", 7: "INT32", 9: "BOOL"}
_ENUMS = ("BuilderFlag", "DataType", "LayerType", "MemoryPoolType", "NetworkDefinitionCreationFlag", "TensorIOMode")


def make_tensorrt(version):
    """The module of one version; ``module.state`` records calls, and can make them fail (``refuse``, ``fail``)."""
    classes = INTERFACE[version]["classes"]
    trt = types.ModuleType("tensorrt")
    trt.__version__ = version
    trt.state = types.SimpleNamespace(
        gpu=True, refuse=None, fail=False, broken_run=False, flags=set(), networks=[], limits={}, plugins=False, runs=0
    )
    for name in _ENUMS:
        setattr(trt, name, enum.IntEnum(name, classes[name], start=0))
    trt.init_libnvinfer_plugins = lambda log, namespace: setattr(trt.state, "plugins", True)
    trt.ILogger = type("ILogger", (), {"Severity": enum.IntEnum("Severity", classes["Severity"], start=0)})
    for kind in (Builder, OnnxParser, Runtime):
        setattr(trt, kind.__name__, lambda *arguments, kind=kind: guarded(kind(trt, *arguments), classes))
    if "IProgressMonitor" in classes:
        trt.IProgressMonitor = type("IProgressMonitor", (), {})
    return trt


def guarded(thing, classes):
    """A proxy that gives access only to the attributes that the bindings of the object's class define."""
    names = set(classes[thing.NAME])

    class Guard:
        def __getattr__(self, name):
            if name not in names:
                raise AttributeError(f"{thing.NAME} has no {name}")
            value = getattr(thing, name)
            if callable(value):
                return lambda *arguments: wrapped(value(*(arguments)))
            return wrapped(value)

        def __setattr__(self, name, value):
            if name not in names:
                raise AttributeError(f"{thing.NAME} has no {name}")
            setattr(thing, name, value)

    def wrapped(value):
        return guarded(value, classes) if hasattr(value, "NAME") else value

    guard = Guard()
    guard.__dict__["thing"] = thing
    return guard


class Builder:
    NAME = "Builder"

    def __init__(self, trt, log):
        if not trt.state.gpu:
            log.log(trt.ILogger.Severity.WARNING, "CUDA initialization failure with error: 35")
            raise TypeError("pybind11::init(): factory function returned nullptr")
        self._trt = trt

    def create_network(self, flags):
        defined = self._trt.NetworkDefinitionCreationFlag
        assert flags < 1 << len(defined)
        network = Network(self._trt, {flag.name for flag in defined if flags >> flag & 1})
        self._trt.state.networks.append(network)
        return network

    def create_builder_config(self):
        return Config(self._trt)

    def build_serialized_network(self, network, config):
        network, config = network.thing, config.thing
        trt = self._trt
        trt.state.flags, trt.state.config = {flag.name for flag in config.flags}, config
        monitor = getattr(config, "progress_monitor", None)
        if monitor is not None:
            monitor.phase_start("Building engine", None, 2)
            monitor.phase_start("Timing kernels", "Building engine", 4)
            for step in range(4):
                if not monitor.step_complete("Timing kernels", step):
                    return None
            monitor.phase_finish("Timing kernels")
            for step in range(2):
                if not monitor.step_complete("Building engine", step):
                    return None
            monitor.phase_finish("Building engine")
        if trt.state.fail or network.model is None:
            return None
        config.cache = b"timings of " + trt.__version__.encode()
        return Memory(MAGIC + trt.__version__.encode() + b"\n" + network.model)


class Network:
    NAME = "INetworkDefinition"

    def __init__(self, trt, flags):
        self._trt, self.made_with, self.model, self._layers = trt, flags, None, []

    @property
    def num_layers(self):
        return len(self._layers)

    def get_layer(self, index):
        return self._layers[index]


class Layer:
    NAME = "ILayer"

    def __init__(self, kind, inputs, outputs):
        self.type, self._inputs, self._outputs = kind, inputs, outputs
        self.precision, self.output_types = None, {}

    num_inputs = property(lambda self: len(self._inputs))
    num_outputs = property(lambda self: len(self._outputs))

    def get_input(self, index):
        return self._inputs[index]

    def get_output(self, index):
        return self._outputs[index]

    def set_output_type(self, index, dtype):
        self.output_types[index] = dtype


class Tensor:
    NAME = "ITensor"

    def __init__(self, name, dtype):
        self.name, self.dtype = name, dtype


class OnnxParser:
    NAME = "OnnxParser"

    def __init__(self, trt, network, log):
        self._trt, self._network, self._errors = trt, network.thing, []

    def parse(self, content):
        import onnx

        assert isinstance(content, bytes)
        if self._trt.state.refuse:
            self._errors = [ParserError(self._trt.state.refuse)]
            return False
        model = onnx.shape_inference.infer_shapes(onnx.load_from_string(content), data_prop=True)
        infos = [*model.graph.input, *model.graph.value_info, *model.graph.output]
        dtypes = {info.name: info.type.tensor_type.elem_type for info in infos}
        dtypes |= {tensor.name: tensor.data_type for tensor in model.graph.initializer}
        kinds, types_ = self._trt.LayerType, self._trt.DataType

        def tensors(names):
            return [Tensor(name, types_[_TYPES[dtypes[name]]]) if name else None for name in names]

        self._network.model = content
        self._network._layers = [
            Layer(kinds[_LAYERS.get(node.op_type, "ELEMENTWISE")], tensors(node.input), tensors(node.output))
            for node in model.graph.node
        ]
        return True

    num_errors = property(lambda self: len(self._errors))

    def get_error(self, index):
        return self._errors[index]


class ParserError:
    NAME = "ParserError"

    def __init__(self, text):
        self._text = text

    def desc(self):
        return self._text


class Config:
    NAME = "IBuilderConfig"

    def __init__(self, trt):
        self._trt = trt
        self.flags = {trt.BuilderFlag.TF32}
        self.cache = None
        self.builder_optimization_level = 3

    def set_flag(self, flag):
        self.flags.add(flag)

    def clear_flag(self, flag):
        self.flags.discard(flag)

    def set_memory_pool_limit(self, pool, size):
        self._trt.state.limits[pool.name] = size

    def create_timing_cache(self, data):
        return TimingCache(bytes(data))

    def set_timing_cache(self, cache, ignore_mismatch):
        data = cache.thing.data
        if data and data != b"timings of " + self._trt.__version__.encode() and not ignore_mismatch:
            return False
        self.given_cache = self.cache = data
        return True

    def get_timing_cache(self):
        return TimingCache(self.cache)


class TimingCache:
    NAME = "ITimingCache"

    def __init__(self, data):
        self.data = data

    def serialize(self):
        return Memory(self.data)


class Memory(bytes):
    """``IHostMemory``, readable through the buffer protocol."""


class Runtime:
    NAME = "Runtime"

    def __init__(self, trt, log):
        self._trt, self._log = trt, log

    def deserialize_cuda_engine(self, plan):
        trt = self._trt
        start = MAGIC + trt.__version__.encode() + b"\n"
        if not trt.state.plugins or not bytes(plan).startswith(start):
            self._log.log(trt.ILogger.Severity.WARNING, "a warning")
            self._log.log(trt.ILogger.Severity.ERROR, "The engine plan file is not compatible with this version")
            return None
        return Engine(trt, bytes(plan)[len(start) :])


class Engine:
    NAME = "ICudaEngine"

    def __init__(self, trt, model):
        import onnxruntime

        self._trt = trt
        self.session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        self.device_memory_size = self.device_memory_size_v2 = 1000
        self.tensors = {each.name: each for each in [*self.session.get_inputs(), *self.session.get_outputs()]}

    num_io_tensors = property(lambda self: len(self.tensors))

    def get_tensor_name(self, index):
        return list(self.tensors)[index]

    def get_tensor_mode(self, name):
        inputs = [each.name for each in self.session.get_inputs()]
        return self._trt.TensorIOMode.INPUT if name in inputs else self._trt.TensorIOMode.OUTPUT

    def get_tensor_shape(self, name):
        return tuple(self.tensors[name].shape)

    def get_tensor_dtype(self, name):
        names = {"tensor(float)": "FLOAT", "tensor(int32)": "INT32", "tensor(uint8)": "UINT8", "tensor(int8)": "INT8"}
        return self._trt.DataType[names[self.tensors[name].type]]

    def create_execution_context(self):
        return Context(self._trt, self)


class Context:
    NAME = "IExecutionContext"

    def __init__(self, trt, engine):
        self._trt, self._engine, self._addresses = trt, engine, {}

    def set_tensor_address(self, name, address):
        self._addresses[name] = address
        return True

    def execute_async_v3(self, handle):
        if self._trt.state.broken_run:
            return False
        self._trt.state.runs += 1
        session = self._engine.session
        names = [each.name for each in session.get_outputs()]

        def read():
            self._feeds = {each.name: self._at(each.name).copy() for each in session.get_inputs()}

        def write():
            for name, array in zip(names, session.run(names, self._feeds), strict=True):
                np.copyto(self._at(name), array)

        STREAMS[handle].queue(Step(read), Step(write))
        return True

    def _at(self, name):
        """The memory at a tensor's address, as an array of its shape and dtype."""
        dtype = {"FLOAT": np.float32, "INT32": np.int32, "UINT8": np.uint8}[self._engine.get_tensor_dtype(name).name]
        shape = self._engine.get_tensor_shape(name)
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return np.frombuffer((ctypes.c_char * size).from_address(self._addresses[name]), dtype).reshape(shape)
