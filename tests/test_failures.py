"""Kinds of wrong pixels against a search over all pairs of pixels."""

import numpy as np
import pytest

from wsss_lib.failures import failure_kinds, failure_shares


def by_search(prediction, truth, width) -> dict[str, set]:
    found = {"missing parts": set(), "wrong border": set(), "noise in the background": set()}
    places = list(np.ndindex(truth.shape))
    for i, j in places:
        if truth[i, j] == 255 or prediction[i, j] == truth[i, j]:
            continue
        others = [np.hypot(i - k, j - m) for k, m in places if truth[k, m] != truth[i, j]]
        if min(others, default=np.inf) < width:
            found["wrong border"].add((i, j))
        else:
            found["missing parts" if truth[i, j] else "noise in the background"].add((i, j))
    return found


@pytest.mark.parametrize("width", [0.5, 1.5, 3.1])
def test_kinds_are_those_of_a_search(width):
    rng = np.random.default_rng(0)
    for _ in range(5):
        truth = rng.choice([0, 1, 2, 255], (3, 4)).repeat(5, 0).repeat(4, 1)
        prediction = rng.integers(0, 3, truth.shape)
        border = width / np.hypot(*truth.shape)
        expected = by_search(prediction, truth, width)
        kinds = failure_kinds(prediction, truth, border)
        found = {kind: {(int(i), int(j)) for i, j in np.argwhere(pixels)} for kind, pixels in kinds.items()}
        assert found == expected
        counts = truth != 255
        shares = failure_shares(prediction, truth, border)
        assert shares == {kind: len(places) / counts.sum() for kind, places in expected.items()}
        assert sum(shares.values()) == pytest.approx((prediction != truth)[counts].mean())


def test_masks_without_a_border():
    empty, full = np.zeros((3, 4), int), np.ones((3, 4), int)
    assert failure_shares(full, empty)["noise in the background"] == 1
    assert failure_shares(empty, full)["missing parts"] == 1
    assert set(failure_shares(full, full).values()) == {0}
    assert set(failure_shares(full, np.full((3, 4), 255)).values()) == {0}
