"""Masks whose pixels are colours."""

import numpy as np
import pytest
from PIL import Image

from wsss_lib.data.palette import ids_by_colour, ids_of_colours, read_colours, voc_ids_by_colour
from wsss_lib.data.voc import VOCDataset

CVAT = """# label:color_rgb:parts:actions
background:0,0,0::
palm tree:250,50,83:leaf,trunk:
cat:184,61,245::
ignore:10,20,30::
"""


def palette(root, text, name="colours.csv"):
    (root / name).write_text(text)
    return root / name


def test_the_label_map_of_cvat(tmp_path):
    file = palette(tmp_path, CVAT, "labelmap.txt")
    assert read_colours(file) == {
        "background": (0, 0, 0),
        "palm tree": (250, 50, 83),
        "cat": (184, 61, 245),
        "ignore": (10, 20, 30),
    }
    assert ids_by_colour(tmp_path, ("cat", "palm tree")) == {
        (0, 0, 0): 0,
        (224, 224, 192): 255,
        (250, 50, 83): 2,
        (184, 61, 245): 1,
        (10, 20, 30): 255,
    }


def test_a_csv_of_colours_in_any_order_and_with_black_as_a_class(tmp_path):
    palette(tmp_path, "\ufeffb, Name ,g,R\n0,cat,0,0\n255,_background_,255,255\n")
    assert ids_by_colour(tmp_path, ("cat",)) == {(0, 0, 0): 1, (255, 255, 255): 0, (224, 224, 192): 255}
    assert ids_by_colour(tmp_path / "nowhere", ("cat",)) == {}


def test_vocs_colours():
    ids = voc_ids_by_colour(20)
    assert len(ids) == 22
    assert (ids[0, 0, 0], ids[128, 0, 0], ids[64, 0, 0], ids[0, 64, 128]) == (0, 1, 8, 20)
    assert ids[224, 224, 192] == 255


def test_pixels_by_a_loop():
    rng = np.random.default_rng(0)
    ids = {tuple(colour): int(i) for i, colour in enumerate(rng.integers(0, 256, (5, 3)).tolist())}
    expected = rng.integers(0, 5, (6, 7)).astype(np.uint8)
    rgb = np.array(list(ids), np.uint8)[expected]
    found = ids_of_colours(rgb, ids, "mask", "palette")
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, expected)
    rgb[0, :3] = 9, 9, 9
    rgb[1, 1] = 7, 8, 9
    with pytest.raises(
        ValueError, match=r"mask holds 4 pixels of 2 colours that palette .* most of them 9,9,9;"
    ):
        ids_of_colours(rgb, ids, "mask", "palette")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"is no palette"),
        ("name,r,g\ncat,1,2\n", r"is no palette"),
        ("name,r,g,b\ncat,1,2\n", r"is no palette"),
        ("name,r,g,b\ncat,1,2,red\n", r"is no palette"),
        ("name,r,g,b\ncat,1,2,256\n", r"is no palette \(each class needs three numbers from 0 to 255"),
        ("name,r,g,b\ncat,1,2,3\ncat,1,2,4\n", r"has the name cat more than once"),
        ("name,r,g,b\ncat,1,2,3\ndog,1,2,3\n", r"has the colour \(1, 2, 3\) more than once"),
        ("name,r,g,b\ncow,1,2,3\n", r"gives a colour to 'cow', which is none of the classes cat, dog"),
    ],
)
def test_a_bad_palette_is_named(tmp_path, text, message):
    palette(tmp_path, text)
    with pytest.raises(ValueError, match=rf"colours\.csv {message}.*\.$"):
        ids_by_colour(tmp_path, ("cat", "dog"))
    palette(tmp_path, CVAT, "labelmap.txt")
    with pytest.raises(ValueError, match=r"labelmap\.txt and colours\.csv, .*remove one"):
        ids_by_colour(tmp_path, ("cat", "dog"))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_a_folder_as_cvat_exports_it(tiny_voc, tmp_path, mode):
    """Its label map says what the classes are, and masks are read by colour, whatever a palette's indices."""
    root = tiny_voc.rename(tmp_path / "export")
    for file in (root / "Annotations").iterdir():
        file.unlink()
    palette(root, CVAT, "labelmap.txt")
    expected = np.zeros((24, 32), np.uint8)
    expected[3:9], expected[9:12], expected[12:20] = 1, 255, 2
    colours = np.zeros((256, 3), np.uint8)
    colours[[0, 1, 255, 2]] = (0, 0, 0), (250, 50, 83), (10, 20, 30), (184, 61, 245)
    image = Image.fromarray(colours[expected])
    image = image.quantize(8) if mode == "P" else image.convert(mode)
    assert image.mode == mode
    for id in ("a1", "a2", "a3", "b1", "b2"):
        image.save(root / "SegmentationClass" / f"{id}.png")
    data = VOCDataset(root, "train")
    assert data.classes == ("palm tree", "cat")
    np.testing.assert_array_equal(data.labels, np.ones((5, 2)))
    np.testing.assert_array_equal(data.mask("a1"), expected)
