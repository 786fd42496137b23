"""Reader of the PASCAL VOC folder layout: VOC 2012, its augmented list, subsets of it, drawn scenes.

A mask pixel holds 0 (background), 1..C (class c of `classes` is id c + 1) or 255 (void: ignored); an image
label is a multi-hot vector over the C foreground classes.
"""

import difflib
import hashlib
import json
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd

from wsss_lib.data.labels import check_class_names, read_label_table
from wsss_lib.data.layout import check_laid_out, read_ids
from wsss_lib.data.masks import IGNORE
from wsss_lib.data.palette import (
    COLOURS,
    LABELMAP,
    foreground,
    ids_by_colour,
    ids_of_colours,
    palette_file,
    read_colours,
    voc_ids_by_colour,
)
from wsss_lib.data.photos import by_id, open_image, photo_files, read_image, read_image_size
from wsss_lib.runtime.digest import file_digests

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


LABEL_SOURCES = ("masks", "xml", "none")
"""Where image labels come from, other than a file."""


class VOCDataset:
    """One split of a folder in VOC layout, read lazily: only the labels are held in memory.

    The foreground classes, in the order of their ids in the masks, are the first of these that there is:
    `names`; `classes.txt` in the root, one name a line; `labelmap.txt` or `colours.csv` in the root (see
    `wsss_lib.data.palette`, masks are then read by colour); VOC's 20, if this is VOC's folder (see
    `is_voc`); the columns of a label table.
    Official masks (SegmentationClass) are preferred over augmented ones (SegmentationClassAug).

    Args:
        root: the VOC2012 folder, or a folder that holds VOCdevkit/VOC2012 or VOC2012.
        split: name of a list in ImageSets/Segmentation; trainaug and train_aug stand for each other.
        classes: foreground classes to keep, in the order of their new ids; pixels of the others become
            255, images that hold others alone are dropped. None keeps all; a string is one class.
        labels: source of the image labels: "masks" (classes of the mask pixels), "xml" (every object of
            Annotations/<id>.xml, difficult ones included), a CSV (columns id, then class names; 0 or 1),
            an npz (arrays ids, classes, labels), or "none" (labels are NaN: for splits like VOC's test).
        limit: keep the first `limit` images, so that a larger limit contains the smaller.
        first: name of a list whose images a limit keeps before the others.
        names: all foreground classes in the order of the masks' ids, where no file says them.
        ids: the images of the list to read; None reads all.

    Attributes:
        ids: image ids in the order of the list.
        classes: the C foreground names in id order.
        labels: (N, C) float32 multi-hot labels, row i for ids[i]. A row of zeros is an image without any
            object: it is learned from, and without a mask of its own its truth is background everywhere.
        skipped: ids dropped because they hold none of `classes`, but another class or an unknown one.

    Raises:
        FileNotFoundError: the root, list, an image, a mask or a label file is missing.
        ValueError: unknown class, empty list, an image without label row, no image with an object.
    """

    def __init__(
        self,
        root: str | Path,
        split: str,
        classes: Sequence[str] | str | None = None,
        labels: str | Path = "masks",
        limit: int | None = None,
        first: str | None = None,
        names: Sequence[str] | None = None,
        ids: Collection[str] | None = None,
    ):
        if limit is not None and limit < 1:
            raise ValueError(f"limit is {limit}; give a positive number of images, or None for all.")
        self.root, self.split = find_root(Path(root)), split
        list_file = _find_list(self.root, split)
        listed = [id for id in _read_list(list_file) if ids is None or id in ids]
        folder = self.root / "JPEGImages"
        images = by_id(photo_files(folder), folder)
        missing = [id for id in listed if id not in images]
        if missing:
            raise FileNotFoundError(
                f"{list_file} lists {len(missing)} images that {folder} does not hold, "
                f"the first is {missing[0]!r}; copy them there or take them off the list."
            )
        table = None if labels in LABEL_SOURCES else read_label_table(Path(labels), images)
        self.names = class_names(self.root, table) if names is None else check_class_names(names, "names")
        chosen = (classes,) if isinstance(classes, str) else classes
        self.classes = self.names if chosen is None else tuple(chosen)
        _check_known(self.classes, self.names, "The argument classes")
        if not self.classes:
            raise ValueError("The argument classes is empty; name a class, or give None for all.")
        # Mask id of the files -> id of this dataset; unwanted classes become void.
        self._remap = np.full(256, IGNORE, np.uint8)
        self._remap[0] = 0
        for new, name in enumerate(self.classes, start=1):
            self._remap[1 + self.names.index(name)] = new

        if limit and first:
            before = set(_read_list(_find_list(self.root, first)))
            listed.sort(key=lambda id: id not in before)  # stable: in the order of the list otherwise
        masks = masks_in(self.root / "SegmentationClassAug") | masks_in(self.root / "SegmentationClass")
        self._images = {id: images[id] for id in listed}
        self._masks = {id: masks[id] for id in listed if id in masks}
        self._colours = ids_by_colour(self.root, self.names)
        self._voc = self.names == VOC_CLASSES and is_voc(self.root)

        self.ids: list[str] = []
        self.skipped: list[str] = []
        kept = []
        wanted = [self.names.index(name) for name in self.classes]
        for id, row in zip(listed, self._label_rows(listed, labels, table, set(images)), strict=True):
            if row is None and (classes is None or not self._voc):
                raise _only_void(self.mask_path(id), self.root, self.names)
            # NaN, a class of which nothing is known, counts as true
            if row is not None and (row[wanted].any() or not row.any()):
                self.ids.append(id)
                kept.append(row[wanted])
            else:
                self.skipped.append(id)
            if len(kept) == limit:
                break
        if not np.any(kept):
            further = "" if limit is None or limit > len(kept) else f" among the first {limit}"
            raise ValueError(
                f"No image of {list_file}{further} holds one of the classes {', '.join(self.classes)}; name "
                "others" + (" or raise the limit." if further else ".")
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

        All background for an image that has no mask and, by its label, no object.

        Raises:
            FileNotFoundError: the image has no mask, but an object.
            ValueError: the mask is no index image and has no palette, holds an id beyond the classes or no
                class at all, or differs in size.
        """
        if id not in self._masks and self._is_empty(id):
            return np.zeros(self.image_size(id), np.uint8)
        mask = self._read_mask(id)
        # VOC itself voids difficult objects, so that there such a mask may be right
        if not self._voc and _shows_only_void(mask) and id in self._row and (self.label(id) == 1).any():
            raise _only_void(self.mask_path(id), self.root, self.names)
        return self._remap[mask]

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

    @property
    def masked(self) -> list[str]:
        """Ids of the photos that have a mask of their own."""
        return [id for id in self.ids if id in self._masks]

    def has_mask(self, id: str) -> bool:
        """Whether the photo can be scored: it has a mask, or no object by its label."""
        return id in self._masks or self._is_empty(id)

    def _is_empty(self, id: str) -> bool:
        return id in self._row and not self.label(id).any()  # NaN, an unknown label, counts as true

    def fingerprint(self) -> str:
        """SHA-256 of what learning and inference read: ids, classes, labels and the photos' content.

        The same wherever the root lies. Masks are in it only where the labels were read from them.
        """
        digests = file_digests([self._images[id] for id in self.ids])
        content = [self.ids, self.classes, [digests[self._images[id]] for id in self.ids]]
        digest = hashlib.sha256(json.dumps(content).encode())
        digest.update(self.labels.tobytes())
        return digest.hexdigest()

    def truth_fingerprint(self) -> str:
        """SHA-256 of what scoring reads: the masks' content, and what their ids and colours mean.

        Beside `fingerprint` in the key of scores, and in no other: a mask more trains nothing again.
        """
        masks = {id: self._masks[id] for id in self.ids if id in self._masks}
        digests = file_digests(masks.values())
        content = [
            [[id, digests[masks[id]] if id in masks else None, self._is_empty(id)] for id in self.ids],
            self.classes,
            self.names,
            sorted(self._colours.items()),
        ]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def _read_mask(self, id: str) -> np.ndarray:
        """(H, W) uint8 with the ids of `names`, 0 and 255."""
        path = self.mask_path(id)
        with open_image(path) as image:
            coloured = image.mode in ("RGB", "RGBA")
            if self._colours and (coloured or image.mode in ("P", "L", "1")):
                rgb = np.asarray(image.convert("RGB"))
                mask = ids_of_colours(rgb, self._colours, path, palette_file(self.root))
            elif self._voc and coloured:
                colours = voc_ids_by_colour(len(self.names))
                mask = ids_of_colours(np.asarray(image.convert("RGB")), colours, path, "VOC's palette")
            elif image.mode in ("P", "L"):
                mask = np.asarray(image)
            else:
                raise ValueError(
                    f"The mask {path} is of mode {image.mode}, but class ids are read from palette indices "
                    f"or grey values; save it as a palette or 8-bit grey PNG, or say what its colours mean "
                    f"in {self.root / COLOURS} (columns name, r, g, b) or CVAT's {LABELMAP}."
                )
        if (largest := mask.max(initial=0, where=mask != IGNORE)) > len(self.names):
            raise ValueError(
                f"The mask {path} holds id {largest}, but there are {len(self.names)} classes; use ids "
                f"0..{len(self.names)} and 255, or list all classes in {self.root / 'classes.txt'}."
            )
        if mask.shape != (size := self.image_size(id)):
            raise ValueError(
                f"The mask {path} is {mask.shape} (H, W) while its photo is {size}; scale one to the other "
                "(masks by nearest neighbour)."
            )
        return mask

    def _label_rows(
        self, ids: list[str], source: str | Path, table: pd.DataFrame | None, photos: set[str]
    ) -> Iterable[np.ndarray | None]:
        """Rows (K,) of `ids` over all K `names`, one at a time: 1, 0, or NaN where nothing is known; None if
        nothing is known of the image at all.
        """
        if table is not None:
            return self._table_rows(ids, Path(source), table, photos)
        if source == "masks":
            return self._mask_rows(ids)
        if source == "xml":
            return self._xml_rows(ids)
        return np.full((len(ids), len(self.names)), np.nan)

    def _mask_rows(self, ids: list[str]) -> Iterator[np.ndarray | None]:
        every = np.arange(1, 1 + len(self.names), dtype=np.uint8)

        def row(id: str) -> np.ndarray | None:
            mask = self._read_mask(id)
            return None if _shows_only_void(mask) else np.isin(every, mask)

        with ThreadPoolExecutor() as pool:
            for start in range(0, len(ids), 256):  # in pieces, so that a small limit reads few masks
                yield from pool.map(row, ids[start : start + 256])

    def _xml_rows(self, ids: list[str]) -> Iterator[np.ndarray]:
        for id in ids:
            path = self.root / "Annotations" / f"{id}.xml"
            names = [o.findtext("name", "").strip() for o in _read_xml(path).iterfind("object")]
            _check_known(set(names), self.names, path)
            yield np.isin(self.names, names)

    def _table_rows(self, ids: list[str], path: Path, table: pd.DataFrame, photos: set[str]) -> np.ndarray:
        _check_known(table.columns, self.names, path)
        for name in self.classes:
            if name not in table.columns:
                raise ValueError(f"{path} has no column for class {name!r}; add it, or leave the class out.")
        if extra := set(table.index) - photos:
            raise ValueError(
                f"{path} has rows for {len(extra)} ids without photo, the first is {min(extra)!r}; "
                "remove them or add the photos."
            )
        if missing := set(ids) - set(table.index):
            raise ValueError(
                f"{path} has no row for {len(missing)} images of the list, the first is {min(missing)!r}; "
                "add them."
            )
        return table.reindex(columns=list(self.names)).loc[ids].to_numpy(float)


def find_root(root: Path) -> Path:
    """The folder that holds JPEGImages: `root` or VOCdevkit/VOC2012 or VOC2012 in it."""
    for folder in (root, root / "VOCdevkit" / "VOC2012", root / "VOC2012"):
        check_laid_out(folder)
        if (folder / "JPEGImages").is_dir():
            return folder
    raise FileNotFoundError(
        f"{root} holds no JPEGImages, VOC2012 or VOCdevkit/VOC2012; "
        "give the folder of a dataset in VOC layout."
    )


def content_paths(root: Path) -> list[Path]:
    """All that is ever read of a folder in VOC layout, for `content_fingerprint`: whether a result is up to
    date is decided by it, a label table, saliency maps, weights and preset that lie elsewhere.
    """
    names = ("ImageSets/Segmentation", "JPEGImages", "Annotations", "Saliency")
    masks = ("SegmentationClass", "SegmentationClassAug", "SegmentationPart")
    files = ("classes.txt", LABELMAP, COLOURS, "labels.csv", "labels.npz", "objects.csv", "context.csv")
    return [find_root(root) / name for name in names + masks + files]


def is_voc(root: Path) -> bool:
    """Whether a folder is VOC's own: it names no classes, and the first of its Annotations calls it VOC2012,
    or another of its years, or, if that does not say, its name does.

    Annotations of cats and dogs that a labelling tool wrote do not make a folder VOC's.
    """
    if (root / "classes.txt").is_file() or palette_file(root):
        return False
    first = min((root / "Annotations").glob("*.xml"), default=None)
    said = "" if first is None else _read_xml(first).findtext("folder", "").strip()
    names = [said] if said else [root.absolute().name, root.resolve().name]
    return any(re.fullmatch(r"VOC20\d\d", name) for name in names)


def class_names(root: Path, table: pd.DataFrame | None = None) -> tuple[str, ...]:
    """All foreground classes of a folder in the order of the masks' ids; see `VOCDataset`.

    table: its label table, if it has one.

    Raises:
        ValueError: nothing says what the classes are, or one has no fit name.
    """
    path = root / "classes.txt"
    if path.is_file():
        return check_class_names(read_ids(path.read_text("utf-8-sig")), path)
    if palette := palette_file(root):
        return check_class_names(foreground(read_colours(palette)), palette)
    if is_voc(root):
        return VOC_CLASSES
    if table is not None:
        return tuple(table.columns)
    raise ValueError(
        f"{root} has no classes.txt and is not VOC 2012 (by its name or Annotations); write its foreground "
        "classes there, one a line, in the order of the masks' ids."
    )


def _read_xml(path: Path) -> ElementTree.Element:
    try:
        return ElementTree.parse(path).getroot()
    except FileNotFoundError:
        raise FileNotFoundError(f"There is no {path}; copy it there or use labels='masks'.") from None
    except ElementTree.ParseError as error:
        raise ValueError(f"{path} is no valid XML ({error}); copy it again.") from error


def _shows_only_void(mask: np.ndarray) -> bool:
    """Whether a mask holds 255 and, but for the background, nothing else."""
    return bool((mask == IGNORE).any() and np.isin(mask, (0, IGNORE)).all())


def _only_void(path: Path, root: Path, names: Sequence[str]) -> ValueError:
    remedy = (
        f"write name,r,g,b and {names[0]},255,255,255 as two lines into {root / COLOURS}"
        if len(names) == 1
        else "put the id of its class in place of 255"
    )
    return ValueError(
        f"The mask {path} holds 255, which is void, and no class; if white is its object, as in an "
        f"editor's black-and-white export, {remedy}, else take the mask away."
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
    ids = read_ids(path.read_text("utf-8-sig"))
    if not ids:
        raise ValueError(f"The list {path} is empty; write one image id a line.")
    if len(set(ids)) < len(ids):
        twice = next(id for id in ids if ids.count(id) > 1)
        raise ValueError(f"The list {path} names {twice!r} more than once; keep one.")
    return ids


def masks_in(folder: Path) -> dict[str, Path]:
    """Masks of a folder by the id of their photo, without dot-files."""
    found = folder.glob("*.[pP][nN][gG]")
    return {path.stem: path for path in found if not path.name.startswith(".")}


def _check_known(names: Iterable[str], known: Sequence[str], where: str | Path) -> None:
    names = list(names)
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{where} names class {name!r} more than once; keep one.")
        if name not in known:
            nearest = difflib.get_close_matches(name, known) or known
            raise ValueError(
                f"{where} names the unknown class {name!r}; the nearest are: {', '.join(nearest)}."
            )
