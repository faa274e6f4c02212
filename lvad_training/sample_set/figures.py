"""People, bicycles and motorcycles as flat outlines facing the camera, in metres from their foot point."""

from collections.abc import Sequence

import numpy as np

from lvad_training.sample_set.camera import Points
from lvad_training.sample_set.canvas import Color, scaled

Part = tuple[Points, Color]

_SKINS: tuple[Color, ...] = ((236, 196, 168), (214, 166, 132), (168, 116, 82), (110, 74, 52))
_HAIRS: tuple[Color, ...] = ((34, 26, 22), (78, 52, 32), (150, 116, 66), (120, 118, 118))
_CLOTHES: tuple[Color, ...] = (
    (34, 36, 44),
    (60, 64, 76),
    (120, 122, 128),
    (216, 214, 208),
    (150, 34, 38),
    (34, 58, 116),
    (60, 110, 170),
    (44, 96, 60),
    (206, 168, 60),
    (190, 90, 120),
    (96, 70, 50),
    (230, 116, 40),
)
_DARK: Color = (28, 28, 30)
_METAL: Color = (96, 98, 102)


def _pick(rng: np.random.Generator, colors: Sequence[Color]) -> Color:
    base = np.array(colors[int(rng.integers(len(colors)))]) * rng.uniform(0.88, 1.1)
    return (float(min(base[0], 255)), float(min(base[1], 255)), float(min(base[2], 255)))


def _ellipse(x: float, y: float, rx: float, ry: float, start: float = 0.0, stop: float = 2 * np.pi) -> Points:
    angles = np.linspace(start, stop, 14, endpoint=stop < 2 * np.pi)
    return np.stack([x + rx * np.cos(angles), y + ry * np.sin(angles)], 1)


def _limb(start: tuple[float, float], end: tuple[float, float], width: float, end_width: float | None = None) -> Points:
    """A rounded bar between two joints."""
    a, b = np.array(start), np.array(end)
    along = (b - a) / (np.linalg.norm(b - a) + 1e-9)
    across = np.array([-along[1], along[0]]) / 2
    last = width if end_width is None else end_width
    return np.array(
        [
            a + across * width,
            a - along * width * 0.3,
            a - across * width,
            b - across * last,
            b + along * last * 0.3,
            b + across * last,
        ]
    )


def _ring(x: float, y: float, radius: float, width: float) -> Points:
    """A ring as one outline: the outer circle, then the inner one backwards."""
    angles = np.linspace(0, 2 * np.pi, 22)
    circle = np.stack([np.cos(angles), np.sin(angles)], 1)
    return np.asarray(np.concatenate([circle * radius, circle[::-1] * (radius - width)]) + np.array([x, y]))


def _mirrored(parts: list[Part], side: float) -> list[Part]:
    return [(outline * (side, 1), color) for outline, color in parts]


def pedestrian(rng: np.random.Generator) -> list[Part]:
    """A standing or walking person, seen from the front, the back or the side."""
    tall = float(rng.choice([rng.uniform(1.55, 1.9), rng.uniform(1.0, 1.4)], p=[0.88, 0.12]))
    skin, hair = _pick(rng, _SKINS), _pick(rng, _HAIRS)
    top, bottom = _pick(rng, _CLOTHES), _pick(rng, _CLOTHES[:7])
    stride = rng.uniform(0.02, 0.2) * tall
    lean = rng.uniform(-0.01, 0.02) * tall
    width = rng.uniform(0.85, 1.15)
    hip, shoulder = 0.5 * tall, 0.82 * tall
    seen_from_side = rng.uniform() < 0.45
    half = (0.075 if seen_from_side else 0.115) * tall * width
    hands = rng.uniform(-0.1, 0.16, 2) * tall
    leg = 0.085 * tall * width
    back = (
        _limb((-0.03 * tall, hip), (-stride * 0.6, 0.27 * tall), leg * 1.1),
        _limb((-stride * 0.6, 0.27 * tall), (-stride, 0.05 * tall), leg * 0.85, leg * 0.6),
    )
    front = (
        _limb((0.03 * tall, hip), (stride * 0.75, 0.28 * tall), leg * 1.1),
        _limb((stride * 0.75, 0.28 * tall), (stride, 0.05 * tall), leg * 0.85, leg * 0.6),
    )
    shoe: Color = (30, 28, 28) if rng.uniform() < 0.7 else (220, 220, 220)
    darker = scaled(bottom, 0.75)
    sleeve = scaled(top, 0.82)
    parts: list[Part] = [
        (_limb((-half, shoulder * 0.97), (-half - abs(hands[0]), 0.5 * tall), 0.055 * tall), sleeve),
        (back[0], darker),
        (back[1], darker),
        (_limb((-stride - 0.02, 0.025 * tall), (-stride + 0.09 * tall, 0.02 * tall), 0.045 * tall), shoe),
        (front[0], bottom),
        (front[1], bottom),
        (_limb((stride - 0.02, 0.025 * tall), (stride + 0.09 * tall, 0.02 * tall), 0.045 * tall), shoe),
    ]
    waist = half * 0.82
    hem = hip - (0.16 * tall if rng.uniform() < 0.3 else 0.03 * tall)  # a coat or a jacket
    body = [
        (-waist * 1.1, hem),
        (waist * 1.1, hem),
        (waist, 0.6 * tall),
        (half * 1.05, shoulder),
        (0.4 * half, 0.86 * tall),
    ]
    body += [(-0.4 * half, 0.86 * tall), (-half * 1.05, shoulder), (-waist, 0.6 * tall)]
    parts.append((np.array(body) + [(lean * (y > hip), 0) for _, y in body], top))
    if rng.uniform() < 0.25:
        bag = _pick(rng, _CLOTHES)
        parts.append((_ellipse(-half * 0.95, 0.68 * tall, 0.06 * tall, 0.11 * tall), bag))
    hand = (half + hands[1], 0.48 * tall)
    parts.append((_limb((half * 0.9, shoulder * 0.97), hand, 0.055 * tall, 0.045 * tall), sleeve))
    parts.append((_ellipse(hand[0], hand[1] - 0.01, 0.025 * tall, 0.03 * tall), skin))
    parts += _head(lean, 0.925 * tall, 0.062 * tall, skin, hair, rng)
    return _mirrored(parts, float(rng.choice([-1, 1])))


def _head(
    x: float, y: float, radius: float, skin: Color, hair: Color, rng: np.random.Generator, *, helmet: bool = False
) -> list[Part]:
    neck = (_limb((x, y - 1.5 * radius), (x, y - 0.5 * radius), radius * 0.9), skin)
    face = (_ellipse(x, y, radius * 0.86, radius * 1.15), skin)
    if helmet:
        return [neck, face, (_ellipse(x, y + 0.15 * radius, radius * 1.1, radius * 1.1, -0.1, np.pi + 0.1), hair)]
    if rng.uniform() < 0.4:  # seen from behind
        return [neck, (_ellipse(x, y + 0.06 * radius, radius * 0.9, radius * 1.15), hair)]
    return [neck, face, (_ellipse(x, y + 0.2 * radius, radius * 0.95, radius * 1.05, 0.1, np.pi - 0.1), hair)]


def bicycle(rng: np.random.Generator, *, from_side: bool) -> list[Part]:
    """A bicycle, from the side or along its length."""
    color = _pick(rng, _CLOTHES)
    if not from_side:
        return [
            (_ellipse(0, 0.34, 0.035, 0.34), _DARK),
            (_limb((0, 0.4), (0, 0.98), 0.05), color),
            (_limb((-0.27, 1.02), (0.27, 1.02), 0.045), _METAL),
            (_limb((-0.09, 0.92), (0.09, 0.92), 0.08), _DARK),
            (_ellipse(0, 0.62, 0.035, 0.035), (200, 30, 26)),
        ]
    rear, front, crank, seat, stem = (-0.52, 0.34), (0.52, 0.34), (-0.06, 0.32), (-0.2, 0.84), (0.36, 0.86)
    spokes: Color = (74, 76, 80)
    parts: list[Part] = []
    for x, y in (rear, front):
        parts.append((_ring(x, y, 0.34, 0.05), _DARK))
        parts.append((_limb((x - 0.3, y), (x + 0.3, y), 0.014), spokes))
        parts.append((_limb((x, y - 0.3), (x, y + 0.3), 0.014), spokes))
    bars = [(rear, crank), (crank, seat), (rear, seat), (crank, stem), (seat, stem), (stem, front)]
    parts += [(_limb(start, end, 0.045), color) for start, end in bars]
    parts.append((_limb((-0.3, 0.9), (-0.1, 0.9), 0.07), _DARK))
    parts.append((_limb(stem, (0.36, 1.02), 0.04), _METAL))
    parts.append((_limb((0.32, 1.02), (0.5, 1.04), 0.045), _DARK))
    return parts


def motorcycle(rng: np.random.Generator, *, from_side: bool) -> list[Part]:
    """A motorcycle or scooter, from the side or from behind."""
    color = _pick(rng, _CLOTHES)
    if not from_side:
        return [
            (_ellipse(0, 0.3, 0.08, 0.3), _DARK),
            (_ellipse(0, 0.72, 0.2, 0.24), color),
            (_limb((-0.12, 0.92), (0.12, 0.92), 0.12), _DARK),
            (_limb((-0.09, 0.72), (0.09, 0.72), 0.09), (214, 30, 26)),
            (_limb((-0.07, 0.5), (0.07, 0.5), 0.1), (220, 220, 216)),
            (_limb((-0.38, 1.05), (0.38, 1.05), 0.05), _METAL),
            (_ellipse(-0.4, 1.17, 0.07, 0.05), _DARK),
            (_ellipse(0.4, 1.17, 0.07, 0.05), _DARK),
        ]
    parts: list[Part] = []
    for x in (-0.66, 0.68):
        parts += [(_ellipse(x, 0.31, 0.31, 0.31), _DARK), (_ellipse(x, 0.31, 0.17, 0.17), _METAL)]
    parts.append((_limb((0.68, 0.31), (0.42, 1.0), 0.08), _METAL))
    parts.append((_ellipse(-0.02, 0.46, 0.32, 0.2), (70, 72, 76)))
    parts.append((np.array([(-0.85, 0.78), (-0.2, 0.5), (0.3, 0.6), (0.46, 0.92), (0.1, 0.98), (-0.3, 0.8)]), color))
    parts.append((_limb((-0.75, 0.84), (-0.1, 0.84), 0.12), _DARK))
    parts.append((_limb((-0.1, 0.28), (-0.9, 0.34), 0.09), (170, 172, 176)))
    parts.append((_ellipse(0.52, 0.9, 0.09, 0.1), (240, 238, 220)))
    parts.append((_limb((0.3, 1.08), (0.46, 1.02), 0.05), _DARK))
    return parts


def rider(rng: np.random.Generator, *, from_side: bool, on_motorcycle: bool) -> list[Part]:
    """A person on a bicycle or motorcycle, to be painted after it."""
    skin, top, bottom = _pick(rng, _SKINS), _pick(rng, _CLOTHES), _pick(rng, _CLOTHES[:7])
    cap = _pick(rng, _CLOTHES)
    sleeve = scaled(top, 0.82)
    helmet = on_motorcycle or rng.uniform() < 0.6
    seat = 0.86 if on_motorcycle else 0.94
    if not from_side:
        head = _head(0, seat + 0.78, 0.125 if on_motorcycle else 0.11, skin, cap, rng, helmet=helmet)
        torso = [(-0.16, seat - 0.08), (0.16, seat - 0.08), (0.23, seat + 0.5), (0.1, seat + 0.62)]
        torso += [(-0.1, seat + 0.62), (-0.23, seat + 0.5)]
        return [
            (_limb((-0.13, seat), (-0.17, 0.5), 0.16, 0.12), bottom),
            (_limb((-0.17, 0.5), (-0.15, 0.16), 0.12, 0.09), bottom),
            (_limb((0.13, seat), (0.17, 0.55), 0.16, 0.12), bottom),
            (_limb((0.17, 0.55), (0.15, 0.24), 0.12, 0.09), bottom),
            (_limb((-0.22, seat + 0.48), (-0.28, seat + 0.14), 0.1), sleeve),
            (_limb((0.22, seat + 0.48), (0.28, seat + 0.14), 0.1), sleeve),
            (np.array(torso), top),
            *head,
        ]
    hip, shoulder = (-0.2, seat), (0.12, seat + 0.52)
    knee, hand = (0.18, seat - 0.28), (0.42, seat + 0.14)
    return [
        (_limb(hip, (0.1, seat - 0.34), 0.17, 0.13), scaled(bottom, 0.7)),
        (_limb((0.1, seat - 0.34), (-0.1, 0.3), 0.12, 0.08), scaled(bottom, 0.7)),
        (_limb(hip, knee, 0.18, 0.14), bottom),
        (_limb(knee, (0.0, 0.24), 0.13, 0.09), bottom),
        (_limb((-0.02, 0.2), (0.16, 0.2), 0.08), _DARK),
        (_limb(hip, shoulder, 0.27, 0.3), top),
        (_limb((shoulder[0] + 0.04, shoulder[1] - 0.04), (0.22, seat + 0.2), 0.11), sleeve),
        (_limb((0.22, seat + 0.2), hand, 0.09, 0.07), sleeve),
        *_head(0.24, seat + 0.76, 0.12 if on_motorcycle else 0.108, skin, cap, rng, helmet=helmet),
    ]
