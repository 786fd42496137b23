"""SC-CAM's stages in a study: each round goes features -> clusters -> classifier -> maps."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch

from wsss_lib.clustering import ABSENT, sub_categories, sub_labels
from wsss_lib.data.examples import SubCategoryExamples, photo_tensor
from wsss_lib.inference import pooled_features, response_maps
from wsss_lib.methods.sc_cam import SUB_HEAD
from wsss_lib.runtime.cache import Artifact, arrays
from wsss_lib.runtime.files import save_atomically
from wsss_lib.score_maps import ScoreMaps
from wsss_lib.training import mix_seeds, trained_weights


class StudySubCategories:
    """The SC-CAM part of `Study`, which gives it data, configuration, networks and cache.

    Round 0 is the CAM baseline. Round r learns the clusters of the features of round r - 1.
    """

    def image_features(self, classifier: Artifact | None) -> Artifact:
        """features.npz: `features` (N, D), pooled over the whole training photos, of a classifier's network.

        None stands for the ImageNet backbone: looks that no training of ours has changed.
        """
        data, maps = self._labelled("train"), self.config.maps

        def work(out: Path) -> None:
            model = (
                self._trained_classifier(classifier)
                if classifier
                else self._classifier_net("cam", 0).to(self.device)
            )
            found = pooled_features(model.eval(), data, maps.batch, self.device, title)
            save_atomically(lambda path: np.savez_compressed(path, features=found), out / "features.npz")

        title = f"image features of {classifier.title if classifier else 'the ImageNet backbone'}"
        return self._stage(
            "image_features", 1, self._backbone_config(),
            [*([classifier.key] if classifier else []), data.fingerprint()], work, title,
            classifier.labels if classifier else {},
        )  # fmt: skip

    def features(self, classifier: Artifact | None) -> np.ndarray:
        """The array (N, D) of `image_features`, row i for the i-th training photo."""
        return self.image_features(classifier).read("features.npz", arrays)["features"]

    def sub_categories(self, seed: int, rounds: int) -> Artifact:
        """clusters.csv (id, class, cluster): what round `rounds` >= 1 learns, K-means per class.

        Raises:
            ValueError: a round below 1, which learns no clusters.
        """
        if rounds < 1:
            raise ValueError(f"Round {rounds} of SC-CAM learns no clusters; choose round 1 or later.")
        data, config = self._labelled("train"), self.config.sc_cam
        before = self.sub_category_classifier(seed, rounds - 1)
        features = self.image_features(before)

        def work(out: Path) -> None:
            assigned = sub_categories(
                data.ids, self.features(before), data.labels, config.clusters, config.n_init, seed,
                data.classes,
            )  # fmt: skip
            photo, column = np.nonzero(assigned != ABSENT)
            table = {
                "id": np.array(data.ids)[photo],
                "class": np.array(data.classes)[column],
                "cluster": assigned[photo, column],
            }
            save_atomically(lambda path: pd.DataFrame(table).to_csv(path, index=False), out / "clusters.csv")

        return self._stage(
            "sub_categories", 1, {"clusters": config.clusters, "n_init": config.n_init, "seed": seed},
            [features.key, data.fingerprint()], work, f"sub-categories of round {rounds}, seed {seed}",
            {"method": "sc_cam", "seed": seed, "rounds": rounds},
        )  # fmt: skip

    def clusters(self, seed: int, rounds: int) -> pd.DataFrame:
        """The table of `sub_categories`: a row id, class, cluster for each class of each training photo."""
        found = self.sub_categories(seed, rounds)
        return found.read("clusters.csv", lambda path: pd.read_csv(path, dtype={"id": str}))

    def assigned(self, seed: int, rounds: int) -> np.ndarray:
        """The clusters of a round as `clustering` has them: (N, C), -1 where a class is absent."""
        data, table = self._labelled("train"), self.clusters(seed, rounds)
        found = np.full(data.labels.shape, ABSENT)
        rows, columns = pd.Index(data.ids), pd.Index(data.classes)
        found[rows.get_indexer(table["id"]), columns.get_indexer(table["class"])] = table["cluster"]
        return found

    def sub_category_classifier(self, seed: int, rounds: int) -> Artifact:
        """Classifier after `rounds` rounds of Algorithm 1; the CAM baseline for 0."""
        if rounds == 0:
            return self.classifier("cam", seed)
        config, data = self.config.sc_cam, self._labelled("train")
        training = self.config.training_of("sc_cam")
        clusters, before = self.sub_categories(seed, rounds), self.sub_category_classifier(seed, rounds - 1)

        def work(out: Path) -> None:
            model = self._classifier_net("sc_cam", seed)
            if config.start == "previous":
                model.start_from(trained_weights(before.path))
            examples = SubCategoryExamples(
                self._classification_examples(model, training),
                sub_labels(self.assigned(seed, rounds), config.clusters),
            )
            # a seed of its own: a round sees other crops than the round before
            self._train(model, examples, len(data), training, out, title, mix_seeds(seed, rounds))

        title = f"sc_cam classifier, round {rounds}, seed {seed}"
        labels = {"method": "sc_cam", "seed": seed, "rounds": rounds}
        return self._stage(
            "classifier", 1,
            {**labels, "clusters": config.clusters, "weight": config.weight}
            | self._net_config(training),
            [clusters.key, data.fingerprint()], work, title, labels, trains=True,
        )  # fmt: skip

    def head_weights(self, seed: int, rounds: int) -> tuple[np.ndarray, np.ndarray]:
        """Weights of both heads: theta_p (C, D) and theta_s (C, K, D)."""
        state = trained_weights(self.sub_category_classifier(seed, rounds).path)
        parent, sub = (state[f"{head}.weight"].flatten(1).numpy() for head in ("classifier", SUB_HEAD))
        return parent, sub.reshape(len(parent), -1, parent.shape[1])

    def sub_category_maps(self, seed: int, rounds: int, ids: Sequence[str]) -> dict[str, ScoreMaps]:
        """Response maps of the sub-categories that training photos belong to, by the sub-category head.

        Classes are those of the parents; computed anew at each call, for the few photos of a figure.
        """
        data, config = self._labelled("train"), self.config.maps
        model = self._trained_classifier(self.sub_category_classifier(seed, rounds))
        finer = SimpleNamespace(
            backbone=model.backbone, stride=model.stride, class_maps=model.sub_category_maps
        )
        labels = sub_labels(self.assigned(seed, rounds), self.config.sc_cam.clusters)
        found = {}
        for id in ids:
            image = photo_tensor(data, id).as_subclass(torch.Tensor)[None].to(self.device)
            label = torch.from_numpy(labels[[data.ids.index(id)]]).to(self.device)
            ((classes, maps),) = response_maps(finer, image, label, config.scales, config.flip, config.stride)
            classes = (classes - 1) // self.config.sc_cam.clusters + 1
            found[id] = ScoreMaps(classes, maps, tuple(image.shape[-2:]), config.stride)
        return found
