"""DeepLab-LargeFOV (Chen et al., ICLR 2015) on ResNet-38: one 3x3 convolution with a large field of view.

PSS, AffinityNet and ACR name this network but not its head or schedule. The head is that of SEAM's
segmentation code, whose three layers are LargeFOV's and whose score on WSSS labels (64.75 val) is published;
its colour shift of +-10 in HSV is left out, and the loss upsamples logits as everywhere in this project
(there with aligned corners).
"""

from torch import Tensor, nn

from wsss_lib.losses import full_size_loss
from wsss_lib.models.backbones import Backbone
from wsss_lib.models.trainable import Clock, Trainable


class LargeFOV(Trainable):
    """3x3 of dilation 12, 1x1 and classifier on the deepest tap.

    The running statistics of the two new batch norms follow slowly, for schedules of 20,000 steps: after
    a few hundred they still hold their initial values, and scores are low.

    Args:
        backbone: its deepest tap is classified; the papers have ResNet-38.
        num_classes: K, background included.
        channels: width of the head; SEAM has 512.
    """

    fusion = "mean of logits"  # of the passes at test time

    def __init__(self, backbone: Backbone, num_classes: int, channels: int):
        super().__init__()
        self.backbone = backbone
        self.stride = backbone.strides[-1]
        # SEAM's optimiser has no group for these batch norms' gamma and beta, which stay 1 and 0
        self.head = nn.Sequential(
            nn.Conv2d(backbone.channels[-1], channels, 3, padding=12, dilation=12, bias=False),
            nn.BatchNorm2d(channels, momentum=3e-4, affine=False),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 1, bias=False),
            nn.BatchNorm2d(channels, momentum=3e-4, affine=False),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Conv2d(channels, num_classes, 1),
        )
        for module in self.head:
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def class_maps(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) normalised -> logits (B, K, ceil(H / stride), ceil(W / stride))."""
        return self.head(self.backbone(images)[-1])

    def training_step(self, batch: dict[str, Tensor], clock: Clock, phase: str) -> dict[str, Tensor]:
        """batch: image (B, 3, H, W), mask (B, H, W) integers, 255 ignored -> {"loss": scalar}."""
        return {"loss": full_size_loss(self.class_maps(batch["image"]), self.stride, batch["mask"])}
