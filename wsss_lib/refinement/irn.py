"""IRN's random walk: scores spread where no boundary parts the cells (Ahn et al., CVPR 2019, sec. 5)."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wsss_lib.config import IRNWalk
from wsss_lib.models.affinity import to_cells
from wsss_lib.models.irn import GRID, path_affinity
from wsss_lib.random_walk import neighbour_offsets, random_walk
from wsss_lib.runtime.files import save_atomically
from wsss_lib.score_maps import ScoreMaps


def boundary_walk(scores: Tensor, boundary: Tensor, radius: int, beta: float, steps: int) -> Tensor:
    """M* = (M * (1 - B)) T^steps with T from the affinities along paths: (n, h, w) -> (n, h, w).

    boundary B: (h, w) in [0, 1]. Cells beyond the grid are no neighbours.
    """
    offsets = neighbour_offsets(radius)
    affinity = path_affinity(boundary[None], offsets)[0]
    return random_walk(scores * (1 - boundary), affinity, offsets, beta, steps)


def normalised(scores: Tensor, by: str) -> Tensor:
    """Scores (n, h, w) over their maximum: of all classes (`by` "photo", as the code) or of each ("class").

    Under "photo" a class whose scores are weak beside another's may vanish under the background's constant.
    """
    highest = scores.amax() if by == "photo" else scores.amax((1, 2), keepdim=True)
    return scores / highest.clamp(min=1e-5)


def write_boundary_walk(maps: Path, boundary: Path, walk: IRNWalk, device: torch.device, out: Path) -> None:
    """Walked score maps of the classes of one photo, in [0, 1] on the stride-4 grid."""
    loaded = ScoreMaps.load(maps)
    cells = loaded.maps if loaded.stride == GRID else to_cells(torch.from_numpy(loaded.full()), GRID).numpy()
    scores, edges = (
        torch.from_numpy(found.astype(np.float32)).to(device)
        for found in (cells, ScoreMaps.load(boundary).maps[0])
    )
    if len(scores):  # a photo without a class has no scores to walk
        scores = normalised(boundary_walk(scores, edges, walk.radius, walk.beta, walk.steps), walk.normalise)
    walked = ScoreMaps(loaded.classes, scores.cpu().numpy(), loaded.size, GRID)
    save_atomically(walked.save, out)
