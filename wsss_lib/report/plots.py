"""Figures with labelled axes, colour-blind palette. Functions return the figure, none shows it."""

import io
from collections.abc import Mapping, Sequence
from itertools import cycle

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from wsss_lib.statistics import LEVEL

VOID = (0.88, 0.88, 0.88)
HEAT = "inferno"
OKABE_ITO = ("#E69F00", "#56B4E9", "#F0E442", "#009E73", "#0072B2", "#D55E00", "#CC79A7")
"""Okabe and Ito, Color Universal Design, 2008, without black."""
HATCHES = ("", "////", "....", "xxxx", "----", "||||", "oooo", "++++", "\\\\\\\\", "**", "OO", "/.")


def set_style() -> None:
    """One look for every figure; call it once in a notebook."""
    sns.set_theme(context="notebook", style="ticks", palette="colorblind")
    plt.rcParams |= {
        "figure.dpi": 110,
        "savefig.dpi": 160,
        "savefig.bbox": "tight",  # no label or legend is cut off
        "axes.spines.top": False,
        "axes.spines.right": False,
        "hatch.linewidth": 0.6,
    }


def png(figure: Figure) -> bytes:
    """The figure as a PNG for the `value` of a widget; closed, or the notebook would show it once more.

    A figure that is displayed within an Output widget makes papermill wait for ever now and then.
    """
    with io.BytesIO() as file:
        figure.savefig(file, format="png", dpi=100)
        plt.close(figure)
        return file.getvalue()


def class_colours(count: int) -> np.ndarray:
    """(count, 3) RGB in [0, 1] for class ids 0..count-1; background is black.

    Okabe and Ito's seven, in an order in which neighbours, also the last and the first, are more than 50
    apart in CIELAB under full deuteranopia (any two 17). They come again after seven classes, under the next
    of `class_hatches`.
    """
    return np.array([(0, 0, 0), *(to_rgb(OKABE_ITO[i % len(OKABE_ITO)]) for i in range(count - 1))])


def class_hatches(count: int) -> list[str]:
    """Hatches of class ids 0..count-1: none for background and seven classes, another for each seven more."""
    return ["", *(HATCHES[i // len(OKABE_ITO) % len(HATCHES)] for i in range(count - 1))]


def overlay_map(photo: np.ndarray, response: np.ndarray) -> np.ndarray:
    """Photo (H, W, 3) uint8, grey, under a heat map of response (H, W) in [0, 1] -> (H, W, 3) in [0, 1]."""
    heat = plt.get_cmap(HEAT)(np.clip(response, 0, 1))[..., :3]
    return 0.3 * photo.mean(2, keepdims=True) / 255 + 0.7 * heat


def overlay_mask(photo: np.ndarray, mask: np.ndarray, classes: int) -> np.ndarray:
    """Photo (H, W, 3) uint8 under the class colours of mask (H, W); void is grey, background the photo."""
    colours = np.concatenate([class_colours(classes), np.tile(VOID, (256 - classes, 1))])
    grey = photo.mean(2, keepdims=True) / 255
    shown = 0.3 * grey + 0.7 * colours[mask]
    return np.where((mask == 0)[..., None], photo / 255, shown)


def heat_bar(figure: Figure, axes: Sequence[Axes] | np.ndarray, rows: int, label: str) -> None:
    """The colour bar of `overlay_map` at the right of a page of so many rows of pictures."""
    bar = figure.colorbar(ScalarMappable(cmap=HEAT), ax=axes, aspect=12 * rows + 8, pad=0.01)
    bar.set_label(label, fontsize=8)
    bar.ax.tick_params(labelsize=7)


def sweep_curves(
    table: pd.DataFrame,
    x: str,
    value: str,
    marks: Mapping[str, float] | None = None,
    log: bool = False,
    limits: tuple[float, float] = (0, 100),
) -> Figure:
    """Lines of every column of `table` over its index.

    Args:
        table: index is the swept setting, columns are the series, values in %.
        x, value: axis labels.
        marks: vertical lines, label -> position.
        log: settings at distances of their ratios; limits: of the values.
    """
    figure, axis = plt.subplots(figsize=(6.2, 3.4), layout="constrained")
    for (name, series), style in zip(table.items(), cycle(("-", "--", "-.", ":")), strict=False):
        axis.plot(
            table.index, series, style, label=name, linewidth=2, marker="o" if len(table) < 20 else None
        )
    for (label, position), style in zip((marks or {}).items(), cycle((":", "-", "--")), strict=False):
        axis.axvline(position, color="0.35", linestyle=style, linewidth=1, label=label)
    if log:
        axis.set_xscale("log", base=2)
        axis.set_xticks(table.index, [f"{v:g}" for v in table.index])
        axis.minorticks_off()
    elif pd.api.types.is_integer_dtype(table.index):
        axis.xaxis.get_major_locator().set_params(integer=True)
    axis.set(xlabel=x, ylabel=value, ylim=limits)
    axis.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def sensitivity(
    points: pd.DataFrame,
    symbols: Mapping[str, str],
    chosen: Mapping[str, float],
    zero: Mapping[str, str],
    value: str,
) -> Figure:
    """A panel per parameter: value over its settings, which stand at even distances whatever their size.

    Args:
        points: columns parameter, setting, rule, value and std, the error bar (none where NaN).
        symbols: parameter -> name of the axis; chosen: parameter -> the setting to mark; zero: parameter ->
            what its setting 0 is.
        value: name of the common axis.
    """
    figure, axes = plt.subplots(
        1, len(symbols), figsize=(3.2 * len(symbols) + 1.4, 3.2), sharey=True, squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for axis, (parameter, symbol) in zip(axes[0], symbols.items(), strict=True):
        of = points[points["parameter"] == parameter]
        settings = sorted(of["setting"].unique())
        place = {setting: position for position, setting in enumerate(settings)}
        for (rule, line), style in zip(of.groupby("rule"), ("o-", "s--", "^:"), strict=False):
            line = line.sort_values("setting")
            spread = line["std"].fillna(0) if line["std"].notna().any() else None
            axis.errorbar(
                line["setting"].map(place), line["value"], spread,
                fmt=style, capsize=3, label=f"{rule} threshold",
            )  # fmt: skip
        if chosen[parameter] in place:
            axis.axvline(
                place[chosen[parameter]], color="0.35", linestyle=":", zorder=0, label="operating point"
            )
        names = [f"{setting:g}" if setting else f"0\n{zero[parameter]}" for setting in settings]
        axis.set_xticks(range(len(settings)), names, fontsize=9)
        axis.set(xlabel=symbol, xlim=(-0.5, len(settings) - 0.5))
    axes[0, 0].set_ylabel(value)
    axes[0, -1].legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def class_bars(table: pd.DataFrame, value: str) -> Figure:
    """Grouped bars: one group per row (class), one bar per column (stage), values in %."""
    figure, axis = plt.subplots(figsize=(max(5.4, 0.9 * len(table) + 3.6), 3.2), layout="constrained")
    table.plot.bar(ax=axis, width=0.8, edgecolor="white", linewidth=0.4)
    for container, hatch in zip(axis.containers, cycle(HATCHES), strict=False):
        for bar in container:
            bar.set_hatch(hatch)
    axis.set(xlabel="", ylabel=value, ylim=(0, 100))
    axis.tick_params(axis="x", rotation=30)
    axis.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def differences(table: pd.DataFrame, value: str) -> Figure:
    """Differences with their intervals, as `Study.compare` has them: a line per row, the first on top.

    Args:
        table: index names the rows; value: axis label.
    """
    low, high = (table[f"{LEVEL:.0%} {end}"] for end in ("low", "high"))
    figure, axis = plt.subplots(figsize=(6.2, 0.3 * len(table) + 0.9), layout="constrained")
    places = np.arange(len(table))[::-1]
    reach = np.stack([table["difference"] - low, high - table["difference"]])
    axis.errorbar(table["difference"], places, xerr=reach, fmt="o", capsize=3)
    axis.axvline(0, color="0.35", linestyle=":", linewidth=1)
    axis.set_yticks(places, table.index, fontsize=8)
    axis.set(xlabel=value, ylim=(-0.6, len(table) - 0.4))
    return figure


def training_curves(histories: Mapping[str, pd.DataFrame]) -> Figure:
    """Loss per epoch, one panel per network; each history has columns epoch and loss."""
    figure, axes = plt.subplots(
        1, len(histories), figsize=(3.2 * len(histories), 2.6), squeeze=False, layout="constrained"
    )
    for axis, (title, history) in zip(axes[0], histories.items(), strict=True):
        axis.plot(history["epoch"], history["loss"], marker="o")
        axis.margins(y=0.1)
        axis.set_title(title, fontsize=9)
        axis.set(xlabel="epoch", ylabel="training loss", ylim=(0, None))
        axis.xaxis.get_major_locator().set_params(integer=True)
    return figure


def loss_curves(
    histories: Mapping[str, pd.DataFrame],
    losses: Mapping[str, str],
    bounds: Mapping[str, Sequence[float]] | None = None,
) -> Figure:
    """Several losses of several networks over the epochs, a panel a loss.

    Args:
        histories: network -> columns epoch and `losses`.
        losses: column -> name of its axis.
        bounds: column -> values that it cannot pass, as grey lines.
    """
    figure, axes = plt.subplots(
        1, len(losses), figsize=(3.2 * len(losses) + 2.4, 3), squeeze=False, layout="constrained"
    )
    for axis, (column, title) in zip(axes[0], losses.items(), strict=True):
        styles = cycle(("o-", "s--", "^-.", "d:"))
        for (name, history), style in zip(histories.items(), styles, strict=False):
            axis.plot(history["epoch"], history[column], style, markersize=4, label=name)
        for bound in (bounds or {}).get(column, ()):
            axis.axhline(bound, color="0.6", linewidth=1)
        axis.set(xlabel="epoch", ylabel=title)
        axis.xaxis.get_major_locator().set_params(integer=True)
    axes[0, -1].legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def level_lines(figure: Figure, levels: Mapping[str, float], name: str) -> None:
    """Dotted lines at the level of each curve's own reference, in its colour: label of the curve -> level."""
    axis = figure.axes[0]
    curves = {line.get_label(): line.get_color() for line in axis.lines}
    for label, level in levels.items():
        axis.axhline(level, color=curves[label], linestyle=":", linewidth=1, label=f"{name}, {label}")
    axis.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))


def gain_scatter(gain: pd.DataFrame, marked: Sequence[str], x: str, y: str) -> Figure:
    """Each photo's gain before and after a stage; on the dashed line the stage leaves it as it is.

    Args:
        gain: index photo, two columns, in points; marked: photos that stand out; x, y: names of the axes.
    """
    first, second = gain.columns
    limit = 1.05 * max(gain.abs().to_numpy().max(), 1e-3)
    figure, axis = plt.subplots(figsize=(5.4, 4.2), layout="constrained")
    axis.axline((0, 0), slope=1, color="0.3", linestyle="--", linewidth=1, label="gain left as it is")
    axis.scatter(gain[first], gain[second], s=10, color="0.6", label="photo")
    chosen = gain.loc[list(marked)]
    axis.scatter(chosen[first], chosen[second], s=40, marker="^", color="C1", label="shown below")
    for line in (axis.axhline, axis.axvline):
        line(0, color="0.8", linewidth=0.8, zorder=0)
    axis.set(xlabel=x, ylabel=y, xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal")
    axis.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure
