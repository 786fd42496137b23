"""Multi-scale response maps of sixteen photos in one pass against one photo, scale and flip at a time."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from benchmarks.measuring import Row, compare, peaks, seconds_of
from wsss_lib.config import load_config
from wsss_lib.data.scenes.composition import CLASSES, draw_scene
from wsss_lib.inference import multi_scale, response_maps
from wsss_lib.methods.cam import CAM
from wsss_lib.models.backbones import build_backbone

PHOTOS = 16
ROUNDS = 5
MAPS = load_config("quick").maps


def one_by_one(model: CAM, images: Tensor, labels: Tensor) -> list[np.ndarray]:
    """The same maps from as many passes as there are photos, scales and flips."""
    found = []
    for image, label in zip(images, labels, strict=True):
        present = label.nonzero()[:, 0]
        total = 0
        for scale in MAPS.scales:
            for flipped in (False, True):
                view = image[None].flip(-1) if flipped else image[None]
                maps = multi_scale(
                    model, view, (scale,), False, MAPS.stride, lambda m, c=present: m[0, c].relu()
                )
                total = total + (maps.flip(-1) if flipped else maps)
        found.append((total / (total.amax((1, 2), keepdim=True) + 1e-5)).numpy())
    return found


def prepare(variant: str, size: tuple[int, int]) -> Callable[[], list[np.ndarray]]:
    scenes = [draw_scene(0, "bench", index, size) for index in range(PHOTOS)]
    images = torch.stack([torch.from_numpy(scene.image).permute(2, 0, 1) for scene in scenes])
    labels = torch.zeros(PHOTOS, len(CLASSES))
    for row, scene in zip(labels, scenes, strict=True):
        row[[CLASSES.index(item.class_name) for item in scene.objects]] = 1
    torch.manual_seed(0)
    model = CAM(build_backbone("tf_efficientnet_lite0"), len(CLASSES)).eval()
    one_by_one(model, images[:1], labels[:1])  # loads what torch loads late
    if variant == "one by one":
        return lambda: one_by_one(model, images, labels)
    return lambda: [
        found.maps for found in response_maps(model, images, labels, MAPS.scales, True, MAPS.stride)
    ]


def rows(rounds: int = ROUNDS) -> list[Row]:
    table = []
    for height, width in ((160, 192), (256, 320)):
        runs = compare(prepare, [(v, (height, width)) for v in ("one by one", "batch")], rounds)
        apart = max(np.abs(a - b).max() for a, b in zip(*(run.result for run in runs[0]), strict=True))
        table.append(
            Row(
                f"response maps, scales {' '.join(map(str, MAPS.scales))} and flips",
                "one photo, scale, flip a pass",
                f"{PHOTOS} photos with flips a pass",
                f"photo {height} x {width}",
                seconds_of(runs, 0, 1, 1 / PHOTOS),
                peaks(runs, 0, 1),
                f"maps differ by {apart:.0e}",
            )
        )
    return table
