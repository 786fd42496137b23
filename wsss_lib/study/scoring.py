"""Scores of maps and masks against the ground truth: one pass over the photos for every threshold."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import sparse

from wsss_lib.config import Config
from wsss_lib.data.masks import IGNORE, load_mask
from wsss_lib.metrics import (
    absent_classes,
    best_threshold,
    class_scores,
    confusion_matrix,
    summary,
    threshold_sweep,
)
from wsss_lib.refinement.masks import Background, with_background
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


@dataclass(frozen=True)
class Settings:
    """The values of the one knob between maps and mask, and the one the preset fixes.

    name: "threshold", "alpha", or "" where there is no knob; values: (T,); fixed: index of the fixed one.
    """

    name: str
    values: np.ndarray
    fixed: int

    def rules(self, confusions: np.ndarray) -> dict[str, int]:
        """Rule -> index. The oracle looks at the very ground truth it is scored on."""
        if not self.name:
            return {"none": 0}
        best, _ = best_threshold(confusions, self.values)
        return {"fixed": self.fixed, "oracle": self.values.tolist().index(best)}


def settings_of(stage: str, config: Config) -> Settings:
    """The knob between a stage's maps and its masks: CAM's or IRN's threshold, the walk's alpha, or none."""
    fixed = {"response_maps": config.scores.fixed_threshold, "irn_walk": config.irn.walk.threshold}
    if stage in fixed:
        thresholds = config.scores.thresholds()
        return Settings("threshold", np.array(thresholds), thresholds.index(fixed[stage]))
    if stage == "random_walk":
        return Settings(
            "alpha", np.array(config.walk.alpha_sweep), config.walk.alpha_sweep.index(config.walk.alpha)
        )
    return Settings("", np.zeros(1), 0)


def sweep_thresholds(folder: Path, thresholds: np.ndarray, num_classes: int) -> Predict:
    """Confusions (T, K, K) of argmax over [t, maps]."""

    def confusions(id: str, target: np.ndarray) -> np.ndarray:
        maps = ScoreMaps.load(folder / f"{id}.npz")
        return threshold_sweep(maps.full(), maps.classes, target, thresholds, num_classes)

    return confusions


def sweep_backgrounds(folder: Path, count: int, num_classes: int) -> Predict:
    """Confusions (T, K, K) of walked maps with each of the `count` walked backgrounds."""

    def confusions(id: str, target: np.ndarray) -> np.ndarray:
        maps = ScoreMaps.load(folder / f"{id}.npz")
        found = []
        for index in range(count):
            classes, scores = with_background(maps, Background("channel", index))
            found.append(confusion_matrix(classes[scores.argmax(0)], target, num_classes))
        return np.stack(found)

    return confusions


def of_masks(folder: Path, num_classes: int) -> Predict:
    """Confusion (1, K, K) of masks."""

    def confusions(id: str, target: np.ndarray) -> np.ndarray:
        return confusion_matrix(load_mask(folder / f"{id}.png"), target, num_classes)[None]

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


def score_table(confusions: np.ndarray, settings: Settings, names: Sequence[str]) -> pd.DataFrame:
    """Tidy rows rule, setting, class, metric, value (in %), absent, for the fixed and the oracle setting.

    Class "all" holds the means over the classes but the absent ones, which have neither true nor predicted
    pixels.
    """
    rows = []
    for rule, index in settings.rules(confusions).items():
        setting = f"{settings.name} {settings.values[index]:g}" if settings.name else ""
        per_class, means = class_scores(confusions[index]), summary(confusions[index])
        absent = " ".join(names[c] for c in absent_classes(confusions[index]))
        for metric, column in PER_CLASS.items():
            values = zip(names, per_class[column], strict=True)
            rows += [(rule, setting, name, metric, 100 * value, absent) for name, value in values]
        rows += [(rule, setting, "all", metric, 100 * means[key], absent) for metric, key in MEANS.items()]
    return pd.DataFrame(rows, columns=["rule", "setting", "class", "metric", "value", "absent"])


def part_recall(totals: dict[str, np.ndarray]) -> pd.DataFrame:
    """Share (in %) of each part's pixels that get their object's class: rows are settings, columns parts."""
    recall = {}
    for name in PARTS.values():
        confusions = totals[name]
        hits = np.trace(confusions[:, 1:, 1:], axis1=1, axis2=2)
        recall[name] = 100 * hits / np.maximum(confusions[:, 1:].sum((1, 2)), 1)
    return pd.DataFrame(recall)
