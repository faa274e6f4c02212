"""The deployed graph never synchronises with the host, so that it can be recorded as a CUDA graph."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from lvad_training.build import build_model
from lvad_training.decoding.camera import CameraFrame
from lvad_training.decoding.decode import decode
from lvad_training.export.graph import ModelFileGraph

from .conftest import SIZE_HW, SMALL_CONVOLUTIONS, StubEncoder, small_recipe

pytest.importorskip("onnxscript", reason="the extra export is not installed")

ATEN = torch.ops.aten
READS = {ATEN._local_scalar_dense.default, ATEN.nonzero.default, ATEN.item.default, ATEN.is_nonzero.default}


class HostTraffic(TorchDispatchMode):
    """Records every operator that makes the host wait for the device, or that takes or returns tensors of both."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        tensors = torch.utils._pytree.tree_leaves((args, kwargs, out))
        devices = {tensor.device.type for tensor in tensors if isinstance(tensor, torch.Tensor)}
        if function in READS or len(devices) > 1 or (devices == {"cpu"} and function is ATEN.lift_fresh.default):
            self.found.append(str(function))
        return out


def traffic(module, size):
    """Transfers and waits between host and device when a module runs on a uint8 tensor of a size, on a fake GPU."""
    with FakeTensorMode() as pretended:
        for part in module.modules():
            for tensors in (part._parameters, part._buffers):
                for name, tensor in tensors.items():
                    if tensor is not None:
                        tensors[name] = pretended.from_tensor(tensor).to("cuda")
        images = torch.zeros(size, dtype=torch.uint8, device="cuda")
        with torch.inference_mode(), HostTraffic() as mode:
            module(images)
    return mode.found


def language_recipe():
    language = {"context": 5, "width": 16, "heads": 2, "layers": 1, "v2l": True, "score_map": True, "per_task": True}
    return small_recipe(model={"language": language})


def deployed(recipe, *, encoder=None, camera_hw=None):
    camera = CameraFrame(camera_hw, SIZE_HW) if camera_hw else None
    net = build_model(recipe.model, metadata=encoder.metadata if encoder else None)
    return ModelFileGraph(net, 100, camera=camera).eval()


@pytest.mark.parametrize("camera_hw", [None, (72, 108), (128, 192)], ids=["letterboxed", "4 to 3", "half"])
def test_the_graph_does_not_synchronise_with_the_host(camera_hw):
    size_hw = camera_hw or SIZE_HW
    assert traffic(deployed(small_recipe(), camera_hw=camera_hw), (2, *size_hw, 3)) == []


def test_convolutional_heads_do_not_synchronise_with_the_host():
    assert traffic(deployed(small_recipe(model=SMALL_CONVOLUTIONS)), (2, *SIZE_HW, 3)) == []


def test_language_does_not_synchronise_with_the_host_either():
    encoder = StubEncoder(width=20, token_width=7)
    assert traffic(deployed(language_recipe(), encoder=encoder), (2, *SIZE_HW, 3)) == []


class Guilty(torch.nn.Module):
    def __init__(self, sin):
        super().__init__()
        self.sin = sin

    def forward(self, images):
        return self.sin(images.float())


@pytest.mark.parametrize(
    "sin",
    [
        lambda x: x * x.new_tensor([2.0, 3.0, 4.0]),
        lambda x: x * torch.tensor([2.0, 3.0, 4.0]).to(x.device),
        lambda x: x * torch.tensor([2.0, 3.0, 4.0], device=x.device),
        lambda x: x.cpu(),
        lambda x: torch.zeros(3).to(x),
        lambda x: x.nonzero(),
        lambda x: x.sum().item(),
    ],
    ids=["new_tensor", "tensor.to", "tensor on device", "cpu", "zeros.to", "nonzero", "item"],
)
def test_a_synchronisation_with_the_host_is_found(sin):
    try:
        found = traffic(Guilty(sin), (1, 4, 4, 3))
    except RuntimeError:  # fake tensors themselves refuse what depends on values
        return
    assert found


def test_training_and_deployment_decode_alike():
    torch.manual_seed(1)
    graph = deployed(small_recipe())
    images = torch.randint(0, 256, (1, *SIZE_HW, 3), dtype=torch.uint8)
    with torch.inference_mode():
        boxes, _, _, semantic, _, drivable = graph(images)
        decoded = decode(graph.net(images.permute(0, 3, 1, 2)), SIZE_HW, 100)
    assert torch.equal(boxes, decoded.boxes)
    assert torch.equal(semantic, decoded.semantic)
    assert torch.equal(drivable, decoded.drivable)
