"""The canvas of a scene: a supersampled image, and a map of the instance that each pixel shows.

Objects are painted far to near, so the finished instance map holds the exact visible extent of each; masks and boxes of
the annotation are read from it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from lvad_perception.types import Int32, UInt8
from lvad_perception.vocabulary import UNLABELED
from lvad_training.sample_set.atmosphere import Atmosphere
from lvad_training.sample_set.camera import NEAR_M, Camera, Points, clip_near

Color = tuple[float, float, float]
"""RGB, 0..255."""

SUPERSAMPLING = 2
MIN_BOX_SIDE_PX = 4
"""Objects whose visible part is smaller on either side get no box, as annotators leave them out."""

_FIRST_INSTANCE = UNLABELED + 1  # lower numbers are semantic classes without instances
_IDENT_SHIFT = 1.0  # instance numbers are sampled at even pixels, which this moves to the image's pixel centres
_SUBPIXELS = 3  # fractional bits of the fixed-point coordinates that OpenCV takes


@dataclass(slots=True)
class Instance:
    """One object of the scene: its class in both vocabularies, and its painted size and extent."""

    semantic: int
    detection: int | None
    signal: str = "NA"
    painted_px: int = 0
    extent: tuple[float, float, float, float] = (np.inf, np.inf, -np.inf, -np.inf)


@dataclass(frozen=True, slots=True)
class Box:
    """The visible extent of an object, ``xyxy`` in pixels, with det_20's attributes and its instance number."""

    detection: int
    xyxy: tuple[int, int, int, int]
    occluded: bool
    truncated: bool
    signal: str
    ident: int


class Canvas:
    """Paints polygons of the world, shaded and hazed by the atmosphere."""

    def __init__(self, camera: Camera, atmosphere: Atmosphere, backdrop: UInt8, semantic: UInt8) -> None:
        """Start from painted sky and ground, uint8 RGB [H, W, 3], and their classes, uint8 [H, W]."""
        self.camera = camera
        self.atmosphere = atmosphere
        height, width = camera.size_hw
        size_wh = (width * SUPERSAMPLING, height * SUPERSAMPLING)
        self._image = cv2.resize(backdrop, size_wh, interpolation=cv2.INTER_NEAREST)
        self._idents = cv2.resize(semantic, size_wh, interpolation=cv2.INTER_NEAREST).astype(np.uint16)
        self._instances: dict[int, Instance] = {}
        self._glows: list[tuple[float, float, float, Color, int]] = []

    def add(self, semantic: int, detection: int | None, signal: str = "NA") -> int:
        """Register an object; returns its instance number. Other surfaces are painted with their class id."""
        ident = _FIRST_INSTANCE + len(self._instances)
        self._instances[ident] = Instance(semantic, detection, signal)
        return ident

    def scale_at(self, z: float) -> float:
        """Pixels per metre at distance z, to leave out invisible detail."""
        return self.camera.focal_px / max(z, 0.5)

    def polygon(
        self,
        points: Points,
        color: Color,
        ident: int | None,
        *,
        shade: float = 1.0,
        glows: bool = False,
        convex: bool = True,
    ) -> None:
        """Paint a planar polygon.

        Args:
            points: world points [N, 3].
            color: surface colour.
            ident: instance or class number; None for details on a surface that is painted already.
            shade: share of the direct light that the surface receives, from ``Atmosphere.shade``.
            glows: the surface emits light: shade and night do not darken it.
            convex: whether the outline is convex.
        """
        clipped = clip_near(points)
        if len(clipped) < 3:
            return
        depth, across = float(clipped[:, 2].sum()) / len(clipped), float(clipped[:, 0].sum()) / len(clipped)
        lit = self.atmosphere.seen(color, shade, depth, across, glows=glows)
        self.flat_polygon(self.camera.project(clipped), lit, ident, convex=convex)

    def details(
        self, quads: Points, colors: npt.ArrayLike, *, shade: float, glows: Sequence[bool] | npt.NDArray[np.bool_]
    ) -> None:
        """Paint rectangles [N, 4, 3] in colours [N, 3], in this order, on a surface that is painted already."""
        if not len(quads):
            return
        points = quads.reshape(-1, 3)
        if points[:, 2].min() < NEAR_M:
            for quad, color, shines in zip(quads, np.asarray(colors), glows, strict=True):
                self.polygon(quad, tuple(color), None, shade=shade, glows=bool(shines))
            return
        middle = points.mean(0)
        lit = self.atmosphere.seen_all(colors, shade, float(middle[2]), float(middle[0]), glows=np.asarray(glows))
        corners = _fixed(self.camera.project(points), 0.5).reshape(-1, 4, 2)
        for corner, color in zip(corners, lit.tolist(), strict=True):
            cv2.fillConvexPoly(self._image, corner, color, cv2.LINE_8, _SUBPIXELS)

    def flat_polygon(self, pixels: Points, lit: Color, ident: int | None, *, convex: bool = True) -> None:
        """Paint a polygon in continuous pixels [N, 2] in its final colour."""
        fill = cv2.fillConvexPoly if convex else _fill_outline
        fill(self._image, _fixed(pixels, 0.5), lit, cv2.LINE_8, _SUBPIXELS)
        if ident is not None:
            fill(self._idents, _fixed(pixels, _IDENT_SHIFT), (ident,), cv2.LINE_8, _SUBPIXELS)
            self._extend(ident, pixels)

    def billboard(self, foot: Points, parts: Sequence[tuple[Points, Color]], ident: int, *, shade: float = 1.0) -> None:
        """Paint flat outlines [N, 2] in metres (right, up), upright at a world point and facing the camera."""
        if foot[2] < 1.0:
            return
        origin = self.camera.project(foot[None])[0]
        sizes = [len(outline) for outline, _ in parts]
        metres = np.concatenate([outline for outline, _ in parts])
        pixels = origin + metres * (self.scale_at(float(foot[2])) * np.array([1, -1]))
        colors = self.atmosphere.seen_all([color for _, color in parts], shade, float(foot[2]), float(foot[0]))
        painted, traced = _fixed(pixels, 0.5), _fixed(pixels, _IDENT_SHIFT)
        start = 0
        for size, color in zip(sizes, colors.tolist(), strict=True):
            stop = start + size
            cv2.fillPoly(self._image, [painted[start:stop]], color, cv2.LINE_8, _SUBPIXELS)
            cv2.fillPoly(self._idents, [traced[start:stop]], (ident,), cv2.LINE_8, _SUBPIXELS)
            start = stop
        self._extend(ident, pixels)

    def glow(self, point: Points, radius_m: float, color: Color, ident: int) -> None:
        """Add the glow of a lamp at a world point, which shows only if its object is visible there in the end."""
        if point[2] < 1.0:
            return
        x, y = self.camera.project(point[None])[0]
        self._glows.append((float(x), float(y), radius_m * self.scale_at(float(point[2])), color, ident))

    def seal(self, ident: int) -> None:
        """Finish an object: whatever is painted over it afterwards counts as occlusion."""
        instance = self._instances[ident]
        instance.painted_px = int(np.count_nonzero(self._window(instance) == ident))

    def hide(self, mask: npt.NDArray[np.bool_]) -> None:
        """Cover pixels, bool [H, W], with the ego vehicle: they become unlabelled and occlude objects."""
        self._native_idents()[mask] = UNLABELED

    def image(self) -> UInt8:
        """The painted image, uint8 RGB [H, W, 3], with the glow of lamps."""
        height, width = self.camera.size_hw
        image: UInt8 = np.asarray(cv2.resize(self._image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
        idents = self._native_idents()
        for x, y, radius, color, ident in self._glows:
            row, column = int(y), int(x)
            if 0 <= row < height and 0 <= column < width and idents[row, column] == ident:
                _add_glow(image, x, y, max(radius, 1.5), color)
        return image

    def semantic(self) -> UInt8:
        """Class of every pixel, uint8 [H, W]."""
        table = np.arange(_FIRST_INSTANCE + len(self._instances)).astype(np.uint8)
        for ident, instance in self._instances.items():
            table[ident] = instance.semantic
        table[UNLABELED] = UNLABELED
        return np.asarray(table[self._native_idents()], np.uint8)

    def instances(self) -> npt.NDArray[np.uint16]:
        """Instance number of every pixel, uint16 [H, W]; numbers up to ``UNLABELED`` are classes without instances."""
        return self._native_idents().copy()

    def boxes(self) -> list[Box]:
        """Visible objects of the detection vocabulary, in the order in which they were added."""
        found = []
        height, width = self.camera.size_hw
        for ident, instance in self._instances.items():
            if instance.detection is None:
                continue
            top, left = self._corner(instance)
            inside = self._window(instance) == ident
            rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
            if not len(rows):
                continue
            x1, y1 = left + int(columns[0]), top + int(rows[0])
            x2, y2 = left + int(columns[-1]) + 1, top + int(rows[-1]) + 1
            if min(x2 - x1, y2 - y1) < MIN_BOX_SIDE_PX:
                continue
            extent = instance.extent
            truncated = bool(min(extent[:2]) < -0.5 or extent[2] > width + 0.5 or extent[3] > height + 0.5)
            occluded = int(inside.sum()) < 0.9 * instance.painted_px
            found.append(Box(instance.detection, (x1, y1, x2, y2), occluded, truncated, instance.signal, ident))
        return found

    def _native_idents(self) -> npt.NDArray[np.uint16]:
        return self._idents[::SUPERSAMPLING, ::SUPERSAMPLING]

    def _extend(self, ident: int, pixels: Points) -> None:
        """Extend the bounding box of an object, also beyond the image."""
        if ident >= _FIRST_INSTANCE:
            x1, y1, x2, y2 = self._instances[ident].extent
            (left, top), (right, bottom) = pixels.min(0).tolist(), pixels.max(0).tolist()
            self._instances[ident].extent = (min(x1, left), min(y1, top), max(x2, right), max(y2, bottom))

    def _corner(self, instance: Instance) -> tuple[int, int]:
        """First row and column of an object's window."""
        height, width = self.camera.size_hw
        left, top, _, _ = instance.extent
        return int(min(max(top - 2, 0), height)), int(min(max(left - 2, 0), width))

    def _window(self, instance: Instance) -> npt.NDArray[np.uint16]:
        """The part of the instance map that can show an object; empty when none of it was painted."""
        top, left = self._corner(instance)
        height, width = self.camera.size_hw
        _, _, right, bottom = instance.extent
        bottom, right = int(min(max(bottom + 3, 0), height)), int(min(max(right + 3, 0), width))
        return self._native_idents()[top:bottom, left:right]


def regular_polygon(corners: int, radius: float = 1.0, turn: float = 0.0) -> Points:
    """Outline of a regular polygon around the origin, [corners, 2]."""
    angles = np.linspace(0, 2 * np.pi, corners, endpoint=False) + turn
    return np.stack([np.cos(angles), np.sin(angles)], 1) * radius


def scaled(color: Color, factor: float) -> Color:
    """A lighter or darker shade of a colour."""
    return (min(color[0] * factor, 255), min(color[1] * factor, 255), min(color[2] * factor, 255))


def _fixed(pixels: Points, shift: float) -> Int32:
    """Continuous pixels [N, 2] of the image -> OpenCV's fixed-point coordinates in the supersampled image."""
    return np.round((pixels * SUPERSAMPLING - shift) * (1 << _SUBPIXELS)).astype(np.int32)


def _fill_outline(image: Any, points: Int32, color: Any, line: int, shift: int) -> None:
    cv2.fillPoly(image, [points], color, line, shift)


def _add_glow(image: UInt8, x: float, y: float, radius: float, color: Color) -> None:
    reach = int(min(3 * radius, 90)) + 1
    top, left = max(0, int(y) - reach), max(0, int(x) - reach)
    window = image[top : int(y) + reach + 1, left : int(x) + reach + 1]
    rows = np.arange(top, top + window.shape[0], dtype=np.float32)[:, None] + 0.5 - y
    columns = np.arange(left, left + window.shape[1], dtype=np.float32)[None] + 0.5 - x
    falloff = np.exp(-(rows**2 + columns**2) / (2 * radius**2))
    window[:] = np.minimum(window + falloff[:, :, None] * np.array(color, np.float32), 255).astype(np.uint8)
