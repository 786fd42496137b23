"""Before the first step: what a folder holds, and what would fail, mislead or be passed over later on."""

import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd

from wsss_lib.crf import WIDEST
from wsss_lib.data.labels import read_label_table
from wsss_lib.data.layout import LISTS, check_disjoint, drawn, read_lists
from wsss_lib.data.photos import PHOTOS, open_image, photo_files, said_orientation, upright_size
from wsss_lib.data.voc import LABEL_SOURCES, VOCDataset, class_names, find_root, is_voc, masks_in
from wsss_lib.runtime.files import UNFINISHED

LONGEST_NAME = 255 - len(f"..npz{UNFINISHED}{32 * '0'}.npz")
"""Bytes of an id: the temporary files of its maps have the longest names, of 255 that file systems allow."""
LOOKED_AT = 200
"""Masks that are compared with the labels, chosen by hash: a slip of ids is in most of them."""
PICTURES = (
    ".avif", ".bmp", ".cr2", ".dng", ".gif", ".heic", ".heif", ".jfif", ".jp2", ".nef", ".tif", ".tiff",
    ".webp",
)  # fmt: skip
MASKS = (".png",)
Finding = tuple[str, str, str]  # severity, subject, sentence


# --- masks against labels --------------------------------------------------------------------------------


def contradictions(data: VOCDataset, ids: Sequence[str]) -> Iterator[str]:
    """For each photo whose mask shows a class that its label denies, a clause that names both.

    ids: photos that have a mask. Unknown labels (NaN) deny nothing.
    """
    numbers = np.arange(1, 1 + len(data.classes))

    def compare(id: str) -> str | None:
        shown, label = np.isin(numbers, data.mask(id)), data.label(id)
        if not (shown & (label == 0)).any():
            return None
        seen, said = (
            ", ".join(name for name, there in zip(data.classes, row, strict=True) if there) or "nothing"
            for row in (shown, label)
        )
        return f"the mask of {id} shows {seen}, its label says {said}"

    with ThreadPoolExecutor() as pool:
        yield from filter(None, pool.map(compare, ids))


def check_agreement(data: VOCDataset, ids: Collection[str]) -> None:
    """Refuse masks of which more than half contradict the labels, by `LOOKED_AT` of them.

    Raises:
        ValueError: they do; or a mask is none.
    """
    looked_at = drawn(set(ids) & set(data.masked), LOOKED_AT)
    found = list(contradictions(data, looked_at))
    if 2 * len(found) > len(looked_at):
        raise ValueError(_sentence(data, found, looked_at))


def _sentence(data: VOCDataset, found: Sequence[str], looked_at: Sequence[str]) -> str:
    order = ", ".join(f"{id} {name}" for id, name in enumerate(data.names, start=1))
    return (
        f"In {data.root} {found[0]} (in {len(found)} of {len(looked_at)} photos with a mask); correct the "
        f"labels, or bring the classes into the order of the masks' ids, which are read as {order}."
    )


# --- preflight -------------------------------------------------------------------------------------------


def check(
    root: str | Path,
    labels: str | Path | None = None,
    classes: Sequence[str] | str | None = None,
    widest: int = WIDEST,
    memory: int | None = None,
    processes: int = 1,
    bytes_a_pixel: int = 0,
) -> pd.DataFrame:
    """What a data set holds, and what has to be mended before a study of it: one row each.

    Of photos the headers alone are read, of masks `LOOKED_AT` a list. Nothing is written.

    Args:
        root: folder in VOC layout, such as `from_folder` makes.
        labels: source of the image labels as in `VOCDataset`; None takes labels.csv or labels.npz of the
            folder, else "masks".
        classes: those to keep; None keeps all.
        widest: longest side in pixels that the CRF of the preset takes; as it is, with a kernel of one
            pixel, as DeepLab-v2's has (psa's of three takes three times as much).
        memory: bytes of the machine; None asks the system.
        processes: CRFs side by side; bytes_a_pixel: of memory that a network takes for a photo.

    Returns:
        Columns severity ("error": a study would fail or mislead; "warning": look at it; "note"), subject and
        sentence; errors first.
    """
    if memory is None:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    findings: list[Finding] = []
    try:
        root = find_root(Path(root))
    except (FileNotFoundError, ValueError) as error:
        findings.append(("error", "folder", str(error)))
        if Path(root).is_dir() and (photos := photo_files(Path(root))):
            also = (
                f"{root} holds {len(photos)} photos as they are; lay them out by wsss_lib.from_folder first."
            )
            findings.append(("error", "folder", also))
    else:
        if labels is None:
            tables = (root / "labels.csv", root / "labels.npz")
            labels = next((path for path in tables if path.is_file()), "masks")
        names = []
        try:
            table = None if labels in LABEL_SOURCES else read_label_table(Path(labels), ())
            names = class_names(root, table)
        except (FileNotFoundError, ValueError) as error:
            findings.append(("error", "classes", str(error)))
        else:
            whose = ", as VOC has them" if is_voc(root) else ""
            listed = ", ".join(f"{id} {name}" for id, name in enumerate(names, start=1))
            findings.append(("note", "classes", f"{len(names)} classes, by their ids{whose}: {listed}."))
        # The dense CRF on all classes takes more than any other step but a network's pass over a large photo;
        # measured were 157, 204 and 747 bytes a pixel with 2, 3 and 21 labels.
        most = memory // max(bytes_a_pixel, processes * (100 + 40 * (1 + len(names))))
        findings += _photos(root, widest, most)
        findings += _passed_over(root)
        if names:
            findings += _lists(root, labels, classes)
    return table_of(findings)


def table_of(findings: Iterable[Finding]) -> pd.DataFrame:
    """Findings as a table, errors first, then warnings."""
    order = ("error", "warning", "note")
    return pd.DataFrame(
        sorted(findings, key=lambda finding: order.index(finding[0])),
        columns=["severity", "subject", "sentence"],
    )


def _photos(root: Path, widest: int, most: int) -> Iterator[Finding]:
    """Photos by their headers; widest: longest side, most: pixels of a photo that can be worked on."""
    files = photo_files(root / "JPEGImages")
    with ThreadPoolExecutor() as pool:
        headers = list(pool.map(_header, files))
    damaged = [found for found in headers if isinstance(found, str)]
    yield from (("error", "photos", found) for found in damaged)
    read = [
        (path.name, *found) for path, found in zip(files, headers, strict=True) if not isinstance(found, str)
    ]
    stems = Counter(path.stem for path in files)
    kinds = (
        ("error", (path.name for path in files if stems[path.stem] > 1),
         "have the id of another", "rename or remove one of each"),
        ("error", (path.name for path in files if len(path.stem.encode()) > LONGEST_NAME),
         f"have a name of more than {LONGEST_NAME} bytes, too long for the files made of them",
         "shorten it"),
        ("error", (name for name, size, *_ in read if max(size) > widest),
         f"have a side of more than {widest} pixels, all that the preset's CRF takes", "scale them down"),
        ("error", (name for name, (height, width), *_ in read if height * width > most),
         f"have more than {most} pixels, for which this machine has no memory", "scale them down"),
        ("error", (name for name, _, mode, _ in read if mode in ("I", "F")),
         "hold numbers of unknown range", "save them with 8 bits a channel"),
        ("warning", (name for name, *_, odd in read if odd),
         "have damaged metadata or say to be turned in no known way", "they are read as they are stored"),
    )  # fmt: skip
    for severity, names, what, remedy in kinds:
        if names := list(names):
            yield severity, "photos", f"{_counted(names)} {what}; {remedy}."
    if read:
        small, large = (
            "{1} x {0}".format(*choose((size for _, size, *_ in read), key=np.prod)) for choose in (min, max)
        )
        yield "note", "photos", f"{len(files)} photos, from {small} to {large} pixels (width x height)."


def _counted(names: Collection[str]) -> str:
    return f"{len(names)} photos (the first: {min(names)})"


def _header(path: Path) -> str | tuple[tuple[int, int], str, bool]:
    """(H, W), mode, and whether the orientation is odd; or what is wrong with the file."""
    try:
        with open_image(path) as image:
            return upright_size(image), image.mode, said_orientation(image) not in range(1, 9)
    except (ValueError, FileNotFoundError) as error:
        return str(error)


def _passed_over(root: Path) -> Iterator[Finding]:
    """Pictures that are not used, beside the photos, here and where all links lead, and beside the masks."""
    photos = root / "JPEGImages"
    links = (path for path in photos.iterdir() if path.is_symlink())
    targets = {(photos / os.readlink(path)).parent.resolve() for path in links}
    masks = root / "SegmentationClass"
    places = (
        (photos, PHOTOS),
        *((folder, PHOTOS) for folder in targets if len(targets) == 1),
        (masks, MASKS),
    )
    for place, read in places:
        entries = list(place.iterdir()) if place.is_dir() else []
        names = [path.name for path in entries]
        hidden = [name for name in names if name.startswith(".") and name.lower().endswith(read)]
        if hidden:
            yield "note", "passed over", f"{place} holds {len(hidden)} dot-files, such as {min(hidden)}."
        others = tuple({*PHOTOS, *PICTURES} - {*read})
        kinds = Counter(Path(name).suffix.lower() for name in names if name.lower().endswith(others))
        if kinds:
            found = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
            yield (
                "warning",
                "passed over",
                f"{place} holds pictures that are not read ({found}); save them as {' or '.join(read)} to "
                "use them.",
            )
        folders = [path.name for path in entries if path.is_dir() and not path.name.startswith(".")]
        if folders:
            yield (
                "warning",
                "passed over",
                f"{place} holds {len(folders)} folders, such as {min(folders)}, which are not looked into; "
                "bring their files here to use them.",
            )


def _lists(root: Path, labels: str | Path, classes: Sequence[str] | str | None) -> Iterator[Finding]:
    """Lists with their classes and masks."""
    lists = read_lists(root)
    try:
        check_disjoint(lists, root)
    except ValueError as error:
        yield "error", "lists", str(error)
    if not set(lists) & {split for split, use in LISTS.items() if use == "learned"}:
        yield (
            "error",
            "lists",
            f"{root} has no list ImageSets/Segmentation/train.txt; write one id a line.",
        )
    listed = {id for ids in lists.values() for id in ids}
    photos = {path.stem for path in photo_files(root / "JPEGImages")}
    if photos - listed:
        yield "note", "lists", f"{_counted(photos - listed)} are in no list and not used."
    masks = set(masks_in(root / "SegmentationClass"))
    if masks - photos:
        some = (
            f"{len(masks - photos)} masks have no photo of their name (the first: {min(masks - photos)}.png)"
        )
        yield "warning", "masks", f"{some}; rename them, or they count nowhere."
    for split in lists:
        try:
            data = VOCDataset(root, split, classes, "none" if split == "test" else labels)
        except (ValueError, OSError) as error:
            yield "error", split, str(error)
        else:
            yield from _split(data, LISTS[split] == "learned")


def _split(data: VOCDataset, learned: bool) -> Iterator[Finding]:
    counts = np.nansum(data.labels, axis=0).astype(int)
    parts = [f"{len(data)} photos", *(f"{n} {c}" for c, n in zip(data.classes, counts, strict=True) if n)]
    parts += [f"{n} without an object"] if (n := int((~data.labels.any(1)).sum())) else []
    parts += [f"{len(data.masked)} with a mask"]
    parts += [f"{len(data.skipped)} left out, of other classes"] if data.skipped else []
    yield "note", data.split, ", ".join(parts) + "."
    if learned and not counts.all():
        absent = ", ".join(name for name, count in zip(data.classes, counts, strict=True) if not count)
        yield "warning", data.split, f"No photo of {data.split} shows {absent}; nothing can learn it."
    looked_at, unreadable = [], []
    for id in drawn(data.masked, LOOKED_AT):
        try:
            data.mask(id)
            looked_at.append(id)
        except ValueError as error:
            unreadable.append(str(error))
    if unreadable:
        also = f" (and {len(unreadable) - 1} of {len(looked_at) + len(unreadable)} masks more)"
        yield "error", data.split, unreadable[0] + (also if len(unreadable) > 1 else "")
    if found := list(contradictions(data, looked_at)):
        mostly = 2 * len(found) > len(looked_at)
        yield "error" if mostly else "warning", data.split, _sentence(data, found, looked_at)
