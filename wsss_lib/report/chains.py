"""Stages from a method's maps to its masks, an artifact a seed; their scores and comparisons."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import pandas as pd

from wsss_lib.artifacts import Artifact
from wsss_lib.refinement.masks import Background
from wsss_lib.study.study import Study

Chain = dict[str, list[Artifact]]
"""Stage -> its artifacts, one a seed in the study's order."""
Until = Literal["maps", "walk", "labels", "network"]


def chain(
    study: Study, method: str, split: str = "train", until: Until = "labels", by: str = "affinitynet"
) -> Chain:
    """Stages of a method in their order, each with the preset's settings.

    Args:
        split: of maps, walk and labels; the network always answers on val.
        until: the last stage: "maps" (CAM), "walk" (CAM+RW, or CAM+IRN), "labels" (the walk with its CRF),
            "network" (segmentation on labels of train, and the same with the preset's CRF).
        by: the refinement, as of `Study.refine`.

    Returns:
        By the name of the stage, such as "CAM+RW+CRF".
    """
    made = [study.response_maps(method, seed, split) for seed in study.seeds]
    stages = [made]
    if until != "maps":
        stages.append(walked := [study.refine(maps, by) for maps in made])
        if until != "walk":
            stages.append(labels := [study.pseudo_labels(maps) for maps in walked])
            if until == "network":
                found = [study.segment(masks) for masks in labels]
                for crf in (None, study.config.segmentation.crf):
                    stages.append([study.masks(one, Background("included"), crf) for one in found])
    return {artifacts[0].origin.stage: artifacts for artifacts in stages}


def scored(study: Study, chains: Mapping[str, Sequence[Chain]]) -> pd.DataFrame:
    """`Study.scores` of systems, the column method holding their titles: title -> its chains."""
    return pd.concat(
        [
            study.scores(artifacts[place] for artifacts in one.values()).assign(method=title)
            for title, of in chains.items()
            for place in range(len(study.seeds))
            for one in of
        ]
    )


def compared(
    study: Study, pairs: Iterable[tuple[Iterable[Artifact], Iterable[Artifact], Mapping[str, Any]]]
) -> pd.DataFrame:
    """`Study.compare` of (ours, baseline, further columns), one below the other."""
    tables = [study.compare(ours, baseline).assign(**further) for ours, baseline, further in pairs]
    return pd.concat(tables, ignore_index=True)


def gains_over(
    study: Study, chains: Mapping[str, Chain], baseline: str, stages: Sequence[str]
) -> pd.DataFrame:
    """Each system of `chains` against the one called `baseline` at the same stages; what a CRF adds, too.

    Returns:
        Columns of `Study.compare` and what, "SC-CAM − AffinityNet, segmentation".
    """
    pairs = [
        (one[stage], chains[baseline][stage], {"what": f"{title} − {baseline}, {stage}"})
        for title, one in chains.items()
        if title != baseline
        for stage in stages
    ]
    pairs += [
        (one["segmentation+CRF"], one["segmentation"], {"what": f"{title}, CRF − no CRF"})
        for title, one in chains.items()
        if "segmentation+CRF" in one
    ]
    return compared(study, pairs)


def histories(networks: Mapping[str, Artifact]) -> dict[str, pd.DataFrame]:
    """What the trainings of networks wrote, title -> columns epoch, loss, ..."""
    return {title: net.read("history.csv", pd.read_csv) for title, net in networks.items()}
