"""DeepLab-v2 (Chen et al., PAMI 2018): atrous pyramid and three input scales, after deeplab-pytorch.

Initial weights decide a good part of its score: the published runs of SC-CAM and Mixup-CAM very likely
started from weights trained on MS-COCO's masks, not on ImageNet alone, so a preset names them
(`segmentation.backbone.trained_on`) and every score carries that name.

Details of that code that are not here: photos are scaled bicubically (there bilinearly), and one smaller than
the crop lies anywhere in it (there in the upper left corner). A cell learns the label at its centre, 8 pixels
from that of the next cell (there PIL's nearest resizing of 321 labels to 41, whose cells are 7.8 pixels
wide): an audit counted 6.5 % other labels; on crops within 3,310 VOC masks it is 3.9 %. Its published scores
with a CRF ran on colours that wrapped around, because the mean was subtracted before the cast to bytes; here
the CRF sees the photo.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsss_lib.losses import segmentation_loss
from wsss_lib.models.backbones import Backbone
from wsss_lib.models.trainable import Clock, Trainable
from wsss_lib.resampling import grid_centres, interpolate, interpolation_matrix, labels_on_cells

ATROUS_RATES = (6, 12, 18, 24)
SCALES = (1.0, 0.5, 0.75)

Cell = tuple[float, float]  # its height and width in pixels of the full-size input


class DeepLabV2(Trainable):
    """Four summed 3x3 classifiers of different dilation, applied at three scales; the strongest logit counts.

    Args:
        backbone: its deepest tap is classified; the paper has ResNet-101 at output stride 8.
        num_classes: K, background included.
    """

    fusion = "max of logits"  # of the passes at test time, if there are more than the three in here

    def __init__(self, backbone: Backbone, num_classes: int):
        super().__init__()
        self.backbone = backbone
        self.stride = backbone.strides[-1]
        self.pyramid = nn.ModuleList(
            nn.Conv2d(backbone.channels[-1], num_classes, 3, padding=rate, dilation=rate)
            for rate in ATROUS_RATES
        )
        for conv in self.pyramid:
            nn.init.normal_(conv.weight, std=0.01)
            nn.init.zeros_(conv.bias)

    def logits(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) normalised -> (B, K, ceil(H / stride), ceil(W / stride)), one scale."""
        features = self.backbone(images)[-1]
        return sum(conv(features) for conv in self.pyramid)

    def scales(self, images: Tensor) -> list[tuple[Tensor, Cell]]:
        """Logits at each of SCALES on their own grids, with the size of their cells.

        Sizes are rounded up, so that a crop of 321 gives grids of 41, 21 and 31 cells, as in the paper's net.
        """
        size = images.shape[-2:]
        found = []
        for scale in SCALES:
            scaled = [math.ceil(scale * n) for n in size]
            logits = self.logits(F.interpolate(images, scaled, mode="bilinear") if scale != 1 else images)
            found.append((logits, tuple(self.stride * n / m for n, m in zip(size, scaled, strict=True))))
        return found

    def class_maps(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) normalised -> strongest logits (B, K, ceil(H / stride), ceil(W / stride))."""
        return strongest(self.scales(images), images.shape[-2:])

    def training_step(self, batch: dict[str, Tensor], clock: Clock, phase: str) -> dict[str, Tensor]:
        """batch: image (B, 3, H, W), mask (B, H, W) integers, 255 ignored -> {"loss": scalar}.

        The sum of four cross-entropies: of each scale and of the strongest logits, on their own grids.
        """
        mask, scales = batch["mask"], self.scales(batch["image"])
        fused = strongest(scales, mask.shape[-2:])
        return {
            "loss": sum(
                segmentation_loss(logits, labels_on_cells(mask, logits.shape[-2:], cell))
                for logits, cell in [*scales, (fused, scales[0][1])]
            )
        }


def strongest(scales: Sequence[tuple[Tensor, Cell]], size: tuple[int, int]) -> Tensor:
    """Maximum over scales, brought bilinearly to the grid of the first one.

    Args:
        scales: logits (B, K, h, w) and the size of their cells.
        size: of the full-size input in pixels.
    """
    first, grid = scales[0]
    centres = [grid_centres(length, cell) for length, cell in zip(size, grid, strict=True)]
    fused = first
    for logits, cell in scales[1:]:
        matrices = map(interpolation_matrix, logits.shape[-2:], cell, centres)
        fused = torch.maximum(fused, interpolate(logits, *matrices))
    return fused
