"""COCO in VOC layout, on a set of a few photos in COCO's own folders."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle

from wsss_lib.data.coco import convert_coco, instance_mask
from wsss_lib.data.splits import Splits
from wsss_lib.data.voc import VOCDataset

CATEGORIES = [{"id": 90, "name": "toothbrush"}, {"id": 1, "name": "person"}, {"id": 13, "name": "stop sign"}]
CLASSES = ("person", "stop sign", "toothbrush")
HEIGHT, WIDTH = 12, 20


def box(left: int, top: int, right: int, bottom: int) -> list[list[int]]:
    """A polygon that covers the pixels [top:bottom, left:right]."""
    return [[left, top, right, top, right, bottom, left, bottom]]


def annotation(image: int, category: int, segmentation, area: float, iscrowd: int = 0) -> dict:
    return {
        "image_id": image, "category_id": category, "segmentation": segmentation, "area": area,
        "iscrowd": iscrowd, "id": 1000 * image + category,
    }  # fmt: skip


def write_coco(root: Path, split: str, objects: dict[int, list[dict]], categories=CATEGORIES) -> None:
    """Photos of `objects` (image id -> annotations), listed in descending order of their ids."""
    (root / split).mkdir(parents=True)
    (root / "annotations").mkdir(exist_ok=True)
    images = []
    for image in sorted(objects, reverse=True):
        name = f"COCO_{split}_{image:012d}.jpg"
        Image.new("RGB", (WIDTH, HEIGHT), (image, 0, 0)).save(root / split / name)
        images.append({"id": image, "file_name": name, "height": HEIGHT, "width": WIDTH})
    content = {
        "images": images,
        "annotations": [item for items in objects.values() for item in items],
        "categories": categories,
    }
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))


@pytest.fixture
def coco(tmp_path) -> Path:
    """Two + one photos with objects and one without any; image 2 holds a crowd alone."""
    crowd = np.zeros((HEIGHT, WIDTH), np.uint8)
    crowd[2:8, 3:9] = 1
    runs = {"size": [HEIGHT, WIDTH], "counts": runs_of(crowd)}
    write_coco(
        tmp_path / "coco",
        "train2014",
        {
            1: [annotation(1, 13, box(5, 3, 8, 6), 9.0), annotation(1, 1, box(2, 1, 15, 11), 130.0)],
            2: [annotation(2, 90, runs, 36.0, iscrowd=1)],
            3: [],
        },
    )
    write_coco(tmp_path / "coco", "val2014", {7: [annotation(7, 1, box(0, 0, 4, 4), 16.0)]})
    return tmp_path / "coco"


def runs_of(mask: np.ndarray) -> list[int]:
    """COCO's uncompressed run lengths, column by column, beginning with zeros."""
    flat = mask.flatten(order="F")
    changes = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *changes, len(flat)]).tolist()
    return [0, *runs] if flat[0] else runs


def test_the_layout_is_read_like_voc(coco):
    convert_coco(coco, coco, processes=1)
    train = VOCDataset(coco, "train", labels=coco / "labels.npz")
    assert train.classes == CLASSES
    assert train.ids == ["COCO_train2014_000000000001", "COCO_train2014_000000000002"]  # 3 has no object
    np.testing.assert_array_equal(train.labels, [[1, 1, 0], [0, 0, 1]])
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[1:11, 2:15] = 1
    expected[3:6, 5:8] = 2  # the sign is smaller, so it lies on top, though it comes first
    np.testing.assert_array_equal(train.mask(train.ids[0]), expected)
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[2:8, 3:9] = 3
    np.testing.assert_array_equal(train.mask(train.ids[1]), expected)
    assert train.image(train.ids[0])[0, 0, 0] == pytest.approx(1, abs=2)
    data = Splits(coco, None, coco / "labels.npz", None)
    assert data.classes == ("background", *CLASSES)
    assert data.scored("val") == ["COCO_val2014_000000000007"]


def test_the_photos_are_not_copied_and_both_folders_may_move(coco, tmp_path):
    convert_coco(coco, tmp_path / "voc", processes=1)
    (tmp_path / "elsewhere").mkdir()
    for folder in ("coco", "voc"):
        os.rename(tmp_path / folder, tmp_path / "elsewhere" / folder)
    voc = tmp_path / "elsewhere" / "voc"
    assert all(path.is_symlink() for path in (voc / "JPEGImages").iterdir())
    assert VOCDataset(voc, "val").image_size("COCO_val2014_000000000007") == (HEIGHT, WIDTH)


def test_a_stopped_run_goes_on_and_a_finished_one_does_nothing(coco, monkeypatch):
    monkeypatch.setattr("wsss_lib.data.coco.np.savez_compressed", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        convert_coco(coco, coco, processes=1)
    assert not (coco / "ImageSets").exists()  # no list before all is there
    monkeypatch.undo()
    mask = coco / "SegmentationClass" / "COCO_val2014_000000000007.png"
    before = mask.stat().st_mtime_ns
    convert_coco(coco, coco, processes=1)
    assert mask.stat().st_mtime_ns == before
    (coco / "annotations" / "instances_val2014.json").unlink()
    convert_coco(coco, coco, processes=1)


def test_overlaps_by_brute_force():
    """Each pixel belongs to the smallest instance over it, the earlier of two equal ones."""
    rng = np.random.default_rng(0)
    class_ids = {category: number for number, category in enumerate((1, 13, 90), start=1)}
    image = {"id": 5, "height": HEIGHT, "width": WIDTH}
    for _ in range(20):
        masks = rng.random((6, HEIGHT, WIDTH)) < 0.3
        areas = rng.integers(1, 5, 6)  # ties are likely
        categories = rng.choice([1, 13, 90], 6)
        encoded = [rle.encode(np.asfortranarray(mask.astype(np.uint8))) for mask in masks]
        objects = [
            annotation(5, int(c), e, int(a)) for c, e, a in zip(categories, encoded, areas, strict=True)
        ]
        expected = np.zeros((HEIGHT, WIDTH), np.uint8)
        for y, x in np.ndindex(HEIGHT, WIDTH):
            over = [i for i in range(6) if masks[i, y, x]]
            if over:
                expected[y, x] = class_ids[categories[min(over, key=lambda i: (areas[i], i))]]
        np.testing.assert_array_equal(instance_mask(image, objects, class_ids), expected)


def test_errors_name_the_file(coco, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no .*instances_train2014\.json; unpack .*\.zip there\.$"):
        convert_coco(tmp_path, tmp_path / "voc", processes=1)
    (coco / "train2014" / "COCO_train2014_000000000002.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"no photo .*000002\.jpg"):
        convert_coco(coco, tmp_path / "voc", processes=1)
    file = coco / "annotations" / "instances_train2014.json"
    file.write_text(file.read_text()[:-20])
    with pytest.raises(ValueError, match=r"instances_train2014\.json is damaged"):
        convert_coco(coco, tmp_path / "voc", processes=1)


def test_other_categories_in_val_are_refused(tmp_path):
    objects = {1: [annotation(1, 1, box(0, 0, 4, 4), 16.0)]}
    write_coco(tmp_path, "train2014", objects)
    write_coco(tmp_path, "val2014", objects, CATEGORIES[:2])
    with pytest.raises(ValueError, match="different categories"):
        convert_coco(tmp_path, tmp_path, processes=1)
