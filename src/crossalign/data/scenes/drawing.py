"""Draw a synthetic scene: soft textures, smooth shapes with a light from above and a shadow below."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from crossalign.data.scenes.world import Scene, SceneObject

__all__ = ["PAINT", "draw_scene", "draw_shape"]

PAINT = {
    "red": (214, 45, 58),
    "orange": (242, 133, 32),
    "yellow": (250, 204, 55),
    "green": (48, 158, 92),
    "blue": (44, 105, 217),
    "purple": (122, 70, 190),
    "pink": (246, 142, 178),
    "black": (42, 43, 54),
}
GROUND = {
    "beige": (235, 223, 203),
    "grey": (214, 217, 222),
    "sage": (205, 219, 199),
    "mauve": (222, 207, 222),
    "aqua": (199, 222, 226),
}
SHADOW = (38, 34, 52)
SUPERSAMPLING = 4
_FAINT = [round(0.42 * value) for value in range(256)]

Plane = NDArray[np.floating[Any]]


def draw_scene(scene: Scene, size: int) -> tuple[Image.Image, list[tuple[int, int, int, int]]]:
    """Draw a scene as a picture of ``size`` x ``size`` pixels.

    Returns:
        The picture, and for each object its box ``(left, top, right, bottom)`` in pixels: the smallest that
        holds every pixel the object touches, its shadow left out.
    """
    picture = _draw_ground(scene, size)
    boxes = []
    for item in scene.objects:
        mask, left, top = draw_shape(item, size)
        _drop_shadow(picture, mask, left, top, size)
        picture.paste(_paint(item.colour, mask.size), (left, top), mask)
        bounds = mask.getbbox()
        assert bounds is not None
        boxes.append((left + bounds[0], top + bounds[1], left + bounds[2], top + bounds[3]))
    return picture, boxes


def draw_shape(item: SceneObject, size: int) -> tuple[Image.Image, int, int]:
    """The coverage mask of an object in a picture of ``size`` pixels, and its left and top edge."""
    radius = item.radius * size
    left, top = math.floor(item.x * size - radius) - 2, math.floor(item.y * size - radius) - 2
    side = math.ceil(2 * radius) + 5
    large = Image.new("L", (side * SUPERSAMPLING, side * SUPERSAMPLING), 0)
    centre = ((item.x * size - left) * SUPERSAMPLING, (item.y * size - top) * SUPERSAMPLING)
    _SHAPES[item.shape](ImageDraw.Draw(large), centre, radius * SUPERSAMPLING, math.radians(item.angle))
    return large.reduce(SUPERSAMPLING), left, top


def _paint(colour: str, size: tuple[int, int]) -> Image.Image:
    """A patch of a colour, a little lighter at the top and a little darker at the bottom."""
    light: Plane = np.linspace(1.0, -1.0, size[1], dtype=np.float32)[:, None]
    base = np.asarray(PAINT[colour], dtype=np.float32)
    rows = base + np.where(light > 0, (255 - base) * 0.16 * light, base * 0.14 * light)
    return Image.fromarray(rows.round().astype(np.uint8)[:, None, :]).resize(size, Image.Resampling.NEAREST)


def _drop_shadow(picture: Image.Image, mask: Image.Image, left: int, top: int, size: int) -> None:
    blur = size * 0.014
    border = math.ceil(3 * blur)
    shadow = Image.new("L", (mask.width + 2 * border, mask.height + 2 * border), 0)
    shadow.paste(mask.point(_FAINT), (border, border))
    shadow = shadow.filter(ImageFilter.GaussianBlur(blur))
    picture.paste(SHADOW, (left - border + round(size * 0.006), top - border + round(size * 0.017)), shadow)


# ------------------------------------------------------------------------------------------ shapes

Centre = tuple[float, float]
DrawShape = Callable[[ImageDraw.ImageDraw, Centre, float, float], None]


def _polygon(
    draw: ImageDraw.ImageDraw, points: Sequence[Centre], centre: Centre, radius: float, angle: float
) -> None:
    """Fill a polygon given in units of the radius, with softly rounded corners."""
    rounding = 0.1
    scale = radius * (1 - rounding / 2)
    cosine, sine = math.cos(angle), math.sin(angle)
    corners = [
        (centre[0] + scale * (x * cosine - y * sine), centre[1] + scale * (x * sine + y * cosine))
        for x, y in points
    ]
    width = max(1, round(rounding * radius))
    draw.polygon(corners, fill=255)
    draw.line([*corners, corners[0], corners[1]], fill=255, width=width, joint="curve")


def _disc(draw: ImageDraw.ImageDraw, centre: Centre, radius: float, fill: int = 255) -> None:
    draw.ellipse((centre[0] - radius, centre[1] - radius, centre[0] + radius, centre[1] + radius), fill=fill)


def _circle(draw: ImageDraw.ImageDraw, centre: Centre, radius: float, angle: float) -> None:
    _disc(draw, centre, 0.95 * radius)


def _ring(draw: ImageDraw.ImageDraw, centre: Centre, radius: float, angle: float) -> None:
    _disc(draw, centre, 0.98 * radius)
    _disc(draw, centre, 0.54 * radius, fill=0)


def _crescent(draw: ImageDraw.ImageDraw, centre: Centre, radius: float, angle: float) -> None:
    _disc(draw, centre, 0.98 * radius)
    away = angle - math.radians(25)
    inner = (centre[0] + 0.46 * radius * math.cos(away), centre[1] + 0.46 * radius * math.sin(away))
    _disc(draw, inner, 0.78 * radius, fill=0)


def _regular(points: Sequence[Centre]) -> DrawShape:
    def draw_polygon(draw: ImageDraw.ImageDraw, centre: Centre, radius: float, angle: float) -> None:
        _polygon(draw, points, centre, radius, angle)

    return draw_polygon


def _star_points() -> list[Centre]:
    lengths = (1.0, 0.46)
    turns = [math.pi * step / 5 for step in range(10)]
    return [
        (lengths[step % 2] * math.sin(turn), -lengths[step % 2] * math.cos(turn))
        for step, turn in enumerate(turns)
    ]


def _heart_points() -> list[Centre]:
    turns = [2 * math.pi * step / 60 for step in range(60)]
    return [
        (
            math.sin(turn) ** 3,
            -(13 * math.cos(turn) - 5 * math.cos(2 * turn) - 2 * math.cos(3 * turn) - math.cos(4 * turn))
            / 16.5
            - 0.12,
        )
        for turn in turns
    ]


def _cross_points() -> list[Centre]:
    arm, end = 0.32, 0.94
    quarter = [(arm, -end), (arm, -arm), (end, -arm)]
    points: list[Centre] = []
    for _ in range(4):
        points.extend(quarter)
        quarter = [(-y, x) for x, y in quarter]
    return points


_SHAPES: dict[str, DrawShape] = {
    "circle": _circle,
    "ring": _ring,
    "crescent": _crescent,
    "square": _regular([(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)]),
    "triangle": _regular([(0, -0.94), (0.96, 0.76), (-0.96, 0.76)]),
    "diamond": _regular([(0, -1), (0.7, 0), (0, 1), (-0.7, 0)]),
    "star": _regular(_star_points()),
    "heart": _regular(_heart_points()),
    "cross": _regular(_cross_points()),
}


# ------------------------------------------------------------------------------------------ grounds


def _draw_ground(scene: Scene, size: int) -> Image.Image:
    """The ground: its tone, deepened where the texture is, under a light that fades to the corners."""
    rng = np.random.default_rng(scene.seed)
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size
    x, y = axis[None, :], axis[:, None]
    pattern = _TEXTURES[scene.texture](x, y, 1.0 / size, rng)
    tone = np.asarray(GROUND[scene.tone], dtype=np.float32)
    deep = tone * np.asarray((0.845, 0.85, 0.87), dtype=np.float32)
    light = 1.03 - 0.12 * ((x - 0.45) ** 2 + (y - 0.38) ** 2)
    ground = (tone + pattern[:, :, None] * (deep - tone)) * light[:, :, None]
    return Image.fromarray(ground.clip(0, 255).astype(np.uint8))


def _soft(distance: Plane, pixel: float) -> Plane:
    """1 where a signed distance is positive, 0 where negative, smooth over about one pixel."""
    return np.clip(distance / (1.2 * pixel) + 0.5, 0, 1)


def _wave(position: Plane) -> Plane:
    """A triangle wave of period 1 whose slope is 1, so that it measures the distance to an edge."""
    return np.abs(position - np.floor(position) - 0.5) - 0.25


def _plain(x: Plane, y: Plane, pixel: float, rng: np.random.Generator) -> Plane:
    return np.full((y.size, x.size), rng.uniform(0.0, 0.12), dtype=np.float32)


def _striped(x: Plane, y: Plane, pixel: float, rng: np.random.Generator) -> Plane:
    turn, period = rng.uniform(0, math.pi), rng.uniform(0.1, 0.15)
    along = x * math.cos(turn) + y * math.sin(turn)
    return _soft(_wave(along / period + rng.uniform()) * period, pixel)


def _checked(x: Plane, y: Plane, pixel: float, rng: np.random.Generator) -> Plane:
    period = rng.uniform(0.2, 0.27)
    across = _soft(_wave(x / period + rng.uniform()) * period, pixel)
    down = _soft(_wave(y / period + rng.uniform()) * period, pixel)
    return across + down - 2 * across * down


def _dotted(x: Plane, y: Plane, pixel: float, rng: np.random.Generator) -> Plane:
    period = rng.uniform(0.11, 0.14)
    radius = 0.24 * period
    u, v = x / period + rng.uniform(), y / period + rng.uniform()
    u = u + 0.5 * (np.floor(v) % 2)
    distance = np.hypot(u - np.floor(u) - 0.5, v - np.floor(v) - 0.5) * period
    return _soft(radius - distance, pixel)


def _speckled(x: Plane, y: Plane, pixel: float, rng: np.random.Generator) -> Plane:
    """Little flecks of uneven size and depth, strewn without order."""
    size = x.size * SUPERSAMPLING
    large = Image.new("L", (size, size), 0)
    draw = ImageDraw.Draw(large)
    for centre_x, centre_y, breadth, depth in rng.uniform(size=(220, 4)).tolist():
        radius = (0.004 + 0.009 * breadth) * size
        _disc(draw, (centre_x * size, centre_y * size), radius, fill=round(90 + 165 * depth))
    return np.asarray(large.reduce(SUPERSAMPLING), dtype=np.float32) / 220


def _wavy(x: Plane, y: Plane, pixel: float, rng: np.random.Generator) -> Plane:
    period, length = rng.uniform(0.11, 0.15), rng.uniform(0.28, 0.4)
    bend = 0.03 * np.sin(2 * math.pi * (x / length + rng.uniform()))
    return _soft(_wave((y + bend) / period + rng.uniform()) * period * 0.85, pixel)


_TEXTURES: dict[str, Callable[[Plane, Plane, float, np.random.Generator], Plane]] = {
    "plain": _plain,
    "striped": _striped,
    "checked": _checked,
    "dotted": _dotted,
    "speckled": _speckled,
    "wavy": _wavy,
}
