"""Exported masks, drawn back by their readers: pycocotools, one of the zip, an unpacker of the brush."""

import json
from itertools import pairwise
from zipfile import ZipFile

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from scipy import ndimage

from wsss_lib.data.export import (
    brush_strokes,
    object_ids,
    polygon,
    regions,
    write_coco,
    write_cvat,
    write_label_studio,
)
from wsss_lib.data.masks import save_mask, voc_palette
from wsss_lib.data.palette import read_colours

CLASSES = ("background", "cat", "dog")


def random_mask(seed: int, size: tuple[int, int] = (23, 31), classes: int = 2) -> np.ndarray:
    """Blobs with holes, crumbs and pixels that touch at corners."""
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.normal(size=(classes + 1, *size)), (0, 1, 1))
    mask = noise.argmax(0).astype(np.uint8)
    mask[rng.random(size) < 0.05] = rng.integers(0, classes + 1)
    return mask


@pytest.fixture
def folder(tmp_path):
    """Masks of several sizes, one all background, one all cat, by the names of their photos."""
    masks = {f"photo {seed}.jpg": random_mask(seed, (17 + seed, 31 - seed)) for seed in range(6)}
    masks |= {"none.png": np.zeros((5, 7), np.uint8), "ümlaut.jpeg": np.ones((6, 4), np.uint8)}
    masks["thin.jpg"] = np.eye(9, dtype=np.uint8) * 2
    files = {}
    for number, (name, mask) in enumerate(masks.items()):
        files[name] = tmp_path / f"{number}.png"
        save_mask(mask, files[name])
    return masks, files


@pytest.mark.parametrize("segmentation", ["rle", "polygons"])
def test_coco_draws_back_pixel_by_pixel(folder, tmp_path, segmentation):
    masks, files = folder
    write_coco(files, CLASSES, tmp_path / "coco.json", segmentation)
    coco = COCO(tmp_path / "coco.json")
    assert {c["id"]: c["name"] for c in coco.loadCats(coco.getCatIds())} == {1: "cat", 2: "dog"}
    images = coco.loadImgs(coco.getImgIds())
    assert [image["file_name"] for image in images] == list(masks)
    for image in images:
        truth = masks[image["file_name"]]
        assert (image["height"], image["width"]) == truth.shape
        drawn, times = np.zeros_like(truth), np.zeros(truth.shape, int)
        for annotation in coco.loadAnns(coco.getAnnIds(image["id"])):
            region = coco.annToMask(annotation) == 1
            assert annotation["area"] == region.sum()
            rows, columns = np.nonzero(region)
            box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
            assert annotation["bbox"] == box
            drawn[region] = annotation["category_id"]
            times += region
        np.testing.assert_array_equal(drawn, truth)
        assert times.max() <= 1
    assert len({annotation["id"] for annotation in coco.dataset["annotations"]}) == len(coco.anns)


def test_a_region_is_connected_and_of_one_class():
    mask = np.array([[1, 1, 0, 2], [0, 0, 1, 2], [2, 255, 1, 0]], np.uint8)
    found = [(r.class_id, r.top, r.left, r.pixels.astype(int).tolist()) for r in regions(mask)]
    assert found == [
        (1, 0, 0, [[1, 1]]),
        (1, 1, 2, [[1], [1]]),  # touches the first at a corner alone
        (2, 0, 3, [[1], [1]]),
        (2, 2, 0, [[1]]),
    ]


def test_polygon_goes_round_the_pixels_and_its_hole():
    assert polygon(np.ones((2, 3), bool)) == [0, 0, 3, 0, 3, 2, 0, 2]
    ring = np.ones((3, 3), bool)
    ring[1, 1] = False
    outer, seam, hole = [0, 0, 3, 0, 3, 3, 0, 3], [0, 0], [1, 1, 1, 2, 2, 2, 2, 1]
    assert polygon(ring) == [*outer, *seam, *hole, *hole[:2]]


@pytest.mark.parametrize("seed", range(5))
def test_polygon_has_the_area_of_its_region(seed):
    """The seam of a hole encloses nothing, by the shoelace formula."""
    for region in regions(random_mask(seed)):
        corners = np.reshape(polygon(region.pixels), (-1, 2))
        area = sum(x * v - u * y for (x, y), (u, v) in pairwise([*corners, corners[0]])) / 2
        assert area == region.pixels.sum()


def test_cvat_archive_has_the_documented_layout_and_colours(folder, tmp_path):
    masks, files = folder
    write_cvat(files, CLASSES, tmp_path / "cvat.zip")
    with ZipFile(tmp_path / "cvat.zip") as archive:
        archive.extractall(tmp_path / "cvat")
    names = (tmp_path / "cvat/ImageSets/Segmentation/default.txt").read_text("utf-8").splitlines()
    assert names == [name.rpartition(".")[0] for name in masks]
    colours = read_colours(tmp_path / "cvat/labelmap.txt")
    assert colours == {"background": (0, 0, 0), "cat": (128, 0, 0), "dog": (0, 128, 0)}
    palette = np.reshape(voc_palette(), (-1, 3))
    for name, mask in zip(names, masks.values(), strict=True):
        classes, objects = (
            np.array(Image.open(tmp_path / "cvat" / part / f"{name}.png"))
            for part in ("SegmentationClass", "SegmentationObject")
        )
        np.testing.assert_array_equal(classes, np.array(list(colours.values()))[mask])
        np.testing.assert_array_equal(objects, palette[object_ids(mask)])


def test_objects_are_the_regions_largest_first():
    mask = np.array([[1, 0, 2, 2, 255], [0, 0, 2, 0, 1], [1, 1, 0, 0, 1]], np.uint8)
    assert object_ids(mask).tolist() == [[4, 0, 1, 1, 0], [0, 0, 1, 0, 2], [3, 3, 0, 0, 2]]
    crumbs = np.zeros((40, 40), np.uint8)
    crumbs[::2, ::2] = 1
    assert len(np.unique(object_ids(crumbs))) == 256  # 400 regions, 255 numbers and the background


def unpacked(strokes: list[int]) -> np.ndarray:
    """The bytes of a brush, read bit by bit as rle-pack's format says."""
    bits = "".join(f"{byte:08b}" for byte in strokes)
    place = 0

    def read(count: int) -> int:
        nonlocal place
        place += count
        return int(bits[place - count : place], 2)

    total, word, sizes = read(32), read(5) + 1, [read(4) + 1 for _ in range(4)]
    found: list[int] = []
    while len(found) < total:
        repeated, length = read(1), read(sizes[read(2)]) + 1
        found += [read(word)] * length if repeated else [read(word) for _ in range(length)]
    return np.array(found, np.uint8)


@pytest.mark.parametrize("seed", range(3))
def test_brush_unpacks_to_the_pixels(seed):
    pixels = random_mask(seed, (19, 90)) == 1
    np.testing.assert_array_equal(unpacked(brush_strokes(pixels)), np.repeat(pixels.ravel() * 255, 4))
    assert not unpacked(brush_strokes(np.zeros((3, 4), bool))).any()
    whole = np.ones((300, 300), bool)  # a run beyond 16 bits
    assert unpacked(brush_strokes(whole)).tolist() == [255] * 360_000


def test_label_studio_tasks_name_photo_classes_and_score(folder, tmp_path):
    masks, files = folder
    write_label_studio(files, CLASSES, tmp_path / "tasks.json", score={"thin.jpg": 0.25}.get)
    tasks = json.loads((tmp_path / "tasks.json").read_text())
    assert [task["data"]["image"] for task in tasks][-3:] == [
        "/data/local-files/?d=none.png",
        "/data/local-files/?d=%C3%BCmlaut.jpeg",
        "/data/local-files/?d=thin.jpg",
    ]
    for task, mask in zip(tasks, masks.values(), strict=True):
        (prediction,) = task["predictions"]
        drawn = np.zeros_like(mask)
        for result in prediction["result"]:
            assert (result["original_height"], result["original_width"]) == mask.shape
            (name,) = result["value"]["brushlabels"]
            alpha = unpacked(result["value"]["rle"]).reshape(*mask.shape, 4)[..., 3]
            drawn[alpha == 255] = CLASSES.index(name)
        np.testing.assert_array_equal(drawn, mask)
    assert [task["predictions"][0]["score"] for task in tasks][-2:] == [None, 0.25]
    interface = (tmp_path / "tasks.xml").read_text()
    assert '<Label value="cat"/>' in interface
    assert "background" not in interface
