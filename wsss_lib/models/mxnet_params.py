"""MXNet's .params files, read without MXNet: the format of the published ResNet-38 weights.

All numbers are little-endian: uint64 0x112, uint64 0, uint64 n, n arrays, uint64 n, then n names (uint64
length, bytes). An array is its shape, int32 device type, int32 device id, int32 type of number, and the
numbers in C order. Layouts differ in how they write the shape: version 2 as a magic number, int32 kind of
storage (0: dense), uint32 dimensions, int64 sizes; version 1 as another magic number, uint32 dimensions,
int64 sizes; the legacy layout of 2016 just as uint32 dimensions, uint32 sizes.
"""

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

LIST, V1, V2 = 0x112, 0xF993FAC8, 0xF993FAC9
DTYPES = {0: "<f4", 1: "<f8", 2: "<f2", 3: "|u1", 4: "<i4"}


def read_params(path: Path) -> dict[str, Tensor]:
    """Names and tensors of a .params file, the names with MXNet's prefix "arg:" or "aux:".

    Raises:
        ValueError: the file is cut short, has bytes left over or is no such file.
    """
    content = Content(path.read_bytes())
    if content.integer("<u8") != LIST:
        raise ValueError("it does not start as an MXNet parameter file")
    content.integer("<u8")
    arrays = [content.array() for _ in range(content.integer("<u8"))]
    names = [
        content.numbers("|u1", content.integer("<u8")).tobytes().decode()
        for _ in range(content.integer("<u8"))
    ]
    rest = len(content.data) - content.at
    if len(names) != len(arrays) or rest:
        raise ValueError(f"it holds {len(arrays)} arrays, {len(names)} names and {rest} more bytes")
    return dict(zip(names, arrays, strict=True))


class Content:
    """The bytes of a file, read from front to back."""

    def __init__(self, data: bytes):
        self.data, self.at = data, 0

    def numbers(self, dtype: str, count: int) -> np.ndarray:
        """The next `count` numbers, (count,) of numpy's `dtype`.

        Raises:
            ValueError: the file ends before.
        """
        end = self.at + count * np.dtype(dtype).itemsize
        if not self.at <= end <= len(self.data):
            raise ValueError(f"it ends after {len(self.data)} bytes where {end} are announced")
        values = np.frombuffer(self.data, dtype, count, self.at)
        self.at = end
        return values

    def integer(self, dtype: str) -> int:
        """The next number, of numpy's `dtype`; errors as of `numbers`."""
        return int(self.numbers(dtype, 1)[0])

    def array(self) -> Tensor:
        """The next array, of its own shape and type.

        Raises:
            ValueError: it is sparse or of an unknown type, or the file ends before.
        """
        first = self.integer("<u4")
        if first == V2 and self.integer("<i4") != 0:
            raise ValueError("it holds a sparse array")
        dimensions, sizes = (self.integer("<u4"), "<i8") if first in (V1, V2) else (first, "<u4")
        shape = self.numbers(sizes, dimensions).tolist()
        _device, _device_id, dtype = self.numbers("<i4", 3).tolist()
        if dtype not in DTYPES:
            raise ValueError(f"it holds numbers of the unknown type {dtype}")
        return torch.from_numpy(self.numbers(DTYPES[dtype], math.prod(shape)).reshape(shape).copy())
