"""Montages show every photo in its place, boxed where asked; maps and tables name every point."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgba

from wsss_lib.report.plots_clusters import GATHERED, SPLIT, cluster_montage, heat_table, weight_map


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def photo(value: int, height: int = 6, width: int = 10) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def test_a_montage_shows_each_photo_in_its_row():
    panels = {
        "round 1": {"cluster 1": [(photo(1), SPLIT), (photo(2), None)], "cluster 2": [(photo(3), None)]},
        "round 3": {"cluster 1": [(photo(4, 10, 6), GATHERED)]},
    }
    figure = cluster_montage(panels, {"split": SPLIT, "gathered": GATHERED})
    assert [part._suptitle.get_text() for part in figure.subfigs] == list(panels)
    for part, rows in zip(figure.subfigs, panels.values(), strict=True):
        grid = np.array(part.axes).reshape(2, 2)
        for line, (name, row) in zip(grid, rows.items(), strict=False):
            assert line[0].get_ylabel() == name
            for axis, (picture, colour) in zip(line, row, strict=False):
                shown = axis.get_images()[0].get_array()
                assert shown.shape == (6, 6, 3)
                assert (shown == picture[0, 0]).all()
                edge = axis.spines["left"]
                assert edge.get_visible() == bool(colour)
                assert colour is None or edge.get_edgecolor() == to_rgba(colour)
            assert not any(axis.get_images() for axis in line[len(row) :])


def test_a_weight_map_names_every_point():
    places = np.arange(10.0).reshape(5, 2)
    axis = weight_map(places, ["cat", "dog"], "cat").axes[0]
    assert [text.get_text() for text in axis.texts] == ["cat", "dog", "1", "2", "3"]
    dots, crosses = (np.asarray(points.get_offsets()) for points in axis.collections)
    np.testing.assert_array_equal(np.concatenate([dots, crosses]), places)


def test_a_heat_table_writes_its_numbers():
    table = pd.DataFrame([[0.1, -0.2], [0.3, 0.4], [0, 1]], list("xyz"), ["a", "b"])
    axis = heat_table(table, "cosine", 0.5).axes[0]
    assert [text.get_text() for text in axis.texts] == ["0.10", "-0.20", "0.30", "0.40", "0.00", "1.00"]
    assert [label.get_text() for label in axis.get_yticklabels()] == list("xyz")
