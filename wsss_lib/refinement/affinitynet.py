"""AffinityNet's random walk of one photo: its maps and their background along predicted affinities."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from wsss_lib.config import RandomWalk
from wsss_lib.crf import background_score
from wsss_lib.models.affinity import GRID, to_cells
from wsss_lib.random_walk import Offsets, random_walk
from wsss_lib.score_maps import ScoreMaps


def affinity_walk(
    maps: ScoreMaps, affinity: Tensor, offsets: Offsets, walk: RandomWalk, alphas: Sequence[float]
) -> ScoreMaps:
    """[(1 - max_c M_c)^alpha for each alpha, M] after the walk (Ahn and Kwak, CVPR 2018, sections 3.1, 3.3).

    Args:
        maps: the classes M of a photo of (H, W); affinity: (K, ceil(H/8), ceil(W/8)), its pairs at `offsets`.

    Returns:
        On the stride-8 grid: class 0 once for each of `alphas`, then the classes of `maps`.
    """
    full = maps.full()
    backgrounds = [background_score(full, alpha)[None] for alpha in alphas]
    cells = to_cells(torch.from_numpy(np.concatenate([*backgrounds, full])), GRID).to(affinity.device)
    walked = random_walk(cells, affinity, offsets, walk.beta, walk.steps, walk.psa_compat)
    classes = np.concatenate([np.zeros(len(backgrounds), int), maps.classes])
    return ScoreMaps(classes, walked.cpu().numpy(), maps.size, GRID)
