"""Resampling matrices against torch's own bilinear resizing and the line they must reproduce."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from wsss_lib.resampling import grid_centres, interpolate, interpolation_matrix, labels_on_cells, to_pixels


@pytest.mark.parametrize("stride", [1, 2, 4, 8])
@pytest.mark.parametrize("cells", [(1, 1), (1, 7), (5, 3)])
def test_whole_grids_agree_with_torch(stride, cells):
    maps = torch.randn(2, 3, *cells, generator=torch.Generator().manual_seed(0))
    expected = F.interpolate(maps, scale_factor=stride, mode="bilinear", align_corners=False)
    size = tuple(expected.shape[-2:])
    torch.testing.assert_close(to_pixels(maps, stride, size), expected)
    np.testing.assert_allclose(to_pixels(maps.numpy(), stride, size), expected.numpy(), atol=1e-5)


@pytest.mark.parametrize(("source", "target"), [(7, 20), (20, 7), (13, 13)])
def test_any_two_grids_over_one_length_agree_with_torch(source, target):
    """Also a fractional stride, and reading a fine grid at coarse centres (bilinear without antialias)."""
    length = 60
    signal = torch.randn(1, 1, source, generator=torch.Generator().manual_seed(1))
    expected = F.interpolate(signal, size=target, mode="linear", align_corners=False)
    positions = (np.arange(target) + 0.5) * length / target
    matrix = interpolation_matrix(source, length / source, positions)
    np.testing.assert_allclose(matrix @ signal[0, 0].numpy(), expected[0, 0].numpy(), atol=1e-5)


@pytest.mark.parametrize(("length", "stride"), [(1, 8), (7, 8), (8, 8), (9, 8), (500, 4), (333, 16), (5, 1)])
def test_partly_filled_grids_keep_a_line_straight(length, stride):
    centres = grid_centres(length, stride)
    assert len(centres) == -(-length // stride)
    positions = np.linspace(-3, length + 3, 101)
    matrix = interpolation_matrix(len(centres), stride, positions)
    assert matrix.dtype == np.float32
    assert (matrix >= 0).all()
    np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-5)
    # a line through the centres, constant beyond the outer two
    np.testing.assert_allclose(matrix @ centres, np.clip(positions, centres[0], centres[-1]), rtol=1e-4)


def test_interpolate_is_separable_and_both_kinds_of_arrays_agree():
    rng = np.random.default_rng(2)
    maps = rng.normal(size=(2, 4, 5)).astype(np.float32)
    rows, columns = (rng.normal(size=shape).astype(np.float32) for shape in ((6, 4), (3, 5)))
    expected = np.einsum("yi,nij,xj->nyx", rows, maps, columns)
    np.testing.assert_allclose(interpolate(maps, rows, columns), expected, rtol=1e-4, atol=1e-5)
    tensor = interpolate(torch.from_numpy(maps), rows, columns)
    np.testing.assert_allclose(tensor.numpy(), expected, rtol=1e-4, atol=1e-5)


def test_no_maps_stay_no_maps():
    assert to_pixels(np.zeros((0, 2, 3), np.float32), 4, (7, 9)).shape == (0, 7, 9)
    assert to_pixels(torch.zeros(0, 2, 3), 4, (7, 9)).shape == (0, 7, 9)


def test_labels_are_taken_at_the_centres_of_cells():
    mask = torch.arange(41 * 54).reshape(1, 41, 54)
    found = labels_on_cells(mask, (3, 4), (8 * 41 / 21, 8 * 54 / 27))[0]
    for i in range(3):
        for j in range(4):
            y, x = min(int((i + 0.5) * 8 * 41 / 21), 40), min(int((j + 0.5) * 16), 53)
            assert found[i, j] == mask[0, y, x]


@pytest.mark.parametrize("grid", [(8, 12), (4, 6), (16, 4)])
def test_where_cells_are_whole_labels_are_those_of_pil(grid):
    """Neither torch's "nearest", which shifts them, nor (H, W) where PIL wants (W, H)."""
    mask = np.random.default_rng(0).integers(0, 21, (64, 96), np.uint8)
    expected = np.array(Image.fromarray(mask).resize(grid[::-1], Image.NEAREST))
    found = labels_on_cells(torch.from_numpy(mask)[None], grid, (64 / grid[0], 96 / grid[1]))[0]
    np.testing.assert_array_equal(found, expected)
    shifted = F.interpolate(torch.from_numpy(mask)[None, None].float(), grid)[0, 0]
    assert not np.array_equal(shifted, expected)


def test_cells_cut_by_the_border_have_a_label():
    labels = torch.arange(2 * 7 * 9).reshape(2, 7, 9)
    expected = [[[20, 24, 26], [56, 60, 62]], [[83, 87, 89], [119, 123, 125]]]  # rows 2, 6, columns 2, 6, 8
    assert labels_on_cells(labels, (2, 3), (4, 4)).tolist() == expected
    assert labels_on_cells(labels.numpy(), (2, 3), (4, 4)).tolist() == expected
