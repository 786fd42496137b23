"""What is recorded in training, and the scores of single photos, against counting by hand."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from wsss_lib.metrics import confusion_matrix
from wsss_lib.report.self_supervision import photo_notes, photo_scores, watched
from wsss_lib.statistics import photo_counts


def test_watched_columns_are_the_same_for_all_trainings(tmp_path):
    for name, columns in {"base": ["L_cls"], "both": ["L_cls", "L_RCM"]}.items():
        (tmp_path / name).mkdir()
        table = pd.DataFrame({"epoch": [1, 2], "loss": [2.0, 1.0]} | {c: [0.5, 0.25] for c in columns})
        table.to_csv(tmp_path / name / "history.csv", index=False)
    networks = {
        name: SimpleNamespace(read=lambda file, load, name=name: load(tmp_path / name / file))
        for name in ("base", "both")
    }
    found = watched(networks, ["L_cls", "L_RCM"])
    assert {name: list(table) for name, table in found.items()} == {
        name: ["epoch", "L_cls", "L_RCM"] for name in networks
    }
    assert found["base"]["L_RCM"].isna().all()
    assert found["both"]["L_RCM"].tolist() == [0.5, 0.25]


def test_scores_of_a_photo_are_means_over_its_classes(monkeypatch):
    rng = np.random.default_rng(0)
    truth = [np.where(rng.random((6, 7)) < 0.5, 0, c) for c in (1, 2, 3)]
    guess = [rng.permutation(np.r_[np.zeros(21, int), np.full(21, c)]).reshape(6, 7) for c in (1, 3, 3)]
    rows = [photo_counts(confusion_matrix(g, t, 4)[None]).ravel() for g, t in zip(guess, truth, strict=True)]
    counts = {"calibrated": sparse.csr_array(np.stack(rows)), "oracle": sparse.csr_array((3, 12))}
    monkeypatch.setattr("wsss_lib.report.self_supervision.counts_by_photo", lambda *_: counts)
    study = SimpleNamespace(data=SimpleNamespace(scored=lambda split: ["a", "b", "c"]))
    artifact = SimpleNamespace(origin=SimpleNamespace(split="train"))
    found = photo_scores(study, {"RCM": artifact}, ["c", "b"])
    assert list(found.index) == ["c", "b"]
    for id, place in (("c", 2), ("b", 1)):
        g, t = guess[place], truth[place]
        values = {"IoU": [], "precision": [], "recall": []}
        for k in range(4):
            hit, called, there = ((g == k) & (t == k)).sum(), (g == k).sum(), (t == k).sum()
            if called + there:
                values["IoU"].append(hit / (called + there - hit))
            if called:
                values["precision"].append(hit / called)
            if there:
                values["recall"].append(hit / there)
        for metric, of in values.items():
            assert found.loc[id, ("RCM", metric)] == pytest.approx(100 * np.mean(of)), (id, metric)
    note = photo_notes(found)["b"]
    assert note == "RCM " + " / ".join(
        f"{found.loc['b', ('RCM', m)]:.0f}" for m in ("IoU", "precision", "recall")
    )
