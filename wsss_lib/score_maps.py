"""Score maps, the currency that stages hand on: maps of the classes present in a photo, float16 on disk."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wsss_lib.resampling import to_pixels
from wsss_lib.runtime.errors import AGAIN


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
        """Write the four fields to an .npz file, the maps as float16."""
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
