"""Paints the ground: lanes, shoulders, sidewalks, terrain, markings, crossings and shadows.

Each pixel below the horizon is projected to road coordinates (s, z), where its class and colour are looked up. Unlike
polygons, this makes the masks exact and the markings smooth at any distance.
"""

from dataclasses import dataclass, field

import cv2
import numpy as np
import numpy.typing as npt

from lvad_perception.types import Bool, UInt8
from lvad_perception.vocabulary import DRIVABLE, DRIVABLE_BACKGROUND, SEMANTIC
from lvad_training.sample_set.atmosphere import Array, Atmosphere, sample_noise
from lvad_training.sample_set.camera import Camera, Points, Road

ROAD, SIDEWALK, TERRAIN = (SEMANTIC.index(name) for name in ("road", "sidewalk", "terrain"))
DIRECT, ALTERNATIVE = (DRIVABLE.index(name) for name in ("direct", "alternative"))

_FARTHEST_M = 600.0


@dataclass(frozen=True, slots=True)
class Strip:
    """A band along the road, from the right edge of the previous one to ``right``.

    Attributes:
        right: s of the right edge in metres.
        semantic: class of the ground.
        drivable: drivable class.
        color: RGB 0..255.
    """

    right: float
    semantic: int
    drivable: int
    color: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Line:
    """A marking along the road at ``s``: dashed when ``dash`` > 0 (metres painted, then twice that free)."""

    s: float
    width: float
    color: tuple[float, float, float]
    dash: float = 0.0
    raised: bool = False  # a kerb: interrupted by junctions like paint, but continuous at crossings and never worn


@dataclass(frozen=True, slots=True)
class Layout:
    """The cross-section of the street and its markings.

    Attributes:
        strips: from left to right; the last one reaches to infinity.
        lines: markings and kerbs.
        road_s: (left, right) edges of the carriageway.
        junction: (near, far) z of a crossing street, or None.
        crosswalks: z at which zebra crossings begin; each is 3 m deep.
        wear: strength of stains and patches, 0..1.
    """

    strips: list[Strip]
    lines: list[Line]
    road_s: tuple[float, float]
    junction: tuple[float, float] | None
    crosswalks: list[float] = field(default_factory=list)
    wear: float = 0.5


CROSSWALK_DEPTH_M = 3.0


@dataclass(frozen=True, slots=True, eq=False)
class Ground:
    """The painted ground of an image; rows above ``first_row`` are undefined.

    Attributes:
        color: float32 [H, W, 3], RGB.
        semantic: uint8 [H, W].
        drivable: uint8 [H, W], background outside lanes.
        first_row: first row that shows ground.
    """

    color: Array
    semantic: UInt8
    drivable: UInt8
    first_row: int


def paint_ground(
    camera: Camera,
    road: Road,
    layout: Layout,
    atmosphere: Atmosphere,
    shadows: list[Points],
    lamps: list[tuple[float, float]],
    rng: np.random.Generator,
) -> Ground:
    """Paint every pixel below the horizon.

    Args:
        camera: the camera.
        road: the course of the road.
        layout: its cross-section and markings.
        atmosphere: light and weather.
        shadows: world polygons [N, 3] on the ground without direct light.
        lamps: (x, z) of street lamps that are lit.
        rng: random generator.
    """
    height, width = camera.size_hw
    first = int(np.clip(np.ceil(camera.horizon_px + 0.6), 0, height - 1))
    rows = np.arange(first, height, dtype=np.float64) + 0.5
    z = np.minimum(camera.ground_depths(rows), _FARTHEST_M).astype(np.float32)[:, None]  # (R, 1)
    metres = z / camera.focal_px  # width of a pixel on the ground
    x = (np.arange(width, dtype=np.float32)[None] + 0.5 - width / 2) * metres  # (R, W)
    s = x - road.offset(z.astype(np.float64)).astype(np.float32)

    in_junction: Bool = np.zeros(len(rows), bool)
    if layout.junction is not None:
        in_junction = (z[:, 0] > layout.junction[0]) & (z[:, 0] < layout.junction[1])
    zone = np.zeros(s.shape, np.uint8)
    for strip in layout.strips[:-1]:
        zone += s >= strip.right
    semantic = np.array([strip.semantic for strip in layout.strips], np.uint8)[zone]
    drivable = np.array([strip.drivable for strip in layout.strips], np.uint8)[zone]
    semantic[in_junction] = ROAD

    color = _strip_colors(layout, s, metres, in_junction)
    _add_texture(color, layout, semantic, s, z, rng)
    lines_color = _paint_markings(color, layout, s, z, metres, in_junction, rng)
    if atmosphere.weather == "snowy":
        _add_snow(lines_color, semantic, s, z)
    _light(lines_color, camera, atmosphere, shadows, lamps, x, z, first)

    full = np.zeros((height, width, 3), np.float32)
    full[first:] = lines_color
    masks = np.full((2, height, width), DRIVABLE_BACKGROUND, np.uint8)
    masks[0, first:], masks[1, first:] = semantic, drivable
    return Ground(full, masks[0], masks[1], first)


def _strip_colors(layout: Layout, s: Array, metres: Array, in_junction: npt.NDArray[np.bool_]) -> Array:
    """Base colours, blended over one pixel at the edges, float32 [R, W, 3]."""
    colors = [np.array(strip.color, np.float32) for strip in layout.strips]
    result = np.empty((*s.shape, 3), np.float32)
    result[:] = colors[0]
    for strip, here, there in zip(layout.strips, colors, colors[1:], strict=False):
        if not np.array_equal(here, there):
            share = np.clip((s - strip.right) / metres + 0.5, 0, 1)
            result += share[:, :, None] * (there - here)
    asphalt = next(strip.color for strip in layout.strips if strip.semantic == ROAD)
    result[in_junction] = asphalt
    return result


def _add_texture(color: Array, layout: Layout, semantic: UInt8, s: Array, z: Array, rng: np.random.Generator) -> None:
    """Add grain, stains and paving joints; detail smaller than a pixel fades."""
    shift = rng.uniform(0, 500, 4).astype(np.float32)
    near = np.minimum(1.0, 14.0 / z)
    grain = sample_noise(s * 60 + shift[0], z * 60 + shift[1], "fine") * near
    patches = sample_noise(s * 9 + shift[2], z * 3.5 + shift[3], "cloud") * np.minimum(1.0, 60.0 / z)
    strength = np.array([7, 5, 15], np.float32)[_ground_kind(semantic)]
    stain = np.array([9, 4, 14], np.float32)[_ground_kind(semantic)] * (0.4 + layout.wear)
    color += (grain * strength + patches * stain)[:, :, None]
    on_walk = semantic == SIDEWALK
    if on_walk.any():
        joints = (np.mod(s, 1.5) < 0.05) | (np.mod(z + 0 * s, 1.5) < 0.06)
        color[on_walk & joints & (z < 25)] -= 22


def _ground_kind(semantic: UInt8) -> UInt8:
    """0 for road, 1 for sidewalk, 2 for the rest."""
    table = np.full(256, 2, np.uint8)
    table[ROAD], table[SIDEWALK] = 0, 1
    return np.asarray(table[semantic], np.uint8)


def _paint_markings(
    color: Array,
    layout: Layout,
    s: Array,
    z: Array,
    metres: Array,
    in_junction: npt.NDArray[np.bool_],
    rng: np.random.Generator,
) -> Array:
    """Paint lines, kerbs and zebra crossings, worn in places; in place, and returned."""
    shift = rng.uniform(0, 500, 2).astype(np.float32)
    worn = 0.9 - 0.16 * layout.wear * (1.5 + sample_noise(s * 30 + shift[0], z * 30 + shift[1], "rough"))
    worn = np.clip(worn, 0.1, 0.95)
    depth_px = metres * z / 1.4  # metres of ground in one row
    crossings = {
        start: (z[:, 0] > start - 1.6) & (z[:, 0] < start + CROSSWALK_DEPTH_M + 0.3) for start in layout.crosswalks
    }
    zebra = np.any([np.zeros(len(z), bool), *crossings.values()], axis=0)
    for line in layout.lines:
        hidden = in_junction if line.raised else in_junction | zebra
        across = np.abs(s - line.s)
        near = np.nonzero((across < line.width / 2 + metres) & ~hidden[:, None])
        pixel = metres[near[0], 0]
        share = np.clip((line.width / 2 - across[near]) / pixel + 0.5, 0, 1)
        share *= np.minimum(1, line.width / pixel)  # lines thinner than a pixel fade
        if line.dash > 0:
            phase = np.mod(z[near[0], 0], 3 * line.dash)
            share *= np.clip((line.dash / 2 - np.abs(phase - line.dash)) / depth_px[near[0], 0] + 0.5, 0, 1)
        if not line.raised:
            share *= worn[near]
        below = color[near]
        color[near] = below + share[:, None] * (np.array(line.color, np.float32) - below)
    left, right = layout.road_s
    paint = np.array([216, 216, 210], np.float32)
    for start, rows in crossings.items():
        inside = (s[rows] > left + 0.3) & (s[rows] < right - 0.3)
        bars = np.clip((0.25 - np.abs(np.mod(s[rows], 1.0) - 0.5)) / metres[rows] + 0.5, 0, 1)
        bars = bars * ((z[rows] > start) & (z[rows] < start + CROSSWALK_DEPTH_M))
        stop = (z[rows] > start - 1.3) & (z[rows] < start - 0.9) & (s[rows] > -1.7) & (s[rows] < right - 0.3)
        share = np.maximum(bars, stop) * inside * worn[rows]
        color[rows] += share[:, :, None] * (paint - color[rows])
    return color


def _add_snow(color: Array, semantic: UInt8, s: Array, z: Array) -> None:
    """Cover everything but the road with snow."""
    drift = sample_noise(s * 14, z * 6, "cloud")
    base = np.where(semantic == ROAD, -0.15, 0.85).astype(np.float32)
    cover = np.clip(base + 0.35 * drift, 0, 0.95)
    color += cover[:, :, None] * (np.array([226, 230, 238], np.float32) - color)


def _light(
    color: Array,
    camera: Camera,
    atmosphere: Atmosphere,
    shadows: list[Points],
    lamps: list[tuple[float, float]],
    x: Array,
    z: Array,
    first: int,
) -> None:
    """Light the ground and fade it into the haze, in place."""
    height, width = camera.size_hw
    lit = np.full((height, width), 255, np.uint8)
    for polygon in shadows:
        cv2.fillPoly(lit, [np.round((camera.project(polygon) - 0.5) * 8).astype(np.int32)], 0, cv2.LINE_AA, 3)
    soft = cv2.GaussianBlur(lit, (0, 0), 0.8 * width / 640)
    direct = soft[first:, :, None].astype(np.float32) / 255
    sky_share = 0.7 + 0.3 * direct  # the objects that cast shadows also hide part of the sky
    light = np.asarray(atmosphere.ambient, np.float32) * sky_share
    light = light + direct * np.asarray(atmosphere.sun, np.float32) * atmosphere.sun_direction[1]
    if atmosphere.headlamps:
        light = light + atmosphere.headlight(z, x)[:, :, None] * np.array([1.0, 0.97, 0.86], np.float32)
    for lamp_x, lamp_z in lamps:
        pool = np.exp(-((x - lamp_x) ** 2 + (z - lamp_z) ** 2) / 40)
        light = light + pool[:, :, None] * np.array([0.5, 0.42, 0.28], np.float32)
    color *= light
    if atmosphere.weather == "rainy":  # wet ground mirrors the sky at low angles
        gloss = (0.12 + 0.3 * np.clip(z / 60, 0, 1))[:, :, None]
        color += gloss * (np.asarray(atmosphere.haze_color, np.float32) - color)
    np.clip(color, 0, 255, out=color)
    clear = np.exp(-atmosphere.haze_per_m * z)[:, :, None]
    color *= clear
    color += (1 - clear) * np.asarray(atmosphere.haze_color, np.float32)
