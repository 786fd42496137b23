"""CAM: class activation maps of a multi-label classifier (Zhou et al., CVPR 2016), the common baseline.

The classifier is a 1x1 convolution on the deepest features followed by global average pooling, so its
weights give a response map per class at no extra cost.
"""

from torch import Tensor, nn

from wsss_lib.losses import classification_loss, global_average_pool
from wsss_lib.models.backbones import Backbone


class CAM(nn.Module):
    """A multi-label classifier whose class maps are its class activation maps.

    Args:
        backbone: the deepest tap is classified.
        num_classes: foreground classes C.
    """

    def __init__(self, backbone: Backbone, num_classes: int):
        super().__init__()
        self.backbone = backbone
        self.stride = backbone.strides[-1]
        self.classifier = nn.Conv2d(backbone.channels[-1], num_classes, kernel_size=1, bias=False)

    def class_maps(self, images: Tensor) -> Tensor:
        """w_c^T f(x, y): (B, 3, H, W) normalised images -> (B, C, h, w), any sign, not normalised."""
        return self.classifier(self.backbone(images)[-1])

    def training_step(self, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        """batch: image (B, 3, H, W), label (B, C) in [0, 1] -> {"loss": scalar}."""
        logits = global_average_pool(self.class_maps(batch["image"]))
        return {"loss": classification_loss(logits, batch["label"])}
