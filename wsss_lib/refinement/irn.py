"""IRN's stages (Ahn et al., CVPR 2019): labels, network, boundaries, and a walk that they hold up."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from wsss_lib.artifacts import Artifact, Setting
from wsss_lib.config import IRNWalk
from wsss_lib.data.examples import SegmentationExamples
from wsss_lib.data.transforms import segmentation_transform
from wsss_lib.inference import multi_scale, write_maps
from wsss_lib.models.affinity import to_cells
from wsss_lib.models.irn import GRID, IRNet, path_affinity
from wsss_lib.random_walk import neighbour_offsets, random_walk
from wsss_lib.refinement.masks import alpha_at, over_photos, threshold_at, times_preset, write_confident
from wsss_lib.runtime.files import save_atomically
from wsss_lib.runtime.workers import over_processes
from wsss_lib.score_maps import ScoreMaps
from wsss_lib.training import load_trained

if TYPE_CHECKING:
    from wsss_lib.study.study import Study

BOUNDARY = 1
"""The one "class" of a boundary map."""


def boundary_walk(scores: Tensor, boundary: Tensor, radius: int, beta: float, steps: int) -> Tensor:
    """M* = (M * (1 - B)) T^steps with T from the affinities along paths: (n, h, w) -> (n, h, w).

    boundary B: (h, w) in [0, 1]. Cells beyond the grid are no neighbours.
    """
    offsets = neighbour_offsets(radius)
    affinity = path_affinity(boundary[None], offsets)[0]
    return random_walk(scores * (1 - boundary), affinity, offsets, beta, steps)


def normalised(scores: Tensor, by: str) -> Tensor:
    """Scores (n, h, w) over their maximum: of all classes (`by` "photo", as the code) or of each ("class").

    Under "photo" a class whose scores are weak beside another's may vanish under the background's constant.
    """
    highest = scores.amax() if by == "photo" else scores.amax((1, 2), keepdim=True)
    return scores / highest.clamp(min=1e-5)


def write_boundary_walk(maps: Path, boundary: Path, walk: IRNWalk, device: torch.device, out: Path) -> None:
    """Walked score maps of the classes of one photo, in [0, 1] on the stride-4 grid."""
    loaded = ScoreMaps.load(maps)
    cells = loaded.maps if loaded.stride == GRID else to_cells(torch.from_numpy(loaded.full()), GRID).numpy()
    scores, edges = (
        torch.from_numpy(found.astype(np.float32)).to(device)
        for found in (cells, ScoreMaps.load(boundary).maps[0])
    )
    if len(scores):  # a photo without a class has no scores to walk
        scores = normalised(boundary_walk(scores, edges, walk.radius, walk.beta, walk.steps), walk.normalise)
    walked = ScoreMaps(loaded.classes, scores.cpu().numpy(), loaded.size, GRID)
    save_atomically(walked.save, out)


# --- stages ------------------------------------------------------------------------------------------------


def confident_thresholds(study: Study, maps: Artifact) -> tuple[float, float]:
    """Constants of the strong and of the weak background that decide which labels of the maps are trusted.

    The preset's (irn's way), or, with `irn.calibrated`, those whose alphas are what suits the maps.
    """
    irn = study.config.irn
    strong, weak = irn.foreground_threshold, irn.background_threshold
    if irn.calibrated:
        factor = times_preset(study, maps)
        strong, weak = (round(threshold_at(factor * alpha_at(t)), 3) for t in (strong, weak))
    return strong, weak


def irn_labels(study: Study, maps: Artifact) -> Artifact:
    """Confident labels against a strong and a weak constant background, each after a CRF."""
    irn, thresholds = study.config.irn, confident_thresholds(study, maps)
    config = {"thresholds": thresholds, "crf": irn.crf, "scale": study.config.crf_scale}
    title = maps.origin.title("IRN labels")
    work = over_photos(study, write_confident, maps, thresholds, irn.crf, ".png", title)
    return study.stage("irn_labels", 1, config, [maps.key], work, title, "masks", maps.origin)


def irn_net(study: Study, maps: Artifact) -> Artifact:
    """Train IRN's boundary and displacement branch on the confident labels of training maps."""
    config, seed, data = study.config.irn, maps.origin.seed, study.data.train
    labels, title = irn_labels(study, maps), maps.origin.title("IRN")

    def work(out: Path) -> None:
        model = build(study, seed)
        transform = segmentation_transform(config.scale, config.crop, model.mean, model.std)
        examples = SegmentationExamples(data, data.ids, labels.path, transform)
        study.train(model, examples, len(data), config, out, title, seed)

    elsewhere = {"foreground_threshold", "background_threshold", "calibrated", "crf", "walk", "backbone"}
    key = {"seed": seed, **config.model_dump(exclude_defaults=True, exclude=elsewhere)}
    origin = maps.origin.but(weights=(*maps.origin.weights, *study.weights_of("IRN", config.backbone)))
    return study.stage(
        "irn_net", 2, key | study.network_config(config), [labels.key], work, title, "network", origin,
        trains=True,
    )  # fmt: skip


def irn_boundaries(study: Study, maps: Artifact) -> Artifact:
    """Boundary probabilities of the photos of `maps` at stride 4, mean logit of photo and flip."""
    net = irn_net(study, maps.on("train"))
    data, title = study.data.dataset(maps.origin.split), maps.origin.title("IRN boundaries")

    def work(out: Path) -> None:
        model = load_trained(build(study, net.origin.seed), net.path).to(study.device)

        def boundaries(images: Tensor, ids: list[str]) -> list[ScoreMaps]:
            logits = multi_scale(model, images, (1,), True, model.stride, lambda found: found[:, 0]) / 2
            found, size = logits.sigmoid().cpu().numpy(), tuple(images.shape[-2:])
            return [ScoreMaps(np.array([BOUNDARY]), one[None], size, model.stride) for one in found]

        write_maps(data, out, title, study.config.maps.batch, study.device, boundaries)

    origin = maps.origin.but(stage="IRN boundaries", weights=net.origin.weights)
    return study.stage(
        "irn_boundaries", 2, {}, [net.key, data.fingerprint()], work, title, "boundaries", origin
    )  # fmt: skip


def irn_walk(study: Study, maps: Artifact) -> Artifact:
    """Random walk of the classes alone, held up by boundaries: the background is a constant."""
    edges, walk = irn_boundaries(study, maps), study.config.irn.walk
    title = maps.origin.title("IRN random walk")

    def work(out: Path) -> None:
        files = [f"{id}.npz" for id in study.data.dataset(maps.origin.split).ids]
        jobs = [(maps.file(file), edges.file(file), walk, study.device, out / file) for file in files]
        over_processes(write_boundary_walk, jobs, 1, title)  # a pool would import torch for longer

    return study.stage(
        "irn_walk", 1, walk.model_dump(exclude={"threshold"}), [maps.key, edges.key], work, title,
        "score maps", edges.origin.but(stage="CAM+IRN"),
        Setting.at("threshold", tuple(study.config.scores.thresholds()), walk.threshold),
        on=lambda split: irn_walk(study, maps.on(split)),
    )  # fmt: skip


def build(study: Study, seed: int) -> IRNet:
    """The preset's network, its new layers drawn from the seed."""
    config = study.config.irn
    return study.seeded(
        seed,
        lambda: IRNet(
            study.backbone(section=config),
            config.radius,
            config.boundary_width,
            config.displacement_width,
            config.dilated,
            config.psa_compat,
        ),
    )
