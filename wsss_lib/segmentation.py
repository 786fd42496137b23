"""The segmentation network's stages: trained on pseudo labels, it needs no image labels at test time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from wsss_lib.artifacts import Artifact
from wsss_lib.data.examples import SegmentationExamples
from wsss_lib.data.transforms import segmentation_transform
from wsss_lib.inference import class_probabilities, passes, write_maps
from wsss_lib.models.deeplab import SEGMENTATION_NETWORKS
from wsss_lib.models.trainable import Trainable
from wsss_lib.score_maps import ScoreMaps
from wsss_lib.training import load_trained

if TYPE_CHECKING:
    from wsss_lib.study.study import Study


def segmentation_net(study: Study, masks: Artifact) -> Artifact:
    """Train the segmentation network on pseudo labels of the training photos."""
    config, seed, data = study.config.segmentation, masks.origin.seed, study.data.train
    title = masks.origin.title(f"segmentation net on {masks.origin.stage}")

    def work(out: Path) -> None:
        model = build(study, seed)
        transform = segmentation_transform(config.scale, config.crop, model.mean, model.std)
        examples = SegmentationExamples(data, data.ids, masks.path, transform)
        study.train(model, examples, len(data), config, out, title, seed)

    key = {"seed": seed, **config.model_dump(exclude_defaults=True, exclude={"backbone"})}
    origin = masks.origin.but(
        weights=(*masks.origin.weights, *study.weights_of(config.network, config.backbone))
    )
    return study.stage(
        "segmentation_net", 2, key | study.network_config(config), [masks.key], work, title, "network",
        origin, trains=True,
    )  # fmt: skip


def segment(study: Study, masks: Artifact, split: str = "val") -> Artifact:
    """Class probabilities of the segmentation network trained on `masks`; no image labels are used."""
    net, data, config = segmentation_net(study, masks), study.data.dataset(split), study.config.segmentation
    stride, fusion = study.config.maps.stride, SEGMENTATION_NETWORKS[config.network].fusion
    origin = net.origin.but(
        stage="segmentation", split=split, learned_from=masks.origin.stage,
        inference=f"{passes(config.test_scales, config.test_flip)}, {fusion}",
    )  # fmt: skip
    title = origin.title("segmentation")

    def work(out: Path) -> None:
        model = load_trained(build(study, origin.seed), net.path).to(study.device)

        def probabilities(images: Tensor, ids: list[str]) -> list[ScoreMaps]:
            return class_probabilities(model, images, config.test_scales, config.test_flip, stride)

        write_maps(data, out, title, study.config.maps.batch, study.device, probabilities)

    return study.stage(
        "segment", 1, {"scales": config.test_scales, "flip": config.test_flip, "stride": stride},
        [net.key, data.fingerprint()], work, title, "probabilities", origin,
    )  # fmt: skip


def build(study: Study, seed: int) -> Trainable:
    """The preset's network, its new layers drawn from the seed."""
    config, classes = study.config.segmentation, len(study.data.classes)
    head = {} if config.channels is None else {"channels": config.channels}
    network = SEGMENTATION_NETWORKS[config.network]
    return study.seeded(seed, lambda: network(study.backbone(section=config), classes, **head))
