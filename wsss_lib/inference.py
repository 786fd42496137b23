"""Multi-scale and flipped inference, several photos of one size in one pass.

Scales, flips and their sum are psa's; what a cell covers is not. Here a cell covers `stride` pixels of the
scaled photo, and the last cell of a side that is no multiple of the stride reaches beyond the photo. psa and
irn stretch the whole grid over the photo instead, so that their cells are a little smaller than the stride.
On such photos 0.6 to 1.8 % of the pixels get another label; where all scaled sides are multiples, none.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as VF

from wsss_lib.data.examples import photo_tensor
from wsss_lib.data.transforms import normalise
from wsss_lib.data.voc import VOCDataset
from wsss_lib.losses import global_average_pool
from wsss_lib.resampling import grid_centres, interpolate, interpolation_matrix
from wsss_lib.runtime.files import save_atomically
from wsss_lib.runtime.progress import report
from wsss_lib.score_maps import ScoreMaps

# On a CPU one large pass is slower than several small ones, whose activations stay in the caches. Measured:
# EfficientNet-Lite0 is fastest at 0.1 to 0.25 million pixels a pass; a million takes 1.5 times as long.
CPU_PIXELS = 2**17
GROUP_PIXELS = 2**23
"""Of photos taken together: 27 of 640 x 480, but one from a phone, a batch of which would fill the memory."""


@dataclass(frozen=True)
class MapRule:
    """How summed maps (P, h, w), not below 0, become scores in [0, 1]; `name` stands in the cache's keys."""

    name: str
    scale: Callable[[Tensor], Tensor]


def over_maximum(summed: Tensor) -> Tensor:
    """Each map over its maximum, as psa has it: S / (max S + 1e-5)."""
    return summed / (summed.amax(dim=(1, 2), keepdim=True) + 1e-5)


def min_max(summed: Tensor) -> Tensor:
    """Each map from its minimum to its maximum, as ACR has it: ReLU(S - min - 1e-5) / (max - min + 1e-5)."""
    lowest = summed.amin(dim=(1, 2), keepdim=True)
    return (summed - lowest - 1e-5).relu() / (summed.amax(dim=(1, 2), keepdim=True) - lowest + 1e-5)


MAXIMUM = MapRule("max", over_maximum)
MIN_MAX = MapRule("min-max", min_max)


def passes(scales: Sequence[float], flip: bool) -> str:
    """The forward passes behind a number, in words: "scales 0.5 1 + flip"."""
    return "scales " + " ".join(f"{scale:g}" for scale in scales) + (" + flip" if flip else "")


def reading(model: nn.Module, class_maps: Callable[[Tensor], Tensor], **more: Any) -> SimpleNamespace:
    """What `multi_scale` asks of a network, with other maps in the place of its class maps."""
    return SimpleNamespace(mean=model.mean, std=model.std, stride=model.stride, class_maps=class_maps, **more)


def _class_maps(model: nn.Module, views: Tensor) -> Tensor:
    """Class maps of a batch, on a CPU in pieces of at most CPU_PIXELS (or one photo)."""
    if views.device.type != "cpu":
        return model.class_maps(views)
    pieces = views.split(max(1, CPU_PIXELS // views[0, 0].numel()))
    return torch.cat([model.class_maps(piece) for piece in pieces])


@torch.inference_mode()
def multi_scale(
    model: nn.Module,
    images: Tensor,
    scales: Sequence[float],
    flip: bool,
    stride: int,
    select: Callable[[Tensor], Tensor],
    combine: Callable[[Tensor, Tensor], Tensor] = torch.add,
) -> Tensor:
    """The selected class maps of all scales and flips, combined on one grid: summed unless told otherwise.

    Args:
        model: has `mean` and `std` of its input and `class_maps(images) -> (B, C, h, w)` on a grid of
            `model.stride` pixels.
        images: (B, 3, H, W) uint8.
        scales: factors of the photo's size, resized bicubically.
        flip: add the horizontally flipped photo at each scale.
        stride: pixels of the photo per cell of the result.
        select: (B, C, h, w) -> (P, h, w), applied to each pass before it is resized.
        combine: of what is there and the next pass, both (P, H', W'), after resizing.

    Returns:
        (P, ceil(H / stride), ceil(W / stride)).
    """
    height, width = images.shape[-2:]
    y, x = grid_centres(height, stride), grid_centres(width, stride)
    total = None
    for scale in scales:
        h, w = max(1, round(height * scale)), max(1, round(width * scale))
        resized = (
            images if scale == 1 else VF.resize(images, [h, w], VF.InterpolationMode.BICUBIC, antialias=True)
        )
        inputs = normalise(resized, model.mean, model.std)
        views = torch.cat([inputs, inputs.flip(-1)]) if flip else inputs
        maps = _class_maps(model, views).float().split(len(images))
        rows = interpolation_matrix(maps[0].shape[-2], model.stride, y * h / height)
        for view, positions in zip(maps, (x, width - x), strict=False):
            columns = interpolation_matrix(view.shape[-1], model.stride, positions * w / width)
            resized_view = interpolate(select(view), rows, columns)
            total = resized_view if total is None else combine(total, resized_view)
    return total


def response_maps(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    scales: Sequence[float],
    flip: bool,
    stride: int,
    rule: MapRule = MAXIMUM,
) -> list[ScoreMaps]:
    """Normalised maps of the present classes: the sum of ReLU(CAM) over all passes, scaled to [0, 1].

    Args:
        images: (B, 3, H, W) uint8; labels: (B, C) multi-hot; rule: of the scaling; the rest as in
            `multi_scale`.

    Returns:
        For each photo its classes, in 1..C, with maps in float32.
    """
    photo, column = labels.nonzero(as_tuple=True)
    summed = multi_scale(model, images, scales, flip, stride, lambda maps: maps[photo, column].relu())
    scaled = rule.scale(summed).cpu().numpy()
    photo, column = photo.cpu().numpy(), column.cpu().numpy()
    size = tuple(images.shape[-2:])
    return [ScoreMaps(column[photo == i] + 1, scaled[photo == i], size, stride) for i in range(len(images))]


def class_probabilities(
    model: nn.Module, images: Tensor, scales: Sequence[float], flip: bool, stride: int
) -> list[ScoreMaps]:
    """Probabilities of a segmentation network, of background and all classes: (B, 3, H, W) uint8 -> B photos.

    `model.fusion` says how the passes are put together: "mean of softmax", "mean of logits" or "max of
    logits"; of logits the softmax is taken last, after resizing.
    """
    passes = len(scales) * (1 + flip)
    early = model.fusion == "mean of softmax"
    maximum = model.fusion == "max of logits"
    # multi_scale works on (P, h, w): fold the classes into P and unfold them afterwards
    fused = multi_scale(
        model, images, scales, flip, stride,
        lambda maps: (maps.softmax(1) if early else maps).flatten(0, 1),
        torch.maximum if maximum else torch.add,
    )  # fmt: skip
    fused = (fused if maximum else fused / passes).unflatten(0, (len(images), -1))
    probabilities = (fused if early else fused.softmax(1)).cpu().numpy()
    classes, size = np.arange(probabilities.shape[1]), tuple(images.shape[-2:])
    return [ScoreMaps(classes, maps, size, stride) for maps in probabilities]


def batches_of_one_size(
    ids: Sequence[str], sizes: Sequence[tuple[int, int]], batch: int
) -> Iterator[list[str]]:
    """Group ids whose photos have the same (H, W) into lists of at most `batch`, fewer of large ones."""
    by_size: dict[tuple[int, int], list[str]] = {}
    for id, size in zip(ids, sizes, strict=True):
        by_size.setdefault(size, []).append(id)
    for (height, width), same in by_size.items():
        count = max(1, min(batch, GROUP_PIXELS // (height * width)))
        for start in range(0, len(same), count):
            yield same[start : start + count]


@torch.inference_mode()
def pooled_features(
    model: nn.Module, data: VOCDataset, batch: int, device: torch.device, title: str
) -> np.ndarray:
    """(N, D) float32: mean over the whole photo of `model.features`, one pass at its size, not flipped."""
    groups = batches_of_one_size(data.ids, [data.image_size(id) for id in data.ids], batch)
    found: dict[str, np.ndarray] = {}

    def pooled() -> Iterator[str]:
        for ids in groups:
            images = torch.stack([photo_tensor(data, id).as_subclass(Tensor) for id in ids]).to(device)
            inputs = normalise(images, model.mean, model.std)
            for id, vector in zip(ids, global_average_pool(model.features(inputs)), strict=True):
                found[id] = vector.float().cpu().numpy()
                yield id

    for _ in report(pooled(), title, unit="photo", total=len(data)):
        pass
    return np.stack([found[id] for id in data.ids])


def write_maps(
    data: VOCDataset,
    out: Path,
    title: str,
    batch: int,
    device: torch.device,
    compute: Callable[[Tensor, list[str]], list[ScoreMaps]],
) -> None:
    """Fill `out` with <id>.npz for every photo; those already there are kept.

    compute: (images (B, 3, H, W) uint8 on `device`, their ids) -> one ScoreMaps per photo; B <= `batch`.
    """
    todo = {id for id in data.ids if not (out / f"{id}.npz").exists()}
    groups = batches_of_one_size(data.ids, [data.image_size(id) for id in data.ids], batch)

    def written() -> Iterator[str]:
        # whole groups, also where some are there: a photo's last digits depend on those beside it
        for ids in (ids for ids in groups if todo & set(ids)):
            images = torch.stack([photo_tensor(data, id).as_subclass(Tensor) for id in ids])
            for id, maps in zip(ids, compute(images.to(device), ids), strict=True):
                if id in todo:
                    save_atomically(maps.save, out / f"{id}.npz")
                    yield id

    for _ in report(written(), title, unit="photo", total=len(data), initial=len(data) - len(todo)):
        pass
