"""Sparse walk against dense matrix squaring on a 375 x 500 photo: `python benchmarks/random_walk.py`.

Dense is the published way: T (N x N, float32) squared 8 times by torch.matmul on all threads, then applied to
3 score maps; making T is not counted. Ours is random_walk() with making T, on one thread, as in one of many
worker processes. Each runs in a fresh process, in turn. Error is against 256 plain float64 steps of a scipy
matrix. Memory is the peak on top of the inputs, from /proc (Linux only).
"""

import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import scipy.sparse
import torch
from torch.nn.functional import interpolate

from wsss_lib.random_walk import neighbour_offsets, pair_affinity, random_walk

GRIDS = {8: (47, 63), 4: (94, 125)}
DOUBLINGS = {8: 8, 4: 1}  # at stride 4 all 8 would be 26 TFLOP: one is timed and counted 8 times
REPEATS = 3
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


def memory(field: str) -> float:
    """A field of /proc/self/status in MB."""
    return int(Path("/proc/self/status").read_text().split(f"{field}:")[1].split()[0]) * 1024 / 1e6


def measure(variant: str, stride: int) -> tuple[float, float, float]:
    """Seconds, peak MB and largest absolute error (NaN: not all doublings done) of one run."""
    scores, affinity = inputs(*GRIDS[stride])
    P = transition(affinity)
    expected = scores.flatten(1).T.double().numpy()
    for _ in range(256):
        expected = P @ expected
    T = torch.from_numpy(P.astype(np.float32).toarray()) if variant == "dense" else None
    torch.set_num_threads(torch.get_num_threads() if variant == "dense" else 1)
    random_walk(scores[:, :9, :9], affinity[:, :9, :9], OFFSETS)  # loads what torch and MKL load late
    torch.rand(99, 99) @ torch.rand(99, 99)

    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    before, start = memory("VmRSS"), time.perf_counter()
    if T is None:
        walked = random_walk(scores, affinity, OFFSETS).flatten(1).T
        seconds = time.perf_counter() - start
    else:
        for _ in range(DOUBLINGS[stride]):
            T = T @ T
        walked = T @ scores.flatten(1).T
        seconds = (time.perf_counter() - start) * 8 / DOUBLINGS[stride]
    finished = T is None or DOUBLINGS[stride] == 8
    error = np.abs(walked.numpy() - expected).max() if finished else np.nan
    return seconds, memory("VmHWM") - before, error


def main() -> None:
    print(f"375 x 500 photo, 3 score maps, T^256; dense on {torch.get_num_threads()} threads, ours on 1;")
    print(f"median of {REPEATS} runs, [min, max] of the ratio; *: one of 8 squarings, times 8\n")
    print(
        "| stride | grid | dense s | ours s | times faster | dense MB | ours MB | dense error | ours error |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        for stride, (h, w) in GRIDS.items():
            runs = [
                [pool.submit(measure, variant, stride).result() for variant in ("dense", "ours")]
                for _ in range(REPEATS)
            ]
            (dense, ours), ratio = np.median(runs, axis=0), [d[0] / o[0] for d, o in runs]
            star = "" if DOUBLINGS[stride] == 8 else "*"
            print(
                f"| {stride} | {h} x {w} | {dense[0]:.2f}{star} | {ours[0]:.3f} | {np.median(ratio):.0f} "
                f"[{min(ratio):.0f}, {max(ratio):.0f}] | {dense[1]:.0f} | {ours[1]:.0f} "
                f"| {dense[2]:.1e} | {ours[2]:.1e} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
