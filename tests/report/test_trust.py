"""Precision and share of trusted labels against loops over pixels."""

import handmade
import numpy as np
import pytest
from conftest import keep_apart

from wsss_lib.report import trust
from wsss_lib.score_maps import ScoreMaps
from wsss_lib.study.study import Study

SIZE = (24, 32)


@pytest.fixture
def study(tiny_voc, tmp_path) -> Study:
    return Study(
        "smoke", "tiny", keep_apart(tiny_voc), cache=tmp_path / "cache", results=tmp_path / "results"
    )


def share(part: np.ndarray, whole: np.ndarray) -> float:
    return 100 * (part & whole).sum() / whole.sum() if whole.any() else np.nan


def test_precision_and_shares_are_those_of_all_pixels(study):
    rng, ids = np.random.default_rng(0), study.data.scored("train")
    labels = {id: rng.choice([0, 8, 12, 15, 255], SIZE) for id in ids}
    table = trust.trust_by_class(study, "train", labels)
    truth = np.concatenate([study.data.train.mask(id).ravel() for id in ids]).astype(int)
    found = np.concatenate([labels[id].ravel() for id in ids])[truth != 255]
    truth = truth[truth != 255]
    names = study.data.classes
    assert table.index.tolist() == [*names, "all foreground"]
    for c, name in enumerate(names):
        row, here = table.loc[name], truth == c
        other = (found != c) & (found != 255) & ((found != 0) | (c == 0))
        expected = {
            "precision": share(truth == c, found == c),
            "right": share(found == c, here),
            "undecided": share(found == 255, here),
            "as background": share((found == 0) & (c > 0), here),
            "as another class": share(other, here),
        }
        assert row.to_dict() == pytest.approx(expected, nan_ok=True)
    everything = table.loc["all foreground"]
    named = (found > 0) & (found < 255)
    assert everything["precision"] == pytest.approx(share(found == truth, named))
    assert everything["as background"] == pytest.approx(share(found == 0, truth > 0))
    shares = table.drop(columns="precision").sum(axis=1, skipna=False).dropna()
    assert shares.to_numpy() == pytest.approx(100)


def test_a_table_of_counts_by_hand():
    counts = np.array([[60, 10, 30], [20, 70, 10]])  # n[true, label], the last column undecided
    table = trust.trust_of_counts(counts, ("background", "cat"))
    assert table.loc["background"].tolist() == pytest.approx([75, 60, 30, 0, 10])
    assert table.loc["cat"].tolist() == pytest.approx([87.5, 70, 10, 20, 0])
    assert table.loc["all foreground"].tolist() == table.loc["cat"].tolist()


def test_trusted_labels_are_foreground_of_the_strong_run_and_background_of_the_weak(
    study, tmp_path, monkeypatch
):
    rng = np.random.default_rng(1)
    runs = {}
    for name in ("low", "high"):
        found = {
            id: ScoreMaps(np.array([0, 8]), rng.uniform(size=(2, *SIZE)), SIZE, 1)
            for id in study.data.scored("train")
        }
        runs[name] = handmade.maps(tmp_path / name, found, kind="marginals")
    config = study.config.affinity
    chosen = {config.alpha_low: runs["low"], config.alpha_high: runs["high"]}
    monkeypatch.setattr(trust, "crf_marginals", lambda study, maps, alpha: chosen[alpha])
    labels = trust.trusted_labels(study, runs["low"])
    assert list(labels) == study.data.scored("train")
    for id, found in labels.items():
        low, high = (ScoreMaps.load(runs[name].file(f"{id}.npz")).maps for name in ("low", "high"))
        for place in np.ndindex(SIZE):
            strong, weak = (8 if m[1][place] > m[0][place] else 0 for m in (low, high))
            expected = 0 if weak == 0 else strong or 255
            assert found[place] == expected


def test_the_least_trustworthy_photos_have_most_wrong_among_their_labels(study):
    data = study.data.train
    labels = {"a1": np.where(data.mask("a1") == 255, 0, data.mask("a1")).astype(int)}  # all right
    labels["a2"] = np.full(SIZE, 255)  # nothing is labelled
    labels["a3"] = np.zeros(SIZE, int)
    truth = data.mask("a3")
    wrong = 100 * (truth[truth != 255] > 0).mean()
    found = trust.least_trustworthy(study, "train", labels, 2)
    assert next(iter(found.items())) == ("a3", f"{wrong:.0f} % wrong")
    assert list(found.values())[1] == "0 % wrong"
