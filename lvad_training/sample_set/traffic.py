"""Random traffic: vehicles in lanes, parked and crossing, two-wheelers and pedestrians."""

from functools import partial

import numpy as np

from lvad_perception.vocabulary import DETECTION, SEMANTIC
from lvad_training.sample_set import figures, solids, vehicles
from lvad_training.sample_set.atmosphere import Atmosphere
from lvad_training.sample_set.camera import Points, Road
from lvad_training.sample_set.canvas import Canvas, regular_polygon
from lvad_training.sample_set.ground import CROSSWALK_DEPTH_M
from lvad_training.sample_set.plan import Street
from lvad_training.sample_set.roadside import Thing


def add_traffic(
    things: list[Thing],
    shadows: list[Points],
    plan: Street,
    road: Road,
    atmosphere: Atmosphere,
    rng: np.random.Generator,
) -> None:
    """Vehicles in the lanes, parked and crossing, and two-wheelers."""
    busy = rng.uniform(0.25, 1.0)
    junction, on = plan.layout.junction, atmosphere.lamps_on
    two_wheeler = partial(_add_two_wheeler, things, shadows, road, rng=rng, ridden=True)

    def add(kind: str, vehicle: vehicles.Vehicle, s: float, z: float, yaw: float, lamps_on: bool) -> None:
        shadows.append(solids.footprint(vehicle, road, s, z, yaw))
        things.append(Thing(2, z, _paint_vehicle, (kind, vehicle, road, s, z, yaw, lamps_on)))

    def place(kind: str, s: float, z: float, yaw: float, *, lamps_on: bool) -> float:
        vehicle = vehicles.MAKERS[kind](rng, lamps_on=lamps_on)
        add(kind, vehicle, s, z + vehicle.length / 2, yaw, lamps_on)
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
                    two_wheeler(s + sway, z, motor=True, from_side=False)
                    z += 2
                else:
                    z += place(kind, s + sway, z, yaw + turn, lamps_on=on)
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
            two_wheeler(s, z, motor=bool(rng.uniform() < 0.4), from_side=True)
        else:
            vehicle = vehicles.MAKERS[kind](rng, lamps_on=on)
            add(kind, vehicle, s, z, float(rng.choice([-1, 1])) * np.pi / 2, on)
    if plan.place == "city street" and plan.oncoming and rng.uniform() < 0.12:
        # A tram on its own track beyond the carriageway.
        place("train", plan.layout.road_s[0] - 2.2, float(rng.uniform(10, 45)), 0.0, lamps_on=on)
    right = plan.layout.road_s[1]
    for _ in range(int(rng.poisson(0.45 if plan.place != "highway" else 0.05))):
        motor = bool(rng.uniform() < 0.35)
        s = right - float(rng.uniform(0.5, 0.9))
        two_wheeler(s, float(rng.uniform(6, 45)), motor=motor, from_side=False)


def _paint_vehicle(
    canvas: Canvas, kind: str, vehicle: vehicles.Vehicle, road: Road, s: float, z: float, yaw: float, lamps_on: bool
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
    things: list[Thing],
    shadows: list[Points],
    road: Road,
    s: float,
    z: float,
    *,
    rng: np.random.Generator,
    motor: bool,
    ridden: bool,
    from_side: bool,
) -> None:
    name = "motorcycle" if motor else "bicycle"
    parts = (figures.motorcycle if motor else figures.bicycle)(rng, from_side=from_side)
    person = figures.rider(rng, from_side=from_side, on_motorcycle=motor) if ridden else None
    side = float(rng.choice([-1, 1]))
    outlines = [(parts, name)] + ([] if person is None else [(person, "rider")])
    for index, (outline, label) in enumerate(outlines):
        turned = [(points * (side, 1), color) for points, color in outline]
        things.append(Thing(2, z - 0.01 * index, _paint_figure, (turned, label, label, road, s, z)))
    shadows.append(_shadow(road, s, z, 0.9 if from_side else 0.3, 0.25 if from_side else 0.7))


def add_people(things: list[Thing], shadows: list[Points], plan: Street, road: Road, rng: np.random.Generator) -> None:
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
        things.append(Thing(2, z, _paint_figure, (parts, "person", "pedestrian", road, s, z)))
        shadows.append(_shadow(road, s, z, 0.28, 0.2))
    for left, right in plan.walks:
        if rng.uniform() < 0.18:
            z = float(rng.uniform(5, 25))
            motor = bool(rng.uniform() < 0.3)
            for index in range(int(rng.integers(1, 4))):
                s = left + 0.7 if left < 0 and right < 0 else right - 0.7
                _add_two_wheeler(
                    things, shadows, road, s, z + 1.1 * index, rng=rng, motor=motor, ridden=False, from_side=True
                )


def _shadow(road: Road, s: float, z: float, half_width: float, half_depth: float) -> Points:
    outline = np.insert(regular_polygon(12) * (half_width, half_depth), 1, 0, axis=1)
    return np.asarray(road.to_world(s, z) + outline)
