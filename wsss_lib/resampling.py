"""Moving maps between grids of cells without shifting them.

Cell i of a grid of stride s covers the pixels [i s, (i + 1) s) and its value stands at the centre
(i + 1/2) s. Score maps are resized and labels brought to cells by these functions, so that maps, flips and
masks stay aligned also where the size of a photo is no multiple of the stride. Networks and losses resize by
torch's `interpolate`, whose bilinear mode has the same centres.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:  # processes of the CRF pool resize arrays and need no torch
    from torch import Tensor

Array = TypeVar("Array", np.ndarray, "Tensor")


def grid_centres(length: int, stride: float) -> np.ndarray:
    """Pixel positions of the cells' centres on a side of `length` pixels: (ceil(length / stride),)."""
    return (np.arange(-(-length // stride)) + 0.5) * stride


def nearest_pixels(cells: int, stride: float, length: int) -> np.ndarray:
    """Index of the pixel at each cell's centre, on a side of `length` pixels: (cells,) integers.

    Where stride * cells = length this is PIL's nearest resizing; torch's "nearest" takes the cell's first
    pixel instead, which shifts labels.
    """
    return np.minimum(((np.arange(cells) + 0.5) * stride).astype(int), length - 1)


def labels_on_cells(labels: Array, grid: tuple[int, int], cell: tuple[float, float]) -> Array:
    """The label at each cell's centre, never a mixture: (..., H, W) -> (..., *grid).

    Where the grid is larger than the side this is not PIL's nearest resizing, which deeplab-pytorch uses:
    see `models.deeplab_v2` for how much that changes.

    cell: its height and width in pixels.
    """
    rows, columns = map(nearest_pixels, grid, cell, labels.shape[-2:])
    return labels[..., rows[:, None], columns]


def interpolation_matrix(cells: int, stride: float, positions: np.ndarray) -> np.ndarray:
    """Linear interpolation as a matrix: (P,) pixel positions from a grid of `cells` -> (P, cells) float32.

    Positions beyond the outer centres take the outer cell's value. For positions at the centres of the
    output pixels this is bilinear resizing with align_corners=False.
    """
    index = np.clip(positions / stride - 0.5, 0, cells - 1)
    weights = 1 - np.abs(index[:, None] - np.arange(cells))
    return np.clip(weights, 0, None).astype(np.float32)


def interpolate(maps: Array, rows: np.ndarray, columns: np.ndarray) -> Array:
    """(..., h, w) with (H, h) and (W, w) interpolation matrices -> (..., H, W)."""
    if isinstance(maps, np.ndarray):
        return rows @ maps @ columns.T
    return maps.new_tensor(rows) @ maps @ maps.new_tensor(columns).T


def to_pixels(maps: Array, stride: float, size: tuple[int, int]) -> Array:
    """Maps (..., h, w) on a grid of `stride` -> one value per pixel, (..., H, W) for size (H, W)."""
    rows, columns = (
        interpolation_matrix(cells, stride, grid_centres(length, 1))
        for cells, length in zip(maps.shape[-2:], size, strict=True)
    )
    return interpolate(maps, rows, columns)
