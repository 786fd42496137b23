"""A sheet to look masks over: the least certain first, one HTML file that needs nothing else."""

from base64 import b64encode
from collections.abc import Callable
from html import escape
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.colors import to_hex
from PIL import Image

from wsss_lib.report.plots import class_colours, overlay_mask
from wsss_lib.runtime.files import save_atomically

SHOWN = 200
"""Photos on a sheet; some 40 KB each. The others are in the table."""
SIDE = 320

PAGE = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>Masks to look over</title>
<style>
body {{ font: 15px/1.45 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }}
ol {{ list-style: none; padding: 0; }}
li {{ border-top: 1px solid #ccc; padding: .8rem 0; }}
img {{ max-width: 48%; vertical-align: top; margin-right: .5rem; }}
.warn {{ color: #a00000; font-weight: 600; }}
i {{ display: inline-block; width: 1em; height: 1em; border: 1px solid #222; margin: 0 .3em 0 1em; }}
</style></head>
<body>
<h1>Masks to look over</h1>
<p>{which} The least certain come first; confidence goes from 0 (a class of the label has no pixel) to 1.
It tells which photo to look at first, not which mask is right. What to do with a wrong one: correct it in a
labelling tool, or draw it and run again.</p>
<p>Colours:{legend}</p>
<ol>
"""


def write_review(
    table: pd.DataFrame,
    pictures: Callable[[str], tuple[np.ndarray, np.ndarray]],
    classes: tuple[str, ...],
    path: Path,
    shown: int = SHOWN,
) -> None:
    """Write the sheet, photo by photo.

    Args:
        table: of `own_photos.photo_table`, in the order of the sheet; rows without a confidence are left out.
        pictures: id -> the photo (H, W, 3) uint8 and its mask (H, W).
        classes: names by id, background first.
    """
    rows = table.dropna(subset="confidence")
    colours = class_colours(len(classes))
    legend = "".join(
        f'<i style="background:{to_hex(colours[c])}"></i>{escape(name)}'
        for c, name in enumerate(classes)
        if c
    )
    which = (
        f"The {shown} least certain of {len(rows)} photos; photos.csv lists all."
        if len(rows) > shown
        else f"All {len(rows)} photos."
    )

    def write(temporary: Path) -> None:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(PAGE.format(which=which, legend=legend))
            for row in rows.head(shown).to_dict("records"):
                file.write(_item(row, *pictures(row["id"]), classes))
            file.write("</ol>\n</body>\n</html>\n")

    save_atomically(write, path)


def _item(row: dict, photo: np.ndarray, mask: np.ndarray, classes: tuple[str, ...]) -> str:
    id, shows = escape(row["id"], quote=True), escape(row["shows"] or "background alone", quote=True)
    missing = f' <span class="warn">no pixel of {escape(row["missing"])}</span>' if row["missing"] else ""
    painted = (255 * overlay_mask(photo, mask, len(classes))).round().astype(np.uint8)
    return (
        f"<li><p><b>{id}</b> · confidence {row['confidence']:.2f} · mask from {row['mask from']} · {shows}"
        f'{missing}</p>\n<img alt="photo {id}" src="{_data(photo)}">\n'
        f'<img alt="mask of {id}: {shows}" src="{_data(painted)}"></li>\n'
    )


def _data(pixels: np.ndarray) -> str:
    image, buffer = Image.fromarray(pixels), BytesIO()
    image.thumbnail((SIDE, SIDE))
    image.save(buffer, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{b64encode(buffer.getvalue()).decode()}"
