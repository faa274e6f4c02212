"""The pinhole camera on the ego vehicle, and the road ahead of it.

World coordinates are in metres: x to the right of the camera, y up from the ground, z ahead. Road coordinates are
``s``, to the right of the ego lane's centre line, and ``z``.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lvad_perception.types import Size

Points = npt.NDArray[np.float64]

NEAR_M = 0.8
"""Distance of the near plane: nothing nearer is painted."""

_BEND_ENDS_M = 70.0


@dataclass(frozen=True, slots=True)
class Camera:
    """A camera that looks straight ahead; the position of the horizon stands for its pitch.

    Attributes:
        size_hw: image size.
        focal_px: focal length.
        horizon_px: row of the horizon.
        height_m: height above the ground.
    """

    size_hw: Size
    focal_px: float
    horizon_px: float
    height_m: float

    def project(self, points: Points) -> Points:
        """World points [N, 3] with z > 0 -> continuous pixel coordinates (x, y) [N, 2]."""
        scale = self.focal_px / points[:, 2]
        pixels = np.empty((len(points), 2))
        pixels[:, 0] = self.size_hw[1] / 2 + points[:, 0] * scale
        pixels[:, 1] = self.horizon_px + (self.height_m - points[:, 1]) * scale
        return pixels

    def ground_depths(self, rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Distance ahead at which pixel rows (continuous, below the horizon) see the ground."""
        return np.asarray(self.focal_px * self.height_m / (rows - self.horizon_px))


def cross(a: Points, b: Points) -> Points:
    """Cross product of two vectors [3]; much faster than numpy's for single vectors."""
    return np.array([a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]])


def clip_near(points: Points) -> Points:
    """Clip a planar polygon [N, 3] at the near plane: [M, 3], M = 0 when all of it is nearer."""
    depth = points[:, 2]
    if depth.min() >= NEAR_M:
        return points
    if depth.max() <= NEAR_M:
        return points[:0]
    kept = []
    for here, there in zip(points, np.roll(points, -1, axis=0), strict=True):
        if here[2] >= NEAR_M:
            kept.append(here)
        if (here[2] >= NEAR_M) != (there[2] >= NEAR_M):
            share = (NEAR_M - here[2]) / (there[2] - here[2])
            kept.append(here + share * (there - here))
    return np.array(kept)


@dataclass(frozen=True, slots=True)
class Road:
    """The course of the road relative to the camera.

    Attributes:
        curvature: 1 / radius in 1 / m, positive to the right; the bend ends after 70 m.
        heading: angle of the road to the camera's axis at the camera, in radians.
        ego_s: lateral position of the camera relative to the ego lane's centre line, in metres.
    """

    curvature: float
    heading: float
    ego_s: float

    def offset(self, z: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """World x of the ego lane's centre line at distances z."""
        bend = np.minimum(np.maximum(z, 0), _BEND_ENDS_M)
        return np.asarray(self.curvature * (bend**2 / 2 + bend * (z - bend)) + self.heading * z - self.ego_s)

    def to_world(self, s: float, z: float, y: float = 0.0) -> Points:
        """Road coordinates -> a world point [3]."""
        return np.array([s + float(self.offset(np.array(z))), y, z])

    def yaw(self, z: float) -> float:
        """Direction of the road at z, radians clockwise from straight ahead."""
        return float(np.arctan(self.curvature * np.clip(z, 0, _BEND_ENDS_M) + self.heading))
