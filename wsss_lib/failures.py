"""Which kind of mistake a mask makes: parts missed, borders misplaced, background taken for an object."""

import numpy as np
from scipy.ndimage import distance_transform_edt

from wsss_lib.data.voc import IGNORE

BORDER = 0.02
"""Half the width of a border in diagonals of the photo, as in Boundary IoU (Cheng et al., CVPR 2021)."""


def failure_kinds(prediction: np.ndarray, truth: np.ndarray, border: float = BORDER) -> dict[str, np.ndarray]:
    """Wrong pixels of each kind, (H, W) bool; every wrong pixel is of one kind.

    "wrong border" lies nearer than `border` diagonals to a pixel of another true class (void included),
    "missing parts" is true foreground farther inside, called background or another class, "noise in the
    background" true background farther outside.

    Args:
        prediction, truth: (H, W) class ids, background 0; pixels whose truth is 255 do not count.
    """
    distance = np.full(truth.shape, np.inf)
    for value in (values := np.unique(truth)):
        if len(values) > 1:
            distance = np.where(truth == value, distance_transform_edt(truth == value), distance)
    wrong, near = (prediction != truth) & (truth != IGNORE), distance < border * np.hypot(*truth.shape)
    return {
        "missing parts": wrong & ~near & (truth > 0),
        "wrong border": wrong & near,
        "noise in the background": wrong & ~near & (truth == 0),
    }


def failure_shares(prediction: np.ndarray, truth: np.ndarray, border: float = BORDER) -> dict[str, float]:
    """Wrong pixels of each kind as shares of the pixels that count; arguments as of `failure_kinds`."""
    counted = max(int((truth != IGNORE).sum()), 1)
    kinds = failure_kinds(prediction, truth, border)
    return {kind: float(pixels.sum()) / counted for kind, pixels in kinds.items()}
