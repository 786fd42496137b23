"""Saliency maps: which pixels stand out, whatever they are. Grey PNGs, 0 to 255 for [0, 1], of any size.

AuxSegNet takes them from an off-the-shelf network that was trained on saliency masks of other photos (DSS).
A folder with one PNG a photo serves, of any such network. The embedded scenes have none that would be fair:
their drawn truth of "object or not" is ground truth, with which every method wins. So it is degraded to the
level of a small saliency network on photos (U2-Net-p has a foreground IoU of about 0.70 on VOC 2012); the
truth itself is an oracle.
"""

import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from wsss_lib.data.masks import IGNORE
from wsss_lib.data.photos import open_image

DEGRADED, ORACLE = "degraded", "oracle"
CELL = 8  # pixels a cell of the degraded maps
BLUR = 0.125  # standard deviation of a Gaussian, as a share of the picture's shorter side
CONTRAST = 4  # about 0.5, after the blur: networks are sure of nearly every pixel
DROPPED = 0.15  # probability that an object is missed
FALSE_BLOB = 0.3  # probability that something stands out where nothing is
BLOB_RADII = (0.1, 0.3)  # of a false blob, as shares of the picture's sides


def read_saliency(path: Path, size: tuple[int, int]) -> np.ndarray:
    """A grey PNG of any size as (H, W) float32 in [0, 1] at `size` (H, W), bilinear.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a damaged file, or one that is not 8-bit grey.
    """
    with open_image(path) as image:
        if image.mode != "L":
            raise ValueError(f"The saliency map {path} is of mode {image.mode}; save it as 8-bit grey.")
        grey = image.convert("F").resize(size[::-1], Image.Resampling.BILINEAR)
        return np.asarray(grey) / np.float32(255)


def save_saliency(saliency: np.ndarray, path: Path) -> None:
    """(H, W) in [0, 1] -> grey PNG."""
    Image.fromarray((255 * saliency).round().astype(np.uint8)).save(path, format="PNG")


def find_maps(folder: Path, ids: Iterable[str]) -> dict[str, Path]:
    """The file <id>.png of each photo.

    Raises:
        FileNotFoundError: a photo has none.
    """
    paths = {id: folder / f"{id}.png" for id in ids}
    missing = [id for id, path in paths.items() if not path.is_file()]
    if missing:
        raise FileNotFoundError(
            f"{folder} has no saliency map for {len(missing)} of {len(paths)} photos, the first is "
            f"{missing[0]}.png; add a grey PNG for each photo."
        )
    return paths


def numbered_objects(mask: np.ndarray, salient: np.ndarray) -> np.ndarray:
    """Objects of a scene by number: (H, W) class ids with 255, (H, W) bool -> (H, W) integers, 0 elsewhere.

    An object is a connected region of one class; pixels of the void outline go to the nearest class.
    """
    known = np.isin(mask, (0, IGNORE))
    nearest = ndimage.distance_transform_edt(known, return_distances=False, return_indices=True)
    classes = np.where(salient, mask[tuple(nearest)], 0)
    objects = np.zeros(mask.shape, int)
    for c in np.unique(classes[classes > 0]):
        regions, _ = ndimage.label(classes == c)
        objects[regions > 0] = regions[regions > 0] + objects.max()
    return objects


def degraded(objects: np.ndarray, id: str, seed: int = 0) -> np.ndarray:
    """What a small saliency network might see of a scene: (H, W) numbers -> (H/8, W/8) in [0, 1].

    Each object is missed with probability 0.15; the rest is seen at an eighth of the size, blurred, with a
    higher contrast; with probability 0.3 an ellipse stands out where nothing need be. Drawn for each picture
    from (seed, id). On 60 scenes of 160 x 192 (seed 1) the foreground IoU is 0.70 on average (median 0.78).
    """
    draw = np.random.default_rng([seed, zlib.crc32(id.encode())])
    numbers = np.unique(objects[objects > 0])
    seen = np.isin(objects, numbers[draw.random(len(numbers)) >= DROPPED])
    height, width = (-(-side // CELL) for side in objects.shape)
    grey = Image.fromarray(seen.astype(np.uint8) * 255).resize((width, height), Image.Resampling.BOX)
    small = np.asarray(grey) / 255
    if draw.random() < FALSE_BLOB:
        small = np.maximum(small, _ellipse((height, width), draw))
    blurred = ndimage.gaussian_filter(small, BLUR * min(height, width))
    return np.clip((blurred - 0.5) * CONTRAST + 0.5, 0, 1)


def _ellipse(size: tuple[int, int], draw: np.random.Generator) -> np.ndarray:
    """A filled ellipse at a random place of the grid."""
    centre, radii = draw.random(2), draw.uniform(*BLOB_RADII, 2)
    place = [(np.arange(side) + 0.5) / side for side in size]
    y, x = ((p - c) / r for p, c, r in zip(place, centre, radii, strict=True))
    return (y[:, None] ** 2 + x**2 <= 1).astype(float)


def foreground_iou(saliency: np.ndarray, truth: np.ndarray) -> float:
    """IoU of saliency (H, W) above 0.5 and any class of the mask (H, W); 255 does not count.

    NaN where both are empty.
    """
    counted = truth != IGNORE
    seen, there = saliency[counted] > 0.5, truth[counted] > 0
    union = (seen | there).sum()
    return float((seen & there).sum() / union) if union else float("nan")
