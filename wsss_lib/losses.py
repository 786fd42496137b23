"""Losses that more than one method uses: pure functions on tensors."""

import torch
from torch import Tensor
from torch.nn import functional as F

from wsss_lib.data.masks import IGNORE


def global_average_pool(maps: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, C)."""
    return maps.mean(dim=(2, 3))


def at_least_float32(values: Tensor) -> Tensor:
    """The same values, also where autocast gives them less."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def classification_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Multi-label soft margin loss, mean over images and classes; soft labels are fine.

    -[y log s(x) + (1 - y) log(1 - s(x))], s the sigmoid. logits, labels: (B, C).
    """
    return F.multilabel_soft_margin_loss(logits, labels)


def segmentation_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy, mean over the pixels that count; 0, not NaN, where all are 255.

    logits: (B, K, H, W); target: (B, H, W) integers in 0..K-1 or 255.
    """
    summed = F.cross_entropy(logits, target.long(), ignore_index=IGNORE, reduction="sum")
    return summed / (target != IGNORE).sum().clamp(min=1)


def full_size_loss(maps: Tensor, stride: int, target: Tensor) -> Tensor:
    """`segmentation_loss` of class maps (B, K, h, w), `stride` pixels a cell, upsampled to the target."""
    logits = F.interpolate(maps, scale_factor=stride, mode="bilinear")
    height, width = target.shape[-2:]
    return segmentation_loss(logits[..., :height, :width], target)
