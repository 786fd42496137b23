"""Sparse walk against dense matrix squaring on a 375 x 500 photo.

Dense is the published way: T (N x N, float32) squared 8 times by torch.matmul on all threads, then applied to
3 score maps; making T is not counted. Ours is random_walk() with making T, on one thread, as in one of many
worker processes. Error is against 256 plain float64 steps of a scipy matrix.
"""

from collections.abc import Callable

import numpy as np
import scipy.sparse
import torch
from torch.nn.functional import interpolate

from benchmarks.measuring import Row, compare, peaks, seconds_of
from wsss_lib.random_walk import neighbour_offsets, pair_affinity, random_walk

GRIDS = {8: (47, 63), 4: (94, 125)}
DOUBLINGS = {8: 8, 4: 1}  # at stride 4 all 8 would be 26 TFLOP: one is timed and counted 8 times
ROUNDS = 3
OFFSETS = neighbour_offsets()


def inputs(h: int, w: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores (3, h, w) and affinities (34, h, w) of smooth random features with a few steep edges."""
    torch.manual_seed(0)
    features = interpolate(torch.randn(1, 16, h // 6, w // 6), size=(h, w), mode="bicubic")
    return torch.rand(3, h, w), pair_affinity((4 * features).tanh(), OFFSETS)[0]


def transition(affinity: torch.Tensor) -> scipy.sparse.csr_array:
    """P = D^-1 A^8 in float64, one offset after the other."""
    _, h, w = affinity.shape
    index = np.arange(h * w).reshape(h, w)
    A = scipy.sparse.eye_array(h * w, format="csr")
    for (dy, dx), weights in zip(OFFSETS, affinity.double().numpy() ** 8, strict=True):
        source = np.s_[: h - dy, max(0, -dx) : w - max(0, dx)]
        target = np.s_[dy:, max(0, dx) : w + min(0, dx)]
        pairs = (index[source].ravel(), index[target].ravel())
        half = scipy.sparse.coo_array((weights[source].ravel(), pairs), A.shape).tocsr()
        A = A + half + half.T
    return scipy.sparse.diags_array(1 / A.sum(1)) @ A


def prepare(variant: str, stride: int) -> Callable[[], np.ndarray]:
    scores, affinity = inputs(*GRIDS[stride])
    random_walk(scores[:, :9, :9], affinity[:, :9, :9], OFFSETS)  # loads what torch and MKL load late
    torch.rand(99, 99) @ torch.rand(99, 99)
    if variant == "sparse":
        torch.set_num_threads(1)
        return lambda: random_walk(scores, affinity, OFFSETS).flatten(1).T.numpy()
    T = torch.from_numpy(transition(affinity).astype(np.float32).toarray())

    def square() -> np.ndarray:
        power = T
        for _ in range(DOUBLINGS[stride]):
            power = power @ power
        return (power @ scores.flatten(1).T).numpy()

    return square


def exact(stride: int) -> np.ndarray:
    scores, affinity = inputs(*GRIDS[stride])
    P, walked = transition(affinity), scores.flatten(1).T.double().numpy()
    for _ in range(256):
        walked = P @ walked
    return walked


def rows(rounds: int = ROUNDS) -> list[Row]:
    table = []
    for stride, (h, w) in GRIDS.items():
        runs = compare(prepare, [("dense", stride), ("sparse", stride)], rounds)
        seconds = seconds_of(runs, 0, 1)
        seconds[:, 0] *= 8 / DOUBLINGS[stride]
        error = [np.abs(run.result - exact(stride)).max() for run in runs[0]]
        remark = f"error {error[1]:.0e}" + (
            f", dense {error[0]:.0e}" if DOUBLINGS[stride] == 8 else "; dense: one of 8 squarings, times 8"
        )
        table.append(
            Row(
                f"random walk, stride {stride}",
                f"{h * w} x {h * w} matrix squared 8 times, {torch.get_num_threads()} threads",
                "sparse, 1 thread",
                "photo 375 x 500",
                seconds,
                peaks(runs, 0, 1),
                remark,
            )
        )
    return table
