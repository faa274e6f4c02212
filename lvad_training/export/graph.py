"""The network as it is deployed: everything around it that the host must not do."""

from torch import Tensor, nn

from lvad_training.decoding.camera import CameraFrame
from lvad_training.decoding.decode import Decoded, decode


class ModelFileGraph(nn.Module):
    """The network with everything that the host must not do: layout, normalisation, decoding, casts.

    Args:
        net: the trained network.
        max_detections: K.
        camera: also letterboxes images of one camera size and brings the results back to it; None takes letterboxed
            images and answers in network pixels.
    """

    def __init__(self, net: nn.Module, max_detections: int, *, camera: CameraFrame | None = None) -> None:
        super().__init__()
        self.net = net
        self.max_detections = max_detections
        self.camera = camera

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """uint8 [N, H, W, 3] RGB -> the outputs that the manifest names, in its order."""
        # TensorRT wants uint8 converted before any other layer.
        pixels = images.float().permute(0, 3, 1, 2)
        if self.camera is not None:
            pixels = self.camera.letterbox(pixels)
        decoded = decode(self.net(pixels), (pixels.shape[2], pixels.shape[3]), self.max_detections, camera=self.camera)
        return tuple(tensor for tensor in in_file_order(decoded) if tensor is not None)


def in_file_order(decoded: Decoded) -> tuple[Tensor | None, ...]:
    """The decoded tensors in the order of ``Manifest.output_names``, None for absent tasks."""
    return (
        decoded.boxes,
        decoded.scores,
        decoded.labels,
        decoded.semantic,
        decoded.semantic_confidence,
        decoded.drivable,
    )
