"""Segmentation networks trained on pseudo labels: their names, and a light DeepLab (after DeepLab-v3+)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsss_lib.losses import full_size_loss
from wsss_lib.models.backbones import Backbone
from wsss_lib.models.deeplab_v2 import DeepLabV2
from wsss_lib.models.largefov import LargeFOV
from wsss_lib.models.trainable import Clock, Trainable

ATROUS_RATES = (1, 3, 6)  # of 3x3 convolutions on the stride-16 grid, whose crops are 8 to 20 cells wide


class LightDeepLab(Trainable):
    """Summed atrous convolutions on the deepest tap, joined with the stride-8 tap; for laptops.

    Args:
        backbone: needs a tap of stride 8 beside the deepest.
        num_classes: K, background included.
        channels: width of the head.
    """

    stride = 8  # pixels per cell of the class maps
    fusion = "mean of softmax"  # of the passes at test time

    def __init__(self, backbone: Backbone, num_classes: int, channels: int):
        super().__init__()
        self.backbone = backbone
        self.fine = backbone.tap_at(self.stride)
        self.pyramid = nn.ModuleList(
            nn.Conv2d(backbone.channels[-1], channels, 3, padding=rate, dilation=rate, bias=False)
            for rate in ATROUS_RATES
        )
        self.pyramid_norm = nn.BatchNorm2d(channels)
        self.skip = nn.Sequential(
            nn.Conv2d(backbone.channels[self.fine], channels // 4, 1, bias=False),
            nn.BatchNorm2d(channels // 4),
            nn.ReLU(),
        )
        self.head = nn.Sequential(
            nn.Conv2d(channels + channels // 4, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Dropout2d(0.1),
            nn.Conv2d(channels, num_classes, 1),
        )

    def class_maps(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) normalised -> logits (B, K, ceil(H/8), ceil(W/8))."""
        taps = self.backbone(images)
        coarse = F.relu(self.pyramid_norm(sum(conv(taps[-1]) for conv in self.pyramid)))
        fine = self.skip(taps[self.fine])
        factor = self.backbone.strides[-1] // self.stride
        coarse = F.interpolate(coarse, scale_factor=factor, mode="bilinear")
        return self.head(torch.cat([coarse[..., : fine.shape[-2], : fine.shape[-1]], fine], 1))

    def training_step(self, batch: dict[str, Tensor], clock: Clock, phase: str) -> dict[str, Tensor]:
        """batch: image (B, 3, H, W), mask (B, H, W) integers, 255 ignored -> {"loss": scalar}."""
        return {"loss": full_size_loss(self.class_maps(batch["image"]), self.stride, batch["mask"])}


SEGMENTATION_NETWORKS = {"light": LightDeepLab, "deeplab_v2": DeepLabV2, "largefov": LargeFOV}
