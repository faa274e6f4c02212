"""The deployed graph: the network with pre-processing and decoding around it."""

from torch import Tensor, nn

from lvad_perception.manifest import OUTPUT_NAMES
from lvad_training.decoding.camera import CameraFrame
from lvad_training.decoding.decode import decode


class ModelFileGraph(nn.Module):
    """The network with layout, normalisation, decoding and casts, so that the host has none of these to do.

    Args:
        net: the trained network.
        max_detections: K, boxes per image.
        camera: for images of one camera size, which the graph letterboxes, with results in their pixels; None for
            letterboxed images, with results in network pixels.
    """

    def __init__(self, net: nn.Module, max_detections: int, *, camera: CameraFrame | None = None) -> None:
        super().__init__()
        self.net = net
        self.max_detections = max_detections
        self.camera = camera

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Images uint8 [N, H, W, 3], RGB -> outputs in the order of ``Manifest.output_names``."""
        # TensorRT requires that uint8 is converted before any other layer.
        pixels = images.float().permute(0, 3, 1, 2)
        if self.camera is not None:
            pixels = self.camera.letterbox(pixels)
        decoded = decode(self.net(pixels), (pixels.shape[2], pixels.shape[3]), self.max_detections, camera=self.camera)
        outputs = (getattr(decoded, name) for names in OUTPUT_NAMES.values() for name in names)
        return tuple(tensor for tensor in outputs if tensor is not None)
