"""Training examples of the three kinds of network: index -> dictionary of tensors."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors

from wsss_lib.data.masks import load_mask
from wsss_lib.data.voc import VOCDataset
from wsss_lib.score_maps import ScoreMaps


def photo_tensor(dataset: VOCDataset, id: str) -> tv_tensors.Image:
    """(3, H, W) uint8."""
    return tv_tensors.Image(torch.from_numpy(dataset.image(id)).permute(2, 0, 1))


@dataclass(frozen=True)
class ClassificationExamples:
    """image (3, crop, crop) and its multi-hot label (C,)."""

    dataset: VOCDataset
    transform: Callable

    def __call__(self, index: int) -> dict[str, Tensor]:
        id = self.dataset.ids[index]
        return {
            "image": self.transform(photo_tensor(self.dataset, id)),
            "label": torch.from_numpy(self.dataset.label(id)),
        }


@dataclass(frozen=True)
class SubCategoryExamples:
    """A classification example with the multi-hot label (C * K,) of its sub-categories."""

    examples: ClassificationExamples
    sub_labels: np.ndarray

    def __call__(self, index: int) -> dict[str, Tensor]:
        return {**self.examples(index), "sub_label": torch.from_numpy(self.sub_labels[index])}


@dataclass(frozen=True)
class AffinityExamples:
    """image (3, crop, crop) and the confident labels (h, w) of its cells.

    `low` and `high` hold one file of CRF marginals a photo; `label` makes the cells' labels from both.
    """

    dataset: VOCDataset
    low: Path
    high: Path
    transform: Callable
    label: Callable[[Tensor, Tensor], Tensor]

    def __call__(self, index: int) -> dict[str, Tensor]:
        id = self.dataset.ids[index]
        low, high = (
            torch.from_numpy(ScoreMaps.load(folder / f"{id}.npz").full()) for folder in (self.low, self.high)
        )
        image, marginals = self.transform(
            photo_tensor(self.dataset, id), tv_tensors.Mask(torch.cat([low, high]))
        )
        return {"image": image, "label": self.label(*marginals.split(len(low)))}


@dataclass(frozen=True)
class SegmentationExamples:
    """image (3, crop, crop) and its pseudo label (crop, crop) from `masks`."""

    dataset: VOCDataset
    ids: Sequence[str]
    masks: Path
    transform: Callable

    def __call__(self, index: int) -> dict[str, Tensor]:
        id = self.ids[index]
        mask = torch.from_numpy(load_mask(self.masks / f"{id}.png"))
        image, mask = self.transform(photo_tensor(self.dataset, id), tv_tensors.Mask(mask))
        return {"image": image, "mask": mask}
