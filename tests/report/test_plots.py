"""Figures show the numbers they are given."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from wsss_lib.report.plots import (
    VOID,
    class_colours,
    class_hatches,
    differences,
    gain_scatter,
    level_lines,
    loss_curves,
    overlay_map,
    overlay_mask,
    sensitivity,
    sweep_curves,
)


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def test_sensitivity_puts_every_setting_in_order_and_marks_the_chosen_one():
    rows = [
        ("alpha", setting, rule, base + 10 * setting, std)
        for setting, std in ((1.0, 0.5), (0.0, np.nan), (0.2, 2.0))
        for rule, base in (("fixed", 40), ("oracle", 50))
    ]
    points = pd.DataFrame(rows, columns=["parameter", "setting", "rule", "value", "std"])
    figure = sensitivity(points, {"alpha": "a"}, {"alpha": 0.2}, {"alpha": "CAM"}, "mIoU (%)")
    (axis,) = figure.axes
    assert [label.get_text() for label in axis.get_xticklabels()] == ["0\nCAM", "0.2", "1"]
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("a", "mIoU (%)")
    for container, base in zip(axis.containers, (40, 50), strict=True):
        line, _, (bars,) = container.lines
        assert line.get_xydata().tolist() == [[0, base], [1, base + 2], [2, base + 10]]
        lengths = [segment[1, 1] - segment[0, 1] for segment in bars.get_segments()]
        assert lengths == pytest.approx([0, 4, 1])
    marked = [line for line in axis.lines if line.get_label() == "operating point"]
    assert [list(line.get_xdata()) for line in marked] == [[1, 1]]


def linear(colours: np.ndarray) -> np.ndarray:
    return np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)


def lab_in_deuteranopia(colours: np.ndarray) -> np.ndarray:
    """(n, 3) sRGB -> CIELAB of what a deuteranope sees (Machado et al., 2009, severity 1; white D65)."""
    seen = np.array([
        [0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881],
    ])  # fmt: skip
    to_xyz = np.array([
        [0.412456, 0.357576, 0.180437], [0.212673, 0.715152, 0.072175], [0.019334, 0.119192, 0.950304],
    ])  # fmt: skip
    xyz = np.clip(linear(colours) @ seen.T, 0, 1) @ to_xyz.T / [0.95047, 1, 1.08883]
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], 1)


@pytest.mark.parametrize("count", [7, 21, 81])
def test_classes_can_be_told_apart_in_deuteranopia(count):
    colours, hatches = class_colours(count), class_hatches(count)
    assert colours.shape == (count, 3)
    assert not colours[0].any()
    places = lab_in_deuteranopia(colours[1:])
    neighbours = np.linalg.norm(np.diff(places, axis=0), axis=1)
    assert neighbours.min() > 50  # it was 9 at 7 classes and 1 at 21
    apart = np.linalg.norm(places[:, None] - places[None], axis=-1)
    same_hatch = np.equal.outer(hatches[1:], hatches[1:]) & ~np.eye(count - 1, dtype=bool)
    assert apart[same_hatch].min() > 17  # without a hatch to help
    assert len(set(zip(map(tuple, colours.tolist()), hatches, strict=True))) == count


def test_the_simulated_eye_confuses_what_deuteranopes_confuse():
    red, green, blue = lab_in_deuteranopia(np.array([[0.8, 0.25, 0.1], [0.35, 0.42, 0.05], [0.1, 0.2, 0.8]]))
    assert np.linalg.norm(red - green) < 35 < np.linalg.norm(red - blue)


def test_overlays_mix_photo_and_colour():
    photo = np.full((1, 3, 3), 100, np.uint8)
    mask = np.array([[0, 2, 255]])
    shown = overlay_mask(photo, mask, 3)
    np.testing.assert_allclose(shown[0, 0], 100 / 255)
    np.testing.assert_allclose(shown[0, 1], 0.3 * 100 / 255 + 0.7 * class_colours(3)[2])
    np.testing.assert_allclose(shown[0, 2], 0.3 * 100 / 255 + 0.7 * np.array(VOID))
    heat = overlay_map(photo, np.array([[-1, 0.5, 2]]))
    expected = plt.get_cmap("inferno")([0.0, 0.5, 1.0])[:, :3]
    np.testing.assert_allclose(heat[0], 0.3 * 100 / 255 + 0.7 * expected)


def test_loss_curves_have_a_panel_a_loss_with_its_bounds():
    histories = {
        name: pd.DataFrame({"epoch": [1, 2], "a": [3 + k, 2 + k], "b": [1, 0]}) for k, name in enumerate("xy")
    }
    figure = loss_curves(histories, {"a": "loss a", "b": "loss b"}, {"b": (0.5, 2.0)})
    first, second = figure.axes
    assert [line.get_ydata().tolist() for line in first.lines] == [[3, 2], [4, 3]]
    assert [axis.get_ylabel() for axis in figure.axes] == ["loss a", "loss b"]
    assert [line.get_ydata()[0] for line in second.lines[2:]] == [0.5, 2.0]
    assert [text.get_text() for text in second.get_legend().get_texts()] == ["x", "y"]


def test_level_lines_have_the_colour_of_their_curve():
    figure = sweep_curves(
        pd.DataFrame({"fixed": [1, 2], "oracle": [3, 4]}, index=[1, 2]), "K", "mIoU", limits=(0, 9)
    )
    level_lines(figure, {"oracle": 3.5, "fixed": 1.5}, "CAM")
    axis = figure.axes[0]
    curves = {line.get_label(): line for line in axis.lines}
    assert axis.get_ylim() == (0, 9)
    for name, level in {"oracle": 3.5, "fixed": 1.5}.items():
        line = curves[f"CAM, {name}"]
        assert (line.get_ydata()[0], line.get_linestyle()) == (level, ":")
        assert line.get_color() == curves[name].get_color()


def test_every_mark_of_a_sweep_is_drawn_and_told_apart():
    marks = {"calibrated": 0.1, "fixed": 0.2, "oracle": 0.3}
    axis = sweep_curves(pd.DataFrame({"mIoU": [1.0, 2.0]}, index=[0.0, 0.5]), "t", "%", marks).axes[0]
    drawn = {line.get_label(): line for line in axis.lines if line.get_label() != "mIoU"}
    assert {label: line.get_xdata()[0] for label, line in drawn.items()} == marks
    assert len({line.get_linestyle() for line in drawn.values()}) == 3


def test_a_sweep_over_whole_numbers_has_no_ticks_between_them():
    def ticks(values):
        figure = sweep_curves(pd.DataFrame({"mIoU": [1.0, 2.0]}, index=values), "stage", "%")
        figure.canvas.draw()
        return figure.axes[0].get_xticks()

    assert not any(tick % 1 for tick in ticks([0, 1]))
    assert any(tick % 1 for tick in ticks([0.0, 1.0]))


def test_a_scatter_holds_every_photo_and_marks_the_chosen():
    gain = pd.DataFrame({"CAM": [1.0, -2.0, 0.0], "walk": [3.0, 1.0, -4.0]}, index=list("abc"))
    axis = gain_scatter(gain, ["c"], "before", "after").axes[0]
    everything, chosen = (points.get_offsets().tolist() for points in axis.collections)
    assert everything == [[1, 3], [-2, 1], [0, -4]]
    assert chosen == [[0, -4]]
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("before", "after")
    assert axis.get_xlim() == axis.get_ylim() == pytest.approx((-4.2, 4.2))


def test_differences_draw_a_line_per_row_from_the_top():
    columns = {"difference": [1.0, -2.0], "95% low": [-0.5, -3.0], "95% high": [1.5, -1.75]}
    figure = differences(pd.DataFrame(columns, index=["a − b", "c − b"]), "points")
    (axis,) = figure.axes
    (points, _, (bars,)) = axis.containers[0]
    np.testing.assert_allclose(points.get_xydata(), [[1, 1], [-2, 0]])
    np.testing.assert_allclose([bar[:, 0] for bar in bars.get_segments()], [[-0.5, 1.5], [-3, -1.75]])
    assert [label.get_text() for label in axis.get_yticklabels()] == ["a − b", "c − b"]
    assert axis.get_yticks().tolist() == [1, 0]
    assert axis.get_xlabel() == "points"
