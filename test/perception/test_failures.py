"""A failed device is reported as such, and not by its consequences."""

import sys

import pytest

from lvad_perception.engines import open_engine
from lvad_perception.engines.cuda import Cuda
from lvad_perception.engines.failures import device_failure, engine_failure
from lvad_perception.engines.onnx import OnnxEngine, create_session
from lvad_perception.errors import DeviceError, EngineError
from lvad_perception.perceiver import Perceiver

from .fake_cuda import FakeTorch
from .test_cuda_overlap import open_on  # noqa: F401  # a fixture: an engine of torch or TensorRT on a fake device

ASSERT = (
    "CUDA error: device-side assert triggered\nSearch for `cudaErrorAssert' in https://docs.nvidia.com/cuda/\nCUDA "
    "kernel errors might be asynchronously reported at some other API call, so the stacktrace below might be incorrect."
)
# What ONNX Runtime says, whose first line names its own files, functions and the machine.
ONNX_RUNTIME = (
    "[ONNXRuntimeError] : 1 : FAIL : Non-zero status code returned while running Conv node. Name:'/c' Status Message: "
    "/onnxruntime_src/onnxruntime/core/providers/cuda/cuda_call.cc:129 onnxruntime::common::Status "
    "onnxruntime::CudaCall(ERRTYPE, const char*, const char*, ERRTYPE, const char*) [with ERRTYPE = cudaError; bool "
    "THRW = false] CUDA failure {}; GPU=0 ; hostname=car ; file=cuda_stream.cc ; line=9 ; expr=cudaStreamSynchronize(s)"
)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (ASSERT, "CUDA error: device-side assert triggered"),
        ("CUDA error: unspecified launch failure", "CUDA error: unspecified launch failure"),
        ("CUDA driver error: invalid device context", "CUDA driver error: invalid device context"),
        ("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED", "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
        ("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`", "CUDA error: CUBLAS_STATUS_EXECUTIO"),
        ("IExecutionContext::enqueueV3: Error Code 1: Cuda Runtime (an illegal memory access was encountered)", "IExe"),
        ("Error Code 1: Cudnn Execution (CUDNN_STATUS_EXECUTION_FAILED)", "Error Code 1: Cudnn Execution"),
        (
            ONNX_RUNTIME.format("700: an illegal memory access was encountered "),
            "CUDA failure 700: an illegal memory access was encountered",
        ),
    ],
)
def test_a_failed_device_is_reported_as_such(said, told):
    failure = engine_failure("torch", RuntimeError(said), remedy="try again")
    assert isinstance(failure, DeviceError)
    assert str(failure).startswith(f"the CUDA device failed ({told}")
    assert str(failure).endswith("); restart the process, and the machine if it fails again")
    assert "\n" not in str(failure)


@pytest.mark.parametrize(
    "said",
    [
        "CUDA error: CUDA-capable device(s) is/are busy or unavailable",
        "cudaErrorDeviceUnavailable",
        "Error Code 1: Cuda Runtime (cudaErrorDevicesUnavailable)",
    ],
)
def test_a_device_in_use_by_another_process(said):
    failure = device_failure(RuntimeError(said))
    assert isinstance(failure, DeviceError)
    assert str(failure) == (
        f"the CUDA device cannot be used ({said}); end the process that holds it, which nvidia-smi shows, or give it "
        "the compute mode Default"
    )


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has ",
            "the CUDA device is out of memory (CUDA out of",
        ),
        ("CUDA error: out of memory", "the CUDA device is out of memory (CUDA error: out of memory); end what else"),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED", "the CUDA device is out of memory (CUDA error: CUBLAS_STATUS_ALLOC"),
        ("Error Code 1: Cuda Runtime (out of memory)", "the CUDA device is out of memory (Error Code 1: Cuda Runtime"),
        (ONNX_RUNTIME.format("2: out of memory "), "the CUDA device is out of memory (CUDA failure 2: out of memory);"),
        (
            "DefaultCPUAllocator: can't allocate memory: you tried to",
            "the memory ran out (DefaultCPUAllocator: can't al",
        ),
        (
            "[ONNXRuntimeError] : 6 : std::bad_alloc",
            "the memory ran out ([ONNXRuntimeError] : 6 : std::bad_alloc); clo",
        ),
    ],
)
def test_exhausted_memory_is_no_failed_device(said, told):
    failure = device_failure(RuntimeError(said))
    assert type(failure) is EngineError
    assert str(failure).startswith(told)
    assert "take a model file of a smaller batch" in str(failure)


@pytest.mark.parametrize(
    "said", ["", "The size of tensor a (3) must match", "[ONNXRuntimeError] : 2 : INVALID_ARGUMENT"]
)
def test_a_message_without_a_device(said):
    assert device_failure(RuntimeError(said)) is None
    told = f"torch failed ({said or 'RuntimeError'}); try again"
    assert str(engine_failure("torch", RuntimeError(said), remedy="try again")) == told


class TestOnTheDevice:
    """Engines of torch and TensorRT, on a device that fails while they work."""

    @pytest.fixture
    def perceiver(self, open_on):  # noqa: F811
        return Perceiver(open_on(0))

    @pytest.fixture
    def breaks(self, perceiver):
        """A function that breaks the device: from then on each call of CUDA fails with this."""
        engine = perceiver._engine
        device = engine._cuda.fake if hasattr(engine, "_cuda") else sys.modules["torch"]
        return lambda said: setattr(device, "broken", said)

    @pytest.fixture
    def images(self, perceiver, images_like):
        return list(images_like(perceiver.manifest))

    def told(self, act):
        with pytest.raises(DeviceError) as caught:
            act()
        return str(caught.value)

    FAILED = (
        "the CUDA device failed (CUDA error: device-side assert triggered); restart the process, and the machine if it "
        "fails again"
    )

    def test_before_an_inference(self, perceiver, breaks, images):
        breaks(ASSERT)
        for _ in range(6):
            assert self.told(lambda: perceiver.submit(images)) == self.FAILED

    def test_during_two(self, perceiver, breaks, images):
        pending = [perceiver.submit(images), perceiver.submit(images)]
        breaks(ASSERT)
        assert [self.told(one.result) for one in pending] == [self.FAILED] * 2
        for _ in range(6):
            assert self.told(lambda: perceiver.submit(images)) == self.FAILED

    def test_later_failures_repeat_the_first_message(self, perceiver, breaks, images):
        pending = [perceiver.submit(images), perceiver.submit(images)]
        breaks(ASSERT)
        assert self.told(pending[0].result) == self.FAILED
        breaks("CUDA error: invalid resource handle")
        assert self.told(pending[1].result) == self.FAILED
        assert self.told(lambda: perceiver.submit(images)) == self.FAILED

    def test_between_submission_and_the_query_for_completion(self, perceiver, breaks, images, monkeypatch):
        """This used to occupy two slots for good."""
        submit = perceiver._engine.submit

        def submit_and_break(batch):
            pending = submit(batch)
            breaks(ASSERT)
            return pending

        monkeypatch.setattr(perceiver._engine, "submit", submit_and_break)
        assert self.told(perceiver.submit(images).result) == self.FAILED
        for _ in range(4):
            assert self.told(lambda: perceiver.submit(images)) == self.FAILED

    def test_it_can_still_be_closed(self, perceiver, breaks, images):
        perceiver.submit(images)
        breaks(ASSERT)
        perceiver.close()
        with pytest.raises(EngineError, match="the engine is closed"):
            perceiver.submit(images)

    def test_out_of_memory_passes(self, perceiver, breaks, images):
        wanted = perceiver(images)[0].semantic
        breaks("CUDA out of memory. Tried to allocate 20.00 MiB")
        for _ in range(4):
            with pytest.raises(EngineError, match=r"the CUDA device is out of memory \(CUDA out of memory\. Tried"):
                perceiver.submit(images)
        breaks("")
        assert (perceiver(images)[0].semantic == wanted).all()


def test_a_device_that_fails_while_it_is_opened():
    def refuse(device):
        raise RuntimeError("CUDA error: CUDA-capable device(s) is/are busy or unavailable\nmore")

    torch = FakeTorch()
    torch.cuda.Stream = refuse
    with pytest.raises(DeviceError, match=r"the CUDA device cannot be used \(CUDA error: CUDA-capable device\(s\) is"):
        Cuda(torch)


class TestOnnxRuntime:
    @pytest.fixture
    def onnxruntime(self):
        return pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

    def test_during_an_inference(self, onnxruntime, tiny_model_file, images_like):
        engine = open_engine(tiny_model_file, threads=1)
        assert isinstance(engine, OnnxEngine)
        said = ONNX_RUNTIME.format("700: an illegal memory access was encountered ")

        class Session:
            def run(self, *_):
                raise onnxruntime.capi.onnxruntime_pybind11_state.Fail(said)

        engine._session = Session()
        perceiver = Perceiver(engine)
        images = list(images_like(engine.manifest))
        for _ in range(5):
            with pytest.raises(DeviceError, match=r"^the CUDA device failed \(CUDA failure 700: an illegal memory acc"):
                perceiver.submit(images)

    def test_while_loading_the_file_is_not_blamed(self, onnxruntime, tiny_model_file, monkeypatch):
        def refuse(*_, **__):
            raise RuntimeError(ONNX_RUNTIME.format("2: out of memory "))

        monkeypatch.setattr(onnxruntime, "InferenceSession", refuse)
        with pytest.raises(EngineError, match=r"^the CUDA device is out of memory \(CUDA failure 2: out of memory\);"):
            create_session(tiny_model_file, threads=1)
