"""Random objects beside the street: buildings, trees, barriers, lamp posts, signs and traffic lights."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from lvad_training.sample_set import furniture, street
from lvad_training.sample_set.atmosphere import Atmosphere
from lvad_training.sample_set.camera import Points, Road
from lvad_training.sample_set.plan import Street


@dataclass(frozen=True, slots=True)
class Thing:
    """An object to paint: lower layers first, within a layer far before near."""

    layer: int
    z: float
    paint: Callable[..., None]  # called with the canvas and the arguments
    arguments: tuple[Any, ...]


def add_roadside(
    things: list[Thing],
    lamps: list[tuple[float, float]],
    plan: Street,
    road: Road,
    atmosphere: Atmosphere,
    rng: np.random.Generator,
) -> None:
    """Buildings and trees behind (layer 0), walls and fences before them (1), posts and trees among traffic (2)."""
    density = {"city street": 0.9, "residential": 0.65, "highway": 0.1}[plan.place]
    junction = plan.layout.junction or (np.inf, np.inf)
    for side, edge in zip((-1, 1), plan.roadside, strict=True):
        z = float(rng.uniform(-4, 3))
        tall = rng.uniform(0.6, 1.5)
        while z < 150:
            length = float(rng.uniform(7, 20))
            if z < junction[1] + 2 and z + length > junction[0] - 2:
                if z < junction[0] - 6:
                    length = junction[0] - 2 - z
                else:
                    z = junction[1] + 2.0
                    continue
            if rng.uniform() < density:
                height = tall * (rng.uniform(6, 22) if plan.place == "city street" else rng.uniform(4, 9))
                setback = edge + side * rng.uniform(0, 0.6 if plan.place == "city street" else 5)
                arguments = (setback, z, length, float(rng.uniform(8, 14)), height, _child(rng))
                things.append(Thing(0, z + 2, street.paint_building, (road, *arguments)))
            else:
                for _ in range(int(rng.integers(1, 4))):
                    place = (edge + side * rng.uniform(0.5, 14), z + rng.uniform(0, length))
                    size = float(rng.uniform(1.2, 2.4) if rng.uniform() < 0.35 else rng.uniform(4, 10))
                    things.append(Thing(0, place[1], street.paint_tree, (road, *place, size, _child(rng))))
            z += length + float(rng.uniform(0, 1.5) if plan.place == "city street" else rng.uniform(1, 6))
        _add_barrier(things, plan, road, side, edge, rng)
        _add_posts(things, lamps, plan, road, atmosphere, side, rng)


def _add_barrier(
    things: list[Thing], plan: Street, road: Road, side: int, edge: float, rng: np.random.Generator
) -> None:
    chance = 0.6 if plan.place == "highway" else 0.3
    if rng.uniform() > chance:
        return
    kind = street.WALL if rng.uniform() < 0.45 else street.FENCE
    height = float(rng.uniform(0.8, 1.3) if kind == street.FENCE else rng.uniform(0.9, 2.4))
    tone = rng.uniform(0.8, 1.15)
    base = (168, 164, 158) if kind == street.WALL else (132, 134, 132)
    color = (base[0] * tone, base[1] * tone, base[2] * tone)
    start, end = float(rng.uniform(-4, 20)), float(rng.uniform(30, 120))
    junction = plan.layout.junction or (np.inf, np.inf)
    z = start
    while z < end:
        if z + 6 < junction[0] - 1 or z > junction[1] + 1:
            arguments = (edge - side * 0.15, z, 6.0, kind, height, color)
            things.append(Thing(1, z + 3, street.paint_barrier, (road, *arguments)))
        z += 6.0


def _add_posts(
    things: list[Thing],
    lamps: list[tuple[float, float]],
    plan: Street,
    road: Road,
    atmosphere: Atmosphere,
    side: int,
    rng: np.random.Generator,
) -> None:
    """Lamp posts, utility poles, street trees and signs along the kerb."""
    kerb = plan.layout.road_s[0 if side < 0 else 1] + side * 0.6
    junction = plan.layout.junction or (np.inf, np.inf)

    def free(z: float) -> bool:
        return not junction[0] - 1 < z < junction[1] + 1

    style = rng.uniform()
    spacing = float(rng.uniform(18, 35))
    z = float(rng.uniform(5, 20))
    height = float(rng.uniform(5.5, 8.5))
    while z < 140 and style < 0.75:
        if free(z):
            if style < 0.55:
                arguments = (kerb, z, height)
                lit = atmosphere.is_night
                things.append(Thing(2, z, furniture.paint_lamp_post, (road, *arguments, lit)))
                if lit and z < 70:
                    lamps.append(furniture.lamp_head(road, kerb, z))
            else:
                arguments = (kerb + side * 0.4, z, height + 1)
                things.append(Thing(2, z, furniture.paint_utility_pole, (road, *arguments)))
        z += spacing
    if plan.place != "highway" and rng.uniform() < 0.4:
        z = float(rng.uniform(6, 16))
        step = float(rng.uniform(8, 16))
        while z < 100:
            if free(z) and rng.uniform() < 0.8:
                tree = (kerb + side * 0.5, z, float(rng.uniform(4.5, 7.5)), _child(rng))
                things.append(Thing(2, z, street.paint_tree, (road, *tree)))
            z += step
    for _ in range(int(rng.integers(0, 4 if side > 0 else 2))):
        z = float(rng.uniform(6, 50))
        kind = str(rng.choice(furniture.SIGN_KINDS))
        if free(z):
            sign = (kerb + side * rng.uniform(0, 0.5), z, kind, _child(rng))
            things.append(Thing(2, z, furniture.paint_sign, (road, *sign)))


def add_signals(things: list[Thing], plan: Street, road: Road, rng: np.random.Generator) -> None:
    """Traffic lights at a junction: before it on the right, beyond it on both sides."""
    if plan.layout.junction is None or rng.uniform() < 0.25:
        return
    near, far = plan.layout.junction
    signal = str(rng.choice(["G", "R", "Y"], p=[0.45, 0.45, 0.1]))
    left, right = plan.layout.road_s
    reach = float(right + 0.5) if rng.uniform() < 0.6 else 0.0
    places = [(right + 0.7, near - 4.5, 0.0), (right + 0.7, far + 1.0, reach), (left - 0.7, far + 1.0, 0.0)]
    for s, z, arm in places:
        if rng.uniform() < 0.85:
            arguments = (s, z, arm, signal, _child(rng))
            things.append(Thing(2, z, furniture.paint_traffic_light, (road, *arguments)))


def add_cast_shadows(shadows: list[Points], plan: Street, road: Road, rng: np.random.Generator) -> None:
    """Large shadows of trees and houses across the street."""
    left, right = plan.roadside
    for _ in range(int(rng.integers(0, 5))):
        near, deep = float(rng.uniform(3, 60)), float(rng.uniform(1.5, 12))
        reach = float(rng.uniform(0.2, 1.0)) * (right - left)
        skew = float(rng.uniform(-3, 3))
        start, stop = (left, left + reach) if rng.uniform() < 0.5 else (right, right - reach)
        corners = [(start, near), (stop, near + skew), (stop, near + deep + skew), (start, near + deep)]
        shadows.append(np.array([road.to_world(s, max(z, 1.0)) for s, z in corners]))


def _child(rng: np.random.Generator) -> np.random.Generator:
    """A generator for an object that is painted later, so that results do not depend on the painting order."""
    return np.random.default_rng(rng.integers(2**63))
