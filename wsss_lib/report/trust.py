"""How much of AffinityNet's own labels is right: it learns from nothing else."""

import numpy as np
import pandas as pd

from wsss_lib.artifacts import Artifact
from wsss_lib.data.masks import IGNORE
from wsss_lib.metrics import confusion_matrix
from wsss_lib.refinement.affinitynet import crf_marginals, trusted_alphas
from wsss_lib.refinement.masks import Background, best_classes, trusted
from wsss_lib.score_maps import ScoreMaps
from wsss_lib.study.study import Study


def trusted_labels(study: Study, maps: Artifact) -> dict[str, np.ndarray]:
    """Scored photo -> the labels (H, W) that AffinityNet learns from, 255 where undecided, at every pixel.

    It learns from the same rule on cells of 8 pixels.
    """
    runs = [crf_marginals(study, maps, alpha) for alpha in trusted_alphas(study, maps)]
    found = {}
    for id in study.data.scored(maps.origin.split):
        marginals = (ScoreMaps.load(run.file(f"{id}.npz")) for run in runs)
        strong, weak = (best_classes(one, Background("included")) for one in marginals)
        found[id] = trusted(strong, weak)
    return found


def trust_by_class(study: Study, split: str, labels: dict[str, np.ndarray]) -> pd.DataFrame:
    """Precision and share of trusted labels in %, a row for each class and one for all foreground together.

    Returns:
        Index class; columns precision (of the pixels labelled as this class, those that are), and of its true
        pixels the shares right, undecided, as background and as another class, which add up to 100 (of
        background "as another class" is any foreground). NaN where there are no such pixels; void does not
        count.
    """
    data, names = study.data.dataset(split), study.data.classes
    undecided = len(names)
    counts = sum(
        confusion_matrix(np.where(found == IGNORE, undecided, found), data.mask(id), undecided + 1)
        for id, found in labels.items()
    )
    return trust_of_counts(counts[:undecided], names)


def trust_of_counts(counts: np.ndarray, names: tuple[str, ...]) -> pd.DataFrame:
    """The table of `trust_by_class` from n[true, label] (K, K + 1), the last column undecided pixels."""
    labelled, undecided = counts[:, :-1].astype(float), counts[:, -1].astype(float)
    hits, as_background = labelled.diagonal(), labelled[:, 0].copy()
    as_background[0] = 0
    columns = {
        "labelled": labelled.sum(0),
        "true": counts.sum(1).astype(float),
        "right": hits,
        "undecided": undecided,
        "as background": as_background,
        "as another class": labelled.sum(1) - hits - as_background,
    }
    table = pd.DataFrame(columns, index=pd.Index(names, name="class"))
    table.loc["all foreground"] = table.iloc[1:].sum()
    shares = table[["right", "undecided", "as background", "as another class"]].div(
        table["true"].where(table["true"] > 0), axis=0
    )
    precision = table["right"] / table["labelled"].where(table["labelled"] > 0)
    return 100 * pd.concat([precision.rename("precision"), shares], axis=1)


def least_trustworthy(study: Study, split: str, labels: dict[str, np.ndarray], count: int) -> dict[str, str]:
    """Photo -> "63 % wrong": those with the greatest share of wrong labels among the pixels that have one."""
    data, wrong = study.data.dataset(split), {}
    for id, found in labels.items():
        truth = data.mask(id)
        decided = (found != IGNORE) & (truth != IGNORE)
        wrong[id] = 100 * float((found != truth)[decided].mean()) if decided.any() else 0.0
    return {id: f"{share:.0f} % wrong" for id, share in pd.Series(wrong).nlargest(count).items()}
