"""Saliency maps: files and their mistakes, degraded scenes, and the numbers that stand beside them."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wsss_lib.data.saliency import (
    DROPPED,
    FALSE_BLOB,
    degraded,
    find_maps,
    foreground_iou,
    numbered_objects,
    read_saliency,
    save_saliency,
)
from wsss_lib.data.scenes.composition import draw_scene
from wsss_lib.data.voc import VOCDataset

VOC = Path(__file__).resolve().parents[3] / "shared" / "data" / "voc_subset"


def test_a_map_is_kept_to_a_grey_level(tmp_path):
    saliency = np.random.default_rng(0).random((7, 9))
    save_saliency(saliency, tmp_path / "a.png")
    found = read_saliency(tmp_path / "a.png", (7, 9))
    assert found.dtype == np.float32
    assert np.abs(found - saliency).max() <= 0.5 / 255 + 1e-6
    save_saliency(np.array([[0.0, 1.0]]), tmp_path / "b.png")
    np.testing.assert_array_equal(read_saliency(tmp_path / "b.png", (1, 2)), [[0, 1]])


def test_a_map_of_another_size_is_brought_to_the_photos(tmp_path):
    """Bilinear: a small map's values are kept, and others lie between them."""
    small = np.array([[0.0, 1.0], [0.2, 0.6]])
    save_saliency(small, tmp_path / "a.png")
    found = read_saliency(tmp_path / "a.png", (4, 6))
    assert found.shape == (4, 6)
    np.testing.assert_allclose(found[[0, 0, -1, -1], [0, -1, 0, -1]], small.ravel(), atol=1e-6)
    weights = np.array([0, 0, 1 / 3, 2 / 3, 1, 1])  # half-pixel centres at three times the width
    np.testing.assert_allclose(found[0], weights, atol=1e-6)


def test_files_that_are_no_saliency_maps_are_named(tmp_path):
    Image.fromarray(np.zeros((3, 4, 3), np.uint8)).save(tmp_path / "rgb.png")
    with pytest.raises(ValueError, match=r"rgb\.png is of mode RGB; save it as 8-bit grey"):
        read_saliency(tmp_path / "rgb.png", (3, 4))
    (tmp_path / "bad.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"bad\.png is damaged or no image"):
        read_saliency(tmp_path / "bad.png", (3, 4))
    with pytest.raises(FileNotFoundError, match=r"There is no file .*none\.png"):
        read_saliency(tmp_path / "none.png", (3, 4))


def test_photos_without_a_map_are_counted(tmp_path):
    save_saliency(np.zeros((2, 2)), tmp_path / "a.png")
    assert find_maps(tmp_path, ["a"]) == {"a": tmp_path / "a.png"}
    with pytest.raises(FileNotFoundError, match=re.escape("for 2 of 3 photos, the first is b.png")):
        find_maps(tmp_path, ["a", "b", "c"])


# --- scenes ----------------------------------------------------------------------------------------------


def test_objects_are_connected_regions_of_one_class():
    mask = np.zeros((6, 10), np.uint8)
    mask[1:5, 1:4], mask[1:5, 4:6], mask[1:3, 7:9] = 2, 3, 2
    mask[1:5, 3] = 255  # an outline between two objects that touch
    salient = mask > 0
    objects = numbered_objects(mask, salient)
    assert (objects > 0).tolist() == salient.tolist()
    assert len(np.unique(objects)) == 4
    for place, others in (((2, 1), [(2, 5), (2, 8)]), ((2, 5), [(2, 8)])):
        assert all(objects[place] != objects[other] for other in others)
    assert objects[1, 1] == objects[4, 2]


def test_degraded_maps_are_drawn_from_seed_and_id_alone():
    scene = draw_scene(0, "train", 0, (96, 116))
    objects = numbered_objects(scene.mask, scene.salient)
    first, again = (degraded(objects, "train_00000") for _ in range(2))
    assert first.shape == (12, 15)
    assert (first == again).all()
    assert ((first >= 0) & (first <= 1)).all()
    ids, seeds = {f"train_{i:05d}" for i in range(12)}, range(12)
    assert len({degraded(objects, id).tobytes() for id in ids}) > 2
    assert len({degraded(objects, "train_00000", seed).tobytes() for seed in seeds}) > 2


def test_objects_are_missed_and_blobs_seen_as_often_as_stated():
    """Two far-apart squares: each is missing in 15 % of the pictures; empty pictures hold a blob in 30 %."""
    objects = np.zeros((256, 256), int)
    objects[:, :96], objects[:, 160:] = 1, 2
    seen = [degraded(objects, str(i)) for i in range(400)]
    for column in (2, -3):
        missed = np.mean([(small[:, column] < 0.5).mean() > 0.5 for small in seen])
        assert missed == pytest.approx(DROPPED, abs=0.05)
    empty = [degraded(np.zeros((256, 256), int), str(i)) for i in range(400)]
    seen_blobs = np.mean([small.max() > 0 for small in empty])
    assert FALSE_BLOB - 0.12 < seen_blobs <= FALSE_BLOB + 0.05  # small ones vanish in the blur


def test_degraded_maps_are_as_good_as_a_small_network_on_photos(tmp_path):
    """U2-Net-p: mean 0.70 on VOC; the stated 0.70 of 60 scenes, here of 24 (some are missed altogether)."""
    found = []
    for index in range(24):
        scene = draw_scene(1, "train", index, (160, 192))
        objects = numbered_objects(scene.mask, scene.salient)
        save_saliency(degraded(objects, f"train_{index:05d}"), tmp_path / "a.png")
        found.append(foreground_iou(read_saliency(tmp_path / "a.png", (160, 192)), scene.mask))
    assert 0.6 < np.nanmean(found) < 0.8


def test_foreground_iou_is_that_of_a_loop():
    rng = np.random.default_rng(0)
    saliency, truth = rng.random((9, 11)), rng.choice([0, 1, 4, 255], (9, 11))
    both = either = 0
    for s, t in zip(saliency.ravel(), truth.ravel(), strict=True):
        if t != 255:
            both += (s > 0.5) and (t > 0)
            either += (s > 0.5) or (t > 0)
    assert foreground_iou(saliency, truth) == pytest.approx(both / either)
    assert np.isnan(foreground_iou(np.zeros((2, 2)), np.zeros((2, 2), int)))


@pytest.mark.skipif(not VOC.is_dir(), reason="needs ../shared/data/voc_subset beside the checkout")
def test_a_folder_of_a_real_network_fits_its_photos():
    data = VOCDataset(VOC / "VOCdevkit" / "VOC2012", "val", limit=12)
    maps = find_maps(VOC / "saliency_u2netp", data.ids)
    found = [foreground_iou(read_saliency(maps[id], data.image_size(id)), data.mask(id)) for id in data.ids]
    assert 0.5 < np.mean(found) < 0.95
