"""Per-image work on two processes against one: dense CRF marginals of drawn scenes."""

import tempfile
from collections.abc import Callable
from itertools import count
from pathlib import Path

import numpy as np

from benchmarks.measuring import Row, compare, seconds_of
from wsss_lib.data.masks import load_mask
from wsss_lib.data.scenes.dataset import generate_scenes
from wsss_lib.refinement.masks import Background, over_processes, write_marginals
from wsss_lib.score_maps import ScoreMaps

SIZE = (160, 192)
PHOTOS = 24
ROUNDS = 5


def prepare(processes: int, folder: Path) -> Callable[[], None]:
    photos = sorted((folder / "JPEGImages").glob("*.jpg"))
    runs = (folder / f"{processes} processes, run {run}" for run in count())

    def marginals() -> None:
        out = next(runs)
        out.mkdir()
        jobs = [
            (
                photo,
                folder / f"{photo.stem}.npz",
                Background("included"),
                "psa",
                1.0,
                out / f"{photo.stem}.npz",
            )
            for photo in photos
        ]
        over_processes(write_marginals, jobs, processes, "marginals")

    marginals()  # starts the pool
    return marginals


def rows(rounds: int = ROUNDS) -> list[Row]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        generate_scenes(folder, {"train": PHOTOS}, SIZE)
        for path in (folder / "SegmentationClass").iterdir():
            mask = load_mask(path)
            classes = np.unique(mask[mask != 255])
            maps = np.stack([0.3 + 0.4 * (mask == c) for c in classes])
            ScoreMaps(classes, maps, SIZE, 1).save(folder / f"{path.stem}.npz")
        runs = compare(prepare, [(1, folder), (2, folder)], rounds)
    return [
        Row(
            "CRF marginals over photos",
            "1 process",
            "2 processes",
            f"photo {SIZE[0]} x {SIZE[1]}",
            seconds_of(runs, 0, 1, 1 / PHOTOS),
            (np.nan, np.nan),
            "2 is the most there is; pool started before",
        )
    ]
