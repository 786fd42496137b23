"""From score maps to masks, photo by photo: background score, dense CRF, argmax.

Free of torch, so that a pool of processes starts quickly.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from scipy.optimize import brentq

from wsss_lib.crf import background_score, dense_crf, unary_from_labels, unary_from_scores, widest_side
from wsss_lib.data.masks import IGNORE, save_mask
from wsss_lib.data.photos import read_image
from wsss_lib.runtime.files import save_atomically
from wsss_lib.runtime.workers import over_processes
from wsss_lib.score_maps import ScoreMaps

if TYPE_CHECKING:
    from torch import Tensor

    from wsss_lib.artifacts import Artifact
    from wsss_lib.study.study import Study

Labels = TypeVar("Labels", np.ndarray, "Tensor")


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


def best_classes(maps: ScoreMaps, background: Background) -> np.ndarray:
    """(H, W) class ids of the best score at every pixel; the first of them wins a tie."""
    classes, scores = with_background(maps, background)
    return classes[scores.argmax(0)]


def alpha_at(threshold: float) -> float:
    """The alpha with (1 - t)^alpha = t, for t in (0, 1): both backgrounds are beaten by the same lone score.

    >>> round(alpha_at(0.25), 2), round(alpha_at(0.5), 2)
    (4.82, 1.0)
    """
    return math.log(threshold) / math.log1p(-threshold)


def threshold_at(alpha: float) -> float:
    """The threshold t with (1 - t)^alpha = t, for alpha > 0: `alpha_at` backwards."""
    return brentq(lambda t: (1 - t) ** alpha - t, 0, 1)


def marginals(image: np.ndarray, scores: np.ndarray, crf: str, scale_factor: float) -> np.ndarray:
    """Dense CRF marginals (n, H, W) of scores (n, H, W) on the photo (H, W, 3) uint8."""
    if len(scores) == 1:  # nothing to decide between
        return np.ones_like(scores)
    return dense_crf(image, unary_from_scores(scores), crf, scale_factor)


def trusted(strong: Labels, weak: Labels) -> Labels:
    """AffinityNet's labels, place by place: foreground of `strong`, background of `weak`, 255 elsewhere.

    strong, weak: integers of one shape, labels against a strong (low alpha) and a weak background.
    """
    return (strong + IGNORE * (strong == 0)) * (weak != 0)


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


def photo_for_crf(photo: Path, crf: str, scale_factor: float) -> np.ndarray:
    """The photo, (H, W, 3) uint8.

    Raises:
        ValueError: it is wider or higher than the CRF takes.
    """
    image, most = read_image(photo), int(widest_side(crf, scale_factor))
    if (side := max(image.shape)) > most:
        raise ValueError(
            f"{photo} has a side of {side} pixels, but the CRF {crf} at scale {scale_factor:g} takes {most} "
            "at most; scale the photo and its mask down."
        )
    return image


def write_marginals(
    photo: Path, maps: Path, background: Background, crf: str, scale_factor: float, out: Path
) -> None:
    """CRF marginals of one photo, background first, as score maps at full size."""
    loaded = ScoreMaps.load(maps)
    classes, scores = with_background(loaded, background)
    result = marginals(photo_for_crf(photo, crf, scale_factor), scores, crf, scale_factor)
    save_atomically(ScoreMaps(classes, result, loaded.size, 1).save, out)


def write_confident(
    photo: Path, maps: Path, thresholds: tuple[float, float], crf: str, scale_factor: float, out: Path
) -> None:
    """IRN's training labels of one photo, from a strong and a weak constant background: class ids, 0, 255."""
    loaded, image, masks = ScoreMaps.load(maps), photo_for_crf(photo, crf, scale_factor), []
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
        scores = marginals(photo_for_crf(photo, crf, scale_factor), scores, crf, scale_factor)
    mask = classes[scores.argmax(0)]
    save_atomically(lambda path: save_mask(mask, path), out)


# --- stages ------------------------------------------------------------------------------------------------


def masks(study: Study, maps: Artifact, background: Background, crf: str | None) -> Artifact:
    """Masks in VOC layout from score maps; with a dense CRF if it is named."""
    config = {
        "background": [background.kind, background.value],
        "crf": crf,
        "scale": study.config.crf_scale if crf else None,
    }
    origin = maps.origin.but(stage=maps.origin.stage + ("+CRF" if crf else ""))
    title = origin.title(f"{origin.stage} masks")
    work = over_photos(study, write_mask, maps, background, crf, ".png", title)
    return study.stage("masks", 1, config, [maps.key], work, title, "masks", origin)


def times_preset(study: Study, maps: Artifact) -> float:
    """What alphas of the preset are multiplied by where they follow a method's own maps.

    It is 1 for maps whose calibrated threshold is `scores.fixed_threshold`, for which the preset's alphas are
    meant, and where there are no photos to calibrate on. Brighter maps have a higher threshold and smaller
    alphas.
    """
    index = study.calibrated(maps)
    if index is None:
        return 1.0
    step = study.config.scores.sweep[2]
    thresholds = (maps.setting.values[index], study.config.scores.fixed_threshold)
    found, preset = (alpha_at(min(max(t, step), 1 - step)) for t in thresholds)  # 0 and 1 have no alpha
    return found / preset


def pseudo_labels(study: Study, maps: Artifact, crf: bool = True) -> Artifact:
    """Masks of score maps at their calibrated setting, refined by the preset's CRF unless `crf` is off.

    Where there are no photos to calibrate on, at the preset's setting.
    """
    background = background_of(maps, study.calibrated(maps))
    return masks(study, maps, background, study.config.refine_crf if crf else None)


def background_of(maps: Artifact, index: int | None = None) -> Background:
    """The background score of score maps at a value of their setting; the preset's if `index` is None.

    Raises:
        ValueError: an artifact that is no score maps.
    """
    if maps.kind == "probabilities":
        return Background("included")
    if maps.setting is None:
        raise ValueError(f"The {maps.title} are {maps.kind}, not score maps; give maps, refined or not.")
    index = maps.setting.fixed if index is None else index
    if maps.setting.name == "alpha":
        return Background("channel", index)
    return Background("threshold", maps.setting.values[index])


def over_photos(
    study: Study,
    write: Callable[..., None],
    maps: Artifact,
    background: Background | tuple[float, float],
    crf: str | None,
    suffix: str,
    title: str,
) -> Callable[[Path], None]:
    """Work of a stage that calls `write` for every photo on a pool of processes."""

    def work(out: Path) -> None:
        data, scale = study.data.dataset(maps.origin.split), study.config.crf_scale
        jobs = [
            (data.image_path(id), maps.file(f"{id}.npz"), background, crf, scale, out / f"{id}{suffix}")
            for id in data.ids
        ]
        over_processes(write, jobs, study.config.processes, title)

    return work
