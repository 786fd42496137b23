"""The heads of the animals, one pattern a class: the discriminative parts of the embedded scenes.

Each head paints its pattern on `face` (h, w, 3) in place and returns the signed distance of its outline, on
coordinates p (forward) and q (up) in which the head is about 1 in radius and a pixel is `pixel` wide. `face`
comes in the colour of the coat.
"""

from functools import cache

import numpy as np

from wsss_lib.data.scenes.textures import blend, capsules, coverage, hsv


def _ellipse(p: np.ndarray, q: np.ndarray, at: tuple[float, float], a: float, b: float) -> np.ndarray:
    return (np.sqrt(((p - at[0]) / a) ** 2 + ((q - at[1]) / b) ** 2) - 1) * min(a, b)


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


@cache
def head_area(kind: str) -> float:
    """Area of a head in its own coordinates."""
    axis = np.linspace(-1.6, 1.6, 160)
    p, q = np.broadcast_arrays(axis[None], axis[:, None])
    outline = HEADS[kind](np.random.default_rng(0), np.zeros((160, 160, 3), np.float32), p, q, 0.02)
    return float((outline < 0).mean() * 3.2**2)
