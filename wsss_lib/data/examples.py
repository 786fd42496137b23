"""Training examples: photos with image labels, photos with masks: index -> dictionary of tensors."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torchvision import tv_tensors

from wsss_lib.data.masks import load_mask
from wsss_lib.data.voc import VOCDataset


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
