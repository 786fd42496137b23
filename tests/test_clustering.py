"""Sub-categories: K-means against brute force, order of the photos, layout of the labels, small classes."""

import itertools

import numpy as np
import pandas as pd
import pytest

from wsss_lib.clustering import (
    agreement,
    cluster,
    gathered,
    look_alikes_together,
    sub_categories,
    sub_labels,
    typical,
)


def objective(features: np.ndarray, labels: np.ndarray) -> float:
    """Equation 3.2 without the mean, as loops."""
    total = 0.0
    for k in set(labels.tolist()):
        members = [f for f, label in zip(features, labels, strict=True) if label == k]
        centroid = sum(members) / len(members)
        total += sum(float(((f - centroid) ** 2).sum()) for f in members)
    return total


@pytest.mark.parametrize("seed", range(3))
def test_kmeans_reaches_the_best_of_all_partitions(seed):
    features = np.random.default_rng(seed).normal(size=(8, 3))
    best = min(objective(features, np.array(way)) for way in itertools.product(range(3), repeat=8))
    found = cluster(features, 3, n_init=50, seed=0)
    assert objective(features, found) == pytest.approx(best)
    assert (np.diff(np.bincount(found)) <= 0).all()  # the largest first


def drawn(count: int = 60, classes: int = 3, seed: int = 0):
    rng = np.random.default_rng(seed)
    labels = (rng.random((count, classes)) < 0.5).astype(np.float32)
    labels[np.arange(count), rng.integers(classes, size=count)] = 1
    return [f"{n:04d}" for n in rng.permutation(count)], rng.normal(size=(count, 5)), labels


def test_a_photo_has_the_same_sub_categories_in_any_order():
    ids, features, labels = drawn()
    names = ("a", "b", "c")
    found = sub_categories(ids, features, labels, 4, 3, 7, names)
    shuffled = np.random.default_rng(1).permutation(len(ids))
    again = sub_categories([ids[i] for i in shuffled], features[shuffled], labels[shuffled], 4, 3, 7, names)
    np.testing.assert_array_equal(again, found[shuffled])
    np.testing.assert_array_equal(found >= 0, labels > 0)
    assert all(set(column[column >= 0]) == {0, 1, 2, 3} for column in found.T)


def test_each_class_is_clustered_by_itself():
    ids, features, labels = drawn()
    found = sub_categories(ids, features, labels, 4, 3, 7, "abc")
    alone = sub_categories(ids, features, labels[:, 1:2], 4, 3, 7, "b")
    np.testing.assert_array_equal(found[:, 1], alone[:, 0])


def test_a_class_with_fewer_photos_than_clusters_says_so():
    ids, features, _ = drawn(6)
    labels = np.array([[1, 1, 0]] * 3 + [[1, 0, 0]] * 3, np.float32)
    with (
        pytest.warns(UserWarning, match=r"Class b has 3 photos for 4 sub-categories"),
        pytest.warns(UserWarning, match=r"Class c has 0 photos"),
    ):
        found = sub_categories(ids, features, labels, 4, 1, 0, ("a", "b", "c"))
    assert sorted(found[:3, 1]) == [0, 1, 2]
    assert set(found[:, 0]) == {0, 1, 2, 3}
    assert (found[:, 2] == -1).all()  # a class without photos
    one = cluster(np.ones((5, 2)), 3, 1, 0)  # equal photos are one cluster
    assert one.tolist() == [0] * 5


def test_sub_labels_lie_class_by_class():
    assigned = np.array([[2, -1], [0, 1], [-1, -1]])
    labels = sub_labels(assigned, 3)
    assert labels.dtype == np.float32
    assert labels.tolist() == [[0, 0, 1, 0, 0, 0], [1, 0, 0, 0, 1, 0], [0] * 6]


def test_sub_labels_of_a_class_sum_to_its_label():
    ids, features, labels = drawn()
    found = sub_labels(sub_categories(ids, features, labels, 4, 1, 0, "abc"), 4)
    np.testing.assert_array_equal(found.reshape(-1, 3, 4).sum(2), labels)
    with pytest.raises(ValueError, match="not below K = 2"):
        sub_labels(np.array([[2]]), 2)


def test_one_row_a_photo():
    with pytest.raises(ValueError, match="2 ids, 3 features"):
        sub_categories(["a", "b"], np.ones((3, 2)), np.ones((3, 1)), 2, 1, 0, "a")


def test_gathered_is_the_tightest_group_that_was_split():
    rng = np.random.default_rng(0)
    before, after, looks = rng.integers(0, 3, 14), rng.integers(0, 2, 14), rng.normal(size=(14, 2))
    best, least = None, np.inf
    for anchor in range(14):
        for group in itertools.combinations(range(14), 4):
            if anchor not in group or len(set(after[list(group)])) > 1:
                continue
            spread = sum(np.linalg.norm(looks[anchor] - looks[i]) for i in group)
            nearest = sorted(
                np.linalg.norm(looks[anchor] - looks[i]) for i in range(14) if after[i] == after[anchor]
            )
            tightest = spread == pytest.approx(sum(nearest[:4]))  # the anchor's own nearest, no others
            if tightest and len(set(before[list(group)])) >= 2 and spread < least:
                best, least = set(group), spread
    assert set(gathered(before, after, looks, 4).tolist()) == best
    assert gathered(np.zeros(14), after, looks, 4).size == 0  # nothing was split


def test_look_alikes_together_against_a_loop():
    rng = np.random.default_rng(0)
    assigned, looks = rng.integers(0, 3, 20), rng.normal(size=(20, 4))
    hits = pairs = 0
    for i in range(20):
        others = [j for j in range(20) if j != i]
        nearest = min(others, key=lambda j: np.linalg.norm(looks[i] - looks[j]))
        hits += assigned[i] == assigned[nearest]
        pairs += sum(assigned[i] == assigned[j] for j in others)
    assert look_alikes_together(assigned, looks) == pytest.approx((hits / 20, pairs / 380))
    assert np.isnan(look_alikes_together(assigned[:1], looks[:1])).all()


def test_typical_photos_are_nearest_to_the_mean_and_the_wanted_come_first():
    features = np.array([[0.0], [1.0], [5.0], [10.0], [11.0], [15.0]])
    assigned = np.array([0, 0, 0, 1, 1, 1])
    shown = typical(assigned, features, 2)
    assert {k: v.tolist() for k, v in shown.items()} == {0: [1, 0], 1: [4, 3]}
    assert typical(assigned, features, 2, first=np.array([5]))[1].tolist() == [5, 4]


def test_agreement_is_per_class_and_perfect_under_renaming():
    clusters = pd.DataFrame(
        {"id": list("abcdef"), "class": ["cat"] * 4 + ["dog"] * 2, "cluster": [0, 0, 1, 1, 0, 0]}
    )
    traits = pd.DataFrame(
        {"id": list("fedcba"), "class": ["dog"] * 2 + ["cat"] * 4, "sub-type": list("xy") + list("qqrr")}
    )
    table = agreement(clusters, traits, "sub-type")
    assert table.loc["cat"].tolist() == [4, 1, 1]
    assert table.loc["dog", "photos"] == 2
    assert table.loc["dog", "NMI"] == pytest.approx(0)  # one cluster says nothing
