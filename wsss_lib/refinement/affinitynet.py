"""AffinityNet's stages: labels it makes itself, the network, and the random walk along its affinities."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors

from wsss_lib.artifacts import Artifact, Setting
from wsss_lib.config import RandomWalk
from wsss_lib.crf import background_score
from wsss_lib.data.examples import photo_tensor
from wsss_lib.data.masks import IGNORE
from wsss_lib.data.transforms import affinity_transform, normalise
from wsss_lib.data.voc import VOCDataset
from wsss_lib.inference import write_maps
from wsss_lib.models.affinity import GRID, AffinityNet, to_cells
from wsss_lib.random_walk import Offsets, random_walk
from wsss_lib.refinement.masks import Background, over_photos, times_preset, trusted, write_marginals
from wsss_lib.score_maps import ScoreMaps
from wsss_lib.training import load_trained

if TYPE_CHECKING:
    from wsss_lib.study.study import Study


def affinity_labels(low: Tensor, high: Tensor) -> Tensor:
    """Confident labels from CRF marginals with a strong (low alpha) and a weak (high alpha) background.

    Foreground where the strong background loses, background where the weak one wins, 255 elsewhere and
    in cells without any probability (padding).

    Args:
        low, high: (n + 1, H, W) marginals, background first.

    Returns:
        (ceil(H/8), ceil(W/8)) int64: 0, 1..n (positions, not class ids) or 255.
    """
    low, high = to_cells(low, GRID), to_cells(high, GRID)
    label = trusted(low.argmax(0), high.argmax(0))
    label[torch.maximum(low.amax(0), high.amax(0)) < 1e-5] = IGNORE
    return label


@dataclass(frozen=True)
class AffinityExamples:
    """image (3, crop, crop) and the confident labels (h, w) of its cells.

    low, high: folders with a file of CRF marginals a photo.
    """

    dataset: VOCDataset
    low: Path
    high: Path
    transform: Callable

    def __call__(self, index: int) -> dict[str, Tensor]:
        id = self.dataset.ids[index]
        low, high = (
            torch.from_numpy(ScoreMaps.load(folder / f"{id}.npz").full()) for folder in (self.low, self.high)
        )
        image, marginals = self.transform(
            photo_tensor(self.dataset, id), tv_tensors.Mask(torch.cat([low, high]))
        )
        return {"image": image, "label": affinity_labels(*marginals.split(len(low)))}


def walked_scores(
    maps: ScoreMaps, affinity: Tensor, offsets: Offsets, walk: RandomWalk, alphas: Sequence[float]
) -> ScoreMaps:
    """[(1 - max_c M_c)^alpha for each alpha, M] after the walk (Ahn and Kwak, CVPR 2018, sections 3.1, 3.3).

    Args:
        maps: the classes M of a photo of (H, W); affinity: (K, ceil(H/8), ceil(W/8)), its pairs at `offsets`.

    Returns:
        On the stride-8 grid: class 0 once for each of `alphas`, then the classes of `maps`.
    """
    full = maps.full()
    backgrounds = [background_score(full, alpha)[None] for alpha in alphas]
    cells = to_cells(torch.from_numpy(np.concatenate([*backgrounds, full])), GRID).to(affinity.device)
    walked = random_walk(cells, affinity, offsets, walk.beta, walk.steps, walk.psa_compat)
    classes = np.concatenate([np.zeros(len(backgrounds), int), maps.classes])
    return ScoreMaps(classes, walked.cpu().numpy(), maps.size, GRID)


# --- stages ------------------------------------------------------------------------------------------------


def crf_marginals(study: Study, maps: Artifact, alpha: float) -> Artifact:
    """Dense CRF on [(1 - max CAM)^alpha, CAM], for the affinity labels."""
    config = {"alpha": alpha, "crf": study.config.affinity.crf, "scale": study.config.crf_scale}
    title = maps.origin.title(f"CRF with background alpha {alpha:g}")
    work = over_photos(study, write_marginals, maps, Background("power", alpha), config["crf"], ".npz", title)
    origin = maps.origin.but(stage=f"CRF alpha {alpha:g}")
    return study.stage("crf_marginals", 1, config, [maps.key], work, title, "marginals", origin)


def trusted_alphas(study: Study, maps: Artifact) -> tuple[float, float]:
    """Alphas of the strong and of the weak background that decide which labels of the maps are trusted.

    The preset's (psa's way), or, with `affinity.calibrated`, times what suits the maps.
    """
    config = study.config.affinity
    low, high = config.alpha_low, config.alpha_high
    if config.calibrated:
        factor = times_preset(study, maps)
        low, high = (float(f"{factor * alpha:.3g}") for alpha in (low, high))
    return low, high


def affinity_net(study: Study, maps: Artifact) -> Artifact:
    """Train AffinityNet on the confident labels of training maps."""
    config, seed, data = study.config.affinity, maps.origin.seed, study.data.train
    low, high = (crf_marginals(study, maps, alpha) for alpha in trusted_alphas(study, maps))
    title = maps.origin.title("AffinityNet")

    def work(out: Path) -> None:
        model = build(study, seed)
        transform = affinity_transform(config.crop, model.mean, model.std, config.jitter)
        examples = AffinityExamples(data, low.path, high.path, transform)
        study.train(model, examples, len(data), config, out, title, seed)

    key = {"seed": seed, **config.model_dump(exclude_defaults=True), "walk": study.config.walk.psa_compat}
    return study.stage(
        "affinity_net", 2, key | study.network_config(config), [low.key, high.key], work, title, "network",
        maps.origin, trains=True,
    )  # fmt: skip


def affinity_walk(study: Study, maps: Artifact) -> Artifact:
    """Random walk of maps and of a background for every alpha of the sweep."""
    net = affinity_net(study, maps.on("train"))
    data, walk = study.data.dataset(maps.origin.split), study.config.walk
    title = maps.origin.title("random walk")

    def work(out: Path) -> None:
        model = trained(study, net)

        def walked(images: Tensor, ids: list[str]) -> list[ScoreMaps]:
            loaded = [ScoreMaps.load(maps.file(f"{id}.npz")) for id in ids]
            return [
                walked_scores(one, affinity, model.offsets, walk, walk.alpha_sweep)
                for one, affinity in zip(loaded, affinities(model, images), strict=True)
            ]

        write_maps(data, out, title, study.config.maps.batch, study.device, walked)

    return study.stage(
        "random_walk", 1, walk.model_dump(exclude={"alpha"}), [maps.key, net.key], work, title, "score maps",
        maps.origin.but(stage="CAM+RW"), Setting.at("alpha", walk.alpha_sweep, walk.alpha),
        on=lambda split: affinity_walk(study, maps.on(split)),
    )  # fmt: skip


def photo_affinity(study: Study, maps: Artifact, id: str) -> tuple[Tensor, Offsets]:
    """Affinities (K, h, w) of one photo of `maps`, and their offsets; computed anew at each call."""
    model = trained(study, affinity_net(study, maps.on("train")))
    image = photo_tensor(study.data.dataset(maps.origin.split), id).as_subclass(Tensor)
    return affinities(model, image[None].to(study.device))[0], model.offsets


@torch.inference_mode()
def affinities(model: AffinityNet, images: Tensor) -> Tensor:
    """(B, 3, H, W) uint8 -> (B, K, ceil(H/8), ceil(W/8))."""
    return model(normalise(images, model.mean, model.std))


def build(study: Study, seed: int) -> AffinityNet:
    """The preset's network, its new layers drawn from the seed."""
    config, psa_compat = study.config.affinity, study.config.walk.psa_compat
    return study.seeded(
        seed,
        lambda: AffinityNet(study.backbone(section=config), config.channels, config.radius, psa_compat),
    )


def trained(study: Study, net: Artifact) -> AffinityNet:
    """The trained network, on the study's device."""
    return load_trained(build(study, net.origin.seed), net.path).to(study.device)
