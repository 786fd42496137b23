"""Masks that hold colours instead of class ids, and what their colours mean."""

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from wsss_lib.data.labels import is_background
from wsss_lib.data.masks import IGNORE, voc_palette

LABELMAP, COLOURS = "labelmap.txt", "colours.csv"
VOC_VOID = (224, 224, 192)
Colour = tuple[int, int, int]


def palette_file(root: Path) -> Path | None:
    """The file in `root` that says which colour is which class: CVAT's labelmap.txt, else colours.csv.

    Raises:
        ValueError: there are both.
    """
    there = [root / name for name in (LABELMAP, COLOURS) if (root / name).is_file()]
    if len(there) > 1:
        raise ValueError(f"{root} holds {LABELMAP} and {COLOURS}, which may differ; remove one of them.")
    return there[0] if there else None


def read_colours(path: Path) -> dict[str, Colour]:
    """Names and RGB colours of a palette file, in its order.

    labelmap.txt is CVAT's: lines name:r,g,b:parts:actions, comments with #. colours.csv has the columns name,
    r, g and b, in any order, with 0..255.

    Raises:
        ValueError: it is no such file, or names a class or colour twice.
    """
    text = path.read_text("utf-8-sig")
    try:
        if path.name == LABELMAP:
            lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
            rows = [
                (name.strip(), *map(int, rgb.split(","))) for name, rgb, *_ in (x.split(":") for x in lines)
            ]
        else:
            table = csv.DictReader(text.splitlines(), skipinitialspace=True)
            table.fieldnames = [name.strip().lower() for name in table.fieldnames or ()]
            rows = [(row["name"].strip(), *(int(row[channel]) for channel in "rgb")) for row in table]
        if not rows or not all(len(row) == 4 and all(0 <= v <= 255 for v in row[1:]) for row in rows):
            raise ValueError("each class needs three numbers from 0 to 255")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is no palette ({error}); write lines name,r,g,b under that header into {COLOURS}, or "
            f"put CVAT's {LABELMAP} there."
        ) from error
    names, colours = [row[0] for row in rows], [row[1:] for row in rows]
    for what, items in (("name", names), ("colour", colours)):
        if twice := [item for item in items if items.count(item) > 1]:
            raise ValueError(f"{path} has the {what} {twice[0]} more than once; keep one.")
    return dict(zip(names, colours, strict=True))


def foreground(colours: Mapping[str, Colour]) -> list[str]:
    """The names of a palette that are neither background nor void."""
    return [name for name in colours if not is_background(name) and not _is_void(name)]


def ids_by_colour(root: Path, names: Sequence[str]) -> dict[Colour, int]:
    """Class id of each colour of the palette file in `root`; empty if there is none.

    Black is background, and VOC's beige is void, unless the file gives that colour to a class.

    Raises:
        ValueError: as `palette_file` and `read_colours`, or the file names a class that is none of `names`.
    """
    path = palette_file(root)
    if path is None:
        return {}
    colours = read_colours(path)
    if unknown := [name for name in foreground(colours) if name not in names]:
        raise ValueError(
            f"{path} gives a colour to {unknown[0]!r}, which is none of the classes {', '.join(names)}; "
            "correct it or take it out."
        )
    found = {(0, 0, 0): 0, VOC_VOID: IGNORE}
    for name, colour in colours.items():
        found[colour] = 1 + names.index(name) if name in names else IGNORE if _is_void(name) else 0
    return found


def voc_ids_by_colour(count: int) -> dict[Colour, int]:
    """Class id of VOC's colours of background, `count` classes and void."""
    flat = voc_palette()
    return {tuple(flat[3 * id : 3 * id + 3]): id for id in range(1 + count)} | {VOC_VOID: IGNORE}


def ids_of_colours(rgb: np.ndarray, ids: Mapping[Colour, int], path: Path, palette: str | Path) -> np.ndarray:
    """(H, W, 3) uint8 colours -> (H, W) uint8 class ids.

    path: of the mask; palette: what gave `ids`; both for the error.

    Raises:
        ValueError: the mask holds another colour.
    """
    codes = (rgb.astype(np.int32) * (1 << 16, 1 << 8, 1)).sum(-1)
    present, where, counts = np.unique(codes, return_inverse=True, return_counts=True)
    colours = [(code >> 16, code >> 8 & 255, code & 255) for code in present.tolist()]
    if unknown := [i for i, colour in enumerate(colours) if colour not in ids]:
        most = max(unknown, key=lambda i: counts[i])
        raise ValueError(
            f"The mask {path} holds {counts[unknown].sum()} pixels of {len(unknown)} colours that {palette} "
            f"does not name, most of them {','.join(map(str, colours[most]))}; add them there, or save the "
            "mask without smoothing."
        )
    return np.array([ids[colour] for colour in colours], np.uint8)[where].reshape(rgb.shape[:2])


def _is_void(name: str) -> bool:
    return re.sub(r"[\W_]", "", name.casefold()) in ("void", "ignore", "ignored", "unlabeled", "unlabelled")
