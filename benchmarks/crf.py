"""Dense CRF on the classes present against all 21 of VOC."""

from collections.abc import Callable

import numpy as np

from benchmarks.measuring import Row, compare, peaks, seconds_of
from wsss_lib.crf import background_score, dense_crf, unary_from_scores
from wsss_lib.data.scenes.composition import draw_scene
from wsss_lib.resampling import to_pixels

SIZE = (375, 500)
CLASSES = 21
ROUNDS = 3


def prepare(variant: str) -> Callable[[], np.ndarray]:
    """The work gives the mask, with positions among the present classes."""
    scene = next(s for s in (draw_scene(0, "bench", i, SIZE) for i in range(99)) if len(s.objects) == 2)
    rng = np.random.default_rng(0)
    grid = tuple(-(-side // 32) for side in SIZE)
    present = np.unique(scene.mask[scene.mask != 255])
    truth = np.stack([scene.mask == c for c in present[1:]]).astype(np.float32)
    blurred = to_pixels(rng.random((len(present) - 1, *grid), np.float32), 32, SIZE)
    maps = (truth + blurred) / 2  # right on the whole, wrong in places
    scores = np.concatenate([background_score(maps, 4)[None], maps])
    if variant == "all":
        scores = np.concatenate([scores, np.zeros((CLASSES - len(scores), *SIZE), np.float32)])
    return lambda: dense_crf(scene.image, unary_from_scores(scores), "psa").argmax(0)


def rows(rounds: int = ROUNDS) -> list[Row]:
    runs = compare(prepare, [("all",), ("present",)], rounds)
    every, present = (run.result for run in runs[0])
    return [
        Row(
            "dense CRF, psa's",
            f"all {CLASSES} classes",
            f"the {len(np.unique(present))} in the photo",
            "photo 375 x 500",
            seconds_of(runs, 0, 1),
            peaks(runs, 0, 1),
            f"masks equal in {100 * (every == present).mean():.2f} % of the pixels",
        )
    ]
