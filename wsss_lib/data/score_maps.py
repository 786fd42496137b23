"""What per-image stages leave on disk: score maps as compressed float16, masks as palette PNGs."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from wsss_lib.resampling import to_pixels

AGAIN = "delete its folder, and the next run computes it again."


@dataclass(frozen=True)
class ScoreMaps:
    """Maps of the classes present in one photo, on a grid of `stride` pixels.

    classes: (n,) class ids (0 is background); maps: (n, ceil(H/stride), ceil(W/stride)) in [0, 1];
    size: (H, W) of the photo.
    """

    classes: np.ndarray
    maps: np.ndarray
    size: tuple[int, int]
    stride: int

    def full(self) -> np.ndarray:
        """(n, H, W) float32, bilinear."""
        maps = self.maps.astype(np.float32)
        return maps if self.stride == 1 else to_pixels(maps, self.stride, self.size)

    def save(self, path: Path) -> None:
        np.savez_compressed(
            path,
            classes=self.classes.astype(np.int16),
            maps=self.maps.astype(np.float16),
            size=np.array(self.size),
            stride=np.array(self.stride),
        )

    @staticmethod
    def load(path: Path) -> "ScoreMaps":
        """Raises FileNotFoundError or ValueError for a missing or damaged file, naming it."""
        try:
            with np.load(path, allow_pickle=False) as f:
                height, width = f["size"].tolist()
                return ScoreMaps(f["classes"].astype(int), f["maps"], (height, width), int(f["stride"]))
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{path} is missing; {AGAIN}") from error
        except Exception as error:
            raise ValueError(f"{path} is damaged ({error}); {AGAIN}") from error


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
