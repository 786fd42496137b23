"""The pages and tables of clusters, on clusters and features that are known."""

from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from scipy.spatial.distance import cosine

from wsss_lib.clustering import look_alikes_together
from wsss_lib.report import sub_categories
from wsss_lib.report.sub_categories import Clusters, company

CLASSES = ("cat", "dog")


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


@pytest.fixture
def clusters(monkeypatch) -> Clusters:
    """20 photos, two rounds; photos 0..11 are cats, 8..19 dogs."""
    rng = np.random.default_rng(0)
    labels = np.zeros((20, 2), np.float32)
    labels[:12, 0] = labels[8:, 1] = 1
    assigned = {r: np.where(labels > 0, rng.integers(0, 3, labels.shape), -1) for r in (1, 2)}
    data = SimpleNamespace(
        labels=labels, classes=CLASSES, ids=[f"p{i}" for i in range(20)],
        image=lambda id: np.full((4, 6, 3), int(id[1:]), np.uint8),
    )  # fmt: skip
    study = SimpleNamespace(
        seeds=(0, 1), data=SimpleNamespace(train=data), section=lambda name: SimpleNamespace(rounds=2),
        classifier=lambda name, seed, r: (name, seed, r),
    )  # fmt: skip
    drawn = {None: rng.normal(size=(20, 5)), **{("sc_cam", 7, r): rng.normal(size=(20, 5)) for r in (0, 1)}}
    weights = rng.normal(size=(2, 5)), rng.normal(size=(2, 3, 5))
    monkeypatch.setattr(sub_categories.sc_cam, "assigned", lambda study, seed, r: assigned[r])
    monkeypatch.setattr(sub_categories.sc_cam, "features", lambda study, net: drawn[net])
    monkeypatch.setattr(sub_categories.sc_cam, "head_weights", lambda study, seed, r: weights)
    monkeypatch.setattr(sub_categories.sc_cam, "image_features", lambda study, net: ("features", *net))
    monkeypatch.setattr(sub_categories.sc_cam, "cluster_photos", lambda study, seed, r: ("clusters", seed, r))
    return Clusters(study, 7)


def test_members_clusters_and_features_are_those_of_the_class_and_round(clusters):
    assert clusters.members("dog").tolist() == list(range(8, 20))
    assert clusters.of("dog", 2).tolist() == clusters.assigned[2][8:, 1].tolist()
    assert set(clusters.features) == {1, 2}


def test_look_alikes_have_a_row_a_class_and_round(clusters):
    table = clusters.look_alikes()
    assert table.index.tolist() == [(name, r) for name in CLASSES for r in (1, 2)]
    for name, r in table.index:
        expected = look_alikes_together(clusters.of(name, r), clusters.looks[clusters.members(name)])
        assert table.loc[(name, r)].tolist() == pytest.approx([100 * share for share in expected])


def test_a_montage_shows_members_in_the_row_of_their_cluster(clusters):
    figure = clusters.montage("cat")
    assert [part._suptitle.get_text() for part in figure.subfigs] == ["cat, round 1", "cat, round 2"]
    for part, r in zip(figure.subfigs, (1, 2), strict=True):
        cluster = None
        for axis in part.axes:
            cluster = int(axis.get_ylabel().removeprefix("cluster ")) - 1 if axis.get_ylabel() else cluster
            if axis.images:
                photo = int(axis.images[0].get_array()[0, 0, 0])
                assert clusters.assigned[r][photo, 0] == cluster
    three = clusters.three_of_each()
    assert [part._suptitle.get_text() for part in three.subfigs[:2]] == list(CLASSES)


def test_weights_and_company_are_cosines_and_differences_of_shares(clusters):
    assert clusters.connected == "cat"
    cosines, lift = clusters.weights_and_company()
    parents, subs = sub_categories.sc_cam.head_weights(None, 7, 2)
    of, dogs = clusters.of("cat", 2), clusters.data.labels[:12, 1]
    assert cosines.columns.tolist() == lift.columns.tolist() == ["dog"]
    for place, k in enumerate(np.unique(of)):
        assert cosines.index[place] == f"cat {k + 1}"
        assert cosines.iloc[place, 0] == pytest.approx(1 - cosine(subs[0, k], parents[1]))
        assert lift.iloc[place, 0] == pytest.approx(dogs[of == k].mean() - dogs.mean())
    axis = clusters.weights_in_the_plane().axes[0]
    assert [text.get_text() for text in axis.texts] == ["cat", "dog", "1", "2", "3"]


def test_a_cluster_without_photos_has_no_row():
    labels = np.array([[1.0, 0.0], [1.0, 1.0]])
    cosines, lift = company(np.array([2, 2]), labels, np.arange(6.0).reshape(3, 2), CLASSES, "cat")
    pd.testing.assert_frame_equal(cosines, pd.DataFrame({"dog": [5.0]}, ["cat 3"]))
    assert lift.to_numpy().tolist() == [[0.0]]


def test_pure_examples_have_one_class_and_different_clusters(clusters):
    name, chosen = clusters.pure_examples()
    assert name == "cat"
    places = [int(id[1:]) for id in chosen]
    assert all(place < 8 for place in places)  # cats that are alone
    found = clusters.assigned[2][places, 0].tolist()
    assert len(set(found)) == len(found) == len(np.unique(clusters.assigned[2][:8, 0]))
    clusters.data.labels[:] = 1
    with pytest.raises(ValueError, match="Every training photo has several classes"):
        clusters.pure_examples()


def test_steps_go_features_clusters_classifier_round_by_round(clusters):
    assert clusters.steps() == [
        ("sc_cam", 7, 0),
        ("features", "sc_cam", 7, 0), ("clusters", 7, 1), ("sc_cam", 7, 1),
        ("features", "sc_cam", 7, 1), ("clusters", 7, 2), ("sc_cam", 7, 2),
    ]  # fmt: skip


def test_agreement_is_the_mean_over_classes_for_each_trait_seed_and_round(clusters, monkeypatch):
    traits = pd.DataFrame({"id": ["p0"]})
    clusters.data.root = "root"
    monkeypatch.setattr(sub_categories, "object_traits", lambda root: traits)
    monkeypatch.setattr(sub_categories.sc_cam, "clusters", lambda study, seed, r: (seed, r))
    monkeypatch.setattr(
        sub_categories,
        "agreement",
        lambda found, traits, trait: pd.DataFrame(
            {"photos": [1, 1], "NMI": [found[0], 1.0], "ARI": [found[1], 0]}
        ),
    )
    table = clusters.agreement_with_traits()
    assert table.index.names == ["trait", "seed", "clusters of round"]
    assert len(table) == 4 * 2 * 2
    assert table.loc[("size", 1, 2)].to_dict() == {"NMI": 1.0, "ARI": 1.0}
