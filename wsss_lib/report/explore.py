"""One photo and the settings between its class activation map and its mask, to be moved by hand.

`look` is what the stages do to one photo; `page` puts sliders before it. Both use the study's networks and
change nothing that is in its cache.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import ipywidgets as widgets
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from torch import Tensor

from wsss_lib.config import Config
from wsss_lib.metrics import class_scores, confusion_matrix
from wsss_lib.random_walk import Offsets
from wsss_lib.refinement.affinitynet import affinity_net, photo_affinity, walked_scores
from wsss_lib.refinement.masks import Background, marginals, with_background
from wsss_lib.report.pictures import Cell, Heat, Painted, Picture
from wsss_lib.report.pictures import page as draw_page
from wsss_lib.report.plots import png
from wsss_lib.report.selection import present_classes
from wsss_lib.score_maps import ScoreMaps
from wsss_lib.study.study import Study

ALPHAS = (0.5, 1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32)
STEPS = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


@dataclass(frozen=True)
class Controls:
    """threshold: the constant background score of maps that do not walk; alpha: of the background
    (1 - max CAM)^alpha that walks with them; steps: of the walk, 0 for none; crf: the preset's, at the end.
    """

    threshold: float
    alpha: float
    steps: int
    crf: bool

    @staticmethod
    def of_preset(config: Config) -> "Controls":
        """Those of the preset; the study makes its pseudo labels at the calibrated alpha."""
        return Controls(config.scores.fixed_threshold, config.walk.alpha, config.walk.steps, True)


@dataclass(frozen=True)
class Subject:
    """What the stages know of one photo: image (H, W, 3) uint8, truth (H, W) class ids, its response maps,
    affinities (K, ceil(H/8), ceil(W/8)) and their offsets.
    """

    image: np.ndarray
    truth: np.ndarray
    maps: ScoreMaps
    affinity: Tensor
    offsets: Offsets


@dataclass(frozen=True)
class View:
    """response (H, W): the best class's score at each pixel before the CRF, its maximum over the photo 1;
    mask (H, W) class ids; iou: class id -> % on this photo, for the classes of mask or truth.
    """

    response: np.ndarray
    mask: np.ndarray
    iou: Mapping[int, float]

    @property
    def mean_iou(self) -> float:
        """In %."""
        return float(np.mean(list(self.iou.values())))


def subject(study: Study, method: str, id: str) -> Subject:
    """A training photo with the maps of `method` and its AffinityNet, both of the study's first seed."""
    maps = study.response_maps(method, study.seeds[0])
    data = study.data.train
    loaded = ScoreMaps.load(maps.file(f"{id}.npz"))
    return Subject(data.image(id), data.mask(id), loaded, *photo_affinity(study, maps, id))


def look(photo: Subject, settings: Controls, config: Config, classes: int) -> View:
    """Map, mask and score of one photo at any settings; at the preset's they are those of the study's stages.

    classes: how many there are, background included.
    """
    maps, background = photo.maps, Background("threshold", settings.threshold)
    if settings.steps:
        walk = config.walk.model_copy(update={"steps": settings.steps})
        maps = walked_scores(maps, photo.affinity, photo.offsets, walk, [settings.alpha])
        maps = replace(maps, maps=maps.maps.astype(np.float16))  # as the stage keeps them
        background = Background("channel", 0)
    present, scores = with_background(maps, background)
    final = marginals(photo.image, scores, config.refine_crf, config.crf_scale) if settings.crf else scores
    mask = present[final.argmax(0)]
    iou = class_scores(confusion_matrix(mask, photo.truth, classes))["iou"].dropna()
    response = scores[1:].max(0, initial=0)
    return View(response / max(response.max(), 1e-5), mask, (100 * iou).to_dict())


def pictures(photo: Subject, view: View, names: Sequence[str]) -> dict[str, Cell]:
    """Title -> cell: photo, map (the best of its classes at each pixel), mask, ground truth."""
    mapped = " or ".join(names[c] for c in photo.maps.classes if c)
    return {
        "photo": Picture(photo.image),
        "map": Heat(photo.image, view.response, mapped),
        "mask": Painted(photo.image, view.mask, photo.truth),
        "ground truth": Painted(photo.image, photo.truth, photo.truth),
    }


def grid(study: Study, method: str, id: str, rows: Mapping[str, Controls]) -> Figure:
    """One photo at several settings, a row each, with its title and the photo's mean IoU on the left.

    Photo and truth, which no setting changes, stand in the first row alone.
    """
    photo, names = subject(study, method, id), study.data.classes
    views = [look(photo, settings, study.config, len(names)) for settings in rows.values()]
    shown = [pictures(photo, view, names) for view in views]
    cells = [
        [None if place and title in ("photo", "ground truth") else cell for title, cell in row.items()]
        for place, row in enumerate(shown)
    ]
    notes = [f"{title}\nIoU {view.mean_iou:.0f} %" for title, view in zip(rows, views, strict=True)]
    return draw_page(cells, list(shown[0]), names, notes)


def iou_of_settings(study: Study, method: str, id: str, rows: Mapping[str, Controls]) -> pd.Series:
    """Mean IoU in % of one photo at several settings, by their titles in one line."""
    photo, count = subject(study, method, id), len(study.data.classes)
    return pd.Series(
        {
            title.replace("\n", " "): look(photo, settings, study.config, count).mean_iou
            for title, settings in rows.items()
        }
    )


def sample_settings(preset: Controls) -> dict[str, Controls]:
    """Title -> settings on the way to the preset's: three thresholds, few and all steps, a stronger
    background, and at last the CRF.
    """
    plain, walk = replace(preset, steps=0, crf=False), replace(preset, crf=False)
    settings = [replace(plain, threshold=share * plain.threshold) for share in (0.5, 1, 1.5)]
    settings += [replace(walk, steps=4), walk, replace(walk, alpha=walk.alpha / 2), preset]
    return {_title(one): one for one in settings}


def _title(settings: Controls) -> str:
    """ "threshold 0.3" or "128 steps, alpha 3", and whether with a CRF."""
    walk = f"{settings.steps} steps, alpha {settings.alpha:g}"
    return (walk if settings.steps else f"threshold {settings.threshold:g}") + ",\nCRF" * settings.crf


def page(study: Study, methods: Sequence[str]) -> widgets.Widget:
    """Controls over the pictures that they change; it begins with the preset's settings.

    methods: of the choice. Their classifiers and AffinityNets are trained if the cache has none, so that no
    control has to wait for a training.
    """
    for method in methods:
        affinity_net(study, study.response_maps(method, study.seeds[0]))
    names, config, preset = study.data.classes, study.config, Controls.of_preset(study.config)
    find = lru_cache(maxsize=32)(partial(subject, study))
    slider = {"continuous_update": False, "layout": widgets.Layout(width="26em")}
    controls: dict[str, Any] = {
        "photo": widgets.Dropdown(options=_photos(study), description="photo"),
        "method": widgets.Dropdown(options=list(methods), description="method"),
        "steps": widgets.SelectionSlider(
            options=sorted({*STEPS, preset.steps}), value=preset.steps, description="walk steps", **slider
        ),
        "threshold": widgets.SelectionSlider(
            options=config.scores.thresholds(), value=preset.threshold, description="threshold", **slider
        ),
        "alpha": widgets.SelectionSlider(
            options=sorted({*ALPHAS, preset.alpha}), value=preset.alpha, description="alpha", **slider
        ),
        "crf": widgets.Checkbox(value=preset.crf, description="dense CRF"),
    }
    picture, scores = widgets.Image(format="png"), widgets.HTML()

    def show(photo: str, method: str, **settings: Any) -> None:
        chosen = find(method, photo)
        view = look(chosen, Controls(**settings), config, len(names))
        shown = pictures(chosen, view, names)
        picture.value = png(draw_page([list(shown.values())], list(shown), names, width=3))
        each = ", ".join(f"{names[c]} {value:.0f}" for c, value in view.iou.items())
        scores.value = f"IoU on this photo: <b>{view.mean_iou:.1f} %</b> ({each})"
        controls["threshold"].disabled = settings["steps"] > 0
        controls["alpha"].disabled = settings["steps"] == 0

    errors = widgets.interactive_output(show, controls)
    return widgets.VBox([*controls.values(), scores, picture, errors])


def _photos(study: Study) -> list[tuple[str, str]]:
    """("id: its classes", id) of the training photos that have a mask."""
    data = study.data.train
    return [(f"{id}: {', '.join(present_classes(data, id))}", id) for id in study.data.scored("train")]
