"""Pairwise affinities on a pixel grid, and the exact sparse random walk over them (AffinityNet, IRNet).

Source: Ahn and Kwak, "Learning Pixel-level Semantic Affinity with Image-level Supervision for Weakly
Supervised Semantic Segmentation", CVPR 2018, sections 3.2 (affinity) and 3.3 (walk).
"""

import warnings

import numpy as np
import torch
from scipy.stats import binom
from torch import Tensor
from torch.autograd.function import once_differentiable

Offsets = tuple[tuple[int, int], ...]

# Share of T^steps that random_walk may leave out. No score moves by more than 2 * TAIL * sqrt(sum of degrees)
# of the largest: at worst 2.7e-7 on a 160 x 160 grid of radius 5, about float32 rounding.
TAIL = 1e-10


def neighbour_offsets(radius: int = 5) -> Offsets:
    """Forward half of a disc: (dy, dx) with dy > 0, or dy = 0 and dx > 0, and dy^2 + dx^2 < radius^2.

    Ascending; 34 offsets for radius 5 (AffinityNet), 152 for radius 10 (IRNet's training).

    Raises:
        ValueError: radius below 2, which leaves no neighbour.
    """
    if radius < 2:
        raise ValueError(f"radius is {radius}, but must be at least 2 to reach a neighbour")
    reach = range(-radius + 1, radius)
    return tuple((dy, dx) for dy in reach for dx in reach if (dy, dx) > (0, 0) and dy**2 + dx**2 < radius**2)


def valid_pairs(h: int, w: int, offsets: Offsets, psa_compat: bool = False) -> Tensor:
    """Sources (y, x) whose neighbour (y + dy, x + dx) lies on the h x w grid, as bool (K, h, w).

    The published AffinityNet code pairs only sources in rows 0..h-r and columns r-1..w-r, r = largest dy + 1:
    pixels in the margins have few neighbours or none. `psa_compat` gives that set.
    """
    dy, dx = torch.tensor(offsets).T[:, :, None, None]
    y, x = torch.arange(h)[:, None], torch.arange(w)
    valid = (y + dy < h) & (x + dx >= 0) & (x + dx < w)
    if psa_compat:
        r = dy.max() + 1
        valid &= (y <= h - r) & (x >= r - 1) & (x <= w - r)
    return valid


class _ShiftedMeanL1(torch.autograd.Function):
    """d[b, k, i] = mean over channels of |f[b, i] - f[b, i + shifts[k]]| for f (B, N, C).

    Autograd would keep every (B, N, C) difference, 560 MB in AffinityNet's training; backward redoes them.
    """

    @staticmethod
    def forward(ctx, f: Tensor, shifts: list[int]) -> Tensor:
        ctx.save_for_backward(f)
        ctx.shifts = [(k, s) for k, s in enumerate(shifts) if 0 < s < f.shape[1]]  # others pair no two cells
        distance = f.new_zeros(f.shape[0], len(shifts), f.shape[1])
        for k, s in ctx.shifts:
            distance[:, k, :-s] = (f[:, :-s] - f[:, s:]).abs_().mean(-1)
        return distance

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        (f,) = ctx.saved_tensors
        total, grad = torch.zeros_like(f), grad[..., None] / f.shape[-1]
        for k, s in ctx.shifts:
            sign = (f[:, :-s] - f[:, s:]).sign_()
            total[:, :-s].addcmul_(sign, grad[:, k, :-s])
            total[:, s:].addcmul_(sign, grad[:, k, :-s], value=-1)
        return total, None


def pair_affinity(features: Tensor, offsets: Offsets) -> Tensor:
    """W_ij = exp(-mean over channels of |f_i - f_j|): (B, C, h, w) -> (B, K, h, w) in [0, 1].

    Entry (k, y, x) pairs (y, x) with (y, x) + offsets[k] and is 0 where that leaves the grid. Differentiable.
    The paper has the L1 norm, the published code (and this) its mean. Half precision becomes float32.

    Raises:
        ValueError: features that are not (B, C, h, w).
    """
    if features.ndim != 4:
        raise ValueError(f"features have shape {tuple(features.shape)}, but must be (B, C, h, w)")
    h, w = features.shape[2:]
    channels_last = features.to(torch.promote_types(features.dtype, torch.float32)).flatten(2).mT.contiguous()
    distance = _ShiftedMeanL1.apply(channels_last, [dy * w + dx for dy, dx in offsets]).unflatten(-1, (h, w))
    return torch.exp(-distance) * valid_pairs(h, w, offsets).to(distance.device)


def _transition(weights: Tensor, offsets: Offsets) -> Tensor:
    """P = D^-1 A as CSR (N, N); A has weights (K, h, w), 0 off the grid, both ways and 1 on its diagonal."""
    n, w = weights[0].numel(), weights.shape[2]
    shifts = torch.tensor([dy * w + dx for dy, dx in offsets])
    forward = weights.flatten(1)
    backward = torch.stack([row.roll(s) for row, s in zip(forward, shifts.tolist(), strict=True)])
    rows = torch.cat([backward.flip(0), torch.ones_like(forward[:1]), forward]).T
    neighbours = torch.cat([-shifts.flip(0), torch.zeros(1, dtype=torch.long), shifts])  # columns ascend
    columns = (torch.arange(n)[:, None] + neighbours).int().to(weights.device)
    keep = rows != 0
    starts = torch.nn.functional.pad(keep.sum(1).cumsum(0), (1, 0)).int()
    values = (rows / rows.sum(1, keepdim=True))[keep]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(starts, columns[keep], values, (n, n), check_invariants=True)


def _chebyshev_coefficients(steps: int) -> list[float]:
    """c with |x^steps - sum_k c_k T_k(x)| <= 2 TAIL on [-1, 1]: c_k = P(|sum of `steps` fair signs| = k)."""
    k = np.arange(steps + 1)
    c = np.where((steps - k) % 2, 0, binom.pmf((steps + k) // 2, steps, 0.5) * np.where(k, 2, 1))
    beyond = np.append(c[::-1].cumsum()[::-1][1:], 0)  # the exact binomial tail past each degree
    c = c[: np.argmax(beyond <= TAIL) + 1]
    return (c / c.sum()).tolist()  # T_k(1) = 1: with sum 1, constant scores stay constant


@torch.no_grad()
def random_walk(
    scores: Tensor,
    affinity: Tensor,
    offsets: Offsets,
    beta: float = 8,
    steps: int = 256,
    psa_compat: bool = False,
) -> Tensor:
    """Averages scores (n, h, w) over `steps` moves between similar neighbours; same shape and dtype.

    A = affinity^beta over all mirrored pairs, 1 on the diagonal; a step: M_j <- sum_i A_ij M_i / sum_i A_ij.
    `affinity` (K, h, w) in [0, 1] holds the pair of (y, x) and (y, x) + offsets[k] at (y, x); values of pairs
    that leave the grid are ignored. `psa_compat` as in valid_pairs. Computes in float64, on CPU or CUDA.
    The products are small: walk many images in processes of one thread each (torch.set_num_threads(1)).

    P = D^-1 A is similar to the symmetric D^-1/2 A D^-1/2: its eigenvalues x are real, in [-1, 1]. There x^t
    is E T_|Y|(x), Y a sum of t fair signs, T_k the Chebyshev polynomials, |T_k| <= 1. Degrees past d weigh
    P(|Y| > d) < 2 exp(-d^2 / 2t), so d = 102 products replace 256 (see TAIL); for few steps d = t, exact.
    Sachdeva and Vishnoi, "Faster Algorithms via Approximation Theory", 2014, sections 3 and 8.

    Raises:
        ValueError: shapes that disagree, offsets that neighbour_offsets would not give, scores that are not
            finite floats, affinity outside [0, 1] or NaN, steps below 0, beta not above 0.
    """
    if scores.ndim != 3 or affinity.shape != (len(offsets), *scores.shape[1:]):
        raise ValueError(
            f"scores {tuple(scores.shape)} and affinity {tuple(affinity.shape)} disagree, but must be "
            f"(n, h, w) and (K, h, w) with K = {len(offsets)} offsets"
        )
    if not offsets or list(offsets) != sorted(set(offsets)) or offsets[0] <= (0, 0):
        raise ValueError(
            f"offsets {offsets} must be ascending (dy, dx) > (0, 0): use neighbour_offsets(radius)"
        )
    if not scores.is_floating_point() or not scores.isfinite().all():
        raise ValueError("scores hold integers, NaN or infinity, but the walk averages finite floats")
    if not ((affinity >= 0) & (affinity <= 1)).all():
        raise ValueError(
            "affinity holds NaN or values outside [0, 1], but must be a similarity such as exp(-d)"
        )
    if steps < 0 or not beta > 0:
        raise ValueError(f"steps is {steps} and beta {beta}, but the walk needs steps >= 0 and beta > 0")

    valid = valid_pairs(*scores.shape[1:], offsets, psa_compat).to(affinity.device)
    transition = _transition(affinity.double() ** beta * valid, offsets)
    start = scores.double().flatten(1).T.contiguous()
    previous, current = start, transition @ start
    first, *others = _chebyshev_coefficients(steps)
    walked = first * start
    for c in others:
        walked.add_(current, alpha=c)
        previous, current = current, torch.addmm(previous, transition, current, beta=-1, alpha=2)
    walked = walked.clamp(start.amin(0), start.amax(0))  # an average stays in range, rounding may not
    return walked.T.reshape(scores.shape).to(scores.dtype)
