"""Cross-task affinity of AuxSegNet (Xu et al., ICCV 2021): which cells of a photo belong together.

Segmentation and saliency each learn an affinity between all pairs of cells; the two are fused into one that
refines the predictions of both. The paper has these equations as prose only, so they are numbered here as in
papers/auxsegnet/card.md, (C1) to (C5), and read in the released code. N = h w cells in row-major order.
"""

import math

import torch
from torch import Tensor, nn

from wsss_lib.losses import at_least_float32


def task_affinity(theta: Tensor, phi: Tensor, scaled: bool = False) -> Tensor:
    """(C1) A_t = softmax over j of theta_i . phi_j: (B, D, h, w) twice -> (B, N, N), rows sum to 1.

    In float32 at least, also where autocast gives less: a row may hold thousands of small shares.

    Args:
        scaled: divide by sqrt(D) before the softmax, as transformers do. The method does not; with it rows
            are nearly uniform at the start (entropy ratio 0.99 on EfficientNet-Lite0).
    """
    scores = theta.flatten(2).transpose(1, 2) @ phi.flatten(2)
    if scaled:
        scores = scores / math.sqrt(theta.shape[1])
    return at_least_float32(scores).softmax(-1)


def propagate(affinity: Tensor, maps: Tensor, transposed: bool = False) -> Tensor:
    """(C4) A P: cell i gets all cells' values, weighed by row i; (B, N, N), (B, C, h, w) -> (B, C, h, w).

    Args:
        transposed: A^T P, as the paper's text has it. A column of A does not sum to 1, so that values are
            rescaled cell by cell; the code multiplies by A.

    >>> propagate(torch.full((1, 4, 4), 1 / 4), torch.arange(4.0).view(1, 1, 2, 2)).flatten()
    tensor([1.5000, 1.5000, 1.5000, 1.5000])
    """
    weights = affinity.transpose(1, 2) if transposed else affinity
    return (maps.flatten(2) @ weights.transpose(1, 2)).unflatten(2, maps.shape[2:])


def entropy_ratio(affinity: Tensor) -> Tensor:
    """Mean over rows of their entropy, divided by log N: 0 if each row is one-hot, 1 if each is uniform.

    At 0 refinement copies cells, at 1 it gives every cell the mean of the photo. Rows need not sum to 1.
    """
    share = affinity / affinity.sum(-1, keepdim=True)
    return -torch.xlogy(share, share).sum(-1).mean() / math.log(affinity.shape[-1])


class TaskAffinity(nn.Module):
    """The non-local block of one task: its affinity (C1), and its features refined by it (C2).

    Args:
        channels: D, of the features and of all embeddings.
        scaled: as in `task_affinity`.
    """

    def __init__(self, channels: int, scaled: bool = False):
        super().__init__()
        self.theta, self.phi, self.value, self.out = (nn.Conv2d(channels, channels, 1) for _ in range(4))
        self.scaled = scaled

    def affinity(self, features: Tensor) -> Tensor:
        """(B, D, h, w) -> (B, N, N), rows sum to 1."""
        return task_affinity(self.theta(features), self.phi(features), self.scaled)

    def refine(self, features: Tensor, affinity: Tensor) -> Tensor:
        """(C2) F + W(A g(F)): (B, D, h, w) and (B, N, N) -> (B, D, h, w)."""
        return features + self.out(propagate(affinity, self.value(features)).to(features))


class AffinityFusion(nn.Module):
    """(C3) A = w_seg A_seg + w_sal A_sal, element by element.

    The weights come from the two affinities as an image of 2 channels and N x N pixels: a 3x3 convolution,
    ReLU, a 1x1 convolution and a softmax over the channels. Its neighbours are those of the row-major order
    of cells, so that a cell at the end of a row meets the first of the next. Rows of A need not sum to 1.
    """

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1, bias=False), nn.ReLU(), nn.Conv2d(2, 2, 1))

    def weights(self, affinities: Tensor) -> Tensor:
        """(B, 2, N, N) -> (B, 2, N, N), not below 0; the two channels sum to 1."""
        # two channels side by side in memory: the convolutions are eight times as fast on a CPU
        return self.mix(affinities.contiguous(memory_format=torch.channels_last)).softmax(1)

    def forward(self, affinities: Tensor) -> Tensor:
        """(B, 2, N, N) -> (B, N, N), each element between the two it comes from."""
        return (self.weights(affinities) * affinities).sum(1)


class DenseBranch(nn.Module):
    """A dense task: features F (two dilated 3x3 convolutions), and predictions from them as they are refined.

    Args:
        inputs: channels of the trunk.
        channels: D.
        outputs: 21 class logits, or one of saliency.
        dilations: of two 3x3 convolutions before the affinity and, as the code has it, a third one behind;
            with two numbers there is none, as the paper has it.
        affinity: the task's own, or None.
    """

    def __init__(
        self,
        inputs: int,
        channels: int,
        outputs: int,
        dilations: tuple[int, ...],
        affinity: TaskAffinity | None,
    ):
        super().__init__()
        first, second, *behind = dilations
        self.features = nn.Sequential(
            _dilated(inputs, channels, first), nn.ReLU(), _dilated(channels, channels, second), nn.ReLU()
        )
        self.affinity = affinity
        third = [layer for rate in behind for layer in (_dilated(channels, channels, rate), nn.ReLU())]
        self.predict = nn.Sequential(*third, nn.Conv2d(channels, outputs, 1, bias=False))
        nn.init.xavier_uniform_(self.predict[-1].weight)

    def forward(self, trunk: Tensor) -> tuple[Tensor, Tensor | None]:
        """(B, inputs, h, w) -> P_t (B, outputs, h, w), logits, and A_t (B, N, N)."""
        features = self.features(trunk)
        if self.affinity is None:
            return self.predict(features), None
        own = self.affinity.affinity(features)
        return self.predict(self.affinity.refine(features, own)), own


def _dilated(inputs: int, outputs: int, dilation: int) -> nn.Conv2d:
    layer = nn.Conv2d(inputs, outputs, 3, padding=dilation, dilation=dilation)
    nn.init.xavier_uniform_(layer.weight)
    return layer
