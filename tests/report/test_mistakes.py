"""Kinds of wrong pixels against a search over all pairs of pixels."""

import numpy as np
import pandas as pd
import pytest

from wsss_lib.report.mistakes import clearest, failure_kinds, failure_shares, near_border

KINDS = ("missing parts", "wrong class", "wrong border", "noise in the background")


def by_search(prediction, truth, width) -> dict[str, set]:
    found = {kind: set() for kind in KINDS}
    places = list(np.ndindex(truth.shape))
    for i, j in places:
        if truth[i, j] == 255 or prediction[i, j] == truth[i, j]:
            continue
        others = [np.hypot(i - k, j - m) for k, m in places if truth[k, m] != truth[i, j]]
        if min(others, default=np.inf) < width:
            found["wrong border"].add((i, j))
        elif truth[i, j] == 0:
            found["noise in the background"].add((i, j))
        else:
            found["wrong class" if prediction[i, j] else "missing parts"].add((i, j))
    return found


@pytest.mark.parametrize("width", [0.5, 1.5, 3.1])
def test_kinds_are_those_of_a_search(width):
    rng = np.random.default_rng(0)
    for _ in range(5):
        truth = rng.choice([0, 1, 2, 255], (3, 4)).repeat(5, 0).repeat(4, 1)
        prediction = rng.integers(0, 3, truth.shape)
        near = near_border(truth, width / np.hypot(*truth.shape))
        expected = by_search(prediction, truth, width)
        kinds = failure_kinds(prediction, truth, near)
        found = {kind: {(int(i), int(j)) for i, j in np.argwhere(pixels)} for kind, pixels in kinds.items()}
        assert found == expected
        counts = truth != 255
        shares = failure_shares(prediction, truth, near)
        assert shares == {kind: 100 * len(places) / counts.sum() for kind, places in expected.items()}
        assert sum(shares.values()) == pytest.approx(100 * (prediction != truth)[counts].mean())


def test_masks_without_a_border():
    empty, full = np.zeros((3, 4), int), np.ones((3, 4), int)
    nowhere = near_border(full)
    assert not nowhere.any()
    assert failure_shares(full, empty, nowhere)["noise in the background"] == 100
    assert failure_shares(empty, full, nowhere)["missing parts"] == 100
    assert failure_shares(2 * full, full, nowhere)["wrong class"] == 100
    assert set(failure_shares(full, full, nowhere).values()) == {0}
    assert set(failure_shares(full, np.full((3, 4), 255), nowhere).values()) == {0}


def test_the_clearest_photo_is_that_whose_other_failures_are_small():
    shares = pd.DataFrame(
        {"missing parts": [9.0, 5.0, 0.0], "wrong class": 0.0, "wrong border": [8.0, 1.0, 3.0]},
        index=["both", "parts", "border"],
    )
    assert clearest(shares, each=1) == [("missing parts", "parts"), ("wrong border", "border")]
    only = {"wrong border": ["both", "parts"]}
    assert clearest(shares, each=3, only=only) == [
        ("missing parts", "parts"),
        ("missing parts", "both"),
        ("wrong border", "both"),
        ("wrong border", "parts"),
    ]
