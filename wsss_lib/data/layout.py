"""Pieces of a folder in VOC layout: lists, and links to photos that stay where they are."""

import errno
import hashlib
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path

from wsss_lib.runtime.digest import file_digests
from wsss_lib.runtime.files import save_atomically, unwritable

UNFINISHED = ".from_folder.unfinished"
"""In a folder that `from_folder` is laying out, or was killed over."""
LISTS = {"train_aug": "learned", "trainaug": "learned", "train": "learned", "tune": "tuned"}
LISTS |= {"val": "scored", "test": "scored"}
"""What each list is for; photos of one use are never those of another."""


def list_path(root: Path, split: str) -> Path:
    """File of a split's ids."""
    return root / "ImageSets" / "Segmentation" / f"{split}.txt"


def read_ids(text: str) -> list[str]:
    """Ids of a list file, one a line."""
    return [line.strip() for line in text.splitlines() if line.strip()]


def check_laid_out(root: Path) -> None:
    """Refuse a folder that `from_folder` has begun and not finished.

    Raises:
        ValueError: it is one.
    """
    if (root / UNFINISHED).is_file():
        raise ValueError(f"{root} was laid out by half; call from_folder again, which goes on.")


def read_lists(root: Path) -> dict[str, list[str]]:
    """The lists of `LISTS` that are there, as ids."""
    files = {split: list_path(root, split) for split in LISTS}
    return {split: read_ids(file.read_text("utf-8-sig")) for split, file in files.items() if file.is_file()}


def check_disjoint(lists: Mapping[str, Sequence[str]], root: Path) -> None:
    """Refuse lists that share photos though they are for different uses.

    Raises:
        ValueError: a photo is learned from and also tuned on or scored, or tuned on and also scored.
    """
    for first, second in combinations(lists, 2):
        shared = sorted(set(lists[first]) & set(lists[second]))
        if shared and LISTS[first] != LISTS[second]:
            raise ValueError(
                f"The lists {first}.txt and {second}.txt in {list_path(root, first).parent} share "
                f"{len(shared)} photos, the first is {shared[0]!r}; take them off one of the two, or scores "
                "are made on photos that the networks or settings were chosen on."
            )


def drawn(ids: Iterable[str], count: int) -> list[str]:
    """`count` of the ids, chosen by the SHA-256 of each: the same ones whatever the order of `ids`."""
    return sorted(ids, key=lambda id: hashlib.sha256(id.encode()).digest())[:count]


def lines_of(items: Iterable[str]) -> str:
    """The text of a file of one item a line."""
    return "".join(f"{item}\n" for item in items)


def write_lines(lines: Iterable[str], path: Path) -> None:
    """A text file of one item a line, whole or not at all."""
    write_text(lines_of(lines), path)


def write_text(text: str, path: Path) -> None:
    """A text file, whole or not at all."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(path, error) from error
    save_atomically(lambda temporary: temporary.write_text(text, encoding="utf-8"), path)


def link_photo(photo: Path, root: Path) -> None:
    """Make JPEGImages/<name> a link to the photo, relative, so that both may be moved together.

    Where the file system refuses links, a copy of the same date. What is there already is kept; only a link
    that leads nowhere is replaced.

    Raises:
        FileNotFoundError: there is no such photo.
        FileExistsError: JPEGImages holds another file of that name.
        OSError: neither link nor copy can be written.
    """
    link = root / "JPEGImages" / photo.name
    if not photo.is_file():
        raise FileNotFoundError(f"There is no photo {photo}; copy it there.")
    if link.exists():
        if link.samefile(photo) or is_copy(link, photo):
            return
        raise FileExistsError(f"{link} is no link to {photo}; choose an empty folder.")
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    try:
        link.symlink_to(link_target(photo, root))
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise unwritable(link, error) from error
        save_atomically(lambda path: shutil.copy2(photo, path), link)


def link_target(photo: Path, root: Path) -> str:
    """Where the link to a photo leads: to its name, even if that is a link itself and will lead elsewhere."""
    return os.path.relpath(photo.parent.resolve() / photo.name, (root / "JPEGImages").resolve())


def is_copy(file: Path, photo: Path) -> bool:
    """Whether a file is a copy of the photo, by content."""
    if file.is_symlink() or file.stat().st_size != photo.stat().st_size:
        return False
    return len(set(file_digests([file, photo]).values())) == 1
