"""IRN (Ahn, Cho and Kwak, CVPR 2019): class boundaries and displacements learned from confident CAM regions.

Two branches on a frozen ImageNet network: a boundary map, from which pairwise affinities follow along paths,
and a field of displacements towards the centroid of each cell's object. As in the paper's section 4 and its
released code; papers/affinitynet/card.md has the equations and says where they differ. Semantic labels need
the boundary alone (`refinement/irn.py`); the displacement tells instances of one class apart.
"""

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsss_lib.models.affinity import loss_of_kinds, masked_mean, neighbours, pair_kinds
from wsss_lib.models.backbones import Backbone, undilate
from wsss_lib.models.trainable import Clock, Trainable
from wsss_lib.random_walk import Offsets, neighbour_offsets
from wsss_lib.resampling import labels_on_cells

GRID = 4  # pixels per cell of boundaries and displacements, on every backbone
COARSE = 8  # pixels per cell on which the displacement branch joins its three deepest taps


class IRNet(Trainable):
    """Boundary and displacement branch on the five deepest taps of a frozen backbone.

    Args:
        backbone: is not trained.
        radius: pairs of the loss are closer than this many cells; the paper has 10 (152 pairs a cell).
        boundary_width: channels of each reduction, a multiple of 4; 32 in the paper.
        displacement_width: of the deep reductions, a multiple of 32; 256 in the paper. The two shallow ones
            have a quarter and a half of it.
        dilated: keep the dilation by which the backbone makes up for a stride it does without; IRN has none.
        psa_compat: keep only the pairs that the public code evaluates.
    """

    stride = GRID
    base_lr_layers = ("boundary.",)  # the displacement branch alone learns faster

    def __init__(
        self,
        backbone: Backbone,
        radius: int,
        boundary_width: int,
        displacement_width: int,
        dilated: bool,
        psa_compat: bool,
    ):
        super().__init__()
        if len(backbone.strides) < 5:
            raise ValueError(
                f"The backbone has {len(backbone.strides)} taps (strides {backbone.strides}), IRN needs 5; "
                "choose another backbone."
            )
        self.backbone = (backbone if dilated else undilate(backbone)).requires_grad_(False)
        self.offsets, self.psa_compat = neighbour_offsets(radius), psa_compat
        taps = backbone.channels[-5:], backbone.strides[-5:]
        self.boundary = BoundaryBranch(*taps, boundary_width)
        self.displacement = DisplacementBranch(*taps, displacement_width)

    def train(self, mode: bool = True) -> "IRNet":
        super().train(mode)
        self.backbone.eval()  # frozen: no dropout either
        return self

    def taps(self, images: Tensor) -> list[Tensor]:
        with torch.no_grad():
            return self.backbone(images)[-5:]

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) normalised -> logits (B, 1, h, w) of the boundary and displacements (B, 2, h, w)."""
        taps, size = self.taps(images), grid_size(images)
        return self.boundary(taps, size), self.displacement(taps, size)

    def class_maps(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) normalised -> boundary logits (B, 1, ceil(H/4), ceil(W/4))."""
        return self.boundary(self.taps(images), grid_size(images))

    def training_step(self, batch: dict[str, Tensor], clock: Clock, phase: str) -> dict[str, Tensor]:
        """batch: image (B, 3, H, W), mask (B, H, W) integers, 255 ignored -> loss and its five parts."""
        logits, displacement = self(batch["image"])
        affinity = path_affinity(logits[:, 0].float().sigmoid(), self.offsets)
        mask = batch["mask"]
        labels = labels_on_cells(mask, grid_size(mask), (GRID, GRID)).long()
        return irn_loss(affinity, displacement.float(), labels, self.offsets, self.psa_compat)


class BoundaryBranch(nn.Module):
    """Each tap: 1x1 convolution, group norm, to stride 4, ReLU; joined by one more 1x1 convolution."""

    def __init__(self, channels: Sequence[int], strides: Sequence[int], width: int):
        super().__init__()
        self.strides = strides
        self.reductions = nn.ModuleList(reduction(c, width, groups=4) for c in channels)
        self.join = nn.Conv2d(len(channels) * width, 1, 1)

    def forward(self, taps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Taps -> logits (B, 1, *size)."""
        reduced = list(map(reduce_to, self.reductions, taps, self.strides, [GRID] * 5, [size] * 5))
        return self.join(torch.cat(reduced, 1))


class DisplacementBranch(nn.Module):
    """The three deep taps joined at stride 8, then with the two shallow ones at stride 4, to two channels.

    The mean displacement is not determined by differences between cells, so a running mean of the training
    batches (`mean`, in cells) is subtracted when the network is not training.
    """

    def __init__(self, channels: Sequence[int], strides: Sequence[int], width: int):
        super().__init__()
        self.strides = strides
        widths, groups = (width // 4, width // 2, width, width, width), (8, 16, 16, 16, 16)
        self.reductions = nn.ModuleList(map(reduction, channels, widths, groups))
        self.deep = reduction(3 * width, width, groups=16)
        self.join = nn.Sequential(
            reduction(sum(widths[:3]), width, groups=16), nn.ReLU(), nn.Conv2d(width, 2, 1, bias=False)
        )
        self.register_buffer("mean", torch.zeros(2))

    def forward(self, taps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Taps -> (dy, dx) in cells of stride 4, (B, 2, *size)."""
        coarse = tuple(-(-side * GRID // COARSE) for side in size)
        grids, sizes = [GRID] * 2 + [COARSE] * 3, [size] * 2 + [coarse] * 3
        reduced = list(map(reduce_to, self.reductions, taps, self.strides, grids, sizes))
        deep = reduce_to(self.deep, torch.cat(reduced[2:], 1), COARSE, GRID, size)
        field = self.join(torch.cat([*reduced[:2], deep], 1))
        if not self.training:
            return field - self.mean[:, None, None]
        self.mean.lerp_(field.detach().float().mean((0, 2, 3)), 0.1)  # as batch norm keeps its running mean
        return field


def reduction(channels: int, width: int, groups: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, width, 1, bias=False), nn.GroupNorm(groups, width))


def reduce_to(layer: nn.Module, tap: Tensor, stride: int, grid: int, size: tuple[int, int]) -> Tensor:
    """ReLU of `layer` of a tap of `stride`, on `grid`, cut to `size`: (B, C, h, w) -> (B, C', *size).

    A finer tap is max-pooled first: on ResNet's stride-2 tap that is the pooling behind its first layer.
    """
    if stride < grid:
        factor = grid // stride
        tap = F.max_pool2d(tap, factor + 1, factor, factor // 2)
    x = layer(tap)
    if stride > grid:
        x = F.interpolate(x, scale_factor=stride // grid, mode="bilinear")
    return x[..., : size[0], : size[1]].relu()


def grid_size(images: Tensor) -> tuple[int, int]:
    """(..., H, W) -> (ceil(H / 4), ceil(W / 4))."""
    height, width = images.shape[-2:]
    return -(-height // GRID), -(-width // GRID)


@cache
def path_cells(offset: tuple[int, int]) -> Offsets:
    """Cells of the path from (0, 0) to `offset`, both included.

    They lie in the bounding box of the two, less than one cell from the line through them.
    """
    dy, dx = offset
    rows, columns = range(min(dy, 0), max(dy, 0) + 1), range(min(dx, 0), max(dx, 0) + 1)
    return tuple((y, x) for y in rows for x in columns if (dy * x - dx * y) ** 2 < dy**2 + dx**2)


def path_affinity(boundary: Tensor, offsets: Offsets) -> Tensor:
    """a_ij = 1 - max of the boundary over the path from i to j: (B, h, w) -> (B, K, h, w) in [0, 1].

    Entry (k, y, x) pairs (y, x) with (y, x) + offsets[k] and is 0 where that leaves the grid. The gradient
    goes to the first cell that has the maximum. offsets: forward ones, as of `neighbour_offsets`.
    """
    height, width = boundary.shape[-2:]
    reach = max(max(dy, abs(dx)) for dy, dx in offsets)
    padded = F.pad(boundary, (reach, reach, 0, reach), value=1)  # beyond the grid all is boundary
    breadth = width + 2 * reach
    rows, columns = (torch.arange(side, device=padded.device) for side in (height, width))
    own = rows[:, None] * breadth + columns + reach  # of `padded`, flattened
    known, index = padded.detach(), []  # find the cells without autograd, which would keep every path
    for offset in offsets:
        highest, place = torch.full_like(boundary, -1), torch.zeros_like(boundary, dtype=torch.long)
        for y, x in path_cells(offset):
            here = known[:, y:, x + reach :][:, :height, :width]
            place.masked_fill_(here > highest, y * breadth + x)
            highest = torch.maximum(highest, here)
        index.append(own + place)
    index = torch.stack(index, 1)
    return 1 - padded.flatten(1).gather(1, index.flatten(1)).view_as(index)


def displacement_loss(
    displacement: Tensor, foreground: Tensor, background: Tensor, offsets: Offsets
) -> tuple[Tensor, Tensor]:
    """Cells of one object point at one centroid, cells of the background nowhere: two means.

    x_i + D_i = x_j + D_j on foreground pairs: mean |D_i - D_j - (x_j - x_i)|; on background pairs mean
    |D_i - D_j|. Means run over pairs and both coordinates; a kind without pairs counts 0.

    Args:
        displacement: (B, 2, h, w) as (dy, dx) in cells; foreground, background: bool (B, K, h, w).
    """
    difference = displacement[:, :, None] - neighbours(displacement, offsets)
    target = torch.tensor(offsets, device=difference.device).T[:, :, None, None]
    return (
        masked_mean((difference - target).abs().mean(1), foreground),
        masked_mean(difference.abs().mean(1), background),
    )


def irn_loss(
    affinity: Tensor, displacement: Tensor, labels: Tensor, offsets: Offsets, psa_compat: bool = False
) -> dict[str, Tensor]:
    """L = (L_a+ + L_a-) / 2 + (L_d,fg + L_d,bg) / 2, with L_a+ the mean of its fore- and background part.

    The first half is AffinityNet's loss.

    Args:
        affinity: (B, K, h, w); displacement: (B, 2, h, w); labels: (B, h, w) integers, 255 ignored.
    """
    background, foreground, different = pair_kinds(labels, offsets, psa_compat)
    losses = loss_of_kinds(affinity, background, foreground, different)
    towards, still = displacement_loss(displacement, foreground, background, offsets)
    boundary = losses.pop("loss")
    return {
        "loss": boundary + (towards + still) / 2,
        "boundary": boundary.detach(),
        **losses,
        "displacement foreground": towards.detach(),
        "displacement background": still.detach(),
    }
