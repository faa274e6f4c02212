"""Renders one driving scene: a random street, its traffic, light and weather, with exact annotation."""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from lvad_perception.types import Size, UInt8
from lvad_perception.vocabulary import DRIVABLE_BACKGROUND, SEMANTIC
from lvad_training.sample_set import street
from lvad_training.sample_set.atmosphere import add_weather, draw_atmosphere, expose, paint_sky, screen_noise
from lvad_training.sample_set.camera import Camera, Points, Road
from lvad_training.sample_set.canvas import Box, Canvas
from lvad_training.sample_set.ground import ROAD, TERRAIN, paint_ground
from lvad_training.sample_set.plan import draw_street
from lvad_training.sample_set.roadside import Thing, add_cast_shadows, add_roadside, add_signals
from lvad_training.sample_set.traffic import add_people, add_traffic


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """A rendered image and its annotation.

    Attributes:
        image: uint8 [H, W, 3], RGB.
        semantic: uint8 [H, W], train ids, 255 on the ego vehicle.
        drivable: uint8 [H, W], drivable ids.
        instances: uint16 [H, W], ``Box.ident`` where an object is visible.
        boxes: visible traffic objects.
        weather: in BDD100K's terms.
        timeofday: in BDD100K's terms.
        place: BDD100K's "scene" attribute.
    """

    image: UInt8
    semantic: UInt8
    drivable: UInt8
    instances: npt.NDArray[np.uint16]
    boxes: list[Box]
    weather: str
    timeofday: str
    place: str


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
    plan = draw_street(rng)

    shadows: list[Points] = []
    things: list[Thing] = []
    lamps: list[tuple[float, float]] = []
    add_roadside(things, lamps, plan, road, atmosphere, rng)
    add_traffic(things, shadows, plan, road, atmosphere, rng)
    add_people(things, shadows, plan, road, rng)
    add_signals(things, plan, road, rng)
    if atmosphere.casts_shadows:
        add_cast_shadows(shadows, plan, road, rng)

    sky = paint_sky(camera, atmosphere, rng)
    ground = paint_ground(camera, road, plan.layout, atmosphere, shadows, lamps if atmosphere.is_night else [], rng)
    sky[ground.first_row :] = ground.color[ground.first_row :]
    semantic: UInt8 = np.full(size_hw, SEMANTIC.index("sky"), np.uint8)
    semantic[ground.first_row :] = ground.semantic[ground.first_row :]
    canvas = Canvas(camera, atmosphere, np.clip(sky, 0, 255).astype(np.uint8), semantic)
    built_up = plan.place == "city street" and rng.uniform() < 0.6
    street.paint_skyline(canvas, street.BUILDING if built_up else street.VEGETATION, rng)
    for thing in sorted(things, key=lambda thing: (thing.layer, -thing.z)):
        thing.paint(canvas, *thing.arguments)

    image = canvas.image()
    hood = _hood(size_hw, rng) if rng.uniform() < 0.2 else np.zeros(size_hw, bool)
    canvas.hide(hood)
    semantic = canvas.semantic()
    image = _add_foliage_grain(image, semantic, atmosphere.haze_color, rng)
    image = add_weather(image, atmosphere, rng)
    if hood.any():
        shine = np.linspace(0.9, 1.3, height, dtype=np.float32)[:, None, None]
        tone = np.asarray(atmosphere.ambient, np.float32) * 46 * shine
        image = np.where(hood[:, :, None], np.clip(tone, 0, 255), image).astype(np.uint8)
    drivable = np.where(semantic == ROAD, ground.drivable, DRIVABLE_BACKGROUND).astype(np.uint8)
    image = expose(image, atmosphere, rng)
    weather, timeofday = atmosphere.weather, atmosphere.timeofday
    return Scene(image, semantic, drivable, canvas.instances(), canvas.boxes(), weather, timeofday, plan.place)


def _add_foliage_grain(
    image: UInt8, semantic: UInt8, haze: tuple[float, float, float], rng: np.random.Generator
) -> UInt8:
    """Add texture to vegetation, and a little to terrain and facades; haze weakens it."""
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
