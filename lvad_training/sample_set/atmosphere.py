"""Light and weather: the colours of surfaces and sky, rain, snow, and the camera's exposure and noise."""

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
import numpy.typing as npt

from lvad_perception.types import Size, UInt8
from lvad_training.sample_set.camera import Camera

Array = npt.NDArray[np.float32]
Rgb = tuple[float, float, float]

TILE = 512
"""Side of the noise tile in pixels."""


@dataclass(frozen=True, slots=True)
class Atmosphere:
    """Light and weather of one scene.

    Attributes:
        timeofday: "daytime", "dawn/dusk" or "night", in BDD100K's terms.
        weather: "clear", "partly cloudy", "overcast", "rainy", "snowy" or "foggy".
        ambient: ambient light, RGB factors.
        sun: direct light, RGB factors; zeros without sun.
        sun_direction: unit vector towards the sun, world coordinates.
        haze_color: colour of the haze, RGB 0..255.
        haze_per_m: extinction coefficient per metre.
        headlamps: strength of the ego vehicle's headlamps.
    """

    timeofday: str
    weather: str
    ambient: Rgb
    sun: Rgb
    sun_direction: Rgb
    haze_color: Rgb
    haze_per_m: float
    headlamps: float

    @property
    def lamps_on(self) -> bool:
        """Whether vehicles and streets have their lamps on."""
        return self.timeofday != "daytime" or self.weather in ("rainy", "foggy", "snowy")

    @property
    def is_night(self) -> bool:
        """Whether it is dark."""
        return self.timeofday == "night"

    @property
    def casts_shadows(self) -> bool:
        """Whether the sun is strong enough for visible shadows."""
        return sum(self.sun) > 0.6

    def shade(self, normal: npt.NDArray[np.float64]) -> float:
        """Share of the direct light that a surface with this unit normal receives, 0..1."""
        return float(max(0.0, normal @ np.asarray(self.sun_direction)))

    def headlight(self, z: Array | float, x: Array | float) -> Array:
        """Light of the ego vehicle's lamps at distance z and offset x."""
        reach = np.exp(-np.square(x / (1.5 + 0.28 * z)))
        return np.asarray(self.headlamps * 34.0 / (34.0 + z) * np.exp(-z / 45.0) * reach, np.float32)

    def seen(self, color: Rgb, shade: float, z: float, x: float, *, glows: bool = False) -> Rgb:
        """Apparent colour of a surface at distance z: lit, then faded into the haze."""
        red, green, blue = self.seen_all([color], shade, z, x, glows=np.array([glows]))[0].tolist()
        return (red, green, blue)

    def seen_all(
        self, colors: npt.ArrayLike, shade: float, z: float, x: float, *, glows: npt.NDArray[np.bool_] | None = None
    ) -> npt.NDArray[np.float64]:
        """``seen`` for several colours [N, 3] of one surface."""
        clear = np.exp(-self.haze_per_m * max(z, 0))
        lamp = float(self.headlight(z, x)) if self.headlamps else 0.0
        own = np.asarray(colors, np.float64)
        lit = np.minimum(own * (np.array(self.ambient) + np.array(self.sun) * shade + lamp), 255)
        if glows is not None:
            lit = np.where(glows[:, None], own, lit)
        return np.asarray(clear * lit + (1 - clear) * np.array(self.haze_color))


_TIMES = (("daytime", 0.6), ("dawn/dusk", 0.16), ("night", 0.24))
_WEATHERS = (
    ("clear", 0.38),
    ("partly cloudy", 0.2),
    ("overcast", 0.2),
    ("rainy", 0.1),
    ("snowy", 0.06),
    ("foggy", 0.06),
)


def draw_atmosphere(rng: np.random.Generator) -> Atmosphere:
    """Choose a time of day and a weather, and derive their light."""
    time, weather = (
        str(rng.choice([name for name, _ in table], p=[share for _, share in table])) for table in (_TIMES, _WEATHERS)
    )
    sunny = {"clear": 1.0, "partly cloudy": 0.75}.get(weather, 0.0)
    azimuth = rng.uniform(-np.pi, np.pi)
    elevation = rng.uniform(0.5, 1.1) if time == "daytime" else rng.uniform(0.1, 0.3)
    direction = (
        float(np.cos(elevation) * np.sin(azimuth)),
        float(np.sin(elevation)),
        float(np.cos(elevation) * np.cos(azimuth)),
    )
    exposure = rng.uniform(0.85, 1.12)
    if time == "daytime":
        ambient = np.array([0.56, 0.6, 0.66]) if sunny else np.array([0.8, 0.82, 0.84])
        sun = sunny * np.array([0.62, 0.58, 0.5])
        haze = np.array([196, 212, 230.0]) if sunny else np.array([190, 194, 198.0])
        headlamps = 0.0
    elif time == "dawn/dusk":
        ambient = np.array([0.42, 0.38, 0.42])
        sun = sunny * np.array([0.5, 0.3, 0.14])
        haze = np.array([214, 164, 130.0]) if sunny else np.array([132, 130, 140.0])
        headlamps = 0.12
    else:
        ambient = np.array([0.13, 0.13, 0.17]) * rng.uniform(0.8, 1.8)
        sun = np.zeros(3)
        haze = np.array([24, 25, 34.0]) * rng.uniform(0.7, 1.6)
        headlamps = rng.uniform(0.5, 0.9)
    density = {"foggy": rng.uniform(0.016, 0.035), "snowy": 0.01, "rainy": 0.007}.get(
        weather, rng.uniform(0.0012, 0.003)
    )
    ambient, sun = ambient * exposure, sun * exposure
    return Atmosphere(time, weather, rgb(ambient), rgb(sun), direction, rgb(haze), float(density), float(headlamps))


def paint_sky(camera: Camera, atmosphere: Atmosphere, rng: np.random.Generator) -> Array:
    """The sky over the whole image, float32 RGB [H, W, 3], haze at the horizon, clouds by weather."""
    height, width = camera.size_hw
    zenith = {"daytime": (78, 130, 205), "dawn/dusk": (70, 86, 140), "night": (8, 10, 22)}[atmosphere.timeofday]
    cover = {"clear": 0.12, "partly cloudy": 0.5}.get(atmosphere.weather, 0.95)
    grey = np.asarray(atmosphere.haze_color, np.float32)
    top = np.asarray(zenith, np.float32) * (1 - 0.75 * (cover > 0.9)) + grey * 0.75 * (cover > 0.9)
    rows = (np.arange(height, dtype=np.float32) + 0.5)[:, None]
    rise = np.clip((camera.horizon_px - rows) / max(camera.horizon_px, 1.0), 0, 1) ** 0.7  # 0 at the horizon
    sky = grey + rise[:, :, None] * (top - grey)
    # Clouds lie on a plane overhead, so they shrink towards the horizon.
    distance = 60.0 / np.maximum(camera.horizon_px - rows, 4.0) * (width / 640)
    across = (np.arange(width, dtype=np.float32)[None] / width - 0.5) * distance * 260
    drift = rng.uniform(0, TILE, 2).astype(np.float32)
    rows_above = int(np.clip(camera.horizon_px, 1, height))
    clouds = np.zeros((height, width), np.float32)
    clouds[:rows_above] = sample_noise(across[:rows_above] + drift[0], distance[:rows_above] * 120 + drift[1], "cloud")
    density = np.clip((clouds + 2.2 * cover - 1.2) * 1.4, 0, 1) * np.minimum(1, rise * 3)
    white: Rgb = {"daytime": (242.0, 244.0, 248.0), "dawn/dusk": (236.0, 176.0, 150.0), "night": (30.0, 30.0, 40.0)}[
        atmosphere.timeofday
    ]
    if cover > 0.9:
        white = rgb(grey * 1.02)
    shaded = np.asarray(white, np.float32) * (0.86 + 0.14 * clouds[:, :, None].clip(-1, 1))
    sky = sky + (density * np.float32(0.85))[:, :, None] * (shaded - sky)
    if atmosphere.casts_shadows and atmosphere.sun_direction[2] > 0.2:
        x, y, z = atmosphere.sun_direction
        column, row = width / 2 + camera.focal_px * x / z, camera.horizon_px - camera.focal_px * y / z
        across_px = (np.arange(width, dtype=np.float32)[None] - column) ** 2 + (rows - row) ** 2
        halo = np.exp(-np.sqrt(across_px) / (0.09 * width))
        sky = sky + halo[:, :, None] * np.array([150, 130, 90], np.float32)
    return np.asarray(np.clip(sky, 0, 255), np.float32)


def add_weather(image: UInt8, atmosphere: Atmosphere, rng: np.random.Generator) -> UInt8:
    """Rain streaks or snow flakes between the scene and the camera."""
    if atmosphere.weather not in ("rainy", "snowy"):
        return image
    height, width = image.shape[:2]
    unit, layer = width / 640, np.zeros((height, width), np.uint8)
    if atmosphere.weather == "rainy":
        slant, sigma = rng.uniform(-0.25, 0.25), 0.6
        for x, y, length in rng.uniform((0, -20, 6), (width, height, 22), (int(rng.integers(150, 420)), 3)):
            end = (int(x + slant * length * unit), int(y + length * unit))
            cv2.line(layer, (int(x), int(y)), end, float(rng.uniform(30, 90)), 1, cv2.LINE_AA)
    else:
        sigma = 0.7
        for x, y, size in rng.uniform((0, 0, 0), (width, height, 1), (int(rng.integers(150, 500)), 3)):
            cv2.circle(layer, (int(x * 8), int(y * 8)), int((0.5 + 2.2 * size**5) * unit * 8), 210, -1, cv2.LINE_AA, 3)
    blurred = cv2.GaussianBlur(layer, (0, 0), sigma * unit)
    return np.asarray(cv2.add(image, cv2.cvtColor(blurred, cv2.COLOR_GRAY2RGB)), np.uint8)


def expose(image: UInt8, atmosphere: Atmosphere, rng: np.random.Generator) -> UInt8:
    """Apply the camera's vignette, white balance, slight blur and noise, which is stronger at night."""
    height, width = image.shape[:2]
    rows, columns = np.linspace(-1, 1, height, dtype=np.float32)[:, None], np.linspace(-1, 1, width, dtype=np.float32)
    vignette = 1 - rng.uniform(0.04, 0.16) * (rows**2 + columns**2)
    balance = rng.uniform(0.95, 1.05, 3).astype(np.float32)
    if rng.uniform() < 0.5:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), rng.uniform(0.35, 0.7) * width / 640), np.uint8)
    sigma = rng.uniform(4, 9) if atmosphere.is_night else rng.uniform(1.2, 4.0)
    grain = screen_noise((height, width), "white", rng)
    exposed = image * (vignette[:, :, None] * balance) + (sigma * grain)[:, :, None]
    return np.asarray(np.clip(exposed, 0, 255), np.uint8)


def sample_noise(x: Array, y: Array, kind: str) -> Array:
    """Smooth noise with standard deviation 1 at coordinates in tile pixels, periodic in ``TILE``."""
    shape = np.broadcast_shapes(x.shape, y.shape)
    columns, rows = (np.ascontiguousarray(np.broadcast_to(_wrapped(axis), shape)) for axis in (x, y))
    noise = cv2.remap(_tile(kind), columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    return np.asarray(noise, np.float32)


def screen_noise(size_hw: Size, kind: str, rng: np.random.Generator) -> Array:
    """The same noise per pixel, float32 [H, W], at a random offset."""
    row, column = rng.integers(0, TILE, 2)
    height, width = size_hw
    return _tiled(kind, height // TILE + 2, width // TILE + 2)[row : row + height, column : column + width]


def _wrapped(values: Array) -> Array:
    return np.asarray(values - np.floor(values * np.float32(1 / TILE)) * np.float32(TILE), np.float32)


@cache
def _tiled(kind: str, down: int, across: int) -> Array:
    return np.tile(_tile(kind), (down, across))


@cache
def _tile(kind: str) -> Array:
    """Noise with a power-law spectrum, shaped in the frequency domain so that it tiles seamlessly."""
    power = {"white": 0.0, "fine": 0.3, "rough": 0.9, "cloud": 1.7}[kind]
    frequencies = np.hypot(np.fft.fftfreq(TILE)[:, None], np.fft.rfftfreq(TILE)[None]) * TILE
    frequencies[0, 0] = np.inf
    white = np.random.default_rng(7).standard_normal((TILE, TILE))
    shaped = np.fft.irfft2(np.fft.rfft2(white) / frequencies**power, s=(TILE, TILE))
    return np.asarray(shaped / shaped.std(), np.float32)


def rgb(values: npt.NDArray[np.floating]) -> Rgb:
    """Three numbers of an array as Python floats, which OpenCV needs."""
    return (float(values[0]), float(values[1]), float(values[2]))
