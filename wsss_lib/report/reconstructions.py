"""What a reconstructor paints: Figure A6 of ACR, over the epochs, and the monitors of a training."""

from collections.abc import Mapping, Sequence

import ipywidgets as widgets
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from wsss_lib.artifacts import Artifact
from wsss_lib.methods.acr import PANELS, pictures
from wsss_lib.report.plots import png
from wsss_lib.study.study import Study

TITLES = {
    "I": "photo $I$", "A_t": "target $A_t$",
    "RU_t": r"$\hat I^{RU}_t$: rest", "CU_t": r"$\hat I^{CU}_t$: rest",
    "g": "grid $g$", "A_nt": "rest $A_{nt}$", "RU_nt": r"$\hat I^{RU}_{nt}$: target",
    "CU_nt": r"$\hat I^{CU}_{nt}$: target",
}  # fmt: skip
"""Of each panel; of a painted one, what is to be painted."""
OVER_EPOCHS = ("I", "A_t", "RU_t", "CU_t", "RU_nt", "CU_nt")


def epochs_of(study: Study, method: str) -> int:
    """How many epochs have pictures."""
    return study.section(method).epochs


def figure_a6(found: Mapping[str, np.ndarray], photo: int) -> Figure:
    """The eight panels of one photo, two rows of four.

    found: of `methods.acr.pictures`; photo: its place in it.
    """
    rows = [PANELS[:4], PANELS[4:]]
    return _grid([[found[name][photo] for name in row] for row in rows], rows, width=1.7)


def over_epochs(classifier: Artifact, photo: int, epochs: Sequence[int]) -> Figure:
    """A row an epoch, counted from 1, of the map and the four painted photos."""
    found = {epoch: pictures(classifier, epoch) for epoch in epochs}
    rows = [[made[name][photo] for name in OVER_EPOCHS] for made in found.values()]
    figure = _grid(rows, [OVER_EPOCHS], width=1.5)
    for axis, epoch in zip(figure.axes[:: len(OVER_EPOCHS)], epochs, strict=True):
        axis.text(-0.08, 0.5, f"epoch {epoch}", transform=axis.transAxes, fontsize=8, ha="right", va="center")
    return figure


def page(study: Study, classifier: Artifact) -> widgets.Widget:
    """Figure A6 with a slider over the epochs and a choice of the photo."""
    count = epochs_of(study, classifier.origin.method)
    ids = pictures(classifier, count)["ids"].tolist()
    epoch = widgets.IntSlider(value=count, min=1, max=count, description="epoch", continuous_update=False)
    photo = widgets.Dropdown(options=[(id, place) for place, id in enumerate(ids)], description="photo")
    picture = widgets.Image(format="png")

    def show(epoch: int, photo: int) -> None:
        picture.value = png(figure_a6(pictures(classifier, epoch), photo))

    errors = widgets.interactive_output(show, {"epoch": epoch, "photo": photo})
    return widgets.VBox([epoch, photo, picture, errors])


def monitors(histories: Mapping[str, pd.DataFrame]) -> Figure:
    """By epoch: the target's map, the errors per masked pixel, and G beside the mean colour.

    histories: title -> history.csv; a baseline without reconstructor has its map alone.
    """
    panels = {
        "map of the target class": {"mean A_t": "mean $A_t$", "area A_t = 0": "share of $A_t = 0$"},
        "CU, error a masked pixel": {"L_t per pixel": "rest", "L_nt per pixel": "target"},
        "RU, error a masked pixel": {"L_t per pixel": "rest", "L_nt per pixel": "target"},
        "RU, whole photo": {"L1 of the whole": "rebuilt", "L1 of the mean colour": "mean colour"},
    }
    figure, axes = plt.subplots(1, len(panels), figsize=(3.1 * len(panels) + 1.4, 3), layout="constrained")
    shown = {}
    for axis, (title, series) in zip(axes, panels.items(), strict=True):
        phase = "reconstruct " if title.startswith("RU") else "classify "
        for number, (name, history) in enumerate(histories.items()):
            own = history.rename(columns=lambda column, phase=phase: column.removeprefix(phase))
            for (column, label), style in zip(series.items(), ("o-", "s--"), strict=True):
                if column in own:
                    (line,) = axis.plot(own["epoch"], own[column], style, color=f"C{number}")
                    line.set_label(f"{name}: {label}")
                    shown.setdefault(line.get_label(), line)
        axis.set_title(title, fontsize=9)
        axis.set(xlabel="epoch", ylim=(0, None))
        axis.xaxis.get_major_locator().set_params(integer=True)
    axes[0].set_ylabel("share of the photo")
    axes[1].set_ylabel("L1 (ImageNet's units)")
    figure.legend(
        shown.values(), shown.keys(), loc="outside lower center", ncols=4, fontsize=8, frameon=False
    )
    return figure


def last_areas(histories: Mapping[str, pd.DataFrame]) -> pd.Series:
    """Mean A_t of the last epoch in % of the photo; histories: as of `monitors`."""
    own = {title: history.rename(columns=_of_classify) for title, history in histories.items()}
    return pd.Series({title: 100 * history["mean A_t"].iloc[-1] for title, history in own.items()})


def _of_classify(column: str) -> str:
    return column.removeprefix("classify ")


def _grid(pictured: Sequence[Sequence[np.ndarray]], titles: Sequence[Sequence[str]], width: float) -> Figure:
    """Square pictures, (S, S, 3) or (S, S, 1) uint8; `titles` above the first rows, one row each."""
    down, across = len(pictured), len(pictured[0])
    figure, axes = plt.subplots(
        down, across, squeeze=False, figsize=(width * across, (width + 0.25) * down), layout="constrained"
    )
    for row, line in zip(axes, pictured, strict=True):
        for axis, picture in zip(row, line, strict=True):
            axis.imshow(picture, cmap="grey", vmin=0, vmax=255)
            axis.set_axis_off()
    for row, names in zip(axes, titles, strict=False):
        for axis, name in zip(row, names, strict=True):
            axis.set_title(TITLES[name], fontsize=8)
    return figure
