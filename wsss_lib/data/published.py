"""The published statistics of the data sets, and how a folder differs from them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wsss_lib.data.layout import list_path, read_ids
from wsss_lib.data.voc import VOCDataset


@dataclass(frozen=True)
class Published:
    """What a complete data set holds.

    photos: per list; only the list test may be missing. labels: source of the image labels, "xml" or a file
    in the folder. counted: the list whose labels were counted; per_class: its photos with each class, in id
    order; per_number: its photos with 1, 2, ... classes.
    """

    photos: Mapping[str, int]
    labels: str
    counted: str = ""
    per_class: tuple[int, ...] = ()
    per_number: tuple[int, ...] = ()


# Labels as in psa's label file: every object of the XML, difficult ones included.
VOC2012 = Published(
    {"train": 1464, "val": 1449, "train_aug": 10582, "test": 1456},
    "xml",
    "train_aug",
    (
        590, 504, 705, 468, 714, 393, 1150, 1005, 1228, 267,
        613, 1188, 445, 492, 4155, 522, 300, 649, 503, 567,
    ),
    (6249, 3104, 969, 210, 46, 4),
)  # fmt: skip
# 82,783 and 40,504 photos less the 702 and 367 without any annotated object
COCO2014 = Published({"train": 82081, "val": 40137}, "labels.npz")


def differences(root: Path, published: Published) -> list[str]:
    """How lists, masks and labels of a folder in VOC layout differ from the published ones; none if complete.

    Raises:
        FileNotFoundError, ValueError: a photo, annotation or label file is missing or damaged.
    """
    found = []
    for split, expected in published.photos.items():
        file = list_path(root, split)
        count = len(read_ids(file.read_text())) if file.is_file() else 0
        if count != expected and (count or split != "test"):
            found.append(f"the list {split} has {count:,} photos, not {expected:,}")
        if count:
            found += _content_differences(root, split, published)
    return found


def _content_differences(root: Path, split: str, published: Published) -> list[str]:
    if split == "test":  # neither labels nor masks are public
        VOCDataset(root, split, labels="none")  # its photos are there
        return []
    data = VOCDataset(root, split, labels="xml" if published.labels == "xml" else root / published.labels)
    found = []
    if without := sorted(set(data.ids) - set(data.masked)):
        found.append(f"{len(without):,} photos of {split} have no mask, the first is {without[0]}")
    if split == published.counted:
        per_class = zip(data.classes, data.labels.sum(0).astype(int), published.per_class, strict=True)
        found += [
            f"{split} has {count:,} photos with {name}, not {n:,}"
            for name, count, n in per_class
            if count != n
        ]
        together = np.bincount(data.labels.sum(1).astype(int), minlength=len(published.per_number) + 1)[1:]
        if together.tolist() != list(published.per_number):
            found.append(
                f"{split} has {together.tolist()} photos with 1, 2, ... classes, not {published.per_number}"
            )
    return found
