"""Scores of maps and masks against the ground truth: one pass over the photos for every threshold."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pandas as pd
from scipy import sparse

from wsss_lib.artifacts import Artifact, Setting
from wsss_lib.data.masks import IGNORE, load_mask
from wsss_lib.metrics import (
    absent_classes,
    best_threshold,
    class_scores,
    confusion_matrix,
    summary,
    threshold_sweep,
)
from wsss_lib.refinement.masks import background_of, best_classes
from wsss_lib.score_maps import ScoreMaps
from wsss_lib.statistics import photo_counts

# Metric names of the papers' tables -> columns of class_scores, keys of summary
PER_CLASS = {"IoU": "iou", "precision": "precision", "recall": "recall", "F-score": "f_score"}
MEANS = {
    "mIoU": "mean_iou",
    "precision": "mean_precision",
    "recall": "mean_recall",
    "F-score": "mean_f_score",
    "pixel accuracy": "pixel_accuracy",
}
PARTS = {1: "discriminative part", 2: "body"}

Predict = Callable[[str, np.ndarray], np.ndarray]


def rules(setting: Setting | None, confusions: np.ndarray, calibrated: int | None = None) -> dict[str, int]:
    """Rule -> index of the setting, the headline first; the oracle looks at the truth it is scored on."""
    if setting is None:
        return {"none": 0}
    best, _ = best_threshold(confusions, setting.values)
    headline = {} if calibrated is None else {"calibrated": calibrated}
    return headline | {"fixed": setting.fixed, "oracle": setting.values.index(best)}


def predictor(artifact: Artifact, num_classes: int) -> Predict:
    """(id, target (H, W)) -> confusions (T, K, K) of an artifact at every value of its setting.

    Of masks, and of probabilities by their argmax, T is 1.

    Raises:
        ValueError: an artifact that makes no masks.
    """
    thresholds = artifact.setting is not None and artifact.setting.name == "threshold"
    if artifact.kind not in ("score maps", "probabilities", "masks"):
        raise ValueError(f"The {artifact.title} are {artifact.kind}; give score maps or masks to be scored.")

    def confusions(id: str, target: np.ndarray) -> np.ndarray:
        if artifact.kind == "masks":
            return confusion_matrix(load_mask(artifact.file(f"{id}.png")), target, num_classes)[None]
        maps = ScoreMaps.load(artifact.file(f"{id}.npz"))
        if thresholds:
            return threshold_sweep(maps.full(), maps.classes, target, artifact.setting.values, num_classes)
        settings = range(len(artifact.setting.values) if artifact.setting else 1)
        found = (best_classes(maps, background_of(artifact, index)) for index in settings)
        return np.stack([confusion_matrix(mask, target, num_classes) for mask in found])

    return confusions


def score_photos(
    predict: Predict,
    ids: Iterable[str],
    truth: Callable[[str], np.ndarray],
    parts: Callable[[str], np.ndarray] | None,
) -> tuple[dict[str, np.ndarray], sparse.csr_array]:
    """Confusions summed over photos, and the counts of each photo.

    Returns:
        {"all": (T, K, K)} and the like of each part's pixels alone where part masks exist;
        (N, T * 3 * K) int32 `photo_counts`, sparse because a photo has few of the classes.
    """
    totals: dict[str, np.ndarray] = {}
    counts = []
    for id in ids:
        target = truth(id)
        targets = {"all": target}
        if parts is not None:
            part = parts(id)
            targets |= {name: np.where(part == value, target, IGNORE) for value, name in PARTS.items()}
        found = {name: predict(id, selected) for name, selected in targets.items()}
        totals = {name: totals.get(name, 0) + confusions for name, confusions in found.items()}
        counts.append(sparse.csr_array(photo_counts(found["all"]).reshape(1, -1)))
    return totals, sparse.vstack(counts, format="csr")


def score_table(
    confusions: np.ndarray, setting: Setting | None, names: Sequence[str], calibrated: int | None = None
) -> pd.DataFrame:
    """Tidy rows rule, setting, class, metric, value (in %), absent, for the setting of each rule.

    Class "all" holds the means over the classes but the absent ones, which have neither true nor predicted
    pixels.
    """
    rows = []
    for rule, index in rules(setting, confusions, calibrated).items():
        chosen = setting.text(index) if setting else ""
        per_class, means = class_scores(confusions[index]), summary(confusions[index])
        absent = " ".join(names[c] for c in absent_classes(confusions[index]))
        for metric, column in PER_CLASS.items():
            values = zip(names, per_class[column], strict=True)
            rows += [(rule, chosen, name, metric, 100 * value, absent) for name, value in values]
        rows += [(rule, chosen, "all", metric, 100 * means[key], absent) for metric, key in MEANS.items()]
    return pd.DataFrame(rows, columns=["rule", "setting", "class", "metric", "value", "absent"])


def part_recall(totals: dict[str, np.ndarray]) -> pd.DataFrame:
    """Share (in %) of each part's pixels that get their object's class: rows are settings, columns parts."""
    recall = {}
    for name in PARTS.values():
        confusions = totals[name]
        hits = np.trace(confusions[:, 1:, 1:], axis1=1, axis2=2)
        recall[name] = 100 * hits / np.maximum(confusions[:, 1:].sum((1, 2)), 1)
    return pd.DataFrame(recall)
