"""The animals and the clutter of the embedded scenes: skeletons of tapered capsules, coats, and heads.

A figure is a skeleton in its own units (feet on y = 0, y down, facing +x), rendered at a place and size. All
classes draw on the same poses and coats, and so does the clutter, if in paler colours: only its hue makes a
body evidence of its class. The head is strong evidence: its pattern belongs to one class alone.
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from wsss_lib.data.scenes.heads import HEADS, head_area
from wsss_lib.data.scenes.textures import blend, capsules, coverage, noise, relief

POSES: dict[str, dict[str, float]] = {
    # length and girth of the trunk, its tilt (radians), length of legs and neck, angle of the neck, tail
    "grazer": {
        "length": 1.0,
        "girth": 0.29,
        "tilt": 0.0,
        "legs": 0.45,
        "neck": 0.38,
        "lift": 0.1,
        "tail": 0.5,
    },
    "strider": {
        "length": 0.75,
        "girth": 0.25,
        "tilt": 0.15,
        "legs": 0.75,
        "neck": 0.65,
        "lift": 1.1,
        "tail": 0.4,
    },
    "sitter": {
        "length": 0.75,
        "girth": 0.27,
        "tilt": 0.95,
        "legs": 0.12,
        "neck": 0.15,
        "lift": 1.1,
        "tail": 0.8,
    },
    "crawler": {
        "length": 1.6,
        "girth": 0.2,
        "tilt": 0.03,
        "legs": 0.14,
        "neck": 0.2,
        "lift": 0.3,
        "tail": 1.0,
    },
    "roundling": {
        "length": 0.3,
        "girth": 0.48,
        "tilt": 0.0,
        "legs": 0.2,
        "neck": 0.05,
        "lift": 0.4,
        "tail": 0.2,
    },
    "biped": {"length": 0.6, "girth": 0.27, "tilt": 0.6, "legs": 0.45, "neck": 0.3, "lift": 1.0, "tail": 0.6},
}
COATS = ("plain", "spots", "stripes", "patches", "saddle", "shaggy")


@dataclass(frozen=True)
class Figure:
    """A skeleton and its coat. `far`, `trunk` and `near` are capsules (n, 6), drawn in this order."""

    far: np.ndarray
    trunk: np.ndarray
    near: np.ndarray
    head: tuple[float, float, float]  # x, y and radius; the radius is 0 where there is no head
    tilt: float
    coat: str
    colours: tuple[np.ndarray, np.ndarray]
    kind: str | None = None  # class name, None for clutter

    @cached_property
    def bones(self) -> np.ndarray:
        return np.concatenate([self.far, self.trunk, self.near])

    @cached_property
    def extent(self) -> tuple[float, float, float, float]:
        """xmin, ymin, xmax, ymax with the head."""
        bones, (hx, hy, hr) = self.bones, self.head
        x = np.concatenate([bones[:, [0, 3]] - bones[:, [2, 5]], bones[:, [0, 3]] + bones[:, [2, 5]]]).ravel()
        y = np.concatenate([bones[:, [1, 4]] - bones[:, [2, 5]], bones[:, [1, 4]] + bones[:, [2, 5]]]).ravel()
        reach = 1.3 * hr
        return (
            min(x.min(), hx - reach),
            min(y.min(), hy - reach),
            max(x.max(), hx + reach),
            max(y.max(), hy + reach),
        )


@dataclass
class Sprite:
    """A figure on a window of the picture: alpha (h, w), rgb (h, w, 3), the head's alpha (h, w)."""

    rows: slice
    columns: slice
    alpha: np.ndarray
    rgb: np.ndarray | None
    head: np.ndarray


def animal(
    rng: np.random.Generator,
    kind: str,
    pose: str,
    coat: str,
    colours: tuple[np.ndarray, np.ndarray],
    stretch: float = 1.0,
    head_share: float = 0.08,
) -> Figure:
    """An animal of unit area with its head.

    Args:
        kind: class, a key of `HEADS`.
        pose: a key of `POSES`.
        coat: one of `COATS`, in `colours` (two RGB triples).
        stretch: above 1 longer and leaner, below 1 shorter and stouter.
        head_share: area of the head over the area of the whole animal.
    """
    p = {name: value * rng.uniform(0.88, 1.12) for name, value in POSES[pose].items()}
    length, girth = p["length"] * stretch, p["girth"] / stretch**0.5
    tilt = p["tilt"] + rng.normal(0, 0.06)
    along = np.array([np.cos(tilt), -np.sin(tilt)])
    rump = np.array([-0.5 * along[0] * length, -p["legs"] - girth * (0.9 if tilt < 0.5 else 0.8)])
    chest = rump + along * length
    fore, hind = girth * rng.uniform(0.8, 1.0), girth * rng.uniform(0.9, 1.1)
    middle, belly = (rump + chest) / 2 + [0, 0.12 * girth], girth * rng.uniform(0.95, 1.15)
    trunk = [[*rump, hind, *middle, belly], [*middle, belly, *chest, fore]]
    lift = p["lift"] + rng.normal(0, 0.2)
    throat = chest + np.array([0.5 * fore * np.cos(lift), -0.6 * fore * np.sin(lift)])
    nape = throat + p["neck"] * np.array([np.cos(lift), -np.sin(lift)])
    if p["neck"] > 0.1:
        trunk.append([*throat, 0.62 * fore, *nape, 0.1 + 0.2 * girth])
    root = rump - along * 0.8 * hind
    droop = rng.uniform(-0.5, 1.2)
    mid_tail = root + p["tail"] * 0.5 * np.array([-np.cos(droop), np.sin(droop)])
    tip = mid_tail + p["tail"] * 0.5 * np.array([-np.cos(droop - 0.7), np.sin(droop - 0.7)])
    thick = rng.uniform(0.04, 0.09)
    mid_tail[1], tip[1] = min(mid_tail[1], -thick), min(tip[1], -thick)
    trunk += [[*root, 0.3 * girth, *mid_tail, thick], [*mid_tail, thick, *tip, 0.8 * thick]]
    far, near = [], []
    thick = rng.uniform(0.055, 0.085)
    hips = [rump, chest] if pose != "biped" else [(rump + middle) / 2]
    if pose == "crawler":
        hips = [rump, middle, chest]
    for hip in hips:
        swing = rng.normal(0, 0.1)
        for legs, offset, lift_foot in ((far, 0.12, 0.05), (near, -0.06, 0.0)):
            x = hip[0] + offset * girth / 0.3 + (swing if legs is near else -swing)
            foot = np.array([x, -thick * 0.7 - lift_foot])
            knee = (hip + foot) / 2 + [rng.normal(0.02, 0.04), 0.05]
            legs += [[*hip, 1.7 * thick, *knee, 1.1 * thick], [*knee, 1.1 * thick, *foot, 0.8 * thick]]
            legs.append([*foot, 0.8 * thick, foot[0] + 0.07, foot[1] + 0.1 * thick, 0.7 * thick])
    if pose == "sitter":  # the haunch
        near.append([rump[0] + 0.05, -0.8 * girth, 0.75 * girth, rump[0] + 0.25, -0.5 * girth, 0.5 * girth])
    figure = Figure(
        *(np.array(bones) for bones in (far, trunk, near)), (*nape, 0.0), tilt, coat, colours, kind
    )
    figure = _unit_area(figure)
    radius = math.sqrt(head_share / (1 - head_share) / head_area(kind))
    return replace(figure, head=(*figure.head[:2], radius))


def clutter(rng: np.random.Generator, form: str, coat: str, colours: tuple[np.ndarray, np.ndarray]) -> Figure:
    """A thing of unit area without a head: "rock", "bush", "log", "bench" or "post"."""
    if form in ("rock", "bush"):
        lobes = 3 if form == "rock" else 7
        x, r = rng.uniform(-0.6, 0.6, lobes), rng.uniform(0.25, 0.5, lobes)
        y = -r * (0.75 if form == "rock" else rng.uniform(0.9, 2.4, lobes))
        trunk = np.stack([x, y, r, x * 0.6, y * 0.8, r], 1)
    elif form == "log":
        r, rise = rng.uniform(0.2, 0.32), rng.uniform(-0.1, 0.3)
        trunk = np.array([[-0.8, -r, r, 0.7, -r - max(rise, 0), 0.8 * r]])
    elif form == "bench":
        r, h, w = rng.uniform(0.15, 0.3), rng.uniform(0.25, 0.6), rng.uniform(0.4, 0.8)
        trunk = np.array([[-w, -h - r, r, w, -h - r * rng.uniform(0.9, 1.3), r]])
    elif form == "post":
        r = rng.uniform(0.2, 0.35)
        trunk = np.array([[0, -r, r, rng.normal(0, 0.1), -rng.uniform(1.2, 2.0), r * rng.uniform(0.7, 1.2)]])
    else:
        raise ValueError(f"Unknown clutter {form!r}; use rock, bush, log, bench or post.")
    legs = np.zeros((0, 6))
    if form == "bench":
        legs = np.array([[s * w, -h, 0.07, s * w * 1.05, -0.05, 0.05] for s in (-0.9, 0.9)])
    far = legs * [0.8, 1, 1, 0.8, 1, 1] - [0, 0.06, 0, 0, 0.06, 0]
    return _unit_area(Figure(far, trunk, legs, (0.0, -0.5, 0.0), 0.0, coat, colours))


def _unit_area(figure: Figure) -> Figure:
    """Scale the skeleton so that its outline covers an area of 1 (measured on a coarse grid)."""
    xmin, ymin, xmax, ymax = figure.extent
    y, x = np.linspace(ymin, ymax, 32)[:, None], np.linspace(xmin, xmax, 32)[None]
    area = (capsules(figure.bones, y, x, 0.02) < 0).mean() * (xmax - xmin) * (ymax - ymin)
    scale = 1 / np.sqrt(area)
    return replace(
        figure,
        far=figure.far * scale,
        trunk=figure.trunk * scale,
        near=figure.near * scale,
        head=tuple(float(scale * value) for value in figure.head),
    )


@dataclass
class Placed:
    """A figure with its feet at (x, y) in picture heights; `size` is the square root of its area.

    The nearer hides the farther; `owner` is the number of the object, 0 for clutter.
    """

    figure: Figure
    mirrored: bool
    x: float = 0.0
    y: float = 0.0
    size: float = 0.0
    near: float = 0.0
    owner: int = 0

    def head(self) -> tuple[float, float]:
        """Where the head is in the picture: x, y."""
        x, y, _ = self.figure.head
        return self.x + (-1 if self.mirrored else 1) * self.size * x, self.y + self.size * y

    def crown(self) -> float:
        """How far the head reaches above the feet."""
        return self.size * (0.8 * self.figure.head[2] - self.figure.head[1])

    def grid(self, shape: tuple[int, int]) -> tuple[slice, slice, np.ndarray, np.ndarray] | None:
        """The window it fills of a picture (H, W), and there its own coordinates v (h, 1) and u (1, w).

        None where (nearly) all of it lies outside.
        """
        height, width = shape
        xmin, ymin, xmax, ymax = self.figure.extent
        if self.mirrored:
            xmin, xmax = -xmax, -xmin
        top, bottom = (min(max(round((self.y + self.size * v) * height), 0), height) for v in (ymin, ymax))
        left, right = (min(max(round((self.x + self.size * v) * height), 0), width) for v in (xmin, xmax))
        if bottom - top < 4 or right - left < 4:
            return None
        v = ((np.arange(top, bottom, dtype=np.float32)[:, None] + 0.5) / height - self.y) / self.size
        u = ((np.arange(left, right, dtype=np.float32)[None] + 0.5) / height - self.x) / self.size
        return slice(top, bottom), slice(left, right), v, -u if self.mirrored else u


def silhouette(thing: Placed, shape: tuple[int, int]) -> Sprite | None:
    """Only the outline of a figure in a picture (H, W), its head a disc; quick, to try a composition."""
    grid = thing.grid(shape)
    if grid is None:
        return None
    rows, columns, v, u = grid
    hx, hy, radius = thing.figure.head
    head = np.sqrt((u - hx) ** 2 + (v - hy) ** 2) < radius
    body = capsules(thing.figure.bones, v, u, 0.03) < 0
    return Sprite(rows, columns, (head | body).astype(np.float32), None, head.astype(np.float32))


def render(
    rng: np.random.Generator, thing: Placed, light: np.ndarray, shape: tuple[int, int]
) -> Sprite | None:
    """Draw a figure in a picture (H, W); `light` (3,) is a unit vector towards the light: x, y down, z out.

    Returns None where (nearly) all of it lies outside the picture.
    """
    grid = thing.grid(shape)
    if grid is None:
        return None
    rows, columns, v, u = grid
    figure, pixel = thing.figure, 1 / (shape[0] * thing.size)
    sun = light * np.array([-1 if thing.mirrored else 1, 1, 1], np.float32)
    cos, sin = math.cos(figure.tilt), math.sin(figure.tilt)
    coat = _coat(rng, figure, u * cos - v * sin, u * sin + v * cos)
    rgb, alpha = np.zeros_like(coat), np.zeros(coat.shape[:2], np.float32)
    rough = (0.011 if figure.coat == "shaggy" else 0.004) * noise(rng, v, u, 0.8, density=240, finest=0.15)
    for bones, melt, shade in ((figure.far, 0.02, 0.62), (figure.trunk, 0.05, 1.0), (figure.near, 0.03, 1.0)):
        low, high = np.minimum(bones[:, :2], bones[:, 3:5]), np.maximum(bones[:, :2], bones[:, 3:5])
        girth = float(bones[:, [2, 5]].max(initial=0))
        window = _window(
            v, u, low.min(0, initial=np.inf) - girth - melt, high.max(0, initial=-np.inf) + girth + melt
        )
        if window is None:
            continue
        distance = capsules(bones, v[window[0]], u[:, window[1]], melt) + rough[window]
        opacity = coverage(distance, pixel)
        blend(
            rgb[window],
            coat[window] * (shade * relief(distance, 0.9 * girth, pixel, sun))[..., None],
            opacity,
        )
        alpha[window] = np.maximum(alpha[window], opacity)
    head = np.zeros_like(alpha)
    hx, hy, radius = figure.head
    window = _window(v, u, np.array([hx, hy]) - 1.6 * radius, np.array([hx, hy]) + 1.6 * radius)
    if radius and window is not None:
        p, q = np.broadcast_arrays((u[:, window[1]] - hx) / radius, (hy - v[window[0]]) / radius)
        face = np.ones((*p.shape, 3), np.float32) * figure.colours[0]
        outline = HEADS[figure.kind](rng, face, p, q, pixel / radius)
        opacity = coverage(outline, pixel / radius)
        face *= (0.25 + 0.75 * relief(outline, 0.5, pixel / radius, sun))[..., None]
        blend(rgb[window], face, opacity)
        head[window] = opacity
        alpha[window] = np.maximum(alpha[window], opacity)
    return Sprite(rows, columns, alpha, rgb, head)


def _window(v: np.ndarray, u: np.ndarray, low: np.ndarray, high: np.ndarray) -> tuple[slice, slice] | None:
    """Rows and columns of the patch between two corners (x, y); None where too small for a slope."""
    rows = np.flatnonzero((v[:, 0] > low[1]) & (v[:, 0] < high[1]))
    columns = np.flatnonzero((u[0] > low[0]) & (u[0] < high[0]))
    if len(rows) < 2 or len(columns) < 2:
        return None
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _coat(rng: np.random.Generator, figure: Figure, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """RGB (h, w, 3) of the coat; u runs along the trunk, v across."""
    base, second = figure.colours
    scale = {"density": rng.uniform(180, 280), "finest": 0.12}
    if figure.coat == "spots":
        weight = 4 * (noise(rng, v, u, 1.3, **scale) - 0.9)
    elif figure.coat == "stripes":
        weight = 3 * np.sin(rng.uniform(18, 28) * u + 0.9 * noise(rng, v, u, 1.6, **scale)) - 0.8
    elif figure.coat == "patches":
        weight = 8 * (noise(rng, v, u, 1.9, **scale) - 0.2)
    elif figure.coat == "saddle":
        middle = float(figure.trunk[:, [1, 4]].mean())
        weight = 8 * (v - middle * math.cos(figure.tilt)) + 0.6 * noise(rng, v, u, 1.5, **scale)
    else:
        weight = np.full(u.shape, -1.0)
    coat = base + np.clip(0.5 + weight / 2, 0, 1)[..., None].astype(np.float32) * (second - base)
    if figure.coat == "shaggy":
        hair = 0.24 * noise(rng, v, u, 0.9, 0.35, density=240, finest=0.25)
    else:
        hair = 0.08 * noise(rng, v, u, 0.9, 0.6, density=240, finest=0.25)
    return coat * np.clip(1 + hair, 0.3, 1.8)[..., None]
