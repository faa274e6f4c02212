"""One driving scene: draws a street, its traffic, light and weather, and paints them with exact annotation."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from lvad_perception.types import Size, UInt8
from lvad_perception.vocabulary import DETECTION, DRIVABLE_BACKGROUND, SEMANTIC, UNLABELED
from lvad_training.data.sample_set import figures, solids, street
from lvad_training.data.sample_set.atmosphere import (
    Atmosphere,
    add_weather,
    draw_atmosphere,
    expose,
    paint_sky,
    screen_noise,
)
from lvad_training.data.sample_set.camera import Camera, Points, Road
from lvad_training.data.sample_set.canvas import Box, Canvas
from lvad_training.data.sample_set.ground import (
    ALTERNATIVE,
    CROSSWALK_DEPTH_M,
    DIRECT,
    ROAD,
    SIDEWALK,
    TERRAIN,
    Layout,
    Line,
    Strip,
    paint_ground,
)

_WHITE, _YELLOW, _KERB = (222.0, 222.0, 216.0), (214.0, 164.0, 40.0), (176.0, 174.0, 170.0)


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """A rendered image and its annotation.

    Attributes:
        image: uint8 [H, W, 3], RGB.
        semantic: uint8 [H, W], train ids, 255 on the ego vehicle.
        drivable: uint8 [H, W], drivable ids.
        boxes: visible traffic objects.
        weather: as BDD100K says it.
        timeofday: as BDD100K says it.
        place: BDD100K's "scene" attribute.
    """

    image: UInt8
    semantic: UInt8
    drivable: UInt8
    boxes: list[Box]
    weather: str
    timeofday: str
    place: str


@dataclass(frozen=True, slots=True)
class _Street:
    """The plan of a street: its cross-section and where traffic may be."""

    place: str
    layout: Layout
    same: list[float]  # centre s of the lanes in our direction, ego lane at 0
    oncoming: list[float]
    parking: list[tuple[float, float]]  # (s, yaw)
    walks: list[tuple[float, float]]  # (left, right) s of sidewalks
    roadside: tuple[float, float]  # s beyond which buildings and trees stand, left and right


@dataclass(frozen=True, slots=True)
class _Thing:
    """Something to paint: lower layers first, far before near within one."""

    layer: int
    z: float
    paint: Callable[..., None]  # called with the canvas and the arguments
    arguments: tuple[Any, ...]


def render_scene(rng: np.random.Generator, size_hw: Size) -> Scene:
    """Render one scene; the same generator state gives the same scene."""
    height, width = size_hw
    atmosphere = draw_atmosphere(rng)
    camera = Camera(
        size_hw,
        width * rng.uniform(0.78, 1.0),
        height * rng.uniform(0.4, 0.54),
        rng.uniform(1.25, 1.75),
    )
    road = Road(float(rng.normal(0, 0.0035)), float(rng.normal(0, 0.015)), float(rng.uniform(-0.35, 0.35)))
    plan = _draw_street(rng)

    shadows: list[Points] = []
    things: list[_Thing] = []
    lamps: list[tuple[float, float]] = []
    _add_roadside(things, lamps, plan, road, atmosphere, rng)
    _add_traffic(things, shadows, plan, road, atmosphere, rng)
    _add_people(things, shadows, plan, road, rng)
    _add_signals(things, plan, road, rng)
    if atmosphere.casts_shadows:
        _add_cast_shadows(shadows, plan, road, rng)

    sky = paint_sky(camera, atmosphere, rng)
    ground = paint_ground(camera, road, plan.layout, atmosphere, shadows, lamps if atmosphere.is_night else [], rng)
    sky[ground.first_row :] = ground.color[ground.first_row :]
    semantic = np.full(size_hw, SEMANTIC.index("sky"), np.uint8)
    semantic[ground.first_row :] = ground.semantic[ground.first_row :]
    canvas = Canvas(camera, atmosphere, np.clip(sky, 0, 255).astype(np.uint8), semantic)
    built_up = plan.place == "city street" and rng.uniform() < 0.6
    street.paint_skyline(canvas, street.BUILDING if built_up else street.VEGETATION, rng)
    for thing in sorted(things, key=lambda thing: (thing.layer, -thing.z)):
        thing.paint(canvas, *thing.arguments)

    image, semantic = canvas.image(), canvas.semantic()
    image = _add_foliage_grain(image, semantic, atmosphere.haze_color, rng)
    image = add_weather(image, atmosphere, rng)
    hood = _hood(size_hw, rng) if rng.uniform() < 0.2 else None
    boxes = canvas.boxes()
    if hood is not None:
        shine = np.linspace(0.9, 1.3, height, dtype=np.float32)[:, None, None]
        tone = np.asarray(atmosphere.ambient, np.float32) * 46 * shine
        image = np.where(hood[:, :, None], np.clip(tone, 0, 255), image).astype(np.uint8)
        semantic[hood] = UNLABELED
        limit = int(np.flatnonzero(hood.any(1))[0])
        boxes = [box for box in boxes if box.xyxy[3] <= limit]
        semantic[limit:][np.isin(semantic[limit:], _THINGS)] = UNLABELED
    drivable = np.where(semantic == ROAD, ground.drivable, DRIVABLE_BACKGROUND).astype(np.uint8)
    image = expose(image, atmosphere, rng)
    return Scene(image, semantic, drivable, boxes, atmosphere.weather, atmosphere.timeofday, plan.place)


_THINGS = [SEMANTIC.index(name) for name in SEMANTIC.names[11:]]


def _draw_street(rng: np.random.Generator) -> _Street:
    """Choose lanes, shoulders, sidewalks and markings."""
    place = str(rng.choice(["city street", "residential", "highway"], p=[0.62, 0.2, 0.18]))
    lane = {"city street": 3.3, "residential": 3.1, "highway": 3.7}[place] * rng.uniform(0.94, 1.06)
    lanes = {"city street": (1, 4), "residential": (1, 2), "highway": (2, 5)}[place]
    same_count = int(rng.integers(*lanes))
    ego = int(rng.integers(same_count))  # lanes to our left in our direction
    one_way = place == "highway" or (place == "city street" and rng.uniform() < 0.15)
    oncoming_count = 0 if one_way else int(rng.integers(1, max(2, same_count + 1)))
    same = [(index - ego) * lane for index in range(same_count)]
    divide = same[0] - lane / 2  # between the directions
    oncoming = [divide - (index + 0.5) * lane for index in range(oncoming_count)]
    left_edge, right_edge = divide - oncoming_count * lane, same[-1] + lane / 2

    asphalt = np.array([92, 92, 95]) * rng.uniform(0.75, 1.3) + rng.uniform(-3, 3, 3)
    road_color = (float(asphalt[0]), float(asphalt[1]), float(asphalt[2]))
    pave = np.array([158, 152, 146]) * rng.uniform(0.85, 1.15) + rng.uniform(-8, 8, 3)
    walk_color = (float(pave[0]), float(pave[1]), float(pave[2]))
    grass = np.array([98, 112, 62]) if rng.uniform() < 0.75 else np.array([150, 132, 100])
    grass = grass * rng.uniform(0.85, 1.15)
    land_color = (float(grass[0]), float(grass[1]), float(grass[2]))

    has_walk = place != "highway"
    parks = [bool(has_walk and rng.uniform() < 0.5) for _ in range(2)]
    margins = [2.2 if park else (rng.uniform(1.0, 3.0) if place == "highway" else 0.4) for park in parks]
    kerbs = left_edge - margins[0], right_edge + margins[1]
    walk_widths = [rng.uniform(1.8, 4.0) if has_walk else 0.0 for _ in range(2)]
    outer = kerbs[0] - walk_widths[0], kerbs[1] + walk_widths[1]

    strips = [Strip(outer[0], TERRAIN, DRIVABLE_BACKGROUND, land_color)]
    if has_walk:
        strips.append(Strip(kerbs[0], SIDEWALK, DRIVABLE_BACKGROUND, walk_color))
    strips.append(Strip(divide, ROAD, DRIVABLE_BACKGROUND, road_color))
    for index in range(same_count):
        drivable = DIRECT if index == ego else ALTERNATIVE
        strips.append(Strip(same[index] + lane / 2, ROAD, drivable, road_color))
    strips.append(Strip(kerbs[1], ROAD, DRIVABLE_BACKGROUND, road_color))
    if has_walk:
        strips.append(Strip(outer[1], SIDEWALK, DRIVABLE_BACKGROUND, walk_color))
    paved = has_walk and rng.uniform() < 0.35  # squares and forecourts instead of grass
    strips.append(
        Strip(np.inf, SIDEWALK if paved else TERRAIN, DRIVABLE_BACKGROUND, walk_color if paved else land_color)
    )

    marked = place != "residential" or rng.uniform() < 0.5
    lines: list[Line] = []
    if marked:
        dash = {"city street": 1.5, "residential": 1.5, "highway": 3.0}[place]
        lines += [Line(s - lane / 2, 0.14, _WHITE, dash) for s in same[1:]]
        lines += [Line(s + lane / 2, 0.14, _WHITE, dash) for s in oncoming[1:]]
        if oncoming_count and rng.uniform() < 0.6:
            lines += [Line(divide - 0.12, 0.11, _YELLOW), Line(divide + 0.12, 0.11, _YELLOW)]
        elif oncoming_count:
            lines.append(Line(divide, 0.13, _YELLOW, dash))
        else:
            lines.append(Line(divide + 0.1, 0.14, _YELLOW))
        lines.append(Line(right_edge - 0.05, 0.13, _WHITE))
        if oncoming_count:
            lines.append(Line(left_edge + 0.05, 0.13, _WHITE))
    if has_walk:
        lines += [Line(kerb, 0.18, _KERB, raised=True) for kerb in kerbs]
    junction, crosswalks = None, []
    if has_walk and rng.uniform() < 0.4:
        start = float(rng.uniform(12, 55))
        junction = (start, start + float(rng.uniform(8, 16)))
        if rng.uniform() < 0.8:
            crosswalks = [start - CROSSWALK_DEPTH_M - 0.8, junction[1] + 0.8]
    elif has_walk and rng.uniform() < 0.2:
        crosswalks = [float(rng.uniform(7, 35))]
    parking = []
    if parks[0]:
        parking.append((kerbs[0] + 1.1, 0.0 if one_way else np.pi))
    if parks[1]:
        parking.append((kerbs[1] - 1.1, 0.0))
    layout = Layout(strips, lines, kerbs, junction, crosswalks, float(rng.uniform(0, 1)))
    walks = [(outer[0], kerbs[0]), (kerbs[1], outer[1])] if has_walk else []
    gap = rng.uniform(0.3, 1.5) if place == "city street" else rng.uniform(2.5, 6)
    return _Street(place, layout, same, oncoming, parking, walks, (outer[0] - gap, outer[1] + gap))


def _add_roadside(
    things: list[_Thing],
    lamps: list[tuple[float, float]],
    plan: _Street,
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
                things.append(_Thing(0, z + 2, street.paint_building, (road, *arguments)))
            else:
                for _ in range(int(rng.integers(1, 4))):
                    place = (edge + side * rng.uniform(0.5, 14), z + rng.uniform(0, length))
                    size = float(rng.uniform(1.2, 2.4) if rng.uniform() < 0.35 else rng.uniform(4, 10))
                    things.append(_Thing(0, place[1], street.paint_tree, (road, *place, size, _child(rng))))
            z += length + float(rng.uniform(0, 1.5) if plan.place == "city street" else rng.uniform(1, 6))
        _add_barrier(things, plan, road, side, edge, rng)
        _add_posts(things, lamps, plan, road, atmosphere, side, rng)


def _add_barrier(
    things: list[_Thing], plan: _Street, road: Road, side: int, edge: float, rng: np.random.Generator
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
            things.append(_Thing(1, z + 3, street.paint_barrier, (road, *arguments)))
        z += 6.0


def _add_posts(
    things: list[_Thing],
    lamps: list[tuple[float, float]],
    plan: _Street,
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
                things.append(_Thing(2, z, street.paint_lamp_post, (road, *arguments, lit)))
                if lit and z < 70:
                    lamps.append(street.lamp_head(road, kerb, z))
            else:
                arguments = (kerb + side * 0.4, z, height + 1)
                things.append(_Thing(2, z, street.paint_utility_pole, (road, *arguments)))
        z += spacing
    if plan.place != "highway" and rng.uniform() < 0.4:
        z = float(rng.uniform(6, 16))
        step = float(rng.uniform(8, 16))
        while z < 100:
            if free(z) and rng.uniform() < 0.8:
                tree = (kerb + side * 0.5, z, float(rng.uniform(4.5, 7.5)), _child(rng))
                things.append(_Thing(2, z, street.paint_tree, (road, *tree)))
            z += step
    for _ in range(int(rng.integers(0, 4 if side > 0 else 2))):
        z = float(rng.uniform(6, 50))
        kind = str(rng.choice(street.SIGN_KINDS))
        if free(z):
            sign = (kerb + side * rng.uniform(0, 0.5), z, kind, _child(rng))
            things.append(_Thing(2, z, street.paint_sign, (road, *sign)))


def _add_signals(things: list[_Thing], plan: _Street, road: Road, rng: np.random.Generator) -> None:
    """Traffic lights at a junction, before it on the right and beyond it on both sides."""
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
            things.append(_Thing(2, z, street.paint_traffic_light, (road, *arguments)))


def _add_traffic(
    things: list[_Thing],
    shadows: list[Points],
    plan: _Street,
    road: Road,
    atmosphere: Atmosphere,
    rng: np.random.Generator,
) -> None:
    """Vehicles in the lanes, parked and crossing, and two-wheelers."""
    busy = rng.uniform(0.25, 1.0)
    junction = plan.layout.junction

    def place(kind: str, s: float, z: float, yaw: float, *, lamps_on: bool) -> float:
        vehicle = solids.MAKERS[kind](rng, lamps_on=lamps_on)
        middle = z + vehicle.length / 2
        shadows.append(solids.footprint(vehicle, road, s, middle, yaw))
        things.append(_Thing(2, middle, _paint_vehicle, (kind, vehicle, road, s, middle, yaw, lamps_on)))
        return vehicle.length

    def kind_of_vehicle() -> str:
        return str(rng.choice(["car", "truck", "bus"], p=[0.84, 0.1, 0.06]))

    for lanes, yaw in ((plan.same, 0.0), (plan.oncoming, np.pi)):
        for s in lanes:
            z = float(rng.uniform(5, 16) if s == 0 or rng.uniform() < 0.6 else rng.uniform(1.5, 8))
            z += float(rng.exponential(14 / busy))
            while z < 130:
                sway, turn = float(rng.normal(0, 0.15)), float(rng.normal(0, 0.02))
                kind = "motorcycle" if rng.uniform() < 0.035 else kind_of_vehicle()
                if kind == "motorcycle":
                    _add_two_wheeler(things, shadows, road, s + sway, z, rng, motor=True, ridden=True, from_side=False)
                    z += 2
                else:
                    z += place(kind, s + sway, z, yaw + turn, lamps_on=atmosphere.lamps_on)
                z += float(rng.uniform(2.5, 8) + rng.exponential(16 / busy))
    for s, yaw in plan.parking:
        z = float(rng.uniform(1.5, 8))
        filled = rng.uniform(0.35, 0.95)
        while z < 90:
            blocked = junction is not None and z + 5 > junction[0] - 5 and z < junction[1] + 5
            if rng.uniform() < filled and not blocked:
                kind = "car" if rng.uniform() < 0.94 else "truck"
                z += place(kind, s + float(rng.normal(0, 0.08)), z, yaw + float(rng.normal(0, 0.02)), lamps_on=False)
            else:
                z += 5
            z += float(rng.uniform(0.7, 1.6))
    if junction is not None and rng.uniform() < 0.6:
        left, right = plan.layout.road_s
        kind = str(rng.choice(["car", "truck", "bus", "bike"], p=[0.68, 0.12, 0.08, 0.12]))
        s, z = float(rng.uniform(left, right)), float(rng.uniform(junction[0] + 2, junction[1] - 2))
        if kind == "bike":
            _add_two_wheeler(
                things, shadows, road, s, z, rng, motor=bool(rng.uniform() < 0.4), ridden=True, from_side=True
            )
        else:
            vehicle = solids.MAKERS[kind](rng, lamps_on=atmosphere.lamps_on)
            yaw = float(rng.choice([-1, 1])) * np.pi / 2
            shadows.append(solids.footprint(vehicle, road, s, z, yaw))
            on = atmosphere.lamps_on
            things.append(_Thing(2, z, _paint_vehicle, (kind, vehicle, road, s, z, yaw, on)))
    if plan.place == "city street" and plan.oncoming and rng.uniform() < 0.12:
        # A tram on its own track beyond the carriageway.
        place("train", plan.layout.road_s[0] - 2.2, float(rng.uniform(10, 45)), 0.0, lamps_on=atmosphere.lamps_on)
    right = plan.layout.road_s[1]
    for _ in range(int(rng.poisson(0.45 if plan.place != "highway" else 0.05))):
        motor = bool(rng.uniform() < 0.35)
        s = right - float(rng.uniform(0.5, 0.9))
        _add_two_wheeler(
            things, shadows, road, s, float(rng.uniform(6, 45)), rng, motor=motor, ridden=True, from_side=False
        )


def _paint_vehicle(
    canvas: Canvas, kind: str, vehicle: solids.Vehicle, road: Road, s: float, z: float, yaw: float, lamps_on: bool
) -> None:
    if z - vehicle.length / 2 < 0.4 and abs(yaw) < 1:
        return  # beside or behind the camera
    ident = canvas.add(SEMANTIC.index(kind), DETECTION.index(kind))
    solids.paint_vehicle(canvas, vehicle, road, s, z, yaw, ident, lamps_on=lamps_on)
    canvas.seal(ident)


def _paint_figure(
    canvas: Canvas, parts: list[figures.Part], semantic: str, detection: str, road: Road, s: float, z: float
) -> None:
    ident = canvas.add(SEMANTIC.index(semantic), DETECTION.index(detection))
    canvas.billboard(road.to_world(s, z), parts, ident, shade=0.5)
    canvas.seal(ident)


def _add_two_wheeler(
    things: list[_Thing],
    shadows: list[Points],
    road: Road,
    s: float,
    z: float,
    rng: np.random.Generator,
    *,
    motor: bool,
    ridden: bool,
    from_side: bool,
) -> None:
    name = "motorcycle" if motor else "bicycle"
    parts = (figures.motorcycle if motor else figures.bicycle)(rng, from_side=from_side)
    person = figures.rider(rng, from_side=from_side, on_motorcycle=motor) if ridden else None
    side = float(rng.choice([-1, 1]))
    outlines = [(parts, name)] + ([] if person is None else [(person, "rider")])
    for place, (outline, label) in enumerate(outlines):
        turned = [(points * (side, 1), color) for points, color in outline]
        things.append(_Thing(2, z - 0.01 * place, _paint_figure, (turned, label, label, road, s, z)))
    shadows.append(_blob(road, s, z, 0.9 if from_side else 0.3, 0.25 if from_side else 0.7))


def _add_people(
    things: list[_Thing], shadows: list[Points], plan: _Street, road: Road, rng: np.random.Generator
) -> None:
    """Pedestrians on sidewalks and crossings, parked bicycles and motorcycles."""
    places: list[tuple[float, float]] = []
    for left, right in plan.walks:
        for _ in range(int(rng.poisson(3.2 if plan.place == "city street" else 1.0))):
            where = (float(rng.uniform(left + 0.3, right - 0.2)), float(rng.uniform(4, 45)))
            places.append(where)
            if rng.uniform() < 0.3:
                places.append((where[0] + 0.55, where[1] + float(rng.uniform(-0.3, 0.3))))
    for start in plan.layout.crosswalks:
        for _ in range(int(rng.poisson(1.4))):
            road_s = plan.layout.road_s
            places.append((float(rng.uniform(*road_s)), start + float(rng.uniform(0.4, CROSSWALK_DEPTH_M - 0.4))))
    if rng.uniform() < 0.1 and plan.walks:
        places.append((float(rng.uniform(*plan.layout.road_s)), float(rng.uniform(8, 30))))
    for s, z in places:
        parts = figures.pedestrian(rng)
        things.append(_Thing(2, z, _paint_figure, (parts, "person", "pedestrian", road, s, z)))
        shadows.append(_blob(road, s, z, 0.28, 0.2))
    for left, right in plan.walks:
        if rng.uniform() < 0.18:
            z = float(rng.uniform(5, 25))
            motor = bool(rng.uniform() < 0.3)
            for index in range(int(rng.integers(1, 4))):
                s = left + 0.7 if left < 0 and right < 0 else right - 0.7
                _add_two_wheeler(
                    things, shadows, road, s, z + 1.1 * index, rng, motor=motor, ridden=False, from_side=True
                )


def _add_cast_shadows(shadows: list[Points], plan: _Street, road: Road, rng: np.random.Generator) -> None:
    """Large shadows of trees and houses across the street."""
    left, right = plan.roadside
    for _ in range(int(rng.integers(0, 5))):
        near, deep = float(rng.uniform(3, 60)), float(rng.uniform(1.5, 12))
        reach = float(rng.uniform(0.2, 1.0)) * (right - left)
        skew = float(rng.uniform(-3, 3))
        start, stop = (left, left + reach) if rng.uniform() < 0.5 else (right, right - reach)
        corners = [(start, near), (stop, near + skew), (stop, near + deep + skew), (start, near + deep)]
        shadows.append(np.array([road.to_world(s, max(z, 1.0)) for s, z in corners]))


def _blob(road: Road, s: float, z: float, half_width: float, half_depth: float) -> Points:
    angles = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    spread = np.column_stack([half_width * np.cos(angles), np.zeros(12), half_depth * np.sin(angles)])
    return np.asarray(road.to_world(s, z) + spread)


def _add_foliage_grain(
    image: UInt8, semantic: UInt8, haze: tuple[float, float, float], rng: np.random.Generator
) -> UInt8:
    """Contrast that no polygon has: leaves on vegetation, a little on terrain and facades; less where haze hides it."""
    strength = np.zeros(256, np.float32)
    strength[street.VEGETATION], strength[street.BUILDING], strength[TERRAIN] = 0.15, 0.04, 0.05
    height, width = semantic.shape
    grain = cv2.LUT(semantic, strength) * screen_noise((height, width), "fine", rng)
    grained = image + grain[:, :, None] * (image - np.asarray(haze, np.float32))
    return np.asarray(np.clip(grained, 0, 255), np.uint8)


def _hood(size_hw: Size, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """The ego vehicle's bonnet at the lower edge, bool [H, W]."""
    height, width = size_hw
    rise = rng.uniform(0.03, 0.09) * height
    x = (np.arange(width) + 0.5) / width * 2 - 1
    edge = height - rise * (1 - 0.75 * np.abs(x - rng.uniform(-0.15, 0.15)) ** 2.5)
    return np.asarray((np.arange(height)[:, None] + 0.5) > edge[None])


def _child(rng: np.random.Generator) -> np.random.Generator:
    """An own source of chance for what is painted later, so that the order of painting cannot matter."""
    return np.random.default_rng(rng.integers(2**63))
