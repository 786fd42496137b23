"""Labels from class maps and saliency, photo by photo: AuxSegNet's fusion rule and its update of saliency.

Free of torch, so that a pool of processes starts quickly. Equations are numbered as in
papers/auxsegnet/card.md.
"""

from pathlib import Path

import numpy as np
from scipy.special import expit

from wsss_lib.crf import dense_crf
from wsss_lib.data.masks import IGNORE, save_mask
from wsss_lib.data.photos import read_image
from wsss_lib.data.saliency import read_saliency, save_saliency
from wsss_lib.refinement.masks import Background, best_classes
from wsss_lib.runtime.files import save_atomically
from wsss_lib.score_maps import ScoreMaps


def fused_labels(objects: np.ndarray, salient: np.ndarray) -> np.ndarray:
    """(C7) Where class maps and saliency agree: its class if both see an object, 0 if neither, else 255.

    objects: (H, W) class ids, 0 where no map is above its threshold; salient: (H, W) bool.

    >>> fused_labels(np.array([3, 3, 0, 0]), np.array([True, False, True, False]))
    array([  3, 255, 255,   0], dtype=uint8)
    """
    return np.where((objects > 0) == salient, objects, IGNORE).astype(np.uint8)


def saliency_unary(saliency: np.ndarray) -> np.ndarray:
    """(C8) -log p / (1.05 sigmoid(p)) of p = 1 - S and p = S: (H, W) in [0, 1] -> energies (2, H, W) float32.

    It is DSS's. p is kept above 1e-8.
    """
    p = np.stack([1 - saliency, saliency])
    return (-np.log(p.clip(1e-8, 1)) / (1.05 * expit(p))).astype(np.float32)


def updated_saliency(
    image: np.ndarray, predicted: np.ndarray, original: np.ndarray, crf: str, scale_factor: float
) -> np.ndarray:
    """(C9) Foreground marginal (H, W) of a dense CRF of two labels on the average of both maps.

    image: (H, W, 3) uint8; predicted: sigmoid of the refined logits; original: the off-the-shelf map, never
    an earlier update; both (H, W) in [0, 1]; the rest as of `dense_crf`.
    """
    return dense_crf(image, saliency_unary((predicted + original) / 2), crf, scale_factor)[1]


def write_labels(
    maps: Path, saliency: Path, cam_threshold: float, saliency_threshold: float, out: Path
) -> None:
    """The mask of one photo, strictly above both thresholds; the first class wins ties."""
    loaded = ScoreMaps.load(maps)
    found = best_classes(loaded, Background("threshold", cam_threshold))
    salient = read_saliency(saliency, loaded.size) > saliency_threshold
    mask = fused_labels(found, salient)
    save_atomically(lambda path: save_mask(mask, path), out)


def write_saliency(
    photo: Path, predicted: Path, original: Path, crf: str, scale_factor: float, out: Path
) -> None:
    """The updated saliency of one photo, from the one map of `predicted`."""
    maps = ScoreMaps.load(predicted)
    found = updated_saliency(
        read_image(photo), maps.full()[0], read_saliency(original, maps.size), crf, scale_factor
    )
    save_atomically(lambda path: save_saliency(found, path), out)
