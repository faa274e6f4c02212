"""On a CUDA device only: buffers, streams and graphs as the engines use them. Without one: ``test_cuda_overlap``."""

import numpy as np
import pytest

from lvad_perception.engines.cuda import Cuda, Pipeline
from lvad_perception.errors import EngineError

torch = pytest.importorskip("torch", reason="torch is not installed")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_device_the_message_says_what_torch_was_built_for():
    with pytest.raises(EngineError, match=r"^torch \S+, built (for CUDA \S+|without CUDA), sees no CUDA GPU; check"):
        Cuda()


@pytest.fixture
def doubled():
    """A function that makes a pipeline of ``network(source)``, both of 64 bytes; None doubles."""

    def make(network=None):
        cuda = Cuda()
        source = cuda.tensor((64,), np.uint8)
        run, how = cuda.record(lambda: [(network or (lambda tensor: tensor * 2))(source)])
        return Pipeline(cuda, source, run, [((64,), np.uint8)]), how

    return make


@needs_gpu
def test_two_inferences_in_flight(doubled):
    pipeline, how = doubled()
    assert how == "CUDA graph"
    for value in range(0, 100, 2):
        pending = [pipeline.submit(slot, np.full(64, value + slot, np.uint8)) for slot in range(2)]
        for slot, each in enumerate(pending):
            np.testing.assert_array_equal(each.result()[0], np.full(64, 2 * (value + slot), np.uint8))
            assert each.done
    pipeline.close()


@needs_gpu
def test_a_network_that_cannot_be_recorded_runs_without_graph(doubled):
    pipeline, how = doubled(lambda tensor: tensor + int(tensor[0].item()))  # which waits for the device
    assert how == "no CUDA graph"
    (found,) = pipeline.submit(0, np.full(64, 3, np.uint8)).result()
    np.testing.assert_array_equal(found, np.full(64, 6, np.uint8))


@needs_gpu
def test_buffers_are_pinned():
    buffer = Cuda().buffer((3, 5), np.uint8)
    assert buffer.pinned.is_pinned()
    assert buffer.host.shape == tuple(buffer.device.shape) == (3, 5)


@needs_gpu
def test_the_device_is_named_with_its_size():
    cuda = Cuda()
    assert "multiprocessors" in cuda.name
    assert float(cuda.capability) >= 5
