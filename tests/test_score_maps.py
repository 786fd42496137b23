"""Score maps and masks on disk: nothing is lost but float16's digits, and damage is named."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from wsss_lib.data.masks import load_mask, save_mask, voc_palette
from wsss_lib.score_maps import ScoreMaps


@pytest.mark.parametrize(
    ("classes", "size", "stride"),
    [((0, 3, 20), (31, 46), 4), ((7,), (8, 8), 8), ((), (31, 46), 4), ((1, 2), (5, 9), 1), ((), (3, 3), 1)],
)
def test_round_trip(tmp_path, classes, size, stride):
    rng = np.random.default_rng(0)
    maps = rng.random((len(classes), -(-size[0] // stride), -(-size[1] // stride)), np.float32)
    path = tmp_path / "a.npz"
    ScoreMaps(np.array(classes, int), maps, size, stride).save(path)
    loaded = ScoreMaps.load(path)
    assert loaded.classes.tolist() == list(classes)
    assert np.issubdtype(loaded.classes.dtype, np.integer)
    assert (loaded.size, loaded.stride) == (size, stride)
    np.testing.assert_allclose(loaded.maps, maps, atol=2**-11)  # half of float16's spacing below 1
    assert loaded.full().shape == (len(classes), *size)
    assert loaded.full().dtype == np.float32
    assert (tmp_path / "a.npz").stat().st_size < 2 * maps.size + 2000


def test_the_ends_of_the_range_are_exact(tmp_path):
    maps = np.array([0, 1, 0.5], np.float32).reshape(3, 1, 1)
    ScoreMaps(np.arange(3), maps, (1, 1), 1).save(tmp_path / "a.npz")
    assert ScoreMaps.load(tmp_path / "a.npz").full().ravel().tolist() == [0, 1, 0.5]


def test_full_size_is_bilinear():
    maps = np.random.default_rng(1).random((2, 3, 5), np.float32)
    full = ScoreMaps(np.arange(2), maps, (21, 38), 8).full()
    expected = F.interpolate(torch.from_numpy(maps)[None], scale_factor=8, mode="bilinear")[0, :, :21, :38]
    np.testing.assert_allclose(full, expected.numpy(), atol=1e-5)


def truncated(path):
    path.write_bytes(path.read_bytes()[:-60])


def emptied(path):
    path.write_bytes(b"")


def other_content(path):
    np.savez(path, something=np.zeros(3))


def pickled(path):
    np.savez(path, classes=np.array([{}], object), maps=np.zeros(1), size=np.ones(2), stride=np.ones(()))


@pytest.mark.parametrize("damage", [truncated, emptied, other_content, pickled])
def test_damaged_files_are_named(tmp_path, damage):
    path = tmp_path / "2007_000032.npz"
    ScoreMaps(np.arange(2), np.zeros((2, 4, 4)), (4, 4), 1).save(path)
    damage(path)
    with pytest.raises(ValueError, match=r"2007_000032\.npz is damaged .*delete"):
        ScoreMaps.load(path)


def test_missing_files_are_missing_not_damaged(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.npz"):
        ScoreMaps.load(tmp_path / "nowhere.npz")


def test_palette_is_vocs():
    """VOC's devkit: bits 0, 1, 2 of the id to the top bits of red, green, blue, then the next three bits."""
    palette = np.array(voc_palette()).reshape(256, 3)
    for id in range(256):
        red = green = blue = 0
        rest = id
        for j in range(8):
            red |= (rest & 1) << (7 - j)
            green |= (rest >> 1 & 1) << (7 - j)
            blue |= (rest >> 2 & 1) << (7 - j)
            rest >>= 3
        assert palette[id].tolist() == [red, green, blue], id
    assert palette[15].tolist() == [192, 128, 128]  # person
    assert palette[255].tolist() == [224, 224, 192]  # void
    assert len({tuple(colour) for colour in palette.tolist()}) == 256


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_masks_keep_every_id_and_vocs_colours(tmp_path, dtype):
    mask = np.arange(256).reshape(8, 32).astype(dtype)
    save_mask(mask, tmp_path / "a.png")
    loaded = load_mask(tmp_path / "a.png")
    assert loaded.dtype == np.uint8
    np.testing.assert_array_equal(loaded, mask)
    with Image.open(tmp_path / "a.png") as image:
        assert image.format == "PNG"
        assert image.mode == "P"
        colours = np.array(image.convert("RGB")).reshape(256, 3)
    np.testing.assert_array_equal(colours, np.array(voc_palette()).reshape(256, 3))


def test_damaged_masks_are_named(tmp_path):
    save_mask(np.zeros((50, 50)), tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"a\.png is damaged"):
        load_mask(tmp_path / "a.png")
