"""What a network sees at several sizes of a photo: the step that joins them, drawn; pictures; scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from wsss_lib.report.plots import heat_bar, overlay_map
from wsss_lib.report.tables import means
from wsss_lib.resampling import to_pixels
from wsss_lib.study.study import Study

if TYPE_CHECKING:
    from wsss_lib.report.ablation import Row

SIZES = ("small", "middle", "large")
LEARNS, TEACHES, PLAIN = "#cfe3f5", "#fbe3c5", "#f0f0f0"


def step_diagram(
    crop: int, scales: tuple[float, float], stride: int, grid: int, channels: int, classes: int, batch: int
) -> Figure:
    """One step of multi-scale self-supervision with the shapes of its tensors, from left to right.

    Solid arrows carry gradients back, dashed ones do not. Blue learns, orange teaches.

    Args:
        crop: side of the middle photo in pixels; scales: of the small and the large one; stride: pixels per
            cell of the networks; grid: pixels of the middle photo per cell that all is brought to.
        channels: of the features; classes: of the maps; batch: photos.
    """
    three, side = (scales[0], 1, scales[1]), -(-crop // grid)
    cells = " / ".join(str(-(-round(crop * scale) // stride)) for scale in three)
    figure, axis = plt.subplots(figsize=(12.5, 5), layout="constrained")
    axis.set(xlim=(0, 125), ylim=(3, 53))
    axis.set_axis_off()
    for level, name, scale in zip((36, 25, 14), "sml", three, strict=True):
        pixels = round(crop * scale)
        _box(axis, 1, level, 14, 8, PLAIN, f"$I_{name}$\n{batch}×3×{pixels}×{pixels}")
    for level, letter, colour, who in ((37, "F", LEARNS, "MainNet"), (11, "G", TEACHES, "SupportNet")):
        _box(axis, 24, level, 17, 9, colour, f"{who} {letter}\nstride {stride}: {cells} cells")
        maps = f"$A^{letter}_s, A^{letter}_m, A^{letter}_l$  {batch}×{classes}×3×{side}×{side}"
        _box(axis, 49, level, 20, 9, colour, f"{maps}\n$X^{letter}_m$  {batch}×{channels}×{side}×{side}")
        for height in (40, 29, 18):
            _arrow(axis, (15, height), (24, level + 4.5), dashed=letter == "G")
        _arrow(axis, (41, level + 4.5), (49, level + 4.5), dashed=letter == "G")
    taught = {
        (43.5, LEARNS): "$L_{cls}$: the mean of $A^F_m$\nagainst the image labels",
        (30, TEACHES): f"regions (1, 2)  {batch}×{side}×{side}\nprototypes (3)  {classes + 1}×{channels}",
        (18, PLAIN): f"$\\xi_{{i:j}} = 2 - \\cos(A^F_i, A^G_j)$\n{batch}×{classes}×3×3  (6)",
        (6, TEACHES): f"targets: mean of $\\xi_{{i:j}} A^G_j$ over j\n{batch}×{classes}×3×{side}×{side}  (7)",
    }
    for (level, colour), text in taught.items():
        _box(axis, 77, level, 21, 8, colour, text)
    _box(axis, 106, 36, 18, 8, LEARNS, "$L_{RCM}$  (5)\n$X^F_m$ to its prototype")
    _box(axis, 106, 12, 18, 8, LEARNS, "$L_{MAM}$  (8)\n|target $- A^F$|, three sizes")
    _arrow(axis, (69, 44), (77, 47.5))
    _arrow(axis, (69, 41), (106, 41))
    _arrow(axis, (69, 39), (73, 39), (73, 28.2), (101, 28.2), (106, 18))
    _arrow(axis, (69, 37.5), (77, 24), dashed=True)
    for level in (34, 22, 11):
        _arrow(axis, (69, 15.5), (77, level), dashed=True)
    _arrow(axis, (87.5, 18), (87.5, 14), dashed=True)
    _arrow(axis, (98, 34), (106, 38), dashed=True)
    _arrow(axis, (98, 10), (106, 14.5), dashed=True)
    _arrow(axis, (32.5, 37), (32.5, 20), dashed=True)
    axis.text(33.5, 28.5, "moving average\nafter each step", fontsize=8, va="center")
    return figure


def _box(axis: Axes, x: float, y: float, width: float, height: float, colour: str, text: str) -> None:
    shape = FancyBboxPatch((x, y), width, height, boxstyle="round,pad=0.3", facecolor=colour, edgecolor="0.3")
    axis.add_patch(shape)
    axis.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=8.5)


def _arrow(axis: Axes, *points: tuple[float, float], dashed: bool = False) -> None:
    style = {"color": "0.35", "linestyle": "--" if dashed else "-"}
    axis.plot(*zip(*points[:-1], strict=True), linewidth=1, **style)
    ends = {"arrowstyle": "-|>", "mutation_scale": 9, "shrinkA": 0, "shrinkB": 2}
    axis.add_patch(FancyArrowPatch(*points[-2:], **ends, **style))


def sizes_page(
    photos: Sequence[np.ndarray],
    seen: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]],
    names: Sequence[str],
    scales: tuple[float, float],
    grid: int,
) -> Figure:
    """A row for each photo: its maps at three sizes, xi between them, and the target of each size.

    Maps are drawn from 0 (dark) to 1; on a target above 1, which no map can reach, stands how high it is.

    Args:
        photos: (H, W, 3) uint8; seen: maps (3, h, w), xi (3, 3) and targets (3, h, w) of each.
        names: what stands below the photos, such as id and class of the maps; scales: of the small and the
            large size; grid: pixels per cell.
    """
    sizes = [f"{size} ({scale:g})" for size, scale in zip(SIZES, (scales[0], 1, scales[1]), strict=True)]
    titles = ["photo", *(f"map, {size}" for size in sizes), r"$\xi_{i:j}$", *(f"target, {s}" for s in SIZES)]
    figure, axes = plt.subplots(
        len(photos), 8, figsize=(14, 1.65 * len(photos) + 0.4), squeeze=False, layout="constrained"
    )
    for row, photo, (maps, xi, targets), name in zip(axes, photos, seen, names, strict=True):
        row[0].imshow(photo)
        row[0].set_xlabel(name, fontsize=9)
        responses = to_pixels(np.concatenate([maps, targets]), grid, photo.shape[:2])
        for axis, response in zip((*row[1:4], *row[5:]), responses, strict=True):
            axis.imshow(overlay_map(photo, response))
            if response.max() > 1.01:
                axis.set_xlabel(f"up to {response.max():.2f}", fontsize=8)
        row[4].imshow(xi, cmap="viridis", vmin=1, vmax=2)
        for i, j in np.ndindex(3, 3):
            colour = "white" if xi[i, j] < 1.6 else "black"
            row[4].text(j, i, f"{xi[i, j]:.2f}", ha="center", va="center", fontsize=8, color=colour)
        for axis in row:
            axis.set(xticks=[], yticks=[])
        row[4].set_xticks(range(3), "sml", fontsize=8)
        row[4].set_yticks(range(3), "sml", fontsize=8)
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=9)
    heat_bar(figure, axes, len(photos), "response")
    return figure


def by_scale(study: Study, rows: Mapping[str, Row], scales: Sequence[float]) -> pd.DataFrame:
    """mIoU of maps of train from one size of the photos at a time and from all together.

    Returns:
        Rows of `Study.scores`, method holding the rows' titles, and the column scales: "0.5", ... and, from
        all, "0.5 1.0 ..."; for each method, seed and rule also "single", the mean over the single sizes, and,
        as metric "std of mIoU", their standard deviation by the population formula, which the paper has.
    """
    alone = {f"{scale:.1f}": [scale] for scale in sorted(scales)}
    choices = alone | {" ".join(alone): list(scales)}
    tables = []
    for name, chosen in choices.items():
        other = study.varied({"maps.scales": chosen})
        for title, row in rows.items():
            made = replace(row, study=other).maps()
            tables.append(other.scores(made).assign(method=title, scales=name))
    scores = means(pd.concat(tables, ignore_index=True))
    of = scores[scores["scales"].isin(alone)].groupby(["method", "seed", "rule"], sort=False)
    single = of.first().assign(value=of["value"].mean(), scales="single", setting="").reset_index()
    spread = single.assign(value=of["value"].std(ddof=0).to_numpy(), metric="std of mIoU")
    return pd.concat([scores, single, spread], ignore_index=True)
