"""AffinityNet (Ahn and Kwak, CVPR 2018): pairwise affinities learned from confident CAM regions.

The network and its three-part loss, as the paper and its released code (psa) have them;
papers/affinitynet/card.md says where they differ. Its labels and stages are in `refinement/affinitynet.py`,
the random walk that uses the affinities in `random_walk.py`.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsss_lib.data.masks import IGNORE
from wsss_lib.models.backbones import Backbone
from wsss_lib.models.trainable import Clock, Trainable
from wsss_lib.random_walk import Offsets, neighbour_offsets, pair_affinity, valid_pairs

GRID = 8  # pixels per cell, on every backbone


class AffinityNet(Trainable):
    """Features of the three deepest taps, reduced, joined and compared between neighbours.

    Args:
        backbone: its three deepest taps are brought to the stride-8 grid.
        channels: widths of the three reductions; psa has 64, 128, 256.
        radius: pairs are closer than this many cells; psa has 5 (34 pairs a cell).
        psa_compat: keep only the pairs that the public code evaluates.
    """

    def __init__(self, backbone: Backbone, channels: tuple[int, int, int], radius: int, psa_compat: bool):
        super().__init__()
        if backbone.strides[-3] != GRID:
            raise ValueError(
                f"The third deepest tap has stride {backbone.strides[-3]}, AffinityNet needs {GRID}; "
                "choose another output stride or backbone."
            )
        self.backbone = backbone
        self.offsets = neighbour_offsets(radius)
        self.psa_compat = psa_compat
        self.reductions = nn.ModuleList(
            nn.Conv2d(tap, width, 1, bias=False)
            for tap, width in zip(backbone.channels[-3:], channels, strict=True)
        )
        self.join = nn.Conv2d(sum(channels), sum(channels), 1, bias=False)
        for reduction in self.reductions:
            nn.init.kaiming_normal_(reduction.weight)
        nn.init.xavier_uniform_(self.join.weight, gain=4)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) normalised -> affinities (B, K, ceil(H/8), ceil(W/8)) in (0, 1], 0 off the grid."""
        taps = self.backbone(images)[-3:]
        height, width = taps[0].shape[-2:]
        reduced = []
        for tap, stride, reduction in zip(taps, self.backbone.strides[-3:], self.reductions, strict=True):
            x = F.elu(reduction(tap))
            if stride != GRID:
                x = F.interpolate(x, scale_factor=stride // GRID, mode="bilinear")[..., :height, :width]
            reduced.append(x)
        return pair_affinity(F.elu(self.join(torch.cat(reduced, 1))), self.offsets)

    def training_step(self, batch: dict[str, Tensor], clock: Clock, phase: str) -> dict[str, Tensor]:
        """batch: image (B, 3, H, W), label (B, h, w) integers, 255 ignored -> loss and its three parts."""
        return affinity_loss(self(batch["image"]), batch["label"], self.offsets, self.psa_compat)


def to_cells(maps: Tensor, stride: int) -> Tensor:
    """Mean over each stride x stride cell: (C, H, W) -> (C, ceil(H / stride), ceil(W / stride)).

    Border cells average the pixels they have (psa pads with zeros instead).
    """
    return F.avg_pool2d(maps[None], stride, ceil_mode=True, count_include_pad=False)[0]


def neighbours(maps: Tensor, offsets: Offsets, fill: float = 0) -> Tensor:
    """Values at (y, x) + offsets[k], `fill` where that leaves the grid: (..., h, w) -> (..., K, h, w)."""
    height, width = maps.shape[-2:]
    reach = max(max(abs(dy), abs(dx)) for dy, dx in offsets)
    padded = F.pad(maps, (reach,) * 4, value=fill)
    shifted = [padded[..., reach + dy :, reach + dx :][..., :height, :width] for dy, dx in offsets]
    return torch.stack(shifted, -3)


def pair_kinds(labels: Tensor, offsets: Offsets, psa_compat: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs of two background cells, of one foreground class, and of different labels.

    labels: (B, h, w) integers, 255 in no pair -> three bool (B, K, h, w).
    """
    own, other = labels[:, None], neighbours(labels, offsets, IGNORE)
    valid = (own != IGNORE) & (other != IGNORE)
    valid &= valid_pairs(*labels.shape[-2:], offsets, psa_compat).to(valid.device)
    same = valid & (own == other)
    return same & (own == 0), same & (own != 0), valid & ~same


def affinity_loss(
    affinity: Tensor, labels: Tensor, offsets: Offsets, psa_compat: bool = False
) -> dict[str, Tensor]:
    """L = L_bg+ / 4 + L_fg+ / 4 + L_neg / 2, each the mean over all its pairs in the batch.

    L+ = -log(W + 1e-5) where both labels are equal, L- = -log(1 + 1e-5 - W) where they differ; pairs
    that touch 255 are ignored and a kind without pairs counts 0.

    Args:
        affinity: (B, K, h, w); labels: (B, h, w) integers; offsets: the K pairs' (dy, dx).
    """
    return loss_of_kinds(affinity, *pair_kinds(labels, offsets, psa_compat))


def loss_of_kinds(affinity: Tensor, background: Tensor, foreground: Tensor, different: Tensor) -> dict:
    """`affinity_loss` of the three kinds of pairs, each bool (B, K, h, w)."""
    attract = -torch.log(affinity + 1e-5)
    repel = -torch.log(1 + 1e-5 - affinity)
    background = masked_mean(attract, background)
    foreground = masked_mean(attract, foreground)
    negative = masked_mean(repel, different)
    return {
        "loss": background / 4 + foreground / 4 + negative / 2,
        "background": background.detach(),
        "foreground": foreground.detach(),
        "negative": negative.detach(),
    }


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of values where mask is true; 0 where there is none. Both of one shape (or broadcastable)."""
    return (values * mask).sum() / (mask.sum() + 1e-5)
