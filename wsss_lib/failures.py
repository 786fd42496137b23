"""Which kind of mistake a mask makes: parts missed, borders misplaced, background taken for an object."""

import numpy as np
from scipy.ndimage import distance_transform_edt

from wsss_lib.data.voc import IGNORE


def failure_shares(prediction: np.ndarray, truth: np.ndarray, width: float) -> dict[str, float]:
    """Wrong pixels of each kind as shares of the pixels that count; together they are all wrong pixels.

    "wrong border" lies nearer than `width` pixels to a pixel of another true class (void included), "missing
    parts" is true foreground farther inside, called background or another class, "noise in the background"
    true background farther outside.

    Args:
        prediction, truth: (H, W) class ids, background 0; pixels whose truth is 255 do not count.
        width: in pixels.
    """
    distance = np.full(truth.shape, np.inf)
    for value in (values := np.unique(truth)):
        if len(values) > 1:
            distance = np.where(truth == value, distance_transform_edt(truth == value), distance)
    wrong, near = (prediction != truth) & (truth != IGNORE), distance < width
    kinds = {
        "missing parts": wrong & ~near & (truth > 0),
        "wrong border": wrong & near,
        "noise in the background": wrong & ~near & (truth == 0),
    }
    counted = max(int((truth != IGNORE).sum()), 1)
    return {kind: float(pixels.sum()) / counted for kind, pixels in kinds.items()}
