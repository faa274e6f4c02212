"""The random plan of a street: lanes, shoulders, sidewalks and markings."""

from dataclasses import dataclass

import numpy as np

from lvad_perception.vocabulary import DRIVABLE_BACKGROUND
from lvad_training.sample_set.atmosphere import rgb
from lvad_training.sample_set.ground import (
    ALTERNATIVE,
    CROSSWALK_DEPTH_M,
    DIRECT,
    ROAD,
    SIDEWALK,
    TERRAIN,
    Layout,
    Line,
    Strip,
)

_WHITE, _YELLOW, _KERB = (222.0, 222.0, 216.0), (214.0, 164.0, 40.0), (176.0, 174.0, 170.0)


@dataclass(frozen=True, slots=True)
class Street:
    """The plan of a street: its cross-section and where objects can stand."""

    place: str
    layout: Layout
    same: list[float]  # centre s of the lanes in our direction, ego lane at 0
    oncoming: list[float]
    parking: list[tuple[float, float]]  # (s, yaw)
    walks: list[tuple[float, float]]  # (left, right) s of sidewalks
    roadside: tuple[float, float]  # s beyond which buildings and trees stand, left and right


def draw_street(rng: np.random.Generator) -> Street:
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
    road_color = rgb(asphalt)
    pave = np.array([158, 152, 146]) * rng.uniform(0.85, 1.15) + rng.uniform(-8, 8, 3)
    walk_color = rgb(pave)
    grass = np.array([98, 112, 62]) if rng.uniform() < 0.75 else np.array([150, 132, 100])
    grass = grass * rng.uniform(0.85, 1.15)
    land_color = rgb(grass)

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
    return Street(place, layout, same, oncoming, parking, walks, (outer[0] - gap, outer[1] + gap))
