"""On a CUDA device only: buffers, streams and graphs as the engines use them."""

import numpy as np
import pytest

from lvad_perception.engines.cuda import Cuda
from lvad_perception.errors import EngineError

torch = pytest.importorskip("torch", reason="torch is not installed")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_device_the_message_says_what_torch_was_built_for():
    with pytest.raises(EngineError, match=r"^torch \S+, built (for CUDA \S+|without CUDA), sees no CUDA GPU; check"):
        Cuda()


@needs_gpu
def test_what_goes_up_comes_down():
    cuda = Cuda()
    source, target = (cuda.buffer((3, 5), np.uint8) for _ in range(2))
    source.host[:] = np.arange(15).reshape(3, 5)

    def work():
        source.upload()
        target.device.copy_(source.device, non_blocking=True)
        target.download()

    cuda.run(work)
    np.testing.assert_array_equal(target.host, source.host)
    assert source.address == source.device.data_ptr()
    assert source.pinned.is_pinned()


@needs_gpu
def test_a_recording_replays_with_new_contents():
    cuda = Cuda()
    source, target = (cuda.buffer((64,), np.float32) for _ in range(2))

    def work():
        source.upload()
        target.device.copy_(source.device * 2, non_blocking=True)
        target.download()

    replay = cuda.record(work)
    for value in (1.5, -4.0):
        source.host[:] = value
        replay()
        np.testing.assert_array_equal(target.host, np.full(64, 2 * value, np.float32))


@needs_gpu
def test_what_cannot_be_recorded_raises_and_the_stream_stays_usable():
    cuda = Cuda()
    source = cuda.buffer((4,), np.float32)
    with pytest.raises(RuntimeError):
        cuda.record(lambda: source.device.sum().item())  # waits for the device
    cuda.run(source.upload)


@needs_gpu
def test_the_device_is_named_with_its_size():
    cuda = Cuda()
    assert "multiprocessors" in cuda.name
    assert float(cuda.capability) >= 5
