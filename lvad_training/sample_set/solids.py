"""Paints vehicles: the visible faces, their details, wheels and lamps; and the outlines of their shadows."""

from collections.abc import Callable
from functools import partial

import numpy as np

from lvad_training.sample_set.camera import Points, Road, cross
from lvad_training.sample_set.canvas import Canvas, regular_polygon
from lvad_training.sample_set.vehicles import Vehicle

_FACES = {
    # Corners of a box: bottom 0..3, top 4..7, each rear-left, rear-right, front-right, front-left.
    # A face lists its corners as bottom-left, bottom-right, top-right, top-left, seen from outside.
    "rear": (0, 1, 5, 4),
    "right": (1, 2, 6, 5),
    "front": (2, 3, 7, 6),
    "left": (3, 0, 4, 7),
    "top": (4, 5, 6, 7),
}

ToWorld = Callable[[Points], Points]
"""The vehicle's own coordinates [N, 3] -> world points [N, 3]."""


def footprint(vehicle: Vehicle, road: Road, s: float, z: float, yaw: float, *, margin: float = 0.12) -> Points:
    """Ground outline of a vehicle, [4, 3], for its contact shadow."""
    half, end = vehicle.half_width + margin, vehicle.length / 2 + margin
    local = np.array([(-half, 0, -end), (half, 0, -end), (half, 0, end), (-half, 0, end)])
    return _placed(local, road, s, z, yaw)


def _placed(local: Points, road: Road, s: float, z: float, yaw: float) -> Points:
    angle = yaw + road.yaw(z)
    cos, sin = np.cos(angle), np.sin(angle)
    turned = local @ np.array([[cos, 0, -sin], [0, 1, 0], [sin, 0, cos]])
    return np.asarray(turned + road.to_world(s, z))


def paint_vehicle(
    canvas: Canvas, vehicle: Vehicle, road: Road, s: float, z: float, yaw: float, ident: int, *, lamps_on: bool
) -> None:
    """Paint a vehicle standing at (s, z), its front turned ``yaw`` clockwise from the road's direction."""
    to_world = partial(_placed, road=road, s=s, z=z, yaw=yaw)
    eye = np.array([0, canvas.camera.height_m, 0])
    px_per_m = canvas.scale_at(z)
    if vehicle.wheel_radius and px_per_m >= 4:
        _paint_tyres(canvas, vehicle, to_world, ident)
    corner_sets = [to_world(box.corners()) for box in vehicle.boxes]
    order = sorted(
        range(len(vehicle.boxes)),
        key=lambda index: (vehicle.boxes[index].layer, -np.linalg.norm(corner_sets[index].mean(0) - eye)),
    )
    for index in order:
        box, corners = vehicle.boxes[index], corner_sets[index]
        for name, indices in _FACES.items():
            face = corners[list(indices)]
            normal = cross(face[3] - face[0], face[1] - face[0])
            if (eye - face[0]) @ normal <= 0:
                continue
            normal = normal / np.sqrt(normal @ normal)
            shade = canvas.atmosphere.shade(normal) + 0.1 * max(0.0, float(normal[1]))
            canvas.polygon(face, box.color, ident, shade=shade)
            shown = [decal for decal in box.decals if decal.face == name and px_per_m >= decal.min_px_per_m]
            canvas.details(
                np.array([_on_face(face, decal.area) for decal in shown]).reshape(-1, 4, 3),
                [decal.color for decal in shown],
                shade=shade,
                glows=[decal.glows for decal in shown],
            )
        if index == 0 and vehicle.wheel_radius and px_per_m >= 5:
            _paint_wheels(canvas, vehicle, to_world, eye, ident)
    if lamps_on:
        _add_glows(canvas, vehicle, to_world, ident)


def _on_face(face: Points, area: tuple[float, float, float, float]) -> Points:
    """A rectangle in relative coordinates of a quadrilateral face -> world points [4, 3]."""
    left, bottom, right, top = area
    low_left, low_right = face[0] + left * (face[1] - face[0]), face[0] + right * (face[1] - face[0])
    high_left, high_right = face[3] + left * (face[2] - face[3]), face[3] + right * (face[2] - face[3])
    rise_left, rise_right = high_left - low_left, high_right - low_right
    return np.array(
        [
            low_left + bottom * rise_left,
            low_right + bottom * rise_right,
            low_right + top * rise_right,
            low_left + top * rise_left,
        ]
    )


def _paint_tyres(canvas: Canvas, vehicle: Vehicle, to_world: ToWorld, ident: int) -> None:
    """Paint the part of the tyres that shows below the body from the front or the back."""
    radius, half = vehicle.wheel_radius, vehicle.half_width
    for axle in vehicle.wheel_z:
        for side in (-1, 1):
            x = side * (half - 0.14)
            local = np.array(
                [(x - 0.11, 0, axle), (x + 0.11, 0, axle), (x + 0.11, radius * 2, axle), (x - 0.11, radius * 2, axle)]
            )
            canvas.polygon(to_world(local), (20, 20, 22), ident, shade=0)


def _paint_wheels(canvas: Canvas, vehicle: Vehicle, to_world: ToWorld, eye: Points, ident: int) -> None:
    """Paint the wheels on the side that faces the camera, as discs over the body."""
    radius = vehicle.wheel_radius
    for side in (-1, 1):
        x = side * (vehicle.half_width + 0.01)
        middle, outside = to_world(np.array([(x, radius, 0), (x + side, radius, 0)]))
        if (eye - middle) @ (outside - middle) <= 0:
            continue
        for axle in vehicle.wheel_z:
            for share, color, low in (
                (1.2, (16, 16, 18), 0.0),
                (1.0, (30, 30, 32), -1.0),
                (0.6, (140, 142, 146), -1.0),
            ):
                outline = regular_polygon(16) * radius * share
                outline = np.maximum(outline, (-np.inf, low if share > 1 else -np.inf))
                local = np.column_stack([np.full(len(outline), x), outline[:, 1] + radius, outline[:, 0] + axle])
                canvas.polygon(to_world(local), color, None if share > 1 else ident, shade=0.2)


def _add_glows(canvas: Canvas, vehicle: Vehicle, to_world: ToWorld, ident: int) -> None:
    x, y = vehicle.lamps
    end = vehicle.length / 2
    strength = 1.0 if canvas.atmosphere.is_night else 0.4
    for side in (-1, 1):
        rear, front, middle = to_world(np.array([(side * x, y, -end), (side * x, y, end), (side * x, y, 0)]))
        if rear @ (rear - middle) < 0:
            canvas.glow(rear, 0.22, (150 * strength, 20 * strength, 14 * strength), ident)
        if front @ (front - middle) < 0:
            canvas.glow(front, 0.4, (190 * strength, 184 * strength, 160 * strength), ident)
