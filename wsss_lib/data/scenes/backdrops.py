"""The places of the embedded scenes: meadow, shore, woodland, room and street, with horizon and ground."""

from collections.abc import Callable

import numpy as np

from wsss_lib.data.scenes.textures import blend, capsules, coverage, hsv, noise

Coordinates = tuple[np.ndarray, np.ndarray]


def draw_backdrop(
    rng: np.random.Generator, context: str, y: np.ndarray, x: np.ndarray, horizon: float
) -> np.ndarray:
    """An empty place, RGB (h, w, 3) float32 in about 0..1.

    Args:
        context: a key of `CONTEXTS`.
        y: (h, 1) and x: (1, w), coordinates in picture heights, y down.
        horizon: height of the horizon; the ground lies below.
    """
    image = np.empty((y.shape[0], x.shape[1], 3), np.float32)
    depth = np.maximum(y - horizon, 0.02)
    # A point of the ground plane at (across, away) is seen at depth 1 / away: perspective in two lines.
    ground = (0.35 / depth, (x - 0.5) * 0.45 / depth)
    CONTEXTS[context](rng, image, y, x, horizon, ground)
    image *= 1 + 0.03 * noise(rng, y, x, beta=0.8)[..., None]
    return image


def _gradient(image: np.ndarray, y: np.ndarray, top: np.ndarray, bottom: np.ndarray, end: float) -> None:
    image[:] = top + np.clip(y / end, 0, 1)[..., None] * (bottom - top)


def _mottled(
    rng: np.random.Generator, at: Coordinates, dark: np.ndarray, light: np.ndarray, **spectrum: float
) -> np.ndarray:
    weight = np.clip(0.5 + 0.28 * noise(rng, *at, **spectrum), 0, 1)[..., None]
    return dark + weight * (light - dark)


def _ridge(rng: np.random.Generator, x: np.ndarray, height: float, roughness: float) -> np.ndarray:
    """A skyline (1, w): how far hills or tree tops reach above their foot."""
    return height * (1 + roughness * noise(rng, 0 * x, x, beta=1.6, density=120))


def _sky(rng: np.random.Generator, image: np.ndarray, y: np.ndarray, x: np.ndarray, horizon: float) -> None:
    blue = hsv(rng.uniform(0.53, 0.62), rng.uniform(0.15, 0.6), rng.uniform(0.75, 1.0))
    _gradient(image, y, blue, hsv(rng.uniform(0.05, 0.6), 0.12, rng.uniform(0.85, 1.0)), horizon + 0.1)
    clouds = noise(rng, 2 * y, x, beta=1.7, density=150)
    blend(
        image,
        hsv(0.1, 0.05, rng.uniform(0.85, 1.0)),
        np.clip(0.55 * clouds - rng.uniform(-0.1, 0.6), 0, 0.85),
    )


def _meadow(rng, image, y, x, horizon, ground) -> None:
    _sky(rng, image, y, x, horizon)
    pixel = y[1, 0] - y[0, 0]
    hue = rng.uniform(0.15, 0.33)
    for height, haze in ((rng.uniform(0.06, 0.16), 0.55), (rng.uniform(0.02, 0.07), 0.3)):
        hills = horizon - y - _ridge(rng, x, height, 0.25)
        hill = (1 - haze) * hsv(hue + 0.03, 0.5, 0.4) + haze * image[0].mean(0)
        shade = 1 + 0.1 * noise(rng, y, x, beta=0.9)[..., None]
        blend(image, hill * shade, coverage(hills, pixel))
    saturation, value = rng.uniform(0.3, 0.65), rng.uniform(0.4, 0.75)
    grass = _mottled(
        rng, ground, hsv(hue + 0.03, saturation, 0.6 * value), hsv(hue, saturation, value), beta=0.9
    )
    blades = noise(rng, y, x, beta=0.8, stretch=0.25)
    grass *= 1 + (0.14 * np.clip((y - horizon) / 0.4, 0.2, 1) * blades)[..., None]
    blend(image, grass, coverage(horizon - y, pixel))
    if rng.random() < 0.5:
        flowers = noise(rng, *ground, beta=0.2, density=90) > rng.uniform(2.2, 2.8)
        blend(image, hsv(rng.random(), rng.uniform(0.2, 0.7), 0.95), 0.8 * flowers * (y > horizon))


def _shore(rng, image, y, x, horizon, ground) -> None:
    _sky(rng, image, y, x, horizon)
    pixel = y[1, 0] - y[0, 0]
    hue = rng.uniform(0.47, 0.6)
    sea = _mottled(
        rng,
        (ground[0] * 2.0, ground[1] * 0.5),
        hsv(hue, 0.6, 0.4),
        hsv(hue - 0.03, 0.4, 0.75),
        beta=0.9,
        stretch=4.0,
    )
    blend(image, sea, coverage(horizon - y, pixel))
    waterline = horizon + rng.uniform(0.06, 0.35) + rng.uniform(-0.12, 0.12) * x
    waterline = waterline + 0.012 * noise(rng, 0 * x, x, beta=1.4)
    hue, value = rng.uniform(0.06, 0.13), rng.uniform(0.65, 0.9)
    sand = _mottled(rng, ground, hsv(hue, 0.4, 0.8 * value), hsv(hue, 0.3, value), beta=0.7)
    wet = np.clip((y - waterline) / 0.06, 0, 1)[..., None]
    blend(image, sand * (0.7 + 0.3 * wet), coverage(waterline - y, pixel))
    blend(image, np.full(3, 0.95), 0.8 * np.exp(-(((y - waterline) / 0.012) ** 2)))


def _woodland(rng, image, y, x, horizon, ground) -> None:
    pixel = y[1, 0] - y[0, 0]
    hue = rng.uniform(0.1, 0.36)
    flat = (y, x)
    image[:] = _mottled(rng, flat, hsv(hue, 0.5, 0.15), hsv(hue, 0.4, rng.uniform(0.4, 0.7)), beta=1.1)
    image += 0.12 * np.clip(noise(rng, *flat, beta=0.3), 0, 3)[..., None] * hsv(hue - 0.03, 0.4, 1)
    for near in np.sort(rng.uniform(0.15, 1, rng.integers(4, 9))).tolist():
        foot, at, radius = horizon + 0.12 * near, rng.uniform(-0.1, x.max() + 0.1), 0.012 + 0.05 * near**2
        lean = rng.uniform(-0.08, 0.08)
        strip = np.abs(x[0] - at - lean / 2) < abs(lean) / 2 + 2 * radius
        if strip.any():
            trunk = capsules(
                np.array([[at, foot, radius * 1.2, at + lean, -0.2, 0.8 * radius]]), y, x[:, strip], 0.01
            )
            rounded = 0.65 + 0.5 * np.clip(-trunk / radius, 0, 1)
            rounded += 0.15 * noise(rng, y, x[:, strip], beta=0.9, stretch=0.15)
            bark = hsv(rng.uniform(0.04, 0.12), 0.35, 0.18 + 0.3 * near) * rounded[..., None]
            columns = slice(*np.flatnonzero(strip)[[0, -1]] + [0, 1])
            blend(image[:, columns], bark, coverage(trunk, pixel))
    hue = rng.uniform(0.05, 0.28)
    litter = _mottled(rng, ground, hsv(hue, 0.5, 0.22), hsv(hue, 0.45, rng.uniform(0.4, 0.6)), beta=0.6)
    edge = horizon + 0.01 * noise(rng, 0 * x, x, beta=1.0)
    blend(image, litter, coverage(edge - y, pixel))


def _room(rng, image, y, x, horizon, ground) -> None:
    pixel = y[1, 0] - y[0, 0]
    hue, saturation, value = rng.random(), rng.uniform(0.05, 0.4), rng.uniform(0.55, 0.95)
    wall, print_ = (
        hsv(hue, saturation, value),
        hsv(hue + rng.uniform(-0.1, 0.1), saturation + 0.1, 0.88 * value),
    )
    image[:] = (
        wall * (0.85 + 0.2 * np.exp(-(((x - rng.uniform(0, 1.2)) / 0.7) ** 2) - (y / 0.8) ** 2))[..., None]
    )
    pitch = rng.uniform(0.06, 0.14)
    pattern = rng.integers(3)
    if pattern == 0:
        blend(image, print_, coverage(np.abs((x / pitch) % 1 - 0.5) * pitch - 0.25 * pitch, pixel))
    elif pattern == 1:
        row = np.floor(y / pitch)
        dots = np.hypot(((x / pitch + 0.5 * (row % 2)) % 1 - 0.5), (y / pitch) % 1 - 0.5) * pitch
        blend(image, print_, coverage(dots - 0.25 * pitch, pixel))
    for _ in range(rng.integers(0, 3)):  # windows and pictures
        cx, cy, half_w, half_h = (
            rng.uniform(0.1, 1.1),
            horizon * rng.uniform(0.25, 0.6),
            *rng.uniform(0.06, 0.16, 2).tolist(),
        )
        frame = np.maximum(np.abs(x - cx) - half_w, np.abs(y - cy) - half_h)
        blend(image, hsv(rng.uniform(0.05, 0.12), 0.5, rng.uniform(0.2, 0.9)), coverage(frame, pixel))
        pane = _mottled(rng, (y, x), hsv(rng.random(), 0.4, 0.4), hsv(rng.random(), 0.3, 0.95), beta=1.7)
        blend(image, pane, coverage(frame + 0.018, pixel))
    hue, value = rng.uniform(0.03, 0.12), rng.uniform(0.35, 0.75)
    floor = _mottled(
        rng, (ground[0], ground[1] * 4), hsv(hue, 0.5, 0.85 * value), hsv(hue, 0.4, value), beta=1.2
    )
    tiles = rng.random() < 0.4
    plank = np.floor(ground[1] * 5)
    seams = np.abs((ground[1] * 5) % 1 - 0.5) > 0.47
    if tiles:
        checks = (plank + np.floor(ground[0] * 5)) % 2
        floor *= (0.75 + 0.35 * checks)[..., None]
    else:
        floor *= (0.92 + 0.16 * (np.sin(plank * 12.9) * 43758.5 % 1) - 0.25 * seams)[..., None]
    blend(image, floor, coverage(horizon - y, pixel))
    board = coverage(np.abs(y - horizon + 0.015) - 0.018, pixel)
    blend(image, hsv(hue, 0.1, rng.uniform(0.5, 1)), board)
    if rng.random() < 0.5:  # a rug
        cx, cy = rng.uniform(0.3, 0.9), horizon + (1 - horizon) * rng.uniform(0.4, 0.8)
        rug = (np.hypot((x - cx) / 0.5, (y - cy) / (0.22 * (1 - horizon) + 0.05)) - 1) * 0.2
        weave = 1 + 0.1 * noise(rng, y, x, beta=0.2)[..., None]
        colour, border = hsv(rng.random(), 0.5, rng.uniform(0.3, 0.8)), hsv(rng.random(), 0.3, 0.8)
        inside = coverage(rug, pixel) * (y > horizon)
        blend(image, border * weave, inside)
        blend(image, colour * weave, inside * coverage(np.abs(rug + 0.05) - 0.03, pixel))


def _street(rng, image, y, x, horizon, ground) -> None:
    pixel = y[1, 0] - y[0, 0]
    _sky(rng, image, y, x, horizon)
    left = rng.uniform(-0.4, 0)
    while left < x.max():
        width, roof = rng.uniform(0.3, 0.7), rng.uniform(-0.3, 0.5 * horizon)
        front = x[(x > left) & (x < left + width)][None]
        start = int((x < left).sum())
        view = image[:, start : start + front.size]
        wall = hsv(rng.choice([0.02, 0.06, 0.1, 0.13, 0.55]), rng.uniform(0.05, 0.5), rng.uniform(0.35, 0.85))
        brick = 1 + 0.08 * noise(rng, y, front, beta=0.5, stretch=3.0)[..., None]
        blend(view, wall * brick, coverage(roof - y, pixel))
        columns, storey = int(rng.integers(2, 5)), rng.uniform(0.12, 0.2)
        u, v = ((front - left) / width * columns) % 1 - 0.5, ((y - roof) / storey) % 1 - 0.5
        pane = np.maximum((np.abs(u) - 0.24) * width / columns, (np.abs(v) - 0.3) * storey)
        glass = hsv(rng.uniform(0.5, 0.65), 0.3, rng.uniform(0.15, 0.6)) * (1 - 0.4 * v)[..., None]
        blend(view, glass, coverage(np.maximum(pane, roof + 0.02 - y), pixel))
        left += width
    value = rng.uniform(0.3, 0.6)
    asphalt = _mottled(rng, ground, hsv(0.6, 0.05, 0.8 * value), hsv(0.1, 0.06, value), beta=0.6)
    blend(image, asphalt, coverage(horizon - y, pixel))
    kerb = horizon + rng.uniform(0.12, 0.3)
    slabs = 1 - 0.2 * (
        (np.abs((ground[1] * 3) % 1 - 0.5) > 0.47) | (np.abs((ground[0] * 3) % 1 - 0.5) > 0.45)
    )
    pavement = hsv(rng.uniform(0.05, 0.15), 0.08, rng.uniform(0.5, 0.8)) * slabs[..., None]
    blend(
        image,
        pavement * (1 + 0.06 * noise(rng, *ground, beta=0.6)[..., None]),
        (y > horizon) & (y < kerb),
    )
    blend(image, np.full(3, 0.75 * value), coverage(np.abs(y - kerb) - 0.008, pixel))
    if rng.random() < 0.7:
        line, dash = kerb + rng.uniform(0.1, 0.3), ((x + rng.random()) / 0.4) % 1 < rng.choice([0.6, 1.0])
        blend(image, np.full(3, 0.85), 0.8 * dash * coverage(np.abs(y - line) - 0.014, pixel))


CONTEXTS: dict[str, Callable[..., None]] = {
    "meadow": _meadow,
    "shore": _shore,
    "woodland": _woodland,
    "room": _room,
    "street": _street,
}
"""Each draws over (rng, image, y, x, horizon, ground coordinates) in place."""
