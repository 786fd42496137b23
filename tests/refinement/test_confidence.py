"""The confidence of a mask, against values worked out by hand."""

import numpy as np
import pytest

from wsss_lib.refinement.confidence import confidence


def two(cat: np.ndarray) -> np.ndarray:
    return np.stack([1 - cat, cat])


def test_margin_of_object_pixels_near_their_border():
    cat = np.zeros((1, 100))
    cat[0, :50] = 1.0
    cat[0, 40:50] = [0.9] * 5 + [0.6] * 5  # margins 0.8 and 0.2, within 5 and 10 pixels of the border
    assert confidence(two(cat), [0, 1], near=0.05) == pytest.approx(0.2)
    assert confidence(two(cat), [0, 1], near=0.1) == pytest.approx(0.5)
    cat[0, 50:] = 0.4  # the background's doubts do not count
    assert confidence(two(cat), [0, 1], near=0.05) == pytest.approx(0.2)


def test_scores_need_not_sum_to_one():
    cat = np.where(np.arange(50) < 20, 0.7, 0.1)[None]
    scores = two(cat)
    assert confidence(3 * scores, [0, 1]) == pytest.approx(confidence(scores, [0, 1])) == pytest.approx(0.4)


def test_sharper_borders_are_more_certain_whatever_the_size_of_the_object():
    places = np.arange(200.0)
    soft, sharp = (two(1 / (1 + np.exp((places - 60) / width)))[:, None] for width in (10, 1))
    large = two(1 / (1 + np.exp(places - 140)))[:, None]
    assert confidence(soft, [0, 1]) < 0.3 < 0.8 < confidence(sharp, [0, 1])
    assert confidence(large, [0, 1]) == pytest.approx(confidence(sharp, [0, 1]), abs=0.01)


def test_borders_between_two_classes_count_on_both_sides():
    scores = np.zeros((3, 1, 40))
    scores[1, 0, :20], scores[2, 0, 20:] = 0.8, 0.6
    scores[2, 0, :20], scores[1, 0, 20:] = 0.2, 0.4
    assert confidence(scores, [0, 4, 9]) == pytest.approx((0.6 + 0.2) / 2)


def test_without_a_border_the_whole_photo_counts():
    assert confidence(two(np.full((4, 5), 0.9)), [0, 1]) == pytest.approx(0.8)
    assert confidence(two(np.full((4, 5), 0.2)), [0, 1]) == pytest.approx(0.6)


def test_a_class_of_the_label_without_a_pixel_has_no_confidence():
    scores = np.stack([np.full((3, 3), 0.5), np.full((3, 3), 0.4), np.full((3, 3), 0.1)])
    scores[1, 0, 0] = 0.9
    assert confidence(scores, [0, 2, 5]) > 0
    assert confidence(scores, [0, 2, 5], expected=[2]) > 0
    assert confidence(scores, [0, 2, 5], expected=[2, 5]) == 0


def test_one_class_alone_is_certain():
    assert confidence(np.ones((1, 3, 3)), [0]) == 1


@pytest.mark.parametrize("seed", range(3))
def test_it_lies_between_0_and_1(seed):
    scores = np.random.default_rng(seed).random((3, 20, 30))
    assert 0 <= confidence(scores, [0, 1, 2]) <= 1
