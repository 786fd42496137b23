"""Which kind of mistake a mask makes: missing parts, wrong class, wrong border or noise in the background."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.ndimage import distance_transform_edt

from wsss_lib.data.masks import IGNORE

BORDER = 0.02
"""Half the width of a border in diagonals of the photo, as in Boundary IoU (Cheng et al., CVPR 2021)."""


def near_border(truth: np.ndarray, border: float = BORDER) -> np.ndarray:
    """Pixels nearer than `border` diagonals to a pixel of another true class (void included), (H, W) bool.

    Args:
        truth: (H, W) class ids.
    """
    distance = np.full(truth.shape, np.inf)
    for value in (values := np.unique(truth)):
        if len(values) > 1:
            distance = np.where(truth == value, distance_transform_edt(truth == value), distance)
    return distance < border * np.hypot(*truth.shape)


def failure_kinds(prediction: np.ndarray, truth: np.ndarray, near: np.ndarray) -> dict[str, np.ndarray]:
    """Wrong pixels of each kind, (H, W) bool; every wrong pixel is of one kind.

    Near a border it is a "wrong border". Elsewhere, "missing parts" are true foreground called background,
    "wrong class" true foreground called another class, "noise in the background" true background called
    foreground.

    Args:
        prediction, truth: (H, W) class ids, background 0; pixels whose truth is 255 do not count.
        near: `near_border` of `truth`, which is the same for all predictions of a photo.
    """
    wrong = (prediction != truth) & (truth != IGNORE)
    far = wrong & ~near
    return {
        "missing parts": far & (prediction == 0),
        "wrong class": far & (prediction > 0) & (truth > 0),
        "wrong border": wrong & near,
        "noise in the background": far & (truth == 0),
    }


def failure_shares(prediction: np.ndarray, truth: np.ndarray, near: np.ndarray) -> dict[str, float]:
    """Wrong pixels of each kind in % of the pixels that count; arguments as of `failure_kinds`."""
    counted = max(int((truth != IGNORE).sum()), 1)
    kinds = failure_kinds(prediction, truth, near)
    return {kind: 100 * float(pixels.sum()) / counted for kind, pixels in kinds.items()}


def clearest(
    shares: pd.DataFrame, each: int = 2, only: Mapping[str, Sequence[str]] | None = None
) -> list[tuple[str, str]]:
    """The photos that show each kind best: in which it most outweighs the other kinds, as (kind, photo).

    Args:
        shares: one row a photo, one column a kind, as of `failure_shares`.
        each: photos of a kind; fewer where fewer have any such pixel.
        only: the photos to choose from, of the kinds that it names.
    """
    found = []
    for kind in shares:
        photos = shares if only is None or kind not in only else shares.loc[only[kind]]
        photos = photos[photos[kind] > 0]
        margin = 2 * photos[kind] - photos.sum(axis=1)
        found += [(kind, photo) for photo in margin.nlargest(each).index]
    return found
