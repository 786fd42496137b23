"""Figures show the numbers they are given."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from wsss_lib.report.plots import caption, differences, picture_grid, sensitivity


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


def test_captions_stand_in_the_pictures_row_by_row():
    pictures = [{"a": np.full((4, 6, 3), i, np.uint8), "b": np.zeros((4, 6, 3), np.uint8)} for i in range(2)]
    figure = picture_grid(pictures)
    caption(figure, ["one", "", "three", "four"])
    assert [axis.texts[0].get_text() for axis in figure.axes] == ["one", "", "three", "four"]
    with pytest.raises(ValueError, match="zip"):
        caption(figure, ["one"])


def test_a_row_is_as_high_as_its_picture_and_an_upright_one_as_high_as_wide():
    rows = [{"a": np.zeros((*shape, 3), np.uint8)} for shape in ((4, 8), (6, 6), (12, 4))]
    figure = picture_grid(rows, width=2)
    assert figure.get_size_inches().tolist() == pytest.approx([2, 1 + 2 + 2 + 0.6])
    assert figure.axes[0].get_gridspec().get_height_ratios() == [0.5, 1, 1]


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
