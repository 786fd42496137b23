"""Figures of clusters: montages of their photos, and classifier weights in the plane."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch

SPLIT, GATHERED = "#F0C808", "#D1242F"  # the supplement's boxes: yellow and red

Thumbnail = tuple[np.ndarray, str | None]


def cluster_montage(
    panels: Mapping[str, Mapping[str, Sequence[Thumbnail]]],
    boxes: Mapping[str, str] | None = None,
    across: int = 2,
    width: float = 0.9,
) -> Figure:
    """Panels of clusters, in each a row of photos, cut to their middle square, for every cluster.

    Args:
        panels: title -> {cluster: [(photo (H, W, 3) uint8, colour of its box or None)]}.
        boxes: what the boxes mean, label -> colour, for the legend.
        across: panels side by side.
        width: of a photo, in inches.
    """
    columns = max(len(row) for rows in panels.values() for row in rows.values())
    depth = max(len(rows) for rows in panels.values())
    down = -(-len(panels) // across)
    figure = plt.figure(
        figsize=(across * (columns * width + 0.5), down * (depth * (width + 0.06) + 0.4) + 0.4 * bool(boxes)),
        layout="constrained",
    )
    parts = figure.subfigures(down, across, squeeze=False, wspace=0.03, hspace=0.03)
    for part, (title, rows) in zip(parts.flat, panels.items(), strict=False):
        part.suptitle(title, fontsize=10)
        axes = part.subplots(depth, columns, squeeze=False, gridspec_kw={"wspace": 0.02, "hspace": 0.02})
        for axis in axes.flat:
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        for line, (name, row) in zip(axes, rows.items(), strict=False):
            line[0].set_ylabel(name, fontsize=8)
            for axis, (photo, colour) in zip(line, row, strict=False):
                axis.imshow(_square(photo))
                if colour:
                    axis.spines[:].set(visible=True, color=colour, linewidth=3)
    if boxes:
        handles = [
            Patch(facecolor="none", edgecolor=c, linewidth=3, label=label) for label, c in boxes.items()
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=8)
    return figure


def _square(photo: np.ndarray) -> np.ndarray:
    height, width = photo.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return photo[top : top + side, left : left + side]


def weight_map(places: np.ndarray, classes: Sequence[str], parent: str) -> Figure:
    """Classifier weights in the plane: a dot for each class, a cross for each sub-category of `parent`.

    places: (C + K, 2), the classes first, then the sub-categories 1..K.
    """
    figure, axis = plt.subplots(figsize=(5.2, 4.2), layout="constrained")
    parents, subs = places[: len(classes)], places[len(classes) :]
    axis.scatter(*parents.T, s=70, color="#0173b2", label="class")
    axis.scatter(*subs.T, s=70, marker="x", linewidths=2, color="#de8f05", label=f"sub-category of {parent}")
    for name, place in zip(classes, parents, strict=True):
        axis.annotate(name, place, xytext=(6, 4), textcoords="offset points", fontsize=8)
    for number, place in enumerate(subs, start=1):
        axis.annotate(
            str(number), place, xytext=(6, -9), textcoords="offset points", fontsize=8, color="#a05f00"
        )
    axis.set(xlabel="t-SNE 1", ylabel="t-SNE 2", xticks=[], yticks=[])
    axis.margins(0.15)
    axis.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, 1.12), ncols=2, frameon=False)
    return figure


def heat_table(table: pd.DataFrame, value: str, limit: float) -> Figure:
    """A table (rows by columns) as cells with their numbers; colours from -limit to limit."""
    figure, axis = plt.subplots(
        figsize=(0.75 * table.shape[1] + 2.2, max(2.4, 0.34 * table.shape[0] + 1.3)), layout="constrained"
    )
    image = axis.imshow(table.to_numpy(float), cmap="PuOr_r", vmin=-limit, vmax=limit, aspect="auto")
    axis.set_xticks(range(table.shape[1]), table.columns, rotation=30, ha="right", fontsize=8)
    axis.set_yticks(range(table.shape[0]), table.index, fontsize=8)
    for (row, column), number in np.ndenumerate(table.to_numpy(float)):
        axis.text(column, row, f"{number:.2f}", ha="center", va="center", fontsize=7)
    axis.set(ylabel=table.index.name or "")
    figure.colorbar(image, ax=axis, label=value)
    return figure
