"""SC-CAM: sub-category exploration (Chang et al., CVPR 2020; the thesis's chapter 3).

A classifier needs one telling part of an object and no more. SC-CAM sets it a harder task: K-means splits
each class into K sub-categories (`clustering.py`, equation 3.2), and the network must also say which of them
it sees. What tells sub-categories apart (pose, coat, company) lies all over the object. The class maps of
the *parent* head are the result; clustering and training take turns for a few rounds (Algorithm 1).

The paper's lambda is 5: preset `paper` and the variants `thesis` and `release` have it. smoke, quick and
standard have 1, so a gain or its absence there says nothing of the paper's. Round 0 is a CAM trained by the
section's own values: the baseline where no variant is chosen; with `thesis` it has that network's convolution
too, and `start: previous` carries all of it but the sub-category head from round to round. The released code
scores its maps against a background of .15; a preset has one `scores.fixed_threshold` for all methods, and
that of `paper` is psa's .2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import pandas as pd
import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from wsss_lib.artifacts import Artifact, Origin
from wsss_lib.clustering import ABSENT, sub_categories, sub_labels
from wsss_lib.config import CAMClassifier, NonNegative
from wsss_lib.data.examples import photo_tensor
from wsss_lib.inference import pooled_features, reading, response_maps
from wsss_lib.losses import classification_loss, global_average_pool
from wsss_lib.methods.base import (
    BASELINE,
    Examples,
    Method,
    Recipe,
    build,
    classification_examples,
    train_classifier,
    trained_classifier,
)
from wsss_lib.models.activation import ActivationNet
from wsss_lib.models.backbones import Backbone
from wsss_lib.models.trainable import Clock
from wsss_lib.runtime.cache import arrays
from wsss_lib.runtime.files import save_atomically
from wsss_lib.score_maps import ScoreMaps
from wsss_lib.training import mix_seeds, trained_weights

if TYPE_CHECKING:
    from wsss_lib.study.study import Study

SUB_HEAD = "sub_classifier"


class SCCAMTraining(CAMClassifier):
    """How a round trains its network."""

    clusters: PositiveInt  # K, sub-categories of each class
    weight: NonNegative  # lambda of the sub-category loss
    start: Literal["imagenet", "previous"] = (
        "imagenet"  # weights that a round starts from; the sub-category head is new
    )


class SCCAMSection(SCCAMTraining):
    """SC-CAM in a preset; its rounds are trained as the baseline is unless it says otherwise."""

    variant: str | None = None  # whose values these are; None: those of the section itself
    rounds: PositiveInt
    n_init: PositiveInt  # starts of K-means, the best counts
    clusters_sweep: Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
    sweep_rounds: PositiveInt  # rounds trained for each K of the sweep


def joint_loss(
    logits: Tensor, labels: Tensor, sub_logits: Tensor, sub_labels: Tensor, weight: float
) -> dict[str, Tensor]:
    """Equation 3.3: L_p(H_p(f), Y_p) + lambda L_s(H_s(f), Y_s), each a mean over images and outputs.

    logits, labels: (B, C); sub_logits, sub_labels: (B, C * K); weight: lambda. Returns the sum as "loss"
    and its unweighted parts.
    """
    parent, sub = classification_loss(logits, labels), classification_loss(sub_logits, sub_labels)
    return {"loss": parent + weight * sub, "parent loss": parent, "sub-category loss": sub}


class SCCAM(ActivationNet, Method):
    """A parent head H_p and a sub-category head H_s on the same features f = E(I).

    Args:
        backbone, num_classes: as in `ActivationNet`.
        clusters: sub-categories K of each class; output c * K + k of H_s is sub-category k of class c.
        weight: lambda of equation 3.3.
        options: `dropout`, `xavier` and `head_channels` of `ActivationNet`. The thesis has a 3x3 convolution
            of 512 channels; the released code has none, dropout 0.5 and Xavier's initial weights.
    """

    def __init__(
        self, backbone: Backbone, num_classes: int, clusters: int, weight: float, **options: float | None
    ):
        super().__init__(backbone, num_classes, **options)
        self.weight = weight
        self.sub_classifier = self.head(num_classes * clusters)

    def sub_category_maps(self, images: Tensor) -> Tensor:
        """Equation 3.1 with the weights of H_s: (B, 3, H, W) -> (B, C * K, h, w)."""
        return self.sub_classifier(self.features(images))

    def training_step(self, batch: dict[str, Tensor], clock: Clock, phase: str) -> dict[str, Tensor]:
        """batch: image (B, 3, H, W), label (B, C), sub_label (B, C * K) -> loss and its parts."""
        pooled = global_average_pool(self.features(batch["image"]))[..., None, None]
        logits, sub_logits = (head(pooled).flatten(1) for head in (self.classifier, self.sub_classifier))
        return joint_loss(logits, batch["label"], sub_logits, batch["sub_label"], self.weight)

    @torch.no_grad()
    def start_from(self, previous: Mapping[str, Tensor]) -> None:
        """Take over the weights of the round before, or of a CAM, where they fit.

        The sub-category head stays new: the numbers of the clusters mean nothing from one round to the next.
        """
        own = self.state_dict()
        for name, value in previous.items():
            if name in own and own[name].shape == value.shape and not name.startswith(SUB_HEAD):
                own[name].copy_(value)


@dataclass(frozen=True)
class SubCategoryExamples:
    """A classification example with the multi-hot label (C * K,) of its sub-categories."""

    examples: Examples
    sub_labels: np.ndarray

    def __call__(self, index: int) -> dict[str, Tensor]:
        return {**self.examples(index), "sub_label": torch.from_numpy(self.sub_labels[index])}


# --- Algorithm 1: each round goes features -> clusters -> classifier -> maps --------------------------------


def run(study: Study, recipe: Recipe, seed: int, rounds: int | None) -> Artifact:
    """Classifier after `rounds` rounds, the preset's for None; after none a CAM, trained as they are."""
    section = study.section(recipe.name)
    if (rounds := section.rounds if rounds is None else rounds) == 0:
        baseline = study.recipe(BASELINE)
        return train_classifier(study, baseline, baseline.trained_by(section), seed)
    config, clusters = recipe.trained_by(section), cluster_photos(study, seed, rounds)
    before = study.classifier(recipe.name, seed, rounds - 1)

    def start(model: SCCAM, out: Path) -> None:
        if config.start == "previous":
            model.start_from(trained_weights(before.path))

    def examples(study: Study, config: SCCAMTraining, model: Method) -> Examples:
        labels = sub_labels(assigned(study, seed, rounds), config.clusters)
        return SubCategoryExamples(classification_examples(study, config, model), labels)

    return train_classifier(
        study, recipe, config, seed, rounds=rounds, inputs=(clusters.key, before.key), start=start,
        examples=examples,
        data_seed=mix_seeds(seed, rounds),  # a round sees other crops than the round before
    )  # fmt: skip


def image_features(study: Study, classifier: Artifact | None) -> Artifact:
    """features.npz: `features` (N, D), pooled over the whole training photos, of a classifier's network.

    None stands for the ImageNet backbone: looks that no training of ours has changed.
    """
    data = study.labelled("train")
    origin = classifier.origin if classifier else Origin("imagenet", 0)
    title = f"image features of {classifier.title if classifier else 'the ImageNet backbone'}"

    def work(out: Path) -> None:
        if classifier:
            model = trained_classifier(study, classifier)
        else:
            baseline = study.recipe(BASELINE)
            model = build(study, baseline, study.section(BASELINE), 0).to(study.device).eval()
        found = pooled_features(model, data, study.config.maps.batch, study.device, title)
        save_atomically(lambda path: np.savez_compressed(path, features=found), out / "features.npz")

    return study.stage(
        "image_features", 2, study.network_config(),
        [*([classifier.key] if classifier else []), data.fingerprint()], work, title, "features", origin,
    )  # fmt: skip


def features(study: Study, classifier: Artifact | None) -> np.ndarray:
    """The array (N, D) of `image_features`, row i for the i-th training photo."""
    return image_features(study, classifier).read("features.npz", arrays)["features"]


def cluster_photos(study: Study, seed: int, rounds: int) -> Artifact:
    """clusters.csv (id, class, cluster): what round `rounds` >= 1 learns, K-means per class.

    Raises:
        ValueError: a round below 1, which learns no clusters.
    """
    if rounds < 1:
        raise ValueError(f"Round {rounds} of SC-CAM learns no clusters; choose round 1 or later.")
    data, config = study.labelled("train"), study.section(RECIPE.name)
    before = study.classifier(RECIPE.name, seed, rounds - 1)
    made_from = image_features(study, before)

    def work(out: Path) -> None:
        found = sub_categories(
            data.ids, features(study, before), data.labels, config.clusters, config.n_init, seed, data.classes
        )
        photo, column = np.nonzero(found != ABSENT)
        table = {
            "id": np.array(data.ids)[photo],
            "class": np.array(data.classes)[column],
            "cluster": found[photo, column],
        }
        save_atomically(lambda path: pd.DataFrame(table).to_csv(path, index=False), out / "clusters.csv")

    return study.stage(
        "sub_categories", 1, {"clusters": config.clusters, "n_init": config.n_init, "seed": seed},
        [made_from.key, data.fingerprint()], work, f"sub-categories of round {rounds}, seed {seed}",
        "clusters", study.origin(RECIPE, seed, rounds),
    )  # fmt: skip


def clusters(study: Study, seed: int, rounds: int) -> pd.DataFrame:
    """The table of `cluster_photos`: a row id, class, cluster for each class of each training photo."""
    found = cluster_photos(study, seed, rounds)
    return found.read("clusters.csv", lambda path: pd.read_csv(path, dtype={"id": str}))


def assigned(study: Study, seed: int, rounds: int) -> np.ndarray:
    """The clusters of a round as `clustering` has them: (N, C), -1 where a class is absent."""
    data, table = study.labelled("train"), clusters(study, seed, rounds)
    found = np.full(data.labels.shape, ABSENT)
    rows, columns = pd.Index(data.ids), pd.Index(data.classes)
    found[rows.get_indexer(table["id"]), columns.get_indexer(table["class"])] = table["cluster"]
    return found


def head_weights(study: Study, seed: int, rounds: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights of both heads: theta_p (C, D) and theta_s (C, K, D)."""
    state = trained_weights(study.classifier(RECIPE.name, seed, rounds).path)
    parent, sub = (state[f"{head}.weight"].flatten(1).numpy() for head in ("classifier", SUB_HEAD))
    return parent, sub.reshape(len(parent), -1, parent.shape[1])


def sub_category_maps(study: Study, seed: int, rounds: int, ids: Sequence[str]) -> dict[str, ScoreMaps]:
    """Response maps of the sub-categories that training photos belong to, by the sub-category head.

    Classes are those of the parents; computed anew at each call, for the few photos of a figure.
    """
    data, config, count = study.labelled("train"), study.config.maps, study.section(RECIPE.name).clusters
    model = trained_classifier(study, study.classifier(RECIPE.name, seed, rounds))
    finer = reading(model, model.sub_category_maps)
    labels = sub_labels(assigned(study, seed, rounds), count)
    found = {}
    for id in ids:
        image = photo_tensor(data, id).as_subclass(Tensor)[None].to(study.device)
        label = torch.from_numpy(labels[[data.ids.index(id)]]).to(study.device)
        (maps,) = response_maps(finer, image, label, config.scales, config.flip, config.stride)
        found[id] = replace(maps, classes=(maps.classes - 1) // count + 1)
    return found


RECIPE = Recipe(
    name="sc_cam",
    paper_name="SC-CAM",
    config=SCCAMTraining,
    section=SCCAMSection,
    build=lambda config, backbones, classes: SCCAM(
        backbones(), classes, config.clusters, config.weight, **config.head
    ),
    run=run,
)
