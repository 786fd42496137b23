"""The drawing of the step, the page of three sizes, and the scores by size."""

from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from wsss_lib.report.sizes import by_scale, sizes_page, step_diagram


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


def test_the_drawing_has_the_shapes_of_the_step():
    figure = step_diagram(192, (0.5, 2), 8, 8, 256, 20, 16)
    text = "\n".join(t.get_text() for t in figure.axes[0].texts)
    for shape in (
        "16×3×96×96", "16×3×192×192", "16×3×384×384", "stride 8: 12 / 24 / 48 cells", "16×20×3×24×24",
        "16×256×24×24", "16×20×3×3", "21×256",
    ):  # fmt: skip
        assert shape in text, shape
    figure.canvas.draw()  # the mathematics can be set
    coarse = step_diagram(100, (0.5, 1.5), 16, 8, 8, 2, 1)
    assert "4 / 7 / 10 cells" in "\n".join(t.get_text() for t in coarse.axes[0].texts)


def test_a_page_shows_maps_attention_and_targets_and_says_which_targets_are_out_of_reach():
    rng = np.random.default_rng(0)
    photos = [rng.integers(0, 256, (24, 32, 3), np.uint8) for _ in range(2)]
    maps, xi = rng.random((3, 3, 4)), 1 + rng.random((3, 3))
    high = maps.copy()
    high[1] = 1.5
    figure = sizes_page(photos, [(maps, xi, maps), (maps, xi, high)], ["a", "b"], (0.5, 1.5), 8)
    first, second = figure.axes[:8], figure.axes[8:16]
    assert [axis.get_title() for axis in first][1:4] == [
        "map, small (0.5)",
        "map, middle (1)",
        "map, large (1.5)",
    ]
    assert [text.get_text() for text in second[4].texts] == [f"{value:.2f}" for value in xi.ravel()]
    assert [axis.get_xlabel() for axis in second[5:]] == ["", "up to 1.50", ""]
    assert second[0].get_xlabel() == "b"
    assert figure.axes[16].get_ylabel() == "response"  # the colour bar
    assert all(axis.images[0].get_array().shape[:2] == (24, 32) for axis in (*first[1:4], *first[5:]))


@dataclass(frozen=True)
class FakeRow:
    study: object
    gain: float

    def maps(self):
        return self.gain


class FakeStudy:
    """mIoU of a scale s is 10 s + the row's gain for each of two seeds."""

    def __init__(self, scales=()):
        self.scales = scales

    def varied(self, overrides):
        return FakeStudy(overrides["maps.scales"])

    def scores(self, gain):
        value = 10 * sum(self.scales) + gain
        rows = [
            {"seed": seed, "rule": rule, "setting": "x", "class": c, "metric": m, "value": value + seed}
            for seed in (0, 1)
            for rule in ("fixed", "oracle")
            for c, m in (("all", "mIoU"), ("all", "precision"), ("cat", "mIoU"))
        ]
        return pd.DataFrame(rows)


def test_scores_by_scale_have_the_population_deviation():
    study = FakeStudy()
    rows = {"baseline": FakeRow(study, 1), "ours": FakeRow(study, 5)}
    found = by_scale(study, rows, (1.0, 0.5, 2.0))
    keys = ["scales", "method", "seed", "rule", "metric"]
    assert not found.duplicated(keys).any()
    values = found.set_index(keys)["value"]
    assert values["0.5", "ours", 1, "oracle", "mIoU"] == 5 + 5 + 1
    assert values["0.5 1.0 2.0", "baseline", 0, "fixed", "mIoU"] == 35 + 1
    singles = np.array([5.0, 10, 20])
    for (method, gain), seed in (((m, g), s) for m, g in (("baseline", 1), ("ours", 5)) for s in (0, 1)):
        at = ("single", method, seed, "fixed")
        assert values[(*at, "mIoU")] == pytest.approx(singles.mean() + gain + seed)
        assert values[(*at, "std of mIoU")] == pytest.approx(
            np.sqrt(((singles - singles.mean()) ** 2).mean())
        )
    assert set(found["scales"]) == {"0.5", "1.0", "2.0", "0.5 1.0 2.0", "single"}
