"""Scores of masks: everything comes from one K x K confusion matrix, counted over a whole split.

n[g, p] is the number of pixels of true class g that are predicted as p; class 0 is background. Matrices are
int64 and add up over images (COCO has 2.5e10 pixels). Scores are fractions in [0, 1].
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from wsss_lib.data.masks import IGNORE

BOX_SIDE = 0.65
"""Side of `centre_box` with the best mean IoU on the split tune of the embedded scenes (docs/scenes.md)."""


def _check_ids(name: str, ids: np.ndarray, num_classes: int) -> None:
    if ids.size and not (np.issubdtype(ids.dtype, np.integer) and 0 <= ids.min() <= ids.max() < num_classes):
        raise ValueError(
            f"{name} ({ids.dtype}) holds ids from {ids.min()} to {ids.max()}; "
            f"give integers 0..{num_classes - 1} (num_classes is {num_classes}) or void."
        )


def confusion_matrix(
    prediction: np.ndarray, target: np.ndarray, num_classes: int, ignore: int = IGNORE
) -> np.ndarray:
    """n[g, p] (K, K) int64 of two masks of one shape, at the size of the original image.

    Pixels whose target is `ignore` do not count. Elsewhere a prediction of `ignore` counts as background:
    dropping it would reward leaving out the hard pixels.

    Raises:
        ValueError: shapes that differ, ids that are neither 0..K-1 nor `ignore`.
    """
    if prediction.shape != target.shape:
        raise ValueError(
            f"prediction is {prediction.shape} but target is {target.shape}; "
            "resize the scores to the original image before the argmax."
        )
    counted = target != ignore
    target, prediction = target[counted], prediction[counted]
    prediction = np.where(prediction == ignore, 0, prediction)
    _check_ids("target", target, num_classes)
    _check_ids("prediction", prediction, num_classes)
    pairs = target.astype(np.int64) * num_classes + prediction
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=whole > 0)


def class_scores(confusion: np.ndarray) -> pd.DataFrame:
    """Scores of each class: TP its hits, T its true and P its predicted pixels, union = T + P - TP.

    A class is absent if its union is empty: all its scores are NaN. A class that is true but never predicted
    has precision 0, not NaN, so that leaving a class out cannot raise the mean; recall is NaN for T = 0.

    Returns:
        Index class id; columns iou = TP / union, precision = TP / P, recall = TP / T (class accuracy),
        f_score = 2 TP / (T + P) = 2 precision recall / (precision + recall), and what iou lacks to 1:
        false_positive = (P - TP) / union, false_negative = (T - TP) / union.

    Raises:
        ValueError: confusion that is not a square matrix of counts.
    """
    _check_confusion(confusion)
    hits, true, predicted = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    union = true + predicted - hits
    columns = {
        "iou": _ratio(hits, union),
        "precision": _ratio(hits, np.where(union > 0, np.maximum(predicted, 1), 0)),
        "recall": _ratio(hits, true),
        "f_score": _ratio(2 * hits, true + predicted),
        "false_positive": _ratio(predicted - hits, union),
        "false_negative": _ratio(true - hits, union),
    }
    return pd.DataFrame(columns).rename_axis("class")


def summary(confusion: np.ndarray) -> dict[str, float]:
    """Means over the classes, background included, that are not NaN in `class_scores`; NaN if none is.

    Returns:
        mean_iou, mean_precision, mean_recall (mean class accuracy), mean_f_score, pixel_accuracy and
        frequency_weighted_iou (weights: true pixels).
    """
    classes = class_scores(confusion)
    true, pixels = confusion.sum(1), confusion.sum()
    means = {
        "mean_iou": classes["iou"].mean(),
        "mean_precision": classes["precision"].mean(),
        "mean_recall": classes["recall"].mean(),
        "mean_f_score": classes["f_score"].mean(),
        "pixel_accuracy": _ratio(confusion.trace(), pixels),
        "frequency_weighted_iou": _ratio((classes["iou"].fillna(0) * true).sum(), pixels),
    }
    return {name: float(mean) for name, mean in means.items()}


def mean_iou(prediction: np.ndarray, target: np.ndarray, num_classes: int) -> float:
    """mIoU in [0, 1] of one mask, or of several stacked; arguments as of `confusion_matrix`.

    >>> mean_iou(np.array([0, 1, 1]), np.array([0, 1, 0]), 2)
    0.5
    """
    return summary(confusion_matrix(prediction, target, num_classes))["mean_iou"]


def absent_classes(confusion: np.ndarray) -> list[int]:
    """Ids of the classes without a true or predicted pixel, which the means of `summary` leave out."""
    scores = class_scores(confusion)
    return scores.index[scores["iou"].isna()].tolist()


def threshold_sweep(
    maps: np.ndarray, classes: np.ndarray, target: np.ndarray, thresholds: Sequence[float], num_classes: int
) -> np.ndarray:
    """Confusion matrices (T, K, K) int64 of argmax over [t, maps], for every background threshold t at once.

    The winning map of a pixel does not depend on t, only whether it beats t: one histogram over (target,
    winner, number of thresholds beaten) and its sums from the right hold all T matrices.

    Args:
        maps: (n, H, W) floats in [0, 1]; n = 0 predicts background everywhere.
        classes: (n,) class ids in 1..K-1, one per map; the first map wins ties, and background wins over all.
        target: (H, W) ids in 0..K-1, 255 ignored.
        thresholds: ascending. Compared at the maps' precision, at least float32, like scores in an array.

    Raises:
        ValueError: shapes that disagree, maps outside [0, 1] or NaN, ids out of range, unsorted thresholds.
    """
    classes, thresholds = np.asarray(classes), np.asarray(thresholds)
    if maps.ndim != 3 or maps.shape[1:] != target.shape or classes.shape != maps.shape[:1]:
        raise ValueError(
            f"maps {maps.shape}, classes {classes.shape} and target {target.shape} disagree; "
            "give (n, H, W), (n,) and (H, W)."
        )
    if not ((maps >= -1e-5) & (maps <= 1 + 1e-5)).all():  # interpolation rounds
        raise ValueError(
            f"maps hold NaN or values outside [0, 1] (from {maps.min()} to {maps.max()}); normalise them."
        )
    _check_ascending(thresholds)
    if not np.isin(classes, np.arange(1, num_classes)).all():
        raise ValueError(f"classes are {classes}; give ids 1..{num_classes - 1}, background has no map.")
    counted = target != IGNORE
    target = target[counted]
    _check_ids("target", target, num_classes)

    maps = maps[:, counted].astype(np.result_type(maps, np.float32))
    if len(maps):
        winner = classes[maps.argmax(0)]
        beaten = np.searchsorted(thresholds.astype(maps.dtype), maps.max(0), side="left")
    else:
        winner = beaten = np.zeros_like(target)
    shape = (num_classes, num_classes, len(thresholds) + 1)
    cells = np.ravel_multi_index((target, winner, beaten), shape)
    histogram = np.bincount(cells, minlength=np.prod(shape)).reshape(shape)
    at_least = histogram[..., ::-1].cumsum(-1)[..., ::-1]  # pixels that beat at least 0..T thresholds
    confusions = np.moveaxis(at_least[..., 1:], -1, 0).copy()
    confusions[:, :, 0] += at_least[..., 0].sum(1) - confusions.sum(2)  # the others are background
    return confusions


def best_threshold(confusions: np.ndarray, thresholds: Sequence[float]) -> tuple[float, float]:
    """Threshold of the best mean IoU, and that mean IoU: all are compared, the lower threshold wins ties.

    Chosen on ground truth, it is an oracle: report it as such, beside the score at a fixed threshold.

    Args:
        confusions: (T, K, K) of `threshold_sweep`, summed over a split.
        thresholds: (T,), ascending.

    Raises:
        ValueError: lengths that differ, unsorted thresholds, confusions without a single pixel.
    """
    if len(confusions) != len(thresholds):
        raise ValueError(
            f"There are {len(confusions)} confusions for {len(thresholds)} thresholds; give one each."
        )
    _check_ascending(np.asarray(thresholds))
    for confusion in confusions:
        _check_confusion(confusion)
    if not confusions.any(axis=(1, 2)).all():
        raise ValueError("The confusions hold no pixel; sum them over a split with ground truth first.")
    hits = np.diagonal(confusions, axis1=1, axis2=2)
    union = confusions.sum(1) + confusions.sum(2) - hits
    means = np.nanmean(_ratio(hits, union), axis=1)
    best = int(means.argmax())
    return float(thresholds[best]), float(means[best])


def centre_box(size: tuple[int, int], classes: Sequence[int], side: float = BOX_SIDE) -> np.ndarray:
    """Mask (H, W) uint8 of a box in the middle of the picture, which knows the image labels and no pixel.

    Objects stand near the centre, so even this has a mean IoU well above 0: maps should be far better.

    Args:
        size: (H, W) in pixels.
        classes: ids of the picture's classes; several split the box side by side into strips of equal width,
            in this order, because the labels do not say who is where. None: all is background.
        side: of the box, as a share of the height and of the width, in (0, 1].

    Raises:
        ValueError: side out of range, class ids outside 1..254.

    Example:
        >>> centre_box((4, 6), [3, 5], side=0.7)
        array([[0, 0, 0, 0, 0, 0],
               [0, 3, 3, 5, 5, 0],
               [0, 3, 3, 5, 5, 0],
               [0, 0, 0, 0, 0, 0]], dtype=uint8)
    """
    if not 0 < side <= 1:
        raise ValueError(f"side is {side}; give the box's share of the height and width, above 0 to 1.")
    if not np.isin(classes, np.arange(1, IGNORE)).all():
        raise ValueError(f"classes are {list(classes)}; give ids from 1 to {IGNORE - 1}.")
    ids = np.array([*classes, 0], np.uint8)  # the last is the background's
    down, across = (((np.arange(n) + 0.5) / n - 0.5) / side + 0.5 for n in size)  # 0..1 in the box
    strips = np.floor(across * len(classes)).astype(int)
    strips[(across < 0) | (across >= 1)] = -1
    return np.where(((down >= 0) & (down < 1))[:, None], ids[strips], 0).astype(np.uint8)


def _check_confusion(confusion: np.ndarray) -> None:
    square = confusion.ndim == 2 and confusion.shape[0] == confusion.shape[1]
    if not square or not np.issubdtype(confusion.dtype, np.integer) or (confusion < 0).any():
        raise ValueError(
            f"confusion is {confusion.dtype} {confusion.shape}; give a (K, K) matrix of counts, not below 0."
        )


def _check_ascending(thresholds: np.ndarray) -> None:
    if thresholds.ndim != 1 or not len(thresholds) or not (np.diff(thresholds) > 0).all():
        raise ValueError(f"thresholds are {thresholds}; give at least one, each above the one before.")
