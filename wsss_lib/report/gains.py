"""Does a gain of the maps grow by a later stage? Each photo's gain before and after, none left out."""

from collections.abc import Mapping

import pandas as pd
from scipy.stats import ttest_rel

from wsss_lib.artifacts import Artifact
from wsss_lib.report.selection import photo_iou
from wsss_lib.statistics import LEVEL
from wsss_lib.study.study import Study


def iou_of_stages(study: Study, stages: Mapping[str, Mapping[str, Artifact]]) -> pd.DataFrame:
    """Mean IoU in % of each scored photo: index photo, columns (stage, title).

    stages: stage -> {title: artifact}.
    """
    found = {
        (stage, title): photo_iou(study, artifact)
        for stage, made in stages.items()
        for title, artifact in made.items()
    }
    return pd.DataFrame(found)


def gains_by_stage(iou: pd.DataFrame, ours: str, baseline: str) -> pd.DataFrame:
    """Points that `ours` has over `baseline` in each photo: index photo, a column a stage."""
    return iou.xs(ours, axis=1, level=1) - iou.xs(baseline, axis=1, level=1)


def of_growth(gain: pd.DataFrame) -> str:
    """What the mean gain does from the first stage to the second, with its t interval over photos."""
    first, second = gain.columns
    low, high = ttest_rel(gain[second], gain[first]).confidence_interval(LEVEL)
    grown = (gain[second] - gain[first]).mean()
    shown = "grows" if low > 0 else "shrinks" if high < 0 else "is not shown to change"
    return (
        f"Mean gain of a photo, {len(gain)} photos: {gain[first].mean():.2f} points at {first}, "
        f"{gain[second].mean():.2f} at {second}; it {shown} ({grown:+.2f} [{low:.2f}, {high:.2f}], "
        f"{LEVEL:.0%} over photos, one seed)."
    )
