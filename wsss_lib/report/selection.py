"""Which photos a page shows: by a rule that is told, never by their looks."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from wsss_lib.artifacts import Artifact
from wsss_lib.data.voc import VOCDataset
from wsss_lib.statistics import mean_iou_of_counts
from wsss_lib.study.scores import counts_by_photo
from wsss_lib.study.study import Study


def evenly(ids: Sequence[str], count: int) -> list[str]:
    """`count` ids at even distances, beginning with the first; all of them where there are fewer.

    >>> evenly(["a", "b", "c", "d", "e"], 2)
    ['a', 'c']
    """
    return list(ids[:: max(1, len(ids) // count)][:count])


def present_classes(data: VOCDataset, id: str) -> list[str]:
    """Names of the classes of a photo's image label."""
    return [name for name, here in zip(data.classes, data.label(id), strict=True) if here]


def photo_iou(study: Study, artifact: Artifact) -> pd.Series:
    """Mean IoU in % of each scored photo, over the classes that are in it or predicted; index photo.

    Maps are taken at their headline setting.
    """
    headline, *_ = counts_by_photo(study, artifact).values()
    found = headline.toarray()
    values = 100 * mean_iou_of_counts(found.reshape(-1, 3, len(study.data.classes)))
    return pd.Series(values, pd.Index(study.data.scored(artifact.origin.split), name="photo"))


def best_and_worst(values: pd.Series, each: int = 1) -> dict[str, str]:
    """Photo -> "best: 81" or "worst: 7", the `each` greatest first, then the least; index photo."""
    chosen = {photo: f"best: {value:.0f}" for photo, value in values.nlargest(each).items()}
    chosen |= {
        photo: f"worst: {value:.0f}" for photo, value in values.nsmallest(each).items() if photo not in chosen
    }
    return chosen


def hidden_gains(gain: pd.DataFrame, count: int = 4) -> list[str]:
    """Photos of a gain that only shows later: in the half whose first column is nearest to 0, those with the
    greatest second column.

    gain: index photo, two columns, such as the gain of the maps and the gain after the walk.
    """
    first, second = gain.columns
    alike = gain[first].abs().nsmallest(-(-len(gain) // 2)).index
    return list(gain.loc[alike, second].nlargest(count).index)


def most_connected(labels: np.ndarray) -> int:
    """The class (column) that shares the most photos with others, counted once for each other class."""
    pairs = labels.T @ labels
    return int((pairs.sum(1) - pairs.diagonal()).argmax())
