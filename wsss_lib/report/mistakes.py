"""Which kind of mistake a mask makes: missing parts, wrong class, wrong border or noise in the background."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.ndimage import distance_transform_edt
from scipy.stats import ttest_rel

from wsss_lib.artifacts import Artifact
from wsss_lib.data.masks import IGNORE, load_mask
from wsss_lib.statistics import LEVEL
from wsss_lib.study.study import Study

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


def mistakes_by_photo(study: Study, masks: Mapping[str | tuple[str, ...], Artifact]) -> pd.DataFrame:
    """`failure_shares` of every scored photo: a row for each photo and key of `masks`, photo by photo.

    Args:
        masks: key -> masks of one split.

    Returns:
        Index the keys' levels, then photo; a column for each kind, in %.
    """
    (split,) = {made.origin.split for made in masks.values()}
    data, rows = study.data.dataset(split), {}
    for id in study.data.scored(split):
        truth = data.mask(id)
        near = near_border(truth)
        for key, made in masks.items():
            place = (*key, id) if isinstance(key, tuple) else (key, id)
            rows[place] = failure_shares(load_mask(made.file(f"{id}.png")), truth, near)
    return pd.DataFrame(rows).T


def mistakes_compared(wrong: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """Mean shares of each kind beside those of a baseline, with the t interval of the mean difference.

    Args:
        wrong: as of `mistakes_by_photo`, with index levels masks of, method, photo; at least two photos.
        baseline: the method that the others with the same masks are compared with, photo by photo.

    Returns:
        Columns masks of, method, kind, "<baseline>'s", its own, difference, "95% low", "95% high".
    """
    columns = [
        "masks of", "method", "kind", f"{baseline}'s", "its own", "difference", f"{LEVEL:.0%} low",
        f"{LEVEL:.0%} high",
    ]  # fmt: skip
    rows, ordered = [], wrong.sort_index()
    for stage, method in wrong.index.droplevel("photo").unique():
        if method == baseline:
            continue
        plain, own = ordered.loc[stage, baseline], ordered.loc[stage, method]
        for kind in wrong:
            interval = ttest_rel(own[kind], plain[kind]).confidence_interval(LEVEL)
            means = plain[kind].mean(), own[kind].mean()
            rows.append((stage, method, kind, *means, means[1] - means[0], *interval))
    return pd.DataFrame(rows, columns=columns)


def shown_mistakes(study: Study, masks: Artifact, chosen: Sequence[tuple[str, str]]) -> dict[str, np.ndarray]:
    """Photo -> mask (H, W) of its wrong pixels of the kinds it is chosen for, as (kind, photo).

    A pixel of missed foreground has the class that is missing, noise the class that it is taken for.
    """
    data, found = study.data.dataset(masks.origin.split), {}
    for kind, id in chosen:
        truth, mask = data.mask(id), load_mask(masks.file(f"{id}.png"))
        pixels = failure_kinds(mask, truth, near_border(truth))[kind]
        found[id] = np.where(pixels, np.where(truth > 0, truth, mask), found.get(id, 0))
    return found


def mistake_notes(chosen: Sequence[tuple[str, str]], shares: pd.DataFrame) -> dict[str, str]:
    """Photo -> "missing parts: 12 %", a line for each kind that it is chosen for."""
    notes: dict[str, str] = {}
    for kind, id in chosen:
        line = f"{kind}:\n{shares.loc[id, kind]:.0f} %"
        notes[id] = f"{notes[id]}\n{line}" if id in notes else line
    return notes
