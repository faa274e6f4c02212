"""Paints the backdrop of a street: buildings, walls, fences, trees and the skyline."""

import numpy as np

from lvad_perception.vocabulary import SEMANTIC
from lvad_training.sample_set.camera import Points, Road, cross
from lvad_training.sample_set.canvas import Canvas, Color, regular_polygon, scaled

BUILDING, WALL, FENCE, VEGETATION = (SEMANTIC.index(name) for name in ("building", "wall", "fence", "vegetation"))

_FACADES: tuple[Color, ...] = (
    (176, 150, 128),
    (150, 92, 74),
    (196, 186, 168),
    (128, 128, 130),
    (206, 200, 190),
    (120, 100, 90),
    (164, 170, 176),
    (190, 160, 110),
    (96, 104, 116),
)
_LIT_PANE: Color = (248, 214, 140)
_UP = np.array([0.0, 1.0, 0.0])


def _wall_face(road: Road, start: tuple[float, float], end: tuple[float, float], low: float, high: float) -> Points:
    """An upright rectangle between two road positions (s, z), [4, 3]: bottom start, bottom end, top end, top start."""
    a, b = road.to_world(*start), road.to_world(*end)
    return np.array([a + low * _UP, b + low * _UP, b + high * _UP, a + high * _UP])


def _facing(face: Points, towards: Points) -> Points:
    """Unit normal of an upright face on the side of a point."""
    normal = cross(face[1] - face[0], face[3] - face[0])
    normal = normal / (np.linalg.norm(normal) + 1e-9)
    return np.asarray(normal if (towards - face.mean(0)) @ normal > 0 else -normal)


def _panel(face: Points, left: float, bottom: float, right: float, top: float) -> Points:
    across, up = face[1] - face[0], face[3] - face[0]
    return np.array(
        [face[0] + u * across + v * up for u, v in ((left, bottom), (right, bottom), (right, top), (left, top))]
    )


def paint_building(
    canvas: Canvas, road: Road, s: float, z: float, length: float, depth: float, height: float, rng: np.random.Generator
) -> None:
    """A block whose facade runs along the road at ``s`` from ``z`` to ``z + length``; ``depth`` points away from it."""
    color = scaled(_FACADES[int(rng.integers(len(_FACADES)))], rng.uniform(0.85, 1.1))
    glass = scaled((70, 84, 100), rng.uniform(0.7, 1.3))
    away = float(np.sign(s)) * depth
    eye = np.array([0, canvas.camera.height_m, 0])
    storey = rng.uniform(2.9, 3.6)
    floors = max(1, int(height / storey))
    shop = rng.uniform() < 0.4
    awning = scaled(_FACADES[int(rng.integers(len(_FACADES)))], 0.8)
    share_lit = {True: rng.uniform(0.2, 0.6), False: 0.0}[canvas.atmosphere.is_night]
    facade = _wall_face(road, (s, max(z, 1.2)), (s, z + length), 0, height)
    gable = _wall_face(road, (s, z), (s + away, z), 0, height) if z > 1.2 else None
    for face, extent in ((gable, depth), (facade, length)):
        if face is None:
            continue
        shade = canvas.atmosphere.shade(_facing(face, eye))
        canvas.polygon(face, color, BUILDING, shade=shade)
        canvas.polygon(_panel(face, 0, 1 - 0.4 / height, 1, 1), scaled(color, 0.75), None, shade=shade)
        nearest = max(float(face[:, 2].min()), 1.5)
        if canvas.scale_at(nearest) < 3.5:
            continue
        columns = max(1, int(extent / rng.uniform(2.4, 3.4)))
        rows: list[tuple[float, float]] = []
        for floor in range(floors):
            bottom, top = (floor + 0.28) * storey / height, (floor + 0.8) * storey / height
            if top > 1:
                break
            if floor == 0 and shop:
                shines = canvas.atmosphere.lamps_on
                pane: Color = (250, 226, 170) if shines else glass
                canvas.polygon(_panel(face, 0.04, 0.04, 0.96, top * 0.94), pane, None, shade=shade, glows=shines)
                canvas.polygon(_panel(face, 0.02, top * 0.94, 0.98, top * 1.1), awning, None, shade=shade)
                continue
            rows.append((bottom, top))
        for column in range(columns):
            left, right = (column + 0.24) / columns, (column + 0.76) / columns
            panes = np.array([_panel(face, left, bottom, right, top) for bottom, top in rows]).reshape(-1, 4, 3)
            lit = rng.uniform(size=len(panes)) < share_lit
            canvas.details(panes, np.where(lit[:, None], _LIT_PANE, glass), shade=shade, glows=lit)


def paint_barrier(
    canvas: Canvas, road: Road, s: float, z: float, length: float, kind: int, height: float, color: Color
) -> None:
    """A stretch of wall, or of fence with posts and rails."""
    if z + length < 1.2:
        return
    face = _wall_face(road, (s, max(z, 1.0)), (s, z + length), 0, height)
    shade = canvas.atmosphere.shade(_facing(face, np.array([0, canvas.camera.height_m, 0])))
    if kind == WALL:
        canvas.polygon(face, color, WALL, shade=shade)
        canvas.polygon(_panel(face, 0, 0.9, 1, 1), scaled(color, 1.15), None, shade=shade)
        for seam in np.arange(0.25, 1, 0.25).tolist():
            canvas.polygon(_panel(face, seam - 0.006, 0, seam + 0.006, 0.9), scaled(color, 0.8), None, shade=shade)
        return
    # Annotators outline a fence as a whole, including its mesh.
    canvas.polygon(face, scaled(color, 0.62), FENCE, shade=shade)
    scale = canvas.scale_at(z + length / 2)
    if scale > 6:
        pickets = int(length / 0.45)
        for index in range(pickets):
            left = (index + 0.2) / pickets
            canvas.polygon(_panel(face, left, 0, left + 0.5 / pickets, 0.96), color, None, shade=shade)
    for rail in (0.15, 0.9):
        canvas.polygon(_panel(face, 0, rail, 1, rail + 0.1), scaled(color, 1.1), None, shade=shade)


def paint_tree(canvas: Canvas, road: Road, s: float, z: float, height: float, rng: np.random.Generator) -> None:
    """A tree or, below 2.5 m, a bush: blobs of foliage, darker below and away from the sun."""
    foot = road.to_world(s, z)
    if foot[2] < 2.0:
        return
    scale = canvas.scale_at(z)
    bush = height < 2.5
    crown = np.array([0.62 * height, 0.5 * height]) if bush else np.array([rng.uniform(0.26, 0.36), 0.34]) * height
    middle = 0.42 * height if bush else 0.66 * height
    hue = rng.uniform(0, 1)
    leaf = np.array([62, 98, 44]) * (1 - hue) + np.array([92, 112, 50]) * hue
    if rng.uniform() < 0.08:
        leaf = np.array([150, 96, 44.0])
    if not bush:
        trunk = 0.035 * height
        outline = np.array([(-trunk, 0), (trunk, 0), (trunk * 0.6, middle), (-trunk * 0.6, middle)])
        canvas.billboard(foot, [(outline, (84, 66, 50))], VEGETATION, shade=0.4)
    count = int(np.clip(scale * height * 0.3, 10, 60))
    angle, radius = rng.uniform(0, 2 * np.pi, count), np.sqrt(rng.uniform(0, 1, count))
    places = np.stack([np.cos(angle), np.sin(angle)], 1) * radius[:, None]
    sun_side = float(np.sign(canvas.atmosphere.sun_direction[0]))
    order = np.argsort(places[:, 1] + rng.uniform(-0.3, 0.3, count))  # upper blobs lie over lower ones
    circle = regular_polygon(9)
    blobs: list[tuple[Points, Color]] = []
    for index in order:
        x, y = places[index]
        size = rng.uniform(0.24, 0.44) * crown.mean()
        light = 0.78 + 0.26 * y + 0.12 * x * sun_side + rng.uniform(-0.12, 0.12)
        bumps = rng.uniform(0.75, 1.2, 9) * size
        centre = np.array([x * crown[0], middle + y * crown[1]])
        tint = leaf * light * (0.85 + 0.2 * max(y, 0))
        blobs.append((circle * bumps[:, None] + centre, tuple(tint)))
    canvas.billboard(foot, blobs, VEGETATION, shade=0.45)


def paint_skyline(canvas: Canvas, kind: int, rng: np.random.Generator) -> None:
    """The skyline at the horizon over the whole width: tree tops or distant blocks."""
    height, width = canvas.camera.size_hw
    z = 260.0
    scale = canvas.scale_at(z)
    base = canvas.camera.horizon_px + 3 * height / 360
    color: Color = (70, 92, 58) if kind == VEGETATION else (120, 118, 120)
    lit = canvas.atmosphere.seen(color, 0.3, z * 0.6, 0)
    if kind == VEGETATION:
        steps = np.linspace(-10, width + 10, 90)
        tops = rng.uniform(6, 16) + np.convolve(rng.uniform(-9, 9, 96), np.ones(7) / 4, "valid")
        ridge = np.stack([steps, canvas.camera.horizon_px - np.maximum(tops, 3) * scale], 1)
        outline = np.concatenate([ridge, [(width + 10, base), (-10, base)]])
        canvas.flat_polygon(outline, lit, VEGETATION, convex=False)
        return
    x = -20.0
    while x < width + 20:
        wide = rng.uniform(12, 50) * width / 640
        top = canvas.camera.horizon_px - rng.uniform(8, 55) * scale
        shade = scaled(lit, rng.uniform(0.85, 1.1))
        canvas.flat_polygon(np.array([(x, base), (x + wide, base), (x + wide, top), (x, top)]), shade, BUILDING)
        x += wide * rng.uniform(0.8, 1.0)
