"""Masks as palette PNGs in VOC's colours: 0 is background, 1..C the classes, 255 void."""

from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from wsss_lib.runtime.errors import AGAIN

IGNORE = 255
"""Pixels of this id count nowhere: not in a loss, not in a score."""


@cache
def voc_palette() -> list[int]:
    """The 256 RGB colours of VOC's palette PNGs: each id's bits spread over the colours' high bits."""
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1)[:, ::-1]  # lowest bit first
    colours = [
        sum(int(row[3 * level + channel]) << 7 - level for level in range(3) if 3 * level + channel < 8)
        for row in bits
        for channel in range(3)
    ]
    return colours


def save_mask(mask: np.ndarray, path: Path) -> None:
    """(H, W) uint8 class ids -> palette PNG with VOC's colours."""
    image = Image.fromarray(mask.astype(np.uint8), mode="P")
    image.putpalette(voc_palette())
    image.save(path, format="PNG")


def load_mask(path: Path) -> np.ndarray:
    """Palette PNG -> (H, W) uint8 class ids; errors as of `ScoreMaps.load`."""
    try:
        with Image.open(path) as image:
            return np.array(image)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path} is missing; {AGAIN}") from error
    except (OSError, SyntaxError) as error:  # Pillow raises SyntaxError on damaged PNG
        raise ValueError(f"{path} is damaged ({error}); {AGAIN}") from error
