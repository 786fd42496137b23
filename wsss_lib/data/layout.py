"""Pieces of a folder in VOC layout: lists, and links to photos that stay where they are."""

import os
from collections.abc import Iterable
from pathlib import Path

from wsss_lib.runtime.files import save_atomically


def list_path(root: Path, split: str) -> Path:
    """File of a split's ids."""
    return root / "ImageSets" / "Segmentation" / f"{split}.txt"


def read_ids(text: str) -> list[str]:
    """Ids of a list file, one a line."""
    return [line.strip() for line in text.splitlines() if line.strip()]


def write_lines(lines: Iterable[str], path: Path) -> None:
    """A text file of one item a line, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(f"{line}\n" for line in lines)
    save_atomically(lambda temporary: temporary.write_text(text, encoding="utf-8"), path)


def link_photo(photo: Path, root: Path) -> None:
    """Make JPEGImages/<name> a link to the photo, relative, so that both may be moved together.

    Raises:
        FileNotFoundError: there is no such photo.
        FileExistsError: JPEGImages holds another file of that name.
    """
    link = root / "JPEGImages" / photo.name
    if not photo.is_file():
        raise FileNotFoundError(f"There is no photo {photo}; copy it there.")
    if link.exists() and link.samefile(photo):
        return
    if link.exists() and not link.is_symlink():
        raise FileExistsError(f"{link} is a file of its own and no link to {photo}; choose an empty folder.")
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(os.path.relpath(photo.resolve(), link.parent.resolve()))
