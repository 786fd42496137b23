"""What a training that teaches itself shows of itself, and what single photos gain by it."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from wsss_lib.artifacts import Artifact
from wsss_lib.report.chains import histories
from wsss_lib.study.scores import counts_by_photo
from wsss_lib.study.study import Study


def watched(networks: Mapping[str, Artifact], columns: Sequence[str]) -> dict[str, pd.DataFrame]:
    """What trainings recorded of `columns` in each epoch: title -> columns epoch and `columns`.

    NaN in epochs in which a value was not recorded, as of a loss that is not on.
    """
    return {
        title: history.reindex(columns=["epoch", *columns]) for title, history in histories(networks).items()
    }


def photo_scores(study: Study, shown: Mapping[str, Artifact], ids: Sequence[str]) -> pd.DataFrame:
    """Mean IoU, precision and recall in % of some scored photos: index photo, columns (title, metric).

    At the headline's setting of each artifact. Means over the classes, background included: IoU over those
    that a photo has or that are predicted in it, precision over the predicted, recall over those it has.
    """
    found = {}
    for title, artifact in shown.items():
        counts = next(iter(counts_by_photo(study, artifact).values())).toarray()
        places = [study.data.scored(artifact.origin.split).index(id) for id in ids]
        hits, predicted, true = counts[places].reshape(len(ids), 3, -1).swapaxes(0, 1).astype(float)
        for metric, of in {"IoU": predicted + true - hits, "precision": predicted, "recall": true}.items():
            shares = np.divide(hits, of, out=np.full_like(hits, np.nan), where=of > 0)
            found[title, metric] = 100 * np.nanmean(shares, axis=1)
    return pd.DataFrame(found, pd.Index(ids, name="photo"))


def photo_notes(scores: pd.DataFrame) -> dict[str, str]:
    """Photo -> a line for each title of `photo_scores`, "RCM 45 / 60 / 61" (IoU, precision, recall)."""
    titles = scores.columns.unique(0)
    return {
        photo: "\n".join(f"{title} " + " / ".join(f"{v:.0f}" for v in row[title]) for title in titles)
        for photo, row in scores.iterrows()
    }
