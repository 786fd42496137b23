"""CAM: class activation maps of a multi-label classifier (Zhou et al., CVPR 2016), the common baseline.

The classifier is a 1x1 convolution on the deepest features followed by global average pooling, so its
weights give a response map per class at no extra cost.
"""

from torch import Tensor

from wsss_lib.config import CAMClassifier
from wsss_lib.losses import classification_loss, global_average_pool
from wsss_lib.methods.base import BASELINE, Method, Recipe
from wsss_lib.models.activation import ActivationNet
from wsss_lib.models.trainable import Clock


class CAM(ActivationNet, Method):
    """A multi-label classifier whose class maps are its class activation maps."""

    def training_step(self, batch: dict[str, Tensor], clock: Clock, phase: str) -> dict[str, Tensor]:
        """batch: image (B, 3, H, W), label (B, C) in [0, 1] -> {"loss": scalar}."""
        logits = global_average_pool(self.class_maps(batch["image"]))
        return {"loss": classification_loss(logits, batch["label"])}


RECIPE = Recipe(
    name=BASELINE,
    paper_name="AffinityNet",  # the papers' baseline is the CAM that AffinityNet refines
    config=CAMClassifier,
    build=lambda config, backbones, classes: CAM(backbones(), classes, **config.head),
)
