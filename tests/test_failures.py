"""Kinds of wrong pixels against a search over all pairs of pixels."""

import numpy as np
import pytest

from wsss_lib.failures import failure_shares


def by_search(prediction, truth, width) -> dict[str, float]:
    found = {"missing parts": 0, "wrong border": 0, "noise in the background": 0}
    places = list(np.ndindex(truth.shape))
    for i, j in places:
        if truth[i, j] == 255 or prediction[i, j] == truth[i, j]:
            continue
        others = [np.hypot(i - k, j - m) for k, m in places if truth[k, m] != truth[i, j]]
        if min(others, default=np.inf) < width:
            found["wrong border"] += 1
        else:
            found["missing parts" if truth[i, j] else "noise in the background"] += 1
    return {kind: count / max((truth != 255).sum(), 1) for kind, count in found.items()}


@pytest.mark.parametrize("width", [0.5, 1.5, 3.0])
def test_kinds_are_those_of_a_search(width):
    rng = np.random.default_rng(0)
    for _ in range(5):
        truth = rng.choice([0, 1, 2, 255], (3, 4)).repeat(5, 0).repeat(4, 1)
        prediction = rng.integers(0, 3, truth.shape)
        found = failure_shares(prediction, truth, width)
        assert found == pytest.approx(by_search(prediction, truth, width))
        counts = truth != 255
        assert sum(found.values()) == pytest.approx((prediction != truth)[counts].mean())


def test_masks_without_a_border():
    empty, full = np.zeros((3, 4), int), np.ones((3, 4), int)
    assert failure_shares(full, empty, 2)["noise in the background"] == 1
    assert failure_shares(empty, full, 2)["missing parts"] == 1
    assert set(failure_shares(full, full, 2).values()) == {0}
    assert set(failure_shares(full, np.full((3, 4), 255), 2).values()) == {0}
