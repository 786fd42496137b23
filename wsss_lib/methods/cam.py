"""CAM: class activation maps of a multi-label classifier (Zhou et al., CVPR 2016), the common baseline.

The classifier is a 1x1 convolution on the deepest features followed by global average pooling, so its
weights give a response map per class at no extra cost.
"""

from torch import Tensor, nn

from wsss_lib.losses import classification_loss, global_average_pool
from wsss_lib.models.activation import ActivationNet
from wsss_lib.models.backbones import Backbone


class CAM(ActivationNet):
    """A multi-label classifier whose class maps are its class activation maps.

    Args:
        backbone: the deepest tap is classified.
        num_classes: foreground classes C.
        dropout: probability that a channel of the features is dropped in training; psa has 0.5.
        xavier: initial weights of the classifier as psa has them; torch's if False.
    """

    def __init__(self, backbone: Backbone, num_classes: int, dropout: float = 0.0, xavier: bool = False):
        super().__init__(backbone, num_classes)
        self.dropout = nn.Dropout2d(dropout)
        if xavier:
            nn.init.xavier_uniform_(self.classifier.weight)

    def features(self, images: Tensor) -> Tensor:
        return self.dropout(super().features(images))

    def training_step(self, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        """batch: image (B, 3, H, W), label (B, C) in [0, 1] -> {"loss": scalar}."""
        logits = global_average_pool(self.class_maps(batch["image"]))
        return {"loss": classification_loss(logits, batch["label"])}
