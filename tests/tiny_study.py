"""A whole study of a few seconds, for tests that kill it or damage its folders."""

from pathlib import Path

import pandas as pd

from wsss_lib.refinement.masks import Background
from wsss_lib.study.study import Study

OVERRIDES = {
    "scenes.image_size": [48, 56], "scenes.train": 8, "scenes.val": 4,
    "backbone.weights": "random", "workers": 1,
    "classifier.crop": 48, "classifier.long_side": [48, 64], "classifier.batch": 4, "classifier.epochs": 3,
    "maps.scales": [1.0, 1.5], "maps.batch": 3,
    "affinity.crop": 48, "affinity.batch": 4, "affinity.epochs": 2,
    "walk.steps": 8, "walk.alpha_sweep": [1, 2],
    "segmentation.crop": 48, "segmentation.batch": 4, "segmentation.epochs": 2,
}  # fmt: skip


def tiny_study(folder: Path, **overrides) -> Study:
    return Study("smoke", overrides=OVERRIDES | overrides, cache=folder / "cache", results=folder / "results")


def run_all(study: Study) -> pd.DataFrame:
    """Every stage and a table."""
    cams = study.response_maps("cam", 0)
    walked = study.refine(cams)
    labels = study.pseudo_labels(walked)
    predicted = study.masks(study.segment(labels), Background("included"), None)
    table = study.scores([cams, walked, labels, predicted])
    study.results.table(table, "scores")
    return table
