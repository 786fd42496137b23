"""Photos are chosen by the rule that is told."""

import handmade
import numpy as np
import pandas as pd
import pytest
from conftest import keep_apart
from sklearn.metrics import jaccard_score

from wsss_lib.report.selection import (
    best_and_worst,
    evenly,
    hidden_gains,
    most_connected,
    photo_iou,
    present_classes,
)
from wsss_lib.study.study import Study


@pytest.mark.parametrize(
    ("number", "count", "expected"),
    [(12, 4, [0, 3, 6, 9]), (13, 4, [0, 3, 6, 9]), (5, 4, [0, 1, 2, 3]), (2, 4, [0, 1]), (4, 1, [0])],
)
def test_even_distances_begin_with_the_first(number, count, expected):
    ids = [str(i) for i in range(number)]
    assert evenly(ids, count) == [str(i) for i in expected]


def test_the_iou_of_a_photo_is_over_the_classes_in_it_or_predicted(tiny_voc, tmp_path):
    study = Study(
        "smoke", "tiny", keep_apart(tiny_voc), cache=tmp_path / "cache", results=tmp_path / "results"
    )
    rng = np.random.default_rng(0)
    ids = study.data.scored("train")
    found = {id: rng.choice([0, 8, 12, 15], (24, 32)).astype(np.uint8) for id in ids}
    values = photo_iou(study, handmade.masks(tmp_path / "masks", found))
    assert values.index.tolist() == ids
    for id in ids:
        truth = study.data.train.mask(id)
        counted = truth != 255
        expected = jaccard_score(truth[counted], found[id][counted], average="macro")
        assert values[id] == pytest.approx(100 * expected)


def test_best_and_worst_are_named_with_their_value():
    values = pd.Series({"a": 10.0, "b": 90.4, "c": 50.0, "d": 7.0, "e": 80.0})
    assert best_and_worst(values, 2) == {"b": "best: 90", "e": "best: 80", "d": "worst: 7", "a": "worst: 10"}
    assert best_and_worst(values[:1], 2) == {"a": "best: 10"}


def test_hidden_gains_changed_little_at_first_and_most_later():
    gain = pd.DataFrame(
        {"CAM": [0.1, -0.2, 9.0, -8.0, 0.3, 7.0], "walk": [1.0, 5.0, 99.0, 98.0, 3.0, 97.0]}, list("abcdef")
    )
    assert hidden_gains(gain, 2) == ["b", "e"]
    assert hidden_gains(gain) == ["b", "e", "a"]  # half of the photos are three


def test_the_most_connected_class_shares_most_photos():
    labels = np.array([[1, 1, 0], [0, 1, 1], [0, 1, 1], [1, 0, 0], [1, 0, 0]], np.float32)
    assert most_connected(labels) == 1


def test_present_classes_are_those_of_the_label(tiny_voc, tmp_path):
    study = Study(
        "smoke", "tiny", keep_apart(tiny_voc), cache=tmp_path / "cache", results=tmp_path / "results"
    )
    assert present_classes(study.data.train, "a2") == ["cat", "person"]
