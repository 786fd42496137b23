"""Cost per photo of a chain of stages at 100, 1,000 and 3,000 photos: neither time nor memory may grow.

Tiny scenes, a tiny untrained backbone and no CRF, because the networks are not what is measured, but all that
could grow with the list of photos: jobs, results, progress, locks, tables, and the sums of the scores.
"""

import tempfile
from collections.abc import Callable
from itertools import count, pairwise
from pathlib import Path

from benchmarks.measuring import Row, compare, peaks, seconds_of
from wsss_lib.refinement.masks import Background
from wsss_lib.study.study import Study

PHOTOS = (100, 1000, 3000)
ROUNDS = 3
TINY = {
    "scenes.image_size": [48, 48], "scenes.val": 1, "backbone.name": "test_efficientnet",
    "backbone.weights": "random", "classifier.crop": 32, "classifier.long_side": [48, 48],
    "classifier.jitter": False, "classifier.epochs": 1, "maps.scales": [1.0], "maps.flip": False,
}  # fmt: skip


def prepare(photos: int, folder: Path) -> Callable[[], None]:
    overrides = TINY | {"scenes.train": photos}
    scenes = Study("smoke", overrides=overrides, cache=folder).data.root
    caches = (folder / f"{photos} photos, run {run}" for run in count())

    def chain(limit: int | None = None) -> None:
        cache = next(caches)
        (cache / "scenes").mkdir(parents=True)
        (cache / "scenes" / scenes.name).symlink_to(scenes)
        study = Study("smoke", overrides=overrides | {"limit": limit}, cache=cache)
        maps = study.response_maps("cam", 0)
        study.scores([maps, study.masks(maps, Background("threshold", 0.3), None)])

    chain(limit=16)  # loads what is loaded late, and starts the pool
    return chain


def rows(rounds: int = ROUNDS, photos: tuple[int, ...] = PHOTOS) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        runs = compare(prepare, [(n, Path(folder)) for n in photos], rounds)
    return [
        Row(
            "training to scores on tiny scenes",
            f"{fewer:,} photos",
            f"{more:,} photos",
            "photo",
            seconds_of(runs, place, place + 1) / [fewer, more],
            peaks(runs, place, place + 1),
            "1 is flat; memory of the main process",
        )
        for place, (fewer, more) in enumerate(pairwise(photos))
    ]
