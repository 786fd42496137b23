"""Your own photos and a table of image labels as a dataset."""

import hashlib
import json
import os
import warnings
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import pandas as pd

from wsss_lib.data.labels import read_label_table
from wsss_lib.data.layout import (
    UNFINISHED,
    check_disjoint,
    drawn,
    is_copy,
    lines_of,
    link_photo,
    link_target,
    list_path,
    read_ids,
    read_lists,
    write_text,
)
from wsss_lib.data.palette import palette_file
from wsss_lib.data.photos import PHOTOS, by_id, photo_files
from wsss_lib.data.voc import VOC_CLASSES, is_voc

RECORD = ".from_folder.json"
"""What `from_folder` has made in a folder: it alone may be replaced or removed by the next call."""
OWN_LISTS = ("train", "val", "tune", "test")


def from_folder(
    photos: str | Path,
    labels: str | Path,
    root: str | Path,
    val: int | None = None,
    tune: int | Collection[str] | None = None,
) -> Path:
    """Lay photos out in VOC layout, as links: those in the table to learn from, the others to be segmented.

    Writes classes.txt, labels.csv and lists that share no photo: val and tune as many labelled photos as
    asked for, drawn by the hash of their ids, those that can be scored first (with a mask, or without an
    object); train the other labelled photos; test the photos without a row in `labels`, if there are any.
    A list of your own, written or edited by you, is kept, and its photos stay out of the others.

    Calling it again after a change of photos or labels brings the folder up to date; after an interruption it
    goes on. Only what it made itself, and nobody edited since, is ever replaced or removed. Where links
    are refused, photos are copied. All checks come before the first change.

    Args:
        photos: folder of .jpg, .jpeg and .png files (not its subfolders); may be root/JPEGImages itself.
        labels: CSV with a column id (name of the photo, with or without its ending) and one column of 0 and 1
            for each class; a row of zeros is a photo without an object. May be root/labels.csv itself.
        root: folder to write into; masks you have (<id>.png, see `VOCDataset`) go to its SegmentationClass.
        val: number of labelled photos for the list val, which is scored and not learned from; None keeps what
            an earlier call drew.
        tune: the same for the list tune, on which settings are chosen; or the ids of its photos.

    Returns:
        `root`, absolute, for `Study(..., root=root, labels=root / "labels.csv")`.

    Raises:
        FileNotFoundError: there is no such folder, photo or table.
        ValueError: a bad table (see `read_label_table`), two photos of one id, lists that share photos, or
            something in `root` that is not this function's and would have to change.
        OSError: `root` cannot be written.
    """
    photos, labels, root = Path(photos), Path(labels), Path(root)
    if not photos.is_dir():
        raise FileNotFoundError(f"There is no folder {photos}; name the folder of your photos.")
    if not labels.is_file():
        raise FileNotFoundError(f"There is no label table {labels}; write one (columns id, then classes).")
    found = by_id(photo_files(photos), photos)
    if lost := [path for path in found.values() if not path.is_file()]:
        raise FileNotFoundError(
            f"{photos} holds {len(lost)} links that lead nowhere, the first is {lost[0].name}; bring their "
            "photos back (git annex get, dvc pull, the disk that is not there) or remove the links."
        )
    table = read_label_table(labels, found)
    if missing := sorted(set(table.index) - set(found)):
        raise FileNotFoundError(
            f"{labels} names {len(missing)} photos that {photos} does not hold as {', '.join(PHOTOS)}, "
            f"the first is {missing[0]!r}; add them or remove their rows."
        )
    made = _read_record(root)
    in_place = (root / "JPEGImages").exists() and (root / "JPEGImages").samefile(photos)
    stale = [] if in_place else _stale_photos(root, found, made)
    texts = {"classes.txt": lines_of(table.columns)}
    if not ((root / "labels.csv").exists() and (root / "labels.csv").samefile(labels)):
        texts["labels.csv"] = table.to_csv(index_label="id", lineterminator="\n")
    for name, text in texts.items():
        _check_replaceable(root, name, text, made)
    _check_class_ids(root, list(table.columns))
    lists = _lists(root, table, found, {"val": val, "tune": tune}, made)
    texts |= {_list_name(split): lines_of(ids) for split, ids in lists.items()}
    stale += [
        root / name
        for name in map(_list_name, OWN_LISTS)
        if name not in texts and _description(root, name) in made
    ]

    planned = {f"{name} {_digest(text.encode())}" for name, text in texts.items()}
    if in_place:
        planned |= {line for line in made if line.startswith("JPEGImages/")}
    else:
        planned |= {line for path in found.values() for line in _photo_descriptions(path, root)}
    # recorded before it is made, so that a call after a kill knows it as its own and goes on
    write_text(json.dumps(sorted(made | planned), indent=0), root / UNFINISHED)
    for path in stale:
        path.unlink()
    for path in () if in_place else found.values():
        link_photo(path, root)
    for name, text in texts.items():
        if _description(root, name) != f"{name} {_digest(text.encode())}":
            write_text(text, root / name)
    write_text(json.dumps(sorted(planned), indent=0), root / RECORD)
    (root / UNFINISHED).unlink()
    return root.resolve()


def _stale_photos(root: Path, found: Mapping[str, Path], made: set[str]) -> list[Path]:
    """Links and copies of an earlier call that lead to none of the photos any more.

    Raises:
        ValueError: JPEGImages holds anything else that is none of these photos.
    """
    photos, stale, foreign = {path.name: path for path in found.values()}, [], []
    there = photo_files(root / "JPEGImages") if (root / "JPEGImages").is_dir() else []
    for path in there:
        photo = photos.get(path.name)
        if photo and path.exists() and (path.samefile(photo) or is_copy(path, photo)):
            continue
        own = _description(root, f"JPEGImages/{path.name}") in made
        (stale if own else foreign).append(path)
    if foreign:
        raise ValueError(
            f"{root} holds photos of another dataset, the first is JPEGImages/{foreign[0].name}; give a "
            "folder of its own for root."
        )
    return stale


def _check_replaceable(root: Path, name: str, text: str, made: set[str]) -> None:
    there = _description(root, name)
    if there is not None and there not in made and there != f"{name} {_digest(text.encode())}":
        raise ValueError(
            f"{root / name} is your own or was edited, and the label table would replace it; put the edit "
            "into the table and remove the file, or give another folder for root."
        )


def _check_class_ids(root: Path, classes: list[str]) -> None:
    """Refuse new ids of classes that masks are there for; masks read by colour hold names, not ids."""
    masks = any(next((root / f).glob("*.png"), None) for f in ("SegmentationClass", "SegmentationClassAug"))
    if not masks or palette_file(root):
        return
    if (root / "classes.txt").is_file():
        where, before = root / "classes.txt", read_ids((root / "classes.txt").read_text("utf-8-sig"))
    elif is_voc(root):
        where, before = "VOC", list(VOC_CLASSES)
    else:
        return
    if classes[: len(before)] != before:
        raise ValueError(
            f"The classes of the table ({', '.join(classes)}) give other ids than {where} "
            f"({', '.join(before)}), by which the masks in {root / 'SegmentationClass'} were drawn; put new "
            "columns behind the old ones, or draw the masks anew and remove classes.txt."
        )


def _lists(
    root: Path,
    table: pd.DataFrame,
    found: Mapping[str, Path],
    counts: Mapping[str, int | Collection[str] | None],
    made: set[str],
) -> dict[str, list[str]]:
    """The lists to write; those of the user are left out, and their photos too.

    Raises:
        ValueError: the user's lists share photos or name unknown ones; nothing is left to learn from.
    """
    labelled, empty = list(table.index), set(table.index[~table.any(axis=1)])
    there = read_lists(root)
    own = {s: ids for s, ids in there.items() if _description(root, _list_name(s)) not in made}
    for split, ids in own.items():
        if lost := [id for id in ids if id not in found]:
            raise ValueError(
                f"{list_path(root, split)} names {len(lost)} photos that are not there, the first is "
                f"{lost[0]!r}; add them or take them off the list."
            )
    taken = {id for ids in own.values() for id in ids}
    lists: dict[str, list[str]] = {}
    for split, count in counts.items():
        free = [id for id in labelled if id not in taken]
        if split in own:
            continue
        if count is None:
            chosen = set(there.get(split, ())) & set(free)
        elif not isinstance(count, int):
            chosen = set(count)
            if unfit := sorted(chosen - set(free)):
                raise ValueError(
                    f"{split} names {unfit[0]!r}, which has no row in the label table or is in another list; "
                    "add the row, or take it off one of the two."
                )
        elif 0 <= count <= len(free):
            chosen = set(_apart(root, free, empty, count))
        else:
            raise ValueError(f"{split} is {count}; give a number from 0 to {len(free)}, the labelled photos.")
        taken |= chosen
        lists[split] = [id for id in labelled if id in chosen]
    if "train" not in own:
        apart = taken - set(own.get("train_aug", ())) - set(own.get("trainaug", ()))
        lists["train"] = [id for id in labelled if id not in apart]
        if not lists["train"]:
            raise ValueError(
                f"The lists of {root} leave no labelled photo to learn from; take some off val, tune or test."
            )
    if "test" not in own:
        lists["test"] = sorted(set(found) - set(labelled) - taken)
    check_disjoint(own | lists, root)
    if "train" in own and (rest := [id for id in labelled if id not in taken]):
        warnings.warn(
            f"{list_path(root, 'train')} is your own and is kept: {len(rest)} labelled photos are in no "
            f"list, the first is {rest[0]!r}.",
            stacklevel=3,
        )
    return {split: ids for split, ids in lists.items() if ids}


def _apart(root: Path, free: list[str], empty: set[str], count: int) -> list[str]:
    """`count` of the photos to be scored: those with a mask and those without an object in the proportion in
    which they are there, then the others.
    """
    there = {path.stem for path in (root / "SegmentationClass").glob("*.png")}
    shown, blank = there & set(free) - empty, empty & set(free)
    if not shown:
        return drawn(free, count)
    share = max(1, round(count * len(shown) / (len(shown) + len(blank))))
    masked, blank, others = (drawn(ids, count) for ids in (shown, blank, set(free) - shown - blank))
    first = masked[:share] + blank[: count - share]
    return [*first, *masked[share:], *blank[count - share :], *others][:count]


def _list_name(split: str) -> str:
    return list_path(Path(), split).as_posix()


def _read_record(root: Path) -> set[str]:
    """Descriptions of what earlier calls made, also of one that was killed."""
    found: set[str] = set()
    for name in (RECORD, UNFINISHED):
        if (root / name).is_file():
            found |= set(json.loads((root / name).read_text()))
    return found


def _description(root: Path, name: str) -> str | None:
    """What lies at root/name, so that an edit of it is noticed; None if nothing does."""
    path = root / name
    if path.is_symlink():
        return f"{name} -> {os.readlink(path)}"
    if not path.is_file():
        return None
    return (
        _copy_description(name, path)
        if name.startswith("JPEGImages/")
        else f"{name} {_digest(path.read_bytes())}"
    )


def _photo_descriptions(photo: Path, root: Path) -> Iterable[str]:
    """A photo as `link_photo` lays it out: as a link, or as a copy."""
    name = f"JPEGImages/{photo.name}"
    yield f"{name} -> {link_target(photo, root)}"
    yield _copy_description(name, photo)


def _copy_description(name: str, path: Path) -> str:
    status = path.stat()
    return f"{name} {status.st_size} {int(status.st_mtime) // 2}"  # FAT keeps every other second


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
