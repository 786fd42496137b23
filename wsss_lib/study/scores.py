"""How a study scores its artifacts: tables of scores, sweeps and comparisons."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse

from wsss_lib.artifacts import Artifact, Origin, swept
from wsss_lib.data.masks import save_mask
from wsss_lib.metrics import BOX_SIDE, best_threshold, centre_box, summary
from wsss_lib.runtime.cache import arrays
from wsss_lib.runtime.files import save_atomically
from wsss_lib.runtime.progress import report
from wsss_lib.statistics import LEVEL, paired_bootstrap, verdict
from wsss_lib.study.scoring import MEANS, part_recall, predictor, rules, score_photos, score_table

if TYPE_CHECKING:
    from wsss_lib.study.study import Study


def scored(study: Study, artifact: Artifact) -> Artifact:
    """One pass over the photos of a split: confusions.npz, photos.npz (both at every setting)."""
    split = artifact.origin.split
    data, ids = study.data.dataset(split), study.data.scored(split)
    title = f"scores of {artifact.title}"

    def work(out: Path) -> None:
        totals, counts = score_photos(
            predictor(artifact, len(study.data.classes)), report(ids, title, unit="photo", total=len(ids)),
            data.mask, study.data.parts if study.data.has_parts else None,
        )  # fmt: skip
        save_atomically(lambda path: np.savez_compressed(path, **totals), out / "confusions.npz")
        save_atomically(lambda path: sparse.save_npz(path, counts), out / "photos.npz")

    name = artifact.setting.name if artifact.setting else ""
    return study.stage(
        "scores", 2, {"settings": [name, swept(artifact).tolist()], "photos": ids},
        [artifact.key, data.fingerprint(), data.truth_fingerprint()], work, title, "scores", artifact.origin,
    )  # fmt: skip


def confusions(study: Study, artifact: Artifact) -> dict[str, np.ndarray]:
    """Confusions (T, K, K) at every setting, over all pixels and, on the scenes, over each part."""
    return scored(study, artifact).read("confusions.npz", arrays)


def calibrated(study: Study, artifact: Artifact) -> int | None:
    """Index of the setting with the best mIoU on the photos of `tune`; None where there is nothing to choose.

    Nothing is learned from these photos and no score is made on them.
    """
    if artifact.setting is None or study.data.tune is None:
        return None
    best, _ = best_threshold(confusions(study, artifact.on("tune"))["all"], artifact.setting.values)
    return artifact.setting.values.index(best)


def centre_boxes(study: Study, seed: int, split: str = "train") -> Artifact:
    """What knowing nothing but the image labels is worth: `metrics.centre_box` as the mask of every photo.

    seed: that of the systems it is compared with; the boxes do not depend on it.
    """
    data = study.labelled(split)
    origin = Origin("centre box", seed, split=split, stage="centre box")
    title = origin.title("masks")

    def work(out: Path) -> None:
        for id in report(data.ids, title, unit="photo", total=len(data)):
            box = centre_box(data.image_size(id), np.flatnonzero(data.label(id)) + 1)
            save_atomically(lambda path, box=box: save_mask(box, path), out / f"{id}.png")

    return study.stage(
        "centre_box", 1, {"side": BOX_SIDE}, [data.fingerprint()], work, title, "masks", origin
    )  # fmt: skip


def counts_by_photo(study: Study, artifact: Artifact) -> dict[str, sparse.csr_array]:
    """Rule -> hits, predicted and true pixels of each class in each scored photo, (N, 3 K)."""
    counts = scored(study, artifact).read("photos.npz", sparse.load_npz)
    width = 3 * len(study.data.classes)
    found = rules(artifact.setting, confusions(study, artifact)["all"], calibrated(study, artifact))
    return {rule: counts[:, index * width : (index + 1) * width] for rule, index in found.items()}


def table(study: Study, artifacts: Iterable[Artifact]) -> pd.DataFrame:
    """Tidy scores in %, each row saying on what, by what and how it was reached.

    Rule "calibrated" is the setting that is best on the photos of `tune`, for this system and seed: the
    headline. "fixed" is the preset's, the same for all; "oracle" the best one on this very ground truth.
    """
    tables = []
    for artifact in artifacts:
        origin, found = artifact.origin, confusions(study, artifact)["all"]
        one = score_table(found, artifact.setting, study.data.classes, calibrated(study, artifact))
        about = {
            "dataset": study.dataset,
            "split": origin.split,
            "photos": len(study.data.scored(origin.split)),
            "method": origin.method,
            "stage": origin.stage,
            "seed": origin.seed,
            "supervision": origin.supervision,
            "learned from": origin.learned_from,
            "weights": "; ".join(origin.weights),
            "inference": origin.inference,
        }
        for place, (name, value) in enumerate(about.items()):
            one.insert(place, name, value)
        tables.append(one)
    return pd.concat(tables, ignore_index=True)


def compare(study: Study, ours: Iterable[Artifact], baseline: Iterable[Artifact]) -> pd.DataFrame:
    """How much mIoU `ours` has over `baseline`, with its paired bootstrap interval over photos.

    One row per rule where both sides have a setting: "calibrated", each side's own, "fixed" and "oracle",
    whose setting is that of all photos and not chosen again in each resample. Masks have no setting; they are
    compared with the other side's headline only (calibrated, or fixed where nothing can be calibrated),
    because an oracle would have an advantage over them.

    Args:
        ours, baseline: one system each, an artifact per seed.

    Returns:
        Columns dataset, split, photos, system, against, rule, seeds (how many), difference (in points of
        mIoU, mean over seeds), "95% low", "95% high", std (of the difference over seeds; NaN of one) and
        verdict (what `statistics.verdict` allows to say).

    Raises:
        ValueError: a side of several systems, or sides that differ in split or seeds.
    """
    sides = [sorted(side, key=lambda artifact: artifact.origin.seed) for side in (ours, baseline)]
    systems = [sorted({artifact.origin.system for artifact in side}) for side in sides]
    runs = [[(a.origin.split, a.origin.seed) for a in side] for side in sides]
    if [len(names) for names in systems] != [1, 1] or runs[0] != runs[1]:
        raise ValueError(
            f"{systems[0]} on {runs[0]} cannot be paired with {systems[1]} on {runs[1]}; give each side "
            "one system, on the same split and with the same seeds."
        )
    (split, _), *_ = runs[0]
    counts = [[counts_by_photo(study, artifact) for artifact in side] for side in sides]
    shared = list(counts[0][0])
    if counts[0][0].keys() != counts[1][0].keys():
        shared = [next(rule for side in counts for rule in side[0] if rule != "none")]
    rows, photos = [], len(study.data.scored(split))
    for rule in shared:
        found = paired_bootstrap(*([c.get(rule, c.get("none")) for c in side] for side in counts))
        rows.append(
            {
                "dataset": study.dataset,
                "split": split,
                "photos": photos,
                "system": systems[0][0],
                "against": systems[1][0],
                "rule": rule,
                "seeds": len(sides[0]),
                "difference": 100 * found.value,
                f"{LEVEL:.0%} low": 100 * found.low,
                f"{LEVEL:.0%} high": 100 * found.high,
                "std": 100 * found.std,
                "verdict": verdict(found.value, found.low, found.high, found.std, len(sides[0]), photos),
            }
        )
    return pd.DataFrame(rows)


def sweep(study: Study, artifact: Artifact) -> pd.DataFrame:
    """Summary metrics in % at every setting; on the scenes also the recall of each part."""
    found = confusions(study, artifact)
    means = [summary(confusion) for confusion in found["all"]]
    values = pd.DataFrame({metric: [100 * m[key] for m in means] for metric, key in MEANS.items()})
    if len(found) > 1:
        values = values.join(part_recall(found))
    name = artifact.setting.name if artifact.setting else ""
    return values.set_index(pd.Index(swept(artifact), name=name))
