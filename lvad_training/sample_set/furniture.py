"""Paints posts: street lamps, utility poles, traffic lights and signs."""

import numpy as np

from lvad_perception.vocabulary import DETECTION, SEMANTIC
from lvad_training.sample_set.camera import Points, Road
from lvad_training.sample_set.canvas import Canvas, Color, regular_polygon, scaled

POLE = SEMANTIC.index("pole")


def _rod(start: tuple[float, float], end: tuple[float, float], width: float) -> Points:
    """Outline of a straight bar, in metres."""
    a, b = np.array(start), np.array(end)
    across = np.array([-(b - a)[1], (b - a)[0]]) / np.linalg.norm(b - a) * width / 2
    return np.array([a + across, a - across, b - across, b + across])


def paint_lamp_post(canvas: Canvas, road: Road, s: float, z: float, height: float, lit: bool) -> None:
    """A street lamp whose arm reaches over the road."""
    foot = road.to_world(s, z)
    inward = -float(np.sign(s))
    grey: Color = (92, 94, 98)
    arm = (inward * 1.8, height + 0.25)
    parts = [
        (_rod((0, 0), (0, height), 0.15), grey),
        (_rod((0, height), arm, 0.1), grey),
        (_rod((arm[0] - 0.35, arm[1]), (arm[0] + 0.35, arm[1]), 0.16), (255, 236, 190) if lit else (70, 72, 76)),
    ]
    canvas.billboard(foot, parts, POLE, shade=0.5)
    if lit:
        canvas.glow(foot + np.array([arm[0], arm[1], 0]), 0.7, (190, 150, 90), POLE)


def lamp_head(road: Road, s: float, z: float) -> tuple[float, float]:
    """(x, z) below the head of the lamp post at (s, z)."""
    foot = road.to_world(s, z)
    return float(foot[0] - np.sign(s) * 1.8), float(foot[2])


def paint_utility_pole(canvas: Canvas, road: Road, s: float, z: float, height: float) -> None:
    """A wooden pole with a crossbar."""
    wood: Color = (92, 76, 60)
    parts = [(_rod((0, 0), (0, height), 0.22), wood), (_rod((-1, height - 0.6), (1, height - 0.6), 0.12), wood)]
    canvas.billboard(road.to_world(s, z), parts, POLE, shade=0.5)


_SIGNALS = {"G": (2, (60, 255, 150)), "Y": (1, (255, 206, 50)), "R": (0, (255, 52, 40))}


def paint_traffic_light(
    canvas: Canvas, road: Road, s: float, z: float, arm: float, signal: str, rng: np.random.Generator
) -> None:
    """A post with a signal head, and a second one over the road when ``arm`` (metres to the left) is not 0."""
    foot = road.to_world(s, z)
    height = 5.6 if arm else 3.0
    grey: Color = (80, 82, 84)
    canvas.billboard(foot, [(_rod((0, 0), (0, height), 0.16), grey)], POLE, shade=0.5)
    places = [(0.0, 2.9)]
    if arm:
        canvas.billboard(foot, [(_rod((0, height - 0.15), (-arm, height), 0.14), grey)], POLE, shade=0.5)
        places.append((-arm * rng.uniform(0.8, 1.0), height - 0.25))
    for x, y in places:
        ident = canvas.add(SEMANTIC.index("traffic light"), DETECTION.index("traffic light"), signal)
        case = np.array([(-0.19, -0.52), (0.19, -0.52), (0.19, 0.52), (-0.19, 0.52)]) + np.array([x, y])
        canvas.billboard(foot, [(case, (26, 28, 26))], ident, shade=0.4)
        for row in range(3):
            shining = _SIGNALS[signal][0] == row
            color = _SIGNALS[signal][1] if shining else (54, 52, 48)
            disc = regular_polygon(12, 0.125) + np.array([x, y + 0.32 - 0.32 * row])
            world = np.column_stack([foot[0] + disc[:, 0], disc[:, 1], np.full(12, foot[2])])
            canvas.polygon(world, color, None, glows=shining)
            if shining:
                dim = 0.9 if canvas.atmosphere.is_night else 0.35
                canvas.glow(foot + np.array([x, y + 0.32 - 0.32 * row, 0]), 0.16, scaled(color, dim), ident)
        canvas.seal(ident)


def paint_sign(canvas: Canvas, road: Road, s: float, z: float, kind: str, rng: np.random.Generator) -> None:
    """A sign on its post: stop, speed, warning, no entry, street name, direction board."""
    foot = road.to_world(s, z)
    height = rng.uniform(2.1, 2.7)
    canvas.billboard(foot, [(_rod((0, 0), (0, height), 0.08), (128, 130, 132))], POLE, shade=0.5)
    ident = canvas.add(SEMANTIC.index("traffic sign"), DETECTION.index("traffic sign"))
    for outline, color in _sign_parts(kind):
        canvas.billboard(foot, [(outline + np.array([0, height]), color)], ident, shade=0.6)
    canvas.seal(ident)


def _rectangle(half_width: float, half_height: float, x: float = 0.0, y: float = 0.0) -> Points:
    corner = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)])
    return np.asarray(corner * (half_width, half_height) + (x, y))


SIGN_KINDS = ("stop", "speed", "warning", "no entry", "parking", "board")


def _sign_parts(kind: str) -> list[tuple[Points, Color]]:
    white, red, black = (236.0, 236.0, 232.0), (196.0, 28.0, 34.0), (26.0, 26.0, 28.0)
    if kind == "stop":
        bar = [(_rectangle(0.05, 0.09, x), white) for x in (-0.2, -0.07, 0.07, 0.2)]
        return [(regular_polygon(8, 0.4, np.pi / 8), white), (regular_polygon(8, 0.37, np.pi / 8), red), *bar]
    if kind == "speed":
        digits = [(_rectangle(0.05, 0.12, x), black) for x in (-0.1, 0.1)]
        return [(regular_polygon(16, 0.36), red), (regular_polygon(16, 0.27), white), *digits]
    if kind == "warning":
        return [
            (regular_polygon(4, 0.46), black),
            (regular_polygon(4, 0.43), (246.0, 196.0, 30.0)),
            (_rectangle(0.035, 0.14, 0, 0.05), black),
            (_rectangle(0.035, 0.035, 0, -0.18), black),
        ]
    if kind == "no entry":
        return [(regular_polygon(16, 0.36), red), (_rectangle(0.24, 0.06), white)]
    if kind == "parking":
        return [
            (_rectangle(0.3, 0.3), white),
            (_rectangle(0.28, 0.28), (30.0, 76.0, 160.0)),
            (_rectangle(0.05, 0.18, -0.06), white),
        ]
    lines = [(_rectangle(0.5, 0.05, -0.1, y), white) for y in (0.16, -0.16)]
    return [(_rectangle(0.9, 0.42), white), (_rectangle(0.86, 0.38), (20.0, 104.0, 68.0)), *lines]
