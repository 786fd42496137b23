"""Noise, distance fields, colours and light: what every drawn thing of the embedded scenes is made of.

Lengths are in picture heights and y points down, so a scene looks the same at every resolution. `y` and `x`
are arrays of coordinates that broadcast to the (h, w) of the patch being drawn.
"""

from colorsys import hsv_to_rgb
from functools import cache

import numpy as np

TEXELS = 512
"""Side of the periodic noise tiles; a power of two, so that wrapping around is a bit mask."""


@cache
def noise_tile(beta: float, stretch: float, finest: float) -> np.ndarray:
    """A periodic (TEXELS, TEXELS) tile of 1/f**beta noise with mean 0 and deviation 1, always the same.

    Natural images have beta near 1; larger is cloudier. `stretch` > 1 draws the noise out along x (waves),
    < 1 along y (grass, bark). Above the frequency `finest`, in cycles a texel, it is smooth.
    """
    frequency = np.hypot(np.fft.fftfreq(TEXELS)[:, None], stretch * np.fft.rfftfreq(TEXELS)[None, :])
    frequency[(frequency == 0) | (frequency > finest)] = np.inf
    white = np.fft.rfft2(np.random.default_rng(0).standard_normal((TEXELS, TEXELS)))
    tile = np.fft.irfft2(white / frequency**beta, s=(TEXELS, TEXELS))
    return (tile / tile.std()).astype(np.float32)


def noise(
    rng: np.random.Generator,
    y: np.ndarray,
    x: np.ndarray,
    beta: float = 1.0,
    stretch: float = 1.0,
    density: float = 170.0,
    finest: float = np.inf,
) -> np.ndarray:
    """Noise of `noise_tile` from a random place of the tile, at `density` texels a unit of length.

    The nearest texel is taken: what is drawn large needs a high density and a low `finest`.
    """
    row, column = rng.integers(TEXELS, size=2)
    rows = (np.asarray(y) * density).astype(np.int32) + row
    columns = (np.asarray(x) * density).astype(np.int32) + column
    return noise_tile(beta, stretch, finest)[rows & (TEXELS - 1), columns & (TEXELS - 1)]


def capsules(bones: np.ndarray, y: np.ndarray, x: np.ndarray, blend: float) -> np.ndarray:
    """Signed distance to the smooth union of tapered capsules, negative inside.

    Args:
        bones: (n, 6), rows x0, y0, radius0, x1, y1, radius1.
        blend: width over which neighbouring capsules melt into each other (log-sum-exp minimum);
            at least a 50th of their radius.
    """
    x0, y0, r0, x1, y1, r1 = np.asarray(bones, np.float32).T[..., None, None]
    dx, dy = x1 - x0, y1 - y0
    square = dx * dx + dy * dy + 1e-9
    along = np.clip((x - x0) * (dx / square) + (y - y0) * (dy / square), 0, 1)
    # A plain square root: numpy's hypot takes five times as long.
    distance = np.sqrt((x - x0 - along * dx) ** 2 + (y - y0 - along * dy) ** 2) - (r0 + along * (r1 - r0))
    near = np.exp(distance * (-1 / blend)).sum(0)
    return -blend * np.log(near + 1e-30)  # finite far away


def coverage(distance: np.ndarray, pixel: float) -> np.ndarray:
    """Anti-aliased coverage in 0..1 of a signed distance; `pixel` is the side of a pixel."""
    return np.clip(0.5 - distance / pixel, 0, 1)


def blend(image: np.ndarray, colour: np.ndarray, alpha: np.ndarray | float) -> None:
    """Lay `colour` (3,) or (h, w, 3) over `image` (h, w, 3) with opacity `alpha` (h, w), in place."""
    image += np.asarray(alpha, np.float32)[..., None] * (np.asarray(colour, np.float32) - image)


def hsv(hue: float, saturation: float, value: float) -> np.ndarray:
    """RGB in 0..1, shape (3,); the hue is taken modulo 1."""
    return np.asarray(hsv_to_rgb(hue % 1, np.clip(saturation, 0, 1), np.clip(value, 0, 1)), np.float32)


def relief(distance: np.ndarray, radius: float, pixel: float, light: np.ndarray) -> np.ndarray:
    """Lambert shading (h, w) of a body inflated from its distance field, about 0.4 in shade and 1.2 in light.

    Args:
        radius: depth of the field at which the body is flat, its half thickness.
        light: (3,) unit vector towards the light: x, y (down), z (towards the viewer).
    """
    rise = 1 - np.clip(-distance / radius, 0, 1)
    height = radius * np.sqrt(np.clip(1 - rise**2, 0, 1))
    slope_y, slope_x = np.gradient(height, pixel)
    slope_y, slope_x = np.clip(slope_y, -3, 3), np.clip(slope_x, -3, 3)
    lambert = (light[2] - slope_x * light[0] - slope_y * light[1]) / np.sqrt(1 + slope_x**2 + slope_y**2)
    return 0.5 + 0.65 * np.clip(lambert, -0.15, 1)
