"""Is a difference more than chance? Mean and standard deviation over seeds, paired bootstrap over photos.

The mIoU of a split is no mean over photos, so no t-test applies: photos are drawn with replacement, their
pixel counts are added up, and both systems are scored on the same draw (Efron and Tibshirani, An Introduction
to the Bootstrap, 1993, chapter 13). A draw is how often each photo counts, so draws are a matrix product.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import sparse

RESAMPLES = 2000
LEVEL = 0.95
LEAST_PHOTOS = 50
"""Below it a percentile interval over photos is too narrow to decide anything."""
CHUNK = 64  # resamples at a time: their weights of COCO's 82,081 photos are 42 MB


def photo_counts(confusion: np.ndarray) -> np.ndarray:
    """Hits, predicted and true pixels of each class, (..., 3, K) int32: all that IoU and precision need.

    confusion: (..., K, K) n[g, p] of one photo, whose pixels int32 can count.
    """
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    return np.stack([hits, confusion.sum(-2), confusion.sum(-1)], axis=-2).astype(np.int32)


def mean_iou_of_counts(counts: np.ndarray) -> np.ndarray:
    """mIoU (...) in [0, 1] of counts (..., 3, K); classes without true or predicted pixels are left out."""
    hits, predicted, true = np.moveaxis(counts, -2, 0)
    union = predicted + true - hits
    return (hits / np.maximum(union, 1)).sum(-1) / np.maximum((union > 0).sum(-1), 1)


@dataclass(frozen=True)
class Difference:
    """Of two mIoU, as fractions: ours - baseline, its interval over photos, and each seed's own (S,)."""

    value: float
    low: float
    high: float
    per_seed: np.ndarray

    @property
    def std(self) -> float:
        """Of the difference over seeds, ddof = 1; NaN of a single seed."""
        return float(np.std(self.per_seed, ddof=1)) if len(self.per_seed) > 1 else np.nan


def verdict(difference: float, low: float, high: float, std: float, seeds: int, photos: int) -> str:
    """What may be said of a difference of two scores, all in one unit.

    It "improves" or "worsens" only if its interval over photos excludes 0 *and* it is larger than twice its
    standard deviation over seeds: on another processor training alone moves a score by as much as many gains.

    Args:
        low, high: of the interval over photos; std: over the seeds, which one seed does not have.

    >>> verdict(2.0, 0.5, 3.5, 0.4, seeds=3, photos=400)
    'improves'
    >>> verdict(2.0, 0.5, 3.5, 1.1, seeds=3, photos=400)
    'no difference shown'
    """
    if photos < LEAST_PHOTOS:
        return f"fewer than {LEAST_PHOTOS} photos, not a verdict"
    if seeds < 2:
        return "one seed, not a verdict"
    if low <= 0 <= high or abs(difference) <= 2 * std:
        return "no difference shown"
    return "improves" if difference > 0 else "worsens"


def paired_bootstrap(
    ours: Sequence[sparse.csr_array],
    baseline: Sequence[sparse.csr_array],
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Difference:
    """Difference of the mIoU of two systems, each averaged over its seeds, with its percentile interval.

    A resample draws as many photos as there are, with replacement, the same ones for both systems and all
    seeds. The interval tells how far other photos would move the difference of *these* networks; how far
    other seeds would, the standard deviation over seeds tells. Percentiles, because on samples of 30 and
    100 scenes they covered the difference of all 400 as often as bias-corrected ones (BCa), or more often.

    Args:
        ours, baseline: one (N, 3 K) matrix of `photo_counts` a seed, in the same order of photos and seeds.
        resamples: draws of photos; level: share of them within the interval; seed: of the draws.

    Raises:
        ValueError: matrices that differ in shape or number.
    """
    shapes = {counts.shape for counts in (*ours, *baseline)}
    if len(shapes) != 1 or len(ours) != len(baseline):
        raise ValueError(
            f"{len(ours)} and {len(baseline)} matrices of counts of {sorted(shapes)} cannot be paired; "
            "give both systems one a seed, all of the same photos and classes."
        )
    photos, columns = shapes.pop()
    counts = sparse.hstack([*ours, *baseline], format="csr")

    def differences(weights: np.ndarray) -> np.ndarray:
        """(R, N) times that each photo counts -> (R, S)."""
        scores = mean_iou_of_counts((weights @ counts).reshape(len(weights), -1, 3, columns // 3))
        return scores[:, : len(ours)] - scores[:, len(ours) :]

    rng, drawn = np.random.default_rng(seed), []
    for start in range(0, resamples, CHUNK):
        size = min(CHUNK, resamples - start)
        weights = rng.multinomial(photos, np.full(photos, 1 / photos), size=size)
        drawn.append(differences(weights).mean(1))
    low, high = np.quantile(np.concatenate(drawn), [(1 - level) / 2, (1 + level) / 2])
    (per_seed,) = differences(np.ones((1, photos), int))
    return Difference(float(per_seed.mean()), float(low), float(high), per_seed)


def over_seeds(rows: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Mean and standard deviation of the column value over the seeds (tidy rows with the column seed).

    Returns:
        Columns `by`, value (the mean), std (ddof = 1; NaN of a single seed, whose spread is unknown) and
        seeds (how many). NaN, the score of an absent class, is left out of mean and std.

    Raises:
        ValueError: `by` does not tell two rows of a seed apart, so that more than seeds would be averaged.
    """
    by = list(by)
    if (twice := rows.duplicated([*by, "seed"])).any():
        raise ValueError(
            f"{by} do not tell these rows of a seed apart: {rows.loc[twice, by].iloc[0].to_dict()}; "
            "add a column."
        )
    grouped = rows.groupby(by, sort=False, as_index=False, dropna=False)["value"]
    return grouped.agg(value="mean", std="std", seeds="size")
