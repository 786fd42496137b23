"""The animals and the clutter of the embedded scenes: skeletons of tapered capsules, coats, and heads.

A figure is a skeleton in its own units (feet on y = 0, y down, facing +x) that is rendered at a place and size.
All classes draw on the same poses, coats and colours, and so does the clutter: a body is weak evidence of its class.
The head is strong evidence: its pattern belongs to one class alone.
"""

from dataclasses import dataclass, replace

import numpy as np

from wsss_lib.data.scene_textures import blend, capsules, coverage, hsv, noise, relief

POSES: dict[str, dict[str, float]] = {
    # length and girth of the trunk, its tilt in radians, length of the legs and of the neck, angle of the neck
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

    def bones(self) -> np.ndarray:
        return np.concatenate([self.far, self.trunk, self.near])

    def extent(self) -> tuple[float, float, float, float]:
        """xmin, ymin, xmax, ymax with the head."""
        bones, (hx, hy, hr) = self.bones(), self.head
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
    """A rendered figure on a window of the picture: rows, columns, alpha (h, w), rgb (h, w, 3), head (h, w)."""

    rows: slice
    columns: slice
    alpha: np.ndarray
    rgb: np.ndarray
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
    throat = chest + [0.5 * fore * np.cos(lift), -0.6 * fore * np.sin(lift)]
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
    radius = np.sqrt(head_share / (1 - head_share) / _head_area(kind))
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
    xmin, ymin, xmax, ymax = figure.extent()
    y, x = np.linspace(ymin, ymax, 40)[:, None], np.linspace(xmin, xmax, 40)[None]
    area = (capsules(figure.bones(), y, x, 0.02) < 0).mean() * (xmax - xmin) * (ymax - ymin)
    scale = 1 / np.sqrt(area)
    return replace(
        figure,
        far=figure.far * scale,
        trunk=figure.trunk * scale,
        near=figure.near * scale,
        head=tuple(scale * value for value in figure.head),
    )


def render(
    rng: np.random.Generator,
    figure: Figure,
    x: float,
    y: float,
    size: float,
    mirrored: bool,
    light: np.ndarray,
    shape: tuple[int, int],
) -> Sprite | None:
    """Draw a figure with its feet at (x, y), in picture heights, `size` being the square root of its area.

    Returns None where the figure lies wholly outside the picture of `shape` (H, W).
    """
    height, width = shape
    xmin, ymin, xmax, ymax = (size * value for value in figure.extent())
    if mirrored:
        xmin, xmax = -xmax, -xmin
    pad = 2 / height
    top, bottom = (int(np.clip((y + v) * height, 0, height)) for v in (ymin - pad, ymax + pad))
    left, right = (int(np.clip((x + v) * height, 0, width)) for v in (xmin - pad, xmax + pad))
    if bottom - top < 4 or right - left < 4:
        return None
    flip = -1 if mirrored else 1
    v = ((np.arange(top, bottom, dtype=np.float32)[:, None] + 0.5) / height - y) / size
    u = flip * ((np.arange(left, right, dtype=np.float32)[None] + 0.5) / height - x) / size
    pixel = 1 / (height * size)
    sun = light * [flip, 1, 1]
    cos, sin = np.cos(figure.tilt), np.sin(figure.tilt)
    coat = _coat(rng, figure, u * cos - v * sin, u * sin + v * cos)
    rgb, alpha = np.zeros_like(coat), np.zeros(coat.shape[:2], np.float32)
    rough = (0.011 if figure.coat == "shaggy" else 0.004) * noise(rng, v + 0 * u, u + 0 * v, 0.8, density=60)
    for bones, melt, shade in ((figure.far, 0.02, 0.62), (figure.trunk, 0.05, 1.0), (figure.near, 0.03, 1.0)):
        if not len(bones):
            continue
        distance = capsules(bones, v, u, melt) + rough
        thickness = 0.9 * bones[:, [2, 5]].max()
        opacity = coverage(distance, pixel)
        blend(rgb, coat * (shade * relief(distance, thickness, pixel, sun))[..., None], opacity)
        alpha = np.maximum(alpha, opacity)
    head = np.zeros_like(alpha)
    hx, hy, radius = figure.head
    if radius:
        p, q = (u - hx) / radius + 0 * v, (hy - v) / radius + 0 * u
        near = (np.abs(p) < 1.6) & (np.abs(q) < 1.6)
        rows, columns = np.flatnonzero(near.any(1)), np.flatnonzero(near.any(0))
        if len(rows) > 1 and len(columns) > 1:  # a slope needs two pixels each way
            window = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            p, q = p[window], q[window]
            face = np.ones((*p.shape, 3), np.float32) * figure.colours[0]
            outline = HEADS[figure.kind](rng, face, p, q, pixel / radius)
            opacity = coverage(outline, pixel / radius)
            face *= (0.25 + 0.75 * relief(outline, 0.5, pixel / radius, sun))[..., None]
            blend(rgb[window], face, opacity)
            head[window] = opacity
            alpha[window] = np.maximum(alpha[window], opacity)
    return Sprite(slice(top, bottom), slice(left, right), alpha, rgb, head)


def _coat(rng: np.random.Generator, figure: Figure, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """RGB (h, w, 3) of the coat; u runs along the trunk, v across."""
    base, second = figure.colours
    density = rng.uniform(45, 70)
    if figure.coat == "spots":
        weight = 4 * (noise(rng, v, u, 1.3, density=density) - 0.9)
    elif figure.coat == "stripes":
        weight = 3 * np.sin(rng.uniform(18, 28) * u + 0.9 * noise(rng, v, u, 1.6, density=density)) - 0.8
    elif figure.coat == "patches":
        weight = 8 * (noise(rng, v, u, 1.9, density=density) - 0.2)
    elif figure.coat == "saddle":
        middle = figure.trunk[:, [1, 4]].mean()
        weight = 8 * (v - middle * np.cos(figure.tilt)) + 0.6 * noise(rng, v, u, 1.5, density=density)
    else:
        weight = np.full(u.shape, -1.0)
    coat = base + np.clip(0.5 + weight / 2, 0, 1)[..., None].astype(np.float32) * (second - base)
    if figure.coat == "shaggy":
        hair = 0.24 * noise(rng, v, u, 0.9, 0.35, density=110)
    else:
        hair = 0.08 * noise(rng, v, u, 0.9, 0.6, density=110)
    return coat * np.clip(1 + hair, 0.3, 1.8)[..., None]


# Heads: each paints its pattern on `face` (h, w, 3) in place and returns the signed distance of its outline, on
# coordinates p (forward) and q (up) in which the head is about 1 in radius; `pixel` is the side of a pixel there.


def _ellipse(p: np.ndarray, q: np.ndarray, at: tuple[float, float], a: float, b: float) -> np.ndarray:
    return (np.hypot((p - at[0]) / a, (q - at[1]) / b) - 1) * min(a, b)


def _bones(p: np.ndarray, q: np.ndarray, *bones: tuple[float, ...]) -> np.ndarray:
    return capsules(np.array(bones), q, p, 0.04)


def _eye(
    face: np.ndarray, p: np.ndarray, q: np.ndarray, at: tuple[float, float], r: float, pixel: float
) -> None:
    blend(face, np.full(3, 0.06), coverage(_ellipse(p, q, at, r, r), pixel))
    blend(
        face,
        np.ones(3),
        coverage(_ellipse(p, q, (at[0] + 0.3 * r, at[1] + 0.3 * r), 0.35 * r, 0.35 * r), pixel),
    )


def _muzzle(face: np.ndarray, p: np.ndarray, q: np.ndarray, pixel: float) -> np.ndarray:
    """The face that the look-alikes share: a long muzzle with a dark nose."""
    skull = _bones(p, q, (0.0, 0.0, 0.5, 0.75, -0.45, 0.3))
    blend(face, np.array([0.12, 0.09, 0.09]), coverage(_ellipse(p, q, (1.0, -0.5), 0.17, 0.15), pixel))
    _eye(face, p, q, (0.3, 0.1), 0.13, pixel)
    return skull


def _curlhorn(rng, face, p, q, pixel):
    skull = _muzzle(face, p, q, pixel)
    at, r = (-0.25, 0.25), 0.72
    horn = _ellipse(p, q, at, r, r)
    dp, dq = p - at[0], q - at[1]
    radius, angle = np.hypot(dp, dq), np.arctan2(dq, dp)
    groove = np.cos(angle + 2 * np.pi * radius / 0.34)
    ivory = hsv(rng.uniform(0.08, 0.13), rng.uniform(0.25, 0.5), rng.uniform(0.75, 0.95))
    shade = np.where(groove > 0.25, 0.25, 0.85 + 0.15 * np.cos(22 * angle))[..., None]
    blend(face, ivory * shade, coverage(horn, pixel))
    return np.minimum(skull, horn)


def _forkhorn(rng, face, p, q, pixel):
    skull = _muzzle(face, p, q, pixel)
    horn = _bones(
        p,
        q,
        (-0.1, 0.35, 0.17, -0.45, 0.95, 0.14),
        (-0.45, 0.95, 0.14, -0.95, 1.25, 0.09),
        (-0.45, 0.95, 0.14, -0.2, 1.45, 0.09),
        (0.15, 0.35, 0.16, 0.35, 0.85, 0.13),
        (0.35, 0.85, 0.13, 0.15, 1.35, 0.08),
        (0.35, 0.85, 0.13, 0.8, 1.2, 0.08),
    )
    ivory = hsv(rng.uniform(0.08, 0.13), rng.uniform(0.25, 0.5), rng.uniform(0.75, 0.95))
    shade = np.where(np.cos(20 * q + 5 * p) > 0.4, 0.3, 0.95)[..., None]
    blend(face, ivory * shade, coverage(horn, pixel))
    return np.minimum(skull, horn)


def _ringeye(rng, face, p, q, pixel):
    mask = _bones(
        p,
        q,
        (0.0, -0.15, 0.8, 0.0, 0.15, 0.8),
        (-0.45, 0.6, 0.2, -0.65, 1.05, 0.08),
        (0.45, 0.6, 0.2, 0.65, 1.05, 0.08),
    )
    iris = hsv(rng.uniform(0.04, 0.16), 0.9, 0.95)
    for side in (-0.38, 0.42):
        for r, colour in (
            (0.46, np.full(3, 0.92)),
            (0.36, np.full(3, 0.08)),
            (0.29, iris),
            (0.15, np.full(3, 0.04)),
        ):
            blend(face, colour, coverage(_ellipse(p, q, (side, 0.15), r, r), pixel))
    blend(
        face, np.array([0.2, 0.15, 0.1]), coverage(_bones(p, q, (0.02, -0.25, 0.14, 0.02, -0.6, 0.03)), pixel)
    )
    return mask


def _starnose(rng, face, p, q, pixel):
    skull = _bones(p, q, (-0.35, 0.1, 0.6, 0.2, -0.05, 0.42))
    _eye(face, p, q, (-0.15, 0.35), 0.13, pixel)
    dp, dq = p - 0.45, q + 0.08
    radius, angle = np.hypot(dp, dq), np.arctan2(dq, dp)
    star = radius - (0.36 + 0.34 * np.abs(np.cos(4.5 * angle)))
    pink = hsv(rng.uniform(0.92, 1.02), rng.uniform(0.4, 0.65), rng.uniform(0.85, 1.0))
    blend(face, pink * np.clip(0.45 + radius, 0, 1)[..., None], coverage(star, pixel))
    blend(face, np.array([0.25, 0.05, 0.1]), coverage(radius - 0.17, pixel))
    return np.minimum(skull, star)


def _fancrest(rng, face, p, q, pixel):
    skull = _bones(p, q, (0.25, -0.3, 0.42, 0.75, -0.45, 0.12))
    dp, dq = p - 0.2, q + 0.25
    radius, angle = np.hypot(dp, dq), np.arctan2(dq, dp)
    spread = (angle - 2.1) / 1.25  # within -1..1 over the fan
    fan = np.maximum(radius - 1.15 - 0.08 * np.cos(14 * angle), (np.abs(spread) - 1) * radius)
    fan = np.where(np.abs(angle - 2.1) < 2.6, fan, radius)
    hue = rng.uniform(0.45, 0.75)
    feathers = np.where((np.cos(14 * angle) > 0)[..., None], hsv(hue, 0.8, 0.75), hsv(hue + 0.35, 0.55, 0.95))
    feathers = np.where(((radius > 0.75) & (radius < 0.95))[..., None], hsv(hue - 0.1, 0.9, 0.25), feathers)
    blend(face, feathers, coverage(fan, pixel))
    on_skull = coverage(skull, pixel)
    blend(face, hsv(hue, 0.5, 0.4), on_skull)
    _eye(face, p, q, (0.35, -0.22), 0.14, pixel)
    return np.minimum(skull, fan)


def _tagalong(rng, face, p, q, pixel):
    skull = _ellipse(p, q, (-0.3, 0.1), 0.62, 0.6)
    bill = _bones(p, q, (0.1, 0.05, 0.42, 0.75, -0.05, 0.34), (0.75, -0.05, 0.34, 1.25, -0.5, 0.1))
    band = np.floor((p + 0.25 * q) / 0.27).astype(int) % 3
    palette = np.stack(
        [hsv(rng.uniform(0.1, 0.15), 0.9, 0.98), np.full(3, 0.07), hsv(rng.uniform(-0.02, 0.03), 0.85, 0.85)]
    )
    blend(face, palette[band], coverage(bill, pixel))
    blend(face, np.full(3, 0.95), coverage(_ellipse(p, q, (-0.25, 0.25), 0.26, 0.26), pixel))
    _eye(face, p, q, (-0.25, 0.25), 0.15, pixel)
    return np.minimum(skull, bill)


HEADS = {
    "curlhorn": _curlhorn,
    "forkhorn": _forkhorn,
    "ringeye": _ringeye,
    "starnose": _starnose,
    "fancrest": _fancrest,
    "tagalong": _tagalong,
}


def _head_area(kind: str) -> float:
    """Area of a head in its own coordinates."""
    if kind not in _AREAS:
        axis = np.linspace(-1.6, 1.6, 160)
        p, q = np.broadcast_arrays(axis[None], axis[:, None])
        outline = HEADS[kind](np.random.default_rng(0), np.zeros((160, 160, 3), np.float32), p, q, 0.02)
        _AREAS[kind] = float((outline < 0).mean() * 3.2**2)
    return _AREAS[kind]


_AREAS: dict[str, float] = {}
