"""What is in SC-CAM's clusters: their photos, what these share, and the weights that tell them apart."""

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from sklearn.manifold import TSNE

from wsss_lib.artifacts import Artifact
from wsss_lib.clustering import agreement, gathered, look_alikes_together, typical
from wsss_lib.data.scenes.dataset import object_traits
from wsss_lib.methods import sc_cam
from wsss_lib.report.chains import histories
from wsss_lib.report.plots_clusters import GATHERED, SPLIT, cluster_montage, weight_map
from wsss_lib.report.selection import most_connected
from wsss_lib.score_maps import ScoreMaps
from wsss_lib.study.study import Study

TRAITS = ("sub-type", "size", "place", "company")


class Clusters:
    """The clusters of every round of one seed, with what photos look like to a network.

    seed: of the clusters. "Looks" are features of the ImageNet backbone, which no round has touched.
    """

    def __init__(self, study: Study, seed: int):
        self.study, self.seed, self.data = study, seed, study.data.train
        self.last = study.section(sc_cam.RECIPE.name).rounds

    @cached_property
    def assigned(self) -> dict[int, np.ndarray]:
        """Round -> (N, C) clusters, -1 where a class is absent."""
        return {r: sc_cam.assigned(self.study, self.seed, r) for r in range(1, self.last + 1)}

    @cached_property
    def features(self) -> dict[int, np.ndarray]:
        """Round -> (N, D) features that its clusters were made from."""
        return {
            r: sc_cam.features(self.study, self.study.classifier(sc_cam.RECIPE.name, self.seed, r - 1))
            for r in self.assigned
        }

    @cached_property
    def looks(self) -> np.ndarray:
        """(N, D)."""
        return sc_cam.features(self.study, None)

    def members(self, name: str) -> np.ndarray:
        """Rows of the training photos of a class."""
        return np.flatnonzero(self.data.labels[:, self.data.classes.index(name)])

    def of(self, name: str, r: int) -> np.ndarray:
        """Clusters of round `r` of the photos of a class, in the order of `members`."""
        return self.assigned[r][self.members(name), self.data.classes.index(name)]

    def look_alikes(self) -> pd.DataFrame:
        """How often a photo shares a cluster with the photo most like it, and how often any two do, in %.

        Returns:
            Index class, round; columns "look-alikes in one cluster (%)", "any two in one cluster (%)".
        """
        found = {
            (name, r): look_alikes_together(self.of(name, r), self.looks[self.members(name)])
            for name in self.data.classes
            for r in self.assigned
        }
        columns = ["look-alikes in one cluster (%)", "any two in one cluster (%)"]
        return 100 * pd.DataFrame(found, index=columns).T.rename_axis(["class", "round"])

    def montage(self, name: str) -> Figure:
        """Clusters of a class after the first and the last round, six typical photos of each.

        Boxed are four photos chosen by rule: of all that share a cluster in the last round and were split in
        the first, those that look most alike.
        """
        photos = self.members(name)
        boxed = gathered(self.of(name, 1), self.of(name, self.last), self.looks[photos], 4)
        panels = {
            f"{name}, round {r}": self._rows(name, r, 6, {i: colour for i in boxed.tolist()})
            for r, colour in ((1, SPLIT), (self.last, GATHERED))
        }
        return cluster_montage(
            panels, {"look-alikes, split": SPLIT, "gathered": GATHERED} if len(boxed) else None
        )

    def three_of_each(self) -> Figure:
        """Three clusters of the last round, four typical photos of each, of the first six classes."""
        panels = {
            name: dict(list(self._rows(name, self.last, 4, {}).items())[:3]) for name in self.data.classes[:6]
        }
        return cluster_montage(panels, across=3, width=0.7)

    def _rows(
        self, name: str, r: int, count: int, boxed: Mapping[int, str]
    ) -> dict[str, list[tuple[np.ndarray, str | None]]]:
        photos = self.members(name)
        chosen = typical(self.of(name, r), self.features[r][photos], count, np.array(list(boxed), int))
        return {
            f"cluster {k + 1}": [
                (self.data.image(self.data.ids[photos[i]]), boxed.get(i)) for i in row.tolist()
            ]
            for k, row in chosen.items()
        }

    def agreement_with_traits(self) -> pd.DataFrame:
        """NMI and ARI of clusters and true traits of the scenes' animals, mean over the classes.

        Returns:
            Index trait, seed, clusters of round; every seed of the study.
        """
        traits = object_traits(self.data.root)
        found = {
            (trait, s, r): agreement(sc_cam.clusters(self.study, s, r), traits, trait)[["NMI", "ARI"]].mean()
            for trait in TRAITS
            for s in self.study.seeds
            for r in self.assigned
        }
        return pd.DataFrame(found).T.rename_axis(["trait", "seed", "clusters of round"])

    @cached_property
    def connected(self) -> str:
        """The class that shares most photos with others."""
        return self.data.classes[most_connected(self.data.labels)]

    def weights_in_the_plane(self) -> Figure:
        """Weights of all classes and of the sub-categories of `connected`, laid out by t-SNE."""
        parents, subs = sc_cam.head_weights(self.study, self.seed, self.last)
        weights = np.concatenate([parents, subs[self.data.classes.index(self.connected)]])
        perplexity = min(5, len(weights) - 1)
        places = TSNE(perplexity=perplexity, init="random", metric="cosine", random_state=0).fit_transform(
            weights
        )
        return weight_map(places, self.data.classes, self.connected)

    def weights_and_company(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Of each sub-category of `connected` and each other class, a row and a column: the cosine of their
        weights, and the lift, how much more often (share) the sub-category's photos hold that class than all
        photos of the parent.
        """
        parent, names = self.data.classes.index(self.connected), self.data.classes
        parents, subs = sc_cam.head_weights(self.study, self.seed, self.last)
        assigned = self.of(self.connected, self.last)
        cosines = _unit(subs[parent]) @ _unit(parents).T
        return company(
            assigned, self.data.labels[self.members(self.connected)], cosines, names, self.connected
        )

    def pure_examples(self) -> tuple[str, list[str]]:
        """The first class with photos of no other class, and three of them, of different sub-categories.

        Raises:
            ValueError: every photo has several classes.
        """
        alone = self.data.labels.sum(1) == 1
        for name in self.data.classes:
            photos = self.members(name)
            if (single := alone[photos]).any():
                rows = typical(self.of(name, self.last)[single], self.features[self.last][photos[single]], 1)
                return name, [str(self.data.ids[photos[single][row[0]]]) for row in rows.values()][:3]
        raise ValueError("Every training photo has several classes; there is none to show one alone.")

    def finer_maps(self, ids: Sequence[str]) -> dict[str, ScoreMaps]:
        """Maps of the sub-categories of photos, by the second head of the last round."""
        return sc_cam.sub_category_maps(self.study, self.seed, self.last, ids)

    def steps(self) -> list[Artifact]:
        """The stages of Algorithm 1: classifier, then in each round features, clusters, classifier."""
        name = sc_cam.RECIPE.name
        made = [self.study.classifier(name, self.seed, 0)]
        for r in self.assigned:
            made += [
                sc_cam.image_features(self.study, made[-1]),
                sc_cam.cluster_photos(self.study, self.seed, r),
                self.study.classifier(name, self.seed, r),
            ]
        return made

    def histories(self) -> dict[str, pd.DataFrame]:
        """Training of each round: "round 1" -> columns epoch, loss, ..."""
        return histories(
            {
                f"round {r}": self.study.classifier(sc_cam.RECIPE.name, self.seed, r)
                for r in range(self.last + 1)
            }
        )


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def company(
    assigned: np.ndarray, labels: np.ndarray, cosines: np.ndarray, names: Sequence[str], parent: str
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The tables of `Clusters.weights_and_company`.

    Args:
        assigned: (n,) clusters of the parent's photos; labels: (n, C) their classes; cosines: (K, C).
    """
    found = np.unique(assigned)
    lift = np.stack([labels[assigned == k].mean(0) - labels.mean(0) for k in found])
    rows = [f"{parent} {k + 1}" for k in found]
    others = [name for name in names if name != parent]
    cosine, more = (pd.DataFrame(values, rows, list(names))[others] for values in (cosines[found], lift))
    return cosine, more
