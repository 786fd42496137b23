"""Multi-scale maps of a network that only averages cells: what must come out is known exactly."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as VF

from wsss_lib.data.voc import VOCDataset
from wsss_lib.inference import (
    batches_of_one_size,
    class_probabilities,
    multi_scale,
    response_maps,
    write_maps,
)
from wsss_lib.score_maps import ScoreMaps


class CellMeans(nn.Module):
    """Class maps are the photo's channels, averaged over each cell."""

    fusion = "mean of softmax"

    def __init__(self, stride: int):
        super().__init__()
        self.stride = stride
        self.mean, self.std = (0.0, 0.0, 0.0), (1 / 255,) * 3  # grey values 0..255

    def class_maps(self, images):
        return F.avg_pool2d(images, self.stride, ceil_mode=True, count_include_pad=False)


def gradients(height: int, width: int) -> torch.Tensor:
    """Channel 0 is 4 x, channel 1 is 4 y, channel 2 is 252 - 4 x: whole numbers at scales 0.5, 1 and 2."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([4 * x, 4 * y, 252 - 4 * x]).to(torch.uint8)[None]


def photos(batch: int, height: int, width: int) -> torch.Tensor:
    """Smooth random colours, so that the rounding of resized photos matters little."""
    generator = torch.Generator().manual_seed(batch + height)
    coarse = torch.rand(batch, 3, 3, 4, generator=generator)
    smooth = F.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)
    return (smooth * 255).round().to(torch.uint8)


@pytest.mark.parametrize("scales", [(1,), (0.5,), (1.5,), (2,), (0.5, 1, 1.5, 2)])
@pytest.mark.parametrize("size", [(64, 64), (59, 61), (56, 63)])
@pytest.mark.parametrize(("model_stride", "stride"), [(8, 1), (8, 4), (8, 8), (1, 1), (4, 2), (3, 4)])
@pytest.mark.parametrize("flip", [False, True])
def test_a_linear_gradient_comes_back_in_place(scales, size, model_stride, stride, flip):
    height, width = size
    maps = multi_scale(
        CellMeans(model_stride), gradients(*size), scales, flip, stride, lambda maps: maps[0]
    ).numpy() / (len(scales) * (1 + flip))  # fmt: skip
    assert maps.shape == (3, -(-height // stride), -(-width // stride))
    y, x = ((np.arange(n) + 0.5) * stride for n in maps.shape[1:])
    # from the second cell's centre on neither border cells nor bicubic resizing's border effects matter
    margin = max(1.5 * model_stride, 0.5 * model_stride + 3) / min(scales)
    inner_y, inner_x = (y >= margin) & (y <= height - margin), (x >= margin) & (x <= width - margin)
    assert inner_y.any()
    assert inner_x.any()
    yy, xx = np.meshgrid(y[inner_y] - 0.5, x[inner_x] - 0.5, indexing="ij")
    expected = np.stack([4 * xx, 4 * yy, 252 - 4 * xx])
    error = maps[:, inner_y][:, :, inner_x] - expected
    assert np.abs(error).max() < 0.6  # resized photos round to whole grey values
    assert np.abs(error.mean((1, 2))).max() < 0.1  # a 40th of a pixel


def test_a_flipped_photo_gives_the_flipped_maps():
    images = photos(2, 40, 55)
    for scales in ((1,), (0.5, 1.5)):
        maps, mirrored = (
            multi_scale(CellMeans(8), x, scales, True, 1, lambda maps: maps.flatten(0, 1))
            for x in (images, images.flip(-1))
        )
        torch.testing.assert_close(mirrored, maps.flip(-1), atol=1.0, rtol=0)


def test_each_pass_is_selected_before_it_is_resized_and_all_are_summed():
    images = photos(1, 24, 32)
    negative = multi_scale(CellMeans(8), images, (1, 1), True, 1, lambda maps: -maps[0])
    once = multi_scale(CellMeans(8), images, (1,), False, 1, lambda maps: maps[0])
    mirrored = multi_scale(CellMeans(8), images.flip(-1), (1,), False, 1, lambda maps: maps[0]).flip(-1)
    torch.testing.assert_close(negative, -2 * (once + mirrored))
    count = []
    multi_scale(CellMeans(8), images, (0.5, 1, 2), True, 8, lambda maps: count.append(maps.shape) or maps[0])
    assert count == [(1, 3, 2, 2)] * 2 + [(1, 3, 3, 4)] * 2 + [(1, 3, 6, 8)] * 2


def test_several_photos_at_once_equal_one_by_one():
    images = photos(3, 37, 50)
    labels = torch.tensor([[1, 0, 1], [0, 0, 0], [1, 1, 1]]).float()
    together = response_maps(CellMeans(8), images, labels, (0.5, 1, 1.5), True, 4)
    assert len(together) == 3
    for i, found in enumerate(together):
        [alone] = response_maps(CellMeans(8), images[i : i + 1], labels[i : i + 1], (0.5, 1, 1.5), True, 4)
        np.testing.assert_array_equal(found.classes, alone.classes)
        np.testing.assert_allclose(found.maps, alone.maps, atol=1e-5)


def test_response_maps_hold_the_present_classes_between_0_and_1():
    images = photos(3, 37, 50)
    labels = torch.tensor([[1, 0, 1], [0, 0, 0], [0, 1, 0]]).float()
    found = response_maps(CellMeans(8), images, labels, (1, 0.5), True, 4)
    assert [one.classes.tolist() for one in found] == [[1, 3], [], [2]]
    for one in found:
        assert (one.size, one.stride) == ((37, 50), 4)
        assert one.maps.shape == (len(one.classes), 10, 13)
        assert one.maps.dtype == np.float32
        assert (one.maps >= 0).all()
        np.testing.assert_allclose(one.maps.max((1, 2), initial=0), 1, atol=1e-4)
        assert (one.maps <= 1).all()


def test_response_maps_are_summed_relu_divided_by_their_own_maximum():
    images = photos(1, 32, 32)

    class Signed(CellMeans):
        def class_maps(self, images):
            return super().class_maps(images) - 128

    [found] = response_maps(Signed(8), images, torch.ones(1, 3), (1,), False, 8)
    expected = (CellMeans(8).class_maps(images.float())[0] - 128).clamp(min=0)
    expected /= expected.amax((1, 2), keepdim=True) + 1e-5
    np.testing.assert_allclose(found.maps, expected.numpy(), atol=1e-4)


def test_photos_without_a_class_and_maps_of_zeros():
    images = photos(2, 20, 20)
    for found in response_maps(CellMeans(8), images, torch.zeros(2, 3), (1, 2), True, 4):
        assert found.classes.shape == (0,)
        assert found.maps.shape == (0, 5, 5)
    black = torch.zeros(1, 3, 20, 20, dtype=torch.uint8)
    [found] = response_maps(CellMeans(8), black, torch.ones(1, 3), (1, 2), True, 4)
    assert found.classes.tolist() == [1, 2, 3]
    assert (found.maps == 0).all()


@pytest.mark.parametrize("size", [(1, 9), (9, 1), (6, 7)])
def test_tiny_photos_survive_small_scales(size):
    [found] = response_maps(CellMeans(8), photos(1, *size), torch.ones(1, 3), (0.25, 1), True, 1)
    assert found.maps.shape == (3, *size)
    assert np.isfinite(found.maps).all()


def test_class_probabilities_are_the_mean_softmax():
    images = photos(2, 30, 41)
    probabilities = class_probabilities(CellMeans(8), images, (0.5, 1), True, 4)
    for found in probabilities:
        assert (found.classes.tolist(), found.size, found.stride) == ([0, 1, 2], (30, 41), 4)
        assert found.maps.shape == (3, 8, 11)
        np.testing.assert_allclose(found.maps.sum(0), 1, atol=1e-4)
    [single] = class_probabilities(CellMeans(8), images[1:], (1,), False, 8)
    expected = CellMeans(8).class_maps(images[1:].float()).softmax(1)
    np.testing.assert_allclose(single.maps, expected[0], atol=1e-4)


@pytest.mark.parametrize("fusion", ["mean of softmax", "mean of logits", "max of logits"])
def test_passes_are_fused_as_the_network_says(fusion):
    """Against a loop over passes, each resized by hand; the photo's size is whole cells at each scale."""
    images, model = photos(2, 32, 48), CellMeans(8)
    model.fusion = fusion
    passes = []
    for scale in (0.5, 1):
        resized = VF.resize(
            images, [int(32 * scale), int(48 * scale)], VF.InterpolationMode.BICUBIC, antialias=True
        )
        for flip in (False, True):
            logits = model.class_maps((resized.flip(-1) if flip else resized).float())
            if fusion == "mean of softmax":
                logits = logits.softmax(1)
            full = F.interpolate(logits, (32, 48), mode="bilinear")
            passes.append(full.flip(-1) if flip else full)
    passes = torch.stack(passes)
    expected = {
        "mean of softmax": lambda: passes.mean(0),
        "mean of logits": lambda: passes.mean(0).softmax(1),
        "max of logits": lambda: passes.amax(0).softmax(1),
    }[fusion]()
    found = class_probabilities(model, images, (0.5, 1), True, 1)
    np.testing.assert_allclose([one.maps for one in found], expected, atol=1e-4, rtol=1e-3)


def test_batches_hold_one_size_each():
    sizes = [(4, 4), (4, 5), (4, 4), (4, 4), (4, 5), (5, 4)]
    batches = list(batches_of_one_size(list("abcdef"), sizes, 2))
    assert batches == [["a", "c"], ["d"], ["b", "e"], ["f"]]
    assert list(batches_of_one_size([], [], 2)) == []


def test_large_photos_are_taken_fewer_at_a_time():
    """The memory of a group is bounded whatever the batch, unless a single photo exceeds it."""
    ids = [str(i) for i in range(8)]
    for size, count in (((480, 640), 8), ((2048, 2048), 2), ((3000, 4000), 1), ((1, 2**23), 1)):
        groups = list(batches_of_one_size(ids, [size] * 8, 8))
        assert [len(group) for group in groups] == [count] * (8 // count)
        assert [id for group in groups for id in group] == ids


def test_a_resumed_run_passes_the_same_photos_together_and_keeps_what_is_there(tiny_voc, tmp_path):
    """The last digits of a convolution depend on the size of its batch."""
    data, seen = VOCDataset(tiny_voc, "train"), []

    def compute(images, ids):
        seen.append(ids)
        return [ScoreMaps(np.arange(1), np.zeros((1, 6, 8)), (24, 32), 4) for _ in ids]

    def write():
        seen.clear()
        write_maps(data, tmp_path, "maps", 2, torch.device("cpu"), compute)
        return {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.npz")}

    first = write()
    assert seen == [["a1", "a2"], ["a3", "b1"], ["b2"]]
    for id in ("a2", "b2"):
        (tmp_path / f"{id}.npz").unlink()
    second = write()
    assert seen == [["a1", "a2"], ["b2"]]
    assert {name for name in first if first[name] == second[name]} == {"a1.npz", "a3.npz", "b1.npz"}
    write()
    assert seen == []
