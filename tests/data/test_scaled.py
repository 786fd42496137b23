"""Photos scaled down for a study, and masks scaled back."""

import numpy as np
import pytest
from PIL import Image

from wsss_lib.data.folder import from_folder
from wsss_lib.data.masks import load_mask, save_mask
from wsss_lib.data.photos import read_image, read_image_size
from wsss_lib.data.scaled import mask_at, scale_down, scaled_size, write_full_size
from wsss_lib.data.splits import Splits


@pytest.fixture
def root(tmp_path):
    """A large photo with a drawn mask, an upright one that is stored lying, and a small one."""
    photos = tmp_path / "photos"
    photos.mkdir()
    left = np.zeros((60, 80, 3), np.uint8)
    left[:, :40] = 255
    Image.fromarray(left).save(photos / "left.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (80, 40)).save(photos / "turned.jpg", exif=exif)
    Image.new("RGB", (20, 10)).save(photos / "small.jpg")
    (tmp_path / "labels.csv").write_text("id,cat\nleft,1\nturned,0\nsmall,1\n")
    root = from_folder(photos, tmp_path / "labels.csv", tmp_path / "root", tune=["left"])
    (root / "SegmentationClass").mkdir()
    save_mask((left[..., 0] > 0).astype(np.uint8), root / "SegmentationClass" / "left.png")
    return root


def test_sizes_keep_their_proportion_and_at_least_a_pixel():
    assert scaled_size((3000, 4000), 320) == (240, 320)
    assert scaled_size((100, 60), 320) == (100, 60)
    assert scaled_size((2, 4000), 320) == (1, 320)


def test_a_scaled_data_set_is_the_same_one_smaller(root, tmp_path):
    out = scale_down(root, 40, tmp_path / "working", 1)
    sizes = {id: read_image_size(out / "JPEGImages" / f"{id}.jpg") for id in ("left", "turned", "small")}
    assert sizes == {"left": (30, 40), "turned": (40, 20), "small": (10, 20)}
    data = Splits(out, None, out / "labels.csv", None)
    assert data.tune.ids == ["left"]
    assert data.train.ids == ["turned", "small"]
    np.testing.assert_array_equal(data.tune.mask("left"), np.repeat([[1] * 20 + [0] * 20], 30, axis=0))
    assert np.abs(data.tune.image("left")[:, :19].astype(int) - 255).max() < 20


def test_photos_that_fit_are_left_alone(root, tmp_path):
    assert scale_down(root, 80, tmp_path / "working", 1) == root
    assert not (tmp_path / "working").exists()


def test_only_a_changed_photo_is_scaled_again(root, tmp_path):
    out = scale_down(root, 40, tmp_path / "working", 1)
    before = {path.name: path.stat().st_ino for path in (out / "JPEGImages").iterdir()}
    assert scale_down(root, 40, tmp_path / "working", 1) == out
    assert {path.name: path.stat().st_ino for path in (out / "JPEGImages").iterdir()} == before
    photos = tmp_path / "photos"
    Image.new("RGB", (80, 60), "blue").save(photos / "left.png")
    (photos / "turned.jpg").unlink()
    (tmp_path / "labels.csv").write_text("id,cat\nleft,1\nsmall,1\n")
    from_folder(photos, tmp_path / "labels.csv", root, tune=["left"])
    scale_down(root, 40, tmp_path / "working", 1)
    assert sorted(path.name for path in (out / "JPEGImages").iterdir()) == ["left.jpg", "small.jpg"]
    assert read_image(out / "JPEGImages" / "left.jpg")[0, 0].tolist() == pytest.approx([0, 0, 254], abs=2)
    assert (out / "JPEGImages" / "small.jpg").stat().st_ino == before["small.jpg"]
    scale_down(root, 30, tmp_path / "working", 1)
    assert read_image_size(out / "JPEGImages" / "left.jpg") == (22, 30)


def test_a_mask_is_scaled_back_with_its_ids_and_smooth_borders():
    mask = np.zeros((20, 20), np.uint8)
    mask[np.add.outer(range(20), range(20)) < 20] = 7
    mask[15:, 15:] = 3
    full = mask_at(mask, (200, 200))
    assert full.shape == (200, 200)
    assert set(np.unique(full)) == {0, 3, 7}
    blocks = np.kron(mask, np.ones((10, 10), np.uint8))
    assert (full != blocks).mean() < 0.05
    # a slanted border has no steps of ten pixels any more
    edge = (full == 7).sum(1)[20:150]
    assert np.abs(np.diff(edge)).max() <= 3
    np.testing.assert_array_equal(mask_at(mask, (20, 20)), mask)


def test_a_written_mask_has_its_photos_size(root, tmp_path):
    save_mask(np.ones((20, 10), np.uint8), tmp_path / "m.png")
    write_full_size(tmp_path / "m.png", root / "JPEGImages" / "turned.jpg", tmp_path / "full.png")
    np.testing.assert_array_equal(load_mask(tmp_path / "full.png"), np.ones((80, 40)))
