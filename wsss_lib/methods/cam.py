"""CAM: class activation maps of a multi-label classifier (Zhou et al., CVPR 2016), the common baseline.

The classifier is a 1x1 convolution on the deepest features followed by global average pooling, so its
weights give a response map per class at no extra cost.
"""

from torch import Tensor

from wsss_lib.losses import classification_loss, global_average_pool
from wsss_lib.models.activation import ActivationNet


class CAM(ActivationNet):
    """A multi-label classifier whose class maps are its class activation maps."""

    def training_step(self, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        """batch: image (B, 3, H, W), label (B, C) in [0, 1] -> {"loss": scalar}."""
        logits = global_average_pool(self.class_maps(batch["image"]))
        return {"loss": classification_loss(logits, batch["label"])}
