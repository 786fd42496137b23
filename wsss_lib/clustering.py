"""Sub-categories of each class by K-means on image features (SC-CAM, equation 3.2): no files, no network.

A photo of several classes has one feature vector and takes part in the clustering of each of its classes.
Assignments are (N, C) integers: the cluster 0..K-1 of photo i within class c, -1 where the class is absent.
"""

import warnings
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.spatial.distance import cdist
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

ABSENT = -1


def cluster(features: np.ndarray, clusters: int, n_init: int, seed: int) -> np.ndarray:
    """Equation 3.2: min_T 1/N sum_i min_k |f_i - t_k|^2 over K centroids t_k, by K-means++ and Lloyd.

    Clusters are numbered by size, the largest first. Where fewer than `clusters` features are distinct, each
    distinct one is a cluster.

    Args:
        features: (N, D), one row a photo, as they are: the paper neither scales nor projects them.
        clusters: K.
        n_init: starts, of which the best counts.
        seed: of the starts.

    Returns:
        (N,) integers below min(clusters, N).
    """
    distinct = len(np.unique(features, axis=0))
    means = KMeans(min(clusters, distinct), n_init=n_init, random_state=seed)
    labels = means.fit_predict(features)
    by_size = np.argsort(-np.bincount(labels), kind="stable")
    return np.argsort(by_size)[labels]


def sub_categories(
    ids: Sequence[str],
    features: np.ndarray,
    labels: np.ndarray,
    clusters: int,
    n_init: int,
    seed: int,
    names: Sequence[str],
) -> np.ndarray:
    """Assignments (N, C) of the photos in the order of `ids`; the same for each photo in any order.

    A class with fewer photos than `clusters` gets fewer sub-categories, with a warning.

    Args:
        ids: (N,) names of the photos; features: (N, D); labels: (N, C) multi-hot.
        names: (C,) names of the classes, for the warning; the rest as in `cluster`.

    Raises:
        ValueError: ids, features and labels of different numbers of photos.
    """
    if not len(ids) == len(features) == len(labels):
        raise ValueError(
            f"{len(ids)} ids, {len(features)} features and {len(labels)} labels; give one of each a photo."
        )
    assigned = np.full(labels.shape, ABSENT, np.int64)
    by_id = np.argsort(np.asarray(ids, dtype=str))  # K-means depends on the order of its rows
    for column, name in enumerate(names):
        photos = by_id[labels[by_id, column] > 0]
        if len(photos) < clusters:
            warnings.warn(
                f"Class {name} has {len(photos)} photos for {clusters} sub-categories: "
                f"it gets {len(photos)}.",
                stacklevel=2,
            )
        if len(photos):
            assigned[photos, column] = cluster(features[photos], clusters, n_init, seed)
    return assigned


def sub_labels(assigned: np.ndarray, clusters: int) -> np.ndarray:
    """Y_s: assignments (N, C) -> (N, C * K) float32, 1 at c * K + k for sub-category k of a present class c.

    Raises:
        ValueError: a cluster number that is not below K.
    """
    if assigned.size and assigned.max() >= clusters:
        raise ValueError(f"Cluster {assigned.max()} is not below K = {clusters}; give the clustering's K.")
    layout = assigned[..., None] == np.arange(clusters)
    return layout.reshape(len(assigned), -1).astype(np.float32)


def gathered(before: np.ndarray, after: np.ndarray, looks: np.ndarray, size: int) -> np.ndarray:
    """The `size` photos that look most alike among those split by one clustering and gathered by a later one.

    They share a cluster of `after`, lie in at least half as many clusters of `before` as there are photos
    (two at least), and their summed distance in `looks` to one of them is the smallest.

    Args:
        before, after: (n,) clusters of the photos of one class; looks: (n, D) features that made neither.

    Returns:
        (size,) indices, or none if no photos are like that.
    """
    distances = cdist(looks, looks)
    best, least = np.empty(0, np.int64), np.inf
    for photo in range(len(after)):
        mates = np.flatnonzero(after == after[photo])
        group = mates[np.argsort(distances[photo, mates], kind="stable")[:size]]
        split = len(np.unique(before[group])) >= max(2, size // 2)
        if len(group) == size and split and distances[photo, group].sum() < least:
            best, least = group, distances[photo, group].sum()
    return best


def look_alikes_together(assigned: np.ndarray, looks: np.ndarray) -> tuple[float, float]:
    """Share of photos whose nearest neighbour in `looks` is in their cluster, and of all pairs in one.

    assigned: (n,) clusters of the photos of one class; looks: (n, D). Both shares lie in [0, 1]; the second
    is what pairs drawn at random would reach. A single photo is like no other: both are NaN.
    """
    if len(assigned) == 1:
        return np.nan, np.nan
    distances = cdist(looks, looks)
    np.fill_diagonal(distances, np.inf)
    together = assigned == assigned[distances.argmin(1)]
    same = assigned[:, None] == assigned[None]
    count = len(assigned)
    return float(together.mean()), float((same.sum() - count) / (count * (count - 1)))


def typical(
    assigned: np.ndarray, features: np.ndarray, count: int, first: np.ndarray | None = None
) -> dict[int, np.ndarray]:
    """Up to `count` photos of each cluster to look at: of `first`, then the nearest to the cluster's mean.

    assigned: (n,) clusters; features: (n, D); first: indices of photos to show before others. Returns
    cluster -> indices.
    """
    shown = {}
    for k in np.unique(assigned).tolist():
        members = np.flatnonzero(assigned == k)
        distances = np.linalg.norm(features[members] - features[members].mean(0), axis=1)
        wanted = np.isin(members, [] if first is None else first)
        shown[k] = members[np.lexsort((distances, ~wanted))][:count]
    return shown


def agreement(clusters: pd.DataFrame, traits: pd.DataFrame, trait: str) -> pd.DataFrame:
    """How well the clusters of each class follow a known trait of its objects.

    Args:
        clusters: columns id, class, cluster; traits: columns id, class and `trait`, a row for each of them.

    Returns:
        Index class; columns photos, NMI in [0, 1] (normalised by the mean entropy) and ARI (0 by chance, at
        most 1); both ignore the numbers of the clusters.
    """
    rows = clusters.merge(traits, on=["id", "class"], validate="one_to_one")
    return pd.DataFrame(
        {
            name: {
                "photos": len(group),
                "NMI": normalized_mutual_info_score(group[trait], group["cluster"]),
                "ARI": adjusted_rand_score(group[trait], group["cluster"]),
            }
            for name, group in rows.groupby("class", sort=False)
        }
    ).T.rename_axis("class")
