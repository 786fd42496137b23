"""Pages show each cell in its place, outline the truth and explain what is drawn."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from wsss_lib.report.pictures import Heat, Painted, Picture, page
from wsss_lib.report.plots import class_colours, class_hatches, overlay_map, overlay_mask

NAMES = ("background", "cat", "dog", "cow")


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def photo(height: int = 8, width: int = 12) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def mask(height: int = 8, width: int = 12, c: int = 1) -> np.ndarray:
    found = np.zeros((height, width), np.uint8)
    found[2:5, 3:9] = c
    return found


def legend(figure) -> dict:
    (found,) = figure.legends
    texts = [text.get_text() for text in found.get_texts()]
    return dict(zip(texts, found.legend_handles, strict=True))


def test_cells_titles_notes_and_captions_stand_in_their_places():
    rows = [
        [Picture(photo(), "one"), None],
        [Picture(photo() // 2), Painted(photo(), mask(), None, "IoU 7 %")],
    ]
    figure = page(rows, ["a", "b"], NAMES, ["first", "second"])
    axes = np.array(figure.axes[:4]).reshape(2, 2)
    assert [axis.get_title() for axis in axes[0]] == ["a", "b"]
    assert [axis.get_ylabel() for axis in axes[:, 0]] == ["first", "second"]
    assert [[len(axis.images) for axis in line] for line in axes] == [[1, 0], [1, 1]]
    np.testing.assert_array_equal(axes[1, 0].images[0].get_array(), photo() // 2)
    np.testing.assert_allclose(axes[1, 1].images[0].get_array(), overlay_mask(photo(), mask(), 4))
    texts = [[axis.texts[0].get_text() if axis.texts else "" for axis in line] for line in axes]
    assert texts == [["one", ""], ["", "IoU 7 %"]]


def test_rows_without_notes_have_none():
    assert page([[Picture(photo())]], ["a"], NAMES).axes[0].get_ylabel() == ""


def test_a_missed_object_is_outlined():
    nothing = np.zeros_like(mask())
    axis = page([[Painted(photo(), nothing, mask())]], ["a"], NAMES).axes[0]
    np.testing.assert_allclose(axis.images[0].get_array(), photo() / 255)  # the mask itself shows nothing
    around = np.concatenate([path.vertices for line in axis.collections for path in line.get_paths()])
    assert around.min(0).tolist() == [2.5, 1.5]  # half a pixel around columns 3..8 and rows 2..4
    assert around.max(0).tolist() == [8.5, 4.5]
    assert not page([[Painted(photo(), mask())]], ["a"], NAMES).axes[0].collections


def test_a_heat_map_is_named_outlined_and_has_one_colour_bar():
    response = np.linspace(0, 1, 96).reshape(8, 12)
    heat = Heat(photo(), response, "cat", mask() == 1)
    figure = page([[heat, heat], [heat, heat]], ["a", "b"], NAMES)
    *maps, bar = figure.axes
    assert len(maps) == 4
    assert all(axis.texts[0].get_text() == "cat" for axis in maps)
    assert all(axis.collections for axis in maps)
    np.testing.assert_allclose(maps[0].images[0].get_array(), overlay_map(photo(), response))
    assert bar.get_ylabel() == "response / its maximum"
    assert bar.get_ylim() == (0, 1)
    assert list(legend(figure)) == ["outline: ground truth"]


def test_the_legend_names_what_occurs_background_and_void():
    cells = [Painted(photo(), mask(c=3), mask(c=1)), Painted(photo(), mask(c=255))]
    handles = legend(page([cells], ["a", "b"], NAMES))
    assert list(handles) == ["cat", "cow", "background (photo)", "void / undecided", "outline: ground truth"]
    assert handles["cow"].get_facecolor()[:3] == pytest.approx(class_colours(4)[3])
    assert not page([[Picture(photo())]], ["a"], NAMES).legends


def test_classes_beyond_the_colours_are_hatched_in_mask_and_legend():
    names = ["background", *(f"class {i}" for i in range(1, 21))]
    figure = page([[Painted(photo(), mask(c=8)), Painted(photo(), mask(c=7))]], ["a", "b"], names)
    (hatched,) = figure.axes[0].collections
    assert hatched.hatches == [class_hatches(21)[8]] != [""]
    assert not figure.axes[1].collections
    assert legend(figure)["class 8"].get_hatch() == class_hatches(21)[8]
    assert legend(figure)["class 8"].get_facecolor()[:3] == to_rgb(class_colours(21)[1])


def test_a_row_is_as_high_as_its_picture_and_an_upright_one_as_high_as_wide():
    rows = [[Picture(photo(*size))] for size in ((4, 8), (6, 6), (12, 4))]
    figure = page(rows, ["a"], NAMES, width=2)
    assert figure.get_size_inches().tolist() == pytest.approx([2, 1 + 2 + 2 + 0.35])
    assert figure.axes[0].get_gridspec().get_height_ratios() == [0.5, 1, 1]
