"""Tables of image labels, and the names that classes may have."""

import os
import re
from collections.abc import Collection, Iterable
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import pandas as pd

from wsss_lib.data.photos import PHOTOS
from wsss_lib.runtime.errors import brief

MOST_CLASSES = 254
"""Ids of a palette mask besides 0, background, and 255, void."""


def is_background(name: str) -> bool:
    """Whether a class name is one of the usual spellings of background: _background_, BG, Back ground."""
    return re.sub(r"[\W_]", "", name.casefold()) in ("background", "bg", "bkg", "hintergrund")


def check_class_names(names: Iterable[str], where: str | Path) -> tuple[str, ...]:
    """The names of all foreground classes, in the order of their ids, if they can be that.

    Raises:
        ValueError: a name is empty, repeated (also in other case) or means background; there are too many.
    """
    names = tuple(names)
    seen: dict[str, str] = {}
    for number, name in enumerate(names, start=1):
        if not name.strip():
            raise ValueError(f"{where} has no name for class {number}; name it or remove its column.")
        if is_background(name):
            raise ValueError(
                f"{where} names {name!r} as a class, but background is always id 0; list foreground classes "
                "only, and give a photo without objects a row of zeros."
            )
        key = name.strip().casefold()
        if key in seen:
            also = f", also as {name!r}" if name != seen[key] else ""
            raise ValueError(f"{where} names class {seen[key]!r} more than once{also}; keep one.")
        seen[key] = name
    if len(names) > MOST_CLASSES:
        raise ValueError(
            f"{where} names {len(names)} classes, but a mask has ids for {MOST_CLASSES}; leave some out."
        )
    return names


def read_label_table(path: Path, photos: Collection[str]) -> pd.DataFrame:
    """A label file as a table of 0 and 1: ids as index, class names as columns, both in the file's order.

    Args:
        path: CSV (a column id, then one for each class) or npz (arrays ids, classes, labels).
        photos: ids of the photos; an id that is none of them may be a file name, whose ending is taken off.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no such table, a column has no name or a repeated one, an id is there twice, a value
            is neither 0 nor 1.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no label file {path}; give 'masks', 'xml', 'none', a .csv or a .npz."
        )
    try:
        table = _read_npz(path) if path.suffix.lower() == ".npz" else _read_csv(path)
    except (KeyError, ValueError, BadZipFile) as error:
        raise ValueError(
            f"{path} is no label file ({brief(error)}); make a CSV (columns id, then class names) or an npz "
            "with the arrays ids (N), classes (C) and labels (N, C)."
        ) from error
    check_class_names(table.columns, path)
    table.index = [id if id in photos else _without_ending(id) for id in table.index]
    if not table.index.is_unique:
        twice = table.index[table.index.duplicated()][0]
        raise ValueError(f"{path} has more than one row for {twice!r}; keep one.")
    table = table.apply(pd.to_numeric, errors="coerce")
    if not (valid := table.isin([0, 1]).all(axis=1)).all():
        raise ValueError(
            f"{path} has values other than 0 and 1 in the row of {valid.idxmin()!r}; correct them."
        )
    return table.astype(np.uint8)


def _read_npz(path: Path) -> pd.DataFrame:
    with np.load(path, allow_pickle=False) as arrays:
        return pd.DataFrame(arrays["labels"], index=arrays["ids"], columns=arrays["classes"])


def _read_csv(path: Path) -> pd.DataFrame:
    # header=None: pandas would rename repeated columns and shift those of a row that is too long
    rows = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig", header=None)
    names = [name.strip() for name in rows.iloc[0]]
    if names.count("id") != 1 or len(names) < 2 or len(rows) < 2:
        raise ValueError("it needs one column 'id', a column for each class and a row for each photo")
    table = rows.iloc[1:].set_axis(range(len(names)), axis=1).set_index(names.index("id"))
    table.index = table.index.str.strip()
    return table.set_axis([name for name in names if name != "id"], axis=1)


def _without_ending(id: str) -> str:
    stem, suffix = os.path.splitext(id)
    return stem if suffix.lower() in PHOTOS else id
