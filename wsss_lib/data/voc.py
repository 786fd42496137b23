"""Reader of the PASCAL VOC folder layout: VOC 2012, its augmented list, subsets of it, drawn scenes.

A mask pixel holds 0 (background), 1..C (class c of `classes` is id c + 1) or 255 (void: ignored); an image
label is a multi-hot vector over the C foreground classes.
"""

import difflib
import hashlib
import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import pandas as pd

from wsss_lib.data.masks import IGNORE
from wsss_lib.data.photos import open_image, read_image, read_image_size

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


class VOCDataset:
    """One split of a folder in VOC layout, read lazily: only the labels are held in memory.

    `classes.txt` in the root (one foreground name a line, in id order) replaces the 20 VOC classes.
    Official masks (SegmentationClass) are preferred over augmented ones (SegmentationClassAug).

    Args:
        root: the VOC2012 folder, or a folder that holds VOCdevkit/VOC2012 or VOC2012.
        split: name of a list in ImageSets/Segmentation; trainaug and train_aug stand for each other.
        classes: foreground classes to keep, in the order of their new ids; pixels of the others become
            255, images that hold none of them are dropped. None keeps all.
        labels: source of the image labels: "masks" (classes of the mask pixels), "xml" (every object of
            Annotations/<id>.xml, difficult ones included), a CSV (columns id, then class names; 0 or 1),
            an npz (arrays ids, classes, labels), or "none" (labels are NaN: for splits like VOC's test).
        limit: keep the first `limit` images, so that a larger limit contains the smaller.
        first: name of a list whose images a limit keeps before the others.

    Attributes:
        ids: image ids in the order of the list.
        classes: the C foreground names in id order.
        labels: (N, C) float32 multi-hot labels, row i for ids[i].
        skipped: ids dropped because they hold none of `classes`.

    Raises:
        FileNotFoundError: the root, list, an image, a mask or a label file is missing.
        ValueError: unknown class, empty list, an image without label row or without any class.
    """

    def __init__(
        self,
        root: str | Path,
        split: str,
        classes: Sequence[str] | None = None,
        labels: str | Path = "masks",
        limit: int | None = None,
        first: str | None = None,
    ):
        if limit is not None and limit < 1:
            raise ValueError(f"limit is {limit}; give a positive number of images, or None for all.")
        self.root, self.split = _find_root(Path(root)), split
        self._known = _read_classes(self.root)
        self.classes = self._known if classes is None else tuple(classes)
        _check_classes(self.classes, self._known, "The argument classes")
        if not self.classes:
            raise ValueError("The argument classes is empty; name a class, or give None for all.")
        # Mask id of the files -> id of this dataset; unwanted classes become void.
        self._remap = np.full(256, IGNORE, np.uint8)
        self._remap[0] = 0
        for new, name in enumerate(self.classes, start=1):
            self._remap[1 + self._known.index(name)] = new

        list_file = _find_list(self.root, split)
        listed = _read_list(list_file)
        if limit and first:
            before = set(_read_list(_find_list(self.root, first)))
            listed.sort(key=lambda id: id not in before)  # stable: in the order of the list otherwise
        images = _files(self.root / "JPEGImages", ".png", ".jpeg", ".jpg")
        missing = [id for id in listed if id not in images]
        if missing:
            raise FileNotFoundError(
                f"{list_file} lists {len(missing)} images that {self.root / 'JPEGImages'} does not hold, "
                f"the first is {missing[0]!r}; copy them there or take them off the list."
            )
        masks = _files(self.root / "SegmentationClassAug", ".png")
        masks |= _files(self.root / "SegmentationClass", ".png")
        self._images = {id: images[id] for id in listed}
        self._masks = {id: masks[id] for id in listed if id in masks}

        self.ids: list[str] = []
        self.skipped: list[str] = []
        kept = []
        for id, row in zip(listed, self._label_rows(listed, labels, known_images=images), strict=True):
            if row.any():  # NaN, an unknown label, counts as true
                self.ids.append(id)
                kept.append(row)
            elif classes is None:
                raise ValueError(
                    f"The label of image {id!r} (labels={str(labels)!r}) holds no class; correct it, "
                    f"take the image off {list_file}, or name the wanted classes to skip such images."
                )
            else:
                self.skipped.append(id)
            if len(kept) == limit:
                break
        if not kept:
            raise ValueError(
                f"No image of {list_file} holds one of the classes {', '.join(self.classes)}; name others."
            )
        self.labels = np.asarray(kept, np.float32)
        self._row = {id: i for i, id in enumerate(self.ids)}

    def __len__(self) -> int:
        return len(self.ids)

    def image(self, id: str) -> np.ndarray:
        """The photo, (H, W, 3) uint8 RGB; see `read_image`."""
        return read_image(self.image_path(id))

    def image_size(self, id: str) -> tuple[int, int]:
        """(H, W) of the photo, from its header."""
        return read_image_size(self.image_path(id))

    def mask(self, id: str) -> np.ndarray:
        """The ground truth, (H, W) uint8 with ids 0..C of `classes` and 255.

        Raises:
            FileNotFoundError: the image has no mask.
            ValueError: the mask is no index image, holds an id beyond the classes, or differs in size.
        """
        return self._remap[self._read_mask(id)]

    def label(self, id: str) -> np.ndarray:
        """(C,) float32 multi-hot label."""
        if id not in self._row:
            raise KeyError(f"{id!r} is not in split {self.split!r} of {self.root}; take one of its ids.")
        return self.labels[self._row[id]]

    def image_path(self, id: str) -> Path:
        """File of the photo."""
        if id not in self._images:
            raise FileNotFoundError(
                f"{id!r} is not in split {self.split!r} of {self.root}; take one of its ids."
            )
        return self._images[id]

    def mask_path(self, id: str) -> Path:
        """File of the mask, the official one when there are two."""
        if id not in self._masks:
            raise FileNotFoundError(
                f"{self.root / 'SegmentationClass'} holds no mask {id}.png; copy it there, or use only "
                "images and labels of this split (labels='xml', a CSV, an npz, or 'none')."
            )
        return self._masks[id]

    def has_mask(self, id: str) -> bool:
        """Whether the photo can be scored."""
        return id in self._masks

    def fingerprint(self) -> str:
        """SHA-256 of ids, classes, labels and file sizes (not contents), wherever the root lies."""
        sizes = [
            [self._images[id].stat().st_size, self._masks[id].stat().st_size if id in self._masks else None]
            for id in self.ids
        ]
        digest = hashlib.sha256(json.dumps([self.ids, self.classes, sizes]).encode())
        digest.update(self.labels.tobytes())
        return digest.hexdigest()

    def _read_mask(self, id: str) -> np.ndarray:
        path = self.mask_path(id)
        with open_image(path) as image:
            if image.mode not in ("P", "L"):
                raise ValueError(
                    f"The mask {path} is of mode {image.mode}, but class ids are read from palette "
                    "indices or grey values; save it as a palette or 8-bit grey PNG."
                )
            mask = np.asarray(image)
        if (largest := mask.max(initial=0, where=mask != IGNORE)) > len(self._known):
            raise ValueError(
                f"The mask {path} holds id {largest}, but there are {len(self._known)} classes; use ids "
                f"0..{len(self._known)} and 255, or list all classes in {self.root / 'classes.txt'}."
            )
        if mask.shape != (size := self.image_size(id)):
            raise ValueError(
                f"The mask {path} is {mask.shape} (H, W) while its photo is {size}; scale one to the other "
                "(masks by nearest neighbour)."
            )
        return mask

    def _label_rows(
        self, ids: list[str], source: str | Path, known_images: Iterable[str]
    ) -> Iterable[np.ndarray]:
        """Multi-hot rows (C,) of `ids`, one at a time."""
        if source == "masks":
            return self._mask_rows(ids)
        if source == "xml":
            return self._xml_rows(ids)
        if source == "none":
            return np.full((len(ids), len(self.classes)), np.nan)
        return self._table_rows(ids, Path(source), known_images)

    def _mask_rows(self, ids: list[str]) -> Iterator[np.ndarray]:
        wanted = np.arange(1, 1 + len(self.classes), dtype=np.uint8)

        def row(id: str) -> np.ndarray:
            return np.isin(wanted, self._remap[self._read_mask(id)])

        with ThreadPoolExecutor() as pool:
            for start in range(0, len(ids), 256):  # in pieces, so that a small limit reads few masks
                yield from pool.map(row, ids[start : start + 256])

    def _xml_rows(self, ids: list[str]) -> Iterator[np.ndarray]:
        for id in ids:
            path = self.root / "Annotations" / f"{id}.xml"
            try:
                names = [o.findtext("name", "").strip() for o in ElementTree.parse(path).iterfind("object")]
            except FileNotFoundError:
                raise FileNotFoundError(f"There is no {path}; copy it there or use labels='masks'.") from None
            except ElementTree.ParseError as error:
                raise ValueError(f"{path} is no valid XML ({error}); copy it again.") from error
            _check_classes(set(names), self._known, path)
            yield np.isin(self.classes, names)

    def _table_rows(self, ids: list[str], path: Path, known_images: Iterable[str]) -> np.ndarray:
        table = _read_label_table(path)
        _check_classes(table.columns, self._known, path)
        for name in self.classes:
            if name not in table.columns:
                raise ValueError(f"{path} has no column for class {name!r}; add it, or leave the class out.")
        if extra := set(table.index) - set(known_images):
            raise ValueError(
                f"{path} has rows for {len(extra)} ids without photo, the first is {min(extra)!r}; "
                "remove them or add the photos."
            )
        if missing := set(ids) - set(table.index):
            raise ValueError(
                f"{path} has no row for {len(missing)} images of the list, the first is {min(missing)!r}; "
                "add them."
            )
        return table.loc[ids, list(self.classes)].to_numpy()


def _find_root(root: Path) -> Path:
    for folder in (root, root / "VOCdevkit" / "VOC2012", root / "VOC2012"):
        if (folder / "JPEGImages").is_dir():
            return folder
    raise FileNotFoundError(
        f"{root} holds no JPEGImages, VOC2012 or VOCdevkit/VOC2012; "
        "give the folder of a dataset in VOC layout."
    )


def _find_list(root: Path, split: str) -> Path:
    folder = root / "ImageSets" / "Segmentation"
    alias = {"trainaug": "train_aug", "train_aug": "trainaug"}.get(split, split)
    for name in (split, alias):
        if (folder / f"{name}.txt").is_file():
            return folder / f"{name}.txt"
    there = ", ".join(sorted(path.stem for path in folder.glob("*.txt"))) or "none"
    raise FileNotFoundError(f"There is no list {folder / split}.txt; make it or choose one of: {there}.")


def _read_list(path: Path) -> list[str]:
    ids = [line.strip() for line in path.read_text("utf-8-sig").splitlines() if line.strip()]
    if not ids:
        raise ValueError(f"The list {path} is empty; write one image id a line.")
    if len(set(ids)) < len(ids):
        twice = next(id for id in ids if ids.count(id) > 1)
        raise ValueError(f"The list {path} names {twice!r} more than once; keep one.")
    return ids


def _files(folder: Path, *suffixes: str) -> dict[str, Path]:
    """Files of a folder by stem; of files that share a stem, the one with the last of `suffixes`."""
    found = [path for path in folder.iterdir() if path.suffix.lower() in suffixes] if folder.is_dir() else []
    return {path.stem: path for path in sorted(found, key=lambda path: suffixes.index(path.suffix.lower()))}


def _read_classes(root: Path) -> tuple[str, ...]:
    path = root / "classes.txt"
    if not path.is_file():
        return VOC_CLASSES
    names = tuple(line.strip() for line in path.read_text("utf-8-sig").splitlines() if line.strip())
    if "background" in names:
        raise ValueError(f"{path} names 'background', which is always id 0; list foreground classes only.")
    _check_classes(names, names, path)
    return names


def _check_classes(names: Iterable[str], known: Sequence[str], where: str | Path) -> None:
    names = list(names)
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{where} names class {name!r} more than once; keep one.")
        if name not in known:
            nearest = difflib.get_close_matches(name, known) or known
            raise ValueError(
                f"{where} names the unknown class {name!r}; the nearest are: {', '.join(nearest)}."
            )


def _read_label_table(path: Path) -> pd.DataFrame:
    """A label file as a table of 0 and 1, ids as index, class names as columns."""
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no label file {path}; give 'masks', 'xml', 'none', a .csv or a .npz."
        )
    try:
        if path.suffix.lower() == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                table = pd.DataFrame(arrays["labels"], index=arrays["ids"], columns=arrays["classes"])
        else:
            table = pd.read_csv(path, dtype={"id": str}, keep_default_na=False, encoding="utf-8-sig")
            table = table.set_index("id")
    except (KeyError, ValueError, BadZipFile) as error:
        raise ValueError(
            f"{path} is no label file ({error}); make a CSV (columns id, then class names) or an npz "
            "with the arrays ids (N), classes (C) and labels (N, C)."
        ) from error
    if not table.index.is_unique:
        twice = table.index[table.index.duplicated()][0]
        raise ValueError(f"{path} has more than one row for {twice!r}; keep one.")
    table = table.apply(pd.to_numeric, errors="coerce")
    if not (valid := table.isin([0, 1]).all(axis=1)).all():
        raise ValueError(
            f"{path} has values other than 0 and 1 in the row of {valid.idxmin()!r}; correct them."
        )
    return table
