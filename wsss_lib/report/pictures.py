"""Pages of pictures: photos, response maps and masks, each drawn one way, with the legend it needs."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke

from wsss_lib.data.masks import IGNORE
from wsss_lib.report.plots import VOID, class_colours, class_hatches, heat_bar, overlay_map, overlay_mask

OUTLINE = ((2.0, "black"), (0.9, "white"))  # seen on any colour, in print and by any eye

CAPTION = {"facecolor": "black", "alpha": 0.6, "pad": 1.5, "linewidth": 0}


@dataclass(frozen=True)
class Picture:
    """As it is: image (H, W, 3) uint8 or in [0, 1]; caption: in its lower left corner, as of every cell."""

    image: np.ndarray
    caption: str = ""

    def draw(self, axis: Axes, classes: int) -> None:
        axis.imshow(self.image)


@dataclass(frozen=True)
class Heat:
    """A response (H, W) in [0, 1] of one class over the photo; truth: (H, W) bool, the class's, outlined."""

    image: np.ndarray
    response: np.ndarray
    caption: str
    truth: np.ndarray | None = None

    def draw(self, axis: Axes, classes: int) -> None:
        axis.imshow(overlay_map(self.image, self.response))
        if self.truth is not None:
            _outline(axis, self.truth, [True])


@dataclass(frozen=True)
class Painted:
    """A mask (H, W) of class ids over the photo; truth: (H, W) class ids whose objects are outlined, so that
    one that the mask misses is seen.
    """

    image: np.ndarray
    mask: np.ndarray
    truth: np.ndarray | None = None
    caption: str = ""

    def draw(self, axis: Axes, classes: int) -> None:
        axis.imshow(overlay_mask(self.image, self.mask, classes))
        for c in _objects(self.mask):
            if hatch := class_hatches(classes)[c]:
                axis.contourf(self.mask == c, levels=[0.5, 1.5], colors="none", hatches=[hatch])
        if self.truth is not None:
            _outline(axis, self.truth, _objects(self.truth))


Cell = Picture | Heat | Painted


def page(
    rows: Sequence[Sequence[Cell | None]],
    titles: Sequence[str],
    names: Sequence[str],
    notes: Sequence[str] = (),
    width: float = 2.2,
) -> Figure:
    """Rows of cells under their titles, with a legend of the classes in them and the maps' colour bar.

    Args:
        rows: as many cells as titles in each; None leaves a place empty.
        names: of all classes, background first.
        notes: at the left of the rows, one each.
        width: of a cell, in inches; a row is as high as its first picture, an upright one as high as wide.
    """
    sizes = [next(cell.image.shape for cell in row if cell is not None) for row in rows]
    heights = [min(height / breadth, 1) for height, breadth, *_ in sizes]
    cells = [cell for row in rows for cell in row if cell is not None]
    handles = _legend(cells, names)
    heat = any(isinstance(cell, Heat) for cell in cells)
    across = min(len(handles), max(2, 2 * len(titles)))
    lines = -(-len(handles) // across) if handles else 0
    figure, axes = plt.subplots(
        len(rows), len(titles), squeeze=False, layout="constrained", height_ratios=heights,
        figsize=(
            width * len(titles) + 0.7 * bool(notes) + 0.7 * heat, width * sum(heights) + 0.35 + 0.2 * lines
        ),
    )  # fmt: skip
    for line, row in zip(axes, rows, strict=True):
        for axis, cell in zip(line, row, strict=True):
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
            if cell is not None:
                cell.draw(axis, len(names))
                axis.text(
                    0.02, 0.03, cell.caption, transform=axis.transAxes, fontsize=7, color="white",
                    bbox=CAPTION if cell.caption else None,
                )  # fmt: skip
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=9)
    for axis, note in zip(axes[:, 0], notes, strict=bool(notes)):
        axis.set_ylabel(note, fontsize=7, rotation=0, ha="right", va="center")
    if heat:
        heat_bar(figure, axes, len(rows), "response / its maximum")
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=across, fontsize=8, frameon=False)
    return figure


def _objects(mask: np.ndarray) -> list[int]:
    """Class ids but background and void, ascending."""
    return [c for c in np.unique(mask).tolist() if c not in (0, IGNORE)]


def _outline(axis: Axes, mask: np.ndarray, values: Iterable[int]) -> None:
    for value in values:
        if (mask == value).any() and (mask != value).any():
            for linewidth, colour in OUTLINE:
                axis.contour(mask == value, levels=[0.5], colors=colour, linewidths=linewidth)


def _legend(cells: Sequence[Cell], names: Sequence[str]) -> list[Patch | Line2D]:
    """Of masks the classes that occur, background and void; of outlines what they are."""
    masks = [cell for cell in cells if isinstance(cell, Painted)]
    handles: list[Patch | Line2D] = []
    if masks:
        drawn = [mask for cell in masks for mask in (cell.mask, cell.truth) if mask is not None]
        occurring = sorted({c for mask in drawn for c in _objects(mask)})
        colours, hatches = class_colours(len(names)), class_hatches(len(names))
        handles += [
            Patch(facecolor=colours[c], hatch=hatches[c], edgecolor="black", linewidth=0.4, label=names[c])
            for c in occurring
        ]
        plain = {"edgecolor": "black", "linewidth": 0.4}
        handles += [
            Patch(facecolor="white", label="background (photo)", **plain),
            Patch(facecolor=VOID, label="void / undecided", **plain),
        ]
    if any(getattr(cell, "truth", None) is not None for cell in cells):
        (around, dark), (inside, light) = OUTLINE
        effects = [withStroke(linewidth=around, foreground=dark)]
        handles.append(
            Line2D([], [], color=light, linewidth=inside, path_effects=effects, label="outline: ground truth")
        )
    return handles
