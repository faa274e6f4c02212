"""Models of cars, trucks, buses and trams: tapered boxes with windows, lamps and plates on their faces."""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from lvad_training.sample_set.atmosphere import rgb
from lvad_training.sample_set.camera import Points
from lvad_training.sample_set.canvas import Color, scaled


@dataclass(frozen=True, slots=True)
class Decal:
    """A rectangle on a face: (left, bottom, right, top) as shares of the face."""

    face: str
    area: tuple[float, float, float, float]
    color: Color
    glows: bool = False
    min_px_per_m: float = 5.0


@dataclass(frozen=True, slots=True)
class TaperedBox:
    """A box whose top may be smaller than its bottom, in the vehicle's own metres (x right, y up, z forward).

    Attributes:
        half_width: at bottom and top.
        y: heights of bottom and top.
        z_bottom: rear and front end at the bottom.
        z_top: rear and front end at the top.
        color: of the surface.
        layer: higher layers are painted later; within one, far before near.
        decals: drawn on the faces.
    """

    half_width: tuple[float, float]
    y: tuple[float, float]
    z_bottom: tuple[float, float]
    z_top: tuple[float, float]
    color: Color
    layer: int = 0
    decals: list[Decal] = field(default_factory=list)

    def corners(self) -> Points:
        """The eight corners, [8, 3]."""
        return np.array(
            [
                (side * self.half_width[level], self.y[level], ends[end])
                for level, ends in ((0, self.z_bottom), (1, self.z_top))
                for side, end in ((-1, 0), (1, 0), (1, 1), (-1, 1))
            ]
        )


@dataclass(frozen=True, slots=True)
class Vehicle:
    """A vehicle's boxes, wheels and lamps.

    Attributes:
        boxes: its body.
        length: metres.
        half_width: metres.
        wheel_z: positions of the axles.
        wheel_radius: 0 when the wheels are hidden.
        lamps: (x, y) of the lamps at either end, mirrored to both sides.
    """

    boxes: list[TaperedBox]
    length: float
    half_width: float
    wheel_z: tuple[float, ...]
    wheel_radius: float
    lamps: tuple[float, float]


_GLASS: Color = (46, 58, 70)
_PAINTS: tuple[Color, ...] = (
    (232, 232, 234),
    (200, 202, 206),
    (150, 154, 160),
    (92, 95, 100),
    (44, 45, 50),
    (28, 28, 32),
    (160, 30, 34),
    (36, 62, 130),
    (70, 110, 170),
    (36, 84, 60),
    (196, 176, 130),
    (210, 150, 30),
    (120, 70, 50),
)


def _paint(rng: np.random.Generator) -> Color:
    return rgb(np.array(_PAINTS[int(rng.integers(len(_PAINTS)))]) + rng.uniform(-10, 10, 3))


def _end_decals(color: Color, *, lamps_on: bool) -> list[Decal]:
    """Rear and front of a car: lamps, plate, grille, bumpers."""
    red: Color = (225, 36, 30) if lamps_on else (165, 22, 24)
    return [
        Decal("rear", (0.0, 0.0, 1.0, 0.3), scaled(color, 0.55)),
        Decal("rear", (0.02, 0.52, 0.22, 0.86), red, lamps_on, 2.0),
        Decal("rear", (0.78, 0.52, 0.98, 0.86), red, lamps_on, 2.0),
        Decal("rear", (0.36, 0.36, 0.64, 0.56), (226, 226, 220)),
        Decal("rear", (0.24, 0.9, 0.76, 0.93), scaled(color, 0.5), min_px_per_m=20),
        Decal("front", (0.0, 0.0, 1.0, 0.26), scaled(color, 0.5)),
        Decal("front", (0.26, 0.42, 0.74, 0.74), (24, 24, 27)),
        Decal("front", (0.02, 0.5, 0.24, 0.8), (250, 248, 232), lamps_on, 2.0),
        Decal("front", (0.76, 0.5, 0.98, 0.8), (250, 248, 232), lamps_on, 2.0),
        Decal("front", (0.37, 0.16, 0.63, 0.34), (226, 226, 220)),
        Decal("left", (0.0, 0.0, 1.0, 0.18), scaled(color, 0.5)),
        Decal("right", (0.0, 0.0, 1.0, 0.18), scaled(color, 0.5)),
        Decal("left", (0.46, 0.2, 0.467, 1.0), scaled(color, 0.6), min_px_per_m=20),
        Decal("right", (0.53, 0.2, 0.537, 1.0), scaled(color, 0.6), min_px_per_m=20),
    ]


def _cabin_decals(split: tuple[float, ...]) -> list[Decal]:
    """Windscreen, rear window and side windows between the pillars at ``split`` (shares from rear to front)."""
    decals = [
        Decal("rear", (0.08, 0.1, 0.92, 0.86), _GLASS, min_px_per_m=3),
        Decal("front", (0.05, 0.06, 0.95, 0.92), _GLASS, min_px_per_m=3),
        Decal("rear", (0.08, 0.62, 0.92, 0.86), (84, 98, 112), min_px_per_m=12),
        Decal("front", (0.05, 0.62, 0.95, 0.92), (92, 106, 120), min_px_per_m=12),
    ]
    for start, end in pairwise(split):
        low, high = start + 0.02, end - 0.02
        decals.append(Decal("right", (low, 0.1, high, 0.86), _GLASS, min_px_per_m=3))
        decals.append(Decal("left", (1 - high, 0.1, 1 - low, 0.86), _GLASS, min_px_per_m=3))
    return decals


def car(rng: np.random.Generator, *, lamps_on: bool) -> Vehicle:
    """A sedan, hatchback, SUV or van."""
    kind = str(rng.choice(["sedan", "hatchback", "suv", "van"], p=[0.4, 0.22, 0.26, 0.12]))
    color = _paint(rng)
    length, width, height, deck = {
        "sedan": (4.6, 1.8, 1.45, 0.88),
        "hatchback": (4.0, 1.74, 1.5, 0.9),
        "suv": (4.6, 1.9, 1.75, 1.02),
        "van": (5.0, 1.96, 2.05, 1.1),
    }[kind]
    length, width, height = (value * rng.uniform(0.96, 1.04) for value in (length, width, height))
    half, end = width / 2, length / 2
    cabin_bottom, cabin_top = {
        "sedan": ((-0.8 * end, 0.46 * end), (-0.48 * end, 0.1 * end)),
        "hatchback": ((-0.97 * end, 0.46 * end), (-0.78 * end, 0.1 * end)),
        "suv": ((-0.98 * end, 0.44 * end), (-0.86 * end, 0.14 * end)),
        "van": ((-0.985 * end, 0.72 * end), (-0.94 * end, 0.36 * end)),
    }[kind]
    roof = half * {"sedan": 0.72, "hatchback": 0.76, "suv": 0.8, "van": 0.86}[kind]
    body = TaperedBox(
        (half, half * 0.96),
        (0.24, deck),
        (-end, end),
        (-end * 0.97, end * 0.93),
        color,
        decals=_end_decals(color, lamps_on=lamps_on),
    )
    split = (0.06, 0.36, 0.64, 0.9) if kind in ("suv", "van") else (0.1, 0.5, 0.88)
    cabin = TaperedBox((half * 0.95, roof), (deck, height), cabin_bottom, cabin_top, color, 1, _cabin_decals(split))
    return Vehicle([body, cabin], length, half, (-0.62 * end, 0.62 * end), 0.33, (half * 0.86, 0.68 * deck + 0.06))


def truck(rng: np.random.Generator, *, lamps_on: bool) -> Vehicle:
    """A lorry with a cargo box, or a flat-nosed delivery truck."""
    color = _paint(rng)
    cargo = (226.0, 226.0, 224.0) if rng.uniform() < 0.6 else _paint(rng)
    length, height, half = rng.uniform(6.5, 11.0), rng.uniform(2.9, 3.9), rng.uniform(1.12, 1.27)
    end = length / 2
    cab_start = end - rng.uniform(1.7, 2.3)
    red: Color = (225, 36, 30) if lamps_on else (160, 20, 22)
    stripe = _paint(rng)
    chassis = TaperedBox(
        (half * 0.92, half * 0.92),
        (0.5, 1.0),
        (-end, end),
        (-end, end),
        (40, 40, 42),
        0,
        [
            Decal("rear", (0.02, 0.3, 0.14, 0.75), red, lamps_on, 2.0),
            Decal("rear", (0.86, 0.3, 0.98, 0.75), red, lamps_on, 2.0),
            Decal("rear", (0.38, 0.3, 0.62, 0.75), (220, 220, 214)),
        ],
    )
    box = TaperedBox(
        (half, half),
        (0.95, height),
        (-end, cab_start - 0.15),
        (-end, cab_start - 0.15),
        cargo,
        1,
        [
            Decal("rear", (0.49, 0.02, 0.51, 0.98), scaled(cargo, 0.55)),
            Decal("rear", (0.03, 0.02, 0.05, 0.98), scaled(cargo, 0.7)),
            Decal("rear", (0.95, 0.02, 0.97, 0.98), scaled(cargo, 0.7)),
            Decal("rear", (0.1, 0.94, 0.9, 0.98), red, lamps_on, 12),
            Decal("left", (0.0, 0.42, 1.0, 0.6), stripe),
            Decal("right", (0.0, 0.42, 1.0, 0.6), stripe),
        ],
    )
    cab = TaperedBox(
        (half * 0.97, half * 0.9),
        (0.45, height * 0.86),
        (cab_start, end),
        (cab_start, end - 0.25),
        color,
        1,
        [
            Decal("front", (0.06, 0.5, 0.94, 0.86), _GLASS, min_px_per_m=2),
            Decal("front", (0.2, 0.2, 0.8, 0.42), (30, 30, 32)),
            Decal("front", (0.0, 0.0, 1.0, 0.12), scaled(color, 0.4)),
            Decal("front", (0.03, 0.14, 0.18, 0.26), (250, 248, 232), lamps_on, 2.0),
            Decal("front", (0.82, 0.14, 0.97, 0.26), (250, 248, 232), lamps_on, 2.0),
            Decal("left", (0.2, 0.52, 0.85, 0.86), _GLASS),
            Decal("right", (0.15, 0.52, 0.8, 0.86), _GLASS),
        ],
    )
    return Vehicle([chassis, box, cab], length, half, (-0.62 * end, -0.36 * end, 0.72 * end), 0.5, (half * 0.8, 0.75))


def bus(rng: np.random.Generator, *, lamps_on: bool) -> Vehicle:
    """A city bus."""
    color = _paint(rng) if rng.uniform() < 0.7 else (206.0, 44.0, 40.0)
    length, height, half = rng.uniform(10.0, 12.5), rng.uniform(2.9, 3.2), 1.27
    end = length / 2
    window: Color = (206, 196, 150) if lamps_on and rng.uniform() < 0.6 else _GLASS
    lit = window is not _GLASS
    red: Color = (225, 36, 30) if lamps_on else (160, 20, 22)
    panes = [(0.03 + 0.157 * index, 0.03 + 0.157 * index + 0.14) for index in range(6)]
    decals = [
        Decal("rear", (0.12, 0.56, 0.88, 0.88), window, lit, 2.0),
        Decal("rear", (0.02, 0.12, 0.12, 0.34), red, lamps_on, 2.0),
        Decal("rear", (0.88, 0.12, 0.98, 0.34), red, lamps_on, 2.0),
        Decal("rear", (0.2, 0.14, 0.8, 0.44), scaled(color, 0.55)),
        Decal("rear", (0.4, 0.03, 0.6, 0.1), (226, 226, 220)),
        Decal("front", (0.05, 0.36, 0.95, 0.84), window, lit, 2.0),
        Decal("front", (0.18, 0.87, 0.82, 0.97), (40, 30, 16)),
        Decal("front", (0.24, 0.89, 0.76, 0.95), (255, 176, 40), True, 6.0),
        Decal("front", (0.03, 0.1, 0.16, 0.22), (250, 248, 232), lamps_on, 2.0),
        Decal("front", (0.84, 0.1, 0.97, 0.22), (250, 248, 232), lamps_on, 2.0),
        Decal("left", (0.0, 0.0, 1.0, 0.1), (36, 36, 38)),
        Decal("right", (0.0, 0.0, 1.0, 0.1), (36, 36, 38)),
        Decal("right", (0.86, 0.06, 0.96, 0.84), (58, 70, 80)),
    ]
    for low, high in panes:
        decals.append(Decal("left", (low, 0.46, high, 0.86), window, lit, 2.0))
        decals.append(Decal("right", (low, 0.46, high, 0.86), window, lit, 2.0))
    body = TaperedBox((half, half * 0.97), (0.32, height), (-end, end), (-end + 0.1, end - 0.15), color, decals=decals)
    return Vehicle([body], length, half, (-0.55 * end, 0.6 * end), 0.48, (half * 0.84, 0.8))


def train(rng: np.random.Generator, *, lamps_on: bool) -> Vehicle:
    """A tram of two cars."""
    color = _paint(rng)
    window: Color = (214, 206, 168) if lamps_on else _GLASS
    boxes = []
    for start in (-12.2, 0.2):
        decals = [
            Decal("rear", (0.1, 0.42, 0.9, 0.84), window, lamps_on, 2.0),
            Decal("front", (0.1, 0.38, 0.9, 0.84), window, lamps_on, 2.0),
            Decal("front", (0.42, 0.22, 0.58, 0.32), (250, 248, 232), lamps_on, 2.0),
            Decal("rear", (0.06, 0.1, 0.2, 0.2), (190, 24, 26), lamps_on, 2.0),
            Decal("rear", (0.8, 0.1, 0.94, 0.2), (190, 24, 26), lamps_on, 2.0),
        ]
        for side in ("left", "right"):
            decals.append(Decal(side, (0.0, 0.0, 1.0, 0.16), scaled(color, 0.45)))
            decals += [
                Decal(side, (0.03 + 0.16 * pane, 0.4, 0.15 + 0.16 * pane, 0.82), window, lamps_on, 2.0)
                for pane in range(6)
            ]
        boxes.append(
            TaperedBox((1.3, 1.22), (0.25, 3.4), (start, start + 12), (start + 0.2, start + 11.8), color, 0, decals)
        )
    return Vehicle(boxes, 24.4, 1.3, (), 0.0, (0.9, 0.9))


MAKERS: dict[str, Callable[..., Vehicle]] = {"car": car, "truck": truck, "bus": bus, "train": train}
