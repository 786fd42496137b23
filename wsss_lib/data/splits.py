"""The splits of a study: what is learned from, and what is scored."""

from collections.abc import Collection, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from wsss_lib.data.check import check_agreement
from wsss_lib.data.labels import read_label_table
from wsss_lib.data.layout import check_disjoint, drawn, list_path, read_lists
from wsss_lib.data.photos import open_image
from wsss_lib.data.voc import LABEL_SOURCES, VOCDataset, class_names, find_root

TUNED = 100
"""Photos of train_aug that are set apart where a data set has no list `tune` of its own."""


class Splits:
    """Train, tune, val and test of a folder in VOC layout; arguments as in `VOCDataset`.

    Settings are chosen on `tune`, which is neither learned from nor scored: the list of this name or, where
    train_aug holds more photos than train, `TUNED` of the others, drawn by hash and taken from those learned
    from. Elsewhere there is none.

    `limit` bounds the photos of every split, so that a dry run is quick; of those learned from it first keeps
    the ones on which training maps are scored.

    Raises:
        FileNotFoundError: the root is no data set.
        ValueError: lists share photos though one is learned from and the other scored.
    """

    def __init__(
        self, root: str | Path, classes: Sequence[str] | str | None, labels: str | Path, limit: int | None
    ):
        self.root, self._classes, self._labels, self._limit = find_root(Path(root)), classes, labels, limit
        self._agreeing: set[str] = set()
        check_disjoint(read_lists(self.root), self.root)

    def _read(self, split: str, first: str | None = None, ids: Collection[str] | None = None) -> VOCDataset:
        return VOCDataset(self.root, split, self._classes, self._labels, self._limit, first, ids=ids)

    @cached_property
    def _official(self) -> VOCDataset:
        return VOCDataset(self.root, "train", self._classes, self._labels)

    @cached_property
    def train(self) -> VOCDataset:
        """Photos to learn from: the list train_aug where there is one, else train; none of `tune`."""
        if (augmented := self._augmented) is None:
            return self._read("train")
        return self._read("train_aug", first="train", ids=set(augmented) - set(self._drawn_to_tune))

    @cached_property
    def _augmented(self) -> list[str] | None:
        lists = read_lists(self.root)
        return next((lists[name] for name in ("train_aug", "trainaug") if name in lists), None)

    @cached_property
    def _drawn_to_tune(self) -> list[str]:
        lists = read_lists(self.root)
        if self._augmented is None or "tune" in lists:
            return []
        others = set(self._augmented).difference(*(lists.get(name, ()) for name in ("train", "val")))
        return drawn(others, TUNED) if len(others) > TUNED else []

    @cached_property
    def tune(self) -> VOCDataset | None:
        """Photos to choose settings on; None where there are none."""
        if self._drawn_to_tune:
            return self._read("train_aug", ids=self._drawn_to_tune)
        return self._read("tune") if list_path(self.root, "tune").is_file() else None

    @cached_property
    def val(self) -> VOCDataset:
        """Photos to score on: the list val."""
        return self._read("val")

    @cached_property
    def test(self) -> VOCDataset:
        """Photos to segment only: no image labels are read, so that nothing can learn from them."""
        from_table = self._labels not in LABEL_SOURCES  # which may be all that says what the classes are
        table = read_label_table(Path(self._labels), ()) if from_table else None
        names = class_names(self.root, table)
        return VOCDataset(self.root, "test", self._classes, "none", self._limit, names=names)

    @cached_property
    def scored_train(self) -> list[str]:
        """Training photos of the list train, the official masks, on which maps and labels are scored."""
        official = set(self._official.ids)
        return [id for id in self.train.ids if id in official]

    def dataset(self, split: str) -> VOCDataset:
        """All photos of "train", "tune", "val" or "test"."""
        if split not in ("train", "tune", "val", "test"):
            raise ValueError(f"Split {split!r} is not used here; choose 'train', 'tune', 'val' or 'test'.")
        if split == "tune" and self.tune is None:
            raise ValueError(
                f"{self.root} has no photos to choose settings on; write some with masks, that are in no "
                f"other list, into {list_path(self.root, 'tune')}."
            )
        return getattr(self, split)

    def scored(self, split: str) -> list[str]:
        """Ids of the photos on which a split is scored: those that have a mask, or no object by their label.

        Raises:
            ValueError: no photo has a mask, or most masks contradict the labels.
        """
        data = self.dataset(split)
        ids = [id for id in (self.scored_train if split == "train" else data.ids) if data.has_mask(id)]
        if not set(ids) & set(data.masked):
            raise ValueError(
                f"No photo of {split} has a mask to be scored on; add masks, raise the limit or, for VOC's "
                "test, send your masks to its server (wsss_lib.data.submission)."
            )
        if self._labels != "masks" and split not in self._agreeing:
            check_agreement(data, ids)
            self._agreeing.add(split)
        return ids

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names by id, background first."""
        return ("background", *self.train.classes)

    @property
    def has_parts(self) -> bool:
        """Whether part masks exist, as on the embedded scenes."""
        return (self.train.root / "SegmentationPart").is_dir()

    def parts(self, id: str) -> np.ndarray:
        """Part mask (H, W): 1 discriminative part, 2 the rest of the object, 255 border."""
        with open_image(self.train.root / "SegmentationPart" / f"{id}.png") as image:
            return np.array(image)
