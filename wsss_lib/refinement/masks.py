"""From score maps to masks, photo by photo: background score, dense CRF, argmax.

Free of torch, so that a pool of processes starts quickly.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from joblib import delayed

from wsss_lib.crf import background_score, dense_crf, unary_from_labels, unary_from_scores
from wsss_lib.data.masks import IGNORE, save_mask
from wsss_lib.data.photos import read_image
from wsss_lib.runtime.files import save_atomically
from wsss_lib.runtime.progress import report
from wsss_lib.runtime.workers import pool
from wsss_lib.score_maps import ScoreMaps


@dataclass(frozen=True)
class Background:
    """Where the background score of a photo comes from.

    kind: "threshold", the constant `value`; "power", (1 - max_c M_c)^value; "channel", the `value`-th of the
    channels of class 0 (the walked backgrounds); "included", class 0 is one of the maps already.
    """

    kind: str
    value: float = 0


def with_background(maps: ScoreMaps, background: Background) -> tuple[np.ndarray, np.ndarray]:
    """Class ids (n + 1,), background first, and their scores (n + 1, H, W)."""
    full = maps.full()
    if background.kind == "included":
        return maps.classes, full
    foreground = full[maps.classes > 0]
    if background.kind == "threshold":
        score = np.full(maps.size, background.value, np.float32)
    elif background.kind == "power":
        score = background_score(foreground, background.value)
    elif background.kind == "channel":
        score = full[maps.classes == 0][int(background.value)]
    else:
        raise ValueError(
            f"Background kind {background.kind!r} is unknown; use threshold, power, channel or included."
        )
    return np.append(0, maps.classes[maps.classes > 0]), np.concatenate([score[None], foreground])


def marginals(image: np.ndarray, scores: np.ndarray, crf: str, scale_factor: float) -> np.ndarray:
    """Dense CRF marginals (n, H, W) of scores (n, H, W) on the photo (H, W, 3) uint8."""
    if len(scores) == 1:  # nothing to decide between
        return np.ones_like(scores)
    return dense_crf(image, unary_from_scores(scores), crf, scale_factor)


def trusted(strong: np.ndarray, weak: np.ndarray) -> np.ndarray:
    """AffinityNet's labels, pixel by pixel: foreground of `strong`, background of `weak`, 255 elsewhere.

    strong, weak: (H, W) masks against a strong (low alpha) and a weak background.
    """
    return np.where(weak == 0, 0, np.where(strong > 0, strong, IGNORE)).astype(np.uint8)


def confident(strong: np.ndarray, weak: np.ndarray) -> np.ndarray:
    """IRN's labels: foreground of `strong`, background where both have it, 255 elsewhere.

    strong, weak: (H, W) masks against a strong (high constant) and a weak background. Unlike in `trusted` a
    foreground of `strong` that `weak` does not share stays.
    """
    return np.where(strong > 0, strong, np.where(weak > 0, IGNORE, 0)).astype(np.uint8)


def label_crf(image: np.ndarray, scores: np.ndarray, crf: str, scale_factor: float) -> np.ndarray:
    """argmax of scores (n, H, W), refined by a dense CRF on these hard labels: positions (H, W) in 0..n-1."""
    labels = scores.argmax(0)
    if len(scores) == 1:  # nothing to decide between
        return labels
    return dense_crf(image, unary_from_labels(labels, len(scores)), crf, scale_factor).argmax(0)


def write_marginals(
    photo: Path, maps: Path, background: Background, crf: str, scale_factor: float, out: Path
) -> None:
    """CRF marginals of one photo, background first, as score maps at full size."""
    loaded = ScoreMaps.load(maps)
    classes, scores = with_background(loaded, background)
    result = marginals(read_image(photo), scores, crf, scale_factor)
    save_atomically(ScoreMaps(classes, result, loaded.size, 1).save, out)


def write_confident(
    photo: Path, maps: Path, thresholds: tuple[float, float], crf: str, scale_factor: float, out: Path
) -> None:
    """IRN's training labels of one photo, from a strong and a weak constant background: class ids, 0, 255."""
    loaded, image, masks = ScoreMaps.load(maps), read_image(photo), []
    for threshold in thresholds:
        classes, scores = with_background(loaded, Background("threshold", threshold))
        masks.append(classes[label_crf(image, scores, crf, scale_factor)])
    save_atomically(lambda path: save_mask(confident(*masks), path), out)


def write_mask(
    photo: Path, maps: Path, background: Background, crf: str | None, scale_factor: float, out: Path
) -> None:
    """Mask of one photo: the class with the best score or, with a CRF, marginal; the first wins ties."""
    classes, scores = with_background(ScoreMaps.load(maps), background)
    if crf is not None:
        scores = marginals(read_image(photo), scores, crf, scale_factor)
    mask = classes[scores.argmax(0)]
    save_atomically(lambda path: save_mask(mask, path), out)


def over_processes(work: Callable[..., None], jobs: Sequence[tuple], processes: int, title: str) -> None:
    """Call work(*job) for every job on a pool of processes; the last item of a job is the file it writes.

    Jobs whose file exists are skipped, so an interrupted run goes on where it was. Inside
    `joblib.parallel_config(backend="dask")` the pool is all the workers of a Dask cluster.
    """
    todo: Iterable[tuple] = [job for job in jobs if not job[-1].exists()]
    calls = (delayed(_unless_done)(work, job) for job in todo)
    results = pool(processes, return_as="generator_unordered")(calls)
    for _ in report(results, title, unit="photo", total=len(jobs), initial=len(jobs) - len(todo)):
        pass


def _unless_done(work: Callable[..., None], job: tuple) -> None:
    """Asked again by the worker: Dask gives all jobs of a lost worker's last batch to another one."""
    if not job[-1].exists():
        work(*job)
